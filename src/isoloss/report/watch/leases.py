"""Who is at work on a store, from the leases that drivers hold on tracks; the beat of a lease is its number."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from isoloss.execute.run import BEAT
from isoloss.store import owners
from isoloss.store.backend import Backend

PATIENCE = 4 * BEAT
"""Seconds without a beat after which a lease is nobody's, as drivers see it too."""
BETWEEN = 10.0
"""Seconds that a driver may hold no lease, for it plans, before it counts as gone."""


@dataclass
class _Record:
    number: int
    owner: str | None
    moved: float
    """When the number was first seen, on this process's clock."""


class Leases:
    """What the leases of a store say, look by look. ``abandoned``: whether an owner is known to be gone."""

    def __init__(
        self, abandoned: Callable[[str], bool] = owners.gone, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._abandoned, self._clock = abandoned, clock
        self._records: dict[str, _Record] = {}
        self._last: dict[str, float] = {}
        self.held: dict[str, str] = {}
        """Owner by track, of the leases that somebody keeps alive."""
        self.drivers: list[str] = []
        """Owners that hold a lease, or did a moment ago."""

    def look(self, backend: Backend) -> None:
        """Read them again. Raises StoreError where that cannot be done now."""
        newest: dict[str, int] = {}
        for name in backend.walk("leases"):
            track, _, record = name.removeprefix("leases/").partition("/")
            if record.isdigit():
                newest[track] = max(newest.get(track, 0), int(record))
        now = self._clock()
        for track, number in newest.items():
            known = self._records.get(track)
            if known is None or known.number != number:
                try:
                    owner = owners.recorded(backend.get(f"leases/{track}/{number:012d}"))
                except FileNotFoundError:
                    continue  # its owner has moved on since it was listed: the next look sees how
                self._records[track] = _Record(number, owner, now)
        gone = {owner: self._abandoned(owner) for owner in {r.owner for r in self._records.values() if r.owner}}
        self.held = {
            track: record.owner
            for track, record in self._records.items()
            if track in newest and record.owner and not gone[record.owner] and now - record.moved < PATIENCE
        }
        self._last |= dict.fromkeys(self.held.values(), now)
        self.drivers = sorted(
            owner for owner, at in self._last.items() if now - at < BETWEEN and not self._abandoned(owner)
        )


def named(owner: str) -> str:
    """An owner as people read it: `host, process 4711`."""
    host, pid, _ = owners.parts(owner)
    return f"{host}, process {pid}" if pid.isdigit() else owner


def began(owner: str) -> float | None:
    """When a driver of this machine began (seconds since 1970); None where that cannot be told."""
    host, _, born = owners.parts(owner)
    if host != socket.gethostname() or not born.isdigit():
        return None
    try:
        text = Path("/proc/stat").read_text()
        boot = float(text.partition("btime ")[2].split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return boot + int(born) / os.sysconf("SC_CLK_TCK")
