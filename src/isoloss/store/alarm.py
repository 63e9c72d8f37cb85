"""The alarm "not deterministic": one key, two different contents."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from isoloss.recipe.errors import NotDeterministic, StoreError
from isoloss.store.layer import Layer
from isoloss.store.pieces import Manifest, Piece
from isoloss.store.tensors import differences

SHOWN = 8
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},]|[^\[\]{},"]+|"', re.DOTALL)


def compare(layers: Sequence[Layer], piece: Piece, manifest: Manifest) -> None:
    """Raise NotDeterministic, naming all that differs, unless `piece` agrees with what is stored."""
    found = [line for layer in layers for line in _disagreements(layer, piece, manifest)]
    if not found:
        return
    lines = [
        f"not deterministic: training reached key {piece.end_key} (update {piece.end_update}) with other "
        "bits than stored",
        *(f"  {line}" for line in dict.fromkeys(found)),
        *(f"  {line}" for line in _provenance(layers, piece)),
        "  nothing was overwritten; find out what the key leaves out before trusting results that share it",
    ]
    raise NotDeterministic("\n".join(lines))


def _disagreements(layer: Layer, piece: Piece, manifest: Manifest) -> list[str]:
    key = piece.end_key
    found: list[str] = []
    digests = {row.digest for row in layer.index.pieces_at(key) if row.digest} - {manifest.digest}
    if manifest.digest and digests:
        stored = min(digests)
        found += [f"state {stored} stored, {manifest.digest} new", *_tensors(layer, stored, piece)]
    sides = layer.index.sides_at(key)
    for observer, (digest, _) in manifest.sides.items():
        if sides.get(observer, digest) != digest:
            found.append(f"state of observer {observer!r}: {sides[observer]} stored, {digest} new")
    measured = layer.index.measurements({m.key for m in piece.measurements})
    values = {(at, name): value for at, name, value in measured}
    for m in piece.measurements:
        new = float(m.value)
        if values.get((m.key, m.name), new.hex()) != new.hex():
            old = float.fromhex(values[m.key, m.name])
            where = f"update {m.update}" if m.key == key else f"update {m.update}, key {m.key}"
            found.append(f"measurement {m.name!r} ({where}): {old!r} stored, {new!r} new")
    return found


def _tensors(layer: Layer, digest: str, piece: Piece) -> list[str]:
    assert piece.state is not None
    try:
        state, meta = layer.tensors(digest)
    except (StoreError, FileNotFoundError):
        return ["the stored state is no longer there, so its tensors cannot be compared"]
    lines = differences(state, piece.state)
    if len(lines) > SHOWN:
        lines[SHOWN:] = [f"and {len(lines) - SHOWN} more tensors"]
    for name in sorted(meta.keys() | piece.meta.keys()):
        if meta.get(name) != piece.meta.get(name):
            lines.append(f"meta {name!r}: {meta.get(name)!r} stored, {piece.meta.get(name)!r} new")
    return lines


def _provenance(layers: Sequence[Layer], piece: Piece) -> list[str]:
    lines = []
    key = piece.end_key
    manifests = [manifest for layer in layers for manifest in layer.manifests_at(key)]
    for manifest in manifests[:1]:
        for name in sorted(manifest.labels.keys() | piece.labels.keys()):
            old, new = manifest.labels.get(name), piece.labels.get(name)
            if old != new:
                lines.append(f"label {name!r}: {old!r} stored, {new!r} new")
    stored = next((manifest.recipes[key] for manifest in manifests if key in manifest.recipes), None)
    mine = piece.recipes.get(key)
    if stored is not None and mine is not None and stored != mine:
        diff = difflib.unified_diff(_pretty(stored), _pretty(mine), "stored", "new", lineterm="", n=1)
        lines += ["the recipes behind the key differ:", *(f"  {line}" for line in diff)]
    elif (recipe := stored or mine) is not None:
        lines += ["recipe:", *(f"  {line}" for line in _pretty(recipe))]
    return lines


def _pretty(recipe: bytes) -> list[str]:
    """One line for each item of a nested recipe, which is JSON up to how it writes its floats."""
    lines, line, depth = [], "", 0
    for token in _TOKEN.findall(recipe.decode(errors="replace")):
        depth -= token in "]}"
        line += token
        depth += token in "[{"
        if token in "[{,":
            lines.append(line)
            line = " " * depth
    return [*lines, line]
