"""From a table and a form to a fitting problem: checked columns, centred logs, bounds, units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from isoloss.laws.errors import LawError, unknown
from isoloss.laws.form import Form, split_power
from isoloss.laws.kernel import Model
from isoloss.laws.points import Points

Array = np.ndarray
COEFFICIENT_RANGE = 14.0  # natural logarithms below and above the median response
SCALE_RANGE = 60.0


@dataclass(frozen=True)
class Problem:
    """Checked data of one fit.

    logs: centred log variables; centre: their means; y: residual-space response; weight: row weights;
    lower, upper: bounds of the fitted coordinates; free: which of them move.
    """

    form: Form
    columns: Mapping[str, str]
    logs: dict[str, Array]
    centre: dict[str, float]
    y: Array
    weight: Array
    fixed: dict[str, float]
    lower: Array
    upper: Array
    free: Array

    @property
    def rows(self) -> int:
        return self.y.shape[-1]

    def model(self) -> Model:
        """The batched model on these rows."""
        return self.form.model(self.logs)

    def natural(self, theta: Array) -> dict[str, Array]:
        """Natural parameter values of fitted coordinates (..., p)."""
        return to_natural(self.form, theta, self.centre)

    def centred(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Natural values in units where every variable has geometric mean one. Raises LawError for wrong names."""
        for name in values:
            if name not in self.form.names:
                raise unknown(f"parameter (of law {self.form.name!r})", name, self.form.names)
        theta = from_natural(self.form, values, self.centre)
        return {q.name: float(np.exp(t) if q.positive else t) for q, t in zip(self.form.parameters, theta, strict=True)}


def make_problem(
    points: Points,
    form: Form,
    x: str | None = None,
    y: str | None = None,
    fixed: Mapping[str, float] | None = None,
    weighted: bool = True,
) -> Problem:
    """Check the table against the form and centre it. Raises LawError with one clear message."""
    form.check_declaration()
    columns = variable_columns(form, x, points)
    response = y or response_column(form, points)
    raw = {variable: points.numbers(column) for variable, column in columns.items()}
    observed = points.numbers(response)
    weight = points.numbers("weight") if weighted and "weight" in points else np.ones(len(points))
    _check_rows(form, {**{columns[v]: values for v, values in raw.items()}, response: observed, "weight": weight})
    if form.space == "log" and np.any(observed <= 0):
        row = int(np.argmax(observed <= 0))
        raise LawError(f"column {response!r}, row {row}: {observed[row]:g} is not positive, so it has no logarithm")
    if form.space == "logit" and np.any((observed <= 0) | (observed >= 1)):
        raise LawError(f"column {response!r}: law {form.name!r} takes shares strictly between 0 and 1")
    form.check(raw)
    fixed = dict(fixed or {})
    for name in fixed:
        if name not in form.names:
            raise unknown(f"parameter (of law {form.name!r})", name, form.names)
    _check_pins(form, fixed, observed, response)
    free_count = len(form.parameters) - len(fixed)
    if len(points) < free_count:
        raise LawError(f"law {form.name!r} has {free_count} free parameters but the table has {len(points)} rows")
    _check_spread(form, raw, columns, fixed)
    centre = _centres(form, raw, fixed)
    logs = {name: np.log(values) - centre[name] for name, values in raw.items()}
    centred = _centre_fixed(form, fixed, centre)
    lower, upper = _bounds(form, observed, logs)
    for name, value in centred.items():
        index = form.names.index(name)
        lower[index] = upper[index] = np.log(max(value, 1e-300)) if form.parameter(name).positive else value
    free = np.array([name not in fixed for name in form.names])
    target = form.to_space(observed)
    _try_out(form, logs)
    return Problem(form, columns, logs, centre, target, weight, centred, lower, upper, free)


def _check_pins(form: Form, fixed: Mapping[str, float], observed: Array, response: str) -> None:
    for name in form.pinned:
        if name not in fixed:
            raise LawError(
                f"law {form.name!r} takes {name} as given: fixed={{{name!r}: value}} or --pin {name}=VALUE, below "
                f"every {response} (the smallest is {float(observed.min()):.6g})"
            )
    floor = form.floor
    if floor in fixed and form.space == "log" and fixed[floor] >= float(observed.max()):
        raise LawError(
            f"{floor}={fixed[floor]:g} is a floor, but every {response} is at or below it (largest "
            f"{float(observed.max()):g})"
        )


