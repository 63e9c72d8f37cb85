"""What every way of executing has in common: which work is ready, who holds it, what happens when a worker dies.

A pool starts workers and hears them (processes of this machine, actors of a Ray cluster); the rest is here: leases,
readiness (a branch begins when the state it leaves from is stored), attempts, failures, lost states.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from threading import Event
from time import monotonic
from types import TracebackType
from typing import Any, Protocol, Self

from isoloss.execute.job import Job
from isoloss.plan.needs import Work

ATTEMPTS = 3
"""How often a segment is tried when its worker dies."""
PATIENCE = 1800.0
"""Seconds without a word after which a worker is taken to hang; every update is one, at most every quarter second."""
MISSED = 2.0
"""Seconds in which the death of one process of a worker shows after another one has failed."""

Message = tuple[int, str, int, Any]
"""(rank, kind, job id, payload): see ``worker.serve``."""


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
    nothing more can be trained or published; ``stopped``: before all was done.
    """

    failures: dict[str, str] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    fatal: str | None = None
    stopped: bool = False


class Worker(ABC):
    """Trains one job at a time; ``strength`` processes share the micro-batches of a run and are spoken to in unison."""

    def __init__(self, strength: int) -> None:
        self.strength = strength
        self.job: Job | None = None
        self.finished: set[int] = set()
        """Processes that have ended the job, well or not."""
        self.heard = monotonic()
        """When it last had a job from us or a word for us."""

    def send(self, job: Job) -> None:
        """Hand over a job."""
        self.job, self.finished, self.heard = job, set(), monotonic()
        self.deliver(job)

    @abstractmethod
    def deliver(self, job: Job) -> None:
        """Bring a job to every process."""

    @abstractmethod
    def messages(self) -> Iterable[Message]:
        """What has arrived, in order of sending for each rank; a broken connection ends it quietly."""

    @abstractmethod
    def death(self, within: float = 0.0) -> str | None:
        """Why the worker can no longer train; None while all of it lives. Waits ``within`` seconds for a sign."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once."""


class Flag(Protocol):
    """A switch that is set once."""

    def set(self) -> None: ...
    def is_set(self) -> bool: ...


