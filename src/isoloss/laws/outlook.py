"""What a fitted law says about a budget: best size and data, loss with its interval, equal-loss choices, the next run.

An outlook is plain numbers: the law's steps (`laws.program`), its parameters and at most DRAWS resampled ones, how
wrong earlier forecasts were, the ranges that were measured. Every answer is computed from these alone, here and, in the
same order, in the planner of the page (`report/assets/planner.js`).

    C = k N D                             k of the table (`laws.allocation.flops_ratio`)
    N*      d log L / d log N = 0 at C    by bisection on the exact slope, STEPS halvings
    D'      L(N', D') = L(N, D)           equal loss at another size, by bisection
    band    hypot(bootstrap spread, t s (d + 0.1), z noise) in log loss, d: log distance beyond the measured ranges

What to run next is in `laws.next_run`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from isoloss.laws.allocation import allocates, flops_ratio
from isoloss.laws.bootstrap import FEW_CLUSTERS, Draws, ends, seed_noise, widening
from isoloss.laws.budget import CAP, CURVE, FACTORS, ISO, SPREAD, budget_answer
from isoloss.laws.calibrate import OFFSET, Calibration
from isoloss.laws.errors import LawError
from isoloss.laws.form import Form
from isoloss.laws.next_run import OPTIONS
from isoloss.laws.program import Program

if TYPE_CHECKING:
    from isoloss.laws.fitting import Fit
    from isoloss.laws.points import Points

Array = np.ndarray
DRAWS = 200
REACH = 100.0
"""Factor beyond the measured ranges past which there is no answer."""
STEPS = 64
WIDEST = math.log(1e20)
"""N and D of an answer lie between 1 and 1e20."""
UNEVEN = 1.25
"""Ratio of the largest to the smallest C / (N D) of a table from which a reader is told."""
LEAST_NOISE = 1e-6
ALIKE = 1e-6
UNMOVED = "are runs of different kinds mixed in one table?"
MOST_DESIGN = 100
ALONG = {"N": 1.0, "D": -1.0, "C": 0.0, "M": -2.0}
"""How the log variables move with log N at fixed compute."""


@dataclass(frozen=True)
class Outlook:
    """A law with all that its answers to budgets rest on.

    draws: resampled parameter values (None: none could be had). k: FLOPs per parameter and token; counted: whether the
    table told it. calibration: of forecasts (None: no earlier cut-off). noise: standard deviation of log loss between
    runs at one place. support: measured range of N, D and C (None: not known), ratios: of D / N. design: measured
    places, the largest. others: values of the law's further variables. notes: what a reader must know about all this.
    """

    law: str
    formula: str
    program: Program
    parameters: Mapping[str, float]
    draws: Mapping[str, Array] | None
    clusters: int
    effective: float
    k: float
    counted: bool
    calibration: Calibration | None
    noise: float
    support: Mapping[str, tuple[float, float]] | None
    ratios: tuple[float, float] | None = None
    design: Sequence[tuple[float, float]] = ()
    others: Mapping[str, float] = field(default_factory=dict)
    level: float = 0.9
    reach: float = REACH
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        fit: Fit,
        draws: Draws | None = None,
        *,
        resample: bool = True,
        level: float = 0.9,
        reach: float = REACH,
        others: Mapping[str, float] | None = None,
    ) -> Outlook:
        """The outlook of a fit; its own DRAWS cluster resamples unless draws are given (or resample is False).

        others: values of variables beside N, D, C and M; the largest measured ones by default. Raises LawError for laws
        that do not say how size and data trade.
        """
        form, points = fit.form, fit.points
        given = {name: float(points.numbers(name).max()) for name in _further(form) if name in points} | dict(
            others or {}
        )
        allocates(form, given)
        k = flops_ratio(points)
        counted = "C" in points
        table = points if counted else points.with_columns(C=k * _places(points)[0] * _places(points)[1])
        notes: list[str] = []
        if not counted:
            notes.append(f"the table has no C: training FLOPs are taken as {k:g} N D")
        if draws is None and resample:
            try:
                draws = fit.bootstrap(DRAWS)
            except LawError as error:
                notes.append(str(error))
        if draws is not None:
            try:
                draws.refuse_unusable()
            except LawError as error:
                draws = None
                notes.append(str(error))
        if draws is not None and all(np.ptp(v) <= ALIKE * abs(float(np.mean(v))) for v in draws.parameters.values()):
            notes.append(f"all refits are alike, so they say nothing about spread: {UNMOVED}")
        calibration = None
        try:
            calibration = _calibrated(fit, table)
        except LawError as error:
            notes.append(f"the band holds no errors of earlier forecasts, so it is too narrow ({error})")
        N, D = _places(table)
        C = table.numbers("C")
        cells = sorted({(float(n), float(d)) for n, d in zip(N, D, strict=True)}, key=_cost)
        ratio = C / (N * D)
        if ratio.max() > UNEVEN * ratio.min():
            notes.append(f"C / (N D) runs from {ratio.min():.3g} to {ratio.max():.3g} in the table; {k:.3g} is taken")
        return cls(
            form.name,
            form.formula,
            Program.of(form),
            dict(fit.parameters),
            None if draws is None else _thinned(draws),
            0 if draws is None else draws.clusters,
            0.0 if draws is None else draws.effective,
            k,
            counted,
            calibration,
            max(seed_noise(fit), LEAST_NOISE),
            {"N": _range(N), "D": _range(D), "C": _range(C)},
            _range(D / N),
            tuple(cells[-MOST_DESIGN:]),
            given,
            level,
            reach,
            tuple(notes),
        )

    def at_level(self, level: float, reach: float | None = None) -> Outlook:
        """The same numbers with another level of the intervals (and another reach)."""
        return replace(self, level=level, reach=self.reach if reach is None else reach)

    def to_dict(self) -> dict[str, Any]:
        """JSON types; `from_dict` reads them back."""
        calibration = self.calibration
        return {
            "law": self.law,
            "formula": self.formula,
            "program": [list(step) for step in self.program.steps],
            "parameters": dict(self.parameters),
            "draws": None if self.draws is None else {name: values.tolist() for name, values in self.draws.items()},
            "clusters": self.clusters,
            "effective": self.effective,
            "k": self.k,
            "counted": self.counted,
            "calibration": None
            if calibration is None
            else {
                "scale": calibration.scale,
                "freedom": calibration.freedom,
                "origins": calibration.origins,
                "noise": calibration.noise,
            },
            "noise": self.noise,
            "support": None if self.support is None else {name: list(ends) for name, ends in self.support.items()},
            "ratios": None if self.ratios is None else list(self.ratios),
            "design": [list(cell) for cell in self.design],
            "others": dict(self.others),
            "level": self.level,
            "reach": self.reach,
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Outlook:
        """What `to_dict` gave. Raises LawError where the record is not one."""
        try:
            draws, calibration, support = record["draws"], record["calibration"], record["support"]
            ratios = record["ratios"]
            return cls(
                str(record["law"]),
                str(record["formula"]),
                Program(tuple(tuple(step) for step in record["program"])),
                {str(name): float(value) for name, value in record["parameters"].items()},
                None if draws is None else {name: np.asarray(values, dtype=float) for name, values in draws.items()},
                int(record["clusters"]),
                float(record["effective"]),
                float(record["k"]),
                bool(record["counted"]),
                None if calibration is None else Calibration(**calibration),
                float(record["noise"]),
                None if support is None else {name: (float(a), float(b)) for name, (a, b) in support.items()},
                None if ratios is None else (float(ratios[0]), float(ratios[1])),
                tuple((float(n), float(d)) for n, d in record["design"]),
                {str(name): float(value) for name, value in record["others"].items()},
                float(record["level"]),
                float(record["reach"]),
                tuple(str(note) for note in record["notes"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LawError(f"not an outlook of a law ({type(error).__name__}: {error})") from None

    def export(self) -> dict[str, Any]:
        """`to_dict` with what the page needs beside it: the numbers of the level, and which budgets are answered."""
        growth, row = (None, None) if self.calibration is None else self.calibration.factors(self.level)
        found = self.to_dict()
        limits = self.limits()
        return found | {
            "few": self.few,
            "widening": self.wider,
            "normal": NormalDist().inv_cdf(0.5 * (1.0 + self.level)),
            "one": NormalDist().cdf(1.0),
            "growth": growth,
            "offset": OFFSET,
            "row": row,
            "limits": None if limits is None else list(limits),
            "options": {
                "steps": STEPS, "widest": WIDEST, "factors": list(FACTORS), "curve": CURVE, "iso": ISO,
                "spread": SPREAD, "cap": CAP, **OPTIONS,
            },
        }  # fmt: skip

    @property
    def few(self) -> bool:
        """Whether fewer than ten clusters were resampled."""
        return self.clusters < FEW_CLUSTERS

    @property
    def wider(self) -> float:
        """Small-sample factor of the bootstrap's spread."""
        return widening(self.effective, self.level) if self.draws is not None else 1.0

    @property
    def bounded(self) -> bool:
        """Whether there is any interval."""
        return self.draws is not None or self.calibration is not None

    def log_loss(self, log_n: Any, log_d: Any, drawn: bool = False) -> Array:
        """log L at log N and log D; drawn: of every draw, along a new first axis."""
        values = self._values(drawn)
        return np.asarray(self.program.run(values, self._logs(log_n, log_d))[0])

    def loss(self, N: Any, D: Any) -> Any:
        """L(N, D)."""
        return np.exp(self.log_loss(np.log(N), np.log(D)))

    def optimum(self, C: Any, drawn: bool = False) -> Any:
        """log N* at compute C; NaN where loss does not turn between N = 1 and D = 1. drawn: of every draw."""
        log_pool = np.log(np.asarray(C, dtype=float) / self.k)
        values = self._values(drawn)
        shape = np.broadcast_shapes(np.shape(log_pool), np.shape(next(iter(values.values()))))
        pool = np.broadcast_to(log_pool, shape)

        def slope(log_n: Array) -> Array:
            found = self.program.run(values, self._logs(log_n, pool - log_n), ALONG)[1]
            return np.broadcast_to(np.asarray(found, dtype=float), shape)

        low, high = np.zeros(shape), np.array(pool)
        inside = (slope(low) < 0) & (slope(high) > 0)
        for _ in range(STEPS):
            middle = 0.5 * (low + high)
            rising = slope(middle) > 0
            low, high = np.where(rising, low, middle), np.where(rising, middle, high)
        return np.where(inside, 0.5 * (low + high), np.nan)

    def compute_for(self, D: float) -> float:
        """The compute at which D tokens are the best amount of data; NaN where none is."""
        log_d, start = math.log(D), math.log(self.k * D)

        def fewer(log_c: Array) -> Array:
            return np.asarray(log_c - math.log(self.k) - self.optimum(np.exp(log_c)) <= log_d)

        log_c = _edge(fewer, start, start + WIDEST)
        best = log_c - math.log(self.k) - float(self.optimum(math.exp(log_c)))
        return math.exp(log_c) if abs(best - log_d) < 1e-6 else math.nan

    def same_loss(self, log_n: Any, log_target: Any, drawn: bool = False) -> Array:
        """log D at which the law reaches a log loss with exp(log_n) parameters; NaN where it never does."""
        log_n = np.asarray(log_n, dtype=float)
        shape = np.broadcast_shapes(log_n.shape, np.shape(log_target))
        low, high = np.zeros(shape), np.full(shape, WIDEST)
        reached = self.log_loss(log_n, high, drawn) <= log_target
        early = self.log_loss(log_n, low, drawn) < log_target
        for _ in range(STEPS):
            middle = 0.5 * (low + high)
            above = self.log_loss(log_n, middle, drawn) > log_target
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return np.where(reached & ~early, 0.5 * (low + high), np.nan)

    def times(self, N: float, D: float) -> dict[str, float]:
        """How many times N, D and C lie outside of what was measured; 1 inside of it."""
        if self.support is None:
            return {"N": 1.0, "D": 1.0, "C": 1.0}
        places = {"N": N, "D": D, "C": self.k * N * D}
        return {name: max(places[name] / high, low / places[name], 1.0) for name, (low, high) in self.support.items()}

    def distance(self, log_n: Any, log_d: Any, support: Mapping[str, tuple[Any, Any]] | None = None) -> Any:
        """Log distance from the measured ranges of N, D and C, the largest."""
        ranges = support or self.support
        if ranges is None:
            return np.zeros(np.shape(log_n))
        places = {"N": log_n, "D": log_d, "C": math.log(self.k) + log_n + log_d}
        found: Any = 0.0
        for name, (low, high) in ranges.items():
            found = np.maximum(found, np.maximum(places[name] - np.log(high), np.log(low) - places[name]))
        return found

    def band(self, log_n: Any, log_d: Any) -> tuple[Array, Array, Array]:
        """Low, middle and high of the loss of one new run at places (k,); NaN ends where there is no interval."""
        log_n, log_d = np.atleast_1d(log_n), np.atleast_1d(log_d)
        middle = self.log_loss(log_n, log_d)
        below, above = self.spread(log_n, log_d, middle)
        half = self.half(self.distance(log_n, log_d))
        if not self.bounded:
            below = above = np.full(middle.shape, np.nan)
        return np.exp(middle - np.hypot(below, half)), np.exp(middle), np.exp(middle + np.hypot(above, half))

    def limits(self) -> tuple[float, float] | None:
        """The smallest and largest compute that is answered at the best split; None where any is."""
        if self.support is None:
            return None
        middle = 0.5 * sum(math.log(end) for end in self.support["C"])

        def near(log_c: Array) -> Array:
            log_n = self.optimum(np.exp(log_c))
            far = self.distance(log_n, log_c - math.log(self.k) - log_n)
            return np.asarray(far <= math.log(self.reach))

        if not near(np.array([middle]))[0]:
            return None
        far = WIDEST + math.log(self.reach)
        return math.exp(_edge(near, middle, middle - far)), math.exp(_edge(near, middle, middle + far))

    def refusal(self, N: float, D: float) -> str | None:
        """Why there is no answer at (N, D); None where there is one."""
        times = self.times(N, D)
        worst = max(times, key=lambda name: times[name])
        lost = not (math.isfinite(N) and math.isfinite(D))
        if not lost and times[worst] <= self.reach:
            return None
        limits = self.limits()
        allowed = "" if limits is None else f"; allowed: {limits[0]:.3g} to {limits[1]:.3g} FLOPs at the best split"
        if lost or self.support is None:
            return f"law {self.law} has no best size at this compute: its loss does not turn with N{allowed}"
        low, high = self.support[worst]
        side = "above" if {"N": N, "D": D, "C": self.k * N * D}[worst] > high else "below"
        return (
            f"{worst} would be {times[worst]:.3g} times {side} the measured {low:.3g} to {high:.3g}, and the reach of "
            f"this law is {self.reach:g} times{allowed}"
        )

    def answer(self, C: float, N: float | None = None) -> dict[str, Any]:
        """Everything about a budget of C FLOPs (with N parameters: at that size), as JSON types (`laws.budget`)."""
        return budget_answer(self, C, N)

    def _values(self, drawn: bool) -> Mapping[str, Any]:
        if not drawn:
            return self.parameters
        if self.draws is None:
            raise LawError(f"the fit of law {self.law!r} has no draws")
        return {name: values[:, None] for name, values in self.draws.items()}

    def _logs(self, log_n: Any, log_d: Any) -> dict[str, Any]:
        log_n, log_d = np.asarray(log_n, dtype=float), np.asarray(log_d, dtype=float)
        known = {"N": log_n, "D": log_d, "C": math.log(self.k) + log_n + log_d, "M": log_d - log_n}
        return known | {name: math.log(value) for name, value in self.others.items()}

    def spread(self, log_n: Array, log_d: Array, middle: Array) -> tuple[Array, Array]:
        """Distances in log loss of the bootstrap interval's ends from the middle; 0 without draws."""
        if self.draws is None:
            return np.zeros(middle.shape), np.zeros(middle.shape)
        low, high = self.ends(self.log_loss(log_n[None, :], log_d[None, :], drawn=True), middle)
        return np.nan_to_num(middle - low), np.nan_to_num(high - middle)

    def ends(self, values: Array, middle: Array) -> tuple[Array, Array]:
        """Interval ends of logarithms (draws, k) around middles (k,), as `Draws.interval` has them."""
        low, high = ends(np.exp(values - middle), np.ones(len(middle)), self.level, self.few, self.wider)
        return middle + np.log(low), middle + np.log(high)

    def half(self, distance: Any) -> Any:
        """Half-width of the calibrated error and the noise of one run; 0 without calibration."""
        if self.calibration is None:
            return np.zeros(np.shape(distance))
        return self.calibration.half_width(np.asarray(distance), self.level)


