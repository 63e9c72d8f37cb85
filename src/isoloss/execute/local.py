"""Workers that are processes of this machine."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from isoloss.execute import dispatch
from isoloss.execute.dispatch import Message
from isoloss.execute.job import Job
from isoloss.execute.worker import Setting, main
from isoloss.train.parallel.layout import ALONE, Parallel


class Worker(dispatch.Worker):
    """As many processes as share the micro-batches of a run, each at the end of a pipe."""

    def __init__(self, processes: list[BaseProcess], pipes: list[Connection], slot: int = 0) -> None:
        super().__init__(len(processes))
        self.processes, self.pipes, self.slot = processes, pipes, slot

    def deliver(self, job: Job) -> None:
        for pipe in self.pipes:
            try:
                pipe.send(job)
            except OSError:
                return  # it has died: heard as any other death

    def messages(self) -> Iterator[Message]:
        for rank, pipe in enumerate(self.pipes):
            try:
                while pipe.poll():
                    kind, number, payload = pipe.recv()
                    yield rank, kind, number, payload
            except (EOFError, OSError):
                continue

    def death(self, within: float = 0.0) -> str | None:
        wait([process.sentinel for process in self.processes], timeout=within)
        code = next((p.exitcode for p in self.processes if p.exitcode is not None), None)
        return None if code is None else f"exit code {code}"

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()
        for pipe in self.pipes:
            pipe.close()


class Pool(dispatch.Pool):
    """``workers`` worker processes (each as many as ``parallel`` says) on one store; use as a context."""

    def __init__(
        self,
        store: Path | str,
        *,
        under: Sequence[Path | str] = (),
        workers: int = 2,
        parallel: Parallel = ALONE,
        threads: int = 1,
        paths: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.setting = Setting(str(store), tuple(map(str, under)), threads, tuple(paths), parallel)
        self.size = workers
        # One process imports what workers need; each worker is forked from it before any thread exists there.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["isoloss.execute.job"])
        self._halting = self._context.Event()
        self.halting = self._halting
        self._folder = Path(tempfile.mkdtemp(prefix="isoloss-"))
        self._meetings = 0

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def order(self, ready: int) -> None:
        """Nothing: a process is there as soon as it is asked for."""

    def vacant(self) -> bool:
        return len(self.workers) < self.size

    @property
    def expecting(self) -> bool:
        return False

    def heard(self, busy: Sequence[dispatch.Worker]) -> list[dispatch.Worker]:
        sources: dict[Any, Worker] = {}
        for worker in busy:
            assert isinstance(worker, Worker)
            sources.update(dict.fromkeys(worker.pipes, worker))
            sources.update({process.sentinel: worker for process in worker.processes})
        ready = wait(list(sources), timeout=0.2)
        return list({id(sources[item]): sources[item] for item in ready}.values())

    def start(self) -> Worker:
        world = self.setting.world
        taken = {worker.slot for worker in self.workers if isinstance(worker, Worker)}
        slot = min(set(range(len(taken) + 1)) - taken)
        self._meetings += 1
        meeting = f"file://{self._folder / f'meeting-{self._meetings}'}" if world > 1 else None
        processes: list[BaseProcess] = []
        pipes: list[Connection] = []
        for rank in range(world):
            process, pipe = self.process(replace(self.setting, rank=rank, meeting=meeting, slot=slot))
            processes.append(process)
            pipes.append(pipe)
        worker = Worker(processes, pipes, slot)
        self.workers.append(worker)
        return worker

    def process(self, setting: Setting) -> tuple[BaseProcess, Connection]:
        """One more process of this machine that serves, and the pipe to it."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=main, args=(theirs, self._halting, setting), daemon=True)
        with _without_main(), _deaf_to_ctrl_c():
            process.start()
        theirs.close()
        return process, ours


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


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Ctrl-C is the driver's business, also while what is started here still imports: it inherits a blocked signal."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
