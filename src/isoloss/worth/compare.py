"""Worth at equal loss: how much D, S and C the baseline needs over what an arm used.

For one N and one seed both arms have losses at several D. Targets are taken from the overlap of the two ranges
of loss; at each target both curves are inverted (monotone, in log loss against log D, never extrapolated) and
the logarithms of the ratios are averaged. Seeds are paired; their variance is pooled over sizes; intervals are
Student's t with the pooled degrees of freedom. Fewer than three seeds give no interval.

"compute with tuning" adds to one run of each arm that arm's tuning at this size: the whole budget, divided over the
sizes in proportion to what an update costs there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from isoloss.laws import Points
    from isoloss.worth.results import Result

TARGETS = 9
"""Target losses, evenly spaced in log loss inside the overlap."""
LEVEL = 0.9
FEWEST_SEEDS = 3
FEWEST_SIZES = 3
"""For a trend of worth with size."""
CURRENCIES = ("data", "updates", "compute", "compute with tuning")


class Rows(Protocol):
    """What a comparison reads: the results of a study (`Results`), or runs that were trained elsewhere."""

    @property
    def baseline(self) -> str:
        """The arm that others are compared with."""

    @property
    def results(self) -> Sequence[Result]:
        """One a run."""

    def variants(self) -> list[str]:
        """What is compared, the baseline first."""

    def reference(self, variant: str) -> str | None:
        """What a variant is compared with."""

    def tuning(self, variant: str, N: int) -> float:
        """FLOPs of a variant's tuning at one size."""

    def points(self, arm: str | None = None) -> Points:
        """Finished runs (of one variant) as points for a law, with the root as `cluster`."""


@dataclass(frozen=True)
class Ratio:
    """A ratio with its interval; ``low`` and ``high`` are None where there are too few seeds."""

    ratio: float
    low: float | None = None
    high: float | None = None

    @property
    def inverse(self) -> Ratio:
        """The ratio seen from the other side."""
        return Ratio(
            1 / self.ratio,
            None if self.high is None else 1 / self.high,
            None if self.low is None else 1 / self.low,
        )

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes 1."""
        return self.low is not None and self.high is not None and not self.low <= 1.0 <= self.high


@dataclass(frozen=True)
class Worth:
    """What one arm is worth at one size: ratios by currency, the targets used, the seeds behind them.

    ``arm`` and what it is compared with, ``reference``, are variants (``Results.variants``).
    """

    arm: str
    reference: str
    N: int
    ratios: Mapping[str, Ratio]
    roots: int
    targets: tuple[float, ...]
    note: str = ""


@dataclass(frozen=True)
class Trend:
    """How log worth changes with log N, a straight line a seed: the slope with its interval and a verdict in words.

    ``sizes``: the measured N. ``lines``: (log worth at the mean of log N, slope) of each seed.
    """

    slope: float
    low: float | None
    high: float | None
    verdict: str
    sizes: tuple[int, ...]
    lines: tuple[tuple[float, float], ...]

    def at(self, N: float) -> Ratio:
        """Worth at size N on the line; the interval is over seeds, None below three."""
        away = math.log(N) - float(np.log(self.sizes).mean())
        mean, low, high = interval([level + slope * away for level, slope in self.lines])
        return Ratio(math.exp(mean), *(None if end is None else math.exp(end) for end in (low, high)))


@dataclass(frozen=True)
class Overall:
    """What one arm is worth over all sizes, and whether that grows: ``trends`` by currency, none below three sizes."""

    arm: str
    reference: str
    ratios: Mapping[str, Ratio]
    trends: Mapping[str, Trend]

    @property
    def trend(self) -> Trend | None:
        """That of worth in data."""
        return self.trends.get("data")


@dataclass
class Comparison:
    """Worth of every arm against the baseline."""

    baseline: str
    by_size: list[Worth] = field(default_factory=list)
    overall: list[Overall] = field(default_factory=list)


class Curve:
    """Loss against D of one arm at one size and seed, monotone by construction and invertible."""

    def __init__(self, D: Sequence[float], loss: Sequence[float]) -> None:
        """Raises ValueError for fewer than two different D or non-positive values."""
        order = np.argsort(D)
        x, y = np.log(np.asarray(D, float)[order]), np.log(np.asarray(loss, float)[order])
        if len(x) < 2 or np.any(np.diff(x) <= 0) or not np.all(np.isfinite(y)):
            raise ValueError("a curve needs positive losses at two different D or more")
        y = monotone(y)
        keep = np.concatenate([[True], np.diff(y) < 0])
        self._x, self._y = x[keep], y[keep]
        self.high, self.low = float(y[0]), float(y[-1])

    def log_D(self, log_loss: np.ndarray) -> np.ndarray:
        """Logarithm of the D at which the loss is reached; NaN outside the measured range."""
        if len(self._x) < 2:
            return np.full_like(log_loss, np.nan)
        from scipy.interpolate import PchipInterpolator

        inverse = PchipInterpolator(self._y[::-1], self._x[::-1], extrapolate=False)
        return np.asarray(inverse(log_loss))


def monotone(y: np.ndarray) -> np.ndarray:
    """The closest non-increasing sequence in least squares (pool adjacent violators)."""
    blocks: list[list[float]] = []
    for value in y:
        blocks.append([float(value), 1])
        while len(blocks) > 1 and blocks[-1][0] > blocks[-2][0]:
            mean, count = blocks.pop()
            before, number = blocks[-1]
            blocks[-1] = [(mean * count + before * number) / (count + number), count + number]
    return np.concatenate([np.full(int(count), mean) for mean, count in blocks])


def matched(arm: Curve, baseline: Curve, targets: int = TARGETS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(target log losses, log D of the arm, log D of the baseline) inside the overlap; empty where there is none."""
    low, high = max(arm.low, baseline.low), min(arm.high, baseline.high)
    if not low < high:
        return np.empty(0), np.empty(0), np.empty(0)
    at = np.linspace(high, low, targets)
    at[0], at[-1] = high, low
    own, other = arm.log_D(at), baseline.log_D(at)
    fine = np.isfinite(own) & np.isfinite(other)
    return at[fine], own[fine], other[fine]


