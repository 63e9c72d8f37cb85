"""Worth against planted answers: a known factor of data, noise of known size, coverage of the intervals."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoloss.worth.compare import Curve, Ratio, compare, matched, monotone
from isoloss.worth.results import Result, Results

SIZES = (10_000, 20_000, 40_000)
DURATIONS = (2e5, 4e5, 8e5)


def loss(N: float, D: float) -> float:
    return 1.2 + 20 / N**0.4 + 300 / D**0.5


def result(arm: str, N: int, D: float, seed: int, value: float, *, batch: int = 1000, passes: float = 1.0) -> Result:
    return Result(
        name=f"{arm} {N} {D} {seed}", arm=arm, variant=arm, cell={"seed": seed}, seed=str(seed), extra=False,
        root=f"N={N} seed={seed}", N=N, N_total=N, D=int(D), S=int(D / batch), C=6.0 * N * D * passes, lr=0.1,
        lr_rule="given", lr_edge=False, status="done", loss=value, loss_a=value, message="",
        key=f"{arm} {N} {D} {seed} {batch}",
        facts=None,  # type: ignore[arg-type]
    )  # fmt: skip


def study(results: list[Result], tuning: float = 0.0, grid: dict[str, Any] | None = None) -> Any:
    """As much of a study's results as a comparison reads, with a tuning cost that is given."""
    found = Results(SimpleNamespace(baseline="base", grid=grid or {}, linked=()), None, results, None)  # type: ignore[arg-type]
    found.tuning = lambda variant, N: tuning  # type: ignore[method-assign]
    return found


def planted(
    factor: Any, noise: float = 0.0, seeds: int = 3, chance: np.random.Generator | None = None, **options: Any
) -> Any:
    """An arm that needs ``factor(N)`` times less data than the baseline; seeds move both arms together."""
    chance = chance or np.random.default_rng(0)
    found = []
    for N in SIZES:
        for seed in range(seeds):
            together = chance.normal(0, 3 * noise)
            for D in (*DURATIONS, DURATIONS[-1] * 2):
                found.append(result("base", N, D, seed, loss(N, D) * math.exp(together + chance.normal(0, noise))))
            for D in DURATIONS:
                value = loss(N, D * factor(N)) * math.exp(together + chance.normal(0, noise))
                found.append(result("arm", N, D, seed, value, **options))
    return study(found)


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25, 1.7])
def test_a_planted_factor_is_found_in_every_currency(factor: float) -> None:
    comparison = compare(planted(lambda N: factor))
    assert [w.N for w in comparison.by_size] == list(SIZES)
    for worth in comparison.by_size:
        for currency in ("data", "updates", "compute"):
            assert worth.ratios[currency].ratio == pytest.approx(factor, rel=0.01)
    (overall,) = comparison.overall
    assert overall.ratios["data"].ratio == pytest.approx(factor, rel=0.01)
    assert overall.trend is not None and abs(overall.trend.slope) < 0.01


def test_extra_passes_and_batches_are_charged() -> None:
    comparison = compare(planted(lambda N: 1.5, batch=4000, passes=2.0))
    ratios = comparison.by_size[0].ratios
    assert ratios["data"].ratio == pytest.approx(1.5, rel=0.01)
    assert ratios["compute"].ratio == pytest.approx(1.5 / 2, rel=0.01)
    assert ratios["updates"].ratio == pytest.approx(1.5 * 4, rel=0.01)


def test_what_does_not_grow_with_a_run_is_charged_once_a_run() -> None:
    """Refreshing running statistics costs the same for a short run and a long one."""
    rows = planted(lambda N: 1.0).results
    fee = 6.0 * SIZES[0] * DURATIONS[0]
    arm = [replace(r, C=r.C + fee, fixed_flops=fee) if r.arm == "arm" else r for r in rows]
    ratio = compare(study(arm)).by_size[0].ratios["compute"].ratio
    longest, shortest = DURATIONS[-1], DURATIONS[0]
    assert shortest / (shortest + shortest) < ratio < longest / (longest + shortest)
    free = compare(study(rows)).by_size[0].ratios
    assert free["compute"].ratio == pytest.approx(free["data"].ratio, rel=1e-12)


