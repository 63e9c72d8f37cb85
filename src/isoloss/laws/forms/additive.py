"""Additive laws in model size and data: L = E + A N^-alpha + B D^-beta and its relatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from isoloss.laws.errors import LawError
from isoloss.laws.form import Form, Parameter, SumOfPowers, Term, coefficient, exponent
from isoloss.laws.jets import logaddexp
from isoloss.laws.kernel import Namespace
from isoloss.laws.starts import term_guesses

Values = Mapping[str, Any]


class Chinchilla(SumOfPowers):
    """Irreducible loss plus a power of model size plus a power of data."""

    name = "chinchilla"
    formula = "L = E + A N^-alpha + B D^-beta"
    source = "Hoffmann et al. 2022 (2203.15556), equation 2; refit by Besiroglu et al. 2024 (2404.10102)"
    variables = ("N", "D")
    shares = ("a_opt", "b_opt")
    parameters: tuple[Parameter, ...] = (
        coefficient("A", {"N": "alpha"}, "size coefficient"),
        coefficient("B", {"D": "beta"}, "data coefficient"),
        coefficient("E", meaning="irreducible loss"),
        exponent("alpha", "size exponent"),
        exponent("beta", "data exponent"),
    )
    terms: tuple[Term, ...] = (Term("A", {"N": "-alpha"}), Term("B", {"D": "-beta"}), Term("E"))

    def derived(self) -> dict[str, Callable[[Values], Any]]:
        return {
            "a_opt": lambda p: p["beta"] / (p["alpha"] + p["beta"]),
            "b_opt": lambda p: p["alpha"] / (p["alpha"] + p["beta"]),
            "G": lambda p: (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / (p["alpha"] + p["beta"])),
        }


class ChinchillaTied(Chinchilla):
    """Chinchilla with one exponent for size and data."""

    name = "chinchilla-tied"
    formula = "L = E + A N^-alpha + B D^-alpha"
    source = "Muennighoff et al. 2023 (2305.16264), who tie the exponents so that N and D grow together"
    parameters = (
        coefficient("A", {"N": "alpha"}, "size coefficient"),
        coefficient("B", {"D": "alpha"}, "data coefficient"),
        coefficient("E", meaning="irreducible loss"),
        exponent("alpha", "exponent of both size and data"),
    )
    terms = (Term("A", {"N": "-alpha"}), Term("B", {"D": "-alpha"}), Term("E"))

    def derived(self) -> dict[str, Callable[[Values], Any]]:
        return {
            "a_opt": lambda p: 0.5 + 0.0 * np.asarray(p["alpha"]),
            "b_opt": lambda p: 0.5 + 0.0 * np.asarray(p["alpha"]),
            "G": lambda p: (p["A"] / p["B"]) ** (0.5 / p["alpha"]),
        }


class ChinchillaOuter(Form):
    """Chinchilla with an exponent around the sum of the two powers."""

    name = "chinchilla-outer"
    formula = "L = E + (A N^-alpha + B D^-beta)^gamma"
    source = "Busbridge et al. 2025, distillation scaling laws (2502.08606), supervised law"
    floor = "E"
    variables = ("N", "D")
    parameters = (
        coefficient("A", {"N": "alpha"}, "size coefficient"),
        coefficient("B", {"D": "beta"}, "data coefficient"),
        coefficient("E", meaning="irreducible loss"),
        exponent("alpha", "size exponent inside the sum"),
        exponent("beta", "data exponent inside the sum"),
        exponent("gamma", "exponent of the sum", lower=0.05, upper=20.0),
    )

    def log_prediction(self, p: Namespace, v: Namespace) -> Any:
        inside = logaddexp(p.log_A - p.alpha * v.log_N, p.log_B - p.beta * v.log_D)
        return logaddexp(p.log_E, p.gamma * inside)

    def guesses(self, v: Namespace, y: np.ndarray) -> list[Values]:
        found: list[Values] = []
        for plain in term_guesses(Chinchilla(), v, y, limit=2):
            for gamma in (0.5, 1.0, 2.0):
                inner = {name: plain[name] ** (1 / gamma) for name in ("A", "B")}
                outer = {name: plain[name] / gamma for name in ("alpha", "beta")}
                found.append({**inner, **outer, "E": plain["E"], "gamma": gamma})
        return found


class OverTraining(SumOfPowers):
    """Loss against compute C and tokens per parameter M = D/N, with tied exponents."""

    name = "overtraining"
    formula = "L = E + (a M^h + b M^-h) C^-h"
    source = "Gadre et al. 2024 (2403.08540), equation 4"
    variables = ("C", "M")
    parameters = (
        coefficient("a", {"C": "h", "M": "-h"}, "cost of too few parameters"),
        coefficient("b", {"C": "h", "M": "h"}, "cost of too few tokens"),
        coefficient("E", meaning="irreducible loss"),
        exponent("h", "exponent of compute"),
    )
    terms = (Term("a", {"M": "h", "C": "-h"}), Term("b", {"M": "-h", "C": "-h"}), Term("E"))

    def derived(self) -> dict[str, Callable[[Values], Any]]:
        return {"M_opt": lambda p: (p["b"] / p["a"]) ** (0.5 / p["h"])}


class Additive(SumOfPowers):
    """Irreducible loss plus one power of each of several variables (width, depth, N, D ...)."""

    source = "McLeish et al. 2025, Gemstones (2502.06857), generalising Hoffmann et al. 2022"

    def __init__(self, *variables: str) -> None:
        if not variables or len(set(variables)) != len(variables):
            raise LawError(f"an additive law needs distinct variables; found {variables}")
        self.name = f"additive:{','.join(variables)}"
        self.variables = variables
        self.formula = "L = E" + "".join(f" + A_{v} {v}^-alpha_{v}" for v in variables)
        coefficients = [coefficient(f"A_{v}", {v: f"alpha_{v}"}, f"coefficient of {v}") for v in variables]
        exponents = [exponent(f"alpha_{v}", f"exponent of {v}") for v in variables]
        floor = coefficient("E", meaning="irreducible loss")
        self.parameters = (*coefficients, floor, *exponents)
        self.terms = (*[Term(f"A_{v}", {v: f"-alpha_{v}"}) for v in variables], Term("E"))
