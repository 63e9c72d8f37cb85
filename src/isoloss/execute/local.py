"""Local worker processes: who trains what next, and what happens when one of them dies."""

from __future__ import annotations

import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from isoloss.execute.job import Job
from isoloss.execute.worker import Setting, main
from isoloss.plan.needs import Work

ATTEMPTS = 3
"""How often a segment is tried when its worker dies."""


class Listener(Protocol):
    """Hears what happens; the live display is one."""

    def started(self, job: Job, work: Work) -> None: ...
    def progress(self, job: Job, offset: int, loss: float, at: float) -> None: ...
    def piece(self, job: Job, begin: int, end: int) -> None: ...
    def ended(self, job: Job, failure: str | None) -> None: ...
    def tick(self) -> None: ...


@dataclass
class Outcome:
    """How a round of work ended.

    ``failures`` by track; ``lost``: states that were gone when they were needed (plan again); ``fatal``: why
    nothing more can be published; ``stopped``: before all was done.
    """

    failures: dict[str, str] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    fatal: str | None = None
    stopped: bool = False


@dataclass
class _Worker:
    """One worker: as many processes as share the micro-batches of a run, spoken to in unison."""

    processes: list[BaseProcess]
    pipes: list[Connection]
    job: Job | None = None
    finished: set[int] = field(default_factory=set)

    def send(self, job: Job | None) -> None:
        self.job, self.finished = job, set()
        for pipe in self.pipes:
            pipe.send(job)

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()
        for pipe in self.pipes:
            pipe.close()


