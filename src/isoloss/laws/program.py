"""A law as a list of steps: the same numbers in Python and in the page, without the form's own code.

A form's `log_prediction` is run once on symbols, which write down what is done to them. Steps refer to earlier ones by
number:

    ["parameter", "alpha"]   ["variable", "N"]   ["constant", 2.0]   ["add", 3, 5]   ["logaddexp", 4, 7, 9]

A variable stands for its logarithm; the last step is the law's log-prediction. Its slope along a direction of the log
variables comes with it (forward differentiation), so that a best split of compute is where that slope changes sign:
exact to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isoloss.laws import jets
from isoloss.laws.errors import LawError
from isoloss.laws.form import Form
from isoloss.laws.kernel import Namespace

Array = np.ndarray
Step = tuple[Any, ...]
LEAVES = ("parameter", "variable", "constant")


class _Traced(jets.Symbol):
    """A step that is being written down."""

    def __init__(self, steps: dict[Step, int], step: Step) -> None:
        self.steps = steps
        # Equal steps are one: the logarithm of a coefficient is taken once.
        self.index = steps.setdefault(step, len(steps))

    def apply(self, name: str, *arguments: Any) -> _Traced:
        numbers = (self._of(argument).index for argument in arguments)
        if name == "reciprocal":
            return _Traced(self.steps, ("divide", self._of(1.0).index, *numbers))
        if name not in _VALUES:
            raise TypeError(f"{name} cannot be written down")
        return _Traced(self.steps, (name, *numbers))

    def _of(self, value: Any) -> _Traced:
        if isinstance(value, _Traced):
            return value
        return _Traced(self.steps, ("constant", float(value)))


@dataclass(frozen=True)
class Program:
    """The steps of a law's log-prediction."""

    steps: tuple[Step, ...]

    @classmethod
    def of(cls, form: Form) -> Program:
        """The program of a form. Raises LawError where the form predicts no logarithm or uses other functions."""
        if form.space != "log":
            raise LawError(f"law {form.name!r} predicts no positive loss: it has no plan for a budget")
        steps: dict[Step, int] = {}
        p = Namespace({name: _Traced(steps, ("parameter", name)) for name in form.names}, {})
        v = Namespace({}, {name: _Traced(steps, ("variable", name)) for name in form.variables})
        try:
            result = form.log_prediction(p, v)
            last = result.index
        except (TypeError, AttributeError, ValueError) as error:
            raise LawError(
                f"law {form.name!r} cannot be written down for planning ({error}); its log_prediction may use "
                "arithmetic and functions of isoloss.laws.jets"
            ) from None
        return cls(tuple(steps)[: last + 1])

    def run(
        self, values: Mapping[str, Any], logs: Mapping[str, Any], along: Mapping[str, float] | None = None
    ) -> tuple[Any, Any]:
        """(log-prediction, its slope) at natural parameter values and log variables, arrays that broadcast.

        along: how fast each log variable moves; without it the slope is 0.
        """
        found: list[tuple[Any, Any]] = []
        moving = along or {}
        with np.errstate(all="ignore"):
            for name, *arguments in self.steps:
                if name == "parameter":
                    found.append((np.asarray(values[arguments[0]], dtype=float), 0.0))
                elif name == "variable":
                    found.append((np.asarray(logs[arguments[0]], dtype=float), moving.get(arguments[0], 0.0)))
                elif name == "constant":
                    found.append((arguments[0], 0.0))
                else:
                    inputs = [found[i] for i in arguments]
                    value = _VALUES[name](*(x for x, _ in inputs))
                    slope = _SLOPES[name](value, inputs) if any(np.any(s != 0.0) for _, s in inputs) else 0.0
                    found.append((value, slope))
        return found[-1]


def _softplus(x: Any) -> Any:
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


_VALUES: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "negative": lambda a: -a,
    "power": lambda a, b: a**b,
    "exp": np.exp,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "absolute": np.abs,
    "sigmoid": lambda a: 0.5 * (1.0 + np.tanh(0.5 * a)),
    "softplus": _softplus,
    "minimum": np.minimum,
    "maximum": np.maximum,
    "less": lambda a, b: a < b,
    "where": np.where,
    "logaddexp": jets.logaddexp,
}

Inputs = Sequence[tuple[Any, Any]]


def _power_slope(value: Any, inputs: Inputs) -> Any:
    (a, da), (b, db) = inputs
    found = b * a ** (b - 1.0) * da
    return found + value * np.log(a) * db if np.any(db != 0.0) else found


_SLOPES: dict[str, Callable[[Any, Inputs], Any]] = {
    "add": lambda v, i: i[0][1] + i[1][1],
    "subtract": lambda v, i: i[0][1] - i[1][1],
    "multiply": lambda v, i: i[0][1] * i[1][0] + i[0][0] * i[1][1],
    "divide": lambda v, i: (i[0][1] - v * i[1][1]) / i[1][0],
    "negative": lambda v, i: -i[0][1],
    "power": _power_slope,
    "exp": lambda v, i: v * i[0][1],
    "log": lambda v, i: i[0][1] / i[0][0],
    "log1p": lambda v, i: i[0][1] / (1.0 + i[0][0]),
    "tanh": lambda v, i: (1.0 - v * v) * i[0][1],
    "absolute": lambda v, i: np.sign(i[0][0]) * i[0][1],
    "sigmoid": lambda v, i: v * (1.0 - v) * i[0][1],
    "softplus": lambda v, i: 0.5 * (1.0 + np.tanh(0.5 * i[0][0])) * i[0][1],
    "minimum": lambda v, i: np.where(i[1][0] < i[0][0], i[1][1], i[0][1]),
    "maximum": lambda v, i: np.where(i[1][0] > i[0][0], i[1][1], i[0][1]),
    "less": lambda v, i: 0.0,
    "where": lambda v, i: np.where(i[0][0], i[1][1], i[2][1]),
    "logaddexp": lambda v, i: sum(np.exp(x - v) * s for x, s in i),
}
