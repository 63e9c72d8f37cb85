"""The forecast of a running job: form and window by rolling origin, a calibrated band, in a millisecond.

Every candidate (a power above a floor, or a power of 1/x + g; over the whole curve or its last stretch) is a
linear least-squares problem for each value of its one nonlinear parameter. Cumulative sums over rows solve it
for all windows and all earlier cut-offs at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from isoloss.laws.calibrate import Calibration, calibrate
from isoloss.laws.errors import LawError

Array = np.ndarray
EXPONENTS = np.geomspace(0.03, 4.0, 32)
FLOORS = np.concatenate([[1e-300], np.geomspace(1e-3, 30.0, 23)])  # of 1/x, at x of geometric mean one
WINDOWS = (np.inf, 32.0, 12.0, 5.0)  # ratio of the last to the first x of a window
ORIGINS = (8.0, 6.0, 4.0, 3.0, 2.5, 2.0, 1.6, 1.3)  # ratio of the last x to the x of an earlier cut-off
FEWEST = 5
RISING_WINDOW = 5.0  # ratio of the last to the first x among which a rise is looked for
MOST = 160


@dataclass(frozen=True)
class Candidate:
    """One form on one window: its coefficients and its errors at earlier cut-offs."""

    form: str
    window: float
    coefficients: tuple[float, float, float]
    score: float


@dataclass(frozen=True)
class Extrapolation:
    """A forecast: chosen form and window, and a band calibrated on the curve's own past."""

    form: str
    window: float
    score: float
    calibration: Calibration
    candidates: list[Candidate]
    last: float
    _centre: float
    _coefficients: tuple[float, float, float]
    warnings: list[str] = field(default_factory=list)

    def predict(self, x: Any) -> Any:
        """Predicted loss at x."""
        result = np.exp(_evaluate(self.form, self._coefficients, np.log(np.asarray(x, float)) - self._centre))
        return float(result) if np.ndim(result) == 0 else result

    def band(self, x: Any, level: float = 0.9) -> tuple[Any, Any, Any]:
        """Low, middle and high of the loss at x; the width grows with the distance from the last row."""
        middle = self.predict(x)
        distance = np.log(np.asarray(x, float)) - np.log(self.last)
        width = self.calibration.half_width(distance, level)
        return middle * np.exp(-width), middle, middle * np.exp(width)


def extrapolate(x: Any, loss: Any) -> Extrapolation:
    """Forecast of a curve of positive losses at increasing positive x (updates, tokens or samples).

    A curve that rises at its end is forecast as flat, with a sentence in `warnings`. Repeated x are averaged;
    long curves are averaged in log bins. Raises LawError for fewer than 7 distinct points or values that are
    not positive and finite.
    """
    log_x, log_y = _clean(np.asarray(x, dtype=float), np.asarray(loss, dtype=float))
    rows = len(log_x)
    centre = float(log_x.mean())
    lx = log_x - centre
    ends = _origins(lx)
    stops = np.array([*ends, rows])
    best: tuple[float, Candidate, list[Array]] | None = None
    candidates = []
    for form in ("floor", "capacity"):
        sums, axis, basis = _sums(form, lx, log_y)
        for window in WINDOWS:
            begin = np.searchsorted(lx, lx[stops - 1] - np.log(window) - 1e-9)
            begin = np.minimum(begin, np.maximum(stops - FEWEST, 0))
            first, second, node = _solve(form, sums, begin, stops)
            predicted = _on_rows(form, first[:-1], second[:-1], basis[node[:-1]])
            errors = [predicted[i, end:] - log_y[end:] for i, end in enumerate(ends)]
            score = float(np.sqrt(np.mean([np.mean(e * e) for e in errors])))
            chosen = (float(first[-1]), float(second[-1]), float(axis[node[-1]]))
            candidate = Candidate(form, window, chosen, score)
            candidates.append(candidate)
            if best is None or score < best[0]:
                best = (score, candidate, errors)
    assert best is not None
    score, winner, errors = best
    distances = [lx[end:] - lx[end - 1] for end in ends]
    calibration = calibrate(distances, errors, float(lx[-1] - lx[ends[0] - 1]), _noise(lx, log_y))
    return Extrapolation(
        winner.form,
        winner.window,
        score,
        calibration,
        candidates,
        float(np.exp(log_x[-1])),
        centre,
        winner.coefficients,
        _warnings(lx, log_y),
    )


