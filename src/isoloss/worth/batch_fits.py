"""Small estimates behind the large-batch question: paired noise, the interval of B_crit, ratios, laws of distance.

    log S = cell + seed + noise                   least squares; one noise for all cells
    log S = constant + log(1 + B_crit / B)        the hyperbola (S/S_min - 1)(E/E_min - 1) = 1 at a given B_crit

Sources: McCandlish et al. 2018 (1812.06162), equation 2.11; Fieller 1954; Hoffer et al. 2017 (1705.08741), section 4.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isoloss.laws import Points, fit
from isoloss.worth.compare import FEWEST_SEEDS, Ratio, student

FAR = 1e4
"""B_crit is searched for between the smallest batch over this and the largest times this."""
MISFIT = 0.05
"""Below this probability the hyperbola is said to miss the runs by more than their noise."""

Cell = tuple[str, float]
Maybe = float | None
NOTHING: Mapping[str, float | None] = {"ratio": None, "low": None, "high": None}
"""An estimate that there is none of."""


@dataclass(frozen=True)
class Additive:
    """log S = cell + seed + noise by least squares: effects of cells, their covariance over the noise's, the noise."""

    cells: tuple[Cell, ...]
    effects: np.ndarray
    covariance: np.ndarray
    variance: float
    freedom: int
    seeds: int

    def log_ratio(self, over: Cell, under: Cell) -> Ratio:
        """exp(cell - cell) with its interval."""
        contrast = np.zeros(len(self.cells))
        contrast[self.cells.index(over)] += 1
        contrast[self.cells.index(under)] -= 1
        mean = float(contrast @ self.effects)
        if not contrast.any():
            return Ratio(1.0, 1.0, 1.0)
        if self.seeds < FEWEST_SEEDS or self.freedom < 1:
            return Ratio(math.exp(mean))
        half = student(self.freedom) * math.sqrt(self.variance * float(contrast @ self.covariance @ contrast))
        return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def additive(steps: Mapping[Cell, Mapping[str, float]]) -> Additive:
    """The additive model of log updates by cell and seed; seeds may be missing in some cells.

    Where cells share no seeds, nothing is paired and the seed's effect is part of the noise.
    """
    cells = tuple(sorted(steps))
    seeds = sorted({seed for values in steps.values() for seed in values})
    X, y = [], []
    for i, cell in enumerate(cells):
        for seed, value in steps[cell].items():
            row = np.zeros(len(cells) + len(seeds) - 1)
            row[i] = 1.0
            if seeds.index(seed):
                row[len(cells) + seeds.index(seed) - 1] = 1.0
            X.append(row)
            y.append(value)
    design, values = np.array(X), np.array(y)
    if np.linalg.matrix_rank(design) < design.shape[1]:
        design = design[:, : len(cells)]
    solved = np.linalg.lstsq(design, values, rcond=None)[0]
    freedom = len(values) - int(np.linalg.matrix_rank(design))
    variance = float(((values - design @ solved) ** 2).sum() / freedom) if freedom else math.nan
    covariance = np.linalg.pinv(design.T @ design)
    k = len(cells)
    return Additive(cells, solved[:k], covariance[:k, :k], variance, freedom, len(seeds))


