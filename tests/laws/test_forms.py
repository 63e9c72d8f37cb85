"""Published values of every family, and recovery of planted parameters by every form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.laws.planted_laws import PLANTED, REPEATS

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
    register,
)
from isoloss.laws.forms import batch, kaplan, one_variable, transfer


def design(form: Form) -> dict[str, np.ndarray]:
    """Rows wide enough for every form."""
    N, D = (g.ravel() for g in np.meshgrid(np.geomspace(5e7, 1e10, 9), np.geomspace(1e9, 3e11, 9), indexing="ij"))
    if form.variables == ("x",):
        accuracy = form.response in ("accuracy", "error")
        return {"x": np.linspace(0.5, 2.0, 60) if accuracy else np.geomspace(1e6, 1e10, 60)}
    if form.variables == ("width", "depth", "D"):
        rng = np.random.default_rng(0)
        return {"width": rng.choice([64, 128, 256, 512, 1024], 81).astype(float),
                "depth": rng.choice([2, 4, 8, 16, 32], 81).astype(float), "D": D}  # fmt: skip
    columns = {
        "N": N, "D": D, "C": 6 * N * D, "M": D / N, "D_F": D / 1e4, "loss": np.linspace(2, 5, 81),
        "unique": np.minimum(D, np.tile([5e8, 4e9, 3e10], 27)),
        "S": np.tile(np.geomspace(1e3, 1e6, 9), 9), "B": np.geomspace(1e2, 1e6, 81),
    }  # fmt: skip
    return {name: columns[name] for name in form.variables}


def planted_points(form: Form, noise: float = 0.0) -> Points:
    variables = design(form)
    response = form.predict(PLANTED[form.name], variables)
    if noise:
        wiggle = np.random.default_rng(7).normal(size=response.shape) * noise
        response = form.from_space(form.to_space(response) + wiggle)
    return Points(**{**variables, form.response: response})


def fit_planted(name: str, noise: float = 0.0, **options: Any) -> Any:
    form = get_form(name)
    if form.variables == ("x",):
        options["x"] = "x"
    if name == "envelope":
        options["fixed"] = {"L_inf": PLANTED[name]["L_inf"]}
    return fit(planted_points(form, noise), form, **options)


def test_every_form_is_planted() -> None:
    assert set(FORMS) <= set(PLANTED)


@pytest.mark.parametrize("name", PLANTED)
def test_planted_parameters_are_recovered(name: str) -> None:
    found = fit_planted(name)
    assert found.converged
    for parameter, value in PLANTED[name].items():
        assert found.parameters[parameter] == pytest.approx(value, rel=1e-6), parameter


@pytest.mark.parametrize("name", sorted(set(PLANTED) - {"bnsl-2", "m4", "chinchilla-outer"}))
def test_noise_moves_the_prediction_by_less_than_itself(name: str) -> None:
    """With 0.2 % noise the fitted curve stays within 0.2 % of the planted one (rms): far below
    overfitting."""
    form = get_form(name)
    found = fit_planted(name, noise=2e-3, loss="squared")
    truth = form.to_space(form.predict(PLANTED[name], design(form)))
    guess = form.to_space(form.predict(found.parameters, design(form)))
    assert float(np.sqrt(np.mean((truth - guess) ** 2))) < 2e-3


def test_kaplan_unit_values() -> None:
    def value(name: str, parameters: dict[str, float], **at: float) -> float:
        return float(get_form(name).predict(parameters, at))

    critical = {5: "9.39e+04", 4: "2.72e+05", 3.5: "5.13e+05", 3: "1.07e+06", 2.5: "2.55e+06", 2: "7.37e+06"}
    assert {loss: f"{batch.critical_batch(loss):.2e}" for loss in critical} == critical
    sizes = {1e6: "4.016", 1e7: "3.371", 1e8: "2.830", 1e9: "2.376"}
    assert {n: f"{value('kaplan-n', kaplan.SINGLE['kaplan-n'], N=n):.3f}" for n in sizes} == sizes
    tokens = {22e6: "4.046", 1e8: "3.504", 1e9: "2.816", 2.2e10: "2.099"}
    assert {d: f"{value('kaplan-d', kaplan.SINGLE['kaplan-d'], D=d):.3f}" for d in tokens} == tokens
    joint = {(1e8, 1e9): "2.957", (1e9, 1e9): "2.794", (1e8, 1e10): "2.788"}
    assert {k: f"{value('kaplan', kaplan.JOINT, N=k[0], D=k[1]):.3f}" for k in joint} == joint
    steps = {(1e8, 1e4): "3.108", (1e8, 1e5): "2.856"}
    assert {k: f"{value('kaplan-steps', kaplan.STEPS, N=k[0], S=k[1]):.3f}" for k in steps} == steps
    assert [f"{kaplan.tokens_against_overfitting(n):.2e}" for n in (1e8, 1e9)] == ["4.16e+09", "2.29e+10"]
    assert [f"{kaplan.learning_rate(n):.2e}" for n in (1e6, 1e8, 1e9)] == ["1.31e-03", "6.69e-04", "3.48e-04"]


def test_critical_batch_meets_the_hyperbola() -> None:
    """At B_crit one uses 2 S_min steps and 2 E_min examples; minimum steps and compute are consistent."""
    form, values = get_form("steps-examples"), {"S_min": 1e3, "E_min": 5e7}
    b_crit = form.derived()["B_crit"](values)
    assert float(form.predict(values, {"B": b_crit})) == pytest.approx(2e3)
    batches = np.geomspace(1e2, 1e7, 9)
    steps = form.predict(values, {"B": batches})
    np.testing.assert_allclose((steps / 1e3 - 1) * (batches * steps / 5e7 - 1), 1.0, rtol=1e-9)
    np.testing.assert_allclose(batch.minimum_steps(steps, batches, b_crit), 1e3, rtol=1e-12)
    np.testing.assert_allclose(batch.minimum_compute(batches * steps, batches, b_crit), 5e7, rtol=1e-12)


def test_transfer_unit_values() -> None:
    def printed(parameters: dict[str, float], d: float, n: float) -> str:
        return f"{float(transfer.data_transferred(parameters, d, n)):.2e}"

    assert printed(transfer.TEXT, 3e5, 4e7) == "1.42e+08"
    places = [(1e5, 1e6), (1e6, 1e8), (1e7, 1e9)]
    assert [printed(transfer.TEXT, d, n) for d, n in places] == ["2.88e+07", "2.50e+08", "9.09e+08"]
    assert [printed(transfer.TEXT_AND_CODE, d, n) for d, n in places] == ["1.21e+08", "8.67e+08", "2.60e+09"]
    assert [printed(p, 1.0, 1.75e11) for p in (transfer.TEXT, transfer.TEXT_AND_CODE)] == [
        "3.56e+08",
        "3.93e+09",
    ]
    growth = [
        float(transfer.data_transferred(p, 300, 1e9) / transfer.data_transferred(p, 1, 1e9))
        for p in (transfer.TEXT, transfer.TEXT_AND_CODE)
    ]
    assert [f"{g:.2f}" for g in growth] == ["2.79", "1.73"]
    d_t = float(transfer.data_transferred(transfer.TEXT, 1e7, 1e9))
    assert f"{(1e7 + d_t) / 1e7:.1f}" == "91.9"
    assert float(transfer.transfer_fraction(transfer.TEXT, 1e7, 1e9)) == pytest.approx(d_t / (1e7 + d_t), rel=1e-12)


def test_fit_of_fits_and_inverted_curve() -> None:
    D_F, N = (g.ravel() for g in np.meshgrid([1e4, 1e5, 1e6], np.geomspace(1e6, 1e9, 5)))
    found = transfer.fit_of_fits(D_F, N, transfer.transfer_fraction(transfer.TEXT, D_F, N))
    assert found == {name: pytest.approx(value, rel=1e-9) for name, value in transfer.TEXT.items()}
    D = np.geomspace(1e6, 1e9, 30)
    curve = 2.0 + 50 * D**-0.25
    np.testing.assert_allclose(transfer.effective_data(D, curve, 2.0 + 50 * 3e7**-0.25), 3e7, rtol=1e-3)
    with pytest.raises(LawError, match="no extrapolation"):
        transfer.effective_data(D, curve, 1.9)
    combined = transfer.loss_after_transfer(transfer.TEXT, kaplan.JOINT, 1e6, 1e8)
    direct = get_form("kaplan").predict(
        kaplan.JOINT, {"N": 1e8, "D": transfer.data_transferred(transfer.TEXT, 1e6, 1e8)}
    )
    assert float(combined) == pytest.approx(float(direct), rel=1e-12)


def test_data_constrained_values() -> None:
    """The two configurations of figure 1 (right), printed in the authors' own README."""
    for name, values in (
        ("data-constrained-tied", REPEATS),
        ("data-constrained", REPEATS | {"beta": REPEATS["alpha"]}),
    ):
        form = get_form(name)
        first = form.predict(values, {"N": 6.34e9, "D": 242e9, "unique": 25e9})
        second = form.predict(values, {"N": 8.67e9, "D": 178e9, "unique": 25e9})
        assert float(first) == pytest.approx(2.2256440889984477, abs=1e-12)
        assert float(second) == pytest.approx(2.2269634075087867, abs=1e-12)


