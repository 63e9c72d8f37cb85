"""Fitting a law to points: starts, continuation in delta, exact Newton, an honest account of the result."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isoloss.laws import diagnose
from isoloss.laws.errors import LawError
from isoloss.laws.form import Form
from isoloss.laws.losses import Objective
from isoloss.laws.newton import minimise
from isoloss.laws.points import Points
from isoloss.laws.polish import Point, Task, polish
from isoloss.laws.problem import Problem, from_natural, given_variables, make_problem, variable_columns
from isoloss.laws.starts import make_starts, to_theta

if TYPE_CHECKING:
    from isoloss.laws.bootstrap import Draws
    from isoloss.laws.profile import Profile

Array = np.ndarray
STARTS = 8
HOPELESS = 10.0
WIDE, NARROW = 15, 3  # iterations of the widest objective and of each narrower one, before the last digits
FOLLOWED, POLISHED = 4, 3  # starts followed beyond the widest objective, and of those solved to the last digit


@dataclass(frozen=True)
class Minimum:
    """One distinct minimum of the objective: its value and parameters."""

    objective: float
    parameters: dict[str, float]


@dataclass
class Fit:
    """A fitted law.

    parameters: natural values. objective: the sum that was minimised. gradient: its largest entry in centred
    coordinates, relative to the objective. minima: all distinct minima that were found, best first.
    """

    form: Form
    points: Points
    problem: Problem
    loss: Objective
    theta: Array
    objective: float
    gradient: float
    converged: bool
    minima: list[Minimum]
    cluster: Any = None
    response: str | None = None
    weighted: bool = True
    warnings: list[str] = field(default_factory=list)

    @property
    def parameters(self) -> dict[str, float]:
        """Natural parameter values in full precision."""
        return {name: float(value) for name, value in self.problem.natural(self.theta).items()}

    @property
    def derived(self) -> dict[str, float]:
        """Derived quantities of the form."""
        values = self.parameters
        with np.errstate(all="ignore"):
            return {name: float(function(values)) for name, function in self.form.derived().items()}

    @property
    def x(self) -> str | None:
        """The column a one-variable law reads."""
        return self.problem.columns.get("x")

    def with_parameters(self, values: Mapping[str, Any]) -> Fit:
        """The same law and rows with other natural parameter values (for draws)."""
        return replace(self, theta=from_natural(self.form, values, self.problem.centre))

    def variables(self, columns: Mapping[str, Any]) -> dict[str, Array]:
        """Variables of the form from values given by column name (or from a table). Raises LawError."""
        return given_variables(self.form, self.problem.columns, columns)

    def predict(self, points: Points | None = None, **columns: Any) -> Any:
        """Predicted response at values of the variables (numbers or arrays), or on a table of points."""
        given = _table(self, points) if points is not None else columns
        result = self.form.predict(self.parameters, self.variables(given))
        return float(result) if np.ndim(result) == 0 else np.asarray(result)

    @cached_property
    def residuals(self) -> Array:
        """Observed minus predicted, in residual space (log for losses)."""
        f, _ = self.problem.model().forward(self.theta[None, :])
        return self.problem.y - f[0]

    @property
    def rmse(self) -> float:
        """Root mean square of the residuals."""
        return float(np.sqrt(np.mean(self.residuals**2)))

    @cached_property
    def diagnosis(self) -> diagnose.Diagnosis:
        """Bounds, eigenvalues, share of rows inside delta, and what is not identified and why."""
        return diagnose.diagnose(self)

    def bootstrap(
        self,
        n: int = 1000,
        seed: int = 0,
        method: str = "cluster",
        cluster: Any = None,
        indices: Any = None,
    ) -> Draws:
        """Resampled fits (see `isoloss.laws.bootstrap.bootstrap`)."""
        from isoloss.laws.bootstrap import bootstrap

        return bootstrap(self, n, seed, method, cluster if cluster is not None else self.cluster, indices)

    def sensitivity(self, deltas: tuple[float, ...] = (1e-2, 3e-3, 1e-3)) -> dict[str, dict[str, float]]:
        """Refits at other widths and at the L1 limit: parameters and derived quantities by objective."""
        return diagnose.sensitivity(self, deltas)

    def profile(self, name: str, points: int = 41, span: float = 4.0) -> Profile:
        """Profile of the objective over one parameter (see `isoloss.laws.profile`)."""
        from isoloss.laws.profile import profile

        return profile(self, name, points, span)

    def report(self, draws: Draws | None = None) -> str:
        """The result in plain text, with what the intervals of `draws` leave open."""
        return diagnose.report(self, draws)

    def to_dict(self) -> dict[str, Any]:
        """Everything needed to predict, to allocate and to judge the fit, in plain numbers (full precision)."""
        from isoloss.laws.allocation import flops_ratio

        return {
            "law": self.form.name,
            "formula": self.form.formula,
            "source": self.form.source,
            "rows": len(self.points),
            "columns": dict(self.problem.columns),
            "parameters": self.parameters,
            "fixed": {name: self.parameters[name] for name in self.problem.fixed},
            "free_parameters": int(self.problem.free.sum()),
            "flops_per_nd": flops_ratio(self.points),
            "derived": self.derived,
            "loss": {
                "kind": self.loss.kind,
                "delta": self.loss.delta,
                "tau": self.loss.tau,
                "reduction": "sum",
            },
            "objective": self.objective,
            "rmse": self.rmse,
            "converged": self.converged,
            "gradient": self.gradient,
            "minima": [{"objective": m.objective, "parameters": m.parameters} for m in self.minima],
            "diagnosis": self.diagnosis.to_dict(),
            "warnings": self.warnings,
        }

    def save(self, path: str | Path, draws: Draws | None = None) -> None:
        """Write `to_dict` as JSON for `isoloss.laws.load_fit`, making the folder. Raises OSError.

        draws: resampled fits, of which enough are kept for the intervals of advice (`laws.outlook`).
        """
        from isoloss.laws.outlook import Outlook
        from isoloss.laws.saved import write

        kept: dict[str, Any] = {}
        with suppress(LawError):  # a law that does not say how size and data trade
            kept = {"outlook": Outlook.of(self, draws, resample=False).to_dict()}
            del kept["outlook"]["program"]
        write(self.to_dict() | kept, path)


def _table(fit: Fit, points: Points) -> dict[str, Array]:
    return {column: points.numbers(column) for column in fit.problem.columns.values()}


def fit(
    points: Points,
    law: str | Form,
    *,
    x: str | None = None,
    y: str | None = None,
    loss: str | None = None,
    delta: float | None = None,
    tau: float = 0.1,
    fixed: Mapping[str, float] | None = None,
    cluster: Any = None,
    weighted: bool = True,
    start: Mapping[str, float] | None = None,
    starts: int = STARTS,
) -> Fit:
    """Fit a law to points.

    law: a registered name or a Form. x: the column of a one-variable law. y: the response column. loss:
    'huber' (of log residuals, delta 1e-3 unless given), 'l1', 'squared' or 'lower-envelope'; unless given, the
    law's own ('lower-envelope' for 'envelope', else 'huber'). fixed: pinned parameters in natural units. cluster:
    what is resampled as one unit by the bootstrap. start: one more start. Raises LawError on unusable data and on a
    "fit" that never left its start.
    """
    from isoloss.laws.registry import get_form

    form = get_form(law) if isinstance(law, str) else law
    problem = make_problem(points, form, x, y, fixed, weighted)
    objective = Objective(loss or form.default_loss, default_delta(form, problem) if delta is None else delta, tau)
    first = make_starts(form, problem.logs, problem.y, problem.weight, problem.fixed, starts)
    if start is not None:
        first = np.concatenate([first, to_theta(form, problem.centred({**start, **(fixed or {})}))[None, :]])
    if not len(first):
        raise LawError(f"law {form.name!r} offers no start: give start={{...}} or define guesses() in the form")
    result = solve(points, problem, objective, first, cluster)
    _refuse_disagreement(result)
    result.response, result.weighted = y, weighted
    result.warnings = account(result)
    return result


def _refuse_disagreement(result: Fit) -> None:
    """Natural parameters must predict what the solver predicts in its centred units."""
    problem = result.problem
    variables = {name: np.exp(logs + problem.centre[name]) for name, logs in problem.logs.items()}
    direct = result.form.to_space(result.form.predict(result.parameters, variables))
    gap = np.abs(direct - (problem.y - result.residuals))
    if np.any(gap > 1e-6 * (1.0 + np.abs(problem.y))):
        raise LawError(
            f"law {result.form.name!r}: its parameters do not predict what the solver fitted (they differ by "
            f"{float(np.max(gap)):.2g}); state each parameter's dimension, as coefficient('b', {{'x': 'c'}}) for b x^-c"
        )


def account(result: Fit) -> list[str]:
    """What a reader must know before using the parameters."""
    found = []
    if not result.converged:
        found.append(f"the solver stopped before its tolerance (relative gradient {result.gradient:.1e})")
    rivals = [m for m in result.minima[1:] if m.objective <= 1.02 * result.objective]
    if rivals:
        found.append(f"{len(rivals)} other minima lie within 2 % of the best objective: compare their parameters")
    free = int(result.problem.free.sum())
    if result.problem.rows <= free:
        found.append(f"{result.problem.rows} rows fit {free} free parameters exactly: no residual is left to judge by")
    if result.diagnosis.not_identified:
        found.append(result.diagnosis.not_identified)
    return found


def default_delta(form: Form, problem: Problem) -> float:
    """1e-3 for log residuals; for plain residuals 1e-3 of the response's standard deviation."""
    return 1e-3 if form.space != "value" else 1e-3 * max(float(np.std(problem.y)), 1e-12)


