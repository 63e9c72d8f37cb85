"""Effective data at one size: how much data from scratch reaches a loss, with an interval and without extrapolation.

The curve from scratch is the mean loss over seeds against D, made monotone, interpolated in log loss against log D.
D_E is where it meets the mean loss L_F of the runs under test. Its interval holds every measured D at which

    z(D) = log L(D) - log L_F        is within   t sqrt(var z(D)) + interpolation error   of 0

so flat or noisy stretches give wide or open intervals instead of unstable inversions (the idea of Fieller 1954). The
variance comes from roots: a seed's runs at all D move z together, whether or not the two families share seeds.
The interpolation error is taken as the distance between the monotone cubic and the straight line through the points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from isoloss.worth.compare import FEWEST_SEEDS, monotone, student

Array = np.ndarray
Losses = Mapping[str, float]
STEPS = 100
"""Points of the search grid between two measured D."""


@dataclass(frozen=True)
class Effective:
    """D_E of one family of runs. `value` is None outside of the curve: then `side` is "more" or "less" than `bound`.

    low, high: the interval; `open` names the ends that the curve does not bound (None there). `sure`: whether a value
    outside is outside beyond the noise. `parts`: by root, its share of the error of log D_E; None where it is unknown.
    """

    value: float | None
    side: str
    bound: float | None
    low: float | None
    high: float | None
    open: str
    sure: bool
    seeds: int
    parts: Mapping[str, float] | None = field(default=None, repr=False)

    def record(self) -> dict[str, Any]:
        """The fields as JSON types, without the parts."""
        return {name: value for name, value in asdict(self).items() if name != "parts"}


@dataclass(frozen=True)
class Against:
    """Loss of one family over another's at equal data, with its interval and p-values of "not worse", "not better"."""

    ratio: float
    low: float | None
    high: float | None
    p_worse: float | None
    p_better: float | None


class ScratchCurve:
    """Mean loss from scratch against D, monotone and interpolated, with what every root adds to its error."""

    def __init__(self, losses: Mapping[float, Losses]) -> None:
        """losses: by D, the loss of each root. Raises ValueError below two different D or for losses not above 0."""
        self.D = np.array(sorted(losses), float)
        if len(self.D) < 2 or self.D[0] <= 0:
            raise ValueError(f"a curve from scratch has {len(self.D)} sizes of data; allowed: two or more, all above 0")
        if any(not v > 0 for at in self.D for v in losses[at].values()):
            raise ValueError("a curve from scratch has a loss that is not above 0; allowed: positive losses")
        self.roots = tuple(sorted({root for at in self.D for root in losses[at]}))
        self.seeds = min(len(losses[at]) for at in self.D)
        self.mean = np.array([np.mean(list(losses[at].values())) for at in self.D])
        self.log_D, self.log_mean = np.log(self.D), monotone(np.log(self.mean))
        self._parts = np.zeros((len(self.roots), len(self.D)))
        for j, at in enumerate(self.D):
            for root, part in _shares(losses[at]).items():
                self._parts[self.roots.index(root), j] = part
        inner = [np.linspace(a, b, STEPS, endpoint=False) for a, b in zip(self.log_D, self.log_D[1:], strict=False)]
        self.grid = np.append(np.concatenate(inner), self.log_D[-1])
        from scipy.interpolate import PchipInterpolator

        self._cubic = PchipInterpolator(self.log_D, self.log_mean)
        self._slope = self._cubic.derivative()
        self._level = self.log_loss(self.grid)

    def log_loss(self, log_D: Any) -> Array:
        """Log of the mean loss at log D inside the measured range."""
        return np.asarray(self._cubic(log_D))

    def slope(self, log_D: float) -> float:
        """d log L / d log D, at most 0."""
        return min(float(self._slope(log_D)), 0.0)

    def blur(self, log_D: Any) -> Array:
        """Interpolation error of log loss: cubic against straight line; 0 at measured D."""
        return np.abs(self.log_loss(log_D) - np.interp(log_D, self.log_D, self.log_mean))

    def parts(self, log_D: Array, roots: tuple[str, ...]) -> Array:
        """Each root's share (len(roots), len(log_D)) of the error of log loss; 0 for roots without runs here."""
        found = np.zeros((len(roots), len(log_D)))
        for own, root in zip(self._parts, self.roots, strict=True):
            found[roots.index(root)] = np.interp(log_D, self.log_D, own)
        return found

    def log_D_at(self, log_loss: float) -> float:
        """The smallest log D that reaches a loss between the curve's ends."""
        i = int(np.argmax(self._level <= log_loss))
        if i == 0:
            return float(self.grid[0])
        above, below = self._level[i - 1], self._level[i]
        return float(self.grid[i - 1] + (self.grid[i] - self.grid[i - 1]) * (above - log_loss) / (above - below))

    def effective(self, losses: Losses) -> Effective:
        """D_E of runs with these losses by root. Raises ValueError for losses not above 0."""
        level, roots, own = _family(losses, self.roots)
        seeds = min(self.seeds, len(losses))
        enough = seeds >= FEWEST_SEEDS
        outside = "less" if level > self._level[0] else "more" if level < self._level[-1] else ""
        value, parts = None, None
        if not outside:
            at = self.log_D_at(level)
            value, slope = math.exp(at), self.slope(at)
            if slope < 0:
                shares = own - self.parts(np.array([at]), roots)[:, 0]
                parts = dict(zip(roots, (shares / slope).tolist(), strict=True))
        bound = {"less": float(self.D[0]), "more": float(self.D[-1]), "": None}[outside]
        if not enough:
            return Effective(value, outside, bound, None, None, "", False, seeds, parts)
        fine = np.abs(self._level - level) <= self._reach(self.grid, roots, own, seeds)
        lowest, highest = _ends(fine, self.grid, value)
        ends = [outside == "less" or bool(fine[0]), outside == "more" or bool(fine[-1])]
        sure = bool(outside) and not fine[0 if outside == "less" else -1]
        low = None if ends[0] else (float(self.D[-1]) if lowest is None else math.exp(lowest))
        high = None if ends[1] else (float(self.D[0]) if highest is None else math.exp(highest))
        opened = {(True, True): "both", (True, False): "low", (False, True): "high"}.get((ends[0], ends[1]), "")
        return Effective(value, outside, bound, low, high, opened, sure, seeds, parts)

    def against(self, losses: Losses, D: float) -> Against | None:
        """Loss of these runs over the curve's at D; None where D is outside of the measured range."""
        if not self.D[0] <= D <= self.D[-1]:
            return None
        level, roots, own = _family(losses, self.roots)
        at = np.array([math.log(D)])
        gap = level - float(self.log_loss(at)[0])
        spread = _spread(self.parts(at, roots) - own[:, None], min(self.seeds, len(losses)))
        return versus(gap, float(spread[0]), min(self.seeds, len(losses)), float(self.blur(at)[0]))

    def _reach(self, log_D: Array, roots: tuple[str, ...], own: Array, seeds: int) -> Array:
        spread = _spread(self.parts(log_D, roots) - own[:, None], seeds)
        return np.asarray(student(seeds - 1) * spread + self.blur(log_D))


