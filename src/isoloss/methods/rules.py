"""What else changes when the batch does: pure functions of the batch ratio r = B_L / B_S.

Learning rate (``lr_scaling``)

    none      eta' = eta
    sqrt      eta' = eta sqrt(r)                            Hoffer et al. 2017 (1705.08741); Krizhevsky 2014
    linear    eta' = eta r                                  Krizhevsky 2014 (1404.5997); Goyal et al. 2017 (1706.02677)
    legw      eta' = eta sqrt(r), warm-up epochs x r        You et al. 2019 (1901.08265)

Momentum m, and Adam's betas (``momentum``)

    keep      m' = m                                        Goyal et al. 2017 and Hoffer et al. 2017
    noise     1 - m' = (1 - m) (eta'/eta) / r               Smith et al. 2018 (1711.00489): eta / (B (1 - m)) is kept
    samples   m' = m^r                                      half-life in samples is kept: Marek et al. 2025 (2507.07101)
                                                            for beta2; for the rest convention, not published
    sde       1 - m' = r (1 - m)                            Malladi et al. 2022 (2205.10287), for Adam, with sqrt

Weight decay lambda, where a step shrinks weights by eta lambda (``decay``)

    keep        lambda' = lambda                            Goyal et al. 2017 and Hoffer et al. 2017
    timescale   eta' lambda' = r eta lambda                 Wang and Aitchison 2024 (2405.13698), for AdamW: the
                                                            time scale 1 / (eta lambda) is kept in epochs
                                                            (with SGD convention, not published)
    normalised  eta' lambda' = eta lambda sqrt(U / U')      Loshchilov and Hutter 2019 (1711.05101): sqrt(b / (B T))
                                                            with U = B T / b updates in all (AdamW)

Adam's epsilon (``eps``)

    keep      eps' = eps
    sde       eps' = eps / sqrt(r)                          Malladi et al. 2022, with sqrt

The amounts of training are stretched by ``isoloss.methods.regime``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from isoloss.methods import regime as regimes
from isoloss.recipe.errors import nearest
from isoloss.recipe.units import BATCH, Quantity

LR_SCALINGS = ("none", "sqrt", "linear", "legw")
MOMENTUM_RULES = ("keep", "noise", "samples", "sde")
DECAY_RULES = ("keep", "timescale", "normalised")
EPS_RULES = ("keep", "sde")


def batch_ratio(batch: Quantity, base: Quantity, per_sample: int = 1) -> float:
    """B_L / B_S for batches in any unit; `per_sample` is the tokens in a sequence (1: samples are vectors).

    Raises ValueError for a unit that is no batch, an empty batch, or tokens that are no whole sequences.
    """
    return _samples(batch, per_sample) / _samples(base, per_sample)


def lr_factor(ratio: float, lr_scaling: str) -> float:
    """eta' / eta. Raises ValueError for an unknown rule or a ratio that is not above 0."""
    _check(ratio, lr_scaling, LR_SCALINGS, "lr_scaling")
    return {"none": 1.0, "linear": ratio}.get(lr_scaling, math.sqrt(ratio))


def warmup(amount: Quantity, ratio: float, lr_scaling: str, regime: float = 0.0) -> Quantity:
    """The warm-up at the new batch: epochs times r with legw (as many updates as before), else as the regime says."""
    _check(ratio, lr_scaling, LR_SCALINGS, "lr_scaling")
    return regimes.stretched(amount, ratio, 1.0 if lr_scaling == "legw" else regime)


def momentum(m: float, ratio: float, rule: str = "keep", lr_factor: float = 1.0) -> float:
    """m' for a momentum or a beta. `lr_factor` = eta'/eta enters rule noise only.

    Raises ValueError unless 0 <= m < 1, and where the rule would leave that range.
    """
    _check(ratio, rule, MOMENTUM_RULES, "momentum rule")
    if not 0 <= m < 1:
        raise ValueError(f"momentum is {m!r}; allowed: from 0, below 1")
    if rule == "keep":
        return m
    if rule == "samples":
        return m**ratio
    new = 1 - ((1 - m) * lr_factor / ratio if rule == "noise" else ratio * (1 - m))
    if not 0 <= new < 1:
        raise ValueError(
            f"momentum rule {rule!r} turns {m} into {new:.3g} at {ratio:g} times the batch; allowed: a rule that stays "
            f"from 0, below 1 (keep and samples always do)"
        )
    return new


def weight_decay(decay: float, ratio: float, rule: str = "keep", lr_factor: float = 1.0, regime: float = 0.0) -> float:
    """lambda' for a step that shrinks weights by eta lambda; `lr_factor` = eta'/eta.

    Raises ValueError for a negative decay or an unknown rule.
    """
    _check(ratio, rule, DECAY_RULES, "weight decay rule")
    if not decay >= 0:
        raise ValueError(f"weight decay is {decay!r}; allowed: 0 or more")
    if rule == "timescale":
        return decay * ratio / lr_factor
    if rule == "normalised":
        updates = regimes.stretch(ratio, regime) / ratio
        return decay / math.sqrt(updates) / lr_factor
    return decay


