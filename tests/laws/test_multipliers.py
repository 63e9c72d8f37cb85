"""Optima, equal-loss quantities and multipliers of every family that defines them, and refusals where none does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from isoloss.laws import (
    LawError,
    Points,
    compute_multiplier,
    data_multiplier,
    fit,
    get_form,
    iso_loss_compute,
    iso_loss_data,
    multiplier_interval,
    optimum,
    surface,
)

OVER = {"a": 150.0, "b": 800.0, "E": 1.8, "h": 0.15}
REPEATS = {"A": 520.0, "B": 1490.0, "E": 1.87, "alpha": 0.35, "r_D": 15.4, "r_N": 5.3}


def as_chinchilla(values: dict[str, float], k: float) -> dict[str, float]:
    """With C = k N D and M = D/N: a M^h C^-h = a k^-h N^-2h, and b M^-h C^-h = b k^-h D^-2h."""
    shrink = k ** -values["h"]
    return {"A": values["a"] * shrink, "B": values["b"] * shrink, "E": values["E"], "alpha": 2 * values["h"]}


@pytest.mark.parametrize("k", [6.0, 8.0])
def test_overtraining_law_is_a_tied_chinchilla_law(k: float) -> None:
    over, tied = get_form("overtraining"), get_form("chinchilla-tied")
    same, C = as_chinchilla(OVER, k), np.array([1e18, 1e21, 1e24])
    one, other = optimum(over, OVER, C, k), optimum(tied, same, C, k)
    for name in ("N", "D", "loss"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-10)
    np.testing.assert_allclose(iso_loss_compute(over, OVER, one["loss"], k), C, rtol=1e-8)
    loss = tied.predict(same, {"N": 1e9, "D": 3e10})
    assert float(iso_loss_data(over, OVER, loss, 1e9, k)) == pytest.approx(3e10, rel=1e-9)
    worse = OVER | {"b": 1000.0}
    assert float(compute_multiplier(over, OVER, over, worse, 1e21, k)) == pytest.approx(
        float(compute_multiplier(tied, same, tied, as_chinchilla(worse, k), 1e21, k)), rel=1e-7
    )
    assert surface(over, OVER, C, k).a == pytest.approx(0.5, abs=1e-9)


def test_laws_of_compute_alone_have_multipliers_in_closed_form() -> None:
    kaplan, m2 = get_form("kaplan-c"), get_form("m2")
    base = {"C_c": 3.2e7, "alpha_C": 0.057}
    half = {"C_c": 1.6e7, "alpha_C": 0.057}
    assert float(compute_multiplier(kaplan, half, kaplan, base, 1e20)) == pytest.approx(2.0, rel=1e-9)
    values, other = {"E": 1.7, "b": 900.0, "c": 0.15}, {"E": 1.7, "b": 1100.0, "c": 0.15}
    ratio = (1100 / 900) ** (1 / 0.15)
    assert float(compute_multiplier(m2, values, m2, other, 1e21, x="C")) == pytest.approx(ratio, rel=1e-8)
    envelope = {"L_inf": 1.7, "A": 900.0, "p": 0.15}
    needed = iso_loss_compute(get_form("envelope"), envelope, 2.5)
    assert float(needed) == pytest.approx((900 / 0.8) ** (1 / 0.15), rel=1e-9)


def test_laws_of_data_alone_need_no_size() -> None:
    nmt = get_form("nmt")
    clean, noisy = {"a": 40.0, "C": 1e-9, "p": 0.28}, {"a": 40.0, "C": 2e-9, "p": 0.28}
    # 1/D + C is equal at equal loss: 1/D' = 1/D + 1e-9 - 2e-9.
    assert float(data_multiplier(nmt, clean, nmt, noisy, D=1e8)) == pytest.approx(1e-8 / (1e-8 - 1e-9), rel=1e-9)
    assert np.isnan(data_multiplier(nmt, clean, nmt, noisy, D=1e10))  # beyond the noisy law's capacity
    kaplan = get_form("kaplan-d")
    loss = kaplan.predict({"D_c": 5.4e13, "alpha_D": 0.095}, {"D": 1e10})
    assert float(iso_loss_data(kaplan, {"D_c": 5.4e13, "alpha_D": 0.095}, loss)) == pytest.approx(1e10, rel=1e-9)


@pytest.mark.parametrize("x", ["C", "D"])
def test_interval_of_a_multiplier_between_one_variable_laws(x: str) -> None:
    """The base curve is the other stretched by five along x: five in every pair of draws, to the last digits."""
    scale = np.geomspace(1e18, 1e22, 40) if x == "C" else np.geomspace(1e8, 1e12, 40)
    loss = (1.7 + 900.0 * scale ** (-0.15 if x == "C" else -0.3)) * np.exp(
        0.002 * np.random.default_rng(0).normal(size=40)
    )
    curves = [Points(**{x: scale, "loss": loss}), Points(**{x: 5.0 * scale, "loss": loss})]
    better, base = (fit(table, "m2", x=x).bootstrap(200) for table in curves)
    place: dict[str, Any] = {"D": 1e10} if x == "D" else {"C": 1e21}
    found = multiplier_interval(better, base, **place)
    assert (found.low, found.estimate, found.high) == pytest.approx((5.0, 5.0, 5.0), rel=1e-5)
    base_again = fit(curves[1], "m2", x=x).bootstrap(200, seed=1)
    unpaired = multiplier_interval(better, base_again, **place)
    assert unpaired.low < 4.99 and unpaired.high > 5.01
    beyond = {"C": 1e30} if x == "C" else {"D": 1e16}  # near the floor: some bases never get there
    assert "draws have no value" in multiplier_interval(better, base_again, **beyond).note
    along = fit(curves[0].with_columns(S=scale), "m2", x="S").bootstrap(20)
    with pytest.raises(LawError, match="different columns"):
        multiplier_interval(along, base, **place)


def test_data_constrained_optimum_is_that_of_a_search() -> None:
    form = get_form("data-constrained-tied")
    found = optimum(form, REPEATS, 1e22, unique=25e9)
    N = np.geomspace(1e8, 1e12, 400_001)
    loss = form.predict(REPEATS, {"N": N, "D": 1e22 / 6 / N, "unique": 25e9})
    assert float(found["N"]) == pytest.approx(N[np.argmin(loss)], rel=1e-4)
    assert float(found["loss"]) == pytest.approx(loss.min(), rel=1e-10)
    plenty = optimum(form, REPEATS, 1e20, unique=1e15)
    fresh = optimum(get_form("chinchilla-tied"), REPEATS, 1e20)
    assert float(plenty["N"]) == pytest.approx(float(fresh["N"]), rel=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optimum(get_form("nmt"), {"a": 2, "C": 1e-9, "p": 0.3}, 1e20), "law of D alone.*not defined"),
        (lambda: optimum(get_form("kaplan-c"), {"C_c": 1e7, "alpha_C": 0.05}, 1e20), "law of C alone"),
        (lambda: optimum(get_form("m2"), {"E": 1, "b": 2, "c": 0.3}, 1e20), "law of x alone"),
        (lambda: optimum(get_form("kaplan-steps"), {}, 1e20), "batch size, which it leaves open"),
        (lambda: optimum(get_form("data-constrained-tied"), REPEATS, 1e22), "give unique=VALUE"),
        (lambda: iso_loss_compute(get_form("data-constrained-tied"), REPEATS, 2.2), "give unique=VALUE"),
        (lambda: iso_loss_compute(get_form("m2"), {"E": 1, "b": 2, "c": 0.3}, 1.5), "x='C' or x='D'"),
        (lambda: iso_loss_compute(get_form("nmt"), {"a": 2, "C": 1e-9, "p": 0.3}, 1.5), "law of D alone"),
        (lambda: iso_loss_data(get_form("kaplan-c"), {"C_c": 1e7, "alpha_C": 0.05}, 2.0), "law of C alone"),
        (lambda: iso_loss_data(get_form("overtraining"), OVER, 2.0), "give N"),
        (lambda: data_multiplier(get_form("nmt"), {}, get_form("nmt"), {}), "give D"),
    ],
)
def test_what_is_not_defined_is_refused_with_the_reason(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(LawError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
