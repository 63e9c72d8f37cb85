"""Hold-outs, comparisons, allocation and multipliers, many curves at once."""

from __future__ import annotations

import numpy as np
import pytest

from isoloss.laws import (
    FORMS,
    Fit,
    LawError,
    Points,
    compare,
    compute_multiplier,
    data_multiplier,
    envelope,
    fit,
    fit_many,
    get_form,
    holdout,
    iso_loss_compute,
    iso_loss_data,
    isoflop,
    multiplier_interval,
    optimum,
    optimum_intervals,
    surface,
)
from isoloss.laws.allocation import _golden

CHINCHILLA = get_form("chinchilla")
TRUTH = {"A": 477.8, "B": 2143.0, "E": 1.817, "alpha": 0.3473, "beta": 0.3672}


@pytest.mark.parametrize(("by", "worst"), [("C", 0.014), ("N", 0.015), ("D", 0.015)])
def test_holdout_of_the_largest_scale(epoch: Points, by: str, worst: float) -> None:
    found = holdout(epoch, "chinchilla", by=by, n=200)
    values = np.array([row[by] for row in found.rows])
    assert values.min() > found.threshold >= found.fit.points.column(by).max()
    assert len(found.rows) + len(found.fit.points) == 240
    actual, predicted = (np.array([row[key] for row in found.rows]) for key in ("actual", "predicted"))
    assert found.rmse == pytest.approx(float(np.sqrt(np.mean(np.log(predicted / actual) ** 2))), rel=1e-9)
    assert found.rmse < worst
    assert found.coverage >= 0.8
    assert found.rmse < 0.5 * min(found.baselines.values())


def test_calibrated_bands_cover_where_bootstrap_bands_do_not(epoch: Points) -> None:
    """Cut-offs at which bootstrap plus residual covered 0.81 to 0.48 at a nominal 0.9."""
    for above in (3e19, 1e20, 3e20, 1e21):
        assert holdout(epoch, "chinchilla", by="C", above=above, n=200).coverage >= 0.85


def test_nothing_of_the_held_out_block_is_used(epoch: Points) -> None:
    first = holdout(epoch, "chinchilla", by="C", above=1e21, n=50)
    spoiled = epoch.with_columns(loss=np.where(epoch.C > 1e21, 9.0, epoch.loss))
    second = holdout(spoiled, "chinchilla", by="C", above=1e21, n=50)
    assert first.fit.parameters == second.fit.parameters
    assert [row["low"] for row in first.rows] == [row["low"] for row in second.rows]


def test_holdout_refuses_impossible_splits(epoch: Points) -> None:
    with pytest.raises(LawError, match="leaves 240 rows to fit and 0 to predict"):
        holdout(epoch, "chinchilla", by="C", above=1e30)
    with pytest.raises(LawError, match="unknown column"):
        holdout(epoch, "chinchilla", by="Q")
    with pytest.raises(LawError, match="between 0 and 1"):
        holdout(epoch, "chinchilla", by="C", top=2.0)


def test_holdout_works_below_three_clusters() -> None:
    N, D = (g.ravel() for g in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 6)))
    loss = CHINCHILLA.predict(TRUTH, {"N": N, "D": D}) * np.exp(0.003 * np.random.default_rng(0).normal(size=30))
    found = holdout(Points(N=N, D=D, loss=loss, cluster=["one"] * 30), "chinchilla", by="D")
    assert all(row["low"] < row["predicted"] < row["high"] for row in found.rows)


def test_comparison_chooses_on_fit_rows_and_reports_failures(epoch: Points) -> None:
    found = compare(epoch, ["chinchilla", "kaplan", "m2", "data-constrained"], by="C", x="C", n=50)
    scores = [row["rolling_rmse"] for row in found.ranking]
    assert scores == sorted(scores)
    assert found.best == "chinchilla"
    assert "unique" in found.ranking[-1]["failed"]


def test_closed_form_optimum_is_the_numerical_one() -> None:
    C = np.array([1e18, 1e21, 1e25])
    closed = optimum(CHINCHILLA, TRUTH, C)
    for budget, size in zip(C, closed["N"], strict=True):
        log_n = np.linspace(np.log(size) - 1, np.log(size) + 1, 200_001)
        loss = CHINCHILLA.predict(TRUTH, {"N": np.exp(log_n), "D": budget / 6 / np.exp(log_n)})
        assert log_n[np.argmin(loss)] == pytest.approx(np.log(size), abs=2e-5)
    np.testing.assert_allclose(6 * closed["N"] * closed["D"], C, rtol=1e-12)
    outer = optimum(get_form("chinchilla-outer"), {**TRUTH, "gamma": 1.0}, C)  # searched, not closed
    np.testing.assert_allclose(outer["N"], closed["N"], rtol=1e-6)
    assert float(_golden(lambda x: (x - 0.3) ** 2, -5.0, 5.0)) == pytest.approx(0.3, abs=1e-7)


