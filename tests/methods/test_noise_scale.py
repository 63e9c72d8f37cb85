"""Noise scale: unbiased where the truth is known in closed form, by enumeration, and by Monte Carlo."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isoloss.methods.noise_scale import (
    Estimate,
    NoiseScale,
    efficiency,
    estimate,
    from_gradients,
    from_two,
    mean,
    ratio,
)

sizes = st.lists(st.integers(1, 50), min_size=2, max_size=8)


@given(sizes, st.floats(0.01, 100), st.floats(0.01, 100))
def test_expectations_go_in_and_truth_comes_out(each: list[int], trace: float, squared: float) -> None:
    """The estimator is linear in squared norms, so it is unbiased if it maps their expectations to the truth."""
    found = estimate([squared + trace / b for b in each], squared + trace / sum(each), each)
    assert pytest.approx(trace, rel=1e-6, abs=1e-8 * squared) == found.S
    assert pytest.approx(squared, rel=1e-6, abs=1e-8 * trace) == found.G2


@given(st.integers(1, 40), st.integers(2, 40), st.floats(0.1, 10), st.floats(0.1, 10))
def test_equal_micro_batches_are_the_papers_formula(b: int, count: int, small: float, large: float) -> None:
    B = b * count
    by_paper_G2 = (B * large - b * small) / (B - b)
    by_paper_S = (small - large) / (1 / b - 1 / B)
    found, two = estimate([small] * count, large, b), from_two(small, b, large, B)
    for got in (found, two):
        assert pytest.approx(by_paper_S, rel=1e-9, abs=1e-9) == got.S
        assert pytest.approx(by_paper_G2, rel=1e-9, abs=1e-9) == got.G2


def quadratic(trials: int, each: list[int], seed: int) -> tuple[list[Estimate], float, float]:
    """L(w) = (w - x)' A (w - x) / 2, x ~ N(m, C): sample gradients A (w - x), mean A (w - m), covariance A C A."""
    chance = np.random.default_rng(seed)
    A = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 0.5]])
    root = np.array([[1.0, 0, 0], [0.4, 0.8, 0], [-0.2, 0.1, 1.5]])
    w, m = np.array([1.0, -0.5, 0.2]), np.array([0.3, 0.1, 0.0])
    found = []
    for _ in range(trials):
        x = m + chance.normal(size=(sum(each), 3)) @ root.T
        gradients = (w - x) @ A
        ends = np.cumsum([0, *each])
        micro = [gradients[i:j].mean(0) for i, j in itertools.pairwise(ends)]
        found.append(estimate([float(g @ g) for g in micro], float((g := gradients.mean(0)) @ g), each))
    G = A @ (w - m)
    return found, float(np.trace(A @ root @ root.T @ A)), float(G @ G)


@pytest.mark.parametrize("each", [[4, 4, 4, 4], [1, 2, 3, 10]])
def test_unbiased_on_a_quadratic_with_known_covariance(each: list[int]) -> None:
    found, trace, squared = quadratic(20_000, each, 0)
    for name, truth in (("S", trace), ("G2", squared)):
        values = np.array([getattr(e, name) for e in found])
        error = values.std() / math.sqrt(len(values))
        assert error < 0.02 * truth
        assert abs(values.mean() - truth) < 3.5 * error
    assert mean(found).noise_scale == pytest.approx(trace / squared, rel=0.05)
    # Unbiased means that single values fall below 0, so ratios are taken of averages only.
    assert any(e.G2 < 0 for e in found)


def test_without_replacement_the_population_makes_it_exact() -> None:
    """Every way to draw 2 + 2 of 5 samples, enumerated: the mean estimate is the set's own S and |G|^2."""
    gradients = np.array([[1.0, 0.2], [-0.5, 1.0], [0.3, -1.1], [2.0, 0.4], [0.1, 0.1]])
    G = gradients.mean(0)
    trace = float(((gradients - G) ** 2).sum() / (len(gradients) - 1))
    found, plain = [], []
    for order in itertools.permutations(range(5), 4):
        drawn = gradients[list(order)]
        micro = [float((g := drawn[:2].mean(0)) @ g), float((g := drawn[2:].mean(0)) @ g)]
        whole = float((g := drawn.mean(0)) @ g)
        found.append(estimate(micro, whole, 2, population=5))
        plain.append(estimate(micro, whole, 2))
    assert pytest.approx(trace, rel=1e-12) == mean(found).S
    assert pytest.approx(float(G @ G), rel=1e-12) == mean(found).G2
    assert pytest.approx(float(G @ G) - trace / 5, rel=1e-12) == mean(plain).G2


