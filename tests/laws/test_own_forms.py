"""A user's own form: what may be left out, and one clear message for every mistake."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest

from isoloss.laws import (
    FORMS,
    Form,
    LawError,
    Parameter,
    Points,
    SumOfPowers,
    Term,
    coefficient,
    exponent,
    fit,
    get_form,
)
from isoloss.laws.form import negative

X = np.geomspace(1e3, 1e6, 20)
TABLE = Points(x=X, loss=2 + 30 * X**-0.5)


class Undeclared(SumOfPowers):
    """No dimension is stated: the term gives it."""

    name = "undeclared"
    formula = "L = E + b x^-c y^0.5"
    variables = ("x", "y")
    parameters = (coefficient("E"), coefficient("b"), exponent("c"))
    terms = (Term("E"), Term("b", {"x": "-c", "y": 0.5}))


def test_dimension_follows_from_the_term() -> None:
    y = np.tile([1e2, 1e4, 1e5, 3e5], 5)
    points = Points(x=X, y=y, loss=2 + 30 * X**-0.5 * y**0.5)
    found = fit(points, Undeclared())
    assert found.parameters == {"E": pytest.approx(2.0), "b": pytest.approx(30.0), "c": pytest.approx(0.5)}
    assert found.predict(x=1e9, y=1e7) == pytest.approx(2 + 30 * 1e9**-0.5 * 1e7**0.5, rel=1e-7)
    assert fit(points, Undeclared(), fixed={"b": 30.0}).parameters["c"] == pytest.approx(0.5)
    assert Undeclared().dimension("b") == {"x": "c", "y": -0.5} and Undeclared().floor == "E"


def test_declared_dimensions_of_the_library_are_those_of_their_terms() -> None:
    sums = [form for form in [*FORMS.values(), get_form("additive:width,D")] if isinstance(form, SumOfPowers)]
    assert len(sums) > 8
    for form in sums:
        form.check_declaration()
        for term in form.terms:
            declared = form.parameter(term.coefficient).dimension
            assert dict(declared) == {variable: negative(power) for variable, power in term.powers.items()}


def power(**changes: Any) -> SumOfPowers:
    """L = E + b x^-c with some part of the declaration changed."""
    whole = {
        "name": "own",
        "parameters": (coefficient("E"), coefficient("b"), exponent("c")),
        "terms": (Term("E"), Term("b", {"x": "-c"})),
    }
    return type("Own", (SumOfPowers,), whole | changes)()


class Decay(Form):
    """L = a exp(-x / s), with guesses that a test replaces."""

    name = "decay"
    parameters = (coefficient("a"), Parameter("s", dimension={"x": 1}, role="scale"))
    guess: ClassVar[dict[str, float]] = {"a": 1.0, "s": 1.0}

    def log_prediction(self, p: Any, v: Any) -> Any:
        return p.log_a - v.x / p.s

    def guesses(self, v: Any, y: np.ndarray) -> list[dict[str, float]]:
        return [self.guess]


def decay(**changes: Any) -> Decay:
    return type("Own", (Decay,), changes)()


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (power(terms=()), "without terms"),
        (power(terms=(Term("F"), Term("b", {"x": "-c"}))), r"unknown coefficient \(in terms of law 'own'\) 'F'"),
        (power(terms=(Term("E"), Term("b", {"z": "-c"}))), r"unknown variable \(in the term of 'b'"),
        (power(terms=(Term("E"), Term("b", {"x": "-d"}))), r"unknown exponent .* 'd'"),
        (power(parameters=(coefficient("E"), coefficient("b"), coefficient("c"))), r"declared as exponent\('c'\)"),
        (power(parameters=(coefficient("E"), exponent("b"), exponent("c"))), r"must be a coefficient\('b'\)"),
        (
            power(parameters=(coefficient("E"), coefficient("b", {"x": "-c"}), exponent("c"))),
            r"declared with dimension \{'x': '-c'\}, but its term gives \{'x': 'c'\}",
        ),
        (power(terms=(Term("b"), Term("b", {"x": "-c"}), Term("E"))), "terms of different dimensions"),
        (power(parameters=(coefficient("E"), coefficient("E"))), "distinct parameters"),
        (power(grids={"cc": (0.1, 1.0)}), "did you mean 'c'"),
        (decay(guess={"a": 1.0}), "guesses.. gives no value for s; every guess names all of a, s"),
        (decay(guess={"a": 1.0, "s": 1.0, "t": 2.0}), r"unknown parameter \(in guesses\(\) of law 'decay'\) 't'"),
        (decay(log_prediction=lambda self, p, v: p.log_a - p.q * v.x), "no parameter or variable 'q'.*a, s"),
        (decay(log_prediction=lambda self, p, v: np.log(p.a + np.exp(-v.x / p.s))), "isoloss.laws.jets in place"),
        (decay(log_prediction=Form.log_prediction), "does not define log_prediction"),
        (decay(parameters=(coefficient("a"), Parameter("s", dimension={"z": 1}))), "unknown variable .* 'z'"),
        (decay(parameters=(coefficient("a"), Parameter("s"))), "state each parameter's dimension"),
        (decay(guesses=Form.guesses), "offers no start"),
    ],
)
def test_mistakes_in_a_form_give_one_clear_message(form: Form, message: str) -> None:
    curve = Points(x=np.linspace(1, 90, 20), loss=3 * np.exp(-np.linspace(1, 90, 20) / 40))
    with pytest.raises(LawError, match=message) as caught:
        fit(curve if isinstance(form, Decay) else TABLE, form, x="x")
    assert "\n" not in str(caught.value)


def test_a_start_must_name_the_parameters_of_the_law() -> None:
    with pytest.raises(LawError, match="did you mean 'E'"):
        fit(TABLE, "m2", x="x", start={"e": 1.0, "b": 1.0, "c": 0.5})
    with pytest.raises(LawError, match="needs parameter 'b'"):
        fit(TABLE, "m2", x="x", start={"E": 1.0})


def test_derived_quantities_of_a_user_do_not_raise() -> None:
    own = power(derived=lambda self: {"half": lambda p: 2.0 ** (1.0 / p["c"])})
    assert own.derived()["half"]({"c": 0.0}) == np.inf
    assert fit(TABLE, own, x="x").derived["half"] == pytest.approx(4.0)
