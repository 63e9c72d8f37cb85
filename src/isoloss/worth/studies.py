"""Two finished studies side by side: what differs in them, and what that did to equal cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from isoloss.worth.compare import interval
from isoloss.worth.results import Result, Results

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Pair:
    """One arm at equal coordinates in both studies, over the seeds both have; losses on part B."""

    arm: str
    cell: Mapping[str, Any]
    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    seeds: int
    same_run: bool


@dataclass(frozen=True)
class Difference:
    """Settings that differ (path, first, second), cells both have, and cells only one has."""

    names: tuple[str, str]
    settings: tuple[tuple[str, str, str], ...]
    pairs: tuple[Pair, ...]
    only: tuple[int, int]

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "studies": list(self.names),
            "settings": [{"path": p, "first": a, "second": b} for p, a, b in self.settings],
            "cells": [{**vars(pair), "cell": dict(pair.cell)} for pair in self.pairs],
            "only_first": self.only[0],
            "only_second": self.only[1],
        }

    def table(self) -> RenderableType:
        """For a terminal."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        settings = Table(title="what differs in the files", title_justify="left", box=None, padding=(0, 2, 0, 0))
        for name in ("path", *self.names):
            settings.add_column(name)
        for row in self.settings:
            settings.add_row(*(Text(part) for part in row))
        cells = Table(title="loss at equal cells", title_justify="left", box=None, padding=(0, 2, 0, 0))
        for name in ("arm", "cell", *self.names, "second - first", "90 % interval", "seeds"):
            cells.add_column(name, justify="left" if name in ("arm", "cell") else "right")
        for pair in self.pairs:
            where = " ".join(f"{path.rpartition('.')[2]}={value}" for path, value in pair.cell.items())
            interval = "same run" if pair.same_run else "-"
            if not pair.same_run and pair.low is not None and pair.high is not None:
                interval = f"[{pair.low:+.4f}, {pair.high:+.4f}]"
            cells.add_row(
                Text(pair.arm), Text(where), f"{pair.first:.4f}", f"{pair.second:.4f}", f"{pair.difference:+.4f}",
                Text(interval), str(pair.seeds),
            )  # fmt: skip
        tail = Text(f"{self.only[0]} finished runs are only in {self.names[0]}, {self.only[1]} only in {self.names[1]}")
        return Group(settings, Text(), cells, Text(), tail)


def compare_studies(first: Results, second: Results) -> Difference:
    """Match finished runs by arm and coordinates; the difference is over paired seeds with Student's t."""
    names = (first.study.name, second.study.name)
    if names[0] == names[1]:
        names = (f"{names[0]} (first)", f"{names[1]} (second)")
    left, right = _finished(first), _finished(second)
    both = [key for key in left if key in right]
    groups: dict[tuple[str, str], list[tuple[Result, Result]]] = {}
    for key in both:
        a, b = left[key], right[key]
        cell = {path: value for path, value in a.cell.items() if path != "seed"}
        groups.setdefault((a.arm, repr(cell)), []).append((a, b))
    pairs = [_pair(found) for found in groups.values()]
    return Difference(
        names,
        tuple(_settings(first.study.raw, second.study.raw)),
        tuple(pairs),
        (len(left) - len(both), len(right) - len(both)),
    )


def _finished(results: Results) -> dict[tuple[str, str], Result]:
    return {(r.arm, repr(sorted(r.cell.items(), key=str))): r for r in results.results if r.status == "done"}


def _pair(found: list[tuple[Result, Result]]) -> Pair:
    first = np.array([a.loss for a, _ in found], float)
    second = np.array([b.loss for _, b in found], float)
    difference = interval(second - first)
    a = found[0][0]
    cell = {path: value for path, value in a.cell.items() if path != "seed"}
    same = all(x.key == y.key for x, y in found)
    return Pair(a.arm, cell, float(first.mean()), float(second.mean()), *difference, len(found), same)


def _settings(first: Any, second: Any, path: str = "") -> list[tuple[str, str, str]]:
    """Leaves that differ between two nested mappings."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        found = []
        for name in dict.fromkeys([*first, *second]):
            inner = f"{path}.{name}" if path else str(name)
            found += _settings(first.get(name), second.get(name), inner)
        return found
    return [] if first == second else [(path, _words(first), _words(second))]


def _words(value: Any) -> str:
    return "-" if value is None else str(value)
