"""Regime adaptation: every phase of a recipe stretched with the batch.

    r = B_L / B_S                        batch over base batch
    s = r^p                              stretch in samples; p = regime, from 0 to 1
    E' = E s                             an amount of epochs, samples or tokens
    U' = U s / r                         an amount of updates

p = 0 keeps the epochs (r times fewer updates), p = 1 keeps the updates (r times more epochs). Source: Hoffer et
al. 2017 (arXiv 1705.08741), who use p = 1; their code multiplies by ceil(r), which is r for whole ratios. Values
between 0 and 1 are this package's convention and not published; so is the use for batches below the base (r < 1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from isoloss.recipe.units import DURATION, Quantity


def stretch(ratio: float, regime: float) -> float:
    """r^p, the factor on samples seen. Raises ValueError unless ratio > 0 and 0 <= regime <= 1."""
    if not (math.isfinite(ratio) and ratio > 0):
        raise ValueError(f"regime: the batch ratio is {ratio!r}; allowed: a number above 0")
    if not 0 <= regime <= 1:
        raise ValueError(f"regime: found {regime!r}; allowed: 0 (equal epochs) to 1 (equal updates)")
    return ratio**regime


def stretched(amount: Quantity, ratio: float, regime: float) -> Quantity:
    """An amount of training of the base recipe at `ratio` times its batch, in the unit it came in.

    Whole units are rounded, so an amount below half an update becomes 0. The order of amounts in one unit is
    kept. Raises ValueError for a unit that is no duration.
    """
    factor = stretch(ratio, regime)
    if amount.unit not in DURATION:
        raise ValueError(f"regime: found {amount}; allowed: an amount of training in {', '.join(DURATION)}")
    return amount.scaled(factor / ratio if amount.unit == "updates" else factor)


def adapt(amounts: Mapping[str, Quantity], ratio: float, regime: float) -> dict[str, Quantity]:
    """All amounts of a recipe (durations, drops, cooldowns) by name, stretched alike."""
    return {name: stretched(amount, ratio, regime) for name, amount in amounts.items()}
