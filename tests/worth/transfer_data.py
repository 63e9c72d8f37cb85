"""Transfer tables with a planted law: what several tests read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LAW = {"k": 400.0, "alpha": 0.18, "beta": 0.4}
CLOSER = {"k": 1200.0, "alpha": 0.08, "beta": 0.4}
SIZES = (1e5, 4e5, 1.6e6)
DATA = tuple(1e4 * 4.0**i for i in range(8))
TARGET = (1e4, 4e4, 1.6e5)
PRETRAIN = 1e8


def loss(D: float, N: float) -> float:
    return 1.2 + 20 / N**0.3 + 60 / D**0.4


def transferred(law: Mapping[str, float], D: float, N: float) -> float:
    return law["k"] * D ** law["alpha"] * N ** law["beta"]


def cost(D: float, N: float) -> float:
    return 6 * N * D * 5


def planted(
    noise: float = 0.0,
    seeds: int = 5,
    chance: np.random.Generator | None = None,
    *,
    laws: Mapping[str, Mapping[str, float]] | None = None,
    sizes: Sequence[float] = SIZES,
    data: Sequence[float] = DATA,
    target: Sequence[float] = TARGET,
    curve: Any = loss,
) -> list[dict[str, Any]]:
    """A fine-tuned loss is that of the curve at D_F + D_T. A seed moves all its runs by twice the noise of one run."""
    chance = chance or np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        for N in sizes:
            both = chance.normal(0, 2 * noise)

            def row(
                arm: str, D: float, at: float, N: float = N, seed: int = seed, both: float = both
            ) -> dict[str, Any]:
                value = curve(at, N) * math.exp(both + chance.normal(0, noise))
                return {"arm": arm, "N": N, "D_F": D, "seed": seed, "loss": value, "C": cost(D, N)}

            rows += [row("scratch", D, D) for D in data]
            for name, law in ({"text": LAW} if laws is None else laws).items():
                rows += [row(name, D, D + transferred(law, D, N)) | {"C_pretrain": 6 * N * PRETRAIN} for D in target]
    return rows
