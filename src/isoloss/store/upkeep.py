"""Keeping a store small and whole: release, retention, verification, sweeping, export."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

import polars as pl

from isoloss.recipe.errors import NotDeterministic
from isoloss.store.index import Row
from isoloss.store.layer import Layer
from isoloss.store.pieces import Manifest, manifest_name
from isoloss.store.tables import decode_measurements
from isoloss.store.tensors import blob_name

GRACE = 3600.0


@dataclass
class Verification:
    """What `verify` found: one line a problem, and counts of what was looked at."""

    problems: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def clean(self) -> bool:
        """Whether there is no problem."""
        return not self.problems


@dataclass
class Swept:
    """What `gc` removed, or would remove: names inside the store and their bytes."""

    names: list[str] = field(default_factory=list)
    bytes: int = 0


def release(layer: Layer, key: str) -> int:
    """Mark the state at `key` as given up, then delete its blobs unless another key needs them."""
    digest = layer.digest(key)
    if digest is None:
        return 0
    layer.backend.put_new(f"released/{key}", ())
    freed = 0
    for blob in {digest, *layer.index.sides_at(key).values()}:
        if all(layer.released(user) for user in layer.index.users_of(blob)):
            name = blob_name(blob, "safetensors")
            found = layer.backend.stat(name)
            layer.backend.delete(name)
            freed += found.size if found else 0
    return freed


def retain(
    layer: Layer,
    pinned: Collection[str],
    *,
    newest: int,
    every: int | None,
    among: Collection[str] | None,
    dry_run: bool,
) -> list[str]:
    """Release states (of `among`, or all) that nothing keeps; returns their keys.

    Kept are the `pinned` keys (forks and leaves of a plan), the last `newest` stored states of every path (at
    least one), and those at multiples of `every` updates.
    """
    if newest < 1 or (every is not None and every < 1):
        raise ValueError(f"newest and every are at least 1, found {newest} and {every}")
    rows = [row for row in layer.index.pieces() if row.status == "done" and row.digest]
    update = {row.end_key: row.end_update for row in rows}
    before: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: (row.start_update, row.piece)):
        if row.start_key != row.end_key:
            before[row.end_key] = row.start_key
    held = layer.held({row.end_key: row.digest for row in rows if row.digest})
    continued = {row.start_key for row in rows if row.start_key != row.end_key}
    keep = set(pinned) | {key for key in held if every is not None and update[key] % every == 0}
    for tip in update.keys() - continued:
        at: str | None = tip
        left = newest
        while at is not None and left:
            if at in held:
                keep.add(at)
                left -= 1
            at = before.get(at)
    scope = held if among is None else held & set(among)
    given_up = sorted(scope - keep, key=lambda key: (update[key], key))
    if not dry_run:
        for key in given_up:
            release(layer, key)
    return given_up


def verify(layer: Layer, replay: Callable[[Row], str | None] | None, repair: bool) -> Verification:
    """Read everything and compare it with what it should be.

    Every manifest parses and describes the piece it is named after; its tables and its state (unless
    released) are there and match their hashes; pieces agree on digests and measurements of equal keys; the
    index agrees with the manifests. Blobs that nothing refers to are counted, they are no problem. `replay`
    trains a piece again and returns the digest it reached, or None to pass. `repair` puts damaged files
    aside, so that a rerun makes them again, and records missing states as released.
    """
    report = Verification()
    manifests, measured = _verify_manifests(layer, report, repair)
    _verify_agreement(manifests, report)
    used = _verify_tensors(layer, manifests, report, repair)
    for manifest in manifests:
        used |= {blob_name(table, "parquet") for table in (manifest.curve, manifest.measurements) if table}
    report.counts["blobs nothing refers to"] = len(set(_blobs(layer)) - used)
    report.counts["unfinished files"] = sum(1 for _ in layer.backend.unfinished())
    report.counts["files in quarantine"] = len(layer.backend.list("quarantine"))
    if report.clean:
        # Only now: opening the index puts damaged pieces aside, which is `repair`'s to decide.
        flat = {(key, name, value) for (key, name), value in measured.items()}
        known, listed = layer.index.known_pieces(), {manifest.piece for manifest in manifests}
        if known - listed and not layer.lost(known - listed):
            report.counts["pieces a late listing lacks"] = len(known - listed)
        elif known != listed or layer.index.all_measurements() != flat:
            report.problems.append("the index disagreed with the manifests; it was built anew")
            layer.index.rebuild()
    elif repair:
        layer.index.rebuild()
    if replay is not None:
        _replay(layer, replay, report)
    return report


def _verify_manifests(
    layer: Layer, report: Verification, repair: bool
) -> tuple[list[Manifest], dict[tuple[str, str], str]]:
    manifests: list[Manifest] = []
    measured: dict[tuple[str, str], str] = {}
    for key, piece in list(layer.listed()):
        report.counts["pieces"] += 1
        name = manifest_name(key, piece)
        troubles: dict[str, str] = {}
        try:
            manifest = layer.read_manifest(name)
            for table in (manifest.curve, manifest.measurements):
                if table and (trouble := layer.trouble(blob_name(table, "parquet"))):
                    troubles[blob_name(table, "parquet")] = trouble
            if not troubles:
                if manifest.curve and "update" not in layer.curve(manifest.curve):
                    raise ValueError(f"the curve of {name} has no updates")
                if manifest.measurements:
                    data = layer.read_blob(blob_name(manifest.measurements, "parquet"))
                    for m in decode_measurements(data):
                        value = m.value.hex()
                        if measured.setdefault((m.key, m.name), value) != value:
                            report.problems.append(f"measurement {m.name!r} at {m.key} has two values")
                        report.counts["measurements"] += 1
                manifests.append(manifest)
        except (ValueError, pl.exceptions.PolarsError) as error:
            troubles[name] = str(error)
        if troubles:
            report.problems += [f"{trouble}, so piece {piece} is lost" for trouble in troubles.values()]
            for bad in {*troubles, name} if repair else ():
                layer.put_aside(bad, troubles.get(bad, f"piece {piece} lost a table"))
    return manifests, measured


def _verify_agreement(manifests: Iterable[Manifest], report: Verification) -> None:
    states: dict[str, str] = {}
    sides: dict[tuple[str, str], str] = {}
    for manifest in manifests:
        key = manifest.end_key
        if manifest.digest and states.setdefault(key, manifest.digest) != manifest.digest:
            report.problems.append(f"not deterministic: key {key} was reached with two different states")
        for observer, (digest, _) in manifest.sides.items():
            if sides.setdefault((key, observer), digest) != digest:
                report.problems.append(f"not deterministic: observer {observer!r} at {key} has two states")


def _verify_tensors(layer: Layer, manifests: Iterable[Manifest], report: Verification, repair: bool) -> set[str]:
    """Check states and observer states; returns the names of those that are in use."""
    states: dict[str, set[str]] = defaultdict(set)
    used: dict[str, set[str]] = defaultdict(set)
    for manifest in manifests:
        if manifest.digest:
            states[blob_name(manifest.digest, "safetensors")].add(manifest.end_key)
        for digest in [manifest.digest, *(digest for digest, _ in manifest.sides.values())]:
            if digest:
                used[blob_name(digest, "safetensors")].add(manifest.end_key)
    for name in sorted(used):
        missing = not layer.backend.exists(name)
        # Looked up after the blob: a release in between marks first and deletes then.
        needed = {key for key in used[name] if not layer.released(key)}
        if not needed:
            report.counts["states released"] += name in states
            used[name].clear()
        elif missing and name in states:
            report.problems += [f"the state at key {key} is missing ({name})" for key in sorted(needed)]
        elif missing:
            report.counts["observer states missing"] += 1
        elif trouble := layer.trouble(name):
            report.problems.append(trouble)
            if repair:
                layer.put_aside(name, trouble)
        else:
            report.counts["states" if name in states else "observer states"] += 1
            continue
        if repair:
            for key in states.get(name, set()) & needed:
                layer.backend.put_new(f"released/{key}", ())
    return {name for name, keys in used.items() if keys}


def _replay(layer: Layer, replay: Callable[[Row], str | None], report: Verification) -> None:
    for row in layer.index.pieces():
        if row.digest and (digest := replay(row)) is not None:
            report.counts["pieces replayed"] += 1
            if digest != row.digest:
                report.problems.append(
                    f"not deterministic: piece {row.piece} reached key {row.end_key} with state "
                    f"{row.digest}; training it again gave {digest}"
                )


def _blobs(layer: Layer) -> Iterable[str]:
    return layer.backend.walk("blobs")


def gc(layer: Layer, dry_run: bool, grace: float, give_up: Collection[str]) -> Swept:
    """Release the states at `give_up`, then sweep what nothing refers to.

    Swept are blobs without a piece, unfinished files, quarantined files and old leases, if they were written
    at least `grace` seconds ago (by the file system's clock: somebody may be publishing right now), and
    indexes that a newer one replaced. `dry_run` only lists.
    """
    layer.refresh()
    gone = {*layer.backend.list("released"), *give_up}
    used: dict[str, set[str]] = defaultdict(set)
    tables: set[str] = set()
    for row in layer.index.pieces():
        if row.digest:
            used[row.digest].add(row.end_key)
        tables |= {blob_name(table, "parquet") for table in (row.curve, row.measurements) if table}
    for key, digest in layer.index.side_digests():
        used[digest].add(key)
    live = tables | {blob_name(digest, "safetensors") for digest, keys in used.items() if keys - gone}
    given = {blob_name(digest, "safetensors") for digest, keys in used.items() if keys & set(give_up)} - live
    if not dry_run:
        for key in sorted(give_up):
            layer.backend.put_new(f"released/{key}", ())

    idle = [name for name in _blobs(layer) if name not in live and name not in given]
    idle += layer.backend.unfinished()
    idle += [f"quarantine/{name}" for name in layer.backend.list("quarantine")]
    idle += layer.backend.walk("leases")
    horizon = layer.backend.now() - grace if idle else 0.0
    swept = Swept()
    for name in [*sorted(given), *idle]:
        found = layer.backend.stat(name)
        if found is None or (name in idle and found.written > horizon):
            continue
        swept.names.append(name)
        swept.bytes += found.size
        if not dry_run:
            layer.backend.delete(name)
    for path in layer.index.replaced():
        swept.names.append(f"index/{path.name}")
        with contextlib.suppress(OSError):
            swept.bytes += path.stat().st_size
            if not dry_run:
                path.unlink()
    return swept


def export(layers: Collection[Layer], target: Layer, keys: Collection[str] | None, states: bool) -> int:
    """Copy pieces of `layers` into `target`, blobs first; returns how many."""
    count = 0
    seen: set[str] = set()
    for layer in layers:
        measuring = {piece for key in keys or () for _, _, piece in layer.index.measurements_at(key).values()}
        for row in layer.index.pieces():
            if row.piece in seen or not (keys is None or row.end_key in keys or row.piece in measuring):
                continue
            seen.add(row.piece)
            _copy_piece(layer, target, layer.read_manifest(manifest_name(row.end_key, row.piece)), states)
            count += 1
    target.refresh()
    if conflicts := target.index.conflicts():
        key, what = conflicts[0]
        raise NotDeterministic(
            f"the exported store and what was in the target differ in {len(conflicts)} places; first at {key}: {what}"
        )
    return count


def _copy_piece(layer: Layer, target: Layer, manifest: Manifest, states: bool) -> None:
    key = manifest.end_key
    names = [blob_name(table, "parquet") for table in (manifest.curve, manifest.measurements) if table]
    with_state = states and manifest.digest is not None and layer.holds(key, manifest.digest)
    if with_state:
        digests = [manifest.digest, *(digest for digest, _ in manifest.sides.values())]
        tensors = [blob_name(digest, "safetensors") for digest in digests if digest]
        names += [name for name in tensors if layer.has_blob(name)]
    for name in names:
        target.backend.put_new(name, (layer.read_blob(name),))
    if manifest.digest and not with_state and not target.has(key):
        target.backend.put_new(f"released/{key}", ())
    if not target.backend.put_new(manifest.name, (manifest.encode(),)):
        there = target.read_manifest(manifest.name)
        same = (there.digest, there.sides) == (manifest.digest, manifest.sides)
        if not same or _measured(target, there) != _measured(layer, manifest):
            raise NotDeterministic(
                f"the piece that ends at key {key} differs between {layer.backend.where(manifest.name)} and "
                f"{target.backend.where(manifest.name)}; nothing was overwritten"
            )
    if with_state and target.released(key):
        target.backend.delete(f"released/{key}")


def _measured(layer: Layer, manifest: Manifest) -> list[tuple[str, str, str]]:
    if not manifest.measurements:
        return []
    rows = decode_measurements(layer.read_blob(blob_name(manifest.measurements, "parquet")))
    return [(m.key, m.name, m.value.hex()) for m in rows]
