"""What a law is: parameters, variables, a log-prediction with exact derivatives, and derived quantities.

A form is written once, in the letters of its paper. Logs are centred without the form knowing: each
parameter states its dimension in the variables (A of A N^-alpha has dimension N^alpha), the solver works in
units where every variable has geometric mean one, and values are converted back by dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, ClassVar

import numpy as np

from isoloss.laws import jets
from isoloss.laws.errors import LawError, unknown
from isoloss.laws.kernel import Basis, JetModel, Model, Namespace, TermsModel

Array = np.ndarray
Values = Mapping[str, Any]
EXPONENT_LIMIT = 8.0


@dataclass(frozen=True)
class Parameter:
    """One parameter of a form.

    positive: fitted as its logarithm. lower, upper: bounds in natural units (for a parameter with a
    dimension, in units where the variables have geometric mean one). dimension: power of each variable, a
    number or the name of an exponent parameter ("-h" for its negative). role: 'coefficient' for what a linear
    solve can give, 'exponent' or 'scale' for what a grid must search. within: a variable whose second and
    last but one values on the rows bound the parameter (a break outside them cannot be seen).
    """

    name: str
    positive: bool = True
    lower: float | None = None
    upper: float | None = None
    dimension: Mapping[str, float | str] = field(default_factory=dict)
    role: str = "coefficient"
    meaning: str = ""
    within: str = ""

    def bounds(self) -> tuple[float, float]:
        """Bounds of the fitted value (the logarithm where positive)."""
        if self.positive:
            lower = -np.inf if self.lower is None or self.lower <= 0 else np.log(self.lower)
            return lower, np.inf if self.upper is None else np.log(self.upper)
        return (
            -np.inf if self.lower is None else self.lower,
            np.inf if self.upper is None else self.upper,
        )


def coefficient(name: str, dimension: Mapping[str, float | str] | None = None, meaning: str = "") -> Parameter:
    """A positive coefficient, fitted as its logarithm."""
    return Parameter(name, dimension=dimension or {}, meaning=meaning)


def exponent(name: str, meaning: str = "", lower: float = 0.0, upper: float = EXPONENT_LIMIT) -> Parameter:
    """An exponent, bounded so that a flat or step-like fit is seen as an active bound."""
    return Parameter(name, positive=False, lower=lower, upper=upper, role="exponent", meaning=meaning)


class Form:
    """A scaling law. A user adds one by subclassing: names, parameters, `log_prediction`, and starts.

    `space` is 'log' (residuals of the logarithm of the response), 'logit' (of the log odds of a share) or
    'value' (plain residuals, for accuracies). `log_prediction(p, v)` is written with `isoloss.laws.jets`
    functions on p.NAME or p.log_NAME (parameters) and v.NAME or v.log_NAME (variables); it returns the
    prediction in that space.
    """

    name: str = ""
    formula: str = ""
    source: str = ""
    variables: tuple[str, ...] = ("x",)
    parameters: tuple[Parameter, ...] = ()
    response: str = "loss"
    space: str = "log"
    # Variables measured in one unit with another (unique tokens with tokens).
    same_unit: ClassVar[Mapping[str, str]] = {}
    # Grid of each parameter that a linear solve cannot give, in centred natural units.
    grids: ClassVar[Mapping[str, Sequence[float]]] = {}
    # False for laws written in the logarithm itself, whose letters change when it is centred.
    centre_logs: bool = True
    # Parameters that change into one another when a variable is centred (see `moved`).
    mixed: tuple[str, ...] = ()
    # Space of the linear solve for starts: 'loss' (columns add up to the prediction) or 'log'.
    linear_in: str = "loss"
    # Parameters that must be given to fit(..., fixed={...}) because the rows cannot tell them.
    pinned: tuple[str, ...] = ()
    # Objective of a fit that names none.
    default_loss: str = "huber"
    # Derived quantities that lie between 0 and 1.
    shares: tuple[str, ...] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        """Derived quantities of degenerate parameters are NaN or infinite, whatever the subclass divides by."""
        super().__init_subclass__(**options)
        if "derived" in cls.__dict__:
            cls.derived = _quiet(cls.derived)  # type: ignore[method-assign]

    @property
    def floor(self) -> str:
        """Name of the parameter or derived quantity below which no response can lie; empty without one."""
        return ""

    def dimension(self, name: str) -> Mapping[str, float | str]:
        """Dimension of a parameter: power of each variable in its unit."""
        return self.parameter(name).dimension

    def moved(self, values: Values, by: Mapping[str, Any]) -> dict[str, Any]:
        """The mixed parameters of the same curve where the logarithm of each variable is smaller by `by`."""
        return dict(values)

    def log_prediction(self, p: Namespace, v: Namespace) -> Any:
        """The prediction in the form's space: its logarithm, its log odds, or the value itself."""
        raise NotImplementedError

    def basis(self, p: Namespace, v: Namespace) -> Basis | None:
        """Columns whose coefficients a linear solve gives, for grid values p of the other parameters."""
        return None

    def guesses(self, v: Namespace, y: Array) -> list[Values]:
        """Hand-made starts in centred natural units, in addition to (or instead of) the grid."""
        return []

    def checked_guesses(self, v: Namespace, y: Array, fixed: Values) -> list[dict[str, Any]]:
        """The guesses, completed by the fixed values. Raises LawError for missing and unknown parameter names."""
        found = []
        for guess in self.guesses(v, y):
            for name in guess:
                if name not in self.names:
                    raise unknown(f"parameter (in guesses() of law {self.name!r})", name, self.names)
            whole = {**guess, **fixed}
            missing = [name for name in self.names if name not in whole]
            if missing:
                raise LawError(
                    f"law {self.name!r}: guesses() gives no value for {', '.join(missing)}; every guess names all of "
                    f"{', '.join(self.names)}"
                )
            found.append(whole)
        return found

    def grid_of(self, name: str, v: Namespace) -> Any:
        """Grid of a searched parameter on these rows; None for a geometric default."""
        return self.grids.get(name)

    def to_space(self, response: Any) -> Any:
        """Response values in the space of the residuals."""
        if self.space == "log":
            return np.log(response)
        return np.log(response) - np.log1p(-response) if self.space == "logit" else response

    def from_space(self, value: Any) -> Any:
        """Response values from the space of the residuals."""
        if self.space == "log":
            return np.exp(value)
        return jets.sigmoid(value) if self.space == "logit" else value

    def derived(self) -> dict[str, Callable[[Values], Any]]:
        """Derived quantities by name: functions of natural parameter values (numbers or arrays)."""
        return {}

    def check_declaration(self) -> None:
        """Raise LawError where parameters, dimensions, grids and variables do not fit together."""
        names = self.names
        if not names or len(set(names)) != len(names):
            raise LawError(f"law {self.name!r} needs distinct parameters; found {', '.join(names) or 'none'}")
        for name in (*self.grids, *self.pinned):
            if name not in names:
                raise unknown(f"parameter (in grids or pinned of law {self.name!r})", name, names)
        for q in self.parameters:
            self._check_powers(f"the dimension of {q.name!r}", q.dimension)

    def _check_powers(self, where: str, powers: Mapping[str, float | str]) -> None:
        for variable, power in powers.items():
            if variable not in self.variables:
                raise unknown(f"variable (in {where} of law {self.name!r})", variable, self.variables)
            _, name = split_power(power)
            if name is not None and name not in self.names:
                raise unknown(f"exponent (in {where} of law {self.name!r})", name, self.names)
            if name is not None and self.parameter(name).positive:
                raise LawError(
                    f"law {self.name!r}: {name!r}, a power in {where}, must be declared as exponent({name!r}) or with "
                    "positive=False"
                )

    def check(self, columns: Mapping[str, Array]) -> None:
        """Raise LawError where the variables of this form cannot be used as given."""
        for name, values in columns.items():
            if np.any(values <= 0):
                row = int(np.argmax(values <= 0))
                raise LawError(f"law {self.name!r} takes the logarithm of {name}; row {row} holds {values[row]:g}")

    @property
    def names(self) -> tuple[str, ...]:
        """Parameter names in order."""
        return tuple(parameter.name for parameter in self.parameters)

    def parameter(self, name: str) -> Parameter:
        """A parameter by name."""
        return self.parameters[self.names.index(name)]

    def model(self, logs: dict[str, Array]) -> Model:
        """The batched model of centred log variables, each of shape (rows,) or (problems, rows)."""
        return JetModel(self, logs)

    def predict(self, values: Values, variables: Values) -> Any:
        """Prediction for natural parameter values and variables (arrays broadcast against each other)."""
        p = Namespace({n: np.asarray(values[n], dtype=float) for n in self.names}, {})
        v = Namespace({n: np.asarray(variables[n], dtype=float) for n in self.variables}, {})
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            return self.from_space(self.log_prediction(p, v))

    def __repr__(self) -> str:
        return f"<law {self.name}: {self.formula}>"


