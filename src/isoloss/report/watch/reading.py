"""A store as a watcher reads it: what it gained since the last look. Nothing is ever written to it."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from isoloss.plan.memory import union
from isoloss.plan.needs import Stretch
from isoloss.recipe.errors import StoreError
from isoloss.store import Row, Store, places
from isoloss.store.backend import Backend, Buffer, PosixBackend, Stat
from isoloss.store.index import Index
from isoloss.store.layer import Layer
from isoloss.store.pieces import manifest_name


class ReadOnly:
    """A backend whose writes all fail; a store takes that as a place it may only read."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.parallel = inner.parallel

    def put_new(self, name: str, chunks: Iterable[Buffer], durable: bool = True) -> bool:
        raise self._refused(name)

    def delete(self, name: str) -> None:
        raise self._refused(name)

    def move(self, name: str, target: str) -> None:
        raise self._refused(name)

    def now(self) -> float:
        """This machine's clock: asking the place's own would take a file there."""
        return time.time()

    def get(self, name: str) -> bytes:
        return self._inner.get(name)

    def exists(self, name: str) -> bool:
        return self._inner.exists(name)

    def present(self, folder: str, names: Collection[str]) -> set[str]:
        return self._inner.present(folder, names)

    def list(self, folder: str) -> list[str]:
        return self._inner.list(folder)

    def walk(self, folder: str) -> Iterator[str]:
        return self._inner.walk(folder)

    def stat(self, name: str) -> Stat | None:
        return self._inner.stat(name)

    def unfinished(self) -> Iterator[str]:
        return self._inner.unfinished()

    def where(self, name: str) -> str:
        return self._inner.where(name)

    def _refused(self, name: str) -> StoreError:
        return StoreError(f"{self.where(name)}: a watched store is only read")


class Seen(NamedTuple):
    """A piece, and when it was written (seconds since 1970; 0 where it lay there before and that is costly to ask)."""

    row: Row
    written: float


class Reading:
    """The pieces of a store and of those below it; use from one thread."""

    def __init__(self, place: str | Path, under: Sequence[str | Path] = ()) -> None:
        """Raises StoreError where a place cannot be that of a store, or `under` is none."""
        self.location = str(places.parse(place))
        self._under = list(under)
        for base in self._under:
            Store(base, create=False, backend=_reading).close()
        self._store: Store | None = None
        self._pieces: dict[str, tuple[Layer, Seen]] = {}

    @property
    def store(self) -> Store | None:
        """The store; None until there is one."""
        return self._store

    def open(self) -> bool:
        """Whether there is a store by now. Raises StoreError where there is one that cannot be read."""
        if self._store is None:
            if not places.opened(self.location, _reading).backend.exists("format.json"):
                return False
            store = Store(self.location, under=self._under, create=False, backend=_reading)
            for layer in store.layers:
                layer.index = Index(None, layer.refresh)  # in memory: a file would lie in the store
            self._store = store
        return True

    def look(self) -> tuple[list[Seen], bool]:
        """(pieces not handed out before, whether what was handed out is void because pieces are gone).

        Raises StoreError where the store cannot be read now.
        """
        store = self._store
        if store is None:
            return [], False
        first = not self._pieces
        fresh: list[Seen] = []
        there: set[str] = set()
        for layer in store.layers:
            layer.refresh()
            there |= (ids := layer.index.known_pieces())
            for piece in sorted(ids - self._pieces.keys()):
                row = layer.index.piece(piece)
                if row is not None:
                    seen = Seen(row, self._written(layer, row, first))
                    self._pieces[piece] = layer, seen
                    fresh.append(seen)
        if len(there) < len(self._pieces):
            self._pieces = {piece: kept for piece, kept in self._pieces.items() if piece in there}
            return [seen for _, seen in self._pieces.values()], True
        return fresh, False

    def _written(self, layer: Layer, row: Row, first: bool) -> float:
        if layer.backend.parallel > 1 or not layer.writable:
            return 0.0 if first or not layer.writable else time.time()
        found = layer.backend.stat(manifest_name(row.end_key, row.piece))
        return found.written if found else time.time()

    def measured(self, keys: Sequence[str]) -> dict[str, dict[str, float]]:
        """Measurements by key and name, of the pieces handed out so far."""
        found: dict[str, dict[str, float]] = {}
        for layer in reversed(self._store.layers if self._store else []):
            for key, name, value in layer.index.measurements(keys):
                found.setdefault(key, {})[name] = float.fromhex(value)
        return found

    def watched(self, keys: Collection[str]) -> dict[str, set[str]]:
        """Observers that have a state at ``keys``, by key."""
        found: dict[str, set[str]] = defaultdict(set)
        for layer in self._store.layers if self._store else ():
            for key, observer, _ in layer.index.observers_at(keys):
                found[key].add(observer)
        return found

    def curve(self, row: Row) -> dict[str, np.ndarray] | None:
        """The columns of a piece; empty where it has none, None where they cannot be read now."""
        if row.curve is None or row.piece not in self._pieces:
            return {}
        try:
            return self._pieces[row.piece][0].curve(row.curve)
        except StoreError:
            return None  # later, or the piece turns out damaged and is no longer listed

    @property
    def notices(self) -> list[str]:
        """Damage met so far."""
        return self._store.notices if self._store else []


