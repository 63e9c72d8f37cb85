"""The store: a memo table from keys to trained states, curves and measurements.

What has no manifest does not exist. `publish` writes content-hashed blobs first and the manifest last, so a
piece appears at once or not at all, whatever is killed when; docs/store.md has the argument.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from torch import Tensor

from isoloss.recipe.errors import StoreError
from isoloss.store import alarm, places, upkeep
from isoloss.store.backend import Backend
from isoloss.store.index import Row
from isoloss.store.layer import DamagedBlob, Layer, open_layer
from isoloss.store.lease import Lease
from isoloss.store.packed import SUFFIX, pack
from isoloss.store.pieces import Manifest, Piece, Side, manifest_name, piece_id
from isoloss.store.tables import encode_curve, encode_measurements
from isoloss.store.tensors import Blob, blob_name, encode


class Loaded(NamedTuple):
    """A state with the JSON that belongs to it and the observer states kept at the same key."""

    state: dict[str, Tensor]
    meta: dict[str, Any]
    sides: dict[str, Side]


class Store:
    """A place of trained pieces, over read-only stores that serve as a base.

    `Store(place)` opens or makes one (`create=False`: opens only); a place is a folder, or a URL of object storage
    (s3://bucket/prefix, gs://bucket/prefix), or a file of measurements (.parquet), which is only read. Reads look
    through `place`, then `under` in order; writes go to `place`. Safe for any number of processes at once. `location`
    says where it is, for people and for `Store(location)` in another process. Raises StoreError where a place is no
    store, was written by a newer version, or cannot be used.
    """

    def __init__(
        self,
        place: str | Path,
        under: Sequence[str | Path] = (),
        create: bool = True,
        backend: Callable[[Any], Backend] | None = None,
    ) -> None:
        top = places.opened(place, backend)
        open_layer(top.location, top.backend, create)
        self._place = top
        self.location = top.location
        cache = places.blob_cache() if top.remote else None
        self.top = Layer(top.backend, top.backend, top.index_folder, "index", cache)
        self.layers = [self.top]
        self.under: list[str] = []
        for given in under:
            base = places.opened(given, backend)
            open_layer(base.location, base.backend, create=False)
            name = f"under-{hashlib.sha256(base.location.encode()).hexdigest()[:16]}"
            cache = places.blob_cache() if base.remote else None
            folder = top.index_folder if base.index_folder else None
            self.layers.append(Layer(base.backend, top.backend, folder, name, cache))
            self.under.append(base.location)

    @property
    def path(self) -> Path:
        """The folder. Raises StoreError for object storage, which has `location` only."""
        if self._place.remote:
            raise StoreError(f"the store at {self.location} is no folder; this needs one")
        return Path(self.location)

    @property
    def name(self) -> str:
        """Last part of its location."""
        return self.location.rstrip("/").rpartition("/")[2]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the index; the store can be used again afterwards."""
        for layer in self.layers:
            layer.close()

    def refresh(self) -> None:
        """Take in what other processes have published since this one last looked."""
        for layer in self.layers:
            layer.refresh()

    @property
    def notices(self) -> list[str]:
        """Damage met so far, one line each."""
        return [notice for layer in self.layers for notice in layer.notices]

    # Writing

    def publish(self, piece: Piece, keep_state: bool = True) -> bool:
        """Make a piece appear; True if this call did it (or restored its state), False if it was there.

        What is already stored at an equal key must agree to the bit: an equal piece is a no-op, and a
        different one raises NotDeterministic. `keep_state=False` records the digest without keeping the
        state. Tensors must not change during the call. Raises ValueError on a contradictory piece, StoreError
        where the store cannot be written (the piece is then wholly there or not at all; publish it again).
        """
        piece.check()
        state = None if piece.state is None else encode(piece.state, piece.meta)
        sides = {observer: encode(side.state, side.meta) for observer, side in piece.side.items()}
        manifest, blobs = _manifest(piece, state, sides)
        encoded = manifest.encode()
        for layer in self.layers:
            layer.ingest_key(piece.end_key)
        alarm.compare(self.layers, piece, manifest)

        keep = keep_state and state is not None
        if self._complete(manifest, keep):
            return False
        there = any(layer.index.piece(manifest.piece) for layer in self.layers)
        if state is not None and keep:
            blobs += [state, *sides.values()]
        top = self.top.backend
        for blob in blobs:
            top.put_new(blob.name, blob.chunks)
            self.top.keep(blob.name, blob.chunks)
        if state is not None and not keep and not self.top.has(piece.end_key):
            top.put_new(f"released/{piece.end_key}", ())
        made = top.put_new(manifest.name, (encoded,))
        for blob in blobs:
            # Another process may have swept a blob after we found it there and before our manifest named it.
            if not top.exists(blob.name):
                top.put_new(blob.name, blob.chunks)
        if keep and self.top.released(piece.end_key):
            top.delete(f"released/{piece.end_key}")
        self.top.ingest_key(piece.end_key, sure=manifest.piece)
        alarm.compare(self.layers, piece, manifest)
        return made or there

    def _complete(self, manifest: Manifest, keep: bool) -> bool:
        wanted = [digest for digest, _ in manifest.sides.values()]
        if manifest.digest:
            wanted.append(manifest.digest)
        for layer in self.layers:
            if layer.index.piece(manifest.piece) and not keep:
                return True
            if layer.index.piece(manifest.piece) and not layer.released(manifest.end_key):
                return all(layer.has_blob(blob_name(digest, "safetensors")) for digest in wanted)
        return False

    # Reading

    def has(self, key: str) -> bool:
        """Whether the state at a key can be loaded."""
        return any(layer.has(key) for layer in self.layers)

    def known(self, key: str) -> bool:
        """Whether the state at a key was ever reached; it may have been released since."""
        return self.digest(key) is not None

    def digest(self, key: str) -> str | None:
        """Digest of the state at a key, stored or released; None where it was never reached."""
        return next((digest for layer in self.layers if (digest := layer.digest(key))), None)

    def stored(self, keys: Collection[str]) -> set[str]:
        """Those of `keys` whose state can be loaded; refreshes first."""
        self.refresh()
        found: set[str] = set()
        for layer in self.layers:
            found |= layer.held(layer.index.digests(keys))
        return found

    def reached(self, keys: Collection[str]) -> set[str]:
        """Those of `keys` whose state was ever reached; refreshes first."""
        self.refresh()
        return {key for layer in self.layers for key in layer.index.digests(keys)}

    def load(self, key: str, observers: Collection[str] | None = None) -> Loaded:
        """State, meta and observer states (all, or those named) at a key, checked against their hashes.

        Raises StoreError where the state was never reached, was released, or is damaged.
        """
        trouble: StoreError | None = None
        for layer in self.layers:
            digest = layer.digest(key)
            if digest is None or not layer.holds(key, digest):
                continue
            try:
                state, meta = layer.tensors(digest)
            except DamagedBlob as error:
                trouble = error
                continue
            except FileNotFoundError:
                continue
            names = [who for who in self._observers(key) if observers is None or who in observers]
            sides = {who: side for who in sorted(names) if (side := self.side(key, who)) is not None}
            return Loaded(state, meta, sides)
        if trouble:
            raise trouble
        what = "was reached, but its state was released" if self.known(key) else "was never reached"
        raise StoreError(f"no state to load at key {key}: it {what} (store at {self.location})")

    def _observers(self, key: str) -> set[str]:
        return {who for layer in self.layers for who in layer.sides(key)}

    def has_side(self, key: str, observer: str) -> bool:
        """Whether an observer's state at a key can be loaded."""
        return observer in self._observers(key)

    def side(self, key: str, observer: str) -> Side | None:
        """An observer's state at a key; None where there is none. Raises StoreError where damaged."""
        for layer in self.layers:
            if digest := layer.sides(key).get(observer):
                return Side(*layer.tensors(digest))
        return None

    def measurement(self, key: str, name: str) -> float | None:
        """A measurement at a key; None where there is none.

        What another process measured at the end of a piece is seen at once, in its middle after `refresh`.
        """
        for attempt in range(2):
            for layer in self.layers:
                if found := layer.index.measurements_at(key).get(name):
                    return float.fromhex(found[1])
                if attempt == 0:
                    layer.ingest_key(key)
        return None

    def measurements(self, keys: Collection[str]) -> dict[str, dict[str, float]]:
        """All measurements at `keys` by key and name; keys without any are left out. Refreshes first."""
        self.refresh()
        found: dict[str, dict[str, float]] = {}
        for layer in reversed(self.layers):
            for key, name, value in layer.index.measurements(keys):
                found.setdefault(key, {})[name] = float.fromhex(value)
        return found

    def divergence(self, key: str) -> str | None:
        """Why the run diverged before reaching a key; None where it did not, or was never tried."""
        rows = [row for _, row in self._rows(key)]
        if any(row.status == "done" for row in rows):
            return None
        return next((row.detail for row in rows), None)

    def recipe(self, key: str) -> bytes | None:
        """Encoded recipe kept with the pieces that end at a key."""
        manifests = (manifest for layer in self.layers for manifest in layer.manifests_at(key))
        return next((manifest.recipes[key] for manifest in manifests if key in manifest.recipes), None)

    def curve(self, key: str) -> dict[str, np.ndarray]:
        """Columns, one row an update, of the longest piece that ends at a key (or measures it on its way).

        Columns that only other pieces over the same stretch have are added. Empty where there is none. Raises
        StoreError where a curve is damaged.
        """
        rows = self._rows(key)
        columns: dict[str, np.ndarray] = {}
        for layer, row in rows:
            if row.curve and (row.start_key, row.status) == (rows[0][1].start_key, rows[0][1].status):
                columns = layer.curve(row.curve) | columns
        return columns or self._curve_inside(key)

    def _curve_inside(self, key: str) -> dict[str, np.ndarray]:
        for layer in self.layers:
            for at, _, piece in layer.index.measurements_at(key).values():
                row = layer.index.piece(piece)
                if row and row.curve:
                    columns = layer.curve(row.curve)
                    kept = columns["update"] <= at
                    return {name: column[kept] for name, column in columns.items()}
        return {}

    def trajectory(self, key: str) -> dict[str, np.ndarray]:
        """Curve from the run's root to a key: pieces that lead there, joined; columns all of them have."""
        parts: list[dict[str, np.ndarray]] = []
        seen: set[str] = set()
        while key not in seen:
            seen.add(key)
            if part := self.curve(key):
                parts.append(part)
            rows = self._rows(key)
            key = rows[0][1].start_key if rows else key
        shared = set.intersection(*(set(part) for part in parts)) if parts else set()
        return {name: np.concatenate([part[name] for part in reversed(parts)]) for name in sorted(shared)}

    def _rows(self, key: str) -> list[tuple[Layer, Row]]:
        rows: list[tuple[Layer, Row]] = []
        for attempt in range(2):
            rows = [(layer, row) for layer in self.layers for row in layer.index.pieces_at(key)]
            if rows:
                break
            if attempt == 0:
                for layer in self.layers:
                    layer.ingest_key(key)
        return sorted(rows, key=lambda pair: _preference(pair[1]))

    def pieces(self) -> list[Row]:
        """All pieces, ordered by the update they end at; refreshes first."""
        self.refresh()
        rows = {row.piece: row for layer in self.layers for row in layer.index.pieces()}
        return sorted(rows.values(), key=lambda row: (row.end_update, row.end_key, row.piece))

    def on_tracks(self, tracks: Collection[str]) -> dict[str, list[Row]]:
        """Pieces by track, for those of `tracks` that have any; refreshes first."""
        self.refresh()
        found: dict[str, list[Row]] = {}
        for layer in self.layers:
            for row in layer.index.on_tracks(tracks):
                found.setdefault(row.track, []).append(row)
        return found

    def sides_at(self, keys: Collection[str]) -> dict[str, set[str]]:
        """Observers whose states at `keys` are kept, by key."""
        found: dict[str, set[str]] = {}
        for layer in self.layers:
            noted = layer.index.observers_at(keys)
            there = layer.present({blob_name(digest, "safetensors") for _, _, digest in noted})
            for key, observer, digest in noted:
                if blob_name(digest, "safetensors") in there:
                    found.setdefault(key, set()).add(observer)
        return found

    def manifest(self, row: Row) -> Manifest:
        """Everything noted with a piece. Raises StoreError where it is gone."""
        for layer in self.layers:
            if layer.index.piece(row.piece):
                return layer.read_manifest(manifest_name(row.end_key, row.piece))
        raise StoreError(f"no piece {row.piece} in the store at {self.location}")

    # Giving way

    def lease(self, name: str, owner: str, **options: Any) -> Lease:
        """Advisory lease on a name, to avoid double work: see `Lease`."""
        return Lease(self.top.backend, name, owner, **options)

    def release(self, key: str) -> int:
        """Give up the state at a key (and observer states there), keeping digest, curve and measurements.

        Returns the bytes freed; a state that another key still needs stays. Raises StoreError.
        """
        return upkeep.release(self.top, key)

    def retain(
        self,
        pinned: Collection[str],
        newest: int = 2,
        every: int | None = None,
        among: Collection[str] | None = None,
        dry_run: bool = False,
    ) -> list[str]:
        """Release states that no policy keeps; returns their keys. See `upkeep.retain`."""
        self.refresh()
        return upkeep.retain(self.top, pinned, newest=newest, every=every, among=among, dry_run=dry_run)

    def verify(self, replay: Callable[[Row], str | None] | None = None, repair: bool = False) -> upkeep.Verification:
        """Check every manifest and blob of the top layer. See `upkeep.verify`."""
        return upkeep.verify(self.top, replay, repair)

    def gc(
        self,
        dry_run: bool = False,
        grace: float = upkeep.GRACE,
        pinned: Collection[str] | None = None,
        newest: int = 2,
        every: int | None = None,
    ) -> upkeep.Swept:
        """Sweep what nothing refers to; with `pinned`, also states that `retain` would release.

        See `upkeep.gc` and `upkeep.retain`.
        """
        self.refresh()
        give_up = [] if pinned is None else self.retain(pinned, newest, every, dry_run=True)
        return upkeep.gc(self.top, dry_run, grace, give_up)

    def export(
        self,
        place: str | Path,
        keys: Collection[str] | None = None,
        states: bool = False,
        columns: Collection[str] = (),
        tracks: Collection[str] | None = None,
    ) -> int:
        """Copy pieces (all, or those that end at or measure `keys`) into another store; returns how many.

        Without `states` it holds curves and measurements only. It can serve as a layer under another store.
        A `place` that ends in .parquet becomes one file of measurements, with these `columns` of training curves (of
        these `tracks` alone).
        Raises StoreError, NotDeterministic where the target holds other bits at an equal key.
        """
        self.refresh()
        if str(place).endswith(SUFFIX):
            if states:
                raise StoreError(f"{place}: a file of measurements holds no states; allowed: a folder or a URL")
            return pack(self.layers, place, None if keys is None else set(keys), columns, tracks)
        with Store(place) as target:
            return upkeep.export(self.layers, target.top, None if keys is None else set(keys), states)


def _preference(row: Row) -> tuple[bool, bool, int, str]:
    return (row.status != "done", row.curve is None, row.start_update, row.piece)


def _manifest(piece: Piece, state: Blob | None, sides: dict[str, Blob]) -> tuple[Manifest, list[Blob]]:
    curve = encode_curve(piece.curve) if piece.curve else None
    measurements = encode_measurements(piece.measurements) if piece.measurements else None
    manifest = Manifest(
        piece=piece_id(piece),
        start_key=piece.start_key,
        end_key=piece.end_key,
        start_update=int(piece.start_update),
        end_update=int(piece.end_update),
        status=piece.status,
        detail=piece.detail,
        digest=state.digest if state else None,
        state_bytes=state.size if state else 0,
        curve=curve.digest if curve else None,
        measurements=measurements.digest if measurements else None,
        sides={observer: (blob.digest, blob.size) for observer, blob in sides.items()},
        recipes=dict(piece.recipes),
        labels=dict(piece.labels),
        track=piece.track,
        offset=piece.offset,
        seconds=piece.seconds,
    )
    return manifest, [blob for blob in (curve, measurements) if blob]
