"""Files a user names: what patterns mean, reading plain and compressed, content hashes."""

from __future__ import annotations

import bz2
import glob
import gzip
import hashlib
import json
import lzma
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from isoloss.recipe.errors import StudyError, nearest

CHUNK = 1 << 20
_OPENERS: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_REMEMBERED_FROM = 8 * 2**20
# A file changed within this time before it was read may change again without a new time stamp.
_SETTLED_AFTER_NS = 2 * 10**9


def find(option: str, patterns: Sequence[str]) -> dict[str, Path]:
    """Files that ``patterns`` (files, folders, globs) name: stable name -> path, sorted by name.

    The stable name is the path below the folder or below the fixed part of the glob, the bare name for a
    single file, without ``.gz``, ``.bz2`` or ``.xz``; hidden files inside folders are left out. Raises
    ``StudyError`` for a pattern without files.
    """
    found: dict[str, Path] = {}
    seen: set[Path] = set()
    for pattern in patterns:
        place = path_of(option, pattern)
        pairs = sorted(_expand(option, place))
        for name, path in pairs:
            resolved = path.resolve()
            if resolved in seen:
                continue
            seen.add(resolved)
            plain = name.removesuffix(path.suffix) if path.suffix in _OPENERS else name
            unique, k = plain, 2
            while unique in found:
                unique, k = f"{plain}#{k}", k + 1
            found[unique] = path
    return dict(sorted(found.items()))


def path_of(option: str, text: str) -> Path:
    """``text`` as a path, ``~`` expanded; raises ``StudyError`` where the system refuses to look."""
    try:
        place = Path(text).expanduser()
        place.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise StudyError(f"data.{option}: cannot look at {text!r}: {error}") from error
    return place


def missing(option: str, place: Path) -> StudyError:
    """The error for a path where nothing is, with the nearest name that is there."""
    try:
        siblings = os.listdir(place.parent)
    except (OSError, ValueError):
        siblings = []
    hint = nearest(place.name, siblings) or (
        f"; what a study does not find beside itself is looked for in ISOLOSS_DATA "
        f"({os.environ.get('ISOLOSS_DATA') or 'not set'})"
    )
    return StudyError(f"data.{option}: there is no file or folder {place}{hint}")


def _expand(option: str, place: Path) -> list[tuple[str, Path]]:
    if place.is_file():
        return [(place.name, place)]
    if place.is_dir():
        pairs = [(path.relative_to(place).as_posix(), path) for path in _walk(place)]
        if not pairs:
            raise StudyError(f"data.{option}: the folder {place} holds no files (empty corpus)")
        return pairs
    if glob.has_magic(str(place)):
        root = Path(*_fixed_part(place.parts))
        matches = [Path(match) for match in glob.glob(str(place), recursive=True)]
        pairs = [(path.relative_to(root).as_posix(), path) for path in matches if path.is_file()]
        if not pairs:
            raise StudyError(f"data.{option}: no file matches {place} (empty corpus)")
        return pairs
    raise missing(option, place)


def _fixed_part(parts: Sequence[str]) -> list[str]:
    fixed = []
    for part in parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return fixed


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in files if not name.startswith(".") and Path(place, name).is_file())


def read(path: Path, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """Bytes [start, stop) of the (decompressed) file in chunks; raises ``StudyError``."""
    try:
        with _open(path) as stream:
            if start:
                stream.seek(start)
            left = -1 if stop is None else stop - start
            while left and (chunk := stream.read(CHUNK if left < 0 else min(CHUNK, left))):
                yield chunk
                if left > 0:
                    left -= len(chunk)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise StudyError(f"data: cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _open(path: Path) -> IO[bytes]:
    opener = _OPENERS.get(path.suffix)
    return opener(path) if opener else open(path, "rb")


def stamp(path: Path) -> tuple[int, int, int]:
    """Size, time of change (ns) and inode; raises ``StudyError``."""
    try:
        stat = path.stat()
    except OSError as error:
        raise StudyError(f"data: cannot read {path}: {error.strerror}") from error
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def content_facts(path: Path, cache: Path) -> dict[str, Any]:
    """``sha256`` and ``bytes`` of the decompressed content."""

    def measure() -> dict[str, Any]:
        content, size = hashlib.sha256(), 0
        for chunk in read(path):
            content.update(chunk)
            size += len(chunk)
        return {"sha256": content.hexdigest(), "bytes": size}

    return remembered(path, cache, "content", measure)


def remembered(path: Path, cache: Path, kind: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """``measure()``, or its last result where a large file kept size, time stamp and inode."""
    size, changed, inode = stamp(path)
    if size < _REMEMBERED_FROM:
        return measure()
    place = str(path.resolve())
    known = [place, kind, size, changed, inode]
    note = cache / "fingerprints" / (hashlib.sha256(f"{place}\0{kind}".encode()).hexdigest() + ".json")
    try:
        stored = json.loads(note.read_text(encoding="utf-8"))
        if stored["stamp"] == known:
            return dict(stored["facts"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    began = time.time_ns()
    facts = measure()
    if began - changed > _SETTLED_AFTER_NS:
        _write_note(note, {"stamp": known, "facts": facts})
    return facts


def _write_note(note: Path, content: dict[str, Any]) -> None:
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=note.parent, suffix=".tmp")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file)
        os.replace(temporary, note)
    except OSError:
        # Only a shortcut: without it the file is hashed again.
        return
