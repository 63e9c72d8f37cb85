"""Runs a study to its fixpoint: plan, train what is missing, ask again."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from isoloss.execute import outside_weights, torchrun
from isoloss.execute.dispatch import PATIENCE, Pool
from isoloss.execute.display import Display, matmul_peak
from isoloss.execute.forecast import foretell
from isoloss.execute.job import Job
from isoloss.plan import cost
from isoloss.plan.demands import Stage, expected, folder_of, stage
from isoloss.plan.estimate import Forecast
from isoloss.plan.lower import Lowered, Lowering
from isoloss.plan.memory import StoreMemory
from isoloss.plan.needs import Work, arrange
from isoloss.plan.schedule import balanced
from isoloss.plan.tree import grow
from isoloss.plan.tuning import label
from isoloss.recipe.canonical import digest
from isoloss.recipe.errors import RunFailed, StoreError, StudyError, nearest
from isoloss.store import Lease, Store, owners
from isoloss.study import Study
from isoloss.train import optimizers
from isoloss.train.numerics import device_kind
from isoloss.train.parallel.layout import Parallel

_RAY = re.compile(r"ray|ray:(local|auto)|ray:[^/:]+:[0-9]+|ray://[^/:]+:[0-9]+")
BEAT = 5.0
"""Seconds between heartbeats of the leases that a driver holds."""


@dataclass(frozen=True)
class Options:
    """How to execute; nothing here is part of a key."""

    workers: int = 0
    """Workers; 0: as many as there are cores (GPUs), divided by ``threads`` and the processes of each."""
    threads: int = 1
    processes: int = 0
    """Processes that train one run together; 0: as the study says."""
    budget: float | None = None
    """Seconds after which nothing new begins."""
    share: bool = True
    quiet: bool = False
    on: str = "local"
    """Where workers are: ``local``, or a Ray cluster (``execute.ray.connected`` has the forms of its address)."""
    gpus: float = 0.0
    """GPUs that a process is given; on Ray."""
    patience: float = PATIENCE
    """Seconds without an update, or other word, after which a worker is ended and its work goes on elsewhere."""
    shard: int = 0
    """Processes over which one copy of the weights is sharded; 0: as the study says."""

    def __post_init__(self) -> None:
        if self.on != "local" and not _RAY.fullmatch(self.on):
            raise StudyError(
                f"--on: found {self.on!r}; allowed: local, ray, ray:local, ray:auto, ray:HOST:PORT, ray://HOST:PORT"
                f"{nearest(self.on, ('local', 'ray'))}"
            )
        if self.gpus and self.on == "local":
            raise StudyError(f"--gpus: found {self.gpus:g} with --on local; allowed: 0, or --on ray")

    def parallel(self, study: Study) -> Parallel:
        """How processes share a run: ``processes`` and ``shard``, or what the study says."""
        said = Parallel(**study.cells[0].config["training"]["parallel"])
        shard = self.shard or said.shard
        world = self.processes or (said.data * shard)
        if torchrun.rank() is not None:
            world = self.processes or torchrun.world()
            if world != torchrun.world():
                raise StudyError(f"--processes: found {world}; allowed: {torchrun.world()}, as torchrun has started")
        if world % shard:
            raise StudyError(f"--processes: found {world} with {shard} to a copy of the weights; allowed: a multiple")
        return Parallel(world // shard, shard, said.checkpointing)

    def resolved_workers(self, parallel: Parallel) -> int:
        """How many workers train side by side on this machine."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if torchrun.rank() is not None:
            return 1
        if device_kind() == "cuda":
            return self.workers or max(1, torch.cuda.device_count() // parallel.world)
        return self.workers or max(1, cores // (self.threads * parallel.world))


@dataclass
class Executed:
    """What a run of a study left: the last stage, failures by run name, and how it ended."""

    stage: Stage
    failures: dict[str, str] = field(default_factory=dict)
    stopped: bool = False
    seconds: float = 0.0
    trained: int = 0
    replayed: int = 0
    estimates: dict[str, Any] | None = None
    """Predicted and actual time (``plan.estimate.Forecast.against``); None on Ray or where nothing was trained."""


def execute(
    study: Study,
    store: Store,
    options: Options,
    *,
    console: Console | None = None,
    under: Sequence[str | Path] = (),
    heard: Callable[[Stage], None] = lambda stage: None,
) -> Executed:
    """Train what ``store`` lacks for ``study``; returns also when stopped early or when single runs failed.

    ``heard`` is told, in this process, of every stage and whenever a piece of its runs was published; it must return
    at once. Ctrl-C once: finish the pieces at work and leave; twice: leave at once. Nothing that was published is lost.
    """
    console = console or Console(stderr=True)
    lowering = Lowering(threads=options.threads, base=folder_of(study))
    memory = StoreMemory(store)
    parallel = options.parallel(study)
    begun = time.monotonic()
    deadline = begun + options.budget if options.budget is not None else None
    failed: dict[str, str] = {}
    trained = replayed = 0
    stopped = False
    forecast: Forecast | None = None
    paths = list(dict.fromkeys([str(study.path.parent) if study.path else "", os.getcwd(), *sys.path]))
    # Every cell is lowered once before anything trains, those behind tuning too, so that all mistakes come first.
    cells = expected(study, lowering, alone=not options.share)
    for lowered in cells:
        for phase in lowered.run.phases:
            parallel.layout().share(phase.rule.micro_batches)
            if parallel.shard > 1:
                optimizers.check_sharded(phase.rule.optimizer, phase.rule.methods, lowered.run.numerics)

    def done(work: Work) -> bool:
        """Whether another driver has trained and measured all of it since the plan was made."""
        track, segment = work.node.track, work.segment
        measured = memory.measured([track.key(o) for o in segment.measures])
        whole = all(m.name in measured.get(track.key(o), {}) for o, ms in segment.measures.items() for m in ms)
        return whole and store.has(track.key(segment.end))

    def stored(job: Job, offset: int) -> bool:
        """Whether the state at an offset of a job's track was published."""
        return store.has(job.segment.run.tracks[job.segment.track][0].key(offset))

    display = Display(console, peak=0.0 if options.quiet else matmul_peak(), quiet=options.quiet)
    with (
        _pool(store, options, parallel, cells, under, [p for p in paths if p], console) as pool,
        _interruptible(pool, console),
        _Leases(store) as leases,
        display,
    ):
        pool.patience = options.patience
        repeated = 0
        lost: set[str] = set()
        while True:
            current = stage(study, memory, lowering, alone=not options.share)
            outside_weights.publish(store, current.runs)
            heard(current)
            display.arrived = partial(heard, current)
            works = [w for w in current.work if w.node.track.id not in failed]
            works = balanced(works, current.cells, len(current.trials))
            if not works:
                if current.complete or failed:
                    break
                raise RunFailed("tuning cannot go on: its runs are missing and nothing is left to train")
            if options.on == "local":
                forecast = forecast or foretell(
                    study,
                    current,
                    cells,
                    memory,
                    store,
                    workers=options.resolved_workers(parallel),
                    threads=options.threads,
                    processes=parallel.world,
                    paths=paths,
                )
                forecast.expect(works)
            reused = cost.shared(current.roots).updates - sum(w.updates - w.replayed for w in works)
            if not repeated:
                if current.complete:
                    display.round("study", works, reused)
                else:
                    display.round("tuning", works, reused, _after_tuning(current, cells))
            labels = [_label(current, w) for w in works]
            outcome = pool.run(
                works,
                labels,
                display,
                deadline=deadline,
                claim=leases.claim,
                release=leases.release,
                done=done,
                stored=stored,
            )
            failed |= outcome.failures
            if outcome.fatal:
                raise RunFailed(outcome.fatal)
            for message in outcome.lost:
                console.print(f"planning again: {message}", highlight=False)
            after = arrange(current.roots, memory)
            left = {w.node.track.id for w in after}
            progress = sum(w.updates for w in works) - sum(w.updates for w in after)
            trained += max(0, progress)
            replayed += sum(w.replayed for w in works if w.node.track.id not in left)
            if outcome.stopped or pool.halting.is_set():
                stopped = True
                break
            learned = outcome.failures or set(outcome.lost) - lost
            lost |= set(outcome.lost)
            repeated = repeated + 1 if progress <= 0 and not learned else 0
            if repeated:
                if leases.busy:
                    time.sleep(1.0)
                    continue
                if repeated > 2:
                    raise RunFailed(f"{len(after)} segments cannot be trained: what they begin from does not appear")
    final = stage(study, memory, lowering, alone=not options.share)
    heard(final)
    estimates = forecast.against(complete=not (stopped or failed)) if forecast else None
    return Executed(final, _by_run(final, failed), stopped, time.monotonic() - begun, trained, replayed, estimates)


def _after_tuning(current: Stage, cells: Sequence[Lowered]) -> float:
    """FLOPs of the runs whose arms are not tuned yet; those of the others are among this round's work."""
    known = cost.shared(grow([planned.lowered for planned in current.planned])).flops
    return max(0.0, cost.shared(grow(cells)).flops - known)


def _pool(
    store: Store,
    options: Options,
    parallel: Parallel,
    cells: Sequence[Lowered],
    under: Sequence[str | Path],
    paths: Sequence[str],
    console: Console,
) -> Pool:
    """The workers that ``--on`` names."""
    shape: dict[str, Any] = {"parallel": parallel, "threads": options.threads, "paths": paths}
    if torchrun.rank() is not None:
        return torchrun.Pool(store.location, under=list(under), **shape)
    if options.on == "local":
        from isoloss.execute import local

        return local.Pool(store.location, under=list(under), workers=options.resolved_workers(parallel), **shape)
    try:
        from isoloss.execute import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise StudyError(f"--on {options.on}: Ray is not installed; pip install 'isoloss[ray]'") from error
    from isoloss.execute.footprint import footprint

    return ray.Pool(
        store,
        options.on,
        under=list(under),
        workers=options.workers,
        gpus=options.gpus,
        memory=footprint(cells, parallel.world),
        numerics=list({digest(dict(c.run.numerics)): c.run.numerics for c in cells}.values()),
        say=lambda line: console.print(line, highlight=False),
        **shape,
    )


def _label(current: Stage, work: Work) -> str:
    """Whose stretch it is, in a few words: the arms that walk here and the coordinates they share."""
    members = work.node.members
    trials = len(current.trials)
    cells = [current.cells[m] for m in members]
    arms = "+".join(dict.fromkeys(cell.arm for cell in cells))
    shared = [
        f"{path.rpartition('.')[2]} {value}"
        for path, value in cells[0].coordinates.items()
        if all(cell.coordinates.get(path) == value for cell in cells)
    ]
    tuning = f" {label(current.trials[members[0]].values).replace('=', ' ')}" if members[0] < trials else ""
    return " ".join([arms, *shared]) + tuning


def _by_run(final: Stage, failed: Mapping[str, str]) -> dict[str, str]:
    """Failures by the names of the runs they end."""
    found = {}
    for name, lowered in zip(final.names, final.runs, strict=True):
        for track, _, _ in lowered.run.tracks:
            if track.id in failed:
                found[name] = failed[track.id]
    return found


@contextmanager
def _interruptible(pool: Pool, console: Console) -> Iterator[None]:
    """First Ctrl-C: finish the pieces; second: at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        if pool.halting.is_set():
            raise KeyboardInterrupt
        pool.halting.set()
        console.print("stopping: the pieces at work are finished first (Ctrl-C again: leave at once)")

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Leases:
    """Advisory leases on tracks, kept alive by a thread: two drivers on one store share the work."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.owner = owners.this_process()
        self.busy = False
        self._leases: dict[str, Lease] = {}
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> _Leases:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for track in list(self._held):
            self.release(track)

    def claim(self, track: str) -> bool:
        """Take the lease of a track; False while somebody else holds it."""
        with self._lock:
            lease = self._leases.setdefault(track, self.store.lease(track, self.owner, patience=4 * BEAT))
            taken = lease.take(owners.gone)
            self.busy = not taken
            if taken:
                self._held.add(track)
            return taken

    def release(self, track: str) -> None:
        """Give a track back."""
        with self._lock:
            if track in self._held:
                self._held.discard(track)
                self._leases[track].release()

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            with self._lock:
                for track in self._held:
                    # A store that fails is the writer's to tell; the next beat may come through.
                    with suppress(StoreError):
                        self._leases[track].beat()
