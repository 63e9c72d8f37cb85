"""Runs a study to its fixpoint: plan, train what is missing, ask again."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from isoloss.execute import outside_weights
from isoloss.execute.display import Display, matmul_peak
from isoloss.execute.local import Pool
from isoloss.plan import cost
from isoloss.plan.demands import Stage, expected, folder_of, stage
from isoloss.plan.lower import Lowering
from isoloss.plan.memory import StoreMemory
from isoloss.plan.needs import Work, arrange
from isoloss.recipe.errors import RunFailed
from isoloss.store import Lease, Store
from isoloss.study import Study
from isoloss.train.layout import Layout

BEAT = 5.0
"""Seconds between heartbeats of the leases that a driver holds."""


@dataclass(frozen=True)
class Options:
    """How to execute; nothing here is part of a key."""

    workers: int = 0
    """Worker processes; 0: as many as there are cores, divided by ``threads`` and ``processes``."""
    threads: int = 1
    processes: int = 1
    """Processes that share the micro-batches of one run."""
    budget: float | None = None
    """Seconds after which nothing new begins."""
    share: bool = True
    quiet: bool = False

    def resolved_workers(self) -> int:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.workers or max(1, cores // (self.threads * self.processes))


@dataclass
class Executed:
    """What a run of a study left: the last stage, failures by run name, and how it ended."""

    stage: Stage
    failures: dict[str, str] = field(default_factory=dict)
    stopped: bool = False
    seconds: float = 0.0
    trained: int = 0
    replayed: int = 0


def execute(
    study: Study,
    store: Store,
    options: Options,
    *,
    console: Console | None = None,
    under: Sequence[Path] = (),
) -> Executed:
    """Train what ``store`` lacks for ``study``; returns also when stopped early or when single runs failed.

    Ctrl-C once: finish the pieces at work and leave; twice: leave at once. Nothing that was published is lost.
    """
    console = console or Console(stderr=True)
    lowering = Lowering(threads=options.threads, base=folder_of(study))
    memory = StoreMemory(store)
    begun = time.monotonic()
    deadline = begun + options.budget if options.budget is not None else None
    failed: dict[str, str] = {}
    trained = replayed = 0
    stopped = False
    paths = list(dict.fromkeys([str(study.path.parent) if study.path else "", os.getcwd(), *sys.path]))
    # Every cell is lowered once before anything trains, those behind tuning too, so that all mistakes come first.
    for lowered in expected(study, lowering, alone=not options.share):
        Layout(options.processes, 0).share(lowered.run.phases[0].rule.micro_batches)

    def done(work: Work) -> bool:
        """Whether another driver has trained and measured all of it since the plan was made."""
        track, segment = work.node.track, work.segment
        measured = memory.measured([track.key(o) for o in segment.measures])
        whole = all(m.name in measured.get(track.key(o), {}) for o, ms in segment.measures.items() for m in ms)
        return whole and store.has(track.key(segment.end))

    display = Display(console, peak=0.0 if options.quiet else matmul_peak(), quiet=options.quiet)
    with (
        Pool(
            store.path,
            under=list(under),
            workers=options.resolved_workers(),
            processes=options.processes,
            threads=options.threads,
            paths=[p for p in paths if p],
        ) as pool,
        _interruptible(pool, console),
        _Leases(store) as leases,
        display,
    ):
        repeated = 0
        lost: set[str] = set()
        while True:
            current = stage(study, memory, lowering, alone=not options.share)
            outside_weights.publish(store, current.runs)
            works = _balanced(current, [w for w in current.work if w.node.track.id not in failed])
            if not works:
                if current.complete or failed:
                    break
                raise RunFailed("tuning cannot go on: its runs are missing and nothing is left to train")
            reused = cost.shared(current.roots).updates - sum(w.updates - w.replayed for w in works)
            if not repeated:
                display.round("study" if current.complete else "tuning", works, reused)
            labels = [_label(current, w) for w in works]
            outcome = pool.run(
                works, labels, display, deadline=deadline, claim=leases.claim, release=leases.release, done=done
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
    return Executed(final, _by_run(final, failed), stopped, time.monotonic() - begun, trained, replayed)


def _balanced(current: Stage, works: Sequence[Work]) -> list[Work]:
    """An order in which every arm is at about the same place, so that stopping early still compares them."""
    trials = len(current.trials)
    rank = dict.fromkeys(range(trials), (0, 0, 0))
    axes: dict[str, list[Any]] = {}
    for planned in current.planned:
        for path, value in planned.cell.coordinates.items():
            values = axes.setdefault(path, [])
            if value not in values:
                values.append(value)
    for index, planned in enumerate(current.planned):
        at = planned.cell.coordinates
        seed = axes["seed"].index(at["seed"]) if "seed" in at else 0
        others = sum(axes[path].index(value) for path, value in at.items() if path != "seed")
        rank[trials + index] = (1 + seed, others, planned.cell.extra)
    position = {work.node.track.id: i for i, work in enumerate(works)}
    return sorted(
        works, key=lambda w: (min(rank[m] for m in w.node.members), position[w.node.track.id], w.segment.begin)
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
    tuning = f" lr {current.trials[members[0]].lr:g}" if members[0] < trials else ""
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


def _born(pid: int) -> str:
    """When a process of this machine began, in its own clock; empty if there is none (or no /proc to ask)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _gone(owner: str) -> bool:
    """Whether a lease's owner was a process of this machine that no longer runs."""
    host, pid, born = owner.rsplit(" ", 2)
    return host == socket.gethostname() and born != "" and _born(int(pid)) != born


class _Leases:
    """Advisory leases on tracks, kept alive by a thread: two drivers on one store share the work."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.owner = f"{socket.gethostname()} {os.getpid()} {_born(os.getpid())}"
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
            taken = lease.take(_gone)
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
                    self._leases[track].beat()
