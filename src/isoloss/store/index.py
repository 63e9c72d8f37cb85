"""A SQLite index over the manifests of one store: only ever a copy, so it may be deleted at any time.

A damaged or deleted index is replaced by one of the next generation (a new file name): a name that another
process may hold open is never used again. SQLite does not notice a flipped bit in a value, so rows have a check sum.
Where no file can be written, the index lives in memory. Every host has its own: processes on several machines must
not share a SQLite file.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from isoloss.store.pieces import Manifest
from isoloss.store.tables import Measurement

SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS pieces (
    piece TEXT PRIMARY KEY, start_key TEXT, end_key TEXT, start_update INTEGER, end_update INTEGER,
    status TEXT, detail TEXT, digest TEXT, bytes INTEGER, curve TEXT, measurements TEXT,
    track TEXT, offset INTEGER, seconds REAL, seal INTEGER) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS pieces_end ON pieces (end_key);
CREATE INDEX IF NOT EXISTS pieces_track ON pieces (track);
CREATE INDEX IF NOT EXISTS pieces_digest ON pieces (digest);
CREATE TABLE IF NOT EXISTS sides (
    end_key TEXT, observer TEXT, digest TEXT, bytes INTEGER, seal INTEGER,
    PRIMARY KEY (end_key, observer)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS sides_digest ON sides (digest);
CREATE TABLE IF NOT EXISTS measurements (
    key TEXT, name TEXT, at INTEGER, value TEXT, piece TEXT, seal INTEGER, PRIMARY KEY (key, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS conflicts (key TEXT, what TEXT, UNIQUE (key, what));
"""
_PATIENCE = 20.0
T = TypeVar("T")
P = ParamSpec("P")
# Closing a connection in a forked child could disturb the parent's, so the child keeps it, unused.
_inherited: list[sqlite3.Connection] = []


class Row(NamedTuple):
    """One piece in the index; `bytes` is the size of its state, the last two are names of tables."""

    piece: str
    start_key: str
    end_key: str
    start_update: int
    end_update: int
    status: str
    detail: str
    digest: str | None
    bytes: int
    curve: str | None
    measurements: str | None
    track: str
    offset: int
    seconds: float


_COLUMNS = ", ".join([*Row._fields, "seal"])