def _clean(x: Array, y: Array) -> tuple[Array, Array]:
    if x.shape != y.shape or x.ndim != 1:
        raise LawError(f"x and loss must be one-dimensional and of one length; found {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all() and (x > 0).all() and (y > 0).all()):
        raise LawError("x and loss must be positive and finite")
    log_x, log_y = np.log(x), np.log(y)
    if np.any(np.diff(log_x) <= 0):
        log_x, group = np.unique(log_x, return_inverse=True)
        log_y = np.bincount(group, log_y) / np.bincount(group)
    if len(log_x) > MOST:
        # Bins of equal log width keep every stretch of the curve; empty bins vanish.
        place = (log_x - log_x[0]) / (log_x[-1] - log_x[0]) * (MOST - 1)
        _, group = np.unique(place.astype(int), return_inverse=True)
        count = np.bincount(group)
        log_x, log_y = np.bincount(group, log_x) / count, np.bincount(group, log_y) / count
    if len(log_x) < FEWEST + 2:
        raise LawError(f"a forecast needs at least {FEWEST + 2} distinct x; found {len(log_x)}")
    return log_x, log_y


def _noise(lx: Array, log_y: Array) -> float:
    """Robust standard deviation of one row: how far it lies from the line through its two neighbours."""
    left = (lx[2:] - lx[1:-1]) / (lx[2:] - lx[:-2])
    off = log_y[1:-1] - left * log_y[:-2] - (1.0 - left) * log_y[2:]
    return 1.4826 * float(np.median(np.abs(off) / np.sqrt(1.0 + left**2 + (1.0 - left) ** 2)))


def _warnings(lx: Array, log_y: Array) -> list[str]:
    """A sentence where the last rows rise by more than three standard errors of their slope."""
    begin = min(int(np.searchsorted(lx, lx[-1] - np.log(RISING_WINDOW))), len(lx) - FEWEST)
    x, y = lx[begin:] - lx[begin:].mean(), log_y[begin:] - log_y[begin:].mean()
    slope = float(x @ y / (x @ x))
    error = float(np.sqrt(np.sum((y - slope * x) ** 2) / (len(x) - 2) / (x @ x)))
    if slope <= 3.0 * error or slope < 1e-12:
        return []
    return [
        f"the last {len(x)} rows rise (log loss by {slope:.2g} per unit of log x): the forms only fall, so "
        "the forecast is flat there; look for divergence or overfitting before trusting it"
    ]


def _origins(lx: Array) -> list[int]:
    """Numbers of rows before each earlier cut-off, ascending."""
    ends = sorted({int(np.searchsorted(lx, lx[-1] - np.log(ratio) + 1e-9, side="right")) for ratio in ORIGINS})
    usable = [end for end in ends if FEWEST <= end < len(lx)]
    return usable or [len(lx) - 1]


def _sums(form: str, lx: Array, log_y: Array) -> tuple[Array, Array, Array]:
    """Cumulative sums of the normal equations (6, nodes, rows + 1), the nodes, and the basis column."""
    if form == "floor":
        axis, basis = EXPONENTS, np.exp(-EXPONENTS[:, None] * lx)
        target, weight = np.exp(log_y - log_y.mean()), np.exp(-2.0 * (log_y - log_y.mean()))
        target = target * np.exp(log_y.mean())
        weight = weight * np.exp(-2.0 * log_y.mean())
    else:
        axis, basis = FLOORS, np.logaddexp(np.log(FLOORS)[:, None], -lx)
        target, weight = log_y, np.ones_like(log_y)
    sums = np.zeros((6, len(axis), len(lx) + 1))
    weighted = weight * basis
    np.cumsum(np.broadcast_to(weight, basis.shape), axis=1, out=sums[0, :, 1:])
    np.cumsum(weighted, axis=1, out=sums[1, :, 1:])
    np.cumsum(weighted * basis, axis=1, out=sums[2, :, 1:])
    np.cumsum(np.broadcast_to(weight * target, basis.shape), axis=1, out=sums[3, :, 1:])
    np.cumsum(weighted * target, axis=1, out=sums[4, :, 1:])
    np.cumsum(np.broadcast_to(weight * target * target, basis.shape), axis=1, out=sums[5, :, 1:])
    return sums, axis, basis


def _solve(form: str, sums: Array, begin: Array, stops: Array) -> tuple[Array, Array, Array]:
    """Best node and its two coefficients for every window."""
    s0, s1, s2, t0, t1, tt = sums[:, :, stops] - sums[:, :, begin]
    determinant = s0 * s2 - s1 * s1
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(determinant > 1e-12 * s0 * s2, (s0 * t1 - s1 * t0) / determinant, 0.0)
        level = (t0 - slope * s1) / s0
        if form == "floor":
            slope = np.where(level < 0, t1 / s2, slope)
            level = np.maximum(level, 0.0)
        level = np.where(slope < 0, t0 / s0, level)
        slope = np.maximum(slope, 0.0)
    loss = tt - 2 * level * t0 - 2 * slope * t1 + level**2 * s0 + 2 * level * slope * s1 + slope**2 * s2
    node = np.argmin(loss, axis=0)
    column = np.arange(len(stops))
    return level[node, column], slope[node, column], node


def _on_rows(form: str, level: Array, slope: Array, basis: Array) -> Array:
    combined = level[:, None] + slope[:, None] * basis
    return np.log(combined) if form == "floor" else combined


def _evaluate(form: str, coefficients: tuple[float, float, float], lx: Array) -> Array:
    level, slope, node = coefficients
    if form == "floor":
        return np.log(level + slope * np.exp(-node * lx))
    return level + slope * np.logaddexp(np.log(node), -lx)
