"""Bootstrap: thousands of resampled fits as row weights on one batch, and intervals from them.

Methods: 'cluster' (whole clusters with replacement; the default), 'pairs' (rows), 'residual' (fitted values
plus resampled, centred residuals) and 'parametric' (fitted values plus Gaussian noise, with the standard
deviation of repeated seeds where the table has them, else of the residuals).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from isoloss.laws.errors import LawError, unknown
from isoloss.laws.form import Form
from isoloss.laws.newton import Solution, minimise

if TYPE_CHECKING:
    from isoloss.laws.fitting import Fit

Array = np.ndarray
METHODS = ("cluster", "pairs", "residual", "parametric")
FEWEST_CLUSTERS = 3
FEW_CLUSTERS = 10
MOST_FAILED = 0.25  # share of draws without a solution beyond which no interval is given
MANY_AT_BOUND = 0.05
Target = str | Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Interval:
    """A point estimate with the ends of its interval."""

    estimate: float
    low: float
    high: float
    level: float

    def __iter__(self) -> Any:
        return iter((self.low, self.high))


@dataclass
class Draws:
    """Resampled parameter values.

    parameters: natural values by name, one per draw. clusters: number of resampled units. unit: what they
    are. effective: number of equal clusters that carry as much information, (sum n)^2 / sum n^2 over cluster
    sizes n. failed: draws that did not converge (left out). at_bound: draws with a parameter at a bound.
    index: number of each kept draw among all resamples.
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

    def __len__(self) -> int:
        return len(next(iter(self.parameters.values())))

    @property
    def notes(self) -> list[str]:
        """What a reader of the intervals must know: failed draws, and many draws at a bound."""
        found, kept = [], len(self)
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
        stretch it) times the normal quantile, widened alike. A floor E stays below the smallest loss. Raises
        LawError below three clusters, with no residual degree of freedom, or if over a quarter of the draws failed.
        """
        values = self.values(target)
        with np.errstate(all="ignore"):
            estimate = float(target_function(self.fit.form, target)(self.fit.parameters))
        low, high = self.ends(values[:, None], np.array([estimate]), level)
        if target == "E" and self.fit.form.space == "log":
            # A floor cannot lie above a loss that was seen (the estimate itself may, by the noise).
            low[0] = max(float(low[0]), 0.0)
            high[0] = min(float(high[0]), max(float(np.exp(self.fit.problem.y.min())), estimate))
        return Interval(estimate, float(low[0]), float(high[0]), level)

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
        refuse_few(self.clusters, self.unit)
        problem, tried = self.fit.problem, len(self) + self.failed
        if problem.rows <= int(problem.free.sum()):
            raise LawError(
                f"no interval: {problem.rows} rows and {int(problem.free.sum())} free parameters leave no residual "
                "to judge spread from; add rows or pin parameters"
            )
        if self.failed > MOST_FAILED * tried:
            raise LawError(
                f"no interval: {self.failed} of {tried} bootstrap draws had no solution; pin a parameter that the "
                "rows do not determine or fit a simpler law"
            )
        if not 0 < level < 1:
            raise LawError(f"level must lie between 0 and 1; found {level}")
        logged = (estimate > 0) & (values > 0).all(axis=0)
        with np.errstate(all="ignore"):
            moved = np.where(logged, np.log(values / estimate), values - estimate)
        moved = np.where(np.isfinite(moved), moved, np.nan)
        if self.clusters < FEW_CLUSTERS:
            # A handful of clusters has few distinct resamples, so quantiles would be atoms: use their spread.
            ends = np.nanquantile(moved, [NormalDist().cdf(-1.0), NormalDist().cdf(1.0)], axis=0)
            reach = NormalDist().inv_cdf(0.5 * (1.0 + level)) * 0.5 * (ends[1] - ends[0])
            low, high = -reach, reach
        else:
            tail = 0.5 * (1.0 - level)
            low, high = np.nanquantile(moved, [tail, 1.0 - tail], axis=0, method="weibull")
        factor = widening(self.effective, level)
        return (
            np.where(logged, estimate * np.exp(factor * low), estimate + factor * low),
            np.where(logged, estimate * np.exp(factor * high), estimate + factor * high),
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
    Raises LawError for fewer than three clusters.
    """
    if method not in METHODS:
        raise unknown("bootstrap method", method, METHODS)
    if n < 1:
        raise LawError(f"number of bootstrap draws must be positive; found {n}")
    problem, rng = fit.problem, np.random.default_rng(seed)
    rows = problem.rows
    y, weight = problem.y[None, :], problem.weight[None, :]
    groups, unit = fit.points.clusters(cluster) if method == "cluster" else (np.arange(rows), "row")
    count = int(groups.max()) + 1
    if indices is not None:
        weight = weight * counts_of(np.asarray(indices), rows)
        groups, unit, count, method = np.arange(rows), "row", rows, "pairs"
    elif method in ("cluster", "pairs"):
        refuse_few(count, unit)
        weight = weight * resample(rng, count, n)[:, groups]
    else:
        refuse_few(rows, unit)
        fitted = problem.y - fit.residuals
        y = fitted[None, :] + noise(fit, rng, n, method)
    draws = max(len(weight), len(y))
    objective = fit.loss.continuation()[-1]
    start = np.repeat(fit.theta[None, :], draws, axis=0)
    solution = minimise(problem.model(), start, y, weight, objective, problem.free, problem.lower, problem.upper)
    good = solution.converged & np.isfinite(solution.objective)
    if not good.all():
        _solve_again(fit, solution, np.flatnonzero(~good), y, weight)
        good = solution.converged & np.isfinite(solution.objective)
    theta = solution.theta[good]
    bound = ((theta <= problem.lower + 1e-9) | (theta >= problem.upper - 1e-9)) & problem.free
    natural = problem.natural(theta)
    sizes = np.bincount(groups)
    effective = float(sizes.sum() ** 2 / np.sum(sizes**2))
    failed, at_bound = int((~good).sum()), int(bound.any(axis=1).sum())
    return Draws(fit, natural, count, unit, method, failed, at_bound, effective, np.flatnonzero(good))


def _solve_again(fit: Fit, solution: Solution, bad: Array, y: Array, weight: Array) -> None:
    """Solve failed draws once more, from each minimum of the fit through ever narrower objectives (in place)."""
    from isoloss.laws.fitting import continuation
    from isoloss.laws.problem import from_natural

    problem = fit.problem
    y, weight = (v if len(v) == 1 else v[bad] for v in (y, weight))
    starts = [fit.theta, *(from_natural(fit.form, m.parameters, problem.centre) for m in fit.minima[1:3])]
    for start in starts:
        theta = np.repeat(start[None, :], len(bad), axis=0)
        for step in continuation(problem, fit.loss):
            found = minimise(problem.model(), theta, y, weight, step, problem.free, problem.lower, problem.upper)
            theta = found.theta
        # Two routes to one objective are a solution, even where the last digits creep along a valley.
        gap = np.abs(found.objective - solution.objective[bad])
        solution.converged[bad[gap <= 1e-4 * np.abs(solution.objective[bad])]] = True
        better = np.isfinite(found.objective) & (
            (found.converged & ~solution.converged[bad])
            | ((found.converged == solution.converged[bad]) & (found.objective < solution.objective[bad]))
        )
        solution.theta[bad[better]] = found.theta[better]
        solution.objective[bad[better]] = found.objective[better]
        solution.converged[bad[better]] = found.converged[better]


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