def paired(losses: Losses, others: Losses) -> Against:
    """Mean loss of one family over another's, seeds paired where they are shared."""
    level, roots, own = _family(losses, tuple(others))
    other_level, _, other = _family(others, roots)
    seeds = min(len(losses), len(others))
    spread = _spread((own - other)[:, None], seeds)
    return versus(level - other_level, float(spread[0]), seeds, 0.0)


def versus(gap: float, spread: float, seeds: int, blur: float) -> Against:
    """A log ratio with its standard error, as a ratio with interval and one-sided p-values."""
    if seeds < FEWEST_SEEDS:
        return Against(math.exp(gap), None, None, None, None)
    from scipy.special import stdtr

    half = student(seeds - 1) * spread + blur
    scale = max(spread, 1e-300)
    # What interpolation alone may have caused counts for neither side.
    worse, better = (float(stdtr(seeds - 1, -(sign * gap - blur) / scale)) for sign in (1.0, -1.0))
    return Against(math.exp(gap), math.exp(gap - half), math.exp(gap + half), worse, better)


def _family(losses: Losses, others: tuple[str, ...]) -> tuple[float, tuple[str, ...], Array]:
    """Log mean loss, all roots (the others' first), and each root's share of the error of the log mean."""
    values = np.array(list(losses.values()), float)
    if not len(values) or not np.all(values > 0):
        raise ValueError("a loss is not above 0; allowed: at least one, all positive")
    mean = float(values.mean())
    roots = others + tuple(sorted(set(losses) - set(others)))
    shares = _shares(losses)
    return math.log(mean), roots, np.array([shares.get(root, 0.0) for root in roots])


def _shares(losses: Losses) -> dict[str, float]:
    """Each root's share of the error of the log mean: its log loss off the average, over their number.

    Deviations of logarithms, because losses near their floor are skewed and a few of them in plain units have a small
    spread just when their mean is low.
    """
    logs = {root: math.log(loss) for root, loss in losses.items()}
    middle = sum(logs.values()) / len(logs)
    return {root: (value - middle) / len(logs) for root, value in logs.items()}


def _spread(parts: Array, seeds: int) -> Array:
    """Standard error (k,) from the roots' shares (roots, k)."""
    if seeds < 2:
        return np.full(parts.shape[1], np.nan)
    return np.sqrt((parts**2).sum(axis=0) * seeds / (seeds - 1))


def _ends(fine: Array, grid: Array, value: float | None) -> tuple[float | None, float | None]:
    """First and last grid point that is not excluded; the value itself never is."""
    kept = grid[fine].tolist() + ([] if value is None else [math.log(value)])
    return (min(kept), max(kept)) if kept else (None, None)
