"""The law of transfer from measured cells: D_T = k D_F^alpha N^beta, three routes, and two sources compared.

A cell (N, D_F) has log D_T with each root's share of its error; the law is linear in logarithms, so each root has its
own (log k, alpha, beta) and their scatter over roots is the error of the estimate: cells that share a curve from
scratch, or a pre-trained model, are not counted as independent. Where cells miss the law by more than the
roots explain, that scatter is added. Source: Hernandez et al. 2021 (2102.01293), equations 1.1, B.2, C.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isoloss.laws import LawError, Points, fit
from isoloss.laws.forms.transfer import fit_of_fits
from isoloss.worth.compare import FEWEST_SEEDS, LEVEL, student

Array = np.ndarray
NAMES = ("k", "alpha", "beta")
FEWEST_CELLS = 4
DRAWS = 400


@dataclass(frozen=True)
class Cell:
    """One measured D_T (above 0) with each root's share of the error of its logarithm."""

    N: float
    D_F: float
    D_T: float
    parts: Mapping[str, float]


@dataclass(frozen=True)
class Model:
    """A fitted law: theta = (log k, alpha, beta) with the two parts of its covariance.

    by_root (roots, 3): what theta would be by one root alone. scatter: standard deviation of log D_T around the law
    beyond the noise of the roots. gram (3, 3): its share in the covariance is scatter^2 times this.
    """

    theta: Array
    by_root: Array
    roots: tuple[str, ...]
    scatter: float
    gram: Array
    cells: int

    @property
    def root_covariance(self) -> Array:
        """Covariance (3, 3) of theta from roots."""
        if len(self.roots) < 2:
            return np.full((3, 3), np.nan)
        return np.cov(self.by_root.T) / len(self.roots)

    def spread(self, x: Array, new_cell: bool = False) -> tuple[float, float]:
        """(standard error of x theta, its degrees of freedom); with `new_cell` for one more cell of the law."""
        a = float(x @ self.root_covariance @ x)
        b = self.scatter**2 * (float(x @ self.gram @ x) + float(new_cell))
        free_a, free_b = len(self.roots) - 1, max(self.cells - 3, 1)
        freedom = (a + b) ** 2 / (a * a / free_a + b * b / free_b) if a + b > 0 else float(free_a)
        return math.sqrt(a + b), freedom

    def interval(self, x: Array, new_cell: bool = False) -> tuple[float, float | None, float | None]:
        """(x theta, low, high); no interval below three roots."""
        value = float(x @ self.theta)
        if len(self.roots) < FEWEST_SEEDS:
            return value, None, None
        spread, freedom = self.spread(x, new_cell)
        half = student(freedom) * spread
        return value, value - half, value + half


def refusal(cells: Sequence[Cell]) -> str | None:
    """Why these cells determine no law, or None."""
    sizes, data = {c.N for c in cells}, {c.D_F for c in cells}
    found = f"{len(cells)} usable cells, {len(sizes)} sizes N and {len(data)} sizes of target data D_F"
    need = f"a law of transfer needs {FEWEST_CELLS} cells over 2 sizes N and 2 of D_F"
    if len(cells) < FEWEST_CELLS or len(sizes) < 2 or len(data) < 2:
        return f"{found}; {need}"
    if np.linalg.matrix_rank(_design(cells, centred=True)) < 3:
        return f"{found}, but N and D_F rise together; cross them"
    return None


def model(cells: Sequence[Cell]) -> Model:
    """The direct log fit. Raises ValueError where the cells determine no law."""
    reason = refusal(cells)
    if reason:
        raise ValueError(f"transfer: {reason}")
    X = _design(cells)
    y = np.log([c.D_T for c in cells])
    solve = np.linalg.pinv(X)
    theta = solve @ y
    roots = tuple(sorted({root for c in cells for root in c.parts}))
    parts = np.array([[c.parts.get(root, 0.0) for c in cells] for root in roots])
    by_root = theta + len(roots) * parts @ solve.T
    residual = y - X @ theta
    free = len(cells) - 3
    left = np.eye(len(cells)) - X @ solve
    seen = parts.T @ parts * len(roots) / max(len(roots) - 1, 1)
    beyond = (float(residual @ residual) - float(np.trace(left @ seen))) / free
    return Model(theta, by_root, roots, math.sqrt(max(beyond, 0.0)), solve @ solve.T, len(cells))


