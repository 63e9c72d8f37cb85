"""The estimators of Alabdulmohsin et al. 2022 (2209.06640) as published, to reproduce their tables.

They are not this library's fits of the same forms: M2 there minimises squared residuals of the logarithm of
the *excess* loss L - E, and M3 alternates a linear regression with a search of g among the values that pass
exactly through one row. The fits of `isoloss.laws.fitting` minimise residuals of log L and reach their
optimum.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from isoloss.laws.errors import unknown

Array = np.ndarray
MARGIN = 1e-3  # their distance between E and the smallest loss


def published_estimate(x: Any, loss: Any, estimator: str) -> dict[str, float]:
    """Parameters of 'm1', 'm2' or 'm3' by the published procedure. Raises LawError for another name."""
    estimators = {"m1": _m1, "m2": _m2, "m3": _m3}
    if estimator not in estimators:
        raise unknown("published estimator", estimator, estimators)
    x, y = np.asarray(x, dtype=float), np.asarray(loss, dtype=float)
    return estimators[estimator](np.log(x), y)


def _line(u: Array, v: Array) -> tuple[Array, Array]:
    """Intercept and slope of least squares; u has shape (..., rows)."""
    du = u - u.mean(axis=-1, keepdims=True)
    slope = np.sum(du * (v - v.mean(axis=-1, keepdims=True)), axis=-1) / np.sum(du * du, axis=-1)
    return v.mean(axis=-1) - slope * u.mean(axis=-1), slope


def _m1(lx: Array, y: Array) -> dict[str, float]:
    intercept, slope = _line(lx, np.log(y))
    return {"b": float(np.exp(intercept)), "c": float(-slope)}


def _m2(lx: Array, y: Array) -> dict[str, float]:
    """Their descent starts E at the smallest loss and ends in the first local minimum below it (or at 0)."""
    grid = np.concatenate([[0.0], np.linspace(0.0, y.min() - MARGIN, 4001)[1:]])
    excess = np.log(y[None, :] - grid[:, None])
    intercept, slope = _line(lx, excess)
    score = np.sum((excess - intercept[:, None] - slope[:, None] * lx) ** 2, axis=1)
    inner = np.flatnonzero((score[1:-1] <= score[:-2]) & (score[1:-1] <= score[2:])) + 1
    chosen = int(inner[-1]) if len(inner) else (0 if score[0] <= score[-1] else len(grid) - 1)
    return {"E": float(grid[chosen]), "b": float(np.exp(intercept[chosen])), "c": float(-slope[chosen])}


def _m3(lx: Array, y: Array) -> dict[str, float]:
    target, inverse = np.log(y), np.exp(-lx)
    g, before = 0.0, 1.0
    intercept, c = 0.0, 0.0
    for _ in range(10_000):
        a, slope = _line(np.log(inverse + g), target)
        intercept, c = float(a), max(float(slope), 0.0)
        if c > 0:
            passing = np.exp((target - intercept) / c) - inverse
            options = np.concatenate([[g], passing[passing >= 0]])
            residual = target - intercept - c * np.log(inverse + options[:, None])
            g = float(options[np.argmin(np.sum(residual**2, axis=1))])
        now = float(np.exp(intercept))
        if abs(now - before) < 1e-10:
            break
        before = now
    return {"b": float(np.exp(intercept)), "g": g, "c": c}
