"""A worker process: takes segments from its pipe, trains them, tells how it goes.

The driver's end of the pipe closing (also when the driver is killed) ends the worker. Ctrl-C is the driver's
business: it sets ``halting`` and the worker leaves at the end of its piece.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any

from isoloss.recipe.errors import IsolossError

EVERY = 0.25
"""Seconds between progress messages."""


@dataclass(frozen=True)
class Setting:
    """What a worker needs besides its pipe."""

    store: str
    under: tuple[str, ...]
    threads: int
    paths: tuple[str, ...]
    world: int = 1
    rank: int = 0
    meeting: str | None = None
    """File through which the processes of one worker find each other."""


def main(connection: Connection, halting: Event, setting: Setting) -> None:
    """Serve segments until the pipe closes. Messages sent: (kind, job id, payload)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.path[:0] = [path for path in setting.paths if path not in sys.path]
    from isoloss.models import keep_freed_memory
    from isoloss.store import Store
    from isoloss.train.layout import Layout
    from isoloss.train.segment import use_threads

    keep_freed_memory()
    use_threads(setting.threads)
    layout = None
    if setting.world > 1:
        import torch.distributed as dist

        dist.init_process_group("gloo", f"file://{setting.meeting}", rank=setting.rank, world_size=setting.world)
        layout = Layout(setting.world, setting.rank)
    store = Store(setting.store, under=list(setting.under))
    try:
        while True:
            job = connection.recv()
            if job is None:
                return
            _serve(job, store, layout, connection, halting)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        os._exit(0)


def _serve(job: Any, store: Any, layout: Any, connection: Connection, halting: Event) -> None:
    from isoloss.execute.job import execute

    last = 0.0

    def progress(offset: int, row: Any) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= EVERY:
            last = now
            connection.send(("progress", job.id, (offset, row.loss, now)))

    def published(piece: Any) -> None:
        connection.send(("piece", job.id, (piece.begin, piece.end, piece.diverged)))

    def halt() -> bool:
        if layout is None:
            return halting.is_set()
        import torch
        import torch.distributed as dist

        flag = torch.tensor([int(halting.is_set())])
        dist.broadcast(flag, 0)
        return bool(flag.item())

    try:
        execute(job, store, layout=layout, halt=halt, progress=progress, published=published)
        connection.send(("done", job.id, None))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except IsolossError as error:
        connection.send(("failed", job.id, (type(error).__name__, str(error))))
    except Exception as error:
        line = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(line.filename)}:{line.lineno}"
        connection.send(("failed", job.id, (type(error).__name__, f"{type(error).__name__}: {error} ({where})")))
