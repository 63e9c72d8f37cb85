"""Distance of the weights from their initialisation against updates: logarithm or power."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from isoloss.laws.form import Form, Parameter, SumOfPowers, Term, coefficient, exponent
from isoloss.laws.jets import log
from isoloss.laws.kernel import Basis, Namespace

Values = Mapping[str, Any]


class LogGrowth(Form):
    """Ultra-slow diffusion: distance grows with the logarithm of the number of updates."""

    name = "log-growth"
    formula = "distance = a ln S + b"
    source = "Hoffer et al. 2017 (1705.08741), section 4: random walk on a random potential"
    variables = ("S",)
    response = "distance"
    mixed = ("a", "b")
    parameters = (Parameter("a", positive=False), Parameter("b", positive=False))

    def moved(self, values: Values, by: Mapping[str, Any]) -> dict[str, Any]:
        return {**values, "b": values["b"] + values["a"] * by["S"]}

    def log_prediction(self, p: Namespace, v: Namespace) -> Any:
        return log(p.a * v.log_S + p.b)

    def basis(self, p: Namespace, v: Namespace) -> Basis | None:
        return Basis({"a": v.log_S, "b": np.ones_like(v.log_S)})


class PowerGrowth(SumOfPowers):
    """Ordinary diffusion (p = 1/2) and its relatives: distance grows as a power of updates."""

    name = "power-growth"
    formula = "distance = a S^p"
    source = "the alternative to logarithmic growth in Hoffer et al. 2017 (1705.08741)"
    variables = ("S",)
    response = "distance"
    parameters = (coefficient("a", {"S": "-p"}), exponent("p"))
    terms = (Term("a", {"S": "p"}),)
