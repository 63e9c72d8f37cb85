"""Simulation on the user's own design: the interval to expect before any compute is spent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from isoloss.laws.bootstrap import Target, target_function
from isoloss.laws.errors import LawError
from isoloss.laws.fitting import fit
from isoloss.laws.form import Form
from isoloss.laws.losses import Objective
from isoloss.laws.newton import minimise
from isoloss.laws.points import Points
from isoloss.laws.problem import from_natural, make_problem
from isoloss.laws.registry import get_form

Array = np.ndarray
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Expected:
    """What a design would tell: truth, central interval of refitted answers, and share of failures."""

    truth: float
    low: float
    high: float
    failed: float

    @property
    def width(self) -> float:
        """Width of the interval."""
        return self.high - self.low


def synthetic(
    points: Points,
    form: Form,
    parameters: Values,
    rng: np.random.Generator,
    noise: float,
    cluster_noise: float,
    cluster: Any,
    x: str | None = None,
    replicates: int = 1,
) -> Array:
    """Responses (replicates, rows) in the space of the residuals: law, row noise, shared cluster noise."""
    columns = {v: points.numbers(x if v == "x" and x else v) for v in form.variables}
    centre = form.to_space(np.asarray(form.predict(parameters, columns)))
    index, _ = points.clusters(cluster)
    shared = rng.normal(size=(replicates, int(index.max()) + 1))[:, index] * cluster_noise
    return centre + shared + rng.normal(size=(replicates, len(points))) * noise


def expected_intervals(
    points: Points,
    law: str | Form,
    parameters: Values,
    targets: Mapping[str, Target],
    *,
    noise: float = 0.01,
    cluster_noise: float = 0.0,
    cluster: Any = None,
    replicates: int = 300,
    level: float = 0.9,
    seed: int = 0,
    x: str | None = None,
    delta: float | None = None,
) -> dict[str, Expected]:
    """Refit `replicates` synthetic data sets on the planned rows (no losses needed) and report each target.

    noise, cluster_noise: standard deviations of log loss between repeats and between clusters. delta: width
    of the Huber loss; by default 1.345 x noise, which is efficient for a known noise. Raises LawError.
    """
    form = get_form(law) if isinstance(law, str) else law
    if noise <= 0:
        raise LawError(f"noise must be positive; found {noise}")
    rng = np.random.default_rng(seed)
    y = synthetic(points, form, parameters, rng, noise, cluster_noise, cluster, x, replicates)
    planned = points.with_columns(**{form.response: form.from_space(y[0])})
    problem = make_problem(planned, form, x, form.response, {name: parameters[name] for name in form.pinned})
    start = np.repeat(from_natural(form, parameters, problem.centre)[None, :], replicates, axis=0)
    chosen = Objective("huber", 1.345 * float(np.hypot(noise, cluster_noise)) if delta is None else delta)
    solution = minimise(
        problem.model(), start, y, problem.weight[None, :], chosen, problem.free, problem.lower, problem.upper
    )
    natural = problem.natural(solution.theta[solution.converged])
    tail = 0.5 * (1.0 - level)
    result = {}
    for name, target in targets.items():
        function = target_function(form, target)
        with np.errstate(all="ignore"):
            values = np.asarray(function(natural), dtype=float)
            truth = float(function(parameters))
        good = np.isfinite(values)
        low, high = np.quantile(values[good], [tail, 1.0 - tail]) if good.any() else (np.nan, np.nan)
        result[name] = Expected(truth, float(low), float(high), 1.0 - float(good.sum()) / replicates)
    return result


def coverage(
    points: Points,
    law: str | Form,
    parameters: Values,
    targets: Mapping[str, Target],
    *,
    noise: float = 0.01,
    cluster_noise: float = 0.0,
    cluster: Any = None,
    replicates: int = 200,
    draws: int = 200,
    level: float = 0.9,
    method: str = "cluster",
    seed: int = 0,
    delta: float | None = None,
) -> dict[str, float]:
    """Share of synthetic data sets whose bootstrap interval of each target contains the truth.

    Run it on the planned rows to see whether the intervals of this design deserve their level.
    """
    form = get_form(law) if isinstance(law, str) else law
    rng = np.random.default_rng(seed)
    y = synthetic(points, form, parameters, rng, noise, cluster_noise, cluster, None, replicates)
    functions = {name: target_function(form, target) for name, target in targets.items()}
    truth = {name: float(function(parameters)) for name, function in functions.items()}
    hits = dict.fromkeys(targets, 0)
    for replicate in range(replicates):
        made = points.with_columns(**{form.response: form.from_space(y[replicate])})
        found = fit(made, form, cluster=cluster, delta=delta, fixed={name: parameters[name] for name in form.pinned})
        sampled = found.bootstrap(draws, seed + replicate, method)
        for name, function in functions.items():
            interval = sampled.interval(function, level)
            hits[name] += interval.low <= truth[name] <= interval.high
    return {name: count / replicates for name, count in hits.items()}