def test_from_gradients_reads_tensors() -> None:
    generator = torch.Generator().manual_seed(0)
    each = [3, 1, 4]
    micro = [[torch.randn(5, generator=generator), torch.randn(2, 3, generator=generator)] for _ in each]
    flat = [torch.cat([t.reshape(-1) for t in tensors]).double() for tensors in micro]
    whole = sum(b * g for b, g in zip(each, flat, strict=True)) / sum(each)
    expected = estimate([float(g @ g) for g in flat], float(whole @ whole), each)
    found = from_gradients(iter(micro), each)
    assert pytest.approx(expected.S, rel=1e-12) == found.S
    assert pytest.approx(expected.G2, rel=1e-12) == found.G2
    # The anova form: S is the weighted spread of micro-batch means over V - 1.
    assert (
        pytest.approx(sum(b * float((g - whole) @ (g - whole)) for b, g in zip(each, flat, strict=True)) / 2, rel=1e-12)
        == found.S
    )


def test_running_averages_are_debiased_and_averaged_apart() -> None:
    found, trace, squared = quadratic(3000, [4, 4], 1)
    running = NoiseScale(0.9)
    steady = NoiseScale(0.9)
    weights, chance = 0.0, np.random.default_rng(2)
    total = [0.0, 0.0]
    for index in range(50):
        micro, whole = chance.uniform(1, 2, 3).tolist(), float(chance.uniform(0.5, 1))
        got = running.observe(micro, whole, 5)
        for k, value in enumerate((got.S, got.G2)):
            total[k] = 0.9 * total[k] + value
        weights = 0.9 * weights + 1
        steady.observe([2.0, 2.0], 1.5, 4)
        assert pytest.approx(4.0) == steady.estimate.S and pytest.approx(1.0) == steady.estimate.G2
        assert pytest.approx(total[0] / weights) == running.estimate.S, index
        assert running.noise_scale == pytest.approx(total[0] / total[1])
    long = NoiseScale(0.999)
    for e in found:
        # Norms that give back the pair: E|g_i|^2 and E|g|^2 for sizes of 4.
        long.observe([e.G2 + e.S / 4] * 2, e.G2 + e.S / 8, 4)
    assert long.noise_scale == pytest.approx(trace / squared, rel=0.15)


def test_state_restores_everything() -> None:
    chance = np.random.default_rng(0)
    norms = [(chance.uniform(1, 2, 4).tolist(), float(chance.uniform(0.5, 1))) for _ in range(20)]
    whole, first = NoiseScale(0.95), NoiseScale(0.95)
    for micro, large in norms:
        whole.observe(micro, large, 8)
    for micro, large in norms[:9]:
        first.observe(micro, large, 8)
    resumed = NoiseScale(0.95)
    resumed.load_state_dict(first.state_dict())
    for micro, large in norms[9:]:
        resumed.observe(micro, large, 8)
    assert resumed.state_dict() == whole.state_dict()
    with pytest.raises(ValueError, match=r"decay = 0.95; allowed: 0.99"):
        NoiseScale().load_state_dict(first.state_dict())


def test_an_update_that_is_not_finite_is_left_out() -> None:
    running = NoiseScale()
    assert math.isnan(running.noise_scale)
    running.observe([2.0, 2.0], 1.5, 4)
    before = running.state_dict()
    assert math.isnan(running.observe([math.inf, 2.0], math.inf, 4).S)
    assert running.state_dict() == before


def test_no_signal_means_no_ratio() -> None:
    assert math.isnan(ratio(1.0, 0.0)) and math.isnan(Estimate(1.0, -0.1).noise_scale)
    assert efficiency(100, 100) == 0.5


def test_efficiency_is_the_best_step_on_a_quadratic() -> None:
    """With H = I a step eta makes progress eta |G|^2 - eta^2 (|G|^2 + S/B) / 2: searched by brute force."""
    squared, trace, B = 2.0, 6.0, 5.0
    eta = np.linspace(0, 1, 100_001)
    progress = eta * squared - eta**2 / 2 * (squared + trace / B)
    best = eta[int(np.argmax(progress))]
    assert best == pytest.approx(efficiency(B, trace / squared), abs=1e-5)
    assert progress.max() == pytest.approx(squared / 2 * efficiency(B, trace / squared), rel=1e-6)


@pytest.mark.parametrize(
    "call",
    [
        lambda: estimate([1.0], 1.0, 4),
        lambda: estimate([1.0, 1.0], 1.0, [4]),
        lambda: estimate([1.0, 1.0], 1.0, [4, 0]),
        lambda: estimate([1.0, 1.0], 1.0, 4, population=7),
        lambda: from_two(1.0, 4, 1.0, 4),
        lambda: from_two(1.0, 4, 1.0, 8, population=7),
        lambda: from_gradients([], 4),
        lambda: mean([]),
        lambda: NoiseScale(1.0),
    ],
)
def test_wrong_use(call: object) -> None:
    with pytest.raises(ValueError, match="allowed"):
        call()  # type: ignore[operator]
