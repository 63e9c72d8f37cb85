"""The best learning rate between candidates: the vertex of a parabola in its logarithm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

NEIGHBOURS = 2
"""Candidates on either side of the winner that the parabola is fitted to, where there are as many."""


def vertex(losses: Mapping[float, float]) -> float | None:
    """The learning rate of the parabola's lowest point; None for an edge of the candidates, or no convex parabola."""
    rates = sorted(rate for rate, loss in losses.items() if math.isfinite(loss))
    best = min(range(len(rates)), key=lambda i: losses[rates[i]], default=0)
    if not 0 < best < len(rates) - 1:
        return None
    near = rates[max(0, best - NEIGHBOURS) : best + NEIGHBOURS + 1]
    lowest = bottom(np.log(near), [losses[rate] for rate in near])
    return None if math.isnan(lowest) else math.exp(lowest)


def bottom(x: Sequence[float] | np.ndarray, y: Sequence[float]) -> float:
    """Where a parabola through (x, y) is lowest, in least squares; NaN where it is not convex."""
    # From the mean, so that the fit is well conditioned.
    middle = float(np.mean(x))
    a, b, _ = np.polyfit(np.asarray(x) - middle, y, 2)
    return middle - float(b / (2 * a)) if a > 0 else math.nan
