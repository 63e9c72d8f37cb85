"""Does the best learning rate stay where it is as the model grows? The test that width transfer has to pass.

For every arm, size and seed the optimum is the vertex of a parabola in log learning rate, through the lowest loss and
two neighbours on each side where there are any. Its shift from the smallest to the largest size has an interval over
seeds, paired, as has the difference of the shifts of two arms. Source of the criterion: Yang et al. 2022 (2203.03466).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from isoloss.plan.optimum import vertex
from isoloss.worth.compare import interval
from isoloss.worth.results import Results

PATH = "training.optimizer.lr"


def width_transfer(results: Results) -> dict[str, Any]:
    """Optima by arm, N and seed, and how far they move: JSON types.

    ``results``: of a study whose grid sweeps the learning rate and the model's size. ``arms``: for each the ``optima``
    by N (geometric mean over seeds) and the ``shift``, log of the largest size's over the smallest's. ``between``: the
    differences of the magnitudes of two shifts. Intervals are for 90 %; fewer than three seeds give none. Raises
    ValueError where no learning rate is swept or there is one size only.
    """
    if PATH not in results.study.grid:
        raise ValueError(
            f"width transfer: the grid has no {PATH}; allowed: a study that sweeps it with the model's size"
        )
    losses: dict[str, dict[int, dict[str, dict[float, float]]]] = {}
    for r in results.results:
        if r.status == "done" and r.loss is not None:
            losses.setdefault(r.arm, {}).setdefault(r.N, {}).setdefault(r.seed, {})[r.lr] = r.loss
    if len({r.N for r in results.results}) < 2:
        raise ValueError("width transfer: one size; allowed: two or more")
    found, moved = [], {}
    for arm, sizes in losses.items():
        optima = {N: {seed: vertex(curve) for seed, curve in seeds.items()} for N, seeds in sorted(sizes.items())}
        first, last = optima[min(optima)], optima[max(optima)]
        shifts = {
            seed: math.log(high / low)
            for seed, low in first.items()
            if low is not None and (high := last.get(seed)) is not None
        }
        moved[arm] = shifts
        mean = {N: _mean([math.log(v) for v in by.values() if v is not None]) for N, by in optima.items()}
        found.append(
            {
                "arm": arm,
                "optima": [{"N": N, "lr": None if m is None else math.exp(m)} for N, m in mean.items()],
                "shift": _interval(list(shifts.values())),
                "edges": sum(v is None for by in optima.values() for v in by.values()),
            }
        )
    between = []
    for a, b in combinations(moved, 2):
        common = sorted(set(moved[a]) & set(moved[b]))
        signs = {arm: math.copysign(1.0, sum(moved[arm].values())) for arm in (a, b)}
        values = [signs[a] * moved[a][s] - signs[b] * moved[b][s] for s in common]
        between.append({"arms": [a, b], "difference": _interval(values)})
    return {"arms": found, "between": between}


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean over seeds with Student's interval."""
    mean, low, high = interval(values) if values else (None, None, None)
    return {"value": mean, "low": low, "high": high, "seeds": len(values)}