def _further(form: Form) -> list[str]:
    return [name for name in form.variables if name not in ALONG]


def _places(points: Points) -> tuple[Array, Array]:
    """N and D of the rows, from C and M where the table has those. Raises LawError."""
    if "N" in points and "D" in points:
        return points.numbers("N"), points.numbers("D")
    if "C" in points and "M" in points:
        N = np.sqrt(points.numbers("C") / (flops_ratio(points) * points.numbers("M")))
        return N, N * points.numbers("M")
    raise LawError(f"planning needs columns N and D (or C and M); the table has {', '.join(points.columns)}")


def _calibrated(fit: Fit, table: Points) -> Calibration:
    """Errors of refits below earlier cut-offs of compute."""
    from isoloss.laws.validate import calibrate_fit

    options: dict[str, Any] = {"x": fit.x, "y": fit.response, "loss": fit.loss.kind, "weighted": fit.weighted}
    options |= {"delta": fit.loss.delta, "tau": fit.loss.tau, "cluster": fit.cluster}
    options["fixed"] = {name: fit.parameters[name] for name in fit.problem.fixed}
    return calibrate_fit(table, fit, "C", options)


def _edge(holds: Callable[[Array], Array], inside: float, outside: float) -> float:
    """Where a condition that holds at `inside` ends towards `outside`: 16 parts at a time, as fine as a double."""
    for _ in range(12):
        grid = np.linspace(inside, outside, 17)
        good = holds(grid[1:])
        if good.all():
            return outside
        first = int(np.argmin(good))
        inside, outside = float(grid[first]), float(grid[first + 1])
    return inside


def _thinned(draws: Draws) -> dict[str, Array]:
    """The first DRAWS draws to ten digits, which no answer can tell from all of them."""
    return {
        name: np.array([float(f"{value:.10g}") for value in values[:DRAWS]])
        for name, values in draws.parameters.items()
    }


def _range(values: Array) -> tuple[float, float]:
    return float(np.min(values)), float(np.max(values))


def _cost(cell: tuple[float, float]) -> float:
    return cell[0] * cell[1]
