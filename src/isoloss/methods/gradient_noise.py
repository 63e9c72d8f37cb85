"""Multiplicative gradient noise: the noise of small batches inside a large one, by random weights of its samples.

    g = (1/M) sum over n of z_n g_n        z_n ~ N(1, sigma^2), independent

which is the gradient of (1/M) sum z_n l_n, so no gradient of single samples is needed. With batch ratio
q = M / M_small, by name:

    proportional    sigma^2 = c q          (idea: Hoffer, Hubara and Soudry 2017, arXiv 1705.08741)
    matching        sigma^2 = q - 1        equal E[g g^T] term as the mean over M_small samples; no noise at q = 1

z is a pure function of (seed, update, sample): a counter hash (SplitMix64) and Box-Muller, so a resumed,
reordered or differently shared batch gets the same weights and no generator is touched.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from isoloss.methods._layerwise import check_number
from isoloss.recipe.errors import nearest

RULES = ("proportional", "matching")


def noise_variance(ratio: float, rule: str = "proportional", c: float = 1.0) -> float:
    """sigma^2 for a batch ``ratio`` times the small one. Raises ValueError for a ratio below 1 or an unknown rule."""
    check_number("noise_variance", "ratio", ratio, low=1.0)
    check_number("noise_variance", "c", c)
    if rule not in RULES:
        raise ValueError(f"noise_variance: rule {rule!r}; allowed: {', '.join(RULES)}{nearest(rule, RULES)}")
    return c * ratio if rule == "proportional" else ratio - 1.0


def sample_weights(samples: Tensor, seed: int, update: int, variance: float) -> Tensor:
    """z of shape ``samples`` (integer sample numbers), float32, on their device; ones where ``variance`` is 0.

    Raises ValueError for samples that are not integers and for a negative variance.
    """
    check_number("sample_weights", "variance", variance)
    if samples.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8):
        raise ValueError(f"sample_weights: samples are {samples.dtype}; allowed: integers, the numbers of the samples")
    key = _hash(torch.tensor([seed], dtype=torch.int64))
    key = _hash(key + update).to(samples.device)
    bits = _hash(key + samples.to(torch.int64))
    one = (_shift(bits, 11).double() + 0.5) * 2.0**-53
    two = _shift(_hash(bits), 11).double() * 2.0**-53
    normal = torch.sqrt(-2.0 * torch.log(one)) * torch.cos(2.0 * math.pi * two)
    return (1.0 + math.sqrt(variance) * normal).float()


def weighted_loss(losses: Tensor, samples: Tensor, seed: int, update: int, variance: float) -> Tensor:
    """Mean of z_n l_n over losses of shape (M,) or (M, ...), whose first index is the sample; a scalar.

    Raises ValueError where there is not one sample number a row.
    """
    if losses.ndim == 0 or samples.shape != losses.shape[:1]:
        raise ValueError(
            f"weighted_loss: losses of shape {tuple(losses.shape)} with samples of shape {tuple(samples.shape)}; "
            "allowed: (M, ...) with (M,), one loss a sample (reduction='none')"
        )
    z = sample_weights(samples, seed, update, variance).to(losses.dtype)
    return (losses * z.view(-1, *[1] * (losses.ndim - 1))).mean()


def _shift(x: Tensor, places: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> places) & ((1 << (64 - places)) - 1)


def _hash(x: Tensor) -> Tensor:
    """SplitMix64 (Steele, Lea and Flood 2014) in wrapping int64 arithmetic."""
    x = x + (0x9E3779B97F4A7C15 - (1 << 64))
    x = (x ^ _shift(x, 30)) * (0xBF58476D1CE4E5B9 - (1 << 64))
    x = (x ^ _shift(x, 27)) * (0x94D049BB133111EB - (1 << 64))
    return x ^ _shift(x, 31)