def compare(results: Rows) -> Comparison:
    """Worth of every other arm against the study's baseline, by size and over all sizes."""
    comparison = Comparison(results.baseline)
    done = [r for r in results.results if r.status == "done"]
    for arm in results.variants():
        baseline = results.reference(arm)
        if baseline is None or _keys(arm, done) == _keys(baseline, done):
            continue
        observed: dict[int, dict[str, dict[str, float]]] = {}
        targets: dict[int, list[float]] = {}
        notes: dict[int, str] = {}
        for N in sorted({r.N for r in done if r.variant == arm}):
            observed[N], targets[N], notes[N] = _by_seed(arm, baseline, N, done, results)
        spread = {currency: _pooled(observed, currency) for currency in CURRENCIES}
        for N, seeds in observed.items():
            ratios = {}
            for currency in CURRENCIES:
                values = _values(seeds.values(), currency)
                if len(values):
                    ratios[currency] = _ratio(float(values.mean()), len(values), *spread[currency])
            if ratios or notes[N]:
                comparison.by_size.append(
                    Worth(arm, baseline, N, ratios, len(seeds), tuple(math.exp(t) for t in targets[N]), notes[N])
                )
        overall = _overall(arm, baseline, observed)
        if overall:
            comparison.overall.append(overall)
    return comparison


def _keys(variant: str, done: Sequence[Result]) -> set[str]:
    """The states that runs end in; two variants with the same ones are one training."""
    return {r.key for r in done if r.variant == variant}


def _by_seed(
    arm: str, baseline: str, N: int, done: Sequence[Result], results: Rows
) -> tuple[dict[str, dict[str, float]], list[float], str]:
    """Mean log ratio by seed and currency, the targets, and a note on what could not be compared."""
    found: dict[str, dict[str, float]] = {}
    all_targets: list[float] = []
    apart = 0
    seeds = sorted({r.seed for r in done if r.N == N and r.variant == arm})
    for seed in seeds:
        mine = [r for r in done if r.N == N and r.seed == seed and r.variant == arm]
        theirs = [r for r in done if r.N == N and r.seed == seed and r.variant == baseline]
        try:
            own, other = _curve(mine), _curve(theirs)
        except ValueError:
            continue
        targets, log_own, log_other = matched(own, other)
        if not len(targets):
            apart += 1
            continue
        mean = float((log_other - log_own).mean())
        a, b = mine[0], theirs[0]
        spent = np.exp(log_own) * (a.C - a.fixed_flops) / a.D + a.fixed_flops
        needed = np.exp(log_other) * (b.C - b.fixed_flops) / b.D + b.fixed_flops
        charged = (spent + results.tuning(arm, N), needed + results.tuning(baseline, N))
        found[seed] = {
            "data": mean,
            "compute": float(np.log(needed / spent).mean()),
            "compute with tuning": float(np.log(charged[1] / charged[0]).mean()),
        }
        if a.S and b.S:  # updates of runs from elsewhere may not be known
            found[seed]["updates"] = mean + math.log(a.D / a.S) - math.log(b.D / b.S)
        all_targets += targets.tolist()
    note = ""
    if apart:
        note = f"{apart} of {len(seeds)} seeds have no loss in common with the baseline: lengthen one of the two"
    elif not found and not any(r.seed in seeds for r in done if r.N == N and r.variant == baseline):
        note = "the baseline has no run of this size with one of its seeds"
    elif not found:
        note = "it or the baseline has losses at fewer than two durations"
    return found, sorted(all_targets, reverse=True), note


