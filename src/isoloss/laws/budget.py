"""The answer to a budget: the best split or a wanted size, what equals it in loss, and the curves around it.

Part of `laws.outlook`, in the same order of operations as the planner of the page (`report/assets/planner.js`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from isoloss.laws.next_run import next_runs

if TYPE_CHECKING:
    from isoloss.laws.outlook import Outlook

FACTORS = (0.5, 2.0, 4.0)
"""Sizes, over the chosen one, of the equal-loss alternatives."""
CURVE, ISO = 61, 61
SPREAD = 32.0
"""The curves run from the chosen size over this to it times this."""
CAP = 0.1
"""The next run costs at most this share of the budget."""


def budget_answer(outlook: Outlook, C: float, N: float | None = None) -> dict[str, Any]:
    """Everything about a budget of C FLOPs (with N parameters: at that size), as JSON types.

    Keys: C, N, D, M = D/N, loss with low and high (a new run), best (N, D, loss and intervals of the best split),
    times and distance beyond the measured ranges, alternatives and iso (equal loss), curve (loss along N at C with
    its band), next (runs that would narrow the interval). Where refused says why, nothing else is known.
    """
    log_c = math.log(C)
    best = float(outlook.optimum(C))
    log_n = best if N is None else math.log(N)
    log_d = log_c - math.log(outlook.k) - log_n
    place = {"C": C, "N": exp_of(log_n), "D": exp_of(log_d), "M": exp_of(log_d - log_n)}
    refused = outlook.refusal(math.exp(log_n), math.exp(log_d))
    if refused:
        return place | {"refused": refused}
    low, middle, high = (number(value[0]) for value in outlook.band(log_n, log_d))
    return place | {
        "refused": None,
        "loss": middle,
        "low": low,
        "high": high,
        "times": outlook.times(math.exp(log_n), math.exp(log_d)),
        "distance": float(outlook.distance(log_n, log_d)),
        "best": _best(outlook, C, best),
        "alternatives": _alternatives(outlook, log_n, log_d),
        "curve": _curve(outlook, log_n, log_c),
        "iso": _iso(outlook, log_n, log_d),
        "next": next_runs(outlook, log_n, log_d, CAP * C),
    }


def _best(outlook: Outlook, C: float, log_n: float) -> dict[str, Any] | None:
    if not math.isfinite(log_n):
        return None
    log_pool = math.log(C / outlook.k)
    found: dict[str, Any] = {"N": math.exp(log_n), "D": math.exp(log_pool - log_n)}
    found["loss"] = float(np.exp(outlook.log_loss(log_n, log_pool - log_n)))
    low, high = math.nan, math.nan
    if outlook.draws is not None:
        drawn = outlook.optimum(C, drawn=True)[:, 0]
        low, high = (float(end[0]) for end in outlook.ends(drawn[:, None], np.array([log_n])))
    found |= {"N_low": exp_of(low), "N_high": exp_of(high)}
    return found | {"D_low": exp_of(log_pool - high), "D_high": exp_of(log_pool - low)}


def _alternatives(outlook: Outlook, log_n: float, log_d: float) -> list[dict[str, Any]]:
    """Other sizes that reach the same loss: their data, compute over this one's, and its interval over draws."""
    target = float(outlook.log_loss(log_n, log_d))
    sizes = log_n + np.log(np.array(FACTORS))
    data = outlook.same_loss(sizes, target)
    extra = sizes + data - log_n - log_d
    low = high = np.full(len(sizes), np.nan)
    if outlook.draws is not None:
        aims = outlook.log_loss(log_n, log_d, drawn=True)
        drawn = sizes + outlook.same_loss(sizes[None, :], aims, drawn=True) - log_n - log_d
        low, high = outlook.ends(drawn, extra)
    return [
        {
            "factor": factor,
            "N": exp_of(sizes[i]),
            "D": exp_of(data[i]),
            "C": exp_of(math.log(outlook.k) + sizes[i] + data[i]),
            "compute": exp_of(extra[i]),
            "low": exp_of(low[i]) if math.isfinite(extra[i]) else None,
            "high": exp_of(high[i]) if math.isfinite(extra[i]) else None,
        }
        for i, factor in enumerate(FACTORS)
    ]


def _curve(outlook: Outlook, log_n: float, log_c: float) -> dict[str, list[float | None]]:
    """Loss along N at one compute, with its band."""
    sizes = log_n + math.log(SPREAD) * np.linspace(-1.0, 1.0, CURVE)
    data = log_c - math.log(outlook.k) - sizes
    low, middle, high = outlook.band(sizes, data)
    columns = {"N": np.exp(sizes), "D": np.exp(data), "loss": middle, "low": low, "high": high}
    return {name: [number(value) for value in values] for name, values in columns.items()}


def _iso(outlook: Outlook, log_n: float, log_d: float) -> dict[str, list[float | None]]:
    """Data along N at equal loss."""
    sizes = log_n + math.log(SPREAD) * np.linspace(-1.0, 1.0, ISO)
    data = outlook.same_loss(sizes, float(outlook.log_loss(log_n, log_d)))
    return {"N": [number(v) for v in np.exp(sizes)], "D": [number(v) for v in np.exp(data)]}


def exp_of(value: float) -> float | None:
    """e**value; None where that is no finite number."""
    return number(math.exp(value)) if math.isfinite(value) else None


def number(value: Any) -> float | None:
    """A finite number, else None."""
    return float(value) if math.isfinite(value) else None
