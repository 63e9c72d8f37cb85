"""Object storage as a backend: `put_new` is a conditional put, told apart by who wrote what is there.

A request may be carried out and its reply lost, be repeated by the client library, or arrive late. So every put
carries a writer's token in the object's metadata: after an unclear answer, or "there already" (which is also the
answer to the repetition of a put of one's own), the object is asked who wrote it.
"""

from __future__ import annotations

import errno
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

from isoloss.recipe.errors import StoreError
from isoloss.store.backend import TEMPORARY, Buffer, Stat

ATTEMPTS = 6
LARGE = 1 << 23
"""Bytes from which it pays to ask whether an object is there before sending it."""
FRESH = 600.0
"""Seconds for which an object counts as young without being written again; far below the grace period of `gc`."""
LISTED_AT_ONCE = 100
"""Look-ups from which it pays to list a folder instead: a listing answers for a thousand names."""
PROVEN = "format.json"


class Taken(Exception):
    """There is an object of this name already."""


class Unclear(StoreError):
    """The request may have been carried out, or may yet be."""


class Found(NamedTuple):
    """An object: bytes, time of writing and the present on the server's clock, and who wrote it."""

    size: int
    written: float
    now: float
    writer: str | None


class Upload(NamedTuple):
    """An upload in parts that was begun and not finished."""

    key: str
    id: str
    begun: float


class Bucket(Protocol):
    """The requests to a bucket, one method each, so that a test can fail any of them.

    All raise StoreError with one clear line, and FileNotFoundError where the object is missing.
    """

    address: str
    """Scheme, end point and bucket: what tells two stores apart."""

    def create(self, key: str, chunks: Sequence[Buffer], writer: str) -> None:
        """Put an object if there is none. Raises Taken, Unclear."""

    def get(self, key: str) -> bytes: ...

    def head(self, key: str) -> Found | None: ...

    def list(self, prefix: str, deep: bool) -> Iterator[str]:
        """Keys that begin with a prefix; not `deep`: up to the next `/`, which then ends them."""

    def delete(self, key: str) -> None: ...

    def copy(self, key: str, target: str) -> None: ...

    def freshen(self, key: str, found: Found) -> None:
        """Write an object again as it is, so that the time of writing is the present."""

    def now(self) -> float: ...

    def uploads(self, prefix: str) -> Iterator[Upload]: ...

    def abort(self, upload: Upload) -> None: ...


class ObjectBackend:
    """Names below a prefix of a bucket: see `Backend`.

    `pause(seconds)` waits between attempts. Raises StoreError where the service does not refuse to overwrite.
    """

    parallel = 16

    def __init__(self, url: str, prefix: str, bucket: Bucket, pause: Callable[[float], None] = time.sleep) -> None:
        self.bucket = bucket
        self._url = url
        self._prefix = f"{prefix}/" if prefix else ""
        self._pause = pause
        self._proven = False

    def put_new(self, name: str, chunks: Iterable[Buffer], durable: bool = True) -> bool:
        self._prove()
        key, chunks = self._prefix + name, tuple(chunks)
        if sum(len(chunk) for chunk in chunks) >= LARGE and self._there(key) is not None:
            return False
        writer = secrets.token_hex(16)
        trouble: Exception = Taken()
        for attempt in range(ATTEMPTS):
            if attempt:
                self._pause(0.1 * 2**attempt)
            try:
                self.bucket.create(key, chunks, writer)
                return True
            except (Taken, Unclear) as error:
                trouble = error
            if (found := self._there(key)) is not None:
                return found.writer == writer
        if isinstance(trouble, Unclear):
            raise trouble
        raise StoreError(f"{self.where(name)} comes and goes: somebody else makes and removes it; try again")

    def _there(self, key: str) -> Found | None:
        """An object that is there to stay: made young, it is not swept before our manifest names it."""
        found = self.bucket.head(key)
        if found is not None and found.now - found.written > FRESH:
            try:
                self.bucket.freshen(key, found)
            except FileNotFoundError:
                return None
        return found

    def _prove(self) -> None:
        """Check once that a second put is refused: some services ignore the condition, and silently overwrite."""
        if self._proven:
            return
        key = self._prefix + PROVEN
        try:
            content = self.bucket.get(key)
        except FileNotFoundError:
            return
        try:
            self.bucket.create(key, (content,), secrets.token_hex(16))
        except Taken:
            self._proven = True
            return
        raise StoreError(
            f"{self._url} cannot hold a store: the service overwrites where it was asked not to (conditional put); "
            "use a service that has it, or a folder"
        )

    def get(self, name: str) -> bytes:
        try:
            return self.bucket.get(self._prefix + name)
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, "missing", self.where(name)) from None

    def exists(self, name: str) -> bool:
        return self.bucket.head(self._prefix + name) is not None

    def present(self, folder: str, names: Collection[str]) -> set[str]:
        if len(names) > LISTED_AT_ONCE:
            return set(names) & set(self.walk(folder))
        with ThreadPoolExecutor(self.parallel) as pool:
            return {name for name, there in zip(names, pool.map(self.exists, names), strict=True) if there}

    def list(self, folder: str) -> list[str]:
        prefix = self._prefix + (f"{folder}/" if folder else "")
        names = {key[len(prefix) :].rstrip("/") for key in self.bucket.list(prefix, deep=False)}
        return sorted(names - {""})

    def walk(self, folder: str) -> Iterator[str]:
        for key in self.bucket.list(f"{self._prefix}{folder}/", deep=True):
            # What some tools leave to stand for a folder is no file.
            if not key.endswith("/"):
                yield key[len(self._prefix) :]

    def delete(self, name: str) -> None:
        if name.startswith(TEMPORARY):
            if (upload := self._upload(name)) is not None:
                self.bucket.abort(upload)
            return
        self.bucket.delete(self._prefix + name)

    def move(self, name: str, target: str) -> None:
        try:
            self.bucket.copy(self._prefix + name, self._prefix + target)
        except FileNotFoundError:
            # Somebody else has moved it, or our own request was repeated.
            if not self.exists(target):
                raise StoreError(f"{self.where(name)} is missing") from None
        self.bucket.delete(self._prefix + name)

    def stat(self, name: str) -> Stat | None:
        if name.startswith(TEMPORARY):
            upload = self._upload(name)
            return Stat(0, upload.begun) if upload else None
        found = self.bucket.head(self._prefix + name)
        return Stat(found.size, found.written) if found else None

    def now(self) -> float:
        return self.bucket.now()

    def unfinished(self) -> Iterator[str]:
        for upload in self.bucket.uploads(self._prefix):
            yield f"{TEMPORARY}{upload.id}/{upload.key[len(self._prefix) :]}"

    def _upload(self, name: str) -> Upload | None:
        id_, _, key = name.removeprefix(TEMPORARY).partition("/")
        return next((u for u in self.bucket.uploads(self._prefix + key) if u.id == id_), None)

    def where(self, name: str) -> str:
        return f"{self._url}/{name}" if name else self._url


def parts(chunks: Iterable[Buffer], size: int) -> Iterator[bytes]:
    """The same bytes in pieces of `size`, the last one shorter."""
    held: list[Buffer] = []
    length = 0
    for chunk in chunks:
        view = memoryview(chunk).cast("B")
        while length + len(view) >= size:
            held.append(view[: size - length])
            yield b"".join(held)
            view = view[size - length :]
            held, length = [], 0
        held.append(view)
        length += len(view)
    if length:
        yield b"".join(held)
