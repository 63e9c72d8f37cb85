"""A disk as an NFS client sees it: what it has looked up it remembers for a while, and replies get lost.

After the rules of the Linux client: attributes, listings and failed look-ups are remembered for up to 60 s; a change
of one's own in a folder, or opening a file, asks the server anew (close-to-open); what another client removed is a
stale handle.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from isoloss.store.backend import Disk

REMEMBERED = 60.0


class NfsDisk(Disk):
    """One client of a folder; `clock` is shared by all clients of a test.

    `lose`: operations (link, unlink, rename, create) whose next reply is lost; the client sends the call again, and
    the server, which forgot, answers what the second one gives.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.lose: set[str] = set()
        self._names: dict[str, tuple[float, bool]] = {}
        self._listings: dict[str, tuple[float, list[tuple[str, bool]]]] = {}
        self._attributes: dict[str, tuple[float, os.stat_result]] = {}
        self.late = 0
        """Answers so far that were not what the server would have said."""

    def _loses(self, operation: str) -> bool:
        lost = operation in self.lose
        self.lose.discard(operation)
        return lost

    def _changed(self, path: Path) -> None:
        """After a change of our own in a folder, all that was remembered of it is forgotten."""
        folder = str(path.parent)
        self._listings.pop(folder, None)
        for known in (self._names, self._attributes):
            for name in [name for name in known if os.path.dirname(name) == folder]:
                del known[name]

    def exists(self, path: str) -> bool:
        there = os.path.exists(path)
        at, known = self._names.get(path, (-1e9, there))
        if self.clock() - at > REMEMBERED:
            self._names[path] = (self.clock(), there)
            return there
        self.late += known != there
        return known

    def scan(self, path: str) -> list[tuple[str, bool]]:
        path = os.path.normpath(path)
        at, known = self._listings.get(path, (-1e9, []))
        if self.clock() - at > REMEMBERED:
            try:
                known = super().scan(path)
            except FileNotFoundError:
                self._listings[path] = (self.clock(), [])
                raise
            self._listings[path] = (self.clock(), known)
            return list(known)
        self.late += not os.path.isdir(path) or sorted(known) != sorted(super().scan(path))
        return list(known)

    def stat(self, path: Path) -> os.stat_result:
        at, known = self._attributes.get(str(path), (-1e9, None))
        if known is None or self.clock() - at > REMEMBERED:
            known = super().stat(path)
            self._attributes[str(path)] = (self.clock(), known)
        return known

    def read(self, path: Path) -> bytes:
        at, there = self._names.get(str(path), (-1e9, True))
        if not there and self.clock() - at <= REMEMBERED:
            self.late += path.exists()
            raise FileNotFoundError(errno.ENOENT, "remembered as missing", str(path))
        try:
            return super().read(path)
        except FileNotFoundError:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path)) from None

    def touch(self, path: Path) -> None:
        try:
            super().touch(path)
        except FileNotFoundError:
            self._changed(path)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path)) from None
        self._attributes.pop(str(path), None)

    def make_folder(self, path: Path) -> None:
        super().make_folder(path)
        self._changed(path)

    def create(self, path: Path) -> int:
        if self._loses("create"):
            os.close(super().create(path))
        made = super().create(path)
        self._changed(path)
        return made

    def link(self, source: Path, target: Path) -> None:
        # The client remembers the attributes of the source, with one name.
        self.stat(source)
        remembered = self._attributes[str(source)]
        if not target.exists() and self._loses("link"):
            super().link(source, target)
        try:
            super().link(source, target)
        finally:
            self._changed(target)
            self._attributes[str(source)] = remembered

    def unlink(self, path: Path) -> None:
        if self._loses("unlink"):
            super().unlink(path)
        super().unlink(path)
        self._changed(path)

    def rename(self, source: Path, target: Path) -> None:
        if self._loses("rename"):
            super().rename(source, target)
        try:
            super().rename(source, target)
        finally:
            self._changed(source)
            self._changed(target)
