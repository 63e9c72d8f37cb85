"""What a fit can and cannot say: bounds, curvature, rows inside delta, sensitivity, identification."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from isoloss.laws.errors import LawError
from isoloss.laws.losses import Objective
from isoloss.laws.problem import to_natural

if TYPE_CHECKING:
    from isoloss.laws.bootstrap import Draws
    from isoloss.laws.fitting import Fit

Array = np.ndarray
LOOSE_FACTOR = 0.5  # standard error of a logarithm beyond which a coefficient is called not identified
NARROW_DECADES = 1.0


@dataclass(frozen=True)
class Diagnosis:
    """Numbers behind the plain sentences.

    eigenvalues: of the exact Hessian in centred coordinates. standard_errors: first-print errors of natural
    parameters (of the logarithm for positive ones) from residual spread and curvature; intervals come from
    the bootstrap. active: parameters at a bound. inside: share of rows whose residual is within delta.
    """

    eigenvalues: list[float]
    standard_errors: dict[str, float]
    active: dict[str, str]
    inside: float
    decades: dict[str, float]
    not_identified: str

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self)


def diagnose(fit: Fit) -> Diagnosis:
    """Work out the diagnosis of a fit."""
    problem, r = fit.problem, fit.residuals[None, :]
    model = problem.model()
    _, state = model.forward(fit.theta[None, :])
    final = fit.loss.continuation()[-1]
    slope, curvature = final.slope(r)
    weight = problem.weight[None, :]
    _, hessian = model.pull(state, -weight * slope, weight * curvature)
    _, information = model.pull(state, -weight * slope, weight * np.ones_like(r), curved=False)
    active = _active(fit)
    moving = np.array([free and name not in active for free, name in zip(problem.free, fit.form.names, strict=True)])
    covariance = _covariance(fit, information[0], moving)
    centred, natural = np.sqrt(np.diag(covariance)), _natural_errors(fit, covariance)
    kept = [i for i in range(len(moving)) if moving[i]]
    errors = {fit.form.names[i]: float(natural[i]) for i in kept}
    local = {fit.form.names[i]: float(centred[i]) for i in kept}
    sub = hessian[0][np.ix_(moving, moving)]
    eigenvalues = np.linalg.eigvalsh(sub).tolist() if moving.any() else []
    decades = {
        problem.columns[name]: float((values.max() - values.min()) / np.log(10))
        for name, values in problem.logs.items()
    }
    inside = float(np.mean(np.abs(fit.residuals) <= fit.loss.delta)) if fit.loss.kind != "squared" else 1.0
    sentence = _identification(fit, local, errors, active, decades)
    return Diagnosis(eigenvalues, errors, active, inside, decades, sentence)


def _active(fit: Fit) -> dict[str, str]:
    problem = fit.problem
    found = {}
    for index, q in enumerate(fit.form.parameters):
        if not problem.free[index]:
            continue
        if fit.theta[index] <= problem.lower[index] + 1e-9:
            vanishes = (q.positive and q.lower is None and not q.within) or problem.lower[index] == 0
            found[q.name] = "goes to zero" if vanishes else "at its lower bound"
        elif fit.theta[index] >= problem.upper[index] - 1e-9:
            found[q.name] = "at its upper bound"
    return found


def _covariance(fit: Fit, information: Array, moving: Array) -> Array:
    """First-print covariance of fitted coordinates: robust spread squared times inverse information."""
    size = len(moving)
    covariance = np.zeros((size, size))
    index = np.flatnonzero(moving)
    if not len(index):
        return covariance
    spread = max(1.4826 * float(np.median(np.abs(fit.residuals))), 1e-12)
    matrix = information[np.ix_(index, index)]
    scale = np.sqrt(np.maximum(np.diag(matrix), 1e-100))
    values, vectors = np.linalg.eigh(matrix / np.outer(scale, scale))
    # A null direction gets a huge, finite variance instead of a division by zero.
    inverse = (vectors / np.maximum(values, 1e-15)) @ vectors.T / np.outer(scale, scale)
    covariance[np.ix_(index, index)] = spread**2 * float(np.mean(fit.problem.weight)) * inverse
    return covariance


def _natural_errors(fit: Fit, covariance: Array) -> Array:
    """Errors of natural parameters (of the logarithm where positive): undo the centring to first order."""
    form, centre = fit.form, fit.problem.centre

    def natural(theta: Array) -> Array:
        values = to_natural(form, theta, centre)
        return np.array([np.log(values[q.name]) if q.positive else values[q.name] for q in form.parameters])

    step = 1e-6
    slopes = [
        (natural(fit.theta + step * unit) - natural(fit.theta - step * unit)) / (2 * step)
        for unit in np.eye(len(fit.theta))
    ]
    jacobian = np.stack(slopes, axis=1)
    return np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", jacobian, covariance, jacobian), 0.0))


def _identification(
    fit: Fit,
    local: dict[str, float],
    errors: dict[str, float],
    active: dict[str, str],
    decades: dict[str, float],
) -> str:
    """One sentence on what the rows leave open; coefficients are judged in centred units."""
    loose = []
    values = fit.parameters
    for name, how in active.items():
        loose.append(f"{name} ({how})")
    for name, error in local.items():
        q = fit.form.parameter(name)
        if q.positive and error > LOOSE_FACTOR:
            loose.append(f"{name} (known only within a factor {np.exp(min(errors[name], 50.0)):.2g})")
        elif q.role == "exponent" and error > max(0.25, 0.75 * abs(values[name])):
            loose.append(f"{name} ({values[name]:.3g} with an error of about {error:.2g})")
    undefined = [name for name, value in fit.derived.items() if not np.isfinite(value)]
    reasons = [f"{name} spans only {span:.2f} decades" for name, span in decades.items() if span < NARROW_DECADES]
    distinct = {fit.problem.columns[v]: len(np.unique(np.round(x, 9))) for v, x in fit.problem.logs.items()}
    reasons += [f"{name} takes only {count} values" for name, count in distinct.items() if count < 4]
    if not loose and not undefined:
        return ""
    why = "; ".join(reasons) if reasons else "the rows do not separate it from the other parameters"
    sentence = f"not identified: {', '.join(loose)}, because {why}" if loose else ""
    if undefined:
        without = f"{', '.join(undefined)} {'has' if len(undefined) == 1 else 'have'} no finite value at this fit"
        sentence = f"{sentence}; {without}" if sentence else without
    return sentence


def sensitivity(fit: Fit, deltas: tuple[float, ...]) -> dict[str, dict[str, float]]:
    """Refits from the optimum at other widths and at the L1 limit."""
    from isoloss.laws.fitting import refit

    problem = fit.problem
    unit = 1.0 if problem.form.space != "value" else max(float(np.std(problem.y)), 1e-12)
    objectives = {f"huber {delta:g}": Objective("huber", delta * unit) for delta in deltas}
    objectives["l1"] = Objective("l1", deltas[-1] * unit)
    result = {}
    for label, objective in objectives.items():
        theta = refit(problem, fit.theta, objective).theta
        natural = {name: float(v[0]) for name, v in problem.natural(theta).items()}
        with np.errstate(all="ignore"):
            derived = {name: float(f(natural)) for name, f in fit.form.derived().items()}
        result[label] = natural | derived
    return result


def identified(fit: Fit, draws: Draws | None, level: float = 0.9) -> str:
    """What is known of the parameters, in one sentence: by intervals where there are any, else by curvature."""
    if draws is not None:
        try:
            return draws.identification(level)
        except LawError as error:
            return str(error)
    if fit.diagnosis.not_identified:
        return "in part: see the warning"
    if not fit.converged:
        return "cannot be said: the solver did not converge"
    return "no parameter is loose by the curvature at the optimum; how well each is known, bootstrap() says"


def report(fit: Fit, draws: Draws | None = None) -> str:
    """The result in plain text: law, parameters in full, objective, minima, bounds, identification.

    With draws, what their intervals leave open; without, only what the curvature at the optimum shows.
    """
    d = fit.diagnosis
    lines = [
        f"law        {fit.form.name}: {fit.form.formula}",
        f"source     {fit.form.source}",
        f"rows       {len(fit.points)}; {', '.join(f'{k} over {v:.2f} decades' for k, v in d.decades.items())}",
        f"objective  {fit.objective:.12g} (sum of {fit.loss.kind}, delta {fit.loss.delta:g}); "
        f"rmse {fit.rmse:.5f}; {d.inside:.0%} of rows inside delta",
        f"solver     {'converged' if fit.converged else 'NOT CONVERGED'}, relative gradient "
        f"{fit.gradient:.1e}, "
        f"{len(fit.minima)} distinct minima",
    ]
    for name, value in fit.parameters.items():
        note = f"  (error of {'log ' if fit.form.parameter(name).positive else ''}{name} about "
        error = f"{note}{d.standard_errors[name]:.2g})" if name in d.standard_errors else "  (pinned)"
        lines.append(f"  {name:<8} {value:.10g}{(d.active.get(name) and f'  [{d.active[name]}]') or error}")
    lines += [f"  {name:<8} {value:.10g}" for name, value in fit.derived.items()]
    if len(d.eigenvalues) > 1:
        lines.append(f"curvature  eigenvalues {d.eigenvalues[0]:.2e} to {d.eigenvalues[-1]:.2e}")
    lines.append(f"identified {identified(fit, draws)}")
    lines += [f"warning    {text}" for text in fit.warnings]
    lines += [f"note       {text}" for text in draws.notes] if draws is not None else []
    return "\n".join(lines)
