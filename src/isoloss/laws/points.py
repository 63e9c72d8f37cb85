"""Points: the one table type of the law library (sizes, tokens, compute, updates, loss and free columns)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isoloss.laws.errors import LawError, unknown
from isoloss.laws.flops import flops_per_token
from isoloss.laws.readers import resembling

QUANTITIES = ("N", "D", "C", "S", "B", "loss", "weight", "unique")
LABELS = ("run", "seed", "cluster")


class Points:
    """Measured points: N parameters, D tokens, C FLOPs, S updates, loss, and anything else by name.

    Every column has one value per row. `run`, `seed` and `cluster` are labels of any type; all other
    columns are numbers. `M` (tokens per parameter) and `R` (passes over unique tokens) are computed from
    the columns where the table does not carry them. Raises LawError for columns of unequal length.
    """

    columns: dict[str, np.ndarray]

    def __init__(
        self,
        N: Any = None,
        D: Any = None,
        loss: Any = None,
        C: Any = None,
        S: Any = None,
        weight: Any = None,
        run: Any = None,
        seed: Any = None,
        cluster: Any = None,
        unique: Any = None,
        **free: Any,
    ) -> None:
        given = {"N": N, "D": D, "loss": loss, "C": C, "S": S, "weight": weight, "run": run, "seed": seed}
        given |= {"cluster": cluster, "unique": unique, **free}
        columns: dict[str, np.ndarray] = {}
        for name, values in given.items():
            if values is not None:
                columns[name] = _column(name, values)
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise LawError(f"columns differ in length: {lengths}")
        self.columns = columns

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> Points:
        """Points from dictionaries; a key that some rows lack becomes NaN (or None for labels) there."""
        rows = list(rows)
        names = list(dict.fromkeys(name for row in rows for name in row))
        return cls(**{name: [row.get(name) for row in rows] for name in names})

    @classmethod
    def read(cls, path: str | Path, columns: Mapping[str, str] | None = None) -> Points:
        """Points from a .csv, .jsonl or .parquet file; `columns` maps our names to the file's headers."""
        from isoloss.laws.readers import read_columns

        return cls(**read_columns(Path(path), columns or {})[0])

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for index in range(len(self)):
            yield {name: values[index] for name, values in self.columns.items()}

    def __getattr__(self, name: str) -> np.ndarray:
        if name.startswith("_") or name == "columns":
            raise AttributeError(name)
        try:
            return self.column(name)
        except LawError as error:
            raise AttributeError(str(error)) from None

    def __repr__(self) -> str:
        return f"Points({len(self)} rows: {', '.join(self.columns)})"

    def column(self, name: str) -> np.ndarray:
        """Values of a column; M = D/N and R = D/unique are computed where absent. Raises LawError."""
        if name in self.columns:
            return self.columns[name]
        if name == "M" and "N" in self.columns and "D" in self.columns:
            return self.columns["D"] / self.columns["N"]
        if name == "R" and "unique" in self.columns and "D" in self.columns:
            return self.columns["D"] / self.columns["unique"]
        if name in ("C", "D") and "N" in self.columns and {"C", "D"} & set(self.columns):
            other = "D" if name == "C" else "C"
            raise LawError(
                f"{name} is not in the table and is not guessed from N and {other}: name the FLOP "
                f"convention (--flops 6ND, or with_{'compute' if name == 'C' else 'tokens'} in Python)"
            )
        similar = resembling(name, self.columns)
        if similar is not None:
            raise LawError(
                f"no column {name!r}; the table has {', '.join(self.columns)}; if {similar!r} is meant, say "
                f"--column {name}={similar!r} (columns={{...}} in Python)"
            )
        raise unknown("column", name, self.columns)

    def numbers(self, name: str) -> np.ndarray:
        """A numeric column as float64. Raises LawError where the column holds labels."""
        values = self.column(name)
        if values.dtype == object:
            raise LawError(f"column {name!r} holds labels, not numbers (first value {values[0]!r})")
        return values

    def where(self, mask: Any) -> Points:
        """Rows where `mask` (booleans, indices, or a function of the points) holds."""
        chosen = np.asarray(mask(self) if callable(mask) else mask)
        return Points(**{name: values[chosen] for name, values in self.columns.items()})

    def with_columns(self, **columns: Any) -> Points:
        """A copy with columns added or replaced (None removes one)."""
        return Points(**{**self.columns, **columns})

    def with_compute(self, convention: str) -> Points:
        """A copy with C = D x FLOPs per token of the named convention. Raises LawError."""
        return self.with_columns(C=self.column("D") * flops_per_token(convention, self.columns))

    def with_tokens(self, convention: str) -> Points:
        """A copy with D = C / FLOPs per token of the named convention. Raises LawError."""
        return self.with_columns(D=self.column("C") / flops_per_token(convention, self.columns))

    def drop_largest_loss(self, count: int, response: str = "loss") -> Points:
        """Without the `count` rows of largest `response` (the leave-out rule of Besiroglu et al. 2024).

        Raises LawError where the table does not have more rows than that.
        """
        if not 0 <= count < len(self):
            raise LawError(f"cannot leave out {count} rows of largest {response}: the table has {len(self)} rows")
        order = np.argsort(self.numbers(response), kind="stable")
        return self.where(np.sort(order[: len(self) - count]))

    def join(self, other: Points) -> Points:
        """Both tables one above the other, with the columns they share."""
        shared = [name for name in self.columns if name in other.columns]
        return Points(**{name: list(self.columns[name]) + list(other.columns[name]) for name in shared})

    def clusters(self, by: str | Callable[[Points], Any] | Sequence[Any] | None = None) -> tuple[np.ndarray, str]:
        """Cluster index per row and the name of what was used.

        Order of choice: `by` (a column, a function or labels), else the `cluster` column, else `run`, else
        model size N, else every row by itself.
        """
        if by is None:
            present = [name for name in ("cluster", "run", "N") if name in self.columns]
            by = present[0] if present else None
            if by == "run" and len(set(self.columns["run"].tolist())) == len(self) and "N" in self.columns:
                by = "N"
        if by is None:
            return np.arange(len(self)), "row"
        if isinstance(by, str):
            labels, name = self.column(by), by
        elif callable(by):
            labels, name = np.asarray(by(self)), getattr(by, "__name__", "function")
        else:
            labels, name = np.asarray(list(by), dtype=object), "labels"
        if len(labels) != len(self):
            raise LawError(f"cluster labels: {len(labels)} for {len(self)} rows")
        if name == "N":
            labels = _sizes(labels)
        index: dict[Any, int] = {}
        found = [index.setdefault(_hashable(label), len(index)) for label in labels.tolist()]
        return np.array(found, dtype=int), name

    def without_embeddings(self) -> Points:
        """A copy whose N leaves out the embeddings, vocab x d_model once or (untied) twice. Raises LawError."""
        from isoloss.laws.checks import without_embeddings

        return without_embeddings(self)

    def check(self) -> list[str]:
        """Warnings in plain words: ranges, duplicates, clusters, units, seeds, weights, embeddings."""
        from isoloss.laws.checks import check_points

        return check_points(self)


