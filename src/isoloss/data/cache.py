"""Memory-mapped arrays on disk, addressed by what they were made from, and appearing at once.

An entry is a folder with ``train.bin``, ``held_out.bin`` and ``meta.json``. It is written under a temporary
name, every file is synchronised, and one rename publishes it, so that a reader sees a whole entry or none.
Two writers of one key make equal content; the second throws its own away. A damaged entry (size or hash
differ) is built again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from isoloss.recipe.errors import StudyError

SCHEMA = 1
PARTS = ("train", "held_out")
_HASHED_ON_OPENING = 64 * 2**20
_ABANDONED_AFTER = 24 * 3600


def cache_folder(cache: Path | str | None = None) -> Path:
    """The folder asked for, else ``ISOLOSS_CACHE``, else ``~/.cache/isoloss``."""
    chosen = cache or os.environ.get("ISOLOSS_CACHE") or Path.home() / ".cache" / "isoloss"
    return Path(chosen).expanduser()


@dataclass(frozen=True)
class Entry:
    """One cached corpus: read-only arrays and the facts stored with them."""

    train: np.ndarray
    held_out: np.ndarray
    meta: dict[str, Any]


class Writer:
    """Appends to the arrays of one entry; nothing is visible until ``publish``."""

    def __init__(self, folder: Path, dtype: np.dtype) -> None:
        self._folder = folder
        self._dtype = dtype
        self._files: dict[str, IO[bytes]] = {part: (folder / f"{part}.bin").open("wb") for part in PARTS}
        self._hashes = {part: hashlib.sha256() for part in PARTS}
        self._counts = dict.fromkeys(PARTS, 0)

    def append(self, part: str, tokens: np.ndarray) -> None:
        """Add ``tokens`` (integers that fit the entry's type) at the end of ``part``."""
        data = np.ascontiguousarray(tokens, dtype=self._dtype).view(np.uint8).data
        self._files[part].write(data)
        self._hashes[part].update(data)
        self._counts[part] += len(tokens)

    def count(self, part: str) -> int:
        """Tokens written to ``part`` so far."""
        return self._counts[part]

    def finish(self, meta: dict[str, Any]) -> None:
        """Write everything to the disk itself."""
        arrays = {p: {"count": self._counts[p], "sha256": self._hashes[p].hexdigest()} for p in PARTS}
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        content = {"schema": SCHEMA, "dtype": self._dtype.str, "arrays": arrays, "meta": meta}
        with open(self._folder / "meta.json", "w", encoding="utf-8") as notes:
            json.dump(content, notes)
            notes.flush()
            os.fsync(notes.fileno())

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()


def fetch(folder: Path, key: str, dtype: np.dtype, build: Callable[[Writer], dict[str, Any]]) -> Entry:
    """Open entry ``key`` below ``folder``; where it is missing or damaged, make it with ``build(writer)``.

    ``build`` appends the tokens and returns the facts to store. Raises ``StudyError`` where the folder cannot
    be written.
    """
    place = folder / "data" / key
    found = _open(place)
    if found is not None:
        return found
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _sweep(place.parent)
        if place.exists():
            _discard(place)
        temporary = Path(tempfile.mkdtemp(prefix=f"{key[:16]}.", suffix=".tmp", dir=place.parent))
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        with Writer(temporary, dtype) as writer:
            meta = build(writer)
            writer.finish(meta)
        _publish(temporary, place)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    found = _open(place)
    if found is None:
        raise StudyError(f"data: the cache entry {place} is damaged right after writing; check the disk")
    return found


def _publish(temporary: Path, place: Path) -> None:
    _synchronise(temporary)
    try:
        temporary.rename(place)
    except OSError:
        # Another process published the same key first: equal key, equal content.
        if _open(place) is None:
            raise
    _synchronise(place.parent)


def _synchronise(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open(place: Path) -> Entry | None:
    try:
        stored = json.loads((place / "meta.json").read_text(encoding="utf-8"))
        if stored["schema"] != SCHEMA:
            return None
        dtype = np.dtype(stored["dtype"])
        arrays = {}
        for part in PARTS:
            facts = stored["arrays"][part]
            path = place / f"{part}.bin"
            size = facts["count"] * dtype.itemsize
            if path.stat().st_size != size:
                return None
            arrays[part] = np.memmap(path, dtype=dtype, mode="r") if size else np.empty(0, dtype=dtype)
            if size <= _HASHED_ON_OPENING and _sha256(arrays[part]) != facts["sha256"]:
                return None
        return Entry(arrays["train"], arrays["held_out"], stored["meta"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.asarray(array).view(np.uint8).data).hexdigest()


def _discard(place: Path) -> None:
    # Renamed first: a rename is one step, a removal is not.
    aside = place.with_name(f"{place.name[:16]}.{os.getpid()}.tmp")
    place.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _sweep(folder: Path) -> None:
    oldest = time.time() - _ABANDONED_AFTER
    for path in folder.glob("*.tmp"):
        if path.stat().st_mtime < oldest:
            shutil.rmtree(path, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> StudyError:
    return StudyError(
        f"data: the cache folder {folder} cannot be written ({error.strerror or error}); "
        "choose another with the environment variable ISOLOSS_CACHE"
    )
