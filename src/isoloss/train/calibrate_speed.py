"""How long updates and evaluations take on this machine, by taking a few real ones.

The time of an update depends on what else the machine does: processor clock and memory bandwidth are shared. So as many
processes as there will be workers measure the same jobs at once, and what they find is averaged. Nothing is stored: the
weights are freshly initialised and hardly move (the learning rate is next to nothing, so that nothing can diverge).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from isoloss import data
from isoloss.models import keep_freed_memory
from isoloss.recipe.run import LR, Run
from isoloss.train.evaluate import CHUNK
from isoloss.train.loop import Trainer
from isoloss.train.segment import use_threads

SLICE = 0.3
"""Seconds of updates that are timed of one job in one turn, at most."""
TURNS = 2
"""How often every job is measured, some time apart: what else the machine does comes and goes."""
LEAST = 3
"""Updates that are timed of one job, at least."""
_STILL = 1e-12
_PATIENCE = 30.0


@dataclass(frozen=True)
class Timing:
    """Seconds of one update, of the evaluation of one token (sample), and before the first update of a segment."""

    update: float
    evaluation: float
    setup: float


@dataclass(frozen=True)
class Calibrated:
    """Timings by name, seconds until a process could begin, and the share of the time that it then had a processor.

    A share well below 1 says that other work kept the processors busy. Of an accelerator it is taken to be 1.
    """

    timings: dict[str, Timing]
    started: float
    share: float


@dataclass(frozen=True)
class Job:
    """One track to measure: ``amount`` tokens (samples) would be evaluated, an update takes ``flops``."""

    name: str
    run: Run
    track: int
    data: Mapping[str, Any]
    amount: int
    flops: float


def calibrate(
    jobs: Sequence[Job], *, processes: int, threads: int, limit: float, paths: Sequence[str] = ()
) -> Calibrated:
    """What is measured in ``processes`` at once for about ``limit`` seconds.

    Jobs are measured in their order; what does not fit into the time is left out, and so is what fails. ``paths``: more
    folders to import from.
    """
    begun = time.monotonic()
    message = pickle.dumps((list(jobs), threads, limit, list(paths)))
    children = [_Child(message) for _ in range(processes)]
    try:
        ready = [child.ready.wait(_PATIENCE) for child in children]
        started = time.monotonic() - begun
        for child in children:
            child.go()
        until = time.monotonic() + 2 * limit + 1.0  # an update that takes longer than all the time there is
        for child, able in zip(children, ready, strict=True):
            if able:
                child.reader.join(max(0.0, until - time.monotonic()))
    finally:
        for child in children:
            child.end()
    found: dict[str, list[Timing]] = {}
    for child in children:
        for name, timing in child.found:
            found.setdefault(name, []).append(timing)
    shares = [child.share for child in children if child.found]
    timings = {name: _mean(several) for name, several in found.items()}
    return Calibrated(timings, started, statistics.fmean(shares) if shares else 1.0)


def _mean(timings: Sequence[Timing]) -> Timing:
    columns = [[asdict(t)[name] for t in timings] for name in ("update", "evaluation", "setup")]
    return Timing(*(statistics.fmean(column) for column in columns))


class _Child:
    """One measuring process; a thread takes what it says, line by line."""

    def __init__(self, message: bytes) -> None:
        self.found: list[tuple[str, Timing]] = []
        self.share = 1.0
        self.ready = threading.Event()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self._write(len(message).to_bytes(8, "little") + message)

    def _write(self, content: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(content)
            self._process.stdin.flush()
        except OSError:
            self.ready.set()  # it has died: nothing is found

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = json.loads(line)
            if said is None:
                self.ready.set()
            else:
                name, timing, self.share = said
                self.found.append((name, Timing(**timing)))
        self.ready.set()

    def go(self) -> None:
        self._write(b"\n")

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self.reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()


def measure(job: Job, source: data.Source, slice: float = SLICE) -> Timing:
    """Time ``job`` in this process; the first update, which is slower, counts as part of the setup."""
    begun = time.perf_counter()
    _, phase, _ = job.run.tracks[job.track]
    phase = replace(phase, rule=replace(phase.rule, lr=LR("constant", _STILL)))
    trainer = Trainer(job.run.start, phase, source, job.run.numerics)
    evaluate = trainer.evaluator()
    trainer.step(0)
    setup = time.perf_counter() - begun
    trainer.step(1)
    times: list[float] = []
    while len(times) < LEAST or sum(times) < slice:
        clock = time.perf_counter()
        trainer.step(2 + len(times))
        times.append(time.perf_counter() - clock)
    update = statistics.fmean(times)
    evaluation = 0.0
    if job.amount:
        amount = min(job.amount, 2 * CHUNK * (phase.rule.data["context"] if source.kind == "tokens" else 1))
        passes = []
        for _ in range(3):
            clock = time.perf_counter()
            evaluate(trainer.weights, trainer.buffers(), [("loss", "A", amount)])
            passes.append(time.perf_counter() - clock)
        evaluation = min(passes) / amount
    return Timing(update, evaluation, max(0.0, setup - update))


def _main() -> None:
    """A child: read the jobs, say null when able to begin, wait for a line, then say what is found."""
    answers, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr  # what a user's module prints is no answer
    size = int.from_bytes(sys.stdin.buffer.read(8), "little")
    # The bytes come from the process that started this one.
    content = sys.stdin.buffer.read(size)
    jobs, threads, limit, paths = _unpacked(content)
    sys.path[:0] = [path for path in paths if path not in sys.path]
    keep_freed_memory()
    use_threads(threads)
    sources: dict[str, data.Source] = {}

    def say(what: Any) -> None:
        print(json.dumps(what), file=answers, flush=True)

    def timed(job: Job, slice: float) -> Timing | None:
        place = json.dumps(dict(job.data), sort_keys=True)
        try:
            if place not in sources:
                sources[place] = data.open_source(job.data)
            return measure(job, sources[place], slice)
        except Exception:
            return None  # whatever is wrong is told when it is trained

    if jobs:
        timed(jobs[0], 0.0)  # what is imported and chosen once in a process is no part of a segment's setup
    say(None)
    sys.stdin.buffer.readline()
    begun, clock = time.monotonic(), time.thread_time()
    slice = min(SLICE, limit / (2 * TURNS * max(1, len(jobs))))
    pace = math.inf  # seconds a FLOP, of what was measured
    for job in jobs * TURNS:
        left = limit - (time.monotonic() - begun)
        if left <= 0:
            return
        if math.isfinite(pace) and (2 + LEAST) * pace * job.flops > left:
            continue
        timing = timed(job, slice)
        if timing is not None:
            pace = min(pace, timing.update / max(1.0, job.flops))
            had = (time.thread_time() - clock) / (time.monotonic() - begun)
            say((job.name, asdict(timing), had if job.run.numerics["device"] == "cpu" else 1.0))


def _unpacked(content: bytes) -> tuple[list[Job], int, float, list[str]]:
    jobs, threads, limit, paths = pickle.loads(content)
    return jobs, threads, limit, paths


if __name__ == "__main__":
    _main()