def law(cells: Sequence[Cell]) -> dict[str, Any]:
    """The law by three routes, as JSON types. Raises ValueError where the cells determine no law.

    "direct": least squares in log D_T; "logit": the fraction D_T / D_E on the logit scale, robust (Huber), with the
    cluster bootstrap of `isoloss.laws` over roots; "fit of fits": one slope beta, N* for each D_F, then N*(D_F), with
    equal weight for each D_F. Scatter of the cells around the law widens all three. k, alpha, beta of the record are
    those of the direct route.
    """
    found = model(cells)
    direct = _named([found.interval(unit) for unit in np.eye(3)])
    record: dict[str, Any] = {
        **direct,
        "cells": len(cells),
        "roots": len(found.roots),
        "scatter": found.scatter,
        "range": {
            "N": [min(c.N for c in cells), max(c.N for c in cells)],
            "D_F": [min(c.D_F for c in cells), max(c.D_F for c in cells)],
        },
        "routes": {"direct": direct, "logit": _logit(cells, found), "fit of fits": _two_stages(cells, found)},
        "theta": found.theta.tolist(),
        "by_root": found.by_root.tolist(),
        "gram": found.gram.tolist(),
        "design": [[c.N, c.D_F] for c in cells],
        "noise": _noise(cells, found.roots),
    }
    return record


def restored(record: Mapping[str, Any]) -> Model:
    """The model of a law's record. Raises ValueError for a record that is none."""
    missing = [name for name in ("theta", "by_root", "gram", "scatter", "cells") if name not in record]
    if missing:
        raise ValueError(f"transfer: not the record of a fitted law, it lacks {', '.join(missing)}")
    roots = tuple(str(i) for i in range(len(record["by_root"])))
    arrays = [np.asarray(record[name], float) for name in ("theta", "by_root", "gram")]
    return Model(arrays[0], arrays[1], roots, float(record["scatter"]), arrays[2], int(record["cells"]))


def same(first: Sequence[Cell], second: Sequence[Cell]) -> dict[str, Any]:
    """Two sources on the cells they share: differences of log k, alpha, beta (second minus first) as tests.

    Roots that both have are paired. `p` is two-sided, by Student's t. Raises ValueError where the shared cells
    determine no law.
    """
    shared = {(c.N, c.D_F) for c in first} & {(c.N, c.D_F) for c in second}
    ours, theirs = (sorted((c for c in s if (c.N, c.D_F) in shared), key=_place) for s in (first, second))
    a, b = model(ours), model(theirs)
    difference = b.theta - a.theta
    seeds = min(len(a.roots), len(b.roots))
    record: dict[str, Any] = {"cells": len(ours), "roots": seeds}
    covariance = _difference_covariance(a, b)
    for i, name in enumerate(("log k", "alpha", "beta")):
        value: dict[str, float | None] = {"difference": float(difference[i]), "low": None, "high": None, "p": None}
        if seeds >= FEWEST_SEEDS:
            from scipy.special import stdtr

            from_roots = float(covariance[i, i])
            from_cells = (a.scatter**2 + b.scatter**2) * float(a.gram[i, i])
            spread = max(math.sqrt(from_roots + from_cells), 1e-300)
            free = spread**4 / (from_roots**2 / (seeds - 1) + from_cells**2 / max(a.cells - 3, 1) + 1e-300)
            half = student(free) * spread
            value |= {"low": float(difference[i]) - half, "high": float(difference[i]) + half}
            value["p"] = 2.0 * float(stdtr(free, -abs(float(difference[i])) / spread))
        record[name] = value
    return record


def _difference_covariance(a: Model, b: Model) -> Array:
    """Covariance (3, 3) of theta_b - theta_a; shared roots are paired, others are independent."""
    roots = sorted(set(a.roots) | set(b.roots))
    total = np.zeros((len(roots), 3))
    for sign, m in ((-1.0, a), (1.0, b)):
        for root, own in zip(m.roots, m.by_root, strict=True):
            total[roots.index(root)] += sign * (own - m.theta) / len(m.roots)
    seeds = min(len(a.roots), len(b.roots))
    return total.T @ total * seeds / max(seeds - 1, 1)


def _design(cells: Sequence[Cell], centred: bool = False) -> Array:
    X = np.array([[1.0, math.log(c.D_F), math.log(c.N)] for c in cells])
    if centred:
        X[:, 1:] -= X[:, 1:].mean(axis=0)
    return X


def _place(cell: Cell) -> tuple[float, float]:
    return cell.N, cell.D_F


def _named(values: Sequence[tuple[float, float | None, float | None]]) -> dict[str, dict[str, float | None]]:
    """Intervals of (log k, alpha, beta) as records of k, alpha, beta."""
    found = {}
    for name, ends in zip(NAMES, values, strict=True):
        turned = [None if v is None else (_exp(v) if name == "k" else v) for v in ends]
        found[name] = dict(zip(("estimate", "low", "high"), turned, strict=True))
    return found


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))


