"""Where the bytes lie: a handful of operations that a file system (here) or object storage (objects.py) can offer.

Everything above relies on one promise only: `put_new` makes a name appear with its whole content, or not at
all, and exactly one of several writers of a name is told that it was the first.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from isoloss.recipe.errors import StoreError

Buffer = bytes | bytearray | memoryview
TEMPORARY = ".tmp-"
# ESTALE: over NFS, another machine removed what this one had looked up.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


class Stat(NamedTuple):
    """Size in bytes and time of last writing (seconds, on the clock of `Backend.now`)."""

    size: int
    written: float


class Backend(Protocol):
    """Names are relative, with `/` between folders; all names are written once and never changed.

    A listing and a look-up may be late: they may miss what another machine has just written, or still show what it
    has removed. `put_new` is never late.
    """

    parallel: int
    """How many requests are worth making at once; 1 where waiting for one takes no time."""

    def put_new(self, name: str, chunks: Iterable[Buffer], durable: bool = True) -> bool:
        """Write `name` if it does not exist: True if this call made it. Raises StoreError."""

    def get(self, name: str) -> bytes:
        """Whole content. Raises FileNotFoundError, or StoreError where it cannot be read."""

    def exists(self, name: str) -> bool:
        """Whether `name` has appeared."""

    def present(self, folder: str, names: Collection[str]) -> set[str]:
        """Those of `names`, all of them below `folder`, that have appeared."""

    def list(self, folder: str) -> list[str]:
        """Names directly inside a folder, sorted, unfinished ones left out; none where it is missing."""

    def walk(self, folder: str) -> Iterator[str]:
        """Names of all files below a folder, seen from the root, unfinished ones left out."""

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

    def where(self, name: str) -> str:
        """Full path or URL of a name, for messages."""


class Disk:
    """The system calls, one method each, so that a test can fail any of them or answer as a remote disk would."""

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

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def stat(self, path: Path) -> os.stat_result:
        return os.stat(path)

    def scan(self, path: str) -> list[tuple[str, bool]]:
        """(name, whether it is a folder) of what lies in a folder."""
        with os.scandir(path) as entries:
            return [(entry.name, entry.is_dir()) for entry in entries]

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def links(self, path: Path) -> int:
        """Number of names of a file, after opening it: NFS asks the server then, where `stat` may remember."""
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_nlink

    def sync_folder(self, path: Path) -> None:
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class PosixBackend:
    """A folder on a file system with hard links (local disks, NFS): see `Backend`."""

    parallel = 1

    def __init__(self, root: Path, disk: Disk | None = None) -> None:
        self.root = root
        self.disk = disk or Disk()

    def put_new(self, name: str, chunks: Iterable[Buffer], durable: bool = True) -> bool:
        target = self.root / name
        with self._told(target):
            first = not self._freshen(target) and self._write(target, chunks, durable)
            if durable:
                self.disk.sync_folder(target.parent)
        return first

    def _freshen(self, target: Path) -> bool:
        """Whether a name is there, made young: it is not swept before our manifest names it."""
        if not self.disk.exists(str(target)):
            return False
        try:
            self.disk.touch(target)
        except PermissionError:
            pass  # another user's file; the grace period counts from when it was written
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return False  # over NFS a name may be remembered that the server no longer has
        return True

    def _write(self, target: Path, chunks: Iterable[Buffer], durable: bool) -> bool:
        try:
            file, temporary = self._temporary(target.parent)
        except FileNotFoundError:
            self._make_folder(target.parent)
            file, temporary = self._temporary(target.parent)
        try:
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
                return self.disk.links(temporary) == 2
            return True
        finally:
            with contextlib.suppress(OSError):
                self.disk.unlink(temporary)

    def _temporary(self, folder: Path) -> tuple[int, Path]:
        def draw() -> Path:
            return folder / f"{TEMPORARY}{os.getpid()}-{secrets.token_hex(6)}"

        temporary = draw()
        try:
            return self.disk.create(temporary), temporary
        except FileExistsError:
            # Nobody else has drawn this name: over NFS, the reply to our own call was lost.
            temporary = draw()
            return self.disk.create(temporary), temporary

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            self._make_folder(folder.parent)
            self.disk.make_folder(folder)
            self.disk.sync_folder(folder.parent)

    def get(self, name: str) -> bytes:
        try:
            return self.disk.read(self.root / name)
        except OSError as error:
            if error.errno in _GONE:
                raise FileNotFoundError(errno.ENOENT, "missing", self.where(name)) from error
            raise StoreError(f"{self.root / name} cannot be read: {error.strerror or error}") from error

    def exists(self, name: str) -> bool:
        return self.disk.exists(f"{self.root}/{name}")

    def present(self, folder: str, names: Collection[str]) -> set[str]:
        return {name for name in names if self.exists(name)}

    def walk(self, folder: str) -> Iterator[str]:
        for name, is_folder in sorted(self._scan(folder)):
            inside = f"{folder}/{name}" if folder else name
            if is_folder:
                yield from self.walk(inside)
            else:
                yield inside

    def _scan(self, folder: str) -> list[tuple[str, bool]]:
        try:
            found = self.disk.scan(f"{self.root}/{folder}")
        except OSError as error:
            if error.errno in _GONE:
                return []
            raise StoreError(f"{self.root / folder} cannot be listed: {error.strerror or error}") from error
        return [(name, is_folder) for name, is_folder in found if not name.startswith(TEMPORARY)]

    def list(self, folder: str) -> list[str]:
        return sorted(name for name, _ in self._scan(folder))

    def delete(self, name: str) -> None:
        with self._told(self.root / name):
            self.disk.unlink(self.root / name)

    def move(self, name: str, target: str) -> None:
        with self._told(self.root / target):
            self._make_folder((self.root / target).parent)
            try:
                self.disk.rename(self.root / name, self.root / target)
            except FileNotFoundError:
                # Over NFS the reply to a successful rename can be lost and the repeated call refused.
                if not self.disk.exists(f"{self.root}/{target}"):
                    raise
            self.disk.touch(self.root / target)

    def stat(self, name: str) -> Stat | None:
        try:
            found = self.disk.stat(self.root / name)
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise StoreError(f"{self.root / name} cannot be read: {error.strerror or error}") from error
        return Stat(found.st_size, found.st_mtime)

    def now(self) -> float:
        with self._told(self.root / TEMPORARY):
            file, probe = self._temporary(self.root)
            os.close(file)
            try:
                return self.disk.stat(probe).st_mtime
            finally:
                with contextlib.suppress(OSError):
                    self.disk.unlink(probe)

    def unfinished(self) -> Iterator[str]:
        for folder, _, names in os.walk(self.root):
            for name in names:
                if name.startswith(TEMPORARY):
                    yield (Path(folder) / name).relative_to(self.root).as_posix()

    def where(self, name: str) -> str:
        return str(self.root / name)

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
