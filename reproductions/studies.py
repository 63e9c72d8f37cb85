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


def named(folder: str) -> Reproduction:
    """The reproduction of that folder. Raises ValueError with the names there are."""
    for made in ALL:
        if made.folder == folder:
            return made
    raise ValueError(f"no reproduction {folder!r}; allowed: {', '.join(made.folder for made in ALL)}")
