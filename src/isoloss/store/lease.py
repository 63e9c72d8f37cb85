"""Advisory leases: a hint that somebody is already at work, never a guarantee.

A lease is a row of numbered records; only `put_new` of the next number changes it, so of several writers
exactly one succeeds. The number is the heartbeat. Clocks of different machines are never compared: a lease is
stale when its number stood still while the reader itself waited `patience` seconds on its own clock.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from isoloss.store import owners
from isoloss.store.backend import Backend
from isoloss.store.tensors import canonical_json

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Lease:
    """One owner's view of a lease; take it, beat while working, release it.

    `patience` (seconds): how long the number must stand still, watched by this object, before `take` steals
    the lease; make it several times longer than the owner's pause between beats. `clock`: monotonic seconds.
    Raises ValueError on a name that cannot be a file name.
    """

    def __init__(
        self,
        backend: Backend,
        name: str,
        owner: str,
        patience: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"the name of a lease has letters, digits and ._- only, found {name!r}")
        self.name, self.owner, self.patience = name, owner, patience
        self._backend, self._clock = backend, clock
        self._folder = f"leases/{name}"
        self._mine: int | None = None
        self._watched: tuple[int, float] | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lease as far as it knows."""
        return self._mine is not None

    def holder(self) -> str | None:
        """Owner named by the newest record; None where the lease is free."""
        return self._newest()[1]

    def take(self, abandoned: Callable[[str], bool] = lambda owner: False) -> bool:
        """Take the lease if it is free or stale, without waiting; call again later to go on watching.

        `abandoned` says of an owner whether it is known to be gone: then its lease counts as free.
        """
        if self.held:
            return self.beat()
        number, owner = self._newest()
        now = self._clock()
        if owner is not None and not abandoned(owner):
            if self._watched is None or self._watched[0] != number:
                self._watched = (number, now)
            if now - self._watched[1] < self.patience:
                return False
        return self._advance(number, self.owner)

    def beat(self) -> bool:
        """Show that the owner is alive; False where the lease was stolen."""
        return self._mine is not None and self._advance(self._mine, self.owner)

    def release(self) -> None:
        """Free the lease, if it is still held."""
        if self._mine is not None:
            self._advance(self._mine, None)
        self._mine = None

    def _newest(self) -> tuple[int, str | None]:
        while numbers := self._numbers():
            try:
                record = self._backend.get(self._file(numbers[-1]))
            except FileNotFoundError:
                # The owner has moved on since we listed.
                continue
            return numbers[-1], owners.recorded(record)
        return 0, None

    def _advance(self, number: int, owner: str | None) -> bool:
        record = canonical_json({"owner": owner}).encode()
        mine = number + 1
        won = self._backend.put_new(self._file(mine), (record,), durable=False)
        self._mine = self._watched = None
        if not won:
            return False
        numbers = self._numbers()
        if numbers[-1:] != [mine]:
            # What we read was old: others had passed this number and removed its record.
            self._backend.delete(self._file(mine))
            return False
        # The newest record stays even when the lease is free, so that the numbers never start again.
        for old in numbers[:-1]:
            self._backend.delete(self._file(old))
        self._mine = mine
        return True

    def _numbers(self) -> list[int]:
        return sorted(int(name) for name in self._backend.list(self._folder) if name.isdigit())

    def _file(self, number: int) -> str:
        return f"{self._folder}/{number:012d}"