def test_iso_loss_quantities_invert_the_law() -> None:
    C = np.array([1e20, 1e23])
    loss = optimum(CHINCHILLA, TRUTH, C)["loss"]
    np.testing.assert_allclose(iso_loss_compute(CHINCHILLA, TRUTH, loss), C, rtol=1e-8)
    assert np.isnan(iso_loss_compute(CHINCHILLA, TRUTH, 1.8))  # below the floor
    target = CHINCHILLA.predict(TRUTH, {"N": 1e9, "D": 3e10})
    assert float(iso_loss_data(CHINCHILLA, TRUTH, target, 1e9)) == pytest.approx(3e10, rel=1e-9)


def test_multipliers_of_a_method_that_makes_data_worth_twice() -> None:
    better = {**TRUTH, "B": TRUTH["B"] * 2 ** -TRUTH["beta"]}
    twice = data_multiplier(CHINCHILLA, better, CHINCHILLA, TRUTH, 1e9, np.array([1e9, 1e11]))
    np.testing.assert_allclose(twice, 2.0, rtol=1e-8)
    same = compute_multiplier(CHINCHILLA, TRUTH, CHINCHILLA, TRUTH, 1e22)
    assert float(same) == pytest.approx(1.0, rel=1e-8)
    assert 1.0 < float(compute_multiplier(CHINCHILLA, better, CHINCHILLA, TRUTH, 1e22)) < 2.1


def test_intervals_of_optimum_and_multiplier(epoch_fit: Fit, epoch: Points) -> None:
    draws = epoch_fit.bootstrap(100)
    found = optimum_intervals(draws, 1e24)
    for interval in found.values():
        assert interval.low < interval.estimate < interval.high
    better = fit(epoch.with_columns(loss=epoch.loss * 0.99), "chinchilla").bootstrap(100)
    ratio = multiplier_interval(better, draws, C=1e22)
    assert 1.0 < ratio.low < ratio.estimate < ratio.high
    data = multiplier_interval(better, draws, N=1e9, D=2e10)
    assert 1.0 < data.low < data.estimate < data.high
    with pytest.raises(LawError, match="either C"):
        multiplier_interval(better, draws)


def test_three_approaches_on_a_known_surface() -> None:
    """Equal exponents and centred grids: all three find 1/2; unequal ones bias only the views."""
    even = {"A": 400.0, "B": 400.0 * 20**0.34, "E": 1.7, "alpha": 0.34, "beta": 0.34}
    budgets = np.geomspace(1e19, 1e22, 7)
    C, spread = (g.ravel() for g in np.meshgrid(budgets, np.geomspace(0.3, 3.0, 9), indexing="ij"))
    N = optimum(CHINCHILLA, even, C)["N"] * spread
    points = Points(N=N, D=C / 6 / N, C=C, loss=CHINCHILLA.predict(even, {"N": N, "D": C / 6 / N}))
    parabola, edge = isoflop(points), envelope(points, bins=7)
    assert parabola.a == pytest.approx(0.5, abs=1e-6)
    assert edge.a == pytest.approx(0.5, abs=0.02)
    fitted = fit(points, "chinchilla")
    assert surface(fitted.form, fitted.parameters, budgets).a == pytest.approx(0.5, abs=1e-6)
    assert "biased" in parabola.note
    with pytest.raises(LawError):
        isoflop(points.where(np.arange(9)))


def test_many_curves_at_once_equal_one_by_one() -> None:
    rng = np.random.default_rng(0)
    tables = []
    for k in range(12):
        x = np.geomspace(100, 1e5, 12 + k)
        loss = (1 + k / 10 + 20 * x ** -(0.3 + 0.02 * k)) * np.exp(0.005 * rng.normal(size=len(x)))
        tables.append(Points(D=x, loss=loss))
    together = fit_many(tables, "m2", x="D")
    for table, found in zip(tables, together, strict=True):
        alone = fit(table, "m2", x="D")
        assert found["objective"] == pytest.approx(alone.objective, rel=1e-9)
        assert found["E"] == pytest.approx(alone.parameters["E"], rel=1e-5)
    assert fit_many([], "m2", x="D") == []


def test_every_law_names_its_source() -> None:
    for name, form in FORMS.items():
        assert form.source and form.formula and form.__doc__, name
        assert name == form.name


def test_allocation_follows_the_compute_of_the_table(epoch: Points) -> None:
    """C counted as 8 N D: the optimum of C is that of 0.75 C under 6 N D."""
    six = fit(epoch, "chinchilla").bootstrap(20)
    eight = fit(epoch.with_columns(C=8 * epoch.N * epoch.D), "chinchilla").bootstrap(20)
    found = optimum_intervals(eight, 1e24)
    assert found["N"].estimate == pytest.approx(optimum_intervals(six, 0.75e24)["N"].estimate, rel=1e-9)
    # The same loss costs 8/6 as much where every product of N and D does.
    assert multiplier_interval(six, eight, C=1e22).estimate == pytest.approx(8 / 6, rel=1e-6)


def test_more_rows_cannot_be_dropped_than_there_are(epoch: Points) -> None:
    with pytest.raises(LawError, match="the table has 240 rows"):
        epoch.drop_largest_loss(240)


def test_a_law_without_slopes_has_no_optimum_and_does_not_raise() -> None:
    flat = {"A": 1e-6, "B": 1e-6, "E": 2.5, "alpha": 0.0, "beta": 0.0}
    assert not np.isfinite(optimum(CHINCHILLA, flat, 1e22)["N"])