def _reading(where: Any) -> ReadOnly:
    return ReadOnly(PosixBackend(where) if isinstance(where, Path) else places.object_backend(where))


Span = tuple[int, int]
"""Offsets on a track: behind the first, up to the last."""


def span_of(row: Row) -> Span:
    """What a piece covers."""
    return row.offset - (row.end_update - row.start_update), row.offset


class Covered:
    """What the pieces of one track cover."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.spans: tuple[Span, ...] = ()
        self.broke: Row | None = None

    def add(self, seen: Seen) -> int:
        """Take a piece in; how many updates it adds to what is covered."""
        before = total(self.spans)
        row = seen.row
        self.seen.append(seen)
        self.spans = union([*self.spans, span_of(row)])
        if row.status == "diverged" and (self.broke is None or row.offset < self.broke.offset):
            self.broke = row
        return total(self.spans) - before

    def before(self, moment: float) -> tuple[Span, ...]:
        """What was covered by pieces written before a moment."""
        return union([span_of(seen.row) for seen in self.seen if seen.written < moment])


class Known:
    """Tracks and measurements read so far, as planning asks for them.

    A state that was released counts as there: training that goes on begins at the newest, which is kept.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self.tracks: dict[str, Covered] = {}

    def stretches(self, tracks: Sequence[str]) -> Mapping[str, Stretch]:
        """What is known of each track that was ever trained on."""
        known = {track: self.tracks[track] for track in tracks if track in self.tracks}
        ends = {seen.row.end_key: seen.row.offset for covered in known.values() for seen in covered.seen}
        sides = self._reading.watched(ends.keys())
        found = {}
        for track, covered in known.items():
            watched: dict[str, set[int]] = {}
            for seen in covered.seen:
                for observer in sides.get(seen.row.end_key, ()):
                    watched.setdefault(observer, set()).add(seen.row.offset)
            found[track] = Stretch(
                states=frozenset(seen.row.offset for seen in covered.seen if seen.row.status == "done"),
                covered=covered.spans,
                sides={observer: frozenset(offsets) for observer, offsets in watched.items()},
                diverged=covered.broke.offset if covered.broke else None,
            )
        return found

    def measured(self, keys: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
        """Measurements by key and name."""
        return self._reading.measured(keys)


def total(spans: Sequence[Span], within: float = math.inf) -> int:
    """Offsets covered, as far as ``within``."""
    return sum(max(0, (end if end <= within else int(within)) - begin) for begin, end in spans)
