"""A store in one Parquet file: what every piece is and what it measured, one row a piece; no states.

Columns: those of a manifest; ``measurements``, a list of (key, update, name, value); ``curve.<name>`` for every column
of training curves that was kept, a list with an entry an update.
"""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from isoloss.recipe.errors import StoreError
from isoloss.store.backend import Buffer, Stat
from isoloss.store.layer import FORMAT_VERSION, Layer
from isoloss.store.pieces import Manifest, manifest_name
from isoloss.store.tables import Measurement, decode_measurements, encode_curve, encode_measurements
from isoloss.store.tensors import blob_name, canonical_json

SUFFIX = ".parquet"
_TEXT = ("piece", "start_key", "end_key", "status", "detail", "digest", "track")
_COUNT = ("start_update", "end_update", "state_bytes", "offset")
_SCHEMA: dict[str, Any] = {
    **dict.fromkeys(_TEXT, pl.String),
    **dict.fromkeys(_COUNT, pl.Int64),
    "seconds": pl.Float64,
    "labels": pl.String,
    "measurements": pl.List(pl.Struct({"key": pl.String, "update": pl.Int64, "name": pl.String, "value": pl.Float64})),
}
_CURVE = "curve."


def pack(
    layers: Collection[Layer],
    path: str | Path,
    keys: Collection[str] | None = None,
    columns: Collection[str] = (),
    tracks: Collection[str] | None = None,
) -> int:
    """Write the pieces of `layers` (all, or those that end at or measure `keys`) into a new file; how many.

    `columns`: what is kept of training curves beside the update, nothing by default; `tracks`: of these alone. An older
    file is replaced.
    """
    found: dict[str, tuple[Manifest, Sequence[Measurement], Mapping[str, np.ndarray]]] = {}
    for layer in layers:
        measuring = {piece for key in keys or () for _, _, piece in layer.index.measurements_at(key).values()}
        for row in layer.index.pieces():
            if row.piece in found or not (keys is None or row.end_key in keys or row.piece in measuring):
                continue
            manifest = layer.read_manifest(manifest_name(row.end_key, row.piece))
            table: Sequence[Measurement] = ()
            if manifest.measurements:
                table = decode_measurements(layer.read_blob(blob_name(manifest.measurements, "parquet")))
            wanted = columns and (tracks is None or row.track in tracks)
            curve = layer.curve(manifest.curve) if manifest.curve and wanted else {}
            found[row.piece] = manifest, table, {name: curve[name] for name in ("update", *columns) if name in curve}
    rows = sorted(found.values(), key=lambda entry: (entry[0].track, entry[0].offset, entry[0].piece))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    _frame(rows).write_parquet(buffer, compression="zstd", compression_level=19, statistics=False)
    Path(path).write_bytes(buffer.getvalue())
    return len(rows)


def _frame(rows: Sequence[tuple[Manifest, Sequence[Measurement], Mapping[str, np.ndarray]]]) -> pl.DataFrame:
    plain: dict[str, list[Any]] = {name: [] for name in _SCHEMA}
    for manifest, table, _ in rows:
        for name in (*_TEXT, *_COUNT, "seconds"):
            plain[name].append(getattr(manifest, name))
        # The rest says how to train on from a state, with places of data on the machine that trained.
        plain["labels"].append(canonical_json({k: v for k, v in manifest.labels.items() if k == "numerics"}))
        plain["measurements"].append([m._asdict() for m in table])
    frame = pl.DataFrame(plain, schema=_SCHEMA)
    for name in sorted({name for _, _, curve in rows for name in curve}):
        values = [None if name not in curve else pl.Series(curve[name]) for _, _, curve in rows]
        frame = frame.with_columns(pl.Series(_CURVE + name, values))
    return frame


class PackedBackend:
    """Such a file, seen as the folder of a store that nobody can write to. Raises StoreError where it is none."""

    parallel = 1

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._written = path.stat().st_mtime
            frame = pl.read_parquet(path)
            self._files = {"format.json": canonical_json({"isoloss_store": FORMAT_VERSION}).encode()}
            for row in frame.iter_rows(named=True):
                self._add(row)
        except FileNotFoundError:
            raise StoreError(f"there is no file of measurements at {path}") from None
        except (OSError, pl.exceptions.PolarsError, KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{path} is no file of measurements as `isoloss store export` writes it ({error})"
            ) from None

    def _add(self, row: Mapping[str, Any]) -> None:
        table = encode_measurements([Measurement(**entry) for entry in row["measurements"]])
        curve = {
            name.removeprefix(_CURVE): np.asarray(values)
            for name, values in row.items()
            if name.startswith(_CURVE) and values is not None
        }
        blobs = [table] if row["measurements"] else []
        manifest = Manifest(
            **{name: row[name] for name in (*_TEXT, *_COUNT, "seconds")},
            labels=json.loads(row["labels"]),
            curve=None,
            measurements=table.digest if blobs else None,
            sides={},
            recipes={},
        )
        if curve:
            blobs.append(encode_curve(curve))
            manifest = replace(manifest, curve=blobs[-1].digest)
        for blob in blobs:
            self._files[blob.name] = b"".join(blob.chunks)
        self._files[manifest.name] = manifest.encode()

    def put_new(self, name: str, chunks: Iterable[Buffer], durable: bool = True) -> bool:
        """Nothing can be written."""
        raise StoreError(f"{self._path} is a file of measurements, which is only read: use it with --under")

    def delete(self, name: str) -> None:
        """Nothing can be removed."""
        self.put_new(name, ())

    def move(self, name: str, target: str) -> None:
        """Nothing can be moved."""
        self.put_new(target, ())

    def get(self, name: str) -> bytes:
        """Whole content. Raises FileNotFoundError."""
        if name not in self._files:
            raise FileNotFoundError(2, "is not in the file", self.where(name))
        return self._files[name]

    def exists(self, name: str) -> bool:
        """Whether the file has it."""
        return name in self._files

    def present(self, folder: str, names: Collection[str]) -> set[str]:
        """Those that the file has."""
        return self._files.keys() & set(names)

    def list(self, folder: str) -> list[str]:
        """Names directly inside a folder."""
        start = f"{folder}/" if folder else ""
        return sorted({name[len(start) :].partition("/")[0] for name in self._files if name.startswith(start)})

    def walk(self, folder: str) -> Iterator[str]:
        """All names below a folder."""
        return iter([name for name in self._files if name.startswith(f"{folder}/")])

    def stat(self, name: str) -> Stat | None:
        """Size, and when the file was written."""
        return Stat(len(self._files[name]), self._written) if name in self._files else None

    def now(self) -> float:
        """When the file was written: nothing in it is newer."""
        return self._written

    def unfinished(self) -> Iterator[str]:
        """None."""
        return iter(())

    def where(self, name: str) -> str:
        """The file and the name in it."""
        return f"{self._path}:{name}"
