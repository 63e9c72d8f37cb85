"""A local, bounded copy of blobs that lie far away: named after their content, checked at every reading.

Only ever a copy: any file may be deleted at any time, by anybody, and trouble with the disk only means that the
blob is fetched again. One folder serves all stores of a user.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import threading
from collections.abc import Iterable
from pathlib import Path

from isoloss.recipe.errors import StoreError
from isoloss.store.backend import TEMPORARY, Buffer

DEFAULT_GB = 10.0


def cache_folder() -> Path:
    """Where copies may lie: `ISOLOSS_CACHE`, or `isoloss` in the user's cache folder (`XDG_CACHE_HOME`)."""
    if given := os.environ.get("ISOLOSS_CACHE"):
        return Path(given).expanduser()
    user = os.environ.get("XDG_CACHE_HOME")
    return (Path(user) if user else Path.home() / ".cache") / "isoloss"


def cache_bytes() -> int:
    """How large the copies may grow together: `ISOLOSS_CACHE_GB`, 0 for none. Raises StoreError."""
    text = os.environ.get("ISOLOSS_CACHE_GB", str(DEFAULT_GB))
    try:
        size = float(text) * 1e9
        if 0 <= size < float("inf"):
            return int(size)
    except ValueError:
        pass
    raise StoreError(f"ISOLOSS_CACHE_GB: found {text!r}; allowed: a number of gigabytes, 0 for no copies")


def matches(name: str, data: Buffer) -> bool:
    """Whether bytes have the hash that the name of their blob says."""
    return hashlib.sha256(data).hexdigest() == name.rpartition("/")[2].partition(".")[0]


class BlobCache:
    """Blobs in `folder`, at most `limit` bytes: those not used for longest make room for new ones."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._room = 0
        self._lock = threading.Lock()

    def get(self, name: str) -> bytes | None:
        """Content of a blob, its hash checked; None where there is no whole copy."""
        path = self._path(name)
        with contextlib.suppress(OSError):
            data = path.read_bytes()
            if matches(name, data):
                os.utime(path)
                return data
            path.unlink()
        return None

    def put(self, name: str, chunks: Iterable[Buffer]) -> None:
        """Keep a copy if there is room for it."""
        path = self._path(name)
        temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(6)}")
        try:
            chunks = tuple(chunks)
            if path.exists() or not self._make_room(sum(len(chunk) for chunk in chunks)):
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.writelines(chunks)
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def _path(self, name: str) -> Path:
        file = name.rpartition("/")[2]
        return self.folder / file[:2] / file

    def _make_room(self, size: int) -> bool:
        if size > self.limit:
            return False
        with self._lock:
            if size > self._room:
                self._room = self._sweep(max(size, self.limit // 8))
            if size > self._room:
                return False
            self._room -= size
            return True

    def _sweep(self, wanted: int) -> int:
        """Bytes that may be added until it is time to count again: other processes fill the folder too."""
        files = []
        for path in self.folder.glob("*/*"):
            with contextlib.suppress(OSError):
                found = path.stat()
                files.append((found.st_mtime, found.st_size, path))
        free = self.limit - sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if free >= wanted:
                break
            with contextlib.suppress(OSError):
                path.unlink()
                free += size
        return min(free, wanted)
