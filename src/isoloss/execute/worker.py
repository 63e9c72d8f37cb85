"""A worker process: takes segments from its pipe, trains them, tells how it goes.

The driver's end of the pipe closing (also when the driver is killed) ends the worker. Ctrl-C is the driver's
business: it sets ``halting`` and the worker leaves at the end of its piece.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.synchronize import Event
from typing import Any

from isoloss.recipe.errors import IsolossError
from isoloss.train.parallel.layout import ALONE, Layout, Parallel

EVERY = 0.25
"""Seconds between progress messages."""


@dataclass(frozen=True)
class Setting:
    """What a worker needs besides its jobs."""

    store: str
    under: tuple[str, ...]
    threads: int
    paths: tuple[str, ...]
    parallel: Parallel = ALONE
    """How the processes of one worker share a run; of them this is ``rank``."""
    rank: int = 0
    slot: int = 0
    """Number of the worker on this machine: which GPUs it takes."""
    meeting: str | None = None
    """URL through which the processes of one worker find each other."""

    @property
    def world(self) -> int:
        """Processes of one worker."""
        return self.parallel.world

    def layout(self) -> Layout:
        """The place of this process among those of its worker."""
        from isoloss.train.numerics import device_kind

        return self.parallel.layout(self.rank, device_kind())


def main(connection: Connection, halting: Event, setting: Setting, settling: float = 0.0) -> None:
    """Serve segments until the pipe closes; ``settling`` as in ``job.execute``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_driver()
    prepare(setting)
    from isoloss.store import Store

    if setting.world > 1:
        import torch.distributed as dist

        dist.init_process_group(transport(), setting.meeting, rank=setting.rank, world_size=setting.world)
    layout = setting.layout()
    store = Store(setting.store, under=list(setting.under))

    def say(kind: str, number: int, payload: Any) -> None:
        try:
            connection.send((kind, number, payload))
        except OSError:
            os._exit(0)  # nobody listens any more

    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):
            os._exit(0)
        serve(job, store, layout, say, halting.is_set, settling)


def _end_with_driver() -> None:
    """Leave as soon as the driver has died, whatever this process waits for: a partner that was never started, say."""
    driver = parent_process()
    if driver is None:
        return  # torchrun started it, and ends it

    def watch() -> None:
        wait([driver.sentinel])
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def prepare(setting: Setting) -> None:
    """Make a process fit to train: the user's modules, its memory, its threads."""
    sys.path[:0] = [path for path in setting.paths if path not in sys.path]
    from isoloss.models import keep_freed_memory
    from isoloss.train.numerics import device_kind, use_gpu
    from isoloss.train.segment import use_threads

    keep_freed_memory()
    use_threads(setting.threads)
    if device_kind() == "cuda":
        use_gpu(int(os.environ.get("LOCAL_RANK", setting.slot * setting.world + setting.rank)))


def transport() -> str:
    """How the processes of one worker exchange tensors."""
    from isoloss.train.numerics import device_kind

    return "cpu:gloo,cuda:nccl" if device_kind() == "cuda" else "gloo"


def serve(
    job: Any,
    store: Any,
    layout: Any,
    say: Callable[[str, int, Any], None],
    halting: Callable[[], bool],
    settling: float = 0.0,
) -> None:
    """Train one job and ``say(kind, job id, payload)`` how it goes.

    Kinds: ``progress`` (offset, loss, time on the worker's clock), ``piece`` (begin, end, why it diverged), and at the
    end ``done`` or ``failed`` (kind of error, message).
    """
    from isoloss.execute.job import execute

    last = 0.0

    def progress(offset: int, row: Any) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= EVERY:
            last = now
            say("progress", job.id, (offset, row.loss, now))

    def published(piece: Any) -> None:
        say("piece", job.id, (piece.begin, piece.end, piece.diverged))

    def halt() -> bool:
        if layout.world == 1:
            return halting()
        import torch
        import torch.distributed as dist

        flag = torch.tensor([int(halting())])
        dist.broadcast(flag, 0)
        return bool(flag.item())

    try:
        execute(job, store, layout=layout, halt=halt, progress=progress, published=published, settling=settling)
        say("done", job.id, None)
    except IsolossError as error:
        say("failed", job.id, (type(error).__name__, str(error)))
    except Exception as error:
        line = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(line.filename)}:{line.lineno}"
        say("failed", job.id, (type(error).__name__, f"{type(error).__name__}: {error} ({where})"))