def solve(points: Points, problem: Problem, objective: Objective, first: Array, cluster: Any = None) -> Fit:
    """Continue from starts to the objective and collect the result."""
    theta = np.clip(first, problem.lower, problem.upper)
    steps = continuation(problem, objective)
    found = _follow(problem, theta, steps)
    ranked = np.argsort(found.value, kind="stable")
    best = int(ranked[0])
    if objective.kind == "l1":
        found.value = np.sum(problem.weight * np.abs(found.r), axis=1)
    gradient = relative_gradient(problem, found.theta[best], steps[-1])
    result = Fit(
        problem.form,
        points,
        problem,
        objective,
        found.theta[best],
        float(found.value[best]),
        gradient,
        bool(found.converged[best]),
        _minima(problem, found.of(ranked)),
        cluster,
    )
    _refuse_unmoved(result, theta, gradient)
    return result


def refit(problem: Problem, theta: Array, objective: Objective) -> Point:
    """The optimum of another objective from the parameters (p,) of one."""
    return _follow(problem, theta[None, :], continuation(problem, objective))


def _follow(problem: Problem, theta: Array, steps: list[Objective]) -> Point:
    """From starts (s, p) through ever narrower objectives to optima of the last one; the best one is solved."""
    model, y, weight = problem.model(), problem.y[None, :], problem.weight[None, :]
    for step in steps:
        # Wide objectives only lead the way: they need not be solved to the last digit.
        limit = WIDE if step is steps[0] else NARROW
        solution = minimise(model, theta, y, weight, step, problem.free, problem.lower, problem.upper, limit)
        value = np.where(np.isfinite(solution.objective), solution.objective, np.inf)
        order = np.argsort(value, kind="stable")
        if not np.isfinite(value[order[0]]):
            raise LawError(f"law {problem.form.name!r}: no start gives a finite objective on these points")
        # A start whose valley is ten times above the best one is not followed to the bottom.
        order = order[value[order] <= HOPELESS * value[order[0]] + 1e-12]
        theta = distinct(solution.theta[order])[:FOLLOWED]
    theta = distinct(theta, 1e-3)[:POLISHED]
    free = np.broadcast_to(problem.free, theta.shape)
    task = Task(model, y, weight, steps[-1], free, problem.lower, problem.upper)
    found = polish(task, theta, rounds=0)
    lowest = np.argsort(found.value, kind="stable")[:1]
    if not found.converged[lowest[0]]:
        found.put(lowest, polish(task.of(lowest), found.theta[lowest]))
    if found.converged[lowest[0]]:
        # Newton's steps at an optimum square what is left of its error.
        ends = steps[-1], problem.free, problem.lower, problem.upper, NARROW
        last = task.of(lowest).at(minimise(model, found.theta[lowest], y, weight, *ends).theta)
        if last.value[0] <= found.value[lowest[0]]:
            last.converged[:] = True
            found.put(lowest, last)
    return found


