"""Where runs are logged: TensorBoard, MLflow, Weights & Biases; each writes every value once, however often it is told.

A sink is asked how far each series of a run is logged, is given what comes behind that, and is told of the end. What it
has is read from the place itself, so a restart, or a second process after the first, goes on where that stopped.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from isoloss.recipe.errors import StudyError, nearest

Scalar = str | int | float | bool
Curves = Mapping[str, tuple[Any, Any]]
"""(steps, values) by name, steps ascending."""

KINDS = ("tensorboard", "mlflow", "wandb")
DONE = "done"
LEDGER = "isoloss.json"


@dataclass(frozen=True)
class Entry:
    """A run as loggers have it: a name, what tells it from others (``identity``), settings."""

    name: str
    params: Mapping[str, Scalar]
    identity: str = ""
    group: str = ""

    @property
    def id(self) -> str:
        """Short and stable, of the name and the identity."""
        return hashlib.sha256(f"{self.group}\n{self.name}\n{self.identity}".encode()).hexdigest()[:16]

    @property
    def slug(self) -> str:
        """The name as a folder's, with a part of the id."""
        plain = re.sub(r"[^A-Za-z0-9_.=+-]+", "_", self.name).strip("._")[:80]
        return f"{plain}-{self.id[:8]}"


@dataclass
class Logged:
    """What a place has of a run: the last step of each series; ``finished``: the end, too."""

    last: dict[str, int] = field(default_factory=dict)
    finished: bool = False


class Sink(ABC):
    """A place for runs."""

    live = True
    """Whether a run is added to as it goes on; else it is written at its end, whole."""

    @abstractmethod
    def logged(self, entry: Entry) -> Logged:
        """What is there of a run."""

    def named(self, name: str) -> str:
        """The name of a series as the place takes it."""
        return name

    @abstractmethod
    def add(self, entry: Entry, curves: Curves) -> None:
        """Log what comes behind ``logged``; the run begins with that where it is new."""

    @abstractmethod
    def finish(self, entry: Entry, final: Mapping[str, float], status: str) -> None:
        """Log final values and how the run ended (``done``, ``diverged``, ``failed``)."""


