"""Loss when data repeats: excess epochs and excess parameters decay in value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from isoloss.laws.form import Form, Parameter, coefficient, exponent
from isoloss.laws.forms.additive import Chinchilla, ChinchillaTied
from isoloss.laws.jets import exp, log, logaddexp, value_of, where
from isoloss.laws.kernel import Namespace
from isoloss.laws.starts import term_guesses

Array = np.ndarray
Values = Mapping[str, Any]


class DataConstrained(Form):
    """Chinchilla with effective data D' and effective parameters N'.

    D' = U + U r_D (1 - exp(-R_D/r_D)) with U unique tokens and R_D = D/U - 1 repeats; N' likewise with U_N,
    the size that is compute-optimal for U tokens.
    """

    name = "data-constrained"
    formula = "L = E + A N'^-alpha + B D'^-beta; X' = U_X (1 + r_X (1 - exp(-R_X/r_X)))"
    source = "Muennighoff et al. 2023 (2305.16264), equations 5 to 7"
    variables = ("N", "D", "unique")
    floor, shares = "E", ("a_opt", "b_opt")
    same_unit: ClassVar[Mapping[str, str]] = {"unique": "D"}
    parameters: tuple[Parameter, ...] = (
        coefficient("A", {"N": "alpha"}, "size coefficient"),
        coefficient("B", {"D": "beta"}, "data coefficient"),
        coefficient("E", meaning="irreducible loss"),
        exponent("alpha", "size exponent", lower=1e-3),
        exponent("beta", "data exponent"),
        Parameter("r_D", lower=1e-3, upper=1e4, role="scale", meaning="half-life-like constant of repeats"),
        Parameter("r_N", lower=1e-3, upper=1e4, role="scale", meaning="the same for excess parameters"),
    )
    _plain: ClassVar[Form] = Chinchilla()
    _beta = "beta"

    def log_prediction(self, p: Namespace, v: Namespace) -> Any:
        beta = p[self._beta]
        log_unique = np.minimum(v.log_unique, v.log_D)
        optimal = (p.log_A - p.log_B + _log_ratio(p.alpha, beta) + beta * log_unique) / p.alpha
        log_size = where(value_of(optimal) < v.log_N, optimal, v.log_N + 0.0 * optimal)
        log_data = log_unique + _effective(v.log_D - log_unique, p.r_D)
        log_parameters = log_size + _effective(v.log_N - log_size, p.r_N)
        return logaddexp(p.log_A - p.alpha * log_parameters, p.log_B - beta * log_data, p.log_E)

    def guesses(self, v: Namespace, y: Array) -> list[Values]:
        fresh = np.asarray(v.log_D) <= np.asarray(v.log_unique) + 0.7
        rows = fresh if fresh.sum() >= 8 else np.ones_like(fresh)
        part = Namespace({}, {name: np.asarray(v[f"log_{name}"])[rows] for name in ("N", "D")})
        found: list[Values] = []
        for plain in term_guesses(self._plain, part, y[rows], limit=2):
            found += [{**plain, "r_D": r, "r_N": s} for r in (2.0, 15.0) for s in (2.0, 15.0)]
        return found

    def derived(self) -> dict[str, Callable[[Values], Any]]:
        return self._plain.derived()


class DataConstrainedTied(DataConstrained):
    """The published variant with one exponent for size and data."""

    name = "data-constrained-tied"
    formula = "L = E + A N'^-alpha + B D'^-alpha; X' = U_X (1 + r_X (1 - exp(-R_X/r_X)))"
    parameters = tuple(
        coefficient("B", {"D": "alpha"}, q.meaning) if q.name == "B" else q
        for q in DataConstrained.parameters
        if q.name != "beta"
    )
    _plain: ClassVar[Form] = ChinchillaTied()
    _beta = "alpha"


def _effective(log_ratio: Any, r: Any) -> Any:
    """log(1 + r (1 - exp(-R/r))) for R = exp(log_ratio) - 1 passes beyond the first."""
    repeats = exp(log_ratio) - 1.0
    return log(1.0 + r * (1.0 - exp(-1.0 * (repeats / r))))


def _log_ratio(alpha: Any, beta: Any) -> Any:
    return log(alpha) - log(beta)