def relative_gradient(problem: Problem, theta: Array, objective: Objective) -> float:
    """Largest gradient entry that a bound does not hold back, over the objective (at least its rounding)."""
    model = problem.model()
    f, state = model.forward(theta[None, :])
    r = problem.y[None, :] - f
    slope, curvature = objective.slope(r)
    weight = problem.weight[None, :]
    gradient, _ = model.pull(state, -weight * slope, weight * curvature)
    blocked = ((theta <= problem.lower) & (gradient[0] > 0)) | ((theta >= problem.upper) & (gradient[0] < 0))
    size = np.abs(gradient[0])[problem.free & ~blocked]
    total = float(np.sum(weight * objective.rho(r)))
    return float(size.max(initial=0.0)) / max(total, 1e-20)


def continuation(problem: Problem, objective: Objective) -> list[Objective]:
    """Widths to solve one after another, in the units of the residuals."""
    if problem.form.space != "value" or objective.kind == "squared":
        return objective.continuation()
    unit = max(float(np.std(problem.y)), 1e-12)
    scaled = Objective(objective.kind, objective.delta / unit, objective.tau).continuation()
    return [Objective(step.kind, step.delta * unit, step.tau) for step in scaled]


def distinct(theta: Array, tolerance: float = 1e-5) -> Array:
    """Parameter vectors without near-duplicates, in order."""
    _, index = np.unique(np.round(theta / tolerance), axis=0, return_index=True)
    return theta[np.sort(index)]


