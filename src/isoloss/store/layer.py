"""One folder of a store: its format, what its manifests say, and its content-checked blobs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from isoloss.recipe.errors import StoreError
from isoloss.store.backend import Backend, Buffer
from isoloss.store.cache import BlobCache, matches
from isoloss.store.index import Index
from isoloss.store.pieces import Manifest, decode_manifest, manifest_name, pieces_folder
from isoloss.store.tables import Measurement, decode_curve, decode_measurements
from isoloss.store.tensors import blob_name, canonical_json, decode

FORMAT_VERSION = 1
FOLDERS = ("blobs", "pieces", "released", "leases", "quarantine", "index")
LATE = 120.0
"""Seconds for which a look-up may miss what another machine has written; NFS clients remember for up to 60."""
_BATCH = 500


class DamagedBlob(StoreError):
    """The bytes of a blob do not match their hash."""


class Layer:
    """A store folder as it is read; `Store` stacks layers and writes to the top one only.

    What is found damaged is put aside: moved to `quarantine/` of the top layer, or marked there where it lies
    in a read-only layer. From then on it counts as missing, so a rerun makes it again.
    """

    def __init__(
        self, backend: Backend, top: Backend, index_folder: Path | None, name: str, cache: BlobCache | None = None
    ) -> None:
        """`index_folder`: where the index may live; `cache`: copies of blobs, where the backend is far away."""
        self.backend = backend
        self.writable = backend is top
        self.notices: list[str] = []
        self.index = Index(index_folder, self.refresh, name)
        self._top = top
        self._name = name
        self._cache = cache
        self._unusable: set[str] = set()

    def close(self) -> None:
        """Close files; the next look-up opens them again."""
        self.index.close()

    def refresh(self) -> None:
        """Take in what other processes have published since."""
        listed = dict((piece, key) for key, piece in self.listed())
        known = self.index.known_pieces()
        if self.lost(known - listed.keys()):
            self.index.discard()
            known = set()
        new = sorted(listed.keys() - known, key=lambda piece: (listed[piece], piece))
        for start in range(0, len(new), _BATCH):
            self._ingest((listed[piece], piece) for piece in new[start : start + _BATCH])

    def ingest_key(self, key: str, sure: str | None = None) -> None:
        """Take in the pieces that end at one key; `sure` is there even if a late listing lacks it."""
        listed = {name.removesuffix(".json") for name in self.backend.list(pieces_folder(key))}
        listed |= {sure} if sure else set()
        known = {row.piece for row in self.index.pieces_at(key)}
        if self.lost(known - listed):
            self.refresh()
        elif listed - known:
            self._ingest((key, piece) for piece in sorted(listed - known))

    def lost(self, unlisted: Iterable[str]) -> bool:
        """Whether another process put one of these manifests aside; a listing alone may be late."""
        rows = [row for piece in unlisted if (row := self.index.piece(piece))]
        return not all(self.backend.exists(manifest_name(row.end_key, row.piece)) for row in rows)

    def _ingest(self, found: Iterable[tuple[str, str]]) -> None:
        if self.backend.parallel == 1:
            entries = [self.read_piece(*at) for at in found]
        else:
            with ThreadPoolExecutor(self.backend.parallel) as pool:
                entries = list(pool.map(lambda at: self.read_piece(*at), found))
        self.index.ingest([entry for entry in entries if entry])

    def listed(self) -> Iterator[tuple[str, str]]:
        """(end key, piece) of every manifest in the folder."""
        for name in self.backend.walk("pieces"):
            match name.split("/"):
                case [_, _, key, file] if file.endswith(".json"):
                    yield key, file.removesuffix(".json")

    def read_piece(self, key: str, piece: str) -> tuple[Manifest, Sequence[Measurement]] | None:
        """A piece from its manifest; None where it is damaged, which puts the manifest aside."""
        name = manifest_name(key, piece)
        if self._shunned(name):
            return None
        try:
            manifest = self.read_manifest(name)
            rows: Sequence[Measurement] = ()
            if manifest.measurements:
                rows = decode_measurements(self.read_blob(blob_name(manifest.measurements, "parquet")))
            return manifest, rows
        except FileNotFoundError as error:
            if not self._may_be_late(name):
                self.put_aside(name, f"{self.backend.where(name)} cannot be used: {error.filename} is missing")
        except (ValueError, DamagedBlob) as error:
            self.put_aside(name, str(error))
        return None

    def _may_be_late(self, name: str) -> bool:
        """Whether what a manifest refers to may only be unseen yet: NFS may remember that it was missing."""
        found = self.backend.stat(name)
        return found is None or self.backend.now() - found.written < LATE

    def read_manifest(self, name: str) -> Manifest:
        """Parse one manifest. Raises ValueError where damaged, StoreError where it is of a newer version."""
        where = self.backend.where(name)
        manifest = decode_manifest(self.backend.get(name), where)
        if manifest.name != name:
            raise ValueError(f"{where} is damaged: it describes another piece")
        return manifest

    def manifests_at(self, key: str) -> list[Manifest]:
        """Manifests of all pieces that end at a key."""
        self.ingest_key(key)
        return [self.read_manifest(manifest_name(key, row.piece)) for row in self.index.pieces_at(key)]

    def read_blob(self, name: str) -> bytes:
        """Content of a blob, checked against its hash.

        Raises DamagedBlob (and puts the blob aside) where it does not match, FileNotFoundError where missing.
        """
        if self._cache and (kept := self._cache.get(name)) is not None:
            return kept
        for _ in range(2):
            # A second look: what was spoiled on the way is whole where it lies.
            data = self.backend.get(name)
            if matches(name, data):
                self.keep(name, (data,))
                return data
        path = self.backend.where(name)
        moved = self.put_aside(name, f"{path} is damaged")
        advice = "moved to quarantine/" if moved else "it lies where it cannot be moved, restore it there"
        raise DamagedBlob(
            f"{path} is damaged: its content does not match its name ({advice}); run again, and what it held "
            "is trained again where it is needed"
        )

    def keep(self, name: str, chunks: Iterable[Buffer]) -> None:
        """Note the content of a blob that is there, to spare a transfer later."""
        if self._cache:
            self._cache.put(name, chunks)

    def trouble(self, name: str) -> str | None:
        """What is wrong with a blob, looking only; None if it is whole."""
        try:
            data = self.backend.get(name)
        except FileNotFoundError:
            return f"{self.backend.where(name)} is missing"
        except StoreError as error:
            return str(error)
        return None if matches(name, data) else f"{self.backend.where(name)} is damaged"

    def put_aside(self, name: str, why: str) -> bool:
        """Make a damaged file count as missing; True if it could be moved out of the way."""
        self.notices.append(why)
        self._unusable.add(name)
        # A store that cannot be written can still be read: then only this process remembers.
        with contextlib.suppress(StoreError):
            if not self.writable:
                self._top.put_new(self._mark(name), (why.encode(),))
            elif self.backend.exists(name):
                self.backend.move(name, f"quarantine/{name.rpartition('/')[2]}")
                self._unusable.discard(name)
                return True
        return False

    def _mark(self, name: str) -> str:
        return f"quarantine/{self._name}-{name.rpartition('/')[2]}.mark"

    def _shunned(self, name: str) -> bool:
        return name in self._unusable or (not self.writable and self._top.exists(self._mark(name)))

    def has_blob(self, name: str) -> bool:
        """Whether a blob is there and not known to be damaged."""
        return self.backend.exists(name) and not self._shunned(name)

    def present(self, blobs: Collection[str]) -> set[str]:
        """Those of `blobs` that are there and not known to be damaged."""
        found = self.backend.present("blobs", blobs) - self._unusable
        if not self.writable:
            marks = set(self._top.list("quarantine"))
            found = {name for name in found if self._mark(name).rpartition("/")[2] not in marks}
        return found

    def held(self, states: Mapping[str, str]) -> set[str]:
        """Those keys of `states` (key to digest) whose state is still here."""
        released = set(self.backend.list("released"))
        names = {key: blob_name(digest, "safetensors") for key, digest in states.items() if key not in released}
        there = self.present(set(names.values()))
        return {key for key, name in names.items() if name in there}

    def digest(self, key: str) -> str | None:
        """Digest of the state at a key, stored or released; None where it was never reached."""
        for attempt in range(2):
            for row in self.index.pieces_at(key):
                if row.digest:
                    return row.digest
            if attempt == 0:
                self.ingest_key(key)
        return None

    def has(self, key: str) -> bool:
        """Whether the state at a key can be loaded from here."""
        digest = self.digest(key)
        return digest is not None and self.holds(key, digest)

    def holds(self, key: str, digest: str) -> bool:
        """Whether a state that was reached is still here."""
        return self.has_blob(blob_name(digest, "safetensors")) and not self.released(key)

    def released(self, key: str) -> bool:
        """Whether the state at a key was given up."""
        return self.backend.exists(f"released/{key}")

    def sides(self, key: str) -> dict[str, str]:
        """Digests of the observer states at a key that can be loaded."""
        if self.digest(key) is None or self.released(key):
            return {}
        found = self.index.sides_at(key)
        return {who: digest for who, digest in found.items() if self.has_blob(blob_name(digest, "safetensors"))}

    def tensors(self, digest: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Content of a state. Raises DamagedBlob, after which the keys with this state count as released."""
        try:
            return decode(self.read_blob(blob_name(digest, "safetensors")))
        except DamagedBlob:
            if self.writable:
                with contextlib.suppress(StoreError):
                    for key in self.index.states_with(digest):
                        self.backend.put_new(f"released/{key}", ())
            raise

    def curve(self, digest: str) -> dict[str, np.ndarray]:
        """Content of a curve. Raises DamagedBlob, after which its pieces count as never published."""
        try:
            return decode_curve(self.read_blob(blob_name(digest, "parquet")))
        except (DamagedBlob, FileNotFoundError) as error:
            names = [manifest_name(row.end_key, row.piece) for row in self.index.pieces() if row.curve == digest]
            if isinstance(error, FileNotFoundError) and any(self._may_be_late(name) for name in names):
                raise StoreError(
                    f"{error.filename} is not to be seen, but its piece is younger than {LATE:.0f} s, so it may only "
                    "be late: try again then"
                ) from error
            for name in names:
                self.put_aside(name, f"{self.backend.where(name)} lost its curve")
            self.index.rebuild()
            if isinstance(error, DamagedBlob):
                raise
            raise DamagedBlob(f"{error.filename} is missing; run again, and it is made again") from error


def open_layer(root: str, backend: Backend, create: bool) -> None:
    """Check that a place is a store of a version this code reads; make it one if it is new and empty.

    Raises StoreError.
    """
    try:
        text = backend.get("format.json")
    except FileNotFoundError:
        if not create:
            raise StoreError(f"there is no isoloss store at {root} (no format.json)") from None
        strange = [name for name in backend.list("") if name not in FOLDERS and not name.startswith(".")]
        if strange and not backend.exists("format.json"):
            raise StoreError(
                f"{root} holds other things ({', '.join(strange[:3])}) and is no isoloss store: name an "
                "empty or a new folder"
            ) from None
        backend.put_new("format.json", (canonical_json({"isoloss_store": FORMAT_VERSION}).encode(),))
        text = backend.get("format.json")
    try:
        version = int(json.loads(text)["isoloss_store"])
    except (ValueError, KeyError, TypeError) as error:
        found = text[:60].decode(errors="replace")
        raise StoreError(f"{root}/format.json does not describe an isoloss store: found {found!r}") from error
    if version > FORMAT_VERSION:
        raise StoreError(
            f"the store at {root} was written by a newer version of isoloss (store format {version}, this "
            f"one reads up to {FORMAT_VERSION}): update isoloss, or use another store"
        )