def test_tuning_is_charged_to_both_sides() -> None:
    rows = planted(lambda N: 1.5).results
    free = compare(study(rows)).by_size[0].ratios
    assert free["compute with tuning"].ratio == pytest.approx(free["compute"].ratio, rel=1e-12)
    budget = 6.0 * SIZES[0] * DURATIONS[-1]
    charged = compare(study(rows, budget)).by_size[0].ratios["compute with tuning"].ratio
    longest, shortest = DURATIONS[-1], DURATIONS[0]
    assert (1.5 * shortest + longest) / (shortest + longest) < charged < (1.5 * longest + longest) / (2 * longest)


@pytest.mark.parametrize(("power", "verdict"), [(0.3, "growing"), (-0.3, "fading"), (0.0, "steady")])
def test_the_trend_with_size(power: float, verdict: str) -> None:
    comparison = compare(planted(lambda N: 1.5 * (N / 20_000) ** power, noise=1e-4))
    trend = comparison.overall[0].trend
    assert trend is not None
    assert trend.slope == pytest.approx(power, abs=0.02)
    assert trend.verdict == verdict


def test_noise_beyond_the_effect_is_not_resolved() -> None:
    comparison = compare(planted(lambda N: 1.02, noise=0.02))
    assert not comparison.overall[0].ratios["data"].resolved
    trend = comparison.overall[0].trend
    assert trend is not None and trend.verdict == "not resolved"


def test_fewer_than_three_seeds_give_no_interval() -> None:
    comparison = compare(planted(lambda N: 1.3, noise=0.001, seeds=2))
    for worth in comparison.by_size:
        assert worth.ratios["data"].low is None
        assert not worth.ratios["data"].resolved


@pytest.mark.slow
def test_intervals_cover_what_they_say() -> None:
    """Nominal 90 %, three seeds and three sizes, paired noise: coverage by size and over all sizes."""
    chance = np.random.default_rng(1)
    by_size, overall, rounds = [], [], 300
    for _ in range(rounds):
        comparison = compare(planted(lambda N: 1.2, noise=0.002, chance=chance))
        # Targets are bounded by noisy ends, so the truth is that of the planted factor up to that noise.
        by_size += [w.ratios["data"].low <= 1.2 <= w.ratios["data"].high for w in comparison.by_size]  # type: ignore[operator]
        ratio = comparison.overall[0].ratios["data"]
        overall.append(ratio.low <= 1.2 <= ratio.high)  # type: ignore[operator]
    assert 0.86 <= np.mean(by_size) <= 0.94
    assert 0.85 <= np.mean(overall) <= 0.95


def test_nothing_is_extrapolated() -> None:
    """Curves whose losses do not overlap say so instead of guessing."""
    far = [result("base", 10_000, D, s, 3.0 - i * 0.1) for s in range(3) for i, D in enumerate(DURATIONS)]
    far += [result("arm", 10_000, D, s, 2.0 - i * 0.1) for s in range(3) for i, D in enumerate(DURATIONS)]
    (worth,) = compare(study(far)).by_size
    assert worth.ratios == {}
    assert "no loss in common" in worth.note


losses = st.lists(st.floats(0.5, 5.0), min_size=2, max_size=8)


@given(losses)
def test_monotone_is_the_least_squares_answer(values: list[float]) -> None:
    y = np.array(values)
    fitted = monotone(y)
    assert np.all(np.diff(fitted) <= 1e-12)
    assert fitted.sum() == pytest.approx(y.sum())
    from scipy.optimize import isotonic_regression

    assert np.allclose(fitted, isotonic_regression(y, increasing=False).x)