def _minima(problem: Problem, found: Point) -> list[Minimum]:
    """The best point and the other optima, all distinct."""
    kept: list[int] = []
    for i in range(len(found.theta)):
        apart = all(np.abs(found.theta[i] - found.theta[k]).max() >= 1e-4 for k in kept)
        if not kept or (found.converged[i] and apart):
            kept.append(i)
    natural = [problem.natural(found.theta[i]) for i in kept]
    return [
        Minimum(float(found.value[i]), {name: float(v) for name, v in values.items()})
        for i, values in zip(kept, natural, strict=True)
    ]


def _refuse_unmoved(result: Fit, begun: Array, gradient: float) -> None:
    """A fit equal to its start is an error unless the start already was a stationary point."""
    free = result.problem.free
    moved = np.abs(begun[:, free] - result.theta[free]).max(axis=1).min() if free.any() else 1.0
    if moved < 1e-12 and gradient > 1e-6 and not result.converged and _descends(result):
        raise LawError(
            f"law {result.form.name!r}: the fit equals its start although the objective still slopes "
            f"(relative gradient {gradient:.1e}); check the weights and the scale of the response"
        )


def _descends(result: Fit) -> bool:
    """Whether some step along the negative gradient lowers the objective."""
    problem, model = result.problem, result.problem.model()
    objective, weight, y = continuation(problem, result.loss)[-1], problem.weight[None, :], problem.y[None, :]
    f, state = model.forward(result.theta[None, :])
    slope, curvature = objective.slope(y - f)
    gradient, _ = model.pull(state, -weight * slope, weight * curvature)
    direction = np.where(problem.free, -gradient[0], 0.0) / max(float(np.abs(gradient).max()), 1e-300)
    reach = np.geomspace(1e-8, 1.0, 9)[:, None]
    trial = np.clip(result.theta + reach * direction, problem.lower, problem.upper)
    reached = np.sum(weight * objective.rho(y - model.forward(trial)[0]), axis=1)
    return bool(np.nanmin(reached) < float(np.sum(weight * objective.rho(y - f))) * (1.0 - 1e-6))


def evaluate(
    points: Points,
    law: str | Form,
    parameters: Mapping[str, float],
    *,
    x: str | None = None,
    y: str | None = None,
    loss: str | None = None,
    delta: float = 1e-3,
    weighted: bool = True,
) -> float:
    """The objective (a sum) of given natural parameters on points."""
    from isoloss.laws.registry import get_form

    form = get_form(law) if isinstance(law, str) else law
    problem = make_problem(points, form, x, y, {name: parameters[name] for name in form.pinned}, weighted)
    predicted = form.predict(parameters, {v: points.numbers(c) for v, c in variable_columns(form, x, points).items()})
    residual = problem.y - form.to_space(predicted)
    return float(np.sum(problem.weight * Objective(loss or form.default_loss, delta).rho(residual)))