@dataclass(frozen=True)
class Term:
    """One term of a sum: coefficient times variables to powers (a number or an exponent parameter)."""

    coefficient: str
    powers: Mapping[str, float | str] = field(default_factory=dict)


class SumOfPowers(Form):
    """L = sum of terms: the log-prediction is a log-sum-exp, linear inside, with one shared kernel.

    The dimension of a coefficient follows from its term: b of b x^-c has dimension x^c.
    """

    terms: tuple[Term, ...] = ()

    @property
    def floor(self) -> str:
        """The coefficient of a term without variables, which is below every sum of positive terms."""
        return next((term.coefficient for term in self.terms if not term.powers), "")

    def dimension(self, name: str) -> Mapping[str, float | str]:
        """The inverse of the variables' powers in the coefficient's term."""
        for term in self.terms:
            if term.coefficient == name:
                return {variable: negative(power) for variable, power in term.powers.items()}
        return self.parameter(name).dimension

    def check_declaration(self) -> None:
        """Raise LawError where terms name what the law does not have, or a declared dimension is not theirs."""
        super().check_declaration()
        if not self.terms:
            raise LawError(
                f"law {self.name!r} is a sum of powers without terms: give terms = (Term('b', {{...}}), ...)"
            )
        for term in self.terms:
            name = term.coefficient
            if name not in self.names:
                raise unknown(f"coefficient (in terms of law {self.name!r})", name, self.names)
            if not self.parameter(name).positive:
                raise LawError(f"law {self.name!r}: {name!r} multiplies a term, so it must be a coefficient({name!r})")
            self._check_powers(f"the term of {name!r}", term.powers)
            derived, declared = self.dimension(name), self.parameter(name).dimension
            if declared and dict(declared) != dict(derived):
                raise LawError(
                    f"law {self.name!r}: {name!r} is declared with dimension {dict(declared)}, but its term gives "
                    f"{dict(derived)}; leave it out"
                )
            if self.centre_logs and {v: negative(power) for v, power in term.powers.items()} != derived:
                raise LawError(
                    f"law {self.name!r}: {name!r} multiplies terms of different dimensions; set centre_logs = False"
                )

    def log_prediction(self, p: Namespace, v: Namespace) -> Any:
        logs = []
        for term in self.terms:
            total = p[f"log_{term.coefficient}"]
            for variable, power in term.powers.items():
                sign, name = split_power(power)
                total = total + (sign if name is None else sign * p[name]) * v[f"log_{variable}"]
            logs.append(total)
        return jets.logaddexp(*logs)

    def basis(self, p: Namespace, v: Namespace) -> Basis | None:
        columns = {}
        for term in self.terms:
            exponent_sum: Any = 0.0
            for variable, power in term.powers.items():
                sign, name = split_power(power)
                exponent_sum = exponent_sum + (sign if name is None else sign * p[name]) * v[f"log_{variable}"]
            columns[term.coefficient] = np.exp(exponent_sum)
        return Basis(columns)

    def model(self, logs: dict[str, Array]) -> Model:
        return TermsModel(self.names, self.terms, logs)


def negative(power: float | str) -> float | str:
    """The power of the inverse: 'c' for '-c'."""
    if isinstance(power, str):
        return power[1:] if power.startswith("-") else f"-{power}"
    return -power


def _quiet(method: Callable[[Any], dict[str, Callable[[Values], Any]]]) -> Any:
    """`derived` whose functions compute with NumPy numbers and without warnings."""

    def silenced(function: Callable[[Values], Any]) -> Callable[[Values], Any]:
        def value(values: Values) -> Any:
            with np.errstate(all="ignore"):
                return function({name: np.asarray(v, dtype=float)[()] for name, v in values.items()})

        return value

    @wraps(method)
    def derived(form: Any) -> dict[str, Callable[[Values], Any]]:
        return {name: silenced(function) for name, function in method(form).items()}

    return derived


def split_power(power: float | str) -> tuple[float, str | None]:
    """(-1, 'alpha') for '-alpha', (1, 'h') for 'h', (-1.5, None) for the number -1.5."""
    if isinstance(power, str):
        return (-1.0, power[1:]) if power.startswith("-") else (1.0, power)
    return float(power), None
