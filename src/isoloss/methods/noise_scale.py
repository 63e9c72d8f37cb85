"""Gradient noise scale: the batch above which a larger one stops paying.

Micro-batches of b_i independent samples have gradients (means over samples) g_i; g = sum b_i g_i / B is the gradient of
the batch of B = sum b_i, G the true gradient and Sigma the covariance of one sample's gradient. Then

    E|g_i|^2 = |G|^2 + tr(Sigma) / b_i,       E|g|^2 = |G|^2 + tr(Sigma) / B
    q = sum (b_i / B) |g_i|^2                 E q = |G|^2 + tr(Sigma) / b,  b = B / V, for V micro-batches of any sizes
    S    = (q - |g|^2) / (1/b - 1/B)          unbiased for tr(Sigma)
    |G|^2 = (B |g|^2 - b q) / (B - b)         unbiased
    B_noise = S / |G|^2                       S and |G|^2 averaged over updates, each by itself, before they are divided

B_noise (B_simple in the paper) is the predicted critical batch. Source: McCandlish et al. 2018 (arXiv 1812.06162),
equation 2.9 and appendix A.1, where V = B / b micro-batches are equal. The weights b_i / B for unequal ones follow
from the same expectations. A single |G|^2 may be negative: that is the price of being unbiased,
and why averages come first.

Batches that are drawn without replacement from a training set of n samples (epochs) have E|g|^2 = |G|^2 +
S (1/B - 1/n) with S and G those of that set; `population=n` takes that into account, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isoloss.methods.gradient_norm import global_norm


@dataclass(frozen=True)
class Estimate:
    """One unbiased pair: S for tr(Sigma), G2 for |G|^2 (which can be negative)."""

    S: float
    G2: float

    @property
    def noise_scale(self) -> float:
        """S / |G|^2 in samples; NaN where |G|^2 is not above 0."""
        return ratio(self.S, self.G2)


def ratio(S: float, G2: float) -> float:
    """B_noise = S / |G|^2, the predicted critical batch in samples; NaN where |G|^2 is not above 0."""
    return S / G2 if G2 > 0 else math.nan


def estimate(
    micro_squared: Sequence[float], mean_squared: float, sizes: Sequence[int] | int, population: int | None = None
) -> Estimate:
    """(S, |G|^2) from the |g_i|^2 of micro-batches, the |g|^2 of their weighted mean and the sizes b_i in samples.

    All gradients are means over samples, before clipping. Raises ValueError for fewer than two micro-batches, sizes
    that do not match, or a population smaller than the batch.
    """
    count = len(micro_squared)
    each = [sizes] * count if isinstance(sizes, int) else list(sizes)
    if count < 2 or len(each) != count or min(each) < 1:
        raise ValueError(
            f"noise scale: {count} squared norms with sizes {each}; allowed: two micro-batches or more, "
            "each with its size"
        )
    B = sum(each)
    if population is not None and population < B:
        raise ValueError(f"noise scale: a batch of {B} from a population of {population}; allowed: {B} or more")
    b = B / count
    q = math.fsum(size / B * squared for size, squared in zip(each, micro_squared, strict=True))
    S = (q - mean_squared) / (1 / b - 1 / B)
    return Estimate(S, mean_squared - S * (1 / B - (1 / population if population else 0.0)))


def from_two(
    small_squared: float, small: int, large_squared: float, large: int, population: int | None = None
) -> Estimate:
    """(S, |G|^2) from the squared norms of two gradients over `small` and `large` samples (equation A.2).

    Unbiased also where the two share samples. Raises ValueError unless small < large.
    """
    if not 0 < small < large:
        raise ValueError(f"noise scale: batches of {small} and {large}; allowed: the first smaller, both above 0")
    if population is not None and population < large:
        raise ValueError(f"noise scale: a batch of {large} from a population of {population}; allowed: {large} or more")
    S = (small_squared - large_squared) / (1 / small - 1 / large)
    return Estimate(S, large_squared - S * (1 / large - (1 / population if population else 0.0)))


def from_gradients(
    gradients: Iterable[Sequence[Tensor]], sizes: Sequence[int] | int, population: int | None = None
) -> Estimate:
    """(S, |G|^2) from the gradients themselves, one list of tensors a micro-batch, read one after the other.

    For charged extra passes: cost is one gradient evaluation of b_i samples each. Memory is one float64 copy.
    """
    squares: list[float] = []
    total: list[Tensor] = []
    weight = 0
    for index, tensors in enumerate(gradients):
        size = sizes if isinstance(sizes, int) else sizes[index]
        squares.append(global_norm(tensors) ** 2)
        with torch.no_grad():
            if not total:
                total = [torch.zeros_like(t, dtype=torch.float64) for t in tensors]
            for sum_, tensor in zip(total, tensors, strict=True):
                sum_.add_(tensor.double(), alpha=size)
        weight += size
    return estimate(squares, (global_norm(total) / max(weight, 1)) ** 2, sizes, population)


def mean(estimates: Iterable[Estimate]) -> Estimate:
    """Mean S and mean |G|^2. Raises ValueError for none."""
    known = list(estimates)
    if not known:
        raise ValueError("noise scale: no estimates; allowed: at least one")
    return Estimate(
        math.fsum(e.S for e in known) / len(known),
        math.fsum(e.G2 for e in known) / len(known),
    )


def efficiency(batch: float, noise_scale: float) -> float:
    """1 / (1 + B_noise / B): progress of one update over that of unlimited batch, at each one's best learning rate.

    Also the best learning rate of SGD over that at unlimited batch (McCandlish et al. 2018, equations 2.6 and 2.7).
    """
    return 1 / (1 + noise_scale / batch)


class NoiseScale:
    """Running averages of S and |G|^2: m = decay m + (1 - decay) x, each without the bias of its start at 0.

    The decay is a time in updates: 0.99 looks back about 100 of them. `state_dict` holds three floats.
    """

    def __init__(self, decay: float = 0.99, population: int | None = None) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"NoiseScale: decay is {decay!r}; allowed: from 0, below 1")
        self.decay, self.population = decay, population
        self._S = self._G2 = self._weight = 0.0

    def observe(self, micro_squared: Sequence[float], mean_squared: float, sizes: Sequence[int] | int) -> Estimate:
        """Take one update's norms (as in `estimate`); an update with a norm that is not finite is left out."""
        found = estimate(micro_squared, mean_squared, sizes, self.population)
        if math.isfinite(found.S) and math.isfinite(found.G2):
            self._S = self.decay * self._S + (1 - self.decay) * found.S
            self._G2 = self.decay * self._G2 + (1 - self.decay) * found.G2
            self._weight = self.decay * self._weight + (1 - self.decay)
        return found

    @property
    def estimate(self) -> Estimate:
        """The averages so far; NaN before the first update."""
        if not self._weight:
            return Estimate(math.nan, math.nan)
        return Estimate(self._S / self._weight, self._G2 / self._weight)

    @property
    def noise_scale(self) -> float:
        """Averaged S over averaged |G|^2, in samples; NaN where |G|^2 is not above 0."""
        return self.estimate.noise_scale

    def state_dict(self) -> dict[str, float]:
        """Everything that is remembered."""
        return {"decay": self.decay, "S": self._S, "G2": self._G2, "weight": self._weight}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore what `state_dict` returned. Raises ValueError if it came from another decay."""
        if state["decay"] != self.decay:
            raise ValueError(f"NoiseScale: the state has decay = {state['decay']}; allowed: {self.decay}, as this has")
        self._S, self._G2, self._weight = state["S"], state["G2"], state["weight"]