def test_data_constrained_without_repeats_is_chinchilla() -> None:
    values = {**REPEATS, "beta": 0.37}
    N, D = 1e7, 1e11  # far fewer parameters than optimal for D: nothing is in excess
    plain = get_form("chinchilla").predict(values, {"N": N, "D": D})
    assert float(get_form("data-constrained").predict(values, {"N": N, "D": D, "unique": D})) == pytest.approx(
        float(plain), rel=1e-12
    )


def test_m4_solves_its_equation() -> None:
    values = PLANTED["m4"]
    x = np.geomspace(1e2, 1e10, 50)
    loss = get_form("m4").predict(values, {"x": x})
    left = (loss - values["E"]) / (values["L0"] - loss) ** values["a"]
    np.testing.assert_allclose(left, values["b"] * x ** -values["c"], rtol=1e-9)


def test_ppl_is_smooth_at_the_join_and_straight_beyond() -> None:
    values = PLANTED["ppl"]
    form, X = get_form("ppl"), values["X"]
    log = lambda x: np.log(form.predict(values, {"x": x}))  # noqa: E731
    slope = lambda x: (log(x * 1.001) - log(x / 1.001)) / (2 * np.log(1.001))  # noqa: E731
    assert slope(X * 0.999) == pytest.approx(slope(X * 1.001), abs=1e-4)
    assert slope(X * 10) == pytest.approx(slope(X * 1000), abs=1e-9)
    assert slope(X / 10) != pytest.approx(slope(X / 1000), abs=1e-3)