def profile(
    y: np.ndarray, batch: np.ndarray, best: float, model: Additive, index: Sequence[int]
) -> tuple[Maybe, Maybe, Maybe]:
    """(low, high) of B_crit where the sum of squares rises by more than the noise allows, and the p of the misfit.

    Given B_crit the law is log S = constant + log(1 + B_crit / B), so the sum of squares is a function of B_crit alone.
    """
    from scipy.special import fdtrc

    # Inverse covariance of the arm's effects up to a common shift, in units of the noise.
    centre = np.eye(len(y)) - 1.0 / len(y)
    weight = np.linalg.pinv(centre @ model.covariance[np.ix_(index, index)] @ centre)

    def excess(log_b: float) -> float:
        r = centre @ (y - np.log1p(np.exp(log_b) / batch))
        return float(r @ weight @ r)

    ends = math.log(batch.min() / FAR), math.log(batch.max() * FAR)
    middle = min(max(math.log(best), ends[0]), ends[1])
    grid = np.unique(np.concatenate([np.linspace(*ends, 400), [middle]]))
    values = np.array([excess(v) for v in grid])
    lowest = int(np.argmin(values))
    spare = len(y) - 2
    p, unit, freedom = None, max(model.variance, 1e-30), model.freedom
    if spare:
        misfit = values[lowest] / spare
        p = float(fdtrc(spare, freedom, misfit / unit))
        if p < MISFIT:
            unit, freedom = misfit, spare
    limit = values[lowest] + student(freedom) ** 2 * unit
    return _cross(grid[lowest::-1], excess, limit), _cross(grid[lowest:], excess, limit), p


def _cross(grid: np.ndarray, excess: Callable[[float], float], limit: float) -> Maybe:
    """exp of where `excess` first passes `limit` along the grid; None where it does not."""
    for inside, outside in itertools.pairwise(grid):
        if excess(float(outside)) > limit:
            a, b = float(inside), float(outside)
            for _ in range(40):
                m = 0.5 * (a + b)
                a, b = (a, m) if excess(m) > limit else (m, b)
            return math.exp(a)
    return None


def fieller(over: np.ndarray, under: np.ndarray) -> tuple[Maybe, Maybe, Maybe]:
    """(ratio, low, high) of two paired means; no interval below three pairs or where the lower mean may be 0.

    The interval holds every r for which mean(over - r under) is not distinguishable from 0 (Fieller 1954).
    """
    n = len(over)
    a, d = float(over.mean()), float(under.mean())
    if d == 0:
        return None, None, None
    if n < FEWEST_SEEDS:
        return a / d, None, None
    g = student(n - 1) ** 2 / n
    v = np.cov(over, under)
    A, B, C = d * d - g * v[1, 1], a * d - g * v[0, 1], a * a - g * v[0, 0]
    inside = B * B - A * C
    if A <= 0 or inside < 0:
        return a / d, None, None
    return a / d, float((B - math.sqrt(inside)) / A), float((B + math.sqrt(inside)) / A)


def growth(updates: Sequence[float], distances: Sequence[float]) -> dict[str, Any]:
    """Both laws of ||w_t - w_0||: a ln t + b and a t^p, by least squares in log distance, and which one describes it.

    `better` needs both: the smaller error on all points, and the smaller error of a fit to the first two thirds on the
    rest; otherwise it is "not resolved". Take updates of one constant learning rate, after any warm-up. Raises
    ValueError below six points with positive distances.
    """
    t, d = np.asarray(updates, float), np.asarray(distances, float)
    fine = (t > 1) & (d > 0) & np.isfinite(d)
    t, d = t[fine], d[fine]
    if len(t) < 6:
        raise ValueError(
            f"growth: {len(t)} usable points; allowed: six or more with updates above 1 and distances above 0"
        )
    early = np.arange(len(t)) < 2 * len(t) // 3
    found: dict[str, Any] = {}
    for name in ("log-growth", "power-growth"):
        law = fit(Points(S=t, distance=d), name, loss="squared")
        part = fit(Points(S=t[early], distance=d[early]), name, loss="squared")
        with np.errstate(all="ignore"):
            ahead = np.log(d[~early]) - np.log(part.predict(S=t[~early]))
        error = float(np.sqrt(np.mean(ahead**2)))
        found[name] = {**law.parameters, "rmse": law.rmse, "ahead": error if math.isfinite(error) else None}
    a, b = found["log-growth"], found["power-growth"]
    far_a, far_b = (math.inf if law["ahead"] is None else law["ahead"] for law in (a, b))
    if a["rmse"] < b["rmse"] and far_a < far_b:
        better = "log-growth"
    elif b["rmse"] < a["rmse"] and far_b < far_a:
        better = "power-growth"
    else:
        better = "not resolved"
    return {"laws": found, "points": len(t), "better": better}
