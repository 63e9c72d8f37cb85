"""Where a running run is likely to end. In this order, what there is enough for:

``branches``   its trunk's loss where it leaves for its cooldown, less what real cooldowns of the same arm and size
               gained (``worth.anytime``);
``twins``      finished runs of other seeds that are the same otherwise: with c(t) a validation loss at update t,
               log end = log c(t) + mean over twins of (log end_i - log c_i(t)); the band is Student's t with the
               variance of those steps, pooled over the cells of its arm and length that have two twins or more;
``curve``      its own validation losses, or where these are few its training losses, continued (``laws.extrapolate``).
               A learning rate that still falls, or an average over the last weights, ends lower than that: then it
               is a ceiling.

Bands are at ``worth.compare.LEVEL``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from isoloss.laws import LawError, extrapolate
from isoloss.report.tidy import Json
from isoloss.worth.anytime import Point, Prediction, anytime
from isoloss.worth.compare import LEVEL, student

FEWEST = 7
"""Values that a continued curve needs."""
FARTHEST = 8.0
"""Updates at the end over those so far: beyond, the band of a continued curve was never tried on its own past."""
WIDEST = 2.0
"""Highest over lowest of a band that still says something."""


@dataclass(frozen=True)
class Course:
    """What is known of a run; its own updates are counted. ``losses``: on part B by update; ``trunk``: (track, update
    at which it is left for the cooldown); ``walked``: losses by track with a constant learning rate, and update.

    ``falls``: the learning rate falls on its way; ``averaged``: its end is judged by an average of weights.
    """

    group: tuple[str, int]
    place: tuple[str, ...]
    seed: str
    length: int
    losses: Mapping[int, float]
    end: float | None
    trunk: tuple[int, int] | None
    walked: Mapping[int, Mapping[int, float]]
    falls: bool
    averaged: bool


@dataclass(frozen=True)
class Expected:
    """The loss at a run's end with its band. ``how``: branches, twins or curve; ``ceiling``: it should end lower."""

    loss: float
    low: float | None
    high: float | None
    how: str
    words: str
    ceiling: bool = False

    def to_dict(self) -> Json:
        """JSON types."""
        return asdict(self)


class Others:
    """What the other runs of a study tell; made again when they know more."""

    def __init__(self, courses: Sequence[Course]) -> None:
        self._courses = courses
        self._predictions: dict[tuple[str, int], Prediction | None] = {}
        self._walked: dict[int, dict[int, float]] = {}
        for course in courses:
            for track, losses in course.walked.items():
                self._walked.setdefault(track, {}).update(losses)

    def expect(self, run: Course, training: tuple[Sequence[float], Sequence[float]]) -> Expected | None:
        """The end of a run under way, with its (updates, mean training losses); None where too little is known."""
        return self._branches(run) or self._twins(run) or _continued(run, training)

    def _branches(self, run: Course) -> Expected | None:
        if run.trunk is None:
            return None
        if run.group not in self._predictions:
            self._predictions[run.group] = self._anytime(run.group)
        made = self._predictions[run.group]
        if made is None or run.seed not in made.seeds:
            return None
        first, last = made.span(run.seed)
        if not first <= run.trunk[1] <= last:
            return None
        found = made.at(run.trunk[1], run.seed)
        if found.low is None or found.high is None:
            return None
        words = f"its trunk where it cools down, less what {len(made.branches)} finished cooldowns gained"
        if found.extrapolated:
            words += "; beyond them"
        return Expected(found.loss, found.low, found.high, "branches", words)

    def _anytime(self, group: tuple[str, int]) -> Prediction | None:
        points: list[Point] = []
        mine = [c for c in self._courses if c.group == group and c.trunk]
        for seed in dict.fromkeys(c.seed for c in mine):
            done = [(c, *c.trunk) for c in mine if c.seed == seed and c.trunk and c.end is not None]
            if not done:
                continue
            # Learning rates that differ between durations make several trunks: the one with most branches counts.
            tracks = [track for _, track, _ in done]
            trunk = max(tracks, key=tracks.count)
            points += [Point(seed, update, loss) for update, loss in self._walked.get(trunk, {}).items()]
            points += [Point(seed, c.length, c.end or 0.0, fork) for c, track, fork in done if track == trunk]
        try:
            return anytime(points)
        except ValueError:
            return None

    def _twins(self, run: Course) -> Expected | None:
        if not run.losses:
            return None
        at = max(run.losses)
        cells: dict[tuple[str, ...], list[float]] = {}
        for other in self._courses:
            if other.end is None or other.end <= 0 or (other.group[0], other.length) != (run.group[0], run.length):
                continue
            if other.losses.get(at, 0.0) > 0:
                cells.setdefault(other.place, []).append(math.log(other.end) - math.log(other.losses[at]))
        steps = cells.get(run.place)
        if not steps:
            return None
        middle = math.log(run.losses[at]) + float(np.mean(steps))
        freedom = sum(len(found) - 1 for found in cells.values())
        twins = "1 finished run of another seed" if len(steps) == 1 else f"{len(steps)} finished runs of other seeds"
        words = f"as {twins} went on from here"
        if freedom < 1:
            return Expected(math.exp(middle), None, None, "twins", f"{words}; too few for a band")
        squares = sum(float(np.sum((np.array(found) - np.mean(found)) ** 2)) for found in cells.values())
        half = student(freedom) * math.sqrt(squares / freedom * (1 + 1 / len(steps)))
        if 2 * half > math.log(WIDEST):
            return Expected(math.exp(middle), None, None, "twins", f"{words}; too different for a band")
        return Expected(math.exp(middle), math.exp(middle - half), math.exp(middle + half), "twins", words)


def _continued(run: Course, training: tuple[Sequence[float], Sequence[float]]) -> Expected | None:
    along = sorted((update, loss) for update, loss in run.losses.items() if loss > 0)
    what = "validation"
    x, y = [float(u) for u, _ in along], [loss for _, loss in along]
    if len(x) < FEWEST:
        what = "training"
        x, y = list(training[0]), list(training[1])
    if not x or not x[-1] < run.length <= FARTHEST * x[-1]:
        return None
    try:
        made = extrapolate(x, y)
    except LawError:
        return None
    low, middle, high = made.band(run.length, LEVEL)
    if not high < WIDEST * low:
        return None
    words = f"its own {what} losses, continued"
    if run.falls:
        words += "; its learning rate falls on the way, so it should end lower"
    elif run.averaged:
        words += "; its average of weights should end lower"
    if made.warnings:
        words += "; they rise at the end"
    return Expected(float(middle), float(low), float(high), "curve", words, run.falls or run.averaged)