def _curve(results: Sequence[Result]) -> Curve:
    """The curve of one arm at one size and seed; where a run's end is stationary, with its losses along the way."""
    by_D: dict[int, list[float]] = {}
    for r in results:
        assert r.loss is not None
        by_D.setdefault(r.D, []).append(r.loss)
    ends = dict(by_D)
    for r in results:
        if r.steady is not None:
            for update, loss in r.curve:
                D = update * r.D // r.S
                if update > r.steady and D not in ends:
                    by_D.setdefault(D, []).append(loss)
    return Curve(list(by_D), [float(np.mean(losses)) for losses in by_D.values()])


def _values(seeds: Iterable[Mapping[str, float]], currency: str) -> np.ndarray:
    """Log ratios in one currency; empty where a seed has none."""
    values = [v.get(currency, math.nan) for v in seeds]
    return np.array([] if any(map(math.isnan, values)) else values)


def _pooled(observed: Mapping[int, Mapping[str, Mapping[str, float]]], currency: str) -> tuple[float, int]:
    """(pooled standard deviation of the log ratio between seeds, degrees of freedom) over all sizes."""
    squares, freedom = 0.0, 0
    for seeds in observed.values():
        values = _values(seeds.values(), currency)
        if len(values) > 1:
            squares += float(((values - values.mean()) ** 2).sum())
            freedom += len(values) - 1
    return (math.sqrt(squares / freedom) if freedom else math.nan), freedom


def _ratio(mean: float, count: int, spread: float, freedom: int) -> Ratio:
    if count < FEWEST_SEEDS or not freedom or not math.isfinite(spread):
        return Ratio(math.exp(mean))
    half = student(freedom) * spread / math.sqrt(count)
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def student(freedom: float, level: float = LEVEL) -> float:
    """Quantile of Student's t for a two-sided interval at ``level``, for any number of degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + level / 2))


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, float | None, float | None]:
    """(mean, low, high) of a mean over seeds; None below three."""
    mean = float(np.mean(values))
    if len(values) < FEWEST_SEEDS:
        return mean, None, None
    half = student(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def _overall(arm: str, reference: str, observed: Mapping[int, Mapping[str, Mapping[str, float]]]) -> Overall | None:
    """The mean over sizes, seed by seed, and the trend with N.

    A seed's runs at different sizes see the same data order, so a seed is one unit here.
    """
    sizes = [N for N, seeds in observed.items() if seeds]
    if not sizes:
        return None
    common = sorted(set.intersection(*(set(observed[N]) for N in sizes)))
    ratios, trends = {}, {}
    for currency in CURRENCIES:
        values = _values((v for N in sizes for v in observed[N].values()), currency)
        if not len(values):
            continue
        if not common:
            ratios[currency] = Ratio(math.exp(float(np.mean(values))))
            continue
        means = np.array([np.mean([observed[N][seed][currency] for N in sizes]) for seed in common])
        spread = float(means.std(ddof=1)) if len(means) > 1 else math.nan
        ratios[currency] = _ratio(float(means.mean()), len(means), spread, len(means) - 1)
        if len(sizes) >= FEWEST_SIZES:
            trends[currency] = _trend(sizes, [[observed[N][seed][currency] for N in sizes] for seed in common])
    return Overall(arm, reference, ratios, trends)


def _trend(sizes: Sequence[int], rows: Sequence[Sequence[float]]) -> Trend:
    """Straight lines of log worth in log N, one a row of log ratios (those of a seed)."""
    x = np.log(np.array(sizes, float))
    fitted = [np.polyfit(x - x.mean(), row, 1) for row in rows]
    lines = tuple((float(level), float(slope)) for slope, level in fitted)
    mean, low, high = interval([slope for _, slope in lines])
    if low is None or high is None:
        return Trend(mean, None, None, "not resolved", tuple(sizes), lines)
    if max(-low, high) * (x[-1] - x[0]) < STEADY:
        verdict = "steady"
    elif low > 0 or high < 0:
        verdict = "growing" if mean > 0 else "fading"
    else:
        verdict = "not resolved"
    return Trend(mean, low, high, verdict, tuple(sizes), lines)


STEADY = math.log(1.1)
"""A trend whose interval stays within 10 % of worth over the whole range of N is called steady."""