def epsilon(eps: float, ratio: float, rule: str = "keep") -> float:
    """eps' of Adam. Raises ValueError for an unknown rule."""
    _check(ratio, rule, EPS_RULES, "eps rule")
    return eps / math.sqrt(ratio) if rule == "sde" else eps


@dataclass(frozen=True)
class Recipe:
    """The numbers of a recipe that depend on its batch; None where it has no such number.

    `amounts` are all other amounts of training by name: duration, drops, cooldown, horizon.
    """

    batch: Quantity
    lr: float
    warmup: Quantity | None = None
    amounts: Mapping[str, Quantity] = field(default_factory=dict)
    momentum: float | None = None
    betas: tuple[float, float] | None = None
    eps: float | None = None
    weight_decay: float | None = None


@dataclass(frozen=True)
class Rescaling:
    """One change of batch under named rules: what it does to each number. Validated on construction."""

    ratio: float
    lr_scaling: str = "none"
    regime: float = 0.0
    momentum_rule: str = "keep"
    decay_rule: str = "keep"
    eps_rule: str = "keep"

    def __post_init__(self) -> None:
        regimes.stretch(self.ratio, self.regime)
        _check(self.ratio, self.lr_scaling, LR_SCALINGS, "lr_scaling")
        _check(self.ratio, self.momentum_rule, MOMENTUM_RULES, "momentum rule")
        _check(self.ratio, self.decay_rule, DECAY_RULES, "weight decay rule")
        _check(self.ratio, self.eps_rule, EPS_RULES, "eps rule")

    @property
    def lr_factor(self) -> float:
        """eta' / eta."""
        return lr_factor(self.ratio, self.lr_scaling)

    def lr(self, lr: float) -> float:
        """The learning rate at the new batch."""
        return lr * self.lr_factor

    def warmup(self, amount: Quantity) -> Quantity:
        """The warm-up at the new batch."""
        return warmup(amount, self.ratio, self.lr_scaling, self.regime)

    def amount(self, amount: Quantity) -> Quantity:
        """Any other amount of training at the new batch."""
        return regimes.stretched(amount, self.ratio, self.regime)

    def momentum(self, m: float) -> float:
        """A momentum or a beta at the new batch."""
        return momentum(m, self.ratio, self.momentum_rule, self.lr_factor)

    def weight_decay(self, decay: float) -> float:
        """The weight decay at the new batch."""
        return weight_decay(decay, self.ratio, self.decay_rule, self.lr_factor, self.regime)

    def eps(self, eps: float) -> float:
        """Adam's epsilon at the new batch."""
        return epsilon(eps, self.ratio, self.eps_rule)


def adapt(base: Recipe, batch: Quantity, *, per_sample: int = 1, **rules: str | float) -> Recipe:
    """The base recipe at another batch; `rules` are the options of `Rescaling`. At the base batch: unchanged.

    Raises ValueError for unknown rules or units, and where a rule leaves the range of its number.
    """
    change = Rescaling(batch_ratio(batch, base.batch, per_sample), **rules)  # type: ignore[arg-type]
    return replace(
        base,
        batch=batch,
        lr=change.lr(base.lr),
        warmup=None if base.warmup is None else change.warmup(base.warmup),
        amounts={name: change.amount(amount) for name, amount in base.amounts.items()},
        momentum=None if base.momentum is None else change.momentum(base.momentum),
        betas=None if base.betas is None else (change.momentum(base.betas[0]), change.momentum(base.betas[1])),
        eps=None if base.eps is None else change.eps(base.eps),
        weight_decay=None if base.weight_decay is None else change.weight_decay(base.weight_decay),
    )


def _samples(batch: Quantity, per_sample: int) -> float:
    if batch.unit not in BATCH or not batch.value > 0:
        raise ValueError(f"batch: found {batch}; allowed: a positive amount in {', '.join(BATCH)}")
    if batch.unit != "tokens":
        return batch.value
    if per_sample < 1 or batch.value % per_sample:
        raise ValueError(f"batch: found {batch}; allowed: a multiple of the context of {per_sample} tokens")
    return batch.value / per_sample


def _check(ratio: float, rule: str, allowed: tuple[str, ...], what: str) -> None:
    if rule not in allowed:
        raise ValueError(f"{what}: found {rule!r}; allowed: {', '.join(allowed)}{nearest(str(rule), allowed)}")
    if not (math.isfinite(ratio) and ratio > 0):
        raise ValueError(f"{what}: the batch ratio is {ratio!r}; allowed: a number above 0")