class TensorBoard(Sink):
    """Event files, a folder a run: values by update, settings for the HParams tab.

    Every addition is a file of its own that appears whole and has a number; the number of files is kept beside them
    after that. A death in between writes the same file once more.
    """

    def __init__(self, folder: Path) -> None:
        with _extra("tensorboard"):
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
            from torch.utils.tensorboard.summary import hparams
        self._proto, self._writer, self._hparams = (event_pb2.Event, summary_pb2.Summary), RecordWriter, hparams
        self.folder = folder
        self._ledgers: dict[str, dict[str, Any]] = {}

    def logged(self, entry: Entry) -> Logged:
        ledger = self._ledger(entry)
        return Logged(dict(ledger["last"]), ledger["finished"])

    def _ledger(self, entry: Entry) -> dict[str, Any]:
        if entry.id not in self._ledgers:
            path = self.folder / entry.slug / LEDGER
            new = {"id": entry.id, "name": entry.name, "files": 0, "last": {}, "finished": False}
            self._ledgers[entry.id] = json.loads(path.read_text()) if path.is_file() else new
        return self._ledgers[entry.id]

    def add(self, entry: Entry, curves: Curves) -> None:
        ledger = self._ledger(entry)
        rows: dict[int, dict[str, float]] = {}
        for name, (steps, values) in curves.items():
            for step, value in zip(steps, values, strict=True):
                rows.setdefault(int(step), {})[name] = float(value)
        events = [] if ledger["files"] else self._settings(entry)
        events += [self._event(values, step) for step, values in sorted(rows.items())]
        last = {name: int(steps[-1]) for name, (steps, _) in curves.items() if len(steps)}
        self._write(entry, events, {**ledger, "last": ledger["last"] | last})

    def finish(self, entry: Entry, final: Mapping[str, float], status: str) -> None:
        ledger = self._ledger(entry)
        step = max(ledger["last"].values(), default=0)
        events = [] if ledger["files"] else self._settings(entry)
        if final:
            events.append(self._event(dict(final), step))
        events.append(self._summary(self._hparams({}, {})[2]))
        self._write(entry, events, {**ledger, "finished": True})

    def _settings(self, entry: Entry) -> list[Any]:
        experiment, start, _ = self._hparams(dict(entry.params), {"final/loss": 0.0})
        return [self._summary(experiment), self._summary(start)]

    def _event(self, values: Mapping[str, float], step: int) -> Any:
        made, summary = self._proto
        listed = [summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        return made(wall_time=time.time(), step=step, summary=summary(value=listed))

    def _summary(self, summary: Any) -> Any:
        return self._proto[0](wall_time=time.time(), summary=summary)

    def _write(self, entry: Entry, events: list[Any], ledger: dict[str, Any]) -> None:
        folder = self.folder / entry.slug
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{ledger['files']:06d}.isoloss"
        with _appearing(folder / name) as partial, partial.open("wb") as file:
            writer = self._writer(file)
            for event in (self._proto[0](wall_time=time.time(), file_version="brain.Event:2"), *events):
                writer.write(event.SerializeToString())
        ledger["files"] += 1
        with _appearing(folder / LEDGER) as partial:
            partial.write_text(json.dumps(ledger, indent=2) + "\n")
        self._ledgers[entry.id] = ledger


class MLflow(Sink):
    """A tracking store of MLflow: an experiment for a study. ``uri``: a folder, ``sqlite:///...`` or ``http...``.

    How far a series is logged is its last step there.
    """

    AT_ONCE = 1000
    STATUS: Mapping[str, str] = {DONE: "FINISHED"}

    def __init__(self, uri: str) -> None:
        with _extra("mlflow"):
            from mlflow.entities import Metric, Param, RunTag
            from mlflow.exceptions import MlflowException
            from mlflow.tracking import MlflowClient
        self._metric, self._param, self._tag = Metric, Param, RunTag
        self._folder = Path(uri).resolve() if "://" not in uri else None
        if self._folder:
            # MLflow wants this said, since its newer features are for databases alone.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        try:
            self.client: Any = MlflowClient(tracking_uri=self._folder.as_uri() if self._folder else uri)
            self.client.search_experiments(max_results=1)
        except MlflowException as error:
            raise StudyError(f"--log mlflow:{uri}: {str(error).splitlines()[0]}") from error
        except ModuleNotFoundError as error:
            raise StudyError(f"--log mlflow:{uri}: needs {error.name}; pip install mlflow") from error
        self._experiments: dict[str, str] = {}
        self._runs: dict[str, str] = {}
        self._listed: dict[str, dict[str, Any]] = {}
        self._known: dict[str, Logged] = {}

    def logged(self, entry: Entry) -> Logged:
        if entry.id not in self._known:
            found = self._known[entry.id] = Logged()
            run = self._there(entry).get(entry.id)
            if run is not None:
                self._runs[entry.id] = run.info.run_id
                found.finished = run.info.status != "RUNNING"
                if not found.finished:
                    self._settings(entry, run.data.params)
                for name in () if found.finished else run.data.metrics:
                    history = self.client.get_metric_history(run.info.run_id, name)
                    found.last[name] = max(row.step for row in history)
        known = self._known[entry.id]
        return Logged(dict(known.last), known.finished)

    def _there(self, entry: Entry) -> dict[str, Any]:
        """Runs of the entry's experiment that were there when it was first asked for, by our ids."""
        experiment = self._experiment(entry, create=False)
        if experiment is None:
            return {}
        if experiment not in self._listed:
            if self._folder:
                _mend(self._folder / experiment)
            listed, token = self._listed.setdefault(experiment, {}), None
            while True:
                page = self.client.search_runs([experiment], max_results=self.AT_ONCE, page_token=token)
                listed |= {run.data.tags["isoloss.id"]: run for run in page if "isoloss.id" in run.data.tags}
                token = page.token
                if not token:
                    break
        return self._listed[experiment]

    def named(self, name: str) -> str:
        return re.sub(r"[^A-Za-z0-9_. /:-]", "_", name)

    def _experiment(self, entry: Entry, create: bool) -> str | None:
        name = entry.group or "isoloss"
        if name not in self._experiments:
            found = self.client.get_experiment_by_name(name)
            if found is None and not create:
                return None
            self._experiments[name] = found.experiment_id if found else self.client.create_experiment(name)
        return self._experiments[name]

    def _run(self, entry: Entry) -> str:
        if entry.id not in self._runs:
            self.logged(entry)
        if entry.id not in self._runs:
            tags = {"isoloss.id": entry.id, "mlflow.runName": entry.name}
            made = self.client.create_run(self._experiment(entry, create=True), tags=tags, run_name=entry.name)
            self._runs[entry.id] = made.info.run_id
            self._settings(entry, {})
        return self._runs[entry.id]

    def _settings(self, entry: Entry, there: Mapping[str, str]) -> None:
        """Log the settings that are not there."""
        values = {self.named(name): str(value)[:500] for name, value in entry.params.items()}
        params = [self._param(name, value) for name, value in values.items() if name not in there]
        for begin in range(0, len(params), 100):
            self.client.log_batch(self._runs[entry.id], params=params[begin : begin + 100])

    def add(self, entry: Entry, curves: Curves) -> None:
        run, now, known = self._run(entry), int(time.time() * 1000), self._known[entry.id]
        rows = [
            self._metric(self.named(name), float(value), now, int(step))
            for name, (steps, values) in curves.items()
            for step, value in zip(steps, values, strict=True)
        ]
        for begin in range(0, len(rows), self.AT_ONCE):
            self.client.log_batch(run, metrics=rows[begin : begin + self.AT_ONCE])
        known.last |= {self.named(name): int(steps[-1]) for name, (steps, _) in curves.items() if len(steps)}

    def finish(self, entry: Entry, final: Mapping[str, float], status: str) -> None:
        run, known = self._run(entry), self._known[entry.id]
        step = max(known.last.values(), default=0)
        final = {name: value for name, value in final.items() if self.named(name) not in known.last}
        if final:
            self.add(entry, {name: ([step], [value]) for name, value in final.items()})
        self.client.set_terminated(run, self.STATUS.get(status, "FAILED"))
        known.finished = True


class Wandb(Sink):
    """Runs of Weights & Biases, offline unless ``WANDB_MODE`` says otherwise: each is written when it has ended.

    A list beside them says which are whole; what a death left half is removed and written anew.
    """

    live = False
    HEADER, QUIET, PATIENCE = 7, 0.15, 30.0
    """Bytes of a file without a run; seconds without a change after which it is whole, and of waiting for that."""

    def __init__(self, folder: Path) -> None:
        with _extra("wandb"):
            import wandb
        self._wandb: Any = wandb
        self.folder = folder
        self._place = folder / LEDGER
        self._done: dict[str, str] = json.loads(self._place.read_text()) if self._place.is_file() else {}
        self._open: dict[str, Any] = {}

    def logged(self, entry: Entry) -> Logged:
        return Logged({}, entry.id in self._done)

    def add(self, entry: Entry, curves: Curves) -> None:
        run = self._run(entry)
        rows: dict[int, dict[str, float]] = {}
        for name, (steps, values) in curves.items():
            for step, value in zip(steps, values, strict=True):
                rows.setdefault(int(step), {})[name] = float(value)
        for step, row in sorted(rows.items()):
            run.log({**row, "update": step}, step=step)

    def _run(self, entry: Entry) -> Any:
        if entry.id not in self._open:
            self.folder.mkdir(parents=True, exist_ok=True)
            for half in self.folder.glob(f"wandb/*run-*-{entry.id}"):
                shutil.rmtree(half)
            self._open[entry.id] = self._wandb.init(
                project=re.sub(r"[^A-Za-z0-9_.-]+", "-", entry.group) or "isoloss",
                name=entry.name,
                id=entry.id,
                dir=str(self.folder),
                config=dict(entry.params),
                mode=os.environ.get("WANDB_MODE", "offline"),
                reinit="create_new",
                settings=self._wandb.Settings(
                    silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True,
                    x_disable_meta=True,
                ),
            )  # fmt: skip
        return self._open[entry.id]

    def finish(self, entry: Entry, final: Mapping[str, float], status: str) -> None:
        run = self._run(entry)
        run.summary.update({**final, "status": status})
        run.finish(exit_code=0 if status == DONE else 1)
        self._settle(entry)
        del self._open[entry.id]
        self._done[entry.id] = entry.name
        with _appearing(self._place) as partial:
            partial.write_text(json.dumps(self._done, indent=2) + "\n")

    def _settle(self, entry: Entry) -> None:
        """Wait for the file: another process of wandb writes it, and goes on after ``finish``."""
        before, since = -1, time.monotonic()
        begun = since
        while time.monotonic() < begun + self.PATIENCE:
            files = self.folder.glob(f"wandb/*run-*-{entry.id}/run-{entry.id}.wandb")
            size = max((path.stat().st_size for path in files), default=0)
            if size != before:
                before, since = size, time.monotonic()
            elif size > self.HEADER and time.monotonic() > since + self.QUIET:
                return
            time.sleep(0.02)


def opened(target: str) -> Sink:
    """The sink of ``tensorboard:FOLDER``, ``mlflow:FOLDER-or-URI`` or ``wandb:FOLDER``.

    Raises ``StudyError`` for another form, a package that is not installed, or a place that cannot be used.
    """
    kind, _, place = target.partition(":")
    if kind not in KINDS or not place:
        raise StudyError(
            f"--log: found {target!r}; allowed: tensorboard:FOLDER, mlflow:FOLDER-or-URI, wandb:FOLDER"
            f"{nearest(kind, KINDS)}"
        )
    if kind == "mlflow":
        return MLflow(place)
    if Path(place).is_file():
        raise StudyError(f"--log {target}: {place} is a file; allowed: a folder")
    return TensorBoard(Path(place)) if kind == "tensorboard" else Wandb(Path(place))


def write(sink: Sink, entry: Entry, curves: Curves, final: Mapping[str, float] | None, status: str = DONE) -> None:
    """Log what is not there yet of a run, and its end where ``final`` is given (None: it goes on)."""
    known = sink.logged(entry)
    if known.finished:
        return
    new: dict[str, tuple[Any, Any]] = {}
    for name, given in curves.items():
        steps, values = np.asarray(given[0]), np.asarray(given[1], float)
        if steps.shape != values.shape or steps.ndim != 1 or np.any(np.diff(steps) <= 0):
            raise ValueError(
                f"curve {name!r}: steps {steps.shape} and values {values.shape}; allowed: one ascending row"
            )
        behind = known.last.get(sink.named(name))
        keep = steps > (-math.inf if behind is None else behind)
        if keep.any():
            new[name] = steps[keep], values[keep]
    if new and (sink.live or final is not None):
        sink.add(entry, new)
    if final is not None:
        sink.finish(entry, final, status)


def _mend(experiment: Path) -> None:
    """Remove what a death left empty in MLflow's files: it cannot read them any more, and nothing is in them."""
    for run in experiment.iterdir() if experiment.is_dir() else ():
        mark, meta = run / "tags" / "isoloss.id", run / "meta.yaml"
        if not meta.is_file():
            continue
        # A run gets its tags last, ours first.
        unmarked = not mark.parent.is_dir() or not any(mark.parent.iterdir())
        if unmarked or (mark.is_file() and not mark.stat().st_size):
            shutil.rmtree(run)
        elif mark.is_file():
            for path in [*run.glob("metrics/**/*"), *run.glob("params/**/*")]:
                if path.is_file() and not path.stat().st_size:
                    path.unlink()


@contextmanager
def _extra(name: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise StudyError(f"--log {name}: {error.name} is not installed; pip install 'isoloss[{name}]'") from error


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """A name to write to; what was written appears as ``path``, whole."""
    partial = path.with_name(f".{socket.gethostname()}-{os.getpid()}-{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
