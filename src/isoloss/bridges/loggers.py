"""Loggers for the runs of a study, as it goes on or afterwards, and for any loop.

Each run is a run of the logger, with all that led to it: pieces that several runs share are logged in each. Series are
``train/loss``, ``train/gradient_norm`` and ``train/lr`` by update and ``eval/loss`` (part B); at its end come
``final/loss``, ``final/loss_a`` and the study's other metrics. Only what is published in the store is read, so what is
logged is what stays.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isoloss.bridges.sinks import DONE, Curves, Entry, Scalar, Sink, opened, write
from isoloss.plan.demands import Stage, diverged
from isoloss.plan.memory import StoreMemory
from isoloss.store import Store
from isoloss.store.index import Row

if TYPE_CHECKING:
    from isoloss.plan.lower import Lowered
    from isoloss.study import Cell, Study
    from isoloss.worth.results import Results

__all__ = ["Follower", "export", "log_run"]

COLUMNS = {"loss": "train/loss", "gradient_norm": "train/gradient_norm", "lr": "train/lr"}
PAUSE = 1.0
"""Seconds, at least, between looks at the store."""


def log_run(
    target: str,
    name: str,
    *,
    params: Mapping[str, Scalar] | None = None,
    curves: Curves | None = None,
    final: Mapping[str, float] | None = None,
    status: str = DONE,
    group: str = "",
) -> None:
    """Log a run of any loop to ``tensorboard:FOLDER``, ``mlflow:FOLDER-or-URI`` or ``wandb:FOLDER``.

    ``curves``: (steps, values) by name; called again with longer ones, it adds what is new. ``final``: ends the run
    (None: it goes on; W&B is written at the end alone). Raises ``StudyError`` for a target that cannot be used,
    ``ValueError`` for curves whose steps do not ascend.
    """
    write(opened(target), Entry(name, dict(params or {}), group=group), curves or {}, final, status)


def export(results: Results, target: str, folder: str | Path | None = None) -> int:
    """Log the runs of a study that is done, as far as it is; returns how many have ended.

    ``target``: as for ``log_run``, or the kind alone with a ``folder`` (``export(results, "tensorboard", "runs")``).
    What is there already is left as it is. Raises ``StudyError`` for a target that cannot be used.
    """
    sink = opened(target if folder is None else f"{target}:{folder}")
    reader = _Reader(results.study, results.store)
    reader.log(results.stage, sink)
    return len(reader.ended[sink])


class Follower:
    """Logs a study while it is trained: call it with the stage whenever something was published; a context.

    The work is done in a thread of its own, so that nobody waits for it. An error of a logger ends the logging with a
    warning, never the training; what is lacking then comes with the next call of ``export`` or the next run.
    """

    def __init__(self, study: Study, store: Store, targets: Sequence[str]) -> None:
        self._sinks = {target: opened(target) for target in targets}
        self._reader = _Reader(study, store)
        self._stage: Stage | None = None
        self._news, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __call__(self, stage: Stage) -> None:
        self._stage = stage
        self._news.set()

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._news.set()
        self._thread.join()

    def _follow(self) -> None:
        while True:
            self._news.wait()
            over = self._over.is_set()
            self._news.clear()
            begun = time.monotonic()
            for target, sink in list(self._sinks.items()):
                try:
                    self._reader.log(self._stage, sink)
                except Exception as error:
                    warnings.warn(f"logging to {target} ended: {type(error).__name__}: {error}", stacklevel=2)
                    del self._sinks[target]
            if over or not self._sinks:
                return
            # A large study takes longer to look through, and is looked at less often.
            self._over.wait(max(PAUSE, 4 * (time.monotonic() - begun)))


@dataclass(frozen=True)
class _Logged:
    """A run of a study with its entry."""

    entry: Entry
    lowered: Lowered


class _Reader:
    """Reads what is published of the runs of a stage, and tells sinks what they lack."""

    def __init__(self, study: Study, store: Store) -> None:
        self.study, self.store = study, store
        self.ended: dict[Sink, set[str]] = {}
        """Ids of the runs that have ended, by sink."""
        self._runs: tuple[Stage | None, list[_Logged]] = (None, [])
        self._curve = lru_cache(maxsize=128)(store.curve)

    def log(self, stage: Stage | None, sink: Sink) -> None:
        """Bring a sink up to date."""
        if stage is None:
            return
        if self._runs[0] is not stage:
            self._runs = (stage, entries(self.study, stage))
        ended = self.ended.setdefault(sink, set())
        runs = [run for run in self._runs[1] if run.entry.id not in ended]
        rows = self.store.on_tracks([track.id for r in runs for track, _, _ in r.lowered.run.tracks])
        measured = self.store.measurements({r.lowered.run.key(at) for r in runs for at in r.lowered.points})
        broken = diverged([r.lowered for r in runs], StoreMemory(self.store))
        for index, run in enumerate(runs):
            reached = self._reached(run.lowered, rows)
            final, status = self._final(run.lowered, measured), DONE
            if final is None and index in broken:
                final, status = {}, "diverged"
            if (not reached or not sink.live) and final is None:
                continue
            known = sink.logged(run.entry)
            if not known.finished:
                behind = min(known.last.get(sink.named(name), 0) for name in COLUMNS.values())
                curves = self._curves(run.lowered, reached, behind, measured, final is not None)
                write(sink, run.entry, curves, final, status)
            if known.finished or final is not None:
                ended.add(run.entry.id)

    def _reached(self, lowered: Lowered, rows: Mapping[str, list[Row]]) -> list[tuple[int, int, Row]]:
        """(first, last update, piece), end to end from the run's own beginning as far as they are published."""
        found: list[tuple[int, int, Row]] = []
        for track, phase, begun in lowered.run.tracks:
            if begun < lowered.begun:
                continue
            at = 0
            while at < phase.length:
                # The longest next stretch; a track may go on beyond this run.
                fitting = [r for r in rows.get(track.id, ()) if r.curve and r.offset - _length(r) <= at < r.offset]
                if not fitting:
                    return found
                best = max(fitting, key=lambda r: (r.status == DONE, r.offset, -_length(r)))
                end = min(best.offset, phase.length)
                found.append((begun + at, begun + end, best))
                at = end
        return found

    def _curves(
        self,
        lowered: Lowered,
        reached: Sequence[tuple[int, int, Row]],
        behind: int,
        measured: Mapping[str, Mapping[str, float]],
        ended: bool,
    ) -> Curves:
        """The series of a run by its own updates, training's from ``behind`` on."""
        parts: dict[str, list[tuple[Any, Any]]] = {name: [] for name in COLUMNS}
        for first, last, row in reached:
            if last - lowered.begun <= behind:
                continue
            columns = self._curve(row.end_key)
            keep = (columns["update"] > first) & (columns["update"] <= last)
            for name, listed in parts.items():
                if name in columns:
                    listed.append((columns["update"][keep] - lowered.begun, columns[name][keep]))
        curves = {
            COLUMNS[name]: (np.concatenate([s for s, _ in listed]), np.concatenate([v for _, v in listed]))
            for name, listed in parts.items()
            if listed
        }
        steps, values = [], []
        for update, measures in sorted(lowered.points.items()):
            wanted = [m.name for m in measures if (m.metric, m.part, m.observer) == ("loss", "B", lowered.along)]
            if update <= lowered.begun or not wanted:
                continue
            here = measured.get(lowered.run.key(update), {}).get(wanted[0])
            if here is not None:
                steps.append(update - lowered.begun)
                values.append(here)
            elif not ended:
                break  # measured later, perhaps; a series is logged in its order
        return {**curves, "eval/loss": (steps, values)} if steps else curves

    @staticmethod
    def _final(lowered: Lowered, measured: Mapping[str, Mapping[str, float]]) -> dict[str, float] | None:
        """What the run is judged by; None until it is all there."""
        chosen = lowered.chosen(measured)
        if chosen is None:
            return None
        here = measured.get(lowered.run.key(chosen[0]), {})
        wanted = {"final/loss": lowered.final["B"], "final/loss_a": lowered.final["A"]}
        for name in lowered.metrics:
            at_end = lowered.at_end(name)
            wanted |= {f"final/{name}": at_end["B"], f"final/{name}_a": at_end["A"]}
        found = {name: here[measure.name] for name, measure in wanted.items() if measure.name in here}
        return found if len(found) == len(wanted) else None