@settings(max_examples=50)
@given(st.floats(0.5, 3.0), st.floats(0.2, 0.9))
def test_inverting_a_power_law_is_exact(scale: float, power: float) -> None:
    D = np.geomspace(1e4, 1e6, 5)
    base = Curve(D, D**-power)
    arm = Curve(D, (scale * D) ** -power)
    targets, own, other = matched(arm, base)
    assert len(targets) and np.allclose(other - own, math.log(scale), atol=1e-9)
    assert np.all((targets >= max(arm.low, base.low)) & (targets <= min(arm.high, base.high)))


def test_ratios_seen_from_the_other_side() -> None:
    ratio = Ratio(1.25, 1.1, 1.4)
    assert ratio.inverse == Ratio(1 / 1.25, 1 / 1.4, 1 / 1.1)
    assert ratio.resolved and ratio.inverse.resolved


def test_other_axes_are_compared_at_their_places() -> None:
    """An arm with the baseline at the same batch, the baseline's other batches with its first."""
    found = []
    factors = {("base", 1000): 1.0, ("base", 4000): 0.5, ("arm", 1000): 2.0, ("arm", 4000): 3.0}
    for (arm, batch), factor in factors.items():
        for seed in range(3):
            for D in (*DURATIONS, DURATIONS[-1] * 6):
                value = loss(SIZES[0], D * factor)
                made = result(arm, SIZES[0], D, seed, value, batch=batch)
                cell = {"training.batch": batch, "seed": seed}
                found.append(replace(made, variant=f"{arm} · batch {batch}", cell=cell))
    results = study(found, grid={"training.batch": (1000, 4000), "seed": (0, 1, 2)})
    assert results.variants() == ["base · batch 1000", "base · batch 4000", "arm · batch 1000", "arm · batch 4000"]
    ratios = {(o.arm, o.reference): o.ratios["data"].ratio for o in compare(results).overall}
    assert ratios == {
        ("base · batch 4000", "base · batch 1000"): pytest.approx(0.5, rel=0.02),
        ("arm · batch 1000", "base · batch 1000"): pytest.approx(2.0, rel=0.02),
        ("arm · batch 4000", "base · batch 4000"): pytest.approx(6.0, rel=0.06),
    }


def test_losses_along_a_stationary_end_are_those_of_shorter_runs() -> None:
    """One duration an arm is enough then; a decaying run says nothing about shorter ones."""
    facts = SimpleNamespace(terms_per_update=1000)
    found = []
    for arm, factor in (("base", 1.0), ("arm", 1.5)):
        for seed in range(3):
            curve = tuple((u, loss(SIZES[0], u * 1000 * factor)) for u in (100, 200, 400, 800))
            made = result(arm, SIZES[0], 8e5, seed, curve[-1][1])
            found.append(replace(made, curve=curve, steady=100, facts=facts))  # type: ignore[arg-type]
    (worth,) = compare(study(found)).by_size
    assert worth.ratios["data"].ratio == pytest.approx(1.5, rel=0.02)
    (worth,) = compare(study([replace(r, steady=None) for r in found])).by_size
    assert not worth.ratios and "fewer than two durations" in worth.note


def test_updates_that_nobody_wrote_down_have_no_ratio() -> None:
    """Runs from elsewhere may not say their steps: data and compute are compared all the same."""
    rows = [replace(r, S=0) if r.arm == "arm" else r for r in planted(lambda N: 1.3).results]
    comparison = compare(study(rows))
    for worth in (*comparison.by_size, *comparison.overall):
        assert set(worth.ratios) == {"data", "compute", "compute with tuning"}
        assert worth.ratios["data"].ratio == pytest.approx(1.3, rel=0.01)


def test_seeds_that_are_not_the_baselines_are_told() -> None:
    rows = [replace(r, seed=f"other {r.seed}") if r.arm == "arm" else r for r in planted(lambda N: 1.3).results]
    comparison = compare(study(rows))
    assert not comparison.overall
    assert {w.note for w in comparison.by_size} == {"the baseline has no run of this size with one of its seeds"}
