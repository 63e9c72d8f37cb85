"""Resamples that cannot determine the law, failed draws, the numbers of draws, and what intervals say."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from isoloss.laws import Fit, LawError, Points, fit, get_form, multiplier_interval
from isoloss.laws.bootstrap import determines
from isoloss.laws.design import synthetic

CHINCHILLA = get_form("chinchilla")
TRUTH = {"A": 60.0, "B": 500.0, "E": 1.6, "alpha": 0.25, "beta": 0.35}


def grid(sizes: int, noise: float = 0.003, seed: int = 0) -> Points:
    """`sizes` model sizes x 4 durations x 2 repeats."""
    N, D, _ = (g.ravel() for g in np.meshgrid(np.geomspace(1e5, 1e7, sizes), np.geomspace(2e6, 2e8, 4), [0, 1]))
    rng = np.random.default_rng(seed)
    return Points(N=N, D=D, loss=CHINCHILLA.predict(TRUTH, {"N": N, "D": D}) * np.exp(noise * rng.normal(size=len(N))))


@pytest.fixture(scope="module")
def four() -> Fit:
    return fit(grid(4), "chinchilla", delta=1e-2)


def test_rank_of_a_resample_is_that_of_its_derivatives(four: Fit) -> None:
    """The derivatives of L by its parameters, written out here, on random handfuls of rows."""
    points, p = four.points, four.parameters
    x, y = np.log(points.N / np.exp(np.log(points.N).mean())), np.log(points.D / np.exp(np.log(points.D).mean()))
    size, data = np.exp(-p["alpha"] * x), np.exp(-p["beta"] * y)
    slopes = np.stack([size, size * x, data, data * y, np.ones_like(x)], axis=1)
    rng = np.random.default_rng(0)
    weight = np.stack(
        [np.bincount(rng.choice(len(x), k, replace=True), minlength=len(x)) for k in rng.integers(4, 12, 300)]
    )
    expected = np.array([np.linalg.matrix_rank(slopes[w > 0]) == 5 for w in weight])
    assert 50 < expected.sum() < 250
    np.testing.assert_array_equal(determines(four, weight.astype(float)), expected)


def test_a_law_with_a_floor_needs_three_sizes(four: Fit) -> None:
    groups, _ = four.points.clusters("N")
    for present in product((0.0, 1.0), repeat=4):
        assert determines(four, np.array([present])[:, groups])[0] == (sum(present) >= 3)


def test_resamples_that_cannot_determine_the_law_are_drawn_again(four: Fit) -> None:
    """Four sizes with replacement leave one or two of them in 88 of 256 cases."""
    draws = four.bootstrap(600)
    assert draws.failed == 0 and len(draws) == 600
    assert draws.redrawn / (600 + draws.redrawn) == pytest.approx(88 / 256, abs=0.05)
    assert draws.index[-1] == 599 + draws.redrawn and (np.diff(draws.index) > 0).all()
    assert f"{draws.redrawn} of {600 + draws.redrawn} resamples" in " ".join(draws.notes)
    assert fit(grid(12), "chinchilla", delta=1e-2).bootstrap(200).redrawn == 0


def test_three_sizes_give_no_interval() -> None:
    """Only the table itself determines the law (21 of 27 resamples do not): every draw would be the fit."""
    with pytest.raises(LawError, match=r"7[6-9]% of the resamples of 3 clusters by N .* law 'chinchilla'"):
        fit(grid(3), "chinchilla", delta=1e-2).bootstrap(2000)
    assert fit(grid(3), "chinchilla", delta=1e-2, fixed={"E": 1.6}).bootstrap(200).interval("alpha").low > 0


def test_numbers_of_draws_name_their_resamples(four: Fit) -> None:
    """Draw number k is the k-th multinomial of the seed: refitted with those weights it gives the same values."""
    draws = four.bootstrap(40, seed=3)
    counts = np.random.default_rng(3).multinomial(4, np.full(4, 0.25), size=400)
    groups, _ = four.points.clusters("N")
    for k in (0, 7, 23, 39):
        table = four.points.with_columns(weight=counts[draws.index[k]][groups].astype(float))
        fresh = fit(table, "chinchilla", delta=1e-2)
        assert draws.parameters["alpha"][k] == pytest.approx(fresh.parameters["alpha"], rel=1e-5)


def test_multipliers_pair_draws_by_number(four: Fit) -> None:
    """Of one law and itself the multiplier is one in every pair, whichever draws failed on either side."""
    draws = four.bootstrap(60)
    keep = np.arange(60) % 30 != 4
    fewer = replace(
        draws,
        parameters={name: values[keep] for name, values in draws.parameters.items()},
        index=draws.index[keep],
        failed=2,
    )
    found = multiplier_interval(fewer, draws, C=1e18)
    assert tuple(found) == pytest.approx((1.0, 1.0), rel=1e-9)
    exact = fit(grid(4).where(np.array([0, 5, 10, 15, 16])), "chinchilla", fixed={})
    with pytest.raises(LawError, match="5 rows and 5 free parameters"):
        multiplier_interval(draws, replace(draws, fit=exact), C=1e18)


def test_draws_are_the_fits_of_their_resamples_even_where_the_solver_creeps() -> None:
    """The study whose draws went unsolved: a narrow Huber loss, three clusters, ten different resamples."""
    N, D, s = (g.ravel() for g in np.meshgrid([1e5, 2.4e5, 5.4e5, 9.6e5], [2e6, 4e6, 8e6], [0, 1, 2], indexing="ij"))
    plan = Points(N=N, D=D, cluster=[f"seed {int(k)}" for k in s])
    y = synthetic(plan, CHINCHILLA, TRUTH, np.random.default_rng(0), 0.004, 0.004, "cluster", replicates=6)
    failed = 0
    for k, row in enumerate(y):
        found = fit(plan.with_columns(loss=np.exp(row)), "chinchilla", cluster="cluster")
        draws = found.bootstrap(40, k)
        failed += draws.failed
        assert len(np.unique(draws.parameters["alpha"].round(9))) <= 10
    assert failed == 0


def test_too_many_failed_draws_give_no_interval(four: Fit) -> None:
    draws = four.bootstrap(100)
    few = replace(draws, failed=5)
    assert few.interval("alpha") and "5 of 105 draws had no solution" in " ".join(few.notes)
    with pytest.raises(LawError, match="6 of 106 bootstrap draws had no solution"):
        replace(draws, failed=6).interval("alpha")


def test_no_degree_of_freedom_no_interval() -> None:
    rows = grid(4).where(np.array([0, 5, 10, 15, 16, 27]))
    assert fit(rows, "chinchilla").bootstrap(20, method="residual").interval("alpha")
    exact = fit(rows.with_columns(weight=[1, 1, 1, 1, 1, 0]), "chinchilla")
    for method in ("pairs", "residual", "parametric", "cluster"):
        with pytest.raises(LawError, match="5 rows and 5 free parameters leave no residual"):
            exact.bootstrap(20, method=method)
    assert any("exactly" in text for text in fit(rows.where(np.arange(5)), "chinchilla").warnings)


def test_shares_and_their_complements_have_one_interval(four: Fit) -> None:
    draws = four.bootstrap(200)
    one, other = draws.interval("a_opt"), draws.interval("b_opt")
    assert 0 < one.low < one.estimate < one.high < 1
    assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low), rel=1e-9)


def test_intervals_say_what_they_leave_open(epoch_fit: Fit, four: Fit) -> None:
    sure = epoch_fit.bootstrap(200)
    assert sure.open_parameters() == {}
    assert "fix every free parameter" in sure.identification() and "rough" not in sure.identification()
    rough = four.bootstrap(200)
    assert "rest on only 4 independent clusters by N" in rough.identification()
    for name, interval in rough.open_parameters().items():
        assert f"{name} ({interval.low:.3g} to {interval.high:.3g})" in rough.identification()
    assert "every free parameter is determined" not in epoch_fit.report()
    assert sure.identification() in epoch_fit.report(sure)


def test_ladder_of_four_sizes_leaves_the_floor_open(laws_data: Path) -> None:
    """OLMo: 16 runs at 4 sizes within 0.83 decades. Nothing but 0 and the smallest loss bounds E."""
    runs = Points.read(laws_data / "olmo-ladder" / "ladder_final.csv", columns={"loss": "c4_mean_last5"})
    ladder = runs.where(lambda p: p.mode == "train")
    draws = fit(ladder, "chinchilla").bootstrap(500)
    floor = draws.interval("E")
    assert (floor.low, floor.high) == (0.0, pytest.approx(float(ladder.loss.min())))
    assert "reach zero" in floor.note and "smallest loss" in floor.note
    assert {"A", "E", "alpha"} <= set(draws.open_parameters())
    assert draws.redrawn > 100 and draws.failed == 0


def test_gadre_floor_stays_below_every_loss(laws_data: Path) -> None:
    table = Points.read(
        laws_data / "gadre-overtraining" / "models.csv", columns={"N": "params", "D": "tokens", "loss": "loss_c4_val"}
    )
    for name in ("c4_original", "rpj", "rw_original"):
        part = table.where(table.dataset == name)
        draws = fit(part, "chinchilla").bootstrap(200)
        floor = draws.interval("E")
        assert 0.0 <= floor.low < floor.estimate < floor.high <= part.loss.min(), name
        assert ("smallest loss" in floor.note) == (floor.high == part.loss.min())
        assert "6 independent clusters" in draws.identification()