def test_bnsl_without_break_is_m2() -> None:
    x = np.geomspace(1e3, 1e9, 20)
    broken = get_form("bnsl-1").predict({"a": 1.5, "b": 30, "c0": 0.2, "c1": 0.0, "d1": 1e6, "f1": 0.3}, {"x": x})
    np.testing.assert_allclose(broken, get_form("m2").predict({"E": 1.5, "b": 30, "c": 0.2}, {"x": x}), rtol=1e-12)


def test_overtraining_is_chinchilla_with_tied_exponents() -> None:
    N, D = np.geomspace(1e7, 1e10, 7), np.geomspace(1e10, 1e11, 7)
    tied = {"A": 400.0, "B": 1500.0, "E": 1.8, "alpha": 0.3}
    h = tied["alpha"] / 2
    same = {"a": tied["A"] * 6**h, "b": tied["B"] * 6**h, "E": 1.8, "h": h}
    mine = get_form("overtraining").predict(same, {"C": 6 * N * D, "M": D / N})
    np.testing.assert_allclose(mine, get_form("chinchilla-tied").predict(tied, {"N": N, "D": D}), rtol=1e-12)


def test_envelope_speed_up() -> None:
    values = PLANTED["envelope"]
    slow, fast = (get_form("envelope").predict(values, {"C": c}) for c in (1e20, 4e20))
    assert float(one_variable.speed_up(values, slow, fast)) == pytest.approx(4.0, rel=1e-9)


def test_growth_laws_are_told_apart_by_their_rmse() -> None:
    t = np.geomspace(10, 1e5, 40)
    rng = np.random.default_rng(0)
    slow = Points(S=t, distance=(1.3 * np.log(t) + 0.4) * np.exp(0.01 * rng.normal(size=40)))
    assert fit(slow, "log-growth").rmse < 0.5 * fit(slow, "power-growth").rmse
    fast = Points(S=t, distance=0.7 * t**0.5 * np.exp(0.01 * rng.normal(size=40)))
    assert fit(fast, "power-growth").rmse < 0.5 * fit(fast, "log-growth").rmse


class Offset(Form):
    """A user's law in one class, with nothing but its log-prediction and one guess."""

    name = "test-offset"
    formula = "L = a + b exp(-x / s)"
    parameters = (coefficient("a"), coefficient("b"), Parameter("s", dimension={"x": 1}, role="scale"))

    def log_prediction(self, p: Any, v: Any) -> Any:
        from isoloss.laws.jets import exp, log

        return log(p.a + p.b * exp(-1.0 * (v.x / p.s)))

    def guesses(self, v: Any, y: np.ndarray) -> list[dict[str, float]]:
        return [{"a": float(y.min()) * 0.9, "b": float(np.ptp(y)) + 0.1, "s": 1.0}]


class Pair(SumOfPowers):
    """A user's sum of powers needs its terms only."""

    name = "test-pair"
    formula = "L = a x^-c + b y^-c"
    variables = ("x", "y")
    parameters = (coefficient("a", {"x": "c"}), coefficient("b", {"y": "c"}), exponent("c"))
    terms = (Term("a", {"x": "-c"}), Term("b", {"y": "-c"}))


def test_a_user_adds_a_form_in_one_class() -> None:
    x = np.linspace(1, 200, 40)
    found = fit(Points(x=x, loss=1.5 + 2.0 * np.exp(-x / 40)), Offset(), x="x")
    assert found.parameters == {"a": pytest.approx(1.5), "b": pytest.approx(2.0), "s": pytest.approx(40.0)}
    y = np.tile([1.0, 10.0], 20)
    pair = fit(Points(x=x, y=y, loss=3 * x**-0.4 + 2 * y**-0.4), Pair())
    assert pair.parameters == {"a": pytest.approx(3.0), "b": pytest.approx(2.0), "c": pytest.approx(0.4)}


def test_registration_refuses_a_taken_name() -> None:
    class Again(Pair):
        name = "chinchilla"

    with pytest.raises(LawError, match="exists already"):
        register(Again())
