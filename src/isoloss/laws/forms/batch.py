"""Critical batch size and the trade between steps and examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from isoloss.laws.form import Form, Parameter, SumOfPowers, Term, coefficient, exponent
from isoloss.laws.kernel import Namespace
from isoloss.laws.starts import line

Values = Mapping[str, Any]


class CriticalBatch(Form):
    """Critical batch size as a power of the loss, whatever the model size."""

    name = "critical-batch"
    formula = "B_crit = B_star / L^(1/alpha_B)"
    source = "Kaplan et al. 2020 (2001.08361), equation 1.4; constants B_star 2e8 tokens, alpha_B 0.21"
    variables = ("loss",)
    response = "B_crit"
    parameters = (
        Parameter("B_star", dimension={"loss": "inverse"}, role="scale", meaning="batch at loss one"),
        exponent("inverse", "1/alpha_B", upper=100.0),
    )

    def log_prediction(self, p: Namespace, v: Namespace) -> Any:
        return p.log_B_star - p.inverse * v.log_loss

    def guesses(self, v: Namespace, y: np.ndarray) -> list[Values]:
        intercept, slope = line(v.log_loss, np.log(y))
        return [{"B_star": float(np.exp(intercept)), "inverse": max(-slope, 1e-3)}]

    def derived(self) -> dict[str, Callable[[Values], Any]]:
        return {"alpha_B": lambda p: 1.0 / p["inverse"]}


class StepsExamples(SumOfPowers):
    """Steps to one target loss against batch size: (S/S_min - 1)(E/E_min - 1) = 1 with E = B S.

    Solved for S the hyperbola is a sum of two powers, S = S_min + E_min / B.
    """

    name = "steps-examples"
    formula = "S = S_min + E_min / B"
    source = "McCandlish et al. 2018 (1812.06162), equation 2.11"
    variables = ("B",)
    response = "S"
    parameters = (
        coefficient("S_min", meaning="updates at unlimited batch"),
        coefficient("E_min", {"B": 1}, "examples at the smallest batch"),
    )
    terms = (Term("S_min"), Term("E_min", {"B": -1.0}))

    def derived(self) -> dict[str, Callable[[Values], Any]]:
        return {"B_crit": lambda p: p["E_min"] / p["S_min"]}


def critical_batch(loss: Any, B_star: float = 2e8, alpha_B: float = 0.21) -> Any:
    """B_crit(L) = B_star / L^(1/alpha_B), in tokens for the published constants (equation 1.4)."""
    return B_star / np.asarray(loss, dtype=float) ** (1.0 / alpha_B)


def minimum_steps(S: Any, B: Any, B_crit: Any) -> Any:
    """Updates that unlimited batch would have needed: S / (1 + B_crit/B) (equation 5.4)."""
    return np.asarray(S) / (1.0 + np.asarray(B_crit) / np.asarray(B))


def minimum_compute(C: Any, B: Any, B_crit: Any) -> Any:
    """Compute that the smallest batch would have needed: C / (1 + B/B_crit) (equation 5.5)."""
    return np.asarray(C) / (1.0 + np.asarray(B) / np.asarray(B_crit))
