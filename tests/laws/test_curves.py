"""The 92 learning curves: published estimators, default forecasts and the coverage of their bands."""

from __future__ import annotations

import time

import numpy as np
import pytest
from curve_data import Curve

from isoloss.laws import LawError, Points, extrapolate, fit, get_form, published_estimate


def rmse(predicted: np.ndarray, observed: np.ndarray) -> float:
    return float(np.sqrt(np.mean((np.log(predicted) - np.log(observed)) ** 2)))


@pytest.mark.parametrize(("estimator", "agreeing"), [("m1", 92), ("m2", 88), ("m3", 92)])
def test_published_estimators_give_the_reference_table(
    curves: list[Curve], reference_rmse: dict[tuple[str, str, str, str], float], estimator: str, agreeing: int
) -> None:
    """Within 2 % by curve and in the median; four M2 curves of the reference never converged."""
    form = get_form(estimator)
    pairs = []
    for curve in curves:
        values = published_estimate(curve.x, curve.loss, estimator)
        mine = rmse(form.predict(values, {"x": curve.later_x}), curve.later_loss)
        pairs.append((mine, reference_rmse[(*curve.key, estimator.upper())]))
    table = np.array(pairs)
    assert len(table) == 92
    assert int((np.abs(table[:, 0] / table[:, 1] - 1) < 0.02).sum()) >= agreeing
    mine, reference = np.median(table, axis=0)
    assert mine == pytest.approx(reference, rel=0.02)
    assert table[:, 0].mean() == pytest.approx(table[:, 1].mean(), rel=0.02)


def test_m1_fit_is_the_reference(curves: list[Curve], reference_rmse: dict[tuple[str, str, str, str], float]) -> None:
    for curve in curves[::9]:
        found = fit(Points(D=curve.x, loss=curve.loss), "m1", x="D", loss="squared")
        mine = rmse(found.predict(D=curve.later_x), curve.later_loss)
        assert mine == pytest.approx(reference_rmse[(*curve.key, "M1")], rel=1e-6)


def test_default_forecast_and_its_band(curves: list[Curve]) -> None:
    """Form and window are chosen, and the band calibrated, on fit rows only."""
    errors, covered, inside, total = [], [], 0, 0
    for curve in curves:
        found = extrapolate(curve.x, curve.loss)
        low, middle, high = found.band(curve.later_x, level=0.9)
        errors.append(rmse(middle, curve.later_loss))
        hit = (curve.later_loss >= low) & (curve.later_loss <= high)
        covered.append(hit.mean())
        inside, total = inside + int(hit.sum()), total + len(hit)
    assert np.median(errors) <= 0.025
    assert 0.85 <= np.mean(covered) <= 0.95
    assert 0.85 <= inside / total <= 0.95


def test_forecast_beats_the_baselines_in_the_median(curves: list[Curve]) -> None:
    mine, last, power = [], [], []
    for curve in curves:
        mine.append(rmse(extrapolate(curve.x, curve.loss).predict(curve.later_x), curve.later_loss))
        last.append(rmse(np.full_like(curve.later_loss, curve.loss[-1]), curve.later_loss))
        values = published_estimate(curve.x, curve.loss, "m1")
        power.append(rmse(get_form("m1").predict(values, {"x": curve.later_x}), curve.later_loss))
    assert np.median(mine) < 0.5 * np.median(last)
    assert np.median(mine) < 0.5 * np.median(power)


def test_forecast_of_an_exact_law() -> None:
    x = np.geomspace(100, 1e5, 80)
    found = extrapolate(x, 2.0 + 30.0 * x**-0.5)
    assert found.predict(1e6) == pytest.approx(2.03, rel=2e-3)
    low, middle, high = found.band(np.array([2e5, 1e6]))
    widths = np.log(high / low)
    assert (low < middle).all() and (middle < high).all()
    assert widths[1] > widths[0]


def test_forecast_only_sees_the_given_rows_and_averages_repeats() -> None:
    x = np.geomspace(10, 1e4, 40)
    rng = np.random.default_rng(0)
    y = (1.5 + 8 * x**-0.4) * np.exp(0.01 * rng.normal(size=40))
    order = rng.permutation(40)
    plain, mixed = extrapolate(x, y), extrapolate(x[order], y[order])
    assert mixed.predict(1e5) == pytest.approx(plain.predict(1e5), rel=1e-12)
    twice = extrapolate(np.repeat(x, 2), np.repeat(y, 2))
    assert twice.predict(1e5) == pytest.approx(plain.predict(1e5), rel=1e-9)


def test_forecast_of_a_long_curve_is_quick() -> None:
    x = np.arange(1.0, 20001.0)
    y = 2 + 5 * x**-0.3
    extrapolate(x, y)
    begin = time.process_time()
    for _ in range(10):
        extrapolate(x, y)
    assert (time.process_time() - begin) / 10 < 0.02


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1, 2, 3], [3, 2, 1], "at least 7"),
        ([1, 2, 3, 4, 5, 6, 0], [7, 6, 5, 4, 3, 2, 1], "positive"),
        ([1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, float("nan")], "finite"),
        ([1, 2, 3], [1, 2], "one length"),
    ],
)
def test_forecast_refuses_bad_curves(x: list[float], y: list[float], message: str) -> None:
    with pytest.raises(LawError, match=message):
        extrapolate(x, y)


def test_band_next_to_the_last_row_holds_the_noise_of_a_row() -> None:
    """Short noisy curves: error that only grows with distance held a quarter of the new rows here."""
    rng = np.random.default_rng(0)
    x, later = np.geomspace(1e3, 1e5, 15), 1.02e5
    inside = 0
    for _ in range(200):
        found = extrapolate(x, (1.8 + 50 * x**-0.4) * np.exp(0.01 * rng.normal(size=15)))
        low, _, high = found.band(later)
        inside += int(low <= (1.8 + 50 * later**-0.4) * np.exp(0.01 * rng.normal()) <= high)
    assert inside / 200 > 0.7


def test_a_rising_curve_is_forecast_with_a_warning() -> None:
    x = np.geomspace(100, 1e5, 40)
    noise = np.exp(0.002 * np.random.default_rng(0).normal(size=40))
    assert "rise" in extrapolate(x, (2 + 0.3 * np.log(x)) * noise).warnings[0]
    assert not extrapolate(x, (2 + 30 * x**-0.5) * noise).warnings
