"""Checking a published or inherited fit against its data: is it the optimum of what it claims to minimise?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from isoloss.laws.errors import LawError
from isoloss.laws.fitting import Fit, evaluate, fit
from isoloss.laws.form import Form
from isoloss.laws.points import Points
from isoloss.laws.registry import get_form

OTHERS = (("l1", 1e-3), ("huber", 1e-2), ("huber", 3e-3), ("huber", 1e-3), ("huber", 1e-4), ("squared", 1e-3))
PRINTED = 2e-3  # relative distance that printing a value with four digits, and solver tolerance, explain


@dataclass(frozen=True)
class Audit:
    """Findings in plain words, the objective of the claimed parameters and of the true optimum."""

    findings: list[str]
    objective: float
    optimum: float
    fit: Fit

    @property
    def sound(self) -> bool:
        """True where nothing was found."""
        return not self.findings


def audit(
    points: Points,
    law: str | Form,
    parameters: Mapping[str, float],
    *,
    objective: float | None = None,
    x: str | None = None,
    loss: str | None = None,
    delta: float = 1e-3,
) -> Audit:
    """Compare claimed parameters (and the objective reported with them) with the optimum on the same rows.

    Finds: the optimum of another loss, optimisation that stopped early (as averaging the loss causes), an
    objective that is a mean, rounding that spoils predictions, the optimum of inverted weights, embeddings in N.
    Raises LawError.
    """
    form = get_form(law) if isinstance(law, str) else law
    loss = loss or form.default_loss
    form.check_declaration()
    missing = [name for name in form.names if name not in parameters]
    if missing:
        raise LawError(f"law {form.name!r} needs {', '.join(missing)} too; given: {', '.join(parameters) or 'nothing'}")
    pinned = {name: parameters[name] for name in form.pinned}
    best = fit(points, form, x=x, loss=loss, delta=delta, fixed=pinned)
    claimed = evaluate(points, best.form, parameters, x=x, loss=loss, delta=delta)
    findings: list[str] = []
    ratio = claimed / max(best.objective, 1e-300)
    if ratio > 1.001:
        findings.append(_why_above(points, best, parameters, ratio, x, loss, delta))
    if objective is not None:
        findings += _reported(objective, claimed, len(points))
    findings += [text for text in points.check() if "embeddings" in text or "inverted" in text]
    return Audit(findings, claimed, best.objective, best)


def _why_above(
    points: Points,
    best: Fit,
    parameters: Mapping[str, float],
    ratio: float,
    x: str | None,
    loss: str,
    delta: float,
) -> str:
    excess = f"the objective is {ratio:.4g} times its optimum"
    if _is_rounding(best.parameters, parameters):
        return f"rounded parameters: {excess}; they are the optimum cut to {_digits(parameters)} digits or fewer"
    inverted = _inverted(points, best, x, loss, delta)
    if inverted is not None and _same(inverted.parameters, parameters, 1e-2):
        return f"inverted weights: {excess}, and the parameters are the optimum under 1/weight"
    other = _other_loss(points, best, parameters, x, loss, delta)
    if other:
        asked = _named(loss, delta)
        return f"another loss: {excess}, and the parameters are the optimum of {other}, not of {asked}"
    if _same(best.parameters, parameters, PRINTED):
        return f"rounded parameters or an early stop: {excess}, though no parameter is {PRINTED:.1%} away from it"
    return f"not converged: {excess}; an optimiser that averages the loss or uses a default tolerance stops like this"


def _other_loss(
    points: Points, best: Fit, parameters: Mapping[str, float], x: str | None, loss: str, delta: float
) -> str:
    """The loss whose optimum the parameters are, as far as their digits tell; empty where none fits."""
    found: list[tuple[float, str]] = []
    for kind, width in OTHERS:
        if _named(kind, width) == _named(loss, delta):
            continue
        try:
            rival = fit(points, best.form, x=x, loss=kind, delta=width, fixed=_pinned(best))
        except LawError:
            continue
        if _same(rival.parameters, parameters, PRINTED):
            found.append((_distance(rival.parameters, parameters), _named(kind, width)))
    return min(found, default=(0.0, ""))[1]


def _pinned(best: Fit) -> dict[str, float]:
    return {name: best.parameters[name] for name in best.problem.fixed}


def _named(kind: str, delta: float) -> str:
    return {"l1": "L1", "squared": "squared residuals"}.get(kind, f"{kind.capitalize()} {delta:g}")


def _distance(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    return max(abs(other[name] - value) / max(abs(value), 1e-300) for name, value in one.items())


def _reported(objective: float, claimed: float, rows: int) -> list[str]:
    if abs(objective / claimed - 1.0) < 0.02:
        return []
    if abs(objective * rows / claimed - 1.0) < 0.02:
        return [
            f"mean instead of sum: the reported objective times {rows} rows is the sum; averaging stops "
            "optimisers early"
        ]
    return [f"the reported objective {objective:.6g} is not that of the parameters ({claimed:.6g} as a sum)"]


def _same(one: Mapping[str, float], other: Mapping[str, float], tolerance: float) -> bool:
    return _distance(one, other) <= tolerance


def _is_rounding(best: Mapping[str, float], claimed: Mapping[str, float]) -> bool:
    """Every claimed value is the optimal one rounded to the digits it is written with (four at most)."""
    return all(
        _significant(claimed[name]) <= 4
        and float(f"{value:.{max(_significant(claimed[name]), 1) - 1}e}") == float(f"{claimed[name]:.6e}")
        for name, value in best.items()
    )


def _significant(value: float) -> int:
    """Significant digits of a number as it would be printed."""
    digits = f"{value:.12e}".split("e")[0].replace(".", "").replace("-", "").rstrip("0")
    return max(len(digits), 1)


def _digits(parameters: Mapping[str, float]) -> int:
    return max(_significant(value) for value in parameters.values())


def _inverted(points: Points, best: Fit, x: str | None, loss: str, delta: float) -> Fit | None:
    if "weight" not in points or np.ptp(points.weight) == 0 or np.any(points.weight <= 0):
        return None
    try:
        other = points.with_columns(weight=1.0 / points.weight)
        return fit(other, best.form, x=x, loss=loss, delta=delta, fixed=_pinned(best))
    except LawError:
        return None
