"""Bootstrap: thousands of resampled fits as row weights on one batch, and intervals from them.

Methods: 'cluster' (whole clusters with replacement; the default), 'pairs' (rows), 'residual' (fitted values
plus resampled, centred residuals) and 'parametric' (fitted values plus Gaussian noise, with the standard
deviation of repeated seeds where the table has them, else of the residuals).

A resample whose rows cannot determine the law, whatever their losses (two model sizes for a law that needs
three), has no optimum to report: it is drawn again, and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import comb
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from isoloss.laws.errors import LawError, unknown
from isoloss.laws.fitting import continuation
from isoloss.laws.form import Form
from isoloss.laws.newton import Solution, minimise
from isoloss.laws.polish import Point, Task, polish
from isoloss.laws.problem import COEFFICIENT_RANGE, from_natural

if TYPE_CHECKING:
    from isoloss.laws.fitting import Fit

Array = np.ndarray
METHODS = ("cluster", "pairs", "residual", "parametric")
FEWEST_CLUSTERS = 3
FEW_CLUSTERS = 10
MOST_FAILED = 0.05  # share of draws without a solution beyond which no interval is given
PLENTY = 2_000  # clusters from which every resample determines what the table does
TRIAL = 200  # resamples at least that judge how many determine the law
MOST_REDRAWN = 0.5  # share of resamples that cannot determine the law beyond which none is solved
MANY_AT_BOUND = 0.05
# Two routes agree on an objective F of n rows when they differ by this share of it: the likelihood-ratio distance,
# about 2 n times as much, is then a small fraction of a standard error for any table of less than a million rows.
AGREE = 1e-8
# A draw that creeps along a valley is solved where a box of steps would gain this share of its objective; laws of
# more than five parameters have valleys whose far ends no table tells apart, and are followed less far.
SETTLED, SETTLED_MANY, MANY = 1e-8, 1e-5, 5
WALKS, WALKS_MANY, TOGETHER = 8, 2, 512
DEPENDENT = 1e-13  # eigenvalue of the scaled information below which a direction counts as undetermined
OPEN_FACTOR = 2.0  # ratio of an interval's ends beyond which a parameter counts as open
Target = str | Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Interval:
    """A point estimate with the ends of its interval; `note` says where an end was cut to what is possible."""

    estimate: float
    low: float
    high: float
    level: float
    note: str = ""

    def __iter__(self) -> Any:
        return iter((self.low, self.high))


@dataclass
class Draws:
    """Resampled parameter values.

    parameters: natural values by name, one per draw. clusters: number of resampled units. unit: what they
    are. effective: number of equal clusters that carry as much information, (sum n)^2 / sum n^2 over cluster
    sizes n. failed: draws that did not converge (left out). at_bound: draws with a parameter at a bound.
    index: number of each kept draw in the order of drawing (two bootstraps with one seed, size and number of
    clusters drew the same clusters under the same number). redrawn: resamples that could not determine the
    law and were replaced.
    """

    fit: Fit
    parameters: dict[str, Array]
    clusters: int
    unit: str
    method: str
    failed: int
    at_bound: int
    effective: float
    index: Array
    redrawn: int = 0

    def __len__(self) -> int:
        return len(next(iter(self.parameters.values())))

    @property
    def notes(self) -> list[str]:
        """What a reader of the intervals must know: replaced and failed draws, and many draws at a bound."""
        found, kept = [], len(self)
        if self.redrawn:
            tried = kept + self.failed + self.redrawn
            found.append(
                f"{self.redrawn} of {tried} resamples held too few different rows to determine the law and were drawn "
                "again"
            )
        if self.failed:
            found.append(f"{self.failed} of {kept + self.failed} draws had no solution and are left out")
        if self.at_bound > MANY_AT_BOUND * kept:
            found.append(
                f"{self.at_bound / kept:.0%} of the draws put a parameter at a bound: the rows do not determine it"
            )
        return found

    def values(self, target: Target) -> Array:
        """A parameter, a derived quantity, or any function of the parameter values, for every draw."""
        with np.errstate(all="ignore"):
            return np.asarray(target_function(self.fit.form, target)(self.parameters), dtype=float)

    def interval(self, target: Target, level: float = 0.9) -> Interval:
        """Percentile interval of a parameter, a derived quantity or a function of the parameters.

        With few clusters the resampled spread is too small: deviations from the estimate are widened by
        sqrt(G / (G - 1)) and by the ratio of Student's t quantile with G - 1 degrees of freedom to the normal
        one (on the log scale for positive quantities), G being the effective number of clusters. Below ten
        clusters the ends are plus and minus half the central 68 % of the draws (a few draws at a bound do not
        stretch it) times the normal quantile, widened alike. Shares are treated as odds. Ends are cut to what is
        possible (a floor below the smallest loss, an exponent within its bounds), with a note. Raises LawError
        below three clusters, with no residual degree of freedom, or if more than 5 % of the draws failed.
        """
        values = self.values(target)
        estimate = float(target_function(self.fit.form, target)(self.fit.parameters))
        if target in self.fit.form.shares:
            # On the scale of odds, so that a share and its complement have the same interval.
            with np.errstate(all="ignore"):
                odds, at = values / (1.0 - values), np.float64(estimate) / (1.0 - estimate)
            ends = self.ends(odds[:, None], np.array([at]), level)
            low, high = (float(end[0] / (1.0 + end[0])) for end in ends)
        else:
            low, high = (float(end[0]) for end in self.ends(values[:, None], np.array([estimate]), level))
        notes = without_value(values)
        if not isinstance(target, str):
            return Interval(estimate, low, high, level, "; ".join(notes))
        least, most, nothing, why = self._possible(target, estimate)
        if low < nothing:
            low = 0.0
            notes.append("the draws reach zero")
        elif low < least:
            notes.append(f"lower end cut to {least:.4g}, {why}")
        if high > most:
            notes.append(f"upper end cut to {most:.4g}, {why}")
        if self._one_value(target, low, high):
            notes.append("the draws hardly differ: no spread, which is no precision")
        return Interval(estimate, max(low, least), min(high, most), level, "; ".join(notes))

    def _one_value(self, target: str, low: float, high: float) -> bool:
        """Whether the interval of a free parameter has no width, as where draws stay at a bound."""
        names = self.fit.form.names
        free = target in names and bool(self.fit.problem.free[names.index(target)])
        return free and bool(np.isclose(low, high, rtol=1e-6, atol=0.0))

    def _possible(self, target: str, estimate: float) -> tuple[float, float, float, str]:
        """Smallest and largest possible value of a named quantity, what stands for zero, and why."""
        form, problem = self.fit.form, self.fit.problem
        low, high, nothing, why = -np.inf, np.inf, 0.0, ""
        if target in form.shares:
            return 0.0, 1.0, nothing, "a share"
        if target in form.names and not form.dimension(target):
            i, q = form.names.index(target), form.parameter(target)
            low, high, why = float(problem.lower[i]), float(problem.upper[i]), "its bound"
            if q.positive:
                low, high = float(np.exp(low)), float(np.exp(high))
                if q.lower is None:
                    low, nothing = 0.0, 1.001 * low
        if target == form.floor and form.space == "log":
            # A floor cannot lie above a loss that was seen (the estimate itself may, by the noise).
            return 0.0, max(float(np.exp(problem.y.min())), estimate), nothing, f"the smallest {form.response}"
        return low, high, nothing, why

    def open_parameters(self, level: float = 0.9) -> dict[str, Interval]:
        """Free coefficients, scales and exponents whose interval ends differ by more than a factor of two.

        Coefficients are judged in units where the variables have geometric mean one: in natural units A of
        A N^-alpha moves with alpha by powers of N although the curve hardly does. Raises LawError as `interval`.
        """
        found = {}
        fit = self.fit
        centred = from_natural(fit.form, self.parameters, fit.problem.centre)
        for i, q in enumerate(fit.form.parameters):
            if not fit.problem.free[i] or not (q.positive or q.role == "exponent"):
                continue
            values, at = centred[:, i], float(fit.theta[i])
            if q.positive:
                values, at = np.exp(values), float(np.exp(at))
            low, high = (float(end[0]) for end in self.ends(values[:, None], np.array([at]), level))
            natural = self.interval(q.name, level)
            if not fit.form.dimension(q.name):
                low, high = natural.low, natural.high
            least, most = sorted((abs(low), abs(high)))
            if low * high <= 0 or not most <= OPEN_FACTOR * least:
                found[q.name] = natural
        return found

    def identification(self, level: float = 0.9) -> str:
        """One sentence: which parameters the intervals leave open, and on how many units they rest."""
        wide = self.open_parameters(level)
        if wide:
            listed = ", ".join(f"{name} ({one.low:.3g} to {one.high:.3g})" for name, one in wide.items())
            text = f"the {level:.0%} intervals leave open: {listed}"
        else:
            text = (
                f"the {level:.0%} intervals fix every free parameter within a factor of {OPEN_FACTOR:g} (coefficients "
                "in units where the variables have geometric mean one)"
            )
        if self.clusters < FEW_CLUSTERS:
            text += f"; they rest on only {self.clusters} independent clusters by {self.unit}, so take them as rough"
        return text

    def standard_error(self, target: Target) -> float:
        """Standard deviation over the draws."""
        values = self.values(target)
        return float(np.std(values[np.isfinite(values)]))

    def predict_band(
        self, level: float = 0.9, noise: bool = False, seed: int = 0, **columns: Any
    ) -> tuple[Array, Array, Array]:
        """Low, middle and high of the predicted response at values of the variables.

        The band is of the mean curve; with `noise` a resampled residual is added to every draw, which makes
        it a band for one new measurement inside the fitted range (beyond it use a calibrated forecast).
        """
        fit = self.fit
        variables = {name: np.atleast_1d(v).astype(float) for name, v in fit.variables(columns).items()}
        middle = np.atleast_1d(fit.form.predict(fit.parameters, variables))
        table = {name: values[:, None] for name, values in self.parameters.items()}
        predicted = fit.form.predict(table, {name: v[None, :] for name, v in variables.items()})
        if noise:
            rng = np.random.default_rng(seed)
            extra = rng.choice(fit.residuals, size=predicted.shape)
            predicted = fit.form.from_space(fit.form.to_space(predicted) + extra)
        low, high = self.ends(predicted, middle, level)
        return low, middle, high

    def ends(self, values: Array, estimate: Array, level: float) -> tuple[Array, Array]:
        """Interval ends of values (draws, k) around estimates (k,). Raises LawError below three clusters."""
        self.refuse_unusable()
        if not 0 < level < 1:
            raise LawError(f"level must lie between 0 and 1; found {level}")
        return ends(values, estimate, level, self.clusters < FEW_CLUSTERS, widening(self.effective, level))

    def refuse_unusable(self) -> None:
        """Raise LawError for too few clusters, no residual degree of freedom, or too many failed draws."""
        refuse_few(self.clusters, self.unit)
        refuse_exact(self.fit)
        tried = len(self) + self.failed
        if self.failed > MOST_FAILED * tried:
            raise LawError(
                f"no interval: {self.failed} of {tried} bootstrap draws had no solution; pin a parameter that the "
                "rows do not determine or fit a simpler law"
            )


def ends(values: Array, estimate: Array, level: float, few: bool, wider: float) -> tuple[Array, Array]:
    """Interval ends of values (draws, k) around estimates (k,); see `Draws.interval` for the rule.

    few: whether fewer than ten clusters were resampled. wider: the small-sample factor (`widening`). What is not
    finite is left out; NaN where nothing is left.
    """
    with np.errstate(all="ignore"):
        logged = (estimate > 0) & ((values > 0) | ~np.isfinite(values)).all(axis=0)
        moved = np.where(logged, np.log(values / estimate), values - estimate)
    empty = ~np.isfinite(moved).any(axis=0)
    moved = np.where(empty, 0.0, np.where(np.isfinite(moved), moved, np.nan))
    if few:
        # A handful of clusters has few distinct resamples, so quantiles would be atoms: use their spread.
        middle = np.nanquantile(moved, [NormalDist().cdf(-1.0), NormalDist().cdf(1.0)], axis=0)
        reach = NormalDist().inv_cdf(0.5 * (1.0 + level)) * 0.5 * (middle[1] - middle[0])
        low, high = -reach, reach
    else:
        tail = 0.5 * (1.0 - level)
        low, high = np.nanquantile(moved, [tail, 1.0 - tail], axis=0, method="weibull")
    low, high = (np.where(empty, np.nan, wider * end) for end in (low, high))
    with np.errstate(all="ignore"):
        return (
            np.where(logged, estimate * np.exp(low), estimate + low),
            np.where(logged, estimate * np.exp(high), estimate + high),
        )


def without_value(values: Array) -> list[str]:
    """A note where some draws have no finite value (a loss that is never reached, say)."""
    missing = int(np.sum(~np.isfinite(values)))
    return [f"{missing} of {len(values)} draws have no value and are left out"] if missing else []


def refuse_exact(fit: Fit) -> None:
    """Raise LawError where no residual degree of freedom is left."""
    problem = fit.problem
    used, free = int(np.sum(problem.weight > 0)), int(problem.free.sum())
    if used <= free:
        raise LawError(
            f"no interval: {used} rows and {free} free parameters leave no residual to judge spread from; add rows or "
            "pin parameters"
        )


def refuse_few(clusters: int, unit: str) -> None:
    """Raise LawError where there are too few independent units for an interval."""
    if clusters < FEWEST_CLUSTERS:
        raise LawError(
            f"no interval: the rows form {clusters} independent cluster{'s' if clusters != 1 else ''} (by "
            f"{unit}) and "
            f"spread cannot be judged from fewer than {FEWEST_CLUSTERS}; add seeds or runs, or name another "
            "cluster column"
        )


def widening(clusters: float, level: float) -> float:
    """Small-sample factor for bootstrap deviations over an effective number of clusters (at least two)."""
    from scipy.special import stdtrit

    upper = 0.5 * (1.0 + level)
    clusters = max(clusters, 2.0)
    student = float(stdtrit(clusters - 1, upper))
    return student / NormalDist().inv_cdf(upper) * float(np.sqrt(clusters / (clusters - 1)))


def target_function(form: Form, target: Target) -> Callable[[Mapping[str, Any]], Any]:
    """A parameter, derived quantity or given function, as a function of the parameters. Raises LawError."""
    if callable(target):
        return target
    if target in form.names:
        return lambda values: values[target]
    derived = form.derived()
    if target in derived:
        return derived[target]
    raise unknown(f"quantity (of law {form.name!r})", target, [*form.names, *derived])


def bootstrap(
    fit: Fit, n: int = 1000, seed: int = 0, method: str = "cluster", cluster: Any = None, indices: Any = None
) -> Draws:
    """n resampled fits, each started at the fit.

    indices: row indices of the resamples, shape (n, rows), to repeat somebody else's bootstrap.
    Raises LawError for fewer than three clusters, for as many free parameters as rows, and where most resamples
    cannot determine the law.
    """
    if method not in METHODS:
        raise unknown("bootstrap method", method, METHODS)
    if n < 1:
        raise LawError(f"number of bootstrap draws must be positive; found {n}")
    refuse_exact(fit)
    problem, rng = fit.problem, np.random.default_rng(seed)
    rows = problem.rows
    y, weight = problem.y[None, :], problem.weight[None, :]
    groups, unit = fit.points.clusters(cluster) if method == "cluster" else (np.arange(rows), "row")
    count, redrawn = int(groups.max()) + 1, 0
    number, copies = np.arange(n), np.arange(n)
    if indices is not None:
        weight = weight * counts_of(np.asarray(indices), rows)
        groups, unit, count, method = np.arange(rows), "row", rows, "pairs"
        number = copies = np.arange(len(weight))
    elif method in ("cluster", "pairs"):
        refuse_few(count, unit)
        counts, number = _determining(fit, rng, groups, n, unit)
        redrawn = int(number[-1]) + 1 - n
        if comb(2 * count - 1, count) < n:
            # A handful of clusters has fewer different resamples than draws: each is solved once.
            counts, copies = np.unique(counts, axis=0, return_inverse=True)
            copies = copies.ravel()
        weight = weight * counts[:, groups]
    else:
        refuse_few(rows, unit)
        fitted = problem.y - fit.residuals
        y = fitted[None, :] + noise(fit, rng, n, method)
    solution = _solve(fit, y, weight)
    good = (solution.converged & np.isfinite(solution.objective))[copies]
    theta = solution.theta[copies][good]
    bound = ((theta <= problem.lower + 1e-9) | (theta >= problem.upper - 1e-9)) & problem.free
    natural = problem.natural(theta)
    sizes = np.bincount(groups)
    effective = float(sizes.sum() ** 2 / np.sum(sizes**2))
    failed, at_bound = int((~good).sum()), int(bound.any(axis=1).sum())
    return Draws(fit, natural, count, unit, method, failed, at_bound, effective, number[good], redrawn)


def _determining(fit: Fit, rng: np.random.Generator, groups: Array, n: int, unit: str) -> tuple[Array, Array]:
    """n resamples that can determine the law, as counts of every cluster, and their numbers in order of drawing."""
    count = int(groups.max()) + 1
    if count > PLENTY:
        return resample(rng, count, n), np.arange(n)
    kept: list[Array] = []
    numbers: list[Array] = []
    size = max(n, TRIAL)
    for begin in range(0, 100 * size, size):
        drawn = resample(rng, count, size)
        usable = determines(fit, drawn[:, groups])
        if begin == 0 and np.mean(usable) < 1.0 - MOST_REDRAWN:
            free = int(fit.problem.free.sum())
            raise LawError(
                f"no interval: {1.0 - np.mean(usable):.0%} of the resamples of {count} clusters by {unit} hold too few "
                f"different rows to determine the {free} free parameters of law {fit.form.name!r}; pin parameters, fit "
                "a simpler law, add rows, or resample another unit (cluster)"
            )
        kept.append(drawn[usable])
        numbers.append(begin + np.flatnonzero(usable))
        if sum(map(len, kept)) >= n:
            break
    return np.concatenate(kept)[:n], np.concatenate(numbers)[:n]


def determines(fit: Fit, weight: Array) -> Array:
    """Whether rows of weight (draws, rows) determine as many directions at the fit as all rows do, per draw."""
    problem, rows, model = fit.problem, fit.problem.rows, fit.problem.model()
    _, state = model.forward(fit.theta[None, :])
    slopes = np.nan_to_num(model.jacobian(state)[0][:, problem.free])
    size = slopes.shape[1]
    products = (slopes[:, :, None] * slopes[:, None, :]).reshape(rows, -1)

    def rank(weight: Array) -> Array:
        present = ((weight > 0) & (problem.weight > 0)).astype(float)
        matrix = (present @ products).reshape(-1, size, size)
        scale = np.sqrt(np.einsum("kii->ki", matrix))
        scale[scale == 0] = 1.0
        values = np.linalg.eigvalsh(matrix / (scale[:, :, None] * scale[:, None, :]))
        return np.sum(values > DEPENDENT * size, axis=1)

    most = rank(np.ones((1, rows)))[0]
    return np.asarray(rank(weight) >= most)


def _solve(fit: Fit, y: Array, weight: Array) -> Solution:
    """Every draw from the fit, in one batch; what creeps there is finished by walks along its valley."""
    problem = fit.problem
    objective = continuation(problem, fit.loss)[-1]
    start = np.repeat(fit.theta[None, :], max(len(weight), len(y)), axis=0)
    free, lower, upper = problem.free, problem.lower, problem.upper
    solution = minimise(problem.model(), start, y, weight, objective, free, lower, upper)
    bad = np.flatnonzero(~(solution.converged & np.isfinite(solution.objective)))
    settled = SETTLED if int(free.sum()) <= MANY else SETTLED_MANY
    for begin in range(0, len(bad), TOGETHER):
        index = bad[begin : begin + TOGETHER]
        moving = np.broadcast_to(free, start.shape)
        task = Task(problem.model(), y, weight, objective, moving, lower, upper, settled).of(index)
        best = _finish(fit, task, solution.theta[index])
        solution.theta[index], solution.objective[index] = best.theta, best.value
        solution.converged[index] = best.converged
    return solution


def _finish(fit: Fit, task: Task, theta: Array) -> Point:
    """The optima of draws: from where the batch stopped, else from other starts until one ends at an optimum."""
    walks = WALKS if task.gain == SETTLED else WALKS_MANY
    best = polish(task, theta, walks)
    minima = (from_natural(fit.form, m.parameters, fit.problem.centre) for m in fit.minima[1:3])
    for start in (_revived(fit), fit.theta, *minima):
        todo = np.flatnonzero(~best.converged)
        if not len(todo):
            break
        other = polish(task.of(todo), np.repeat(start[None, :], len(todo), axis=0), walks)
        # Two routes to one objective are a solution, even where the last digits creep along a valley.
        agreed = np.abs(other.value - best.value[todo]) <= AGREE * best.value[todo]
        other.converged |= agreed
        best.converged[todo] |= agreed
        better = np.flatnonzero(other.value < best.value[todo])
        best.put(todo[better], other.of(better))
    return best


def _revived(fit: Fit) -> Array:
    """The fit with vanished coefficients at a twentieth of the response: from zero a logarithm has no slope."""
    problem = fit.problem
    vanished = (fit.theta <= problem.lower + 1.0) & np.array([q.positive for q in fit.form.parameters]) & problem.free
    middle = 0.5 * (problem.lower + np.minimum(problem.upper, problem.lower + 2.0 * COEFFICIENT_RANGE))
    return np.where(vanished, middle - np.log(20.0), fit.theta)


def resample(rng: np.random.Generator, count: int, n: int) -> Array:
    """How often each of `count` units appears in each of n resamples with replacement."""
    return rng.multinomial(count, np.full(count, 1.0 / count), size=n).astype(float)


def counts_of(indices: Array, rows: int) -> Array:
    """Integer weights of resamples given as row indices."""
    if indices.ndim != 2 or indices.min() < 0 or indices.max() >= rows:
        raise LawError(
            f"indices must have shape (draws, rows) with entries 0 to {rows - 1}; found shape {indices.shape}"
        )
    return np.stack([np.bincount(row, minlength=rows) for row in indices]).astype(float)


def noise(fit: Fit, rng: np.random.Generator, n: int, method: str) -> Array:
    """Residuals of synthetic responses, shape (n, rows)."""
    r = fit.residuals
    if method == "residual":
        used = int(fit.problem.free.sum())
        inflated = (r - r.mean()) * np.sqrt(len(r) / max(len(r) - used, 1))
        return rng.choice(inflated, size=(n, len(r)))
    return rng.normal(size=(n, len(r))) * seed_noise(fit)


def seed_noise(fit: Fit) -> float:
    """Standard deviation between repeats of one design point; of the residuals where nothing was repeated."""
    keys = np.stack(list(fit.problem.logs.values()), axis=1).round(9)
    _, group = np.unique(keys, axis=0, return_inverse=True)
    group = group.ravel()
    counts = np.bincount(group)
    means = np.bincount(group, fit.residuals) / counts
    freedom = int((counts - 1).sum())
    if freedom >= 5:
        return float(np.sqrt(np.sum((fit.residuals - means[group]) ** 2) / freedom))
    used = int(fit.problem.free.sum())
    return float(np.sqrt(np.sum(fit.residuals**2) / max(len(fit.residuals) - used, 1)))
