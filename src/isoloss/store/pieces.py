"""A piece: the updates between two stored states, as it is published and as its manifest describes it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import Tensor

from isoloss.recipe.errors import StoreError
from isoloss.store.tables import Measurement
from isoloss.store.tensors import blob_name, canonical_json

MANIFEST_VERSION = 1
_KEY = re.compile(r"[0-9a-f]{64}")


class Side(NamedTuple):
    """An observer's state at a key: named tensors and JSON; not part of the state's digest."""

    state: dict[str, Tensor]
    meta: dict[str, Any]


@dataclass(frozen=True)
class Piece:
    """What training from `start_key` to `end_key` gave; updates count from the run's root.

    `state`: unsharded tensors by name, None where the run diverged. `meta`: JSON that belongs to the state
    (counters) and to its digest. `side`: observer states at `end_key` by observer. `curve`: 1-D columns, one
    row an update, "update" among them. `measurements`: at any keys of this stretch. `recipes`: encoded recipe
    by key, kept to explain a mismatch. `labels`: free JSON (versions, numerics).
    """

    start_key: str
    end_key: str
    start_update: int
    end_update: int
    state: Mapping[str, Tensor] | None
    meta: Mapping[str, Any] = field(default_factory=dict)
    side: Mapping[str, Side] = field(default_factory=dict)
    curve: Mapping[str, np.ndarray] = field(default_factory=dict)
    measurements: tuple[Measurement, ...] | list[Measurement] = ()
    recipes: Mapping[str, bytes] = field(default_factory=dict)
    status: Literal["done", "diverged"] = "done"
    detail: str = ""
    labels: Mapping[str, Any] = field(default_factory=dict)
    track: str = ""
    """What the states of one stretch under one rule have in common; a planner finds them by it."""
    offset: int = 0
    """Updates on the track at the end of the piece."""
    seconds: float = 0.0
    """How long the training took; says nothing about the result."""

    def check(self) -> None:
        """Raise ValueError where the fields contradict each other."""
        for key in (self.start_key, self.end_key, *self.recipes, *(m.key for m in self.measurements)):
            if not _KEY.fullmatch(key):
                raise ValueError(f"a key is 64 hexadecimal digits in lower case, found {key!r}")
        if not 0 <= self.start_update <= self.end_update:
            raise ValueError(f"a piece runs forward from update 0: found {self.start_update} to {self.end_update}")
        if self.status not in ("done", "diverged") or (self.state is None) != (self.status == "diverged"):
            found = f"{self.status!r} {'without' if self.state is None else 'with'} a state"
            raise ValueError(f"a piece is 'done' with a state or 'diverged' without one, found {found}")
        if self.side and self.state is None:
            raise ValueError("observer states need the state they belong to; this piece has none")
        seen: dict[tuple[str, str], str] = {}
        for m in self.measurements:
            if seen.setdefault((m.key, m.name), float(m.value).hex()) != float(m.value).hex():
                raise ValueError(f"two values for measurement {m.name!r} at {m.key}")


@dataclass(frozen=True)
class Manifest:
    """What a store knows of a piece: its manifest, whose appearance makes the piece exist."""

    piece: str
    start_key: str
    end_key: str
    start_update: int
    end_update: int
    status: str
    detail: str
    digest: str | None
    state_bytes: int
    curve: str | None
    measurements: str | None
    sides: dict[str, tuple[str, int]]
    recipes: dict[str, bytes]
    labels: dict[str, Any]
    track: str
    offset: int
    seconds: float

    @property
    def name(self) -> str:
        """Name inside a store."""
        return manifest_name(self.end_key, self.piece)

    @property
    def state_blob(self) -> str | None:
        """Name of the state inside a store; None where the run diverged."""
        return self.digest and blob_name(self.digest, "safetensors")

    def encode(self) -> bytes:
        """Canonical JSON with its own checksum."""
        content = {
            "manifest": MANIFEST_VERSION,
            **{name: getattr(self, name) for name in _PLAIN},
            "sides": {observer: list(side) for observer, side in self.sides.items()},
            "recipes": {key: _recipe_text(recipe) for key, recipe in self.recipes.items()},
        }
        return canonical_json({**content, "sum": _checksum(content)}).encode()


_PLAIN = tuple(f.name for f in fields(Manifest) if f.name not in ("sides", "recipes"))


def manifest_name(end_key: str, piece: str) -> str:
    """Name of a piece's manifest inside a store."""
    return f"{pieces_folder(end_key)}/{piece}.json"


def pieces_folder(end_key: str) -> str:
    """Folder of the manifests of the pieces that end at a key."""
    return f"pieces/{end_key[:2]}/{end_key}"


def decode_manifest(data: bytes, where: str) -> Manifest:
    """Manifest from its bytes. Raises ValueError where damaged, StoreError where a newer version wrote it."""
    try:
        content = json.loads(data)
        total = content.pop("sum")
        version = content["manifest"]
        if version > MANIFEST_VERSION:
            raise StoreError(
                f"{where} was written by a newer version of isoloss (manifest {version}, this one reads up "
                f"to {MANIFEST_VERSION}): update isoloss"
            )
        if total != _checksum(content):
            raise ValueError("its checksum does not match its content")
        recipes = {key: _recipe(text) for key, text in content["recipes"].items()}
        sides = {observer: (str(digest), int(size)) for observer, (digest, size) in content["sides"].items()}
        return Manifest(**{name: content[name] for name in _PLAIN}, sides=sides, recipes=recipes)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{where} is damaged: {error}") from error


def piece_id(piece: Piece) -> str:
    """Name of a piece: its stretch and outcome, what it measured and which observers and columns it kept."""
    pairs = sorted({(m.key, m.name) for m in piece.measurements})
    parts = [piece.start_key, piece.end_key, piece.status, [list(pair) for pair in pairs]]
    text = canonical_json([*parts, sorted(piece.side), sorted(piece.curve)])
    return hashlib.sha256(text.encode()).hexdigest()


def _checksum(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(dict(fields)).encode()).hexdigest()


def _recipe_text(recipe: bytes) -> str:
    try:
        return "text:" + recipe.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(recipe).decode()


def _recipe(text: str) -> bytes:
    kind, _, content = text.partition(":")
    return base64.b64decode(content) if kind == "base64" else content.encode()