class Pool(ABC):
    """Workers on one store; use as a context."""

    def __init__(self) -> None:
        self.halting: Flag = Event()
        """Set: workers leave at the end of their piece and nothing new begins."""
        self.workers: list[Worker] = []
        self.trouble: str | None = None
        """Why no worker can be had."""
        self.patience = PATIENCE

    def __enter__(self) -> Self:
        return self

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all workers."""

    @abstractmethod
    def order(self, ready: int) -> None:
        """Called all the time with how many jobs could begin: see to it that workers for them are on their way."""

    @abstractmethod
    def vacant(self) -> bool:
        """Whether ``start`` can give one more worker now."""

    @abstractmethod
    def start(self) -> Worker:
        """One more worker."""

    @property
    @abstractmethod
    def expecting(self) -> bool:
        """Whether a worker that was ordered is still on its way."""

    @abstractmethod
    def heard(self, busy: Sequence[Worker]) -> list[Worker]:
        """Those of ``busy`` with news (a message, a death); waits a fraction of a second for some."""

    def discard(self, worker: Worker) -> None:
        """Give a worker up."""
        worker.kill()
        self.workers.remove(worker)

    def idle(self) -> list[Worker]:
        """Workers without a job; those that have died meanwhile are given up."""
        idle = [worker for worker in self.workers if worker.job is None]
        for worker in [worker for worker in idle if worker.death()]:
            idle.remove(worker)
            self.discard(worker)
        return idle

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
        stored: Callable[[Job, int], bool] = lambda job, offset: False,
    ) -> Outcome:
        """Train ``works`` in their order as far as what they wait for exists.

        ``deadline`` (of ``time.monotonic``): begin nothing after it and stop at the end of each piece. ``claim``
        and ``release`` are the advisory leases on tracks; what somebody else holds is left to them and counts as
        not done. ``done`` is asked after a claim whether somebody else has finished the work meanwhile, ``stored``
        after a death whether the state at an offset was published without our hearing of it.
        """
        going = _Round(self, works, labels, listener, claim, release, done, stored)
        while going.waiting or any(worker.job for worker in self.workers):
            going.outcome.fatal = going.outcome.fatal or self.trouble
            if going.outcome.fatal or (deadline is not None and monotonic() > deadline):
                self.halting.set()
            if self.halting.is_set():
                going.outcome.stopped = going.outcome.stopped or bool(going.waiting)
                going.waiting = []
            self.order(going.ready())
            going.dispatch()
            busy = [worker for worker in self.workers if worker.job]
            if not busy and (self.idle() or not self.expecting):
                break  # what is left waits for a track that broke off, or that somebody else trains
            listener.tick()
            heard = self.heard(busy)
            for worker in heard:
                going.hear(worker)
            for worker in busy:
                if worker.job and worker not in heard and monotonic() - worker.heard > self.patience:
                    going.give_up(worker)
        return going.outcome


class _Round:
    """The state of one round of work."""

    def __init__(
        self,
        pool: Pool,
        works: Sequence[Work],
        labels: Sequence[str],
        listener: Listener,
        claim: Callable[[str], bool],
        release: Callable[[str], None],
        done: Callable[[Work], bool],
        stored: Callable[[Job, int], bool],
    ) -> None:
        self.pool, self.listener = pool, listener
        self.claim, self.release, self.done, self.stored = claim, release, done, stored
        self.outcome = Outcome()
        self.waiting = [
            (Job.of(i, work, label), work) for i, (work, label) in enumerate(zip(works, labels, strict=True))
        ]
        self.planned = {job.id: work for job, work in self.waiting}
        self.coming = {(work.node.track.id, offset) for work in works for offset in work.segment.saves}
        self.there: set[tuple[str, int]] = set()
        self.attempts: dict[int, int] = {}

    def ready(self) -> int:
        """How many jobs wait for nothing but a worker."""
        return sum(self._needs(work) not in self.coming - self.there for _, work in self.waiting)

    def dispatch(self) -> None:
        """Give what is ready to whoever is free."""
        idle = self.pool.idle()
        for job, work in list(self.waiting):
            if not idle and not self.pool.vacant():
                return
            needed = self._needs(work)
            if needed and needed[0] in self.outcome.failures:
                self.outcome.failures[work.node.track.id] = self.outcome.failures[needed[0]]
                self.waiting.remove((job, work))
                continue
            if needed in self.coming - self.there:
                continue
            track = work.node.track.id
            if not self.claim(track):
                continue
            if self.done(work):
                self.release(track)
                self.there |= {(track, offset) for offset in work.segment.saves}
                self.waiting.remove((job, work))
                continue
            worker = idle.pop() if idle else self.pool.start()
            self.waiting.remove((job, work))
            worker.send(job)
            self.listener.started(job, work)

    def hear(self, worker: Worker) -> None:
        """Take in what a worker has sent, and its end."""
        job = worker.job
        assert job is not None
        track = _track(job)
        ended, reason = self._messages(worker, job, track), None
        if not ended:
            reason = worker.death()
            if reason is None:
                return
            ended = self._messages(worker, job, track)  # what it said last
        worker.job = None
        self.release(track)
        if reason is not None or len(worker.finished) < worker.strength > 1:  # a gang may wait for the one that failed
            self.pool.discard(worker)
        if ended:
            self.listener.ended(job, self.outcome.failures.get(track))
        else:
            self._again(job, track, reason or "")

    def give_up(self, worker: Worker) -> None:
        """End a worker that hangs; its job goes on elsewhere."""
        job = worker.job
        assert job is not None
        worker.job = None
        self.release(_track(job))
        self.pool.discard(worker)
        self._again(job, _track(job), f"silent for {self.pool.patience:g} s, so it was ended")

    def _again(self, job: Job, track: str, reason: str) -> None:
        """A job whose worker died goes on from its newest piece, if it may."""
        self.attempts[job.id] = self.attempts.get(job.id, 0) + 1
        self.there |= {(track, offset) for offset in job.segment.saves if self.stored(job, offset)}
        reached = max((o for t, o in self.there if t == track and o <= job.segment.end), default=job.segment.begin)
        if reached >= job.segment.end:
            self.listener.ended(job, None)
            return
        if self.attempts[job.id] >= ATTEMPTS:
            self.outcome.failures[track] = f"its worker died {ATTEMPTS} times ({reason})"
            self.listener.ended(job, self.outcome.failures[track])
            return
        self.listener.ended(job, f"its worker died ({reason}); it goes on from update {reached} of the stretch")
        segment = replace(
            job.segment,
            begin=reached,
            saves=tuple(o for o in job.segment.saves if o > reached),
            measures={o: m for o, m in job.segment.measures.items() if o > reached},
        )
        self.waiting.insert(0, (replace(job, segment=segment), replace(self.planned[job.id], segment=segment)))

    def _messages(self, worker: Worker, job: Job, track: str) -> bool:
        """Take what the worker's processes have sent; True when the job has ended."""
        failed = False
        # Twice: while the first look waits at a failure, others may tell of theirs.
        for rank, kind, number, payload in chain(worker.messages(), worker.messages()):
            worker.heard = monotonic()
            if number != job.id:
                continue
            if kind == "failed":
                # A process fails too when another one of its gang has died: then the run itself is not to blame.
                if worker.strength > 1 and not failed and worker.death(MISSED):
                    return False
                worker.finished.add(rank)
                if not failed:
                    self._failed(track, *payload)
                failed = True
            elif kind == "done":
                worker.finished.add(rank)
            elif kind == "progress" and rank == 0:
                self.listener.progress(job, *payload)
            elif kind == "piece":
                begin, end, diverged = payload
                if diverged is None:
                    self.there.add((track, end))
                self.listener.piece(job, begin, end)
        return failed or len(worker.finished) == worker.strength

    def _failed(self, track: str, sort: str, message: str) -> None:
        if sort == "StateLost":
            self.outcome.lost.append(message)
        elif sort == "StoreError":
            self.outcome.fatal = message
        else:
            self.outcome.failures.setdefault(track, message)

    @staticmethod
    def _needs(work: Work) -> tuple[str, int] | None:
        """(track, offset) whose state must be stored before it begins."""
        needed = work.waits_for
        return (needed[0].track.id, needed[1]) if needed else None


def _track(job: Job) -> str:
    return job.segment.run.tracks[job.segment.track][0].id