def _recovering(
    method: Callable[Concatenate[Index, P], T],
) -> Callable[Concatenate[Index, P], T]:
    """Make a look-up survive a damaged or unwritable index: rebuild, then do it again."""

    @functools.wraps(method)
    def recovered(self: Index, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self._lock:
            try:
                return method(self, *args, **kwargs)
            except sqlite3.DatabaseError as error:
                self._recover(error)
                return method(self, *args, **kwargs)

    return recovered


class Index:
    """Look-ups over the pieces of one store; safe for several threads and processes."""

    def __init__(self, folder: Path | None, refill: Callable[[], None], name: str = "index") -> None:
        """Index in the newest file of `folder` (None: in memory), opened when first used.

        `refill` is called whenever a file was opened, to ingest what it lacks.
        """
        self._folder = folder
        self._refill = refill
        host = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
        self._stem = f"{name}-{host}-v{SCHEMA_VERSION}"
        self._pattern = re.compile(re.escape(self._stem) + r"-(\d{6})\.sqlite")
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._process = 0

    @property
    def in_memory(self) -> bool:
        """Whether there is no file behind this index."""
        return self._folder is None

    def close(self) -> None:
        """Close the connection; the next look-up opens it again."""
        with self._lock:
            if self._connection is not None and self._process == os.getpid():
                self._connection.close()
                self._connection = None

    def rebuild(self) -> None:
        """Start an index of the next generation and fill it."""
        self.discard()
        self._refill()

    def discard(self) -> None:
        """Start an empty index of the next generation."""
        with self._lock:
            self.close()
            self._open(self._newest() + 1)

    def generations(self) -> list[Path]:
        """Files of all generations, oldest first."""
        if self._folder is None or not self._folder.is_dir():
            return []
        return sorted(path for path in self._folder.iterdir() if self._pattern.fullmatch(path.name))

    def replaced(self) -> list[Path]:
        """Files of all generations but the newest."""
        named = [path.with_name(path.name + end) for path in self.generations()[:-1] for end in ("", "-wal", "-shm")]
        return [path for path in named if path.exists()]

    def _recover(self, error: sqlite3.DatabaseError) -> None:
        # Operational errors (no space, read-only, locked for long) are no damage: do without a file.
        if isinstance(error, sqlite3.OperationalError):
            self._folder = None
        self.rebuild()

    def _newest(self) -> int:
        files = self.generations()
        found = self._pattern.fullmatch(files[-1].name) if files else None
        return int(found[1]) if found else 0

    def _open(self, generation: int) -> None:
        if self._folder is not None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                path = self._folder / f"{self._stem}-{generation:06d}.sqlite"
                self._connect(str(path))
                return
            except (OSError, sqlite3.OperationalError):
                self._folder = None
        self._connect(":memory:")

    def _connect(self, path: str) -> None:
        # Transactions are begun by hand; the lock makes one connection fit for several threads.
        connection = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA synchronous=NORMAL")
            deadline = time.monotonic() + _PATIENCE
            while True:
                try:
                    connection.execute("PRAGMA journal_mode=WAL")
                    connection.executescript(_SCHEMA)
                    break
                except sqlite3.OperationalError as error:
                    # Switching a new file to WAL does not wait for other processes that do the same.
                    if "locked" not in str(error) or time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)
            connection.execute("PRAGMA temp_store=MEMORY")
            connection.execute("CREATE TEMP TABLE wanted (key TEXT PRIMARY KEY) WITHOUT ROWID")
        except BaseException:
            connection.close()
            raise
        self._connection, self._process = connection, os.getpid()

    @property
    def _database(self) -> sqlite3.Connection:
        if self._connection is not None and self._process != os.getpid():
            _inherited.append(self._connection)
            self._connection = None
        if self._connection is None:
            try:
                self._open(max(self._newest(), 1))
            except sqlite3.DatabaseError:
                self._open(self._newest() + 1)
            self._refill()
        assert self._connection is not None
        return self._connection

    @_recovering
    def ingest(self, entries: Sequence[tuple[Manifest, Sequence[Measurement]]]) -> None:
        """Add pieces; what contradicts an earlier one is noted as a conflict and the earlier one stays."""
        db = self._database
        db.execute("BEGIN IMMEDIATE")
        try:
            for manifest, measurements in entries:
                _ingest(db, manifest, measurements)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    @_recovering
    def known_pieces(self) -> set[str]:
        """Ids of all pieces in the index."""
        return {piece for (piece,) in self._database.execute("SELECT piece FROM pieces")}

    @_recovering
    def pieces_at(self, end_key: str) -> list[Row]:
        """Pieces that end at a key, the longest first."""
        query = f"SELECT {_COLUMNS} FROM pieces WHERE end_key=? ORDER BY start_update, piece"
        return [Row(*_whole(row)) for row in self._database.execute(query, (end_key,))]

    @_recovering
    def pieces(self) -> list[Row]:
        """All pieces, ordered by the update they end at."""
        query = f"SELECT {_COLUMNS} FROM pieces ORDER BY end_update, end_key, piece"
        return [Row(*_whole(row)) for row in self._database.execute(query)]

    @_recovering
    def piece(self, piece: str) -> Row | None:
        """One piece by its id."""
        query = f"SELECT {_COLUMNS} FROM pieces WHERE piece=?"
        row = self._database.execute(query, (piece,)).fetchone()
        return Row(*_whole(row)) if row else None

    @_recovering
    def sides_at(self, key: str) -> dict[str, str]:
        """Digest of each observer's state at a key."""
        query = "SELECT * FROM sides WHERE end_key=?"
        return {observer: digest for _, observer, digest, _ in map(_whole, self._database.execute(query, (key,)))}

    @_recovering
    def side_digests(self) -> list[tuple[str, str]]:
        """(key, digest) of all observer states."""
        return [(key, digest) for key, _, digest, _ in map(_whole, self._database.execute("SELECT * FROM sides"))]

    @_recovering
    def measurements_at(self, key: str) -> dict[str, tuple[int, str, str]]:
        """(update, value as float.hex, piece) by name at one key."""
        found = self._database.execute("SELECT * FROM measurements WHERE key=?", (key,))
        return {name: (at, value, piece) for _, name, at, value, piece in map(_whole, found)}

    @_recovering
    def measurements(self, keys: Collection[str]) -> list[tuple[str, str, str]]:
        """(key, name, value as float.hex) for all of `keys`."""
        query = "SELECT m.* FROM wanted w CROSS JOIN measurements m ON m.key = w.key"
        with self._wanted(keys) as db:
            return [(key, name, value) for key, name, _, value, _ in map(_whole, db.execute(query))]

    @_recovering
    def digests(self, keys: Collection[str]) -> dict[str, str]:
        """Digest of the state at each of `keys` that was reached."""
        query = "SELECT p.end_key, p.digest FROM wanted w CROSS JOIN pieces p ON p.end_key = w.key"
        with self._wanted(keys) as db:
            return dict(db.execute(f"{query} WHERE p.digest NOTNULL").fetchall())

    @contextmanager
    def _wanted(self, keys: Collection[str]) -> Iterator[sqlite3.Connection]:
        db = self._database
        db.execute("BEGIN")
        try:
            db.executemany("INSERT OR IGNORE INTO wanted VALUES (?)", ((key,) for key in sorted(keys)))
            yield db
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")

    @_recovering
    def on_tracks(self, tracks: Collection[str]) -> list[Row]:
        """Pieces on any of `tracks`."""
        query = f"SELECT {_COLUMNS} FROM wanted w CROSS JOIN pieces p ON p.track = w.key"
        with self._wanted(tracks) as db:
            return [Row(*_whole(row)) for row in db.execute(query)]

    @_recovering
    def observers_at(self, keys: Collection[str]) -> list[tuple[str, str, str]]:
        """(key, observer, digest) of the observer states at `keys`."""
        query = "SELECT s.* FROM wanted w CROSS JOIN sides s ON s.end_key = w.key"
        with self._wanted(keys) as db:
            return [(key, observer, digest) for key, observer, digest, _ in map(_whole, db.execute(query))]

    @_recovering
    def states_with(self, digest: str) -> set[str]:
        """Keys whose state has this digest."""
        query = "SELECT end_key FROM pieces WHERE digest=?"
        return {key for (key,) in self._database.execute(query, (digest,))}

    @_recovering
    def users_of(self, digest: str) -> set[str]:
        """Keys whose state, or an observer's state there, has this digest."""
        query = "SELECT end_key FROM pieces WHERE digest=?1 UNION SELECT end_key FROM sides WHERE digest=?1"
        return {key for (key,) in self._database.execute(query, (digest,))}

    @_recovering
    def all_measurements(self) -> set[tuple[str, str, str]]:
        """(key, name, value as float.hex) of everything measured."""
        found = self._database.execute("SELECT * FROM measurements")
        return {(key, name, value) for key, name, _, value, _ in map(_whole, found)}

    @_recovering
    def conflicts(self) -> list[tuple[str, str]]:
        """(key, what differed) between pieces that should agree."""
        return self._database.execute("SELECT key, what FROM conflicts ORDER BY key, what").fetchall()


