"""Anytime curves: the loss that a cooldown would reach, were it begun now, at every update of a trunk.

A few branches are real: cooldowns of one kind that left the trunk at updates f_1 < ... < f_m. With x = log f::

    gap(x)        = trunk(x) - loss at the end of the branch that left at x
    predicted(x)  = trunk(x) - (a + b (x - mean) [+ c (x - mean)^2])

``trunk`` is the trunk's own validation loss, smoothed by local straight lines in x (it is noisy: its learning rate is
high). The polynomial is fitted by least squares to the gaps of all seeds; the square only from five fork points on.
The band is for one more real branch: Student's t times the scatter of branches about the fit, that of the seeds in
it, or about fits without them where that is larger, and the uncertainty of the fit. Outside the range of real
branches nothing is known of the gap's slope: there the prediction is flagged, and the band grows by the distance
in x times how much the slope changes between neighbouring branches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from isoloss.worth.compare import LEVEL, student

if TYPE_CHECKING:
    from isoloss.plan.demands import Planned
    from isoloss.worth.results import Result, Results

FEWEST_BRANCHES, FEWEST_EVALUATIONS = 3, 5
SQUARE_FROM = 5
"""Fork points from which the gap may curve."""
CURVE_POINTS = 60


@dataclass(frozen=True)
class Point:
    """A validation loss after ``update`` updates: of the trunk, or at the end of a branch that left it at ``fork``."""

    seed: str
    update: int
    loss: float
    fork: int | None = None


@dataclass(frozen=True)
class Predicted:
    """The loss of a cooldown begun at ``fork``; ``low`` and ``high`` are None where nothing is left to judge by.

    ``end``: the update at which it would end. ``extrapolated``: no real branch left on one side of it.
    """

    fork: float
    end: float
    trunk: float
    loss: float
    low: float | None
    high: float | None
    extrapolated: bool


@dataclass(frozen=True)
class Held:
    """A real branch beside what the fit without its fork point predicts."""

    seed: str
    actual: float
    predicted: Predicted

    @property
    def inside(self) -> bool | None:
        """Whether the branch lies in the band; None without one."""
        low, high = self.predicted.low, self.predicted.high
        return None if low is None or high is None else low <= self.actual <= high


class Prediction:
    """An anytime curve; made by `anytime`."""

    def __init__(self, trunks: Mapping[str, _Smooth], branches: Sequence[Point], level: float) -> None:
        self.branches, self.level = tuple(branches), level
        self._trunks = trunks
        forks = np.array([_fork(b) for b in branches], float)
        x = np.log(forks)
        gaps = np.array([trunks[b.seed](math.log(_fork(b))) - b.loss for b in branches])
        self._fit = _Gap(x, gaps)
        lengths = np.array([b.update for b in branches], float) - forks
        # A fraction of the run or a fixed length: either is a straight line in the fork.
        several = len(np.unique(forks)) > 1
        self._length = np.polyfit(forks, lengths, 1) if several else np.array([0.0, lengths.mean()])

    @property
    def seeds(self) -> tuple[str, ...]:
        """Seeds that have a trunk."""
        return tuple(self._trunks)

    @property
    def range(self) -> tuple[int, int]:
        """First and last update at which a real branch left."""
        forks = [_fork(b) for b in self.branches]
        return min(forks), max(forks)

    def span(self, seed: str) -> tuple[float, float]:
        """First and last update at which the trunk of ``seed`` was evaluated."""
        return self._trunks[seed].span

    def at(self, update: float, seed: str | None = None) -> Predicted:
        """What a cooldown that leaves the trunk of ``seed`` (None: the first) at ``update`` would reach.

        Raises ValueError outside the trunk's own evaluations and for a seed without a trunk.
        """
        seed = self.seeds[0] if seed is None else seed
        if seed not in self._trunks:
            raise ValueError(f"anytime: seed {seed!r} has no trunk; allowed: {', '.join(self.seeds)}")
        first, last = self.span(seed)
        if not first <= update <= last * (1 + 1e-9):
            raise ValueError(f"anytime: the trunk was evaluated from update {first:g} to {last:g}; found {update:g}")
        x = math.log(update)
        trunk = self._trunks[seed](x)
        gap, spread = self._fit(x)
        half = math.nan if self._fit.freedom < 1 else student(self._fit.freedom, self.level) * spread
        loss, banded = trunk - gap, math.isfinite(half)
        begin, end = self.range
        return Predicted(
            fork=float(update),
            end=float(update + np.polyval(self._length, update)),
            trunk=trunk,
            loss=loss,
            low=loss - half if banded else None,
            high=loss + half if banded else None,
            extrapolated=not begin <= update <= end,
        )

    def curve(self, seed: str | None = None, points: int = CURVE_POINTS) -> list[Predicted]:
        """Predictions along a trunk, evenly spaced in log updates, and where the first and the last branch left."""
        seed = self.seeds[0] if seed is None else seed
        first, last = self.span(seed)
        even = np.clip(np.geomspace(first, last, points), first, last)
        return [self.at(float(u), seed) for u in np.union1d(even, [f for f in self.range if first <= f <= last])]

    def held_out(self) -> list[Held]:
        """Every fork point predicted from the others; the first and the last are extrapolations then."""
        found = []
        forks = sorted({_fork(b) for b in self.branches})
        for fork in forks if len(forks) >= FEWEST_BRANCHES else ():
            kept = [b for b in self.branches if b.fork != fork]
            without = Prediction(self._trunks, kept, self.level)
            found += [Held(b.seed, b.loss, without.at(fork, b.seed)) for b in self.branches if b.fork == fork]
        return found


class _Gap:
    """Polynomial in x through gaps, with the spread of a further one."""

    def __init__(self, x: np.ndarray, gaps: np.ndarray) -> None:
        self.nodes = np.unique(x)
        self.centre = float(x.mean())
        self.degree = _degree(len(self.nodes))
        design = self._design(x)
        self.coefficients, *_ = np.linalg.lstsq(design, gaps, rcond=None)
        self._inverse = np.linalg.pinv(design.T @ design)
        self.freedom = len(x) - design.shape[1]
        variance = math.nan
        if self.freedom > 0:
            residuals = gaps - design @ self.coefficients
            variance = max(float(residuals @ residuals) / self.freedom, _left_out(x, gaps))
        self.variance = variance
        self.bend = self._bend(x, gaps)

    def __call__(self, x: float) -> tuple[float, float]:
        """(gap, standard deviation of a further branch's gap) at x."""
        row = self._design(np.array([x]))[0]
        beyond = max(0.0, x - self.nodes[-1], self.nodes[0] - x)
        spread = self.variance * (1 + float(row @ self._inverse @ row)) + (self.bend * beyond) ** 2
        return float(row @ self.coefficients), math.sqrt(spread)

    def _design(self, x: np.ndarray) -> np.ndarray:
        return np.vander(x - self.centre, self.degree + 1, increasing=True)

    def _bend(self, x: np.ndarray, gaps: np.ndarray) -> float:
        """How much the slope changes from one stretch between branches to the next; the slope itself if unknown."""
        if len(self.nodes) < 2:
            return 0.0
        means = np.array([gaps[x == node].mean() for node in self.nodes])
        slopes = np.diff(means) / np.diff(self.nodes)
        return abs(float(slopes[0])) if len(slopes) < 2 else float(np.sqrt(np.mean(np.diff(slopes) ** 2)))


def _degree(nodes: int) -> int:
    return 2 if nodes >= SQUARE_FROM else min(1, nodes - 1)


def _left_out(x: np.ndarray, gaps: np.ndarray) -> float:
    """Variance of a branch, from fits without its fork point; 0 where too few are left, or it is at an end.

    Of a fit that is right, the squared error over 1 + leverage has the variance as its mean.
    """
    nodes = np.unique(x)
    if len(nodes) < 4:
        return 0.0
    errors = []
    for node in nodes[1:-1]:
        kept = x != node
        centre, degree = float(x[kept].mean()), min(_degree(len(nodes)), _degree(len(nodes) - 1))
        design = np.vander(x[kept] - centre, degree + 1, increasing=True)
        solution, *_ = np.linalg.lstsq(design, gaps[kept], rcond=None)
        row = np.vander(np.array([node - centre]), degree + 1, increasing=True)[0]
        leverage = float(row @ np.linalg.pinv(design.T @ design) @ row)
        errors += ((gaps[~kept] - row @ solution) ** 2 / (1 + leverage)).tolist()
    return float(np.mean(errors))


class _Smooth:
    """Local straight lines through a trunk's losses in x = log update, over its nearest evaluations (tricube)."""

    def __init__(self, updates: Sequence[int], losses: Sequence[float]) -> None:
        order = np.argsort(updates)
        self.x = np.log(np.asarray(updates, float)[order])
        self.y = np.asarray(losses, float)[order]
        self.nearest = min(len(self.x), max(FEWEST_EVALUATIONS, len(self.x) // 4))

    @property
    def span(self) -> tuple[float, float]:
        return math.exp(self.x[0]), math.exp(self.x[-1])

    def __call__(self, x: float) -> float:
        distance = np.abs(self.x - x)
        reach = np.sort(distance)[self.nearest - 1] * 1.0001 + 1e-12
        weight = np.clip(1 - (distance / reach) ** 3, 0, None) ** 3
        root = np.sqrt(weight)
        design = np.stack([np.ones_like(self.x), self.x - x], 1) * root[:, None]
        solution, *_ = np.linalg.lstsq(design, self.y * root, rcond=None)
        return float(solution[0])


def anytime(points: Sequence[Point], *, level: float = LEVEL) -> Prediction:
    """The anytime curve of one kind of cooldown, from the losses of trunks and of real branches of any number of seeds.

    ``points``: a trunk's evaluations have no ``fork``; a branch has the update at which it left, and its seed's trunk.
    Raises ValueError with fewer than three fork points, fewer than five evaluations of a trunk, or where branches left
    outside the evaluations (beyond a fifth of log updates: they are taken as far as a straight line goes).
    """
    known: dict[str, dict[int, float]] = {}
    for point in points:
        if not (math.isfinite(point.loss) and point.update > 0 and (point.fork is None or point.fork > 0)):
            raise ValueError(f"anytime: found {point}; allowed: finite losses after at least one update")
        if point.fork is None:
            known.setdefault(point.seed, {})[point.update] = point.loss
    branches = [point for point in points if point.fork is not None]
    forks = {_fork(b) for b in branches}
    if len(forks) < FEWEST_BRANCHES:
        raise ValueError(f"anytime: branches left at {len(forks)} updates; allowed: {FEWEST_BRANCHES} or more")
    trunks: dict[str, _Smooth] = {}
    for seed in dict.fromkeys(b.seed for b in branches):
        losses = known.get(seed, {})
        if len(losses) < FEWEST_EVALUATIONS:
            raise ValueError(
                f"anytime: the trunk of seed {seed} has {len(losses)} evaluations; allowed: {FEWEST_EVALUATIONS} or "
                "more (evaluation.every)"
            )
        ends = [_fork(b) for b in branches if b.seed == seed]
        if min(ends) < min(losses) / 1.2 or max(ends) > 1.2 * max(losses):
            raise ValueError(
                f"anytime: branches of seed {seed} left from update {min(ends)} to {max(ends)}, but its trunk was "
                f"evaluated from {min(losses)} to {max(losses)}"
            )
        trunks[seed] = _reaching(losses, ends)
    return Prediction(trunks, branches, level)


def _reaching(losses: Mapping[int, float], forks: Sequence[int]) -> _Smooth:
    """A smoothed trunk whose ends are drawn to the forks, by its own straight line, where evaluations stop short."""
    smooth = _Smooth(list(losses), list(losses.values()))
    short = [fork for fork in (min(forks), max(forks)) if not min(losses) <= fork <= max(losses)]
    drawn = {fork: smooth(math.log(fork)) for fork in short}
    return _Smooth([*losses, *drawn], [*losses.values(), *drawn.values()])


def anytime_of(results: Results, arm: str) -> dict[int, Prediction]:
    """Anytime curves of an arm (or variant) of a study by N; sizes that have too little for one are left out.

    Needs runs that cool down from a constant learning rate at three durations or more, and ``evaluation.every``.
    Evaluations of every run that walks on a trunk count, of whatever arm.
    """
    rows = [(p, r) for p, r in zip(results.stage.planned, results.results, strict=True) if r.status == "done"]
    walked: dict[str, dict[int, float]] = {}
    for planned, result in rows:
        for update, loss in result.curve:
            track, phase, _ = planned.lowered.run.locate(update)
            if phase.rule.lr.stationary:
                walked.setdefault(track.id, {})[update] = loss
    groups: dict[int, dict[str, dict[str, list[Point]]]] = {}
    for planned, result in rows:
        if arm not in (result.arm, result.variant) or result.loss is None:
            continue
        left = _left(planned)
        if left is not None:
            trunk, fork = left
            trunks = groups.setdefault(result.N, {}).setdefault(result.seed, {})
            trunks.setdefault(trunk, []).append(Point(result.seed, result.S, result.loss, fork))
    made = {}
    for N, seeds in sorted(groups.items()):
        points: list[Point] = []
        for seed, trunks in seeds.items():
            # Learning rates that differ between durations make several trunks: the one with most branches counts.
            trunk = max(trunks, key=lambda name: len(trunks[name]))
            points += [Point(seed, update, loss) for update, loss in walked.get(trunk, {}).items()] + trunks[trunk]
        try:
            made[N] = anytime(points)
        except ValueError:
            continue
    return made


def _left(planned: Planned) -> tuple[str, int] | None:
    """(trunk's track, update at which the run leaves it for its end), where it does."""
    tracks = planned.lowered.run.tracks
    if len(tracks) < 2 or planned.lowered.observer is not None:
        return None
    (trunk, before, _), (_, last, begun) = tracks[-2:]
    return (trunk.id, begun) if before.rule.lr.stationary and not last.rule.lr.stationary else None


def _fork(branch: Point) -> int:
    assert branch.fork is not None
    return branch.fork


def anytimes(results: Results) -> list[dict[str, Any]]:
    """Every anytime curve of a study as JSON types, by arm and size, with its sentence."""
    found = []
    for arm in results.variants():
        for N, made in anytime_of(results, arm).items():
            found.append(_record(arm, N, made, next(r for r in results.results if r.N == N and r.variant == arm)))
    return found


def _record(arm: str, N: int, made: Prediction, example: Result) -> dict[str, Any]:
    held = made.held_out()
    return {
        "arm": arm,
        "N": N,
        "level": made.level,
        "terms_per_update": example.facts.terms_per_update,
        "range": list(made.range),
        "branches": [asdict(b) for b in made.branches],
        "curves": [{"seed": seed, "points": [asdict(p) for p in made.curve(seed)]} for seed in made.seeds],
        "held_out": [{"seed": h.seed, "actual": h.actual, "inside": h.inside, **asdict(h.predicted)} for h in held],
        "text": sentence(arm, N, made, held),
    }


def sentence(arm: str, N: int, made: Prediction, held: Sequence[Held]) -> str:
    """What the curve is good for, in one sentence."""
    begin, end = made.range
    within = [p for p in made.curve() if not p.extrapolated and p.low is not None and p.high is not None]
    head = f"{arm} at N = {N:,}: a cooldown begun at any update from {begin:,} to {end:,} of the trunk is predicted"
    if within:
        half = sorted((p.high or 0.0) - (p.low or 0.0) for p in within)[len(within) // 2] / 2
        head += f" to about ±{half:.2g} nats ({made.level:.0%} band)"
    else:
        head += " without a band (one branch a fork point too few)"
    between = [h for h in held if h.inside is not None and not h.predicted.extrapolated]
    if between:
        head += f"; of {len(between)} real branches between others, left out of the fit, {_hits(between)} lie in it"
    outside = [h for h in held if h.inside is not None and h.predicted.extrapolated]
    if outside:
        head += f"; of {len(outside)} beyond them, {_hits(outside)} (extrapolated, wider)"
    return head + "."


def _hits(held: Sequence[Held]) -> int:
    return sum(bool(h.inside) for h in held)
