"""Coverage of intervals, small studies, bootstrap kinds, profile, ensemble, and the design check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from isoloss.laws import (
    Fit,
    LawError,
    Points,
    coverage,
    ensemble,
    expected_intervals,
    fit,
    get_form,
    iso_loss_compute,
    optimum,
)

CHINCHILLA = get_form("chinchilla")
TRUTH = {"A": 477.8, "B": 2143.0, "E": 1.817, "alpha": 0.3473, "beta": 0.3672}


def targets(budgets: tuple[float, ...] = (1e22, 1e23, 1e24, 1e25)) -> dict[str, Any]:
    """Every derived quantity of the law, at several budgets."""

    def at(name: str, budget: float) -> Any:
        return lambda v: np.log(optimum(CHINCHILLA, v, budget)[name])

    found: dict[str, Any] = {name: name for name in ("a_opt", "b_opt", "G", "E", "alpha", "beta", "A", "B")}
    for budget in budgets:
        found |= {f"{name}*({budget:g})": at(name, budget) for name in ("N", "D", "loss")}
    found["iso-loss compute"] = lambda v: iso_loss_compute(CHINCHILLA, v, 2.1)
    return found


@pytest.mark.slow
def test_coverage_with_noise_clustered_by_size(epoch: Points) -> None:
    """Nominal 90 % intervals on the Chinchilla design; Monte Carlo error of 400 replicates is 0.015."""
    wanted = targets()
    del wanted["iso-loss compute"]  # follows L*(C), and costs a root search a draw
    table = coverage(
        epoch,
        "chinchilla",
        TRUTH,
        wanted,
        noise=0.0075,
        cluster_noise=0.0035,
        replicates=400,
        draws=200,
        delta=1e-3,
        seed=1,
    )
    assert min(table.values()) >= 0.88, table


def test_cluster_intervals_cover_where_pairs_do_not(epoch: Points) -> None:
    """Strong noise by size: rows are not independent, and only whole clusters say so."""
    wanted = {"E": "E", "a_opt": "a_opt"}
    noise = {"noise": 0.002, "cluster_noise": 0.008, "replicates": 40, "draws": 60, "delta": 1e-2}
    by_size = coverage(epoch, "chinchilla", TRUTH, wanted, **noise)
    by_row = coverage(epoch, "chinchilla", TRUTH, wanted, method="pairs", **noise)
    assert min(by_size.values()) >= 0.8
    assert np.mean(list(by_row.values())) < np.mean(list(by_size.values())) - 0.1


def small_study(noise: float = 0.004, shared: float = 0.0, seed: int = 0) -> Points:
    """4 sizes x 3 durations x 3 seeds."""
    N, D, s = (g.ravel() for g in np.meshgrid([1e5, 2.4e5, 5.4e5, 9.6e5], [2e6, 4e6, 8e6], [0, 1, 2], indexing="ij"))
    rng = np.random.default_rng(seed)
    wiggle = rng.normal(size=36) * noise + (rng.normal(size=3) * shared)[s.astype(int)]
    truth = {"A": 60.0, "B": 500.0, "E": 1.6, "alpha": 0.25, "beta": 0.35}
    loss = CHINCHILLA.predict(truth, {"N": N, "D": D}) * np.exp(wiggle)
    return Points(N=N, D=D, loss=loss, seed=s.astype(int), cluster=[f"init {int(k)}, data {int(k)}" for k in s])


def test_small_study() -> None:
    points = small_study()
    found = fit(points, "chinchilla")
    draws = found.bootstrap(300)
    assert (draws.clusters, draws.unit) == (3, "cluster")
    low, middle, high = draws.predict_band(N=[5e5, 4e6], D=[4e6, 1.6e7])
    assert (low < middle).all() and (middle < high).all()
    assert np.log(high / low)[1] > 3 * np.log(high / low)[0]  # beyond the grid it widens
    text = " ".join(points.check())
    assert "D spans only 0.60 decades" in text and "takes only 3 values" in text and "3 clusters" in text


@pytest.mark.parametrize("shared", [0.0, 0.004])
def test_small_study_intervals_cover(shared: float) -> None:
    inside = {"loss": lambda v: CHINCHILLA.predict(v, {"N": 5e5, "D": 4e6}), "alpha": "alpha"}
    truth = {"A": 60.0, "B": 500.0, "E": 1.6, "alpha": 0.25, "beta": 0.35}
    table = coverage(
        small_study(),
        "chinchilla",
        truth,
        inside,
        noise=0.004,
        cluster_noise=shared,
        cluster="cluster",
        replicates=40,
        draws=40,
    )
    assert min(table.values()) >= 0.8, table


def test_what_is_not_identified_is_said() -> None:
    """No floor, one decade of a pure power: E goes to zero or is loose, and the sentence says why."""
    rng = np.random.default_rng(0)
    x = np.geomspace(1e6, 3e6, 12)
    found = fit(Points(D=x, loss=40 * x**-0.2 * np.exp(0.002 * rng.normal(size=12))), "m2", x="D")
    assert "E" in found.diagnosis.not_identified
    assert "D spans only 0.48 decades" in found.diagnosis.not_identified
    assert found.diagnosis.not_identified in found.report()
    two = Points(N=np.repeat([1e6, 1e7], 8), D=np.tile(np.geomspace(1e8, 1e10, 8), 2))
    loss = CHINCHILLA.predict(TRUTH, {"N": two.N, "D": two.D}) * np.exp(0.002 * rng.normal(size=16))
    assert "N takes only 2 values" in fit(two.with_columns(loss=loss), "chinchilla").diagnosis.not_identified


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_parameter_without_any_effect_has_no_precision() -> None:
    N, D = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 1e11, 4)))
    noise = np.random.default_rng(0).normal(0, 0.004, N.size)
    loss = (1.8 + 400 * N**-0.34 + 2000 * D**-0.37) * np.exp(noise)
    fitted = fit(Points(N=N, D=D, loss=loss, unique=D), "data-constrained-tied")  # nothing repeats
    assert "r_D" in fitted.diagnosis.not_identified
    draws = fitted.bootstrap(60)
    assert "no precision" in draws.interval("r_D").note
    assert draws.interval("alpha").note == ""
    pinned = fit(Points(N=N, D=D, loss=loss), "chinchilla", fixed={"alpha": 0.34}).bootstrap(60)
    assert pinned.interval("alpha").note == ""


def test_residual_and_parametric_bootstraps_agree_with_theory() -> None:
    """On M1 (a line in logs) the error of the exponent is the textbook one."""
    rng = np.random.default_rng(1)
    x = np.geomspace(1e3, 1e6, 500)
    found = fit(Points(D=x, loss=9 * x**-0.2 * np.exp(0.02 * rng.normal(size=500))), "m1", x="D", loss="squared")
    spread = float(np.sqrt(np.sum(found.residuals**2) / 498))
    expected = spread / float(np.sqrt(np.sum((np.log(x) - np.log(x).mean()) ** 2)))
    for method in ("residual", "parametric", "pairs"):
        draws = found.bootstrap(1500, method=method)
        assert draws.standard_error("c") == pytest.approx(expected, rel=0.12), method
    assert found.diagnosis.standard_errors["c"] == pytest.approx(expected, rel=0.35)


def test_parametric_bootstrap_uses_seed_noise() -> None:
    from isoloss.laws.bootstrap import seed_noise

    points = small_study(noise=0.01, seed=3)
    assert seed_noise(fit(points, "chinchilla")) == pytest.approx(0.01, rel=0.35)


def test_profile_interval_of_a_line() -> None:
    """For squared loss and M1, the profile interval is the t interval up to n against n - 2."""
    rng = np.random.default_rng(2)
    x = np.geomspace(1e3, 1e6, 50)
    found = fit(Points(D=x, loss=9 * x**-0.2 * np.exp(0.02 * rng.normal(size=50))), "m1", x="D", loss="squared")
    profile = found.profile("c", points=81)
    low, high = profile.interval(0.9)
    spread = float(np.sqrt(np.mean(found.residuals**2)))
    half = 1.645 * spread / float(np.sqrt(np.sum((np.log(x) - np.log(x).mean()) ** 2)))
    assert (high - low) / 2 == pytest.approx(half, rel=0.05)
    assert 0.5 * (low + high) == pytest.approx(found.parameters["c"], rel=1e-3)


def test_profile_of_the_chinchilla_floor(epoch_fit: Fit) -> None:
    profile = epoch_fit.profile("E", points=21)
    low, high = profile.interval(0.9)
    assert low < epoch_fit.parameters["E"] < high
    assert profile.statistic.min() == pytest.approx(0.0, abs=1e-6)
    at = int(np.argmin(np.abs(profile.values - high)))
    held = fit(epoch_fit.points, "chinchilla", fixed={"E": float(profile.values[at])})
    assert profile.objective[at] == pytest.approx(held.objective, rel=1e-9)


def test_ensemble_shows_choices_beside_statistics(epoch: Points) -> None:
    found = ensemble(epoch, "chinchilla", lambda f: f.predict(N=1e11, D=2e12), ["chinchilla-tied"], n=100)
    assert {"as chosen", "law chinchilla-tied", "delta 0.01", "l1"} <= set(found.answers)
    low, high = found.range
    assert low <= found.answers["as chosen"] <= high
    assert found.statistical is not None and found.statistical.low < found.answers["as chosen"] < found.statistical.high


def test_expected_interval_before_any_loss(epoch: Points) -> None:
    plan = Points(N=epoch.N, D=epoch.D)

    def loss(v: Mapping[str, Any]) -> Any:
        return optimum(CHINCHILLA, v, 1e24)["loss"]

    once = expected_intervals(plan, "chinchilla", TRUTH, {"alpha": "alpha", "L": loss}, noise=0.01, replicates=200)
    quieter = expected_intervals(plan, "chinchilla", TRUTH, {"alpha": "alpha"}, noise=0.0025, replicates=200)
    assert once["alpha"].low < TRUTH["alpha"] < once["alpha"].high
    assert once["alpha"].width / quieter["alpha"].width == pytest.approx(4.0, rel=0.35)
    assert once["L"].truth == pytest.approx(float(loss(TRUTH)))
    with pytest.raises(LawError, match="noise must be positive"):
        expected_intervals(plan, "chinchilla", TRUTH, {"alpha": "alpha"}, noise=0.0)


def test_interval_of_an_unknown_quantity(epoch_fit: Fit) -> None:
    draws = epoch_fit.bootstrap(20)
    with pytest.raises(LawError, match="did you mean 'alpha'"):
        draws.interval("alhpa")
    with pytest.raises(LawError, match="level"):
        draws.interval("alpha", level=90)
