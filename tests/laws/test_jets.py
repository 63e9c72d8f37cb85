"""Forward derivatives against closed forms and finite differences."""

from __future__ import annotations

import numpy as np
import pytest

from isoloss.laws import jets
from isoloss.laws.jets import Jet

POINT = np.array([0.7, -0.4, 1.3])


def seeds(point: np.ndarray) -> list[Jet]:
    return [Jet(np.array([[value]]), {i: np.ones((1, 1))}, {}) for i, value in enumerate(point)]


FUNCTIONS = {
    "product and quotient": lambda a, b, c: (a * b - 2.0 * c) / (c + a * a),
    "power": lambda a, b, c: a**2.5 + c**b,
    "exp and log": lambda a, b, c: jets.exp(a * b) * jets.log(c + a * a),
    "sigmoid": lambda a, b, c: jets.sigmoid(a * c - b) * b,
    "softplus": lambda a, b, c: jets.softplus(3.0 * a - c * b),
    "log-sum-exp": lambda a, b, c: jets.logaddexp(a, b * c, 2.0 * b),
    "reciprocal": lambda a, b, c: 1.0 / (1.0 + a * a + b * c * c),
    "constants left of a jet": lambda a, b, c: 2.0 - a * b + 3.0 / c,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_first_and_second_derivatives(name: str) -> None:
    function = FUNCTIONS[name]
    jet = function(*seeds(POINT))

    def number(point: np.ndarray) -> float:
        return float(function(*[np.array(v) for v in point]))

    assert float(jet.value[0, 0]) == pytest.approx(number(POINT), rel=1e-14)
    h = 1e-4
    unit = np.eye(3)
    for i in range(3):
        slope = (number(POINT + h * unit[i]) - number(POINT - h * unit[i])) / (2 * h)
        assert float(np.squeeze(jet.first.get(i, 0.0))) == pytest.approx(slope, abs=2e-7)
        for j in range(i, 3):
            shifts = [(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)]
            mixed = sum(s * number(POINT + h * (p * unit[i] + q * unit[j])) for p, q, s in shifts) / (4 * h * h)
            assert float(np.squeeze(jet.second.get((i, j), 0.0))) == pytest.approx(mixed, abs=5e-6)


def test_where_ignores_the_branch_that_is_not_finite() -> None:
    (a, *_) = seeds(np.array([-1.0, 0.0, 0.0]))
    with np.errstate(all="ignore"):
        chosen = jets.where(a.value > 0, jets.log(a), 2.0 * a)
    assert float(chosen.value[0, 0]) == -2.0
    assert float(chosen.first[0][0, 0]) == 2.0
    assert float(chosen.second[(0, 0)][0, 0]) == 0.0
