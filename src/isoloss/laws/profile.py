"""Profile of the objective over one parameter: the honest picture of curved valleys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from isoloss.laws.errors import unknown
from isoloss.laws.newton import minimise
from isoloss.laws.problem import from_natural, make_problem

if TYPE_CHECKING:
    from isoloss.laws.fitting import Fit

Array = np.ndarray
ITERATIONS = 60  # far out, where a solve crawls along a flat valley, the picture needs no last digit


@dataclass(frozen=True)
class Profile:
    """Best objective at fixed values of one parameter.

    statistic: likelihood-ratio statistic of each value, from a profiled noise scale (squared objective:
    normal noise; Huber of small delta and L1: Laplace noise). Rows are taken as independent: with clusters
    use the bootstrap for intervals and this as the picture and check.
    """

    name: str
    values: Array
    objective: Array
    statistic: Array

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """Ends where the statistic crosses the chi-squared quantile; infinite where the grid has none."""
        from scipy.special import chdtri

        limit = float(chdtri(1, 1.0 - level))
        best = int(np.argmin(self.statistic))
        low = _crossing(self.values[best::-1], self.statistic[best::-1], limit, -np.inf)
        return low, _crossing(self.values[best:], self.statistic[best:], limit, np.inf)


def _crossing(values: Array, statistic: Array, limit: float, missing: float) -> float:
    outside = np.flatnonzero(statistic > limit)
    if not len(outside):
        return missing
    i = int(outside[0])
    share = (limit - statistic[i - 1]) / (statistic[i] - statistic[i - 1])
    return float(values[i - 1] + share * (values[i] - values[i - 1]))


def profile(fit: Fit, name: str, points: int = 41, span: float = 4.0) -> Profile:
    """Profile over `points` values within `span` approximate standard errors of the fit. Raises LawError."""
    if name not in fit.form.names:
        raise unknown(f"parameter (of law {fit.form.name!r})", name, fit.form.names)
    parameter = fit.form.parameter(name)
    best = fit.parameters
    error = min(fit.diagnosis.standard_errors.get(name, 0.1), 1.0)
    # The curvature of a small-delta objective understates the spread, so the grid reaches further.
    offsets = np.linspace(-span, span, points) * max(error, 1e-4) * 2.0
    values = best[name] * np.exp(offsets) if parameter.positive else best[name] + offsets
    low, high = parameter.bounds()
    if not parameter.positive:
        values = np.unique(np.clip(values, low, high))
    order = np.argsort(np.abs(values - best[name]), kind="stable")
    objective = np.full(len(values), np.inf)
    solved: dict[int, dict[str, float]] = {}
    for index in order:
        near = min(solved, key=lambda other: abs(other - int(index))) if solved else None
        warm = [best] + ([solved[near]] if near is not None else [])
        objective[index], solved[int(index)] = _fixed(fit, name, float(values[index]), warm)
    lowest = min(float(objective.min()), fit.objective)
    rows = len(fit.points)
    factor = rows if fit.loss.kind == "squared" else 2.0 * rows
    statistic = factor * np.log(np.maximum(objective, 1e-300) / max(lowest, 1e-300))
    return Profile(name, values, objective, statistic)


def _fixed(fit: Fit, name: str, value: float, warm: list[dict[str, float]]) -> tuple[float, dict[str, float]]:
    """Best objective with one parameter held, from warm starts."""
    held = {key: fit.parameters[key] for key in fit.problem.fixed} | {name: value}
    problem = make_problem(fit.points, fit.form, fit.x, fit.response, held, fit.weighted)
    start = np.stack([from_natural(fit.form, {**guess, **held}, problem.centre) for guess in warm])
    start = np.clip(start, problem.lower, problem.upper)
    final = fit.loss.continuation()[-1]
    solution = minimise(
        problem.model(),
        start,
        problem.y[None, :],
        problem.weight[None, :],
        final,
        problem.free,
        problem.lower,
        problem.upper,
        ITERATIONS,
    )
    best = int(np.argmin(solution.objective))
    if fit.loss.kind == "l1":
        f, _ = problem.model().forward(solution.theta[best][None, :])
        objective = float(np.sum(problem.weight * np.abs(problem.y - f[0])))
    else:
        objective = float(solution.objective[best])
    return objective, {key: float(v) for key, v in problem.natural(solution.theta[best]).items()}
