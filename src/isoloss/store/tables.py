"""Curves and measurements as Parquet: columns in, the same bits out."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from isoloss.store.backend import Buffer
from isoloss.store.tensors import Blob, make_blob

_MEASUREMENTS = {"key": pl.String, "update": pl.Int64, "name": pl.String, "value": pl.Float64}


class Measurement(NamedTuple):
    """A number of the state (or of an observer) at `key`, `update` updates after the run's root."""

    key: str
    update: int
    name: str
    value: float


def encode_curve(curve: Mapping[str, np.ndarray]) -> Blob:
    """Parquet of columns of equal length, one row an update. Raises ValueError on anything else."""
    lengths = {name: column.shape for name, column in curve.items()}
    if "update" not in curve or len(set(lengths.values())) != 1 or curve["update"].ndim != 1:
        raise ValueError(f"a curve needs 1-D columns of one length, 'update' among them; found {lengths}")
    for name, column in curve.items():
        if column.dtype.kind not in "biuf" or column.dtype.itemsize not in (1, 4, 8):
            allowed = "bool, 8-, 32- or 64-bit integers, float32 or float64"
            raise ValueError(f"column {name!r} of a curve is {column.dtype}; allowed are {allowed}")
    return _parquet(pl.DataFrame({name: np.ascontiguousarray(column) for name, column in curve.items()}))


def decode_curve(data: bytes) -> dict[str, np.ndarray]:
    """Columns of a stored curve."""
    frame = pl.read_parquet(io.BytesIO(data))
    return {name: frame[name].to_numpy(writable=True) for name in frame.columns}


def encode_measurements(measurements: Sequence[Measurement]) -> Blob:
    """Parquet of (key, update, name, value), sorted by key and name."""
    rows = sorted((m.key, int(m.update), m.name, float(m.value)) for m in measurements)
    rows.sort(key=lambda row: (row[0], row[2]))
    return _parquet(pl.DataFrame(rows, schema=_MEASUREMENTS, orient="row"))


def decode_measurements(data: bytes) -> list[Measurement]:
    """Rows of a stored table of measurements."""
    return [Measurement(*row) for row in pl.read_parquet(io.BytesIO(data)).select(*_MEASUREMENTS).iter_rows()]


def _parquet(frame: pl.DataFrame) -> Blob:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", statistics=False)
    chunk: Buffer = buffer.getvalue()
    return make_blob((chunk,), "parquet")
