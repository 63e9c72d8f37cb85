"""Effective data transferred from pre-training (Hernandez et al. 2021, 2102.01293)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from isoloss.laws.errors import LawError
from isoloss.laws.form import Form, Parameter, SumOfPowers, Term, coefficient, exponent
from isoloss.laws.kernel import Basis, Namespace

Array = np.ndarray
Values = Mapping[str, Any]
DIMENSION: Mapping[str, float | str] = {"D_F": "-alpha", "N": "-beta"}

# Published constants; D in characters, N without embeddings.
TEXT = {"k": 1.9e4, "alpha": 0.18, "beta": 0.38}
TEXT_AND_CODE = {"k": 2.1e5, "alpha": 0.096, "beta": 0.38}


class Transfer(SumOfPowers):
    """Data that a model from scratch would need in addition, against fine-tuning data and size."""

    name = "transfer"
    formula = "D_T = k D_F^alpha N^beta"
    source = "Hernandez et al. 2021 (2102.01293), equation 1.1"
    variables = ("D_F", "N")
    response = "D_T"
    parameters = (coefficient("k", DIMENSION), exponent("alpha", "distance of the tasks"), exponent("beta"))
    terms = (Term("k", {"D_F": "alpha", "N": "beta"}),)


class TransferFraction(Form):
    """Share of effective data that came from pre-training, fitted on the logit scale."""

    name = "transfer-fraction"
    formula = "D_T/(D_F + D_T) = 1/(1 + (N_star/N)^beta), N_star^beta = D_F^(1 - alpha)/k"
    source = "Hernandez et al. 2021 (2102.01293), equations B.2 and C.1"
    variables = ("D_F", "N")
    response = "fraction"
    space = "logit"
    linear_in = "log"
    parameters = (
        Parameter("k", dimension={"D_F": "transfer", "N": "-beta"}, meaning="as in D_T = k D_F^alpha N^beta"),
        Parameter("transfer", positive=False, lower=-8.0, upper=8.0, meaning="1 - alpha"),
        Parameter("beta", positive=False, lower=-8.0, upper=8.0),
    )

    def log_prediction(self, p: Namespace, v: Namespace) -> Any:
        return p.log_k - p.transfer * v.log_D_F + p.beta * v.log_N

    def basis(self, p: Namespace, v: Namespace) -> Basis | None:
        return Basis({"k": np.ones_like(v.log_N), "transfer": -v.log_D_F, "beta": v.log_N})

    def derived(self) -> dict[str, Any]:
        return {"alpha": lambda p: 1.0 - p["transfer"]}


def data_transferred(parameters: Values, D_F: Any, N: Any) -> Any:
    """D_T = k D_F^alpha N^beta (equation 1.1)."""
    return parameters["k"] * np.asarray(D_F, float) ** parameters["alpha"] * np.asarray(N, float) ** parameters["beta"]


def transfer_fraction(parameters: Values, D_F: Any, N: Any) -> Any:
    """q/(1 + q) with q = D_T/D_F (equation B.2)."""
    ratio = data_transferred(parameters, D_F, N) / np.asarray(D_F, float)
    return ratio / (1.0 + ratio)


def loss_after_transfer(parameters: Values, kaplan: Values, D_F: Any, N: Any) -> Any:
    """Kaplan's L(N, D) with D replaced by D_T (equation 6.1, called tentative by its authors)."""
    ratio = kaplan["alpha_N"] / kaplan["alpha_D"]
    size = (kaplan["N_c"] / np.asarray(N, float)) ** ratio
    return (size + kaplan["D_c"] / data_transferred(parameters, D_F, N)) ** kaplan["alpha_D"]


def effective_data(D: Any, loss: Any, target: Any) -> Array:
    """D_E: data of a from-scratch curve at target losses, by monotone interpolation of loss against log D.

    Raises LawError where the curve does not fall or a target lies outside it (it never extrapolates).
    """
    order = np.argsort(np.asarray(D, float))
    x, y = np.log(np.asarray(D, float)[order]), np.asarray(loss, float)[order]
    target = np.atleast_1d(np.asarray(target, float))
    if np.any(np.diff(y) >= 0):
        raise LawError("the from-scratch curve must fall with every step in D to be inverted")
    outside = (target > y[0]) | (target < y[-1])
    if outside.any():
        raise LawError(
            f"target loss {target[outside][0]:g} lies outside the from-scratch curve ({y[-1]:g} to "
            f"{y[0]:g}); "
            "no extrapolation"
        )
    from scipy.interpolate import PchipInterpolator

    return np.exp(PchipInterpolator(y[::-1], x[::-1])(target))


def fit_of_fits(D_F: Any, N: Any, fraction: Any) -> dict[str, float]:
    """k, alpha, beta by two stages: N_star per D_F with one slope beta, then N_star against D_F.

    Every D_F has equal weight in the second stage (appendix C). Raises LawError for fewer than two D_F.
    """
    x, n, share = (np.asarray(values, float) for values in (D_F, N, fraction))
    if np.any((share <= 0) | (share >= 1)):
        raise LawError("fractions must lie strictly between 0 and 1")
    levels, group = np.unique(x, return_inverse=True)
    if len(levels) < 2:
        raise LawError(f"a fit of fits needs at least two values of D_F; found {len(levels)}")
    logit, log_n = np.log(share / (1.0 - share)), np.log(n)
    size = np.bincount(group)
    n_mean, y_mean = np.bincount(group, log_n) / size, np.bincount(group, logit) / size
    within = log_n - n_mean[group]
    beta = float(np.sum(within * (logit - y_mean[group])) / np.sum(within**2))
    intercept = y_mean - beta * n_mean
    slope, log_k = np.polyfit(np.log(levels), intercept, 1)
    return {"k": float(np.exp(log_k)), "alpha": float(1.0 + slope), "beta": beta}