def _sizes(values: np.ndarray) -> np.ndarray:
    """Size class of each row: sizes within half a percent of their neighbour are one model size."""
    order = np.argsort(values, kind="stable")
    gaps = np.diff(np.log(np.maximum(values[order], 1e-300))) > 5e-3
    classes = np.empty(len(values), dtype=int)
    classes[order] = np.concatenate([[0], np.cumsum(gaps)])
    return classes


def _hashable(label: Any) -> Any:
    return tuple(label) if isinstance(label, list) else label


def _column(name: str, values: Any) -> np.ndarray:
    if not isinstance(values, np.ndarray):
        values = list(values) if isinstance(values, Iterable) and not isinstance(values, str) else [values]
    if name in LABELS:
        return _labels(values)
    try:
        array = np.asarray(
            [np.nan if value is None else value for value in values] if isinstance(values, list) else values,
            dtype=float,
        )
    except (TypeError, ValueError):
        if name in QUANTITIES:
            bad = next(value for value in values if not _is_number(value))
            raise LawError(f"column {name!r} must hold numbers; found {bad!r}") from None
        return _labels(values)
    if array.ndim != 1:
        raise LawError(f"column {name!r} must be one-dimensional; found shape {array.shape}")
    return array


def _labels(values: Any) -> np.ndarray:
    labels = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        labels[index] = value.item() if isinstance(value, np.generic) else value
    return labels


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