def _noise(cells: Sequence[Cell], roots: Sequence[str]) -> float | None:
    """Standard deviation of log D_T of one cell from one root alone, pooled over cells; None for one root."""
    n = len(roots)
    if n < 2:
        return None
    squares = [sum(v * v for v in c.parts.values()) * n * n / (n - 1) for c in cells]
    return math.sqrt(float(np.mean(squares)))


def _by_root(cells: Sequence[Cell], roots: Sequence[str]) -> Array:
    """Log D_T (roots, cells) by each root alone; their mean over roots is the measured one."""
    y = np.log([c.D_T for c in cells])
    return y + len(roots) * np.array([[c.parts.get(root, 0.0) for c in cells] for root in roots])


def _two_stages(cells: Sequence[Cell], found: Model) -> dict[str, dict[str, float | None]]:
    """Fit of fits of each root's cells: it is linear in the logits, so the mean over roots is that of the means."""
    D_F, N = (np.array(v, float) for v in ([c.D_F for c in cells], [c.N for c in cells]))

    def theta(row: Array) -> Array:
        logit = row - np.log(D_F)
        # Shares that round to 1 would be refused; the fit is linear, so a common shift only moves log k.
        shift = float(logit.mean())
        got = fit_of_fits(D_F, N, 1.0 / (1.0 + np.exp(-np.clip(logit - shift, -30.0, 30.0))))
        return np.array([math.log(got["k"]) + shift, got["alpha"], got["beta"]])

    table = np.array([theta(row) for row in _by_root(cells, found.roots)])
    mean = table.mean(axis=0)
    if len(table) < FEWEST_SEEDS:
        return _named([(float(m), None, None) for m in mean])
    half = student(len(table) - 1) * table.std(axis=0, ddof=1) / math.sqrt(len(table))
    y = np.log([c.D_T for c in cells])
    weights = np.array([theta(y + one) for one in np.eye(len(cells))]) - theta(y)
    half = np.hypot(half, _beyond(found, np.sqrt((weights**2).sum(axis=0))))
    return _named([(float(m), float(m - h), float(m + h)) for m, h in zip(mean, half, strict=True)])


def _beyond(found: Model, weights: Array) -> Array:
    """Half-widths (3,) from the scatter of the cells; weights: norms of the estimates as functions of log D_T."""
    return np.asarray(student(max(found.cells - 3, 1)) * found.scatter * weights)


def _logit(cells: Sequence[Cell], found: Model) -> dict[str, Any]:
    """The logit form by `isoloss.laws`, roots as clusters; scatter counts with the weights of least squares."""
    roots = found.roots
    log_T = _by_root(cells, roots)
    rows = [(c, root, log_T[i, j]) for i, root in enumerate(roots) for j, c in enumerate(cells)]
    # The form is linear in the logit: a common shift of all logits moves log k alone and keeps shares off 0 and 1.
    logits = np.array([v - math.log(c.D_F) for c, _, v in rows])
    shift = float(logits.mean())
    points = Points(
        N=[c.N for c, _, _ in rows],
        D_F=[c.D_F for c, _, _ in rows],
        fraction=1.0 / (1.0 + np.exp(-np.clip(logits - shift, -30.0, 30.0))),
        cluster=[root for _, root, _ in rows],
    )
    delta = 1.345 * max(math.hypot(_noise(cells, roots) or 0.0, found.scatter), 1e-3)
    try:
        got = fit(points, "transfer-fraction", cluster="cluster", delta=delta)
        estimate = {"k": _exp(math.log(got.parameters["k"]) + shift), "alpha": got.derived["alpha"]}
        estimate["beta"] = got.parameters["beta"]
        ends: dict[str, tuple[float | None, float | None]] = dict.fromkeys(NAMES, (None, None))
        if len(roots) >= FEWEST_SEEDS:
            draws = got.bootstrap(DRAWS)
            for name, extra in zip(NAMES, _beyond(found, np.sqrt(np.diag(found.gram))), strict=True):
                interval = draws.interval(name, LEVEL)
                if name == "k":
                    middle, low, high = (math.log(max(v, 1e-300)) for v in (got.parameters["k"], *interval))
                    low, high = _widened(middle, low, high, extra)
                    ends[name] = (_exp(low + shift), _exp(high + shift))
                else:
                    ends[name] = _widened(estimate[name], interval.low, interval.high, extra)
    except LawError as error:
        return {"note": str(error)}
    return {name: {"estimate": estimate[name], "low": ends[name][0], "high": ends[name][1]} for name in NAMES}


def _widened(middle: float, low: float, high: float, extra: float) -> tuple[float, float]:
    """An interval around an estimate with an independent half-width beside its own."""
    return middle - math.hypot(middle - low, extra), middle + math.hypot(high - middle, extra)
