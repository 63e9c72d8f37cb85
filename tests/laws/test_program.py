"""A law written down as steps predicts what the law's own code predicts, and its slope is the slope."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from planted_laws import PLANTED

from isoloss.laws import Form, LawError, coefficient, exponent, get_form
from isoloss.laws.program import Program

PLACES = {"N": np.geomspace(1e6, 1e12, 7), "D": np.geomspace(1e8, 1e13, 7)[::-1], "unique": np.full(7, 3e9)}
PLACES |= {"C": 6 * PLACES["N"] * PLACES["D"], "M": PLACES["D"] / PLACES["N"]}
LAWS = ("chinchilla", "chinchilla-tied", "chinchilla-outer", "kaplan", "overtraining", "data-constrained",
        "data-constrained-tied", "kaplan-n", "kaplan-c")  # fmt: skip


@pytest.mark.parametrize("name", LAWS)
def test_the_steps_predict_what_the_law_predicts(name: str) -> None:
    form, values = get_form(name), PLANTED[name]
    logs = {variable: np.log(PLACES[variable]) for variable in form.variables}
    found, slope = Program.of(form).run(values, logs)
    expected = np.log(form.predict(values, {variable: PLACES[variable] for variable in form.variables}))
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)
    assert slope == 0.0


@pytest.mark.parametrize("name", ["chinchilla", "chinchilla-outer", "kaplan", "overtraining", "data-constrained"])
def test_the_slope_is_that_of_a_small_step(name: str) -> None:
    form, values = get_form(name), PLANTED[name]
    along = {"N": 1.0, "D": -1.0, "C": 0.0, "M": -2.0}
    program = Program.of(form)

    def at(step: float) -> Any:
        return program.run(values, {v: np.log(PLACES[v]) + step * along.get(v, 0.0) for v in form.variables})[0]

    _, slope = program.run(values, {v: np.log(PLACES[v]) for v in form.variables}, along)
    np.testing.assert_allclose(slope, (at(1e-5) - at(-1e-5)) / 2e-5, rtol=1e-5, atol=1e-9)


def test_equal_steps_are_written_once() -> None:
    steps = Program.of(get_form("chinchilla")).steps
    assert len(steps) == len(set(steps))
    assert [step for step in steps if step == ("parameter", "A")] == [("parameter", "A")]


class Own(Form):
    """A user's law in NumPy's words."""

    name, formula = "own", "L = E + (1 + a/N)^p + b / sqrt(D)"
    variables = ("N", "D")
    parameters = (coefficient("E"), coefficient("a", {"N": 1}), coefficient("b", {"D": 0.5}), exponent("p"))

    def log_prediction(self, p: Any, v: Any) -> Any:
        return np.log(p.E + (1.0 + p.a / v.N) ** p.p + p.b * v.D**-0.5)


def test_a_law_of_the_user_is_written_down_too() -> None:
    values = {"E": 1.5, "a": 1e6, "b": 30.0, "p": 0.7}
    found, slope = Program.of(Own()).run(values, {v: np.log(PLACES[v]) for v in "ND"}, {"N": 1.0})
    N, D = PLACES["N"], PLACES["D"]
    loss = 1.5 + (1 + 1e6 / N) ** 0.7 + 30 / np.sqrt(D)
    np.testing.assert_allclose(found, np.log(loss), rtol=1e-13)
    np.testing.assert_allclose(slope, 0.7 * (1 + 1e6 / N) ** -0.3 * (-1e6 / N) / loss, rtol=1e-12)


class Strange(Own):
    """A law that asks for a function nobody can write down."""

    name = "strange"

    def log_prediction(self, p: Any, v: Any) -> Any:
        return np.arctan(p.E) + v.log_N


def test_what_cannot_be_written_down_says_so() -> None:
    with pytest.raises(LawError, match=r"law 'strange' cannot be written down for planning \(numpy\.arctan"):
        Program.of(Strange())
    with pytest.raises(LawError, match="law 'sigmoid' predicts no positive loss"):
        Program.of(get_form("sigmoid"))
