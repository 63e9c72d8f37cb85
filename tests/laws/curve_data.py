"""The learning curves of Alabdulmohsin et al. 2022 as arrays."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Curve:
    """One learning curve of Alabdulmohsin et al. 2022: rows to fit and rows to predict."""

    key: tuple[str, str, str]
    x: np.ndarray
    loss: np.ndarray
    later_x: np.ndarray
    later_loss: np.ndarray


def read_curves(paths: list[Path]) -> Iterator[Curve]:
    """Every curve of the files, in order."""
    rows: dict[tuple[str, str, str], list[tuple[float, float, bool]]] = {}
    for path in paths:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                key = (row["Domain"], row["Task"], row["Model"])
                early = float(row["Training"]) == 1
                rows.setdefault(key, []).append((float(row["Seen Examples"]), float(row["Loss"]), early))
    for key, found in rows.items():
        early = dict((x, y) for x, y, flag in found if flag)
        x = np.array(sorted(early))
        later = np.array([(a, b) for a, b, flag in found if not flag])
        yield Curve(key, x, np.array([early[a] for a in x]), later[:, 0], later[:, 1])
