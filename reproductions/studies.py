"""All reproductions, in the order of the papers."""

from __future__ import annotations

from reproductions import extrapolation, fixed_durations, optimizers, train_longer, transfer
from reproductions.page import Reproduction

ALL: tuple[Reproduction, ...] = (
    fixed_durations.REPRODUCTION,
    train_longer.REPRODUCTION,
    extrapolation.REPRODUCTION,
    optimizers.REPRODUCTION,
    *transfer.REPRODUCTIONS,
)