def _try_out(form: Form, logs: Mapping[str, Array]) -> None:
    """Raise LawError where the law's own code cannot be evaluated."""
    model = form.model({name: values[:2] for name, values in logs.items()})
    try:
        f, state = model.forward(np.full((1, len(form.parameters)), 0.5))
        model.pull(state, np.ones_like(f), np.ones_like(f))
    except NotImplementedError:
        raise LawError(f"law {form.name!r} does not define log_prediction(self, p, v)") from None
    except (AttributeError, TypeError, KeyError) as error:
        raise LawError(
            f"law {form.name!r}: log_prediction fails ({error}); it may use the parameters {', '.join(form.names)}, "
            f"the variables {', '.join(form.variables)}, and functions of isoloss.laws.jets in place of NumPy's"
        ) from None


def variable_columns(form: Form, x: str | None, points: Points | None = None) -> dict[str, str]:
    """Which column of the table each variable of the form reads. Raises LawError."""
    if "x" not in form.variables:
        if x is not None and x not in form.variables:
            raise LawError(f"law {form.name!r} is a law of {', '.join(form.variables)}; it takes no x={x!r}")
        return {name: name for name in form.variables}
    if x is None and points is not None:
        present = [name for name in ("D", "N", "C", "S", "x") if name in points]
        if len(present) != 1:
            raise LawError(
                f"law {form.name!r} has one variable: say which column it is, x='D' or --x D "
                f"(the table has {', '.join(points.columns)})"
            )
        x = present[0]
    return {name: (x or "x") if name == "x" else name for name in form.variables}


def given_variables(form: Form, columns: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, Array]:
    """Variables of the form from values under column (or variable) names; M from N and D. Raises LawError."""
    found = {}
    for variable, column in columns.items():
        name = column if column in given else variable
        if name not in given and name == "M" and {"N", "D"} <= set(given):
            found[variable] = np.asarray(given["D"], dtype=float) / np.asarray(given["N"], dtype=float)
            continue
        if name not in given:
            need = ", ".join(columns.values())
            raise LawError(f"law {form.name!r} predicts from {need}; given: {', '.join(given) or 'nothing'}")
        found[variable] = np.asarray(given[name], dtype=float)
    return found


def response_column(form: Form, points: Points) -> str:
    """The column a form predicts when the caller names none."""
    if form.response in points.columns:
        return form.response
    if "loss" in points.columns:
        return "loss"
    raise LawError(
        f"law {form.name!r} predicts {form.response!r}, which is not in the table; name the column with "
        "y=... "
        f"(the table has {', '.join(points.columns)})"
    )


def _check_rows(form: Form, columns: Mapping[str, Array]) -> None:
    for name, values in columns.items():
        bad = ~np.isfinite(values)
        if bad.any():
            row = int(np.argmax(bad))
            raise LawError(
                f"column {name!r}, row {row}: {values[row]} is not a number ({int(bad.sum())} such rows); "
                "drop them with points.where(...)"
            )
    if np.any(columns["weight"] < 0) or not np.any(columns["weight"] > 0):
        raise LawError("column 'weight': weights must be non-negative and not all zero")


def _check_spread(form: Form, raw: Mapping[str, Array], columns: Mapping[str, str], fixed: Mapping[str, float]) -> None:
    free_exponents = [q for q in form.parameters if q.name not in fixed]
    if not free_exponents:
        return
    for variable, values in raw.items():
        if len(np.unique(values)) < 2:
            raise LawError(
                f"law {form.name!r} needs at least two values of {columns[variable]}; all {len(values)} "
                "rows have "
                f"{columns[variable]} = {values[0]:g}"
            )