def entries(study: Study, stage: Stage) -> list[_Logged]:
    """The runs of a stage as loggers name them; those of tuning too."""
    lrs = [t.lr for t in stage.trials] + [p.lr for p in stage.planned]
    found = []
    for index, (name, cell, lowered, lr) in enumerate(zip(stage.names, stage.cells, stage.runs, lrs, strict=True)):
        params = _params(cell, lowered, lr) | {"study": study.name, "tuning": index < len(stage.trials)}
        entry = Entry(name, params, identity=lowered.run.key(lowered.run.length), group=study.name)
        found.append(_Logged(entry, lowered))
    return found


def _params(cell: Cell, lowered: Lowered, lr: float) -> dict[str, Scalar]:
    facts = lowered.facts
    named = {path: value for path, value in cell.coordinates.items() if path != "seed"}
    return {
        "arm": cell.arm,
        "seed": _scalar(cell.coordinates.get("seed", cell.config["seed"])),
        "N": facts.N,
        "D": lowered.length * facts.terms_per_update,
        "S": lowered.length,
        "B": facts.terms_per_update,
        "C": lowered.flops,
        "lr": lr,
        "unit": facts.unit,
        "key": lowered.run.key(lowered.run.length),
        **{path: _scalar(value) for path, value in named.items()},
    }


def _scalar(value: Any) -> Scalar:
    return value if isinstance(value, str | int | float | bool) else str(value)


def _length(row: Row) -> int:
    return row.end_update - row.start_update