class Pool:
    """``workers`` worker processes (each ``processes`` strong) on one store; use as a context."""

    def __init__(
        self,
        store: Path,
        *,
        under: Sequence[Path] = (),
        workers: int = 2,
        processes: int = 1,
        threads: int = 1,
        paths: Sequence[str] = (),
    ) -> None:
        self.setting = Setting(str(store), tuple(map(str, under)), threads, tuple(paths), processes)
        self.size = workers
        # One process imports what workers need; each worker is forked from it before any thread exists there.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["isoloss.execute.job"])
        self.halting = self._context.Event()
        self._workers: list[_Worker] = []
        self._folder = Path(tempfile.mkdtemp(prefix="isoloss-"))
        self._meetings = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(
        self,
        works: Sequence[Work],
        labels: Sequence[str],
        listener: Listener,
        *,
        deadline: float | None = None,
        claim: Callable[[str], bool] = lambda track: True,
        release: Callable[[str], None] = lambda track: None,
        done: Callable[[Work], bool] = lambda work: False,
    ) -> Outcome:
        """Train ``works`` in their order as far as what they wait for exists.

        ``deadline`` (of ``time.monotonic``): begin nothing after it and stop at the end of each piece. ``claim``
        and ``release`` are the advisory leases on tracks; what somebody else holds is left to them and counts as
        not done. ``done`` is asked after a claim whether somebody else has finished the work meanwhile.
        """
        outcome = Outcome()
        waiting = [(Job.of(i, work, label), work) for i, (work, label) in enumerate(zip(works, labels, strict=True))]
        planned = {job.id: work for job, work in waiting}
        coming = {(work.node.track.id, offset) for work in works for offset in work.segment.saves}
        there: set[tuple[str, int]] = set()
        attempts: dict[int, int] = {}
        idle: list[_Worker] = list(self._workers)
        while waiting or any(w.job for w in self._workers):
            if deadline is not None and time.monotonic() > deadline:
                self.halting.set()
            if outcome.fatal:
                self.halting.set()
            if self.halting.is_set():
                outcome.stopped = outcome.stopped or bool(waiting)
                waiting = []
            self._dispatch(waiting, idle, coming, there, outcome, listener, claim, release, done)
            busy = [w for w in self._workers if w.job]
            if not busy:
                break  # what is left waits for a track that broke off, or that somebody else trains
            listener.tick()
            for worker in self._heard(busy):
                self._hear(worker, planned, there, attempts, waiting, idle, outcome, listener, release)
        return outcome

    def _dispatch(
        self,
        waiting: list[tuple[Job, Work]],
        idle: list[_Worker],
        coming: set[tuple[str, int]],
        there: set[tuple[str, int]],
        outcome: Outcome,
        listener: Listener,
        claim: Callable[[str], bool],
        release: Callable[[str], None],
        done: Callable[[Work], bool],
    ) -> None:
        for job, work in list(waiting):
            if not idle and len(self._workers) >= self.size:
                return
            needed = work.waits_for
            if needed:
                place = (needed[0].track.id, needed[1])
                if place[0] in outcome.failures:
                    outcome.failures[work.node.track.id] = outcome.failures[place[0]]
                    waiting.remove((job, work))
                    continue
                if place in coming - there:
                    continue
            track = work.node.track.id
            if not claim(track):
                continue
            if done(work):
                release(track)
                there |= {(track, offset) for offset in work.segment.saves}
                waiting.remove((job, work))
                continue
            worker = idle.pop() if idle else self._start()
            waiting.remove((job, work))
            worker.send(job)
            listener.started(job, work)

    def _heard(self, busy: list[_Worker]) -> list[_Worker]:
        sources: dict[object, _Worker] = {}
        for worker in busy:
            sources.update(dict.fromkeys(worker.pipes, worker))
            sources.update({process.sentinel: worker for process in worker.processes})
        ready = wait(list(sources), timeout=0.2)  # type: ignore[arg-type]
        return list({id(sources[item]): sources[item] for item in ready}.values())

    def _hear(
        self,
        worker: _Worker,
        planned: Mapping[int, Work],
        there: set[tuple[str, int]],
        attempts: dict[int, int],
        waiting: list[tuple[Job, Work]],
        idle: list[_Worker],
        outcome: Outcome,
        listener: Listener,
        release: Callable[[str], None],
    ) -> None:
        job = worker.job
        assert job is not None
        track = job.segment.run.tracks[job.segment.track][0].id
        try:
            ended = _messages(worker, job, track, there, outcome, listener)
        except (EOFError, ConnectionResetError, OSError):
            ended = False
        if ended:
            worker.job = None
            release(track)
            listener.ended(job, outcome.failures.get(track))
            if len(worker.finished) < len(worker.processes) > 1:
                worker.kill()  # the others may wait for the one that failed
                self._workers.remove(worker)
            else:
                idle.append(worker)
        elif any(process.exitcode is not None for process in worker.processes):
            code = next((p.exitcode for p in worker.processes if p.exitcode is not None), None)
            worker.kill()
            self._workers.remove(worker)
            release(track)
            attempts[job.id] = attempts.get(job.id, 0) + 1
            work = planned[job.id]
            reached = max((o for t, o in there if t == track and o <= job.segment.end), default=job.segment.begin)
            if reached < job.segment.end and attempts[job.id] < ATTEMPTS:
                listener.ended(
                    job, f"its worker died (exit code {code}); it goes on from update {reached} of the stretch"
                )
                segment = replace(
                    job.segment,
                    begin=reached,
                    saves=tuple(o for o in job.segment.saves if o > reached),
                    measures={o: m for o, m in job.segment.measures.items() if o > reached},
                )
                waiting.insert(0, (replace(job, segment=segment), replace(work, segment=segment)))
            elif reached < job.segment.end:
                outcome.failures[track] = f"its worker died {ATTEMPTS} times (exit code {code})"
                listener.ended(job, outcome.failures[track])

    def _start(self) -> _Worker:
        world = self.setting.world
        self._meetings += 1
        meeting = str(self._folder / f"meeting-{self._meetings}") if world > 1 else None
        processes: list[BaseProcess] = []
        pipes: list[Connection] = []
        for rank in range(world):
            ours, theirs = self._context.Pipe()
            process = self._context.Process(
                target=main, args=(theirs, self.halting, replace(self.setting, rank=rank, meeting=meeting)), daemon=True
            )
            with _without_main():
                process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
        worker = _Worker(processes, pipes)
        self._workers.append(worker)
        return worker


@contextmanager
def _without_main() -> Iterator[None]:
    """Workers need nothing of the script that calls; importing it again would start a study in each of them."""
    script = sys.modules["__main__"]
    kept: dict[str, Any] = {n: vars(script).pop(n) for n in ("__file__", "__spec__") if n in vars(script)}
    script.__spec__ = None
    try:
        yield
    finally:
        vars(script).update(kept)


def _messages(
    worker: _Worker, job: Job, track: str, there: set[tuple[str, int]], outcome: Outcome, listener: Listener
) -> bool:
    """Take what the worker's processes have sent; True when all of them have ended the job."""
    for rank, pipe in enumerate(worker.pipes):
        while pipe.poll():
            kind, number, payload = pipe.recv()
            if number != job.id:
                continue
            if kind == "failed":
                sort, message = payload
                if sort == "StateLost":
                    outcome.lost.append(message)
                elif sort == "StoreError":
                    outcome.fatal = message
                else:
                    outcome.failures.setdefault(track, message)
                return True
            if kind == "done":
                worker.finished.add(rank)
            elif kind == "progress" and rank == 0:
                listener.progress(job, *payload)
            elif kind == "piece":
                begin, end, diverged = payload
                if diverged is None:
                    there.add((track, end))
                listener.piece(job, begin, end)
    return len(worker.finished) == len(worker.pipes)