def _ingest(db: sqlite3.Connection, manifest: Manifest, measurements: Sequence[Measurement]) -> None:
    key = manifest.end_key
    if db.execute("SELECT 1 FROM pieces WHERE piece=?", (manifest.piece,)).fetchone():
        return
    conflicts = []
    if manifest.digest:
        query = "SELECT DISTINCT digest FROM pieces WHERE end_key=? AND digest NOTNULL AND digest<>?"
        for (digest,) in db.execute(query, (key, manifest.digest)):
            conflicts.append((key, f"state digests {digest} and {manifest.digest}"))
    row = Row(
        piece=manifest.piece,
        start_key=manifest.start_key,
        end_key=key,
        start_update=manifest.start_update,
        end_update=manifest.end_update,
        status=manifest.status,
        detail=manifest.detail,
        digest=manifest.digest,
        bytes=manifest.state_bytes,
        curve=manifest.curve,
        measurements=manifest.measurements,
        track=manifest.track,
        offset=manifest.offset,
        seconds=float(manifest.seconds),
    )
    db.execute(f"INSERT INTO pieces VALUES ({', '.join('?' * (len(row) + 1))})", _sealed(*row))
    for observer, (digest, size) in manifest.sides.items():
        db.execute("INSERT OR IGNORE INTO sides VALUES (?, ?, ?, ?, ?)", _sealed(key, observer, digest, size))
        query = "SELECT digest FROM sides WHERE end_key=? AND observer=?"
        (kept,) = db.execute(query, (key, observer)).fetchone()
        if kept != digest:
            conflicts.append((key, f"states of observer {observer!r}: {kept} and {digest}"))
    for m in measurements:
        value = float(m.value).hex()
        fields = _sealed(m.key, m.name, m.update, value, manifest.piece)
        db.execute("INSERT OR IGNORE INTO measurements VALUES (?, ?, ?, ?, ?, ?)", fields)
        query = "SELECT value FROM measurements WHERE key=? AND name=?"
        (kept,) = db.execute(query, (m.key, m.name)).fetchone()
        if kept != value:
            old, new = float.fromhex(kept), float.fromhex(value)
            conflicts.append((m.key, f"measurement {m.name!r}: {old!r} and {new!r}"))
    db.executemany("INSERT OR IGNORE INTO conflicts VALUES (?, ?)", conflicts)


def _sealed(*values: Any) -> tuple[Any, ...]:
    """A row with its check sum."""
    return (*values, zlib.crc32(repr(values).encode()))


def _whole(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row without its check sum. Raises sqlite3.DatabaseError where they do not match."""
    if _sealed(*row[:-1]) != row:
        raise sqlite3.DatabaseError("a row of the index is damaged")
    return row[:-1]
