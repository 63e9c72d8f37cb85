"""Where a store may be: a folder, a URL of object storage, or (to be read only) a file of measurements."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from isoloss.recipe.errors import StoreError
from isoloss.store.backend import Backend, PosixBackend
from isoloss.store.cache import BlobCache, cache_bytes, cache_folder
from isoloss.store.objects import ObjectBackend
from isoloss.store.packed import SUFFIX, PackedBackend

_SCHEMES = ("s3", "gs")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(/?)(.*)")


class Url(NamedTuple):
    """Object storage: `prefix` is "" for a whole bucket."""

    scheme: str
    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")


class Opened(NamedTuple):
    """A place with its backend; `index_folder`: where its index may live, on this machine (None: in memory)."""

    location: str
    backend: Backend
    index_folder: Path | None
    remote: bool


def parse(place: str | Path) -> Path | Url:
    """A folder, made absolute, or a URL. Raises StoreError on any URL but s3:// and gs://."""
    found = _URL.fullmatch(str(place))
    # A `Path` makes one slash of two.
    if found is None or not (found[2] or found[1] in _SCHEMES):
        return Path(place).expanduser().resolve()
    scheme, _, rest = found.groups()
    if scheme not in _SCHEMES:
        known = ", ".join(f"{name}://bucket/prefix" for name in _SCHEMES)
        raise StoreError(f"a store cannot be at {place}; allowed: a folder, or {known}")
    bucket, _, prefix = rest.strip("/").partition("/")
    if not bucket or any(part in ("", ".", "..") for part in prefix.split("/") if prefix):
        raise StoreError(f"{place} names no place for a store; allowed: {scheme}://bucket/prefix")
    return Url(scheme, bucket, prefix)


def opened(place: str | Path, backend: Callable[[Any], Backend] | None = None) -> Opened:
    """A place with its backend (`backend` makes another one of the parsed place). Raises StoreError."""
    where = parse(place)
    if isinstance(where, Path):
        if where.suffix == SUFFIX:
            return Opened(str(where), PackedBackend(where), None, False)
        return Opened(str(where), (backend or PosixBackend)(where), where / "index", False)
    made = (backend or object_backend)(where)
    address = made.bucket.address if isinstance(made, ObjectBackend) else ""
    known = hashlib.sha256(f"{where} {address}".encode()).hexdigest()[:16]
    return Opened(str(where), made, cache_folder() / "stores" / known / "index", True)


def object_backend(url: Url) -> ObjectBackend:
    """A bucket that is there already. Raises StoreError where the package for it is missing."""
    if url.scheme == "s3":
        from isoloss.store.s3 import S3Bucket

        return ObjectBackend(str(url), url.prefix, S3Bucket(url.bucket))
    from isoloss.store.gcs import GcsBucket

    return ObjectBackend(str(url), url.prefix, GcsBucket(url.bucket))


def blob_cache() -> BlobCache | None:
    """Copies of what lies far away; None where the user wants none."""
    limit = cache_bytes()
    return _blob_cache(cache_folder() / "blobs", limit) if limit else None


@functools.cache
def _blob_cache(folder: Path, limit: int) -> BlobCache:
    return BlobCache(folder, limit)


def has_store(place: str | Path) -> bool:
    """Whether there is anything to open at a place. Raises StoreError where that cannot be told."""
    where = parse(place)
    if isinstance(where, Path):
        return where.exists()
    try:
        object_backend(where).get("format.json")
    except FileNotFoundError:
        return False
    return True
