"""The laws of Kaplan et al. 2020 (2001.08361), in their letters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from isoloss.laws.form import Form, Parameter, SumOfPowers, Term, coefficient, exponent
from isoloss.laws.jets import logaddexp
from isoloss.laws.kernel import Namespace
from isoloss.laws.starts import line, term_guesses

Array = np.ndarray
Values = Mapping[str, Any]
SOURCE = "Kaplan et al. 2020 (2001.08361)"


def scale(name: str, variable: str, meaning: str = "") -> Parameter:
    """A constant with the unit of a variable."""
    return Parameter(name, dimension={variable: 1}, role="scale", meaning=meaning)


class _OneVariable(Form):
    """L = (X_c / X)^alpha."""

    def log_prediction(self, p: Namespace, v: Namespace) -> Any:
        constant, power = self.names
        return p[power] * (p[f"log_{constant}"] - v[f"log_{self.variables[0]}"])

    def guesses(self, v: Namespace, y: Array) -> list[Values]:
        constant, power = self.names
        intercept, slope = line(v[f"log_{self.variables[0]}"], np.log(y))
        alpha = max(-slope, 1e-3)
        return [{constant: float(np.exp(np.clip(intercept / alpha, -300, 300))), power: alpha}]


class KaplanN(_OneVariable):
    """Loss of a converged model of N non-embedding parameters."""

    name, formula, source = "kaplan-n", "L = (N_c/N)^alpha_N", f"{SOURCE}, equation 1.1"
    variables = ("N",)
    parameters = (scale("N_c", "N"), exponent("alpha_N"))


class KaplanD(_OneVariable):
    """Loss of a large model stopped early on D tokens."""

    name, formula, source = "kaplan-d", "L = (D_c/D)^alpha_D", f"{SOURCE}, equation 1.2"
    variables = ("D",)
    parameters = (scale("D_c", "D"), exponent("alpha_D"))


class KaplanC(_OneVariable):
    """Loss on the compute-efficient frontier."""

    name, formula, source = "kaplan-c", "L = (C_c/C)^alpha_C", f"{SOURCE}, equation 1.3"
    variables = ("C",)
    parameters = (scale("C_c", "C"), exponent("alpha_C"))


class Kaplan(Form):
    """Loss of N parameters stopped early on D tokens."""

    name = "kaplan"
    formula = "L = ((N_c/N)^(alpha_N/alpha_D) + D_c/D)^alpha_D"
    source = f"{SOURCE}, equation 1.5"
    variables = ("N", "D")
    parameters = (scale("N_c", "N"), scale("D_c", "D"), exponent("alpha_N"), exponent("alpha_D"))

    def log_prediction(self, p: Namespace, v: Namespace) -> Any:
        ratio = p.alpha_N / p.alpha_D
        return p.alpha_D * logaddexp(ratio * (p.log_N_c - v.log_N), p.log_D_c - v.log_D)

    def guesses(self, v: Namespace, y: Array) -> list[Values]:
        found: list[tuple[float, Values]] = []
        for alpha_D in np.geomspace(0.03, 1.0, 14):
            target = np.exp(np.log(y) / alpha_D - np.log(y).mean() / alpha_D)
            for ratio in np.geomspace(0.2, 4.0, 12):
                columns = np.stack([np.exp(-ratio * v.log_N), np.exp(-v.log_D)], axis=1) / target[:, None]
                solved = _nonnegative(columns, np.ones_like(target))
                shift = np.log(y).mean() / alpha_D
                logs = np.log(solved) + shift
                values = {
                    "N_c": float(np.exp(np.clip(logs[0] / ratio, -300, 300))),
                    "D_c": float(np.exp(np.clip(logs[1], -300, 300))),
                    "alpha_N": float(ratio * alpha_D),
                    "alpha_D": float(alpha_D),
                }
                inside = np.logaddexp(logs[0] - ratio * v.log_N, logs[1] - v.log_D)
                found.append((float(np.mean((alpha_D * inside - np.log(y)) ** 2)), values))
        return [values for _, values in sorted(found, key=lambda item: item[0])[:5]]

    def derived(self) -> dict[str, Callable[[Values], Any]]:
        return {"data_exponent": lambda p: p["alpha_N"] / p["alpha_D"]}


class KaplanSteps(Form):
    """Loss of N parameters after S_min updates at large batch."""

    name = "kaplan-steps"
    formula = "L = (N_c/N)^alpha_N + (S_c/S)^alpha_S"
    source = f"{SOURCE}, equation 1.6"
    variables = ("N", "S")
    parameters = (scale("N_c", "N"), scale("S_c", "S"), exponent("alpha_N"), exponent("alpha_S"))

    def log_prediction(self, p: Namespace, v: Namespace) -> Any:
        return logaddexp(p.alpha_N * (p.log_N_c - v.log_N), p.alpha_S * (p.log_S_c - v.log_S))

    def guesses(self, v: Namespace, y: Array) -> list[Values]:
        found: list[Values] = []
        for guess in term_guesses(_Steps(), v, y):
            constants = {f"{x}_c": guess[f"k_{x}"] ** (1 / guess[f"alpha_{x}"]) for x in ("N", "S")}
            found.append({**constants, "alpha_N": guess["alpha_N"], "alpha_S": guess["alpha_S"]})
        return found


class _Steps(SumOfPowers):
    variables = ("N", "S")
    parameters = (coefficient("k_N"), coefficient("k_S"), exponent("alpha_N"), exponent("alpha_S"))
    terms = (Term("k_N", {"N": "-alpha_N"}), Term("k_S", {"S": "-alpha_S"}))
    grids: ClassVar[Mapping[str, Sequence[float]]] = {
        "alpha_N": tuple(np.geomspace(0.02, 1.5, 20)),
        "alpha_S": tuple(np.geomspace(0.05, 2.5, 20)),
    }


def _nonnegative(columns: Array, target: Array) -> Array:
    from scipy.optimize import nnls

    solved, _ = nnls(columns, target)
    floor = 1e-6 * max(float(solved.max()), 1e-300)
    return np.maximum(solved, floor)


# Published constants (tables 2, 3 and 5); single-variable and joint constants belong to different fits.
SINGLE = {
    "kaplan-n": {"N_c": 8.8e13, "alpha_N": 0.076},
    "kaplan-d": {"D_c": 5.4e13, "alpha_D": 0.095},
    "kaplan-c": {"C_c": 1.6e7, "alpha_C": 0.057},
}
JOINT = {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103}
STEPS = {"N_c": 6.5e13, "S_c": 2.1e3, "alpha_N": 0.077, "alpha_S": 0.76}
PF_DAY = 8.64e19  # FLOPs; the unit of C in the compute law


def tokens_against_overfitting(N: Any) -> Any:
    """Tokens that keep the overfitting penalty within seed noise: 5e3 N^0.74 (equation 4.4)."""
    return 5e3 * np.asarray(N, dtype=float) ** 0.74


def learning_rate(N: Any) -> Any:
    """Their peak Adam learning rate below 1e10 parameters: 0.003239 - 0.0001395 ln N (appendix D.6)."""
    return 0.003239 - 0.0001395 * np.log(np.asarray(N, dtype=float))
