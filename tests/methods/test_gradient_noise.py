"""Multiplicative gradient noise: distribution, purity, the weighted gradient and its covariance."""

from __future__ import annotations

import math

import optimizer_cases as cases
import pytest
import torch
from torch import nn

from isoloss.methods.gradient_noise import noise_variance, sample_weights, weighted_loss


def test_weights_are_normal_with_mean_one() -> None:
    z = (sample_weights(torch.arange(400_000), seed=1, update=2, variance=4.0).double() - 1.0) / 2.0
    n = z.numel()
    for power, moment, spread in ((1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)):
        assert z.pow(power).mean().item() == pytest.approx(moment, abs=5 * math.sqrt(spread / n))
    for edge in (-2.0, -0.5, 0.0, 1.0, 3.0):
        below = 0.5 * (1 + math.erf(edge / math.sqrt(2)))
        assert (z < edge).double().mean().item() == pytest.approx(below, abs=5 * math.sqrt(0.25 / n))


def test_weights_of_seeds_updates_and_samples_are_independent() -> None:
    samples = torch.arange(100_000)
    base = sample_weights(samples, 0, 0, 1.0).double() - 1.0
    others = [(1, 0, samples), (0, 1, samples), (0, 2**40, samples), (0, 0, samples + 1), (-1, 0, samples + 10**12)]
    for seed, update, numbers in others:
        z = sample_weights(numbers, seed, update, 1.0).double() - 1.0
        assert abs((base * z).mean().item()) < 5 / math.sqrt(100_000)


def test_weights_are_a_pure_function_of_seed_update_and_sample() -> None:
    before = torch.get_rng_state()
    samples = torch.tensor([5, 9, 2, 2, 10**15])
    z = sample_weights(samples, 3, 7, 2.0)
    assert torch.equal(torch.get_rng_state(), before)
    assert z[2] == z[3]
    order = torch.tensor([4, 0, 3, 1, 2])
    assert torch.equal(sample_weights(samples[order], 3, 7, 2.0), z[order])
    parts = torch.cat([sample_weights(part, 3, 7, 2.0) for part in samples.split(2)])
    assert torch.equal(parts, z)
    assert torch.equal(sample_weights(samples.to(torch.int32)[:4], 3, 7, 2.0), z[:4])


def test_values_are_pinned() -> None:
    """The numbers are part of every stored run."""
    z = sample_weights(torch.tensor([0, 1, 2, 1_000_000]), seed=11, update=5, variance=1.0)
    pinned = torch.tensor([0.12592685222625732, -0.658486545085907, 1.368710994720459, 1.391735553741455])
    torch.testing.assert_close(z, pinned, rtol=1e-6, atol=0)


def test_hash_is_splitmix64() -> None:
    """First outputs of the generator with seed 0, as published with its reference code."""
    from isoloss.methods.gradient_noise import _hash

    step = 0x9E3779B97F4A7C15
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    for k, value in enumerate(expected):
        state = (step * k) % (1 << 64)
        signed = state - (1 << 64) if state >= 1 << 63 else state
        assert _hash(torch.tensor([signed])).item() % (1 << 64) == value


def test_no_variance_is_the_plain_mean_to_the_bit() -> None:
    losses = torch.rand(32, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(weighted_loss(losses, torch.arange(32), 0, 0, 0.0), losses.mean())
    assert not torch.equal(weighted_loss(losses, torch.arange(32), 0, 0, 1.0), losses.mean())


def test_the_loss_has_the_weighted_gradient() -> None:
    model = cases.net(dtype=torch.float64)
    x, y = cases.batch(0, size=16, dtype=torch.float64)
    samples = torch.arange(100, 116)
    losses = nn.functional.cross_entropy(model(x), y, reduction="none")
    weighted_loss(losses, samples, 4, 9, 3.0).backward()
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    z = sample_weights(samples, 4, 9, 3.0).double()
    expected = [torch.zeros_like(g) for g in found]
    for n in range(16):
        model.zero_grad()
        nn.functional.cross_entropy(model(x[n : n + 1]), y[n : n + 1]).backward()
        for e, p in zip(expected, model.parameters(), strict=True):
            e.add_(p.grad, alpha=z[n].item() / 16)
    for e, g in zip(expected, found, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-12)


def test_matching_gives_a_large_batch_the_noise_of_a_small_one() -> None:
    """Centred per-sample gradients: variance of the weighted mean of M is that of the mean of M / q."""
    M, q, trials = 64, 8, 20_000
    g = torch.randn(trials, M, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = sample_weights(torch.arange(trials * M), 0, 0, noise_variance(q, "matching")).double().view(trials, M)
    noisy = (z * g).mean(1).var().item()
    small = g[:, : M // q].mean(1).var().item()
    assert noisy == pytest.approx(small, rel=0.05)
    assert noisy == pytest.approx(q / M, rel=0.05)


def test_variance_rules() -> None:
    assert noise_variance(8) == 8
    assert noise_variance(8, c=0.5) == 4
    assert noise_variance(8, "matching") == 7
    assert noise_variance(1, "matching") == 0
    assert noise_variance(32) / noise_variance(4) == 8


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'matching'"):
        noise_variance(2, "match")
    with pytest.raises(ValueError, match=r"ratio is 0\.5"):
        noise_variance(0.5)
    with pytest.raises(ValueError, match=r"variance is -1\.0"):
        sample_weights(torch.arange(3), 0, 0, -1.0)
    with pytest.raises(ValueError, match="allowed: integers"):
        sample_weights(torch.rand(3), 0, 0, 1.0)
    for losses in (torch.tensor(1.0), torch.ones(4)):
        with pytest.raises(ValueError, match="one loss a sample"):
            weighted_loss(losses, torch.arange(3), 0, 0, 1.0)