def _centres(form: Form, raw: Mapping[str, Array], fixed: Mapping[str, float]) -> dict[str, float]:
    """Mean log of each variable; zero where a fixed parameter's unit depends on a free one."""
    centred = form.centre_logs and not any(name in form.mixed for name in fixed)
    centre = {name: float(np.mean(np.log(values))) if centred else 0.0 for name, values in raw.items()}
    for variable, other in form.same_unit.items():
        if variable in centre and other in centre:
            centre[variable] = centre[other]
    for name in fixed:
        for variable, power in form.dimension(name).items():
            _, exponent_name = split_power(power)
            if exponent_name is not None and exponent_name not in fixed:
                partners = [v for v, other in form.same_unit.items() if variable in (v, other)]
                for linked in {variable, *partners, *(form.same_unit[v] for v in partners)}:
                    centre[linked] = 0.0
    return centre


def _bounds(form: Form, observed: Array, logs: Mapping[str, Array]) -> tuple[Array, Array]:
    """Default bounds keep a vanishing coefficient at a finite place, where it is reported as active."""
    middle = float(np.log(np.median(np.abs(observed)) + 1e-300))
    lower, upper = [], []
    for q in form.parameters:
        low, high = q.bounds()
        if q.positive and q.role == "coefficient" and form.linear_in == "loss":
            low, high = max(low, middle - COEFFICIENT_RANGE), min(high, middle + COEFFICIENT_RANGE)
        elif q.positive:
            low, high = max(low, -SCALE_RANGE), min(high, SCALE_RANGE)
        if q.within:
            # One row at least lies on either side: at the outermost ones a break has no slope.
            inner = np.unique(logs[q.within])[1:-1]
            low, high = (float(inner[0]), float(inner[-1])) if len(inner) else (low, high)
        lower.append(low)
        upper.append(high)
    return np.array(lower), np.array(upper)


def _shift(form: Form, name: str, values: Mapping[str, Any], centre: Mapping[str, float]) -> Any:
    """Sum over variables of (power in the parameter's dimension) x (mean log of the variable)."""
    total: Any = 0.0
    for variable, power in form.dimension(name).items():
        sign, exponent_name = split_power(power)
        total = total + (sign if exponent_name is None else sign * values[exponent_name]) * centre[variable]
    return total


def to_natural(form: Form, theta: Array, centre: Mapping[str, float]) -> dict[str, Array]:
    """Natural values from fitted coordinates of shape (..., p)."""
    values = {q.name: theta[..., i] for i, q in enumerate(form.parameters) if not q.positive}
    for index, q in enumerate(form.parameters):
        if q.positive:
            with np.errstate(over="ignore"):
                values[q.name] = np.exp(theta[..., index] + _shift(form, q.name, values, centre))
        elif form.dimension(q.name):
            values[q.name] = theta[..., index] * np.exp(_shift(form, q.name, values, centre))
    values = form.moved(values, {name: -by for name, by in centre.items()})
    return {name: values[name] for name in form.names}


def from_natural(form: Form, values: Mapping[str, Any], centre: Mapping[str, float]) -> Array:
    """Fitted coordinates from natural values. Raises LawError for a missing or non-positive one."""
    theta = []
    for q in form.parameters:
        if q.name not in values:
            raise LawError(f"law {form.name!r} needs parameter {q.name!r}; given: {', '.join(values)}")
    values = form.moved(values, centre)
    for q in form.parameters:
        value = np.asarray(values[q.name], dtype=float)
        shift = _shift(form, q.name, values, centre)
        if q.positive:
            if np.any(value < 0):
                raise LawError(f"parameter {q.name!r} of law {form.name!r} must be positive; found {value}")
            theta.append(np.log(np.maximum(value, 1e-300)) - shift)
        else:
            theta.append(value * np.exp(-shift) if form.dimension(q.name) else value)
    return np.stack(np.broadcast_arrays(*theta), axis=-1)


def _centre_fixed(form: Form, fixed: Mapping[str, float], centre: Mapping[str, float]) -> dict[str, float]:
    known = {name: fixed.get(name, 1.0) for name in form.names}
    theta = from_natural(form, known, centre)
    return {
        q.name: float(np.exp(t) if q.positive else t)
        for q, t in zip(form.parameters, theta, strict=True)
        if q.name in fixed
    }
