"""Where the bytes lie: a handful of operations that a file system (here) or an object store can offer.

Everything above relies on one promise only: `put_new` makes a name appear with its whole content, or not at
all, and exactly one of several writers of a name is told that it was the first.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from isoloss.recipe.errors import StoreError

Buffer = bytes | bytearray | memoryview
TEMPORARY = ".tmp-"


class Stat(NamedTuple):
    """Size in bytes and time of last writing (seconds, on the clock of `Backend.now`)."""

    size: int
    written: float


class Backend(Protocol):
    """Names are relative, with `/` between folders; all names are written once and never changed."""

    def put_new(self, name: str, chunks: Iterable[Buffer], durable: bool = True) -> bool:
        """Write `name` if it does not exist: True if this call made it. Raises StoreError."""

    def get(self, name: str) -> bytes:
        """Whole content. Raises FileNotFoundError, or StoreError where it cannot be read."""

    def exists(self, name: str) -> bool:
        """Whether `name` has appeared."""

    def list(self, folder: str) -> list[str]:
        """Names directly inside a folder, sorted, unfinished ones left out; none where it is missing."""

    def delete(self, name: str) -> None:
        """Remove a name; a missing one is no error."""

    def move(self, name: str, target: str) -> None:
        """Put a name aside under another one, replacing what was there."""

    def stat(self, name: str) -> Stat | None:
        """Size and time of writing; None where missing."""

    def now(self) -> float:
        """The present on the clock that stamps the files, which may be another machine's."""

    def unfinished(self) -> Iterator[str]:
        """Names of temporary files that writers left behind or are still writing."""

    def path(self, name: str) -> Path:
        """Path for messages and for tools that need a file."""


class Disk:
    """The system calls that change a disk, one method each, so that a test can fail any of them."""

    def make_folder(self, path: Path) -> None:
        path.mkdir(exist_ok=True)

    def create(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)

    def write(self, file: int, chunks: Iterable[Buffer]) -> None:
        with open(file, "wb", buffering=1 << 20, closefd=False) as stream:
            for chunk in chunks:
                stream.write(chunk)

    def sync(self, file: int) -> None:
        os.fsync(file)

    def link(self, source: Path, target: Path) -> None:
        os.link(source, target)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def touch(self, path: Path) -> None:
        os.utime(path)

    def sync_folder(self, path: Path) -> None:
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class PosixBackend:
    """A folder on a file system with hard links (local disks, NFS): see `Backend`."""

    def __init__(self, root: Path, disk: Disk | None = None) -> None:
        self.root = root
        self.disk = disk or Disk()

    def put_new(self, name: str, chunks: Iterable[Buffer], durable: bool = True) -> bool:
        target = self.root / name
        with self._told(target):
            if target.exists():
                # Fresh, it is not swept before our manifest names it; its first writer may have yet to sync.
                self.disk.touch(target)
                first = False
            else:
                first = self._write(target, chunks, durable)
            if durable:
                self.disk.sync_folder(target.parent)
        return first

    def _write(self, target: Path, chunks: Iterable[Buffer], durable: bool) -> bool:
        temporary = target.with_name(f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(6)}")
        try:
            try:
                file = self.disk.create(temporary)
            except FileNotFoundError:
                self._make_folder(target.parent)
                file = self.disk.create(temporary)
            try:
                self.disk.write(file, chunks)
                if durable:
                    self.disk.sync(file)
            finally:
                os.close(file)
            try:
                self.disk.link(temporary, target)
            except FileExistsError:
                # Over NFS the reply to a successful link can be lost and the repeated call refused.
                return os.stat(temporary).st_nlink == 2
            return True
        finally:
            with contextlib.suppress(OSError):
                self.disk.unlink(temporary)

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            self._make_folder(folder.parent)
            self.disk.make_folder(folder)
            self.disk.sync_folder(folder.parent)

    def get(self, name: str) -> bytes:
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"{self.root / name} cannot be read: {error.strerror or error}") from error

    def exists(self, name: str) -> bool:
        return os.path.exists(f"{self.root}/{name}")

    def list(self, folder: str) -> list[str]:
        try:
            names = os.listdir(f"{self.root}/{folder}")
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StoreError(f"{self.root / folder} cannot be listed: {error.strerror or error}") from error
        return sorted(name for name in names if not name.startswith(TEMPORARY))

    def delete(self, name: str) -> None:
        with self._told(self.root / name):
            self.disk.unlink(self.root / name)

    def move(self, name: str, target: str) -> None:
        with self._told(self.root / target):
            self._make_folder((self.root / target).parent)
            self.disk.rename(self.root / name, self.root / target)
            self.disk.touch(self.root / target)

    def stat(self, name: str) -> Stat | None:
        try:
            found = os.stat(self.root / name)
        except FileNotFoundError:
            return None
        return Stat(found.st_size, found.st_mtime)

    def now(self) -> float:
        probe = self.root / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(6)}"
        with self._told(probe):
            try:
                os.close(self.disk.create(probe))
                return probe.stat().st_mtime
            finally:
                with contextlib.suppress(OSError):
                    self.disk.unlink(probe)

    def unfinished(self) -> Iterator[str]:
        for folder, _, names in os.walk(self.root):
            for name in names:
                if name.startswith(TEMPORARY):
                    yield (Path(folder) / name).relative_to(self.root).as_posix()

    def path(self, name: str) -> Path:
        return self.root / name

    @contextlib.contextmanager
    def _told(self, target: Path) -> Iterator[None]:
        """Turn a system error into one message that says what to do."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                advice = (
                    f"no space left for the store at {self.root} (writing {target.name}); nothing stored was "
                    "harmed: free some space (`isoloss store gc` shows what can go) and run again"
                )
            elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTSUP):
                advice = (
                    f"the store at {self.root} cannot be written ({error.strerror}: {target}); nothing "
                    "stored was harmed: check permissions and that the file system has hard links, or use "
                    "another folder"
                )
            else:
                advice = f"the store at {self.root} failed at {target}: {error.strerror or error}"
            raise StoreError(advice) from error
