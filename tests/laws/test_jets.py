"""Recorded derivatives against closed forms and finite differences."""

from __future__ import annotations

import numpy as np
import pytest

from isoloss.laws import jets
from isoloss.laws.forms.one_variable import bend
from isoloss.laws.jets import Jet, contract

POINT = np.array([0.7, -0.4, 1.3])


def seeds(point: np.ndarray) -> list[Jet]:
    return [Jet.parameter(np.array([[value]]), i) for i, value in enumerate(point)]


def derivatives(jet: Jet, size: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and Hessian of a jet of one problem and one row."""
    gradient, hessian = contract(jet, np.ones((1, 1)), np.zeros((1, 1)), size)
    return gradient[0], hessian[0]


FUNCTIONS = {
    "product and quotient": lambda a, b, c: (a * b - 2.0 * c) / (c + a * a),
    "power": lambda a, b, c: a**2.5 + c**b,
    "exp and log": lambda a, b, c: jets.exp(a * b) * jets.log(c + a * a),
    "sigmoid": lambda a, b, c: jets.sigmoid(a * c - b) * b,
    "softplus": lambda a, b, c: jets.softplus(3.0 * a - c * b),
    "log-sum-exp": lambda a, b, c: jets.logaddexp(a, b * c, 0.3, 2.0 * b),
    "reciprocal": lambda a, b, c: 1.0 / (1.0 + a * a + b * c * c),
    "constants left of a jet": lambda a, b, c: 2.0 - a * b + 3.0 / c,
    "one step used twice": lambda a, b, c: jets.exp(a * c) + b * jets.log(a * c) - (a * c) * (a * c),
    "implicit root": lambda a, b, c: bend(a - b * c, c) * b,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_first_and_second_derivatives(name: str) -> None:
    function = FUNCTIONS[name]
    gradient, hessian = derivatives(function(*seeds(POINT)))

    def number(point: np.ndarray) -> float:
        return float(np.squeeze(function(*[np.array(v) for v in point])))

    assert np.squeeze(function(*seeds(POINT)).value) == pytest.approx(number(POINT), rel=1e-14)
    h = 1e-4
    unit = np.eye(3)
    for i in range(3):
        slope = (number(POINT + h * unit[i]) - number(POINT - h * unit[i])) / (2 * h)
        assert gradient[i] == pytest.approx(slope, abs=2e-7)
        for j in range(3):
            shifts = [(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]
            mixed = sum(s * number(POINT + h * (p * unit[i] + q * unit[j])) for p, q, s in shifts) / (4 * h * h)
            assert hessian[i, j] == pytest.approx(mixed, abs=5e-6)


def test_rows_and_problems_are_contracted() -> None:
    """f = p0 exp(p1 x): sums over rows equal the ones written out."""
    rng = np.random.default_rng(0)
    theta, x, a, b = rng.normal(size=(4, 2)), rng.normal(size=6), rng.normal(size=(4, 6)), rng.uniform(size=(4, 6))
    leaves = [Jet.parameter(theta[:, i : i + 1], i) for i in range(2)]
    gradient, hessian = contract(leaves[0] * jets.exp(leaves[1] * x), a, b, 2)
    for k in range(4):
        e = np.exp(theta[k, 1] * x)
        first = np.stack([e, theta[k, 0] * x * e])
        second = np.array([[0 * e, x * e], [x * e, theta[k, 0] * x * x * e]])
        np.testing.assert_allclose(gradient[k], first @ a[k], rtol=1e-12)
        np.testing.assert_allclose(hessian[k], (first * b[k]) @ first.T + second @ a[k], rtol=1e-12)


def test_where_ignores_the_branch_that_is_not_finite() -> None:
    (a, *_) = seeds(np.array([0.0, 0.0, 0.0]))
    with np.errstate(all="ignore"):
        chosen = jets.where(a.value > 0, jets.log(a), 2.0 * a)
        gradient, hessian = derivatives(chosen)
    assert float(chosen.value[0, 0]) == 0.0
    assert gradient[0] == 2.0
    assert hessian[0, 0] == 0.0
