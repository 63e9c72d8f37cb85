"""Task accuracy or error against loss: the sigmoid family, fitted in plain units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from isoloss.laws.form import Form, Parameter
from isoloss.laws.jets import exp, sigmoid, softplus
from isoloss.laws.kernel import Basis, Namespace

Values = Mapping[str, Any]
PLACES = tuple(np.geomspace(0.4, 2.5, 15))


class Sigmoid(Form):
    """Accuracy as a logistic step of the task loss."""

    name = "sigmoid"
    formula = "y = a / (1 + exp(-k (x - x0))) + b"
    source = "Bhagia et al. 2024, OLMo ladder (2412.04403), step 2"
    response, space = "accuracy", "value"
    parameters = (
        Parameter("a", positive=False, meaning="height, negative when accuracy falls with x"),
        Parameter("b", positive=False, meaning="level far above x0"),
        Parameter("x0", dimension={"x": 1}, role="scale", meaning="middle of the step"),
        Parameter("k", dimension={"x": -1}, role="scale", meaning="steepness"),
    )
    grids: ClassVar[Mapping[str, Sequence[float]]] = {"x0": PLACES, "k": tuple(np.geomspace(0.5, 60.0, 18))}

    def log_prediction(self, p: Namespace, v: Namespace) -> Any:
        return p.a * sigmoid(p.k * (v.x - p.x0)) + p.b

    def basis(self, p: Namespace, v: Namespace) -> Basis | None:
        return Basis({"a": sigmoid(p.k * (v.x - p.x0)), "b": np.ones_like(v.x)})


class LogSigmoid(Form):
    """Accuracy as one minus the logarithm of a logistic step."""

    name = "log-sigmoid"
    formula = "y = 1 - a ln(1 - 1/(1 + exp(-k (x - x0))))"
    source = "OLMo ladder code (allenai/OLMo-ladder, fitting functions)"
    response, space = "accuracy", "value"
    parameters = (
        Parameter("a", positive=False),
        Parameter("x0", dimension={"x": 1}, role="scale", meaning="bend"),
        Parameter("k", dimension={"x": -1}, role="scale", meaning="steepness"),
    )
    grids: ClassVar[Mapping[str, Sequence[float]]] = {"x0": PLACES, "k": tuple(np.geomspace(0.5, 60.0, 18))}

    def log_prediction(self, p: Namespace, v: Namespace) -> Any:
        return 1.0 + p.a * softplus(p.k * (v.x - p.x0))

    def basis(self, p: Namespace, v: Namespace) -> Basis | None:
        return Basis({"a": softplus(p.k * (v.x - p.x0))}, offset=1.0)


class ExponentialError(Form):
    """Downstream error that decays exponentially with the loss's distance from its asymptote."""

    name = "exp-decay"
    formula = "error = e - k exp(-g x)"
    source = "Gadre et al. 2024 (2403.08540), equation 5"
    response, space = "error", "value"
    parameters = (
        Parameter("e", positive=False, meaning="error at large loss"),
        Parameter("k", positive=False),
        Parameter("g", dimension={"x": -1}, role="scale", meaning="rate"),
    )
    grids: ClassVar[Mapping[str, Sequence[float]]] = {"g": tuple(np.geomspace(0.05, 30.0, 40))}

    def log_prediction(self, p: Namespace, v: Namespace) -> Any:
        return p.e - p.k * exp(-1.0 * p.g * v.x)

    def basis(self, p: Namespace, v: Namespace) -> Basis | None:
        return Basis({"e": np.ones_like(v.x), "k": -np.exp(-p.g * v.x)})
