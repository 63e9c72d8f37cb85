"""The actor of a Ray cluster that trains: what runs on the nodes."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Condition, Event
from typing import Any

import ray

from isoloss.execute.job import Job
from isoloss.execute.worker import Setting, prepare, serve, transport
from isoloss.recipe.errors import StoreError
from isoloss.store import Store

PROBE = "leases/reach"
"""Folder of the store for what drivers write to see whether nodes reach it."""
GATHER = 0.02
"""Seconds that an actor gathers news before it answers."""
SETTLING = 30.0
"""Seconds that a state published on another node may take to be seen (listings of a shared folder lag)."""


@dataclass(frozen=True)
class Expected:
    """What a node must have: the plan's numerics, this isoloss, and the driver's probe in the store."""

    numerics: tuple[Mapping[str, Any], ...]
    code: str
    probe: str


class Actor:
    """One process on a node. Calls run side by side: ``train`` in one thread, ``news`` and the others beside it."""

    def __init__(self, setting: Setting) -> None:
        import signal

        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.setting = setting
        self._halting, self._changed = Event(), Condition()
        self._news: list[tuple[str, int, Any]] = []
        self._urgent = False
        self._meeting: Any = None
        self._store: Store | None = None

    def check(self, expected: Expected) -> tuple[str, str, str]:
        """(node id, its name, why it cannot serve: empty where it can)."""
        prepare(self.setting)
        return ray.get_runtime_context().get_node_id(), _name(), unfit(self.setting, expected)

    def meet(self) -> tuple[str, int]:
        """Open the meeting place of a gang; its (host, port)."""
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        host = ray.util.get_node_ip_address()
        self._meeting = TCPStore(host, 0, self.setting.world, is_master=True, wait_for_workers=False)
        return host, self._meeting.port

    def join(self, meeting: tuple[str, int]) -> None:
        """Become a rank of the gang that meets there."""
        import torch.distributed as dist
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        world, rank = self.setting.world, self.setting.rank
        place = self._meeting or TCPStore(*meeting, world, is_master=False, wait_for_workers=False)
        dist.init_process_group(transport(), store=place, rank=rank, world_size=world)

    @ray.method(concurrency_group="train")  # type: ignore[untyped-decorator]
    def train(self, job: Job) -> None:
        """Train a segment; how it goes is told by ``news``."""
        prepare(self.setting)  # the number of compute threads is a setting of the thread that trains
        if self._store is None:
            self._store = Store(self.setting.store, under=list(self.setting.under))
        serve(job, self._store, self.setting.layout(), self._say, self._halting.is_set, SETTLING)

    def news(self, patience: float) -> list[tuple[str, int, Any]]:
        """What happened since the last call; comes back at once for what matters, else after ``patience`` seconds."""
        with self._changed:
            if self._changed.wait_for(lambda: self._urgent, patience):
                self._changed.wait_for(lambda: False, GATHER)
            news, self._news, self._urgent = self._news, [], False
        return news

    @ray.method(concurrency_group="talk")  # type: ignore[untyped-decorator]
    def halt(self) -> None:
        """Leave at the end of the piece."""
        self._halting.set()

    @ray.method(concurrency_group="talk")  # type: ignore[untyped-decorator]
    def here(self) -> None:
        """Answer."""

    def _say(self, kind: str, number: int, payload: Any) -> None:
        with self._changed:
            self._news.append((kind, number, payload))
            if kind != "progress":
                self._urgent = True
                self._changed.notify_all()


def unfit(setting: Setting, expected: Expected) -> str:
    """Why this process cannot serve a plan; empty where it can."""
    from isoloss.train.numerics import here as here_of

    if program() != expected.code:
        return "its isoloss is another one than the driver's"
    for planned in expected.numerics:
        here = here_of(planned)
        other = [
            f"{name} {here.get(name)!r} (planned: {planned.get(name)!r})"
            for name in sorted({*here, *planned})
            if here.get(name) != planned.get(name)
        ]
        if other:
            return f"its numbers would have other bits: {', '.join(other)}"
    try:
        Store(setting.store, under=list(setting.under), create=False).top.backend.get(expected.probe)
    except (FileNotFoundError, StoreError, OSError) as error:
        why = "what the driver wrote there is missing" if isinstance(error, FileNotFoundError) else str(error)
        return f"it does not reach the store at {setting.store}: {why}"
    return ""


def program() -> str:
    """Digest of the isoloss that is installed here."""
    import isoloss

    digest = hashlib.sha256()
    root = Path(isoloss.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _name() -> str:
    return f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"
