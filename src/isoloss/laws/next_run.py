"""The next run: which one would narrow a wanted prediction most for its cost.

    var' = var - cov^2 / (var_run + noise^2)

var, var_run and cov of log L at the plan and at the run, over the resampled laws: what is left of the spread of the
plan once the run's outcome is known, the draws taken as Gaussian. In a linear model that is the change which the run
makes to the Fisher information. The calibrated part of the band shrinks too, as the run widens the measured ranges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from isoloss.laws.outlook import Outlook

Array = np.ndarray
Place = tuple[float, float]
SIZES, COSTS, CHEAPER = 9, 6, 4.0
"""Candidate runs: so many sizes at so many costs, each cost a CHEAPER-th of the one before."""
RELEVANT = 0.05
"""Share of the interval that a run must save to be ranked."""
MORE = 1.5
"""How much more than every cheaper ranked run a dearer one must save."""
OPTIONS = {"sizes": SIZES, "costs": COSTS, "cheaper": CHEAPER, "relevant": RELEVANT, "more": MORE}


def next_runs(outlook: Outlook, log_n: float, log_d: float, cost: float) -> dict[str, Any] | None:
    """Runs of at most `cost` FLOPs that would narrow the interval at exp(log_n), exp(log_d), as JSON types.

    ranked: by what they save per FLOP, of those that save RELEVANT or more and MORE than every cheaper one; most: the
    one that saves most. Each has kind (new, or repeat of a measured place with another seed), N, D, C, the expected low
    and high after it, narrower (share of the log width saved) and per_flop. before: log width now. None where there is
    no interval to narrow.
    """
    if outlook.support is None or not outlook.bounded:
        return None
    runs = candidates(outlook, log_n, log_d, cost)
    low, middle, high = (float(value[0]) for value in outlook.band(log_n, log_d))
    width = math.log(high / low)
    found: dict[str, Any] = {"cap": cost, "before": width, "ranked": [], "most": None}
    if not runs or not width > 0:
        return found
    below, above = after(outlook, (log_n, log_d), [place for place, _ in runs])
    rows: list[dict[str, Any]] = []
    for i, ((size, data), kind) in enumerate(runs):
        spent = math.exp(math.log(outlook.k) + size + data)
        saved = width - float(below[i] + above[i])
        rows.append(
            {
                "kind": kind,
                "N": math.exp(size),
                "D": math.exp(data),
                "C": spent,
                "low": middle * math.exp(-float(below[i])),
                "high": middle * math.exp(float(above[i])),
                "narrower": saved / width,
                "per_flop": saved / spent,
            }
        )
    saved_so_far, useful = RELEVANT / MORE, []
    for row in sorted(rows, key=lambda row: (round(1e6 * math.log(row["C"])), -float(row["narrower"]))):
        if row["narrower"] >= MORE * saved_so_far:
            saved_so_far = row["narrower"]
            useful.append(row)
    found["ranked"] = sorted(useful, key=lambda row: -float(row["per_flop"]))
    most = max(rows, key=lambda row: float(row["narrower"]))
    found["most"] = most if most["narrower"] > 0 else None
    return found


def candidates(outlook: Outlook, log_n: float, log_d: float, cost: float) -> list[tuple[Place, str]]:
    """((log N, log D), new or repeat) of runs of at most `cost` FLOPs, for a plan at exp(log_n), exp(log_d).

    New ones lie between what was measured and the plan in N, D and D / N, on a grid of cost and size: a large model
    on little data would move the measured ranges and tell nothing.
    """
    assert outlook.support is not None and outlook.ratios is not None
    n_low, n_high = (math.log(end) for end in outlook.support["N"])
    d_low, d_high = (math.log(end) for end in outlook.support["D"])
    n_high, d_high = max(n_high, log_n), max(d_high, log_d)
    m_low = min(math.log(outlook.ratios[0]), log_d - log_n)
    m_high = max(math.log(outlook.ratios[1]), log_d - log_n)
    found: list[tuple[Place, str]] = []
    for step in range(COSTS):
        pool = math.log(cost / CHEAPER**step)
        if pool < math.log(outlook.support["C"][0]):
            break
        for i in range(SIZES):
            size = n_low + (n_high - n_low) * i / (SIZES - 1)
            data = pool - math.log(outlook.k) - size
            # A hair of slack: equality must not hang on the last digit.
            inside = d_low - 1e-9 <= data <= d_high + 1e-9
            if inside and m_low - 1e-9 <= data - size <= m_high + 1e-9:
                found.append(((size, data), "new"))
    repeats = [(math.log(n), math.log(d)) for n, d in outlook.design if outlook.k * n * d <= cost]
    return found + [(place, "repeat") for place in repeats]


def after(outlook: Outlook, plan: Place, runs: Sequence[Place]) -> tuple[Array, Array]:
    """Expected (below, above) half-widths in log loss at a plan after one more run, for each of `runs` (log places)."""
    assert outlook.support is not None
    size, data = np.array(runs, dtype=float).reshape(-1, 2).T
    here = np.array([plan[0]]), np.array([plan[1]])
    below, above = (float(one[0]) for one in outlook.spread(*here, outlook.log_loss(*here)))
    left = _left(outlook, plan, size, data)
    cost = math.log(outlook.k) + size + data
    grown = {
        name: (np.minimum(low, np.exp(at)), np.maximum(high, np.exp(at)))
        for (name, (low, high)), at in zip(outlook.support.items(), (size, data, cost), strict=True)
    }
    half = outlook.half(outlook.distance(*plan, grown))
    return np.hypot(below * left, half), np.hypot(above * left, half)


def _left(outlook: Outlook, plan: Place, size: Array, data: Array) -> Array:
    """Share of the bootstrap spread at a plan that is left after each run; 1 without draws."""
    if outlook.draws is None:
        return np.ones(len(size))
    here = outlook.log_loss(*plan, drawn=True)[:, 0]
    there = outlook.log_loss(size, data, drawn=True)
    finite = np.isfinite(here) & np.isfinite(there).all(axis=1)
    here, there = here[finite] - here[finite].mean(), there[finite] - there[finite].mean(axis=0)
    scale = outlook.wider**2 / max(len(here) - 1, 1)
    variance, own, shared = scale * (here @ here), scale * np.sum(there**2, axis=0), scale * (here @ there)
    if not variance > 0:
        return np.ones(len(size))
    return np.sqrt(np.maximum(1.0 - shared**2 / (own + outlook.noise**2) / variance, 0.0))
