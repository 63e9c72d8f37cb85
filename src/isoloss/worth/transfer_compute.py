"""The compute view of transfer: fine-tuning against training from scratch in FLOPs, with and without pre-training.

At equal loss: FLOPs from scratch at D_E over those of the fine-tuning, and after how many fine-tunings the
pre-training has paid for itself. At equal FLOPs: the best measured loss from scratch on no more target data that costs
no more. Nothing is extrapolated: both views use measured runs, or stay empty. Intervals hold the uncertainty of D_E and
the seeds' scatter of the costs, which early stopping makes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from isoloss.worth.compare import monotone
from isoloss.worth.effective import paired

if TYPE_CHECKING:
    from isoloss.worth.transfer import Row


def compute_view(
    table: Sequence[Row],
    scratch: str,
    cells: Sequence[Mapping[str, Any]],
    uses: float,
) -> list[dict[str, Any]]:
    """One record a cell whose runs say what they cost. Raises ValueError for `uses` not above 0."""
    if not uses > 0:
        raise ValueError(f"transfer: pre-training is charged over uses = {uses}; allowed: above 0")
    found = []
    for cell in cells:
        own = [r for r in table if (r.arm, r.N, r.D_F) == (cell["source"], cell["N"], cell["D_F"])]
        spent = _mean([r.C for r in own]) if cell["D_F"] > 0 else 0.0
        before = _mean([r.C_pretrain for r in own])
        if spent is None or (spent == 0 and before is None):
            continue
        record: dict[str, Any] = {"source": cell["source"], "N": cell["N"], "D_F": cell["D_F"], "C": spent}
        record |= {"C_pretrain": before, "uses": uses}
        record["equal_loss"] = _equal_loss(table, scratch, cell, own, spent, before, uses)
        record["equal_flops"] = _equal_flops(table, scratch, cell, own, spent, before, uses)
        found.append(record)
    return found


def _equal_loss(
    table: Sequence[Row],
    scratch: str,
    cell: Mapping[str, Any],
    own: Sequence[Row],
    spent: float,
    before: float | None,
    uses: float,
) -> dict[str, Any] | None:
    """Ratios of FLOPs to the fine-tuned loss (scratch over fine-tuned, above 1: fine-tuning is cheaper)."""
    costs = _costs(table, scratch, cell["N"])
    if costs is None:
        return None
    x, y = (np.log(np.array(v)) for v in (list(costs), list(costs.values())))

    def from_scratch(D: float | None) -> float | None:
        return None if D is None else math.exp(float(np.interp(math.log(D), x, y)))

    D_E = cell["D_E"]
    needed = {name: from_scratch(D_E[name]) for name in ("value", "low", "high", "bound")}
    there = _at(table, scratch, cell["N"], D_E["bound"] if D_E["value"] is None else D_E["value"])

    def over(cost: float | None, added: float = 0.0) -> dict[str, Any] | None:
        if not cost:
            return None
        costs = paired(there, {r.seed: r.C + added for r in own if r.C is not None})
        wider = 1.0 if costs.high is None else costs.high / costs.ratio
        factors = {"value": 1.0, "low": 1.0 / wider, "high": wider, "bound": 1.0}
        ratios = {name: None if v is None else v / cost * factors[name] for name, v in needed.items()}
        return {**ratios, "side": D_E["side"], "open": D_E["open"]}

    def above(cost: float | None) -> float | None:
        # One rounding is no saving.
        return None if cost is None else 0.0 if math.isclose(cost, spent, rel_tol=1e-9) else cost - spent

    saved = above(needed["value"])
    least = above(needed["bound"]) if D_E["side"] == "more" else None
    charge = None if before is None else before / uses
    uses_needed = before / saved if before is not None and saved is not None and saved > 0 else None
    at_most = before / least if before is not None and least is not None and least > 0 else None
    free = over(spent)
    return {
        "C_scratch": needed["value"],
        "free": free,
        "charged": None if charge is None else over(spent + charge, charge),
        "break_even_uses": uses_needed,
        "break_even_at_most": at_most,
        "never": saved is not None and saved <= 0,
        "resolved": free is None or _resolved(free),
    }


def _resolved(free: Mapping[str, Any]) -> bool:
    """Whether it is known on which side of 1 a ratio lies; a ratio without an interval is taken as it is."""
    low, high = free["low"], free["high"]
    if free["side"] or (low is None and high is None and not free["open"]):
        return True
    return (low is not None and low > 1) or (high is not None and high < 1)


def _equal_flops(
    table: Sequence[Row],
    scratch: str,
    cell: Mapping[str, Any],
    own: Sequence[Row],
    spent: float,
    before: float | None,
    uses: float,
) -> dict[str, Any]:
    """Fine-tuned loss over the best from scratch (any size) on no more target data, within the same FLOPs."""
    groups: dict[tuple[float, float], list[Row]] = {}
    for row in table:
        if row.arm == scratch and row.C is not None and cell["D_F"] >= row.D_F:
            groups.setdefault((row.N, row.D_F), []).append(row)
    losses = {row.seed: row.loss for row in own}
    found: dict[str, Any] = {}
    for name, budget in (("free", spent), ("charged", None if before is None else spent + before / uses)):
        found[name] = None
        if budget is None:
            continue
        # One rounding of a cost must not decide who may compete.
        within = [g for g in groups.values() if float(np.mean([r.C for r in g])) <= budget * (1 + 1e-9)]
        if within:
            best = min(within, key=lambda g: float(np.mean([r.loss for r in g])))
            against = paired(losses, {r.seed: r.loss for r in best})
            found[name] = {"N": best[0].N, "D": best[0].D_F, "ratio": against.ratio}
            found[name] |= {"low": against.low, "high": against.high}
    return found


def _costs(table: Sequence[Row], scratch: str, N: float) -> dict[float, float] | None:
    """Mean FLOPs from scratch by D, made non-decreasing; None where a run does not say."""
    rows = [row for row in table if row.arm == scratch and row.N == N]
    if any(row.C is None for row in rows):
        return None
    D = sorted({row.D_F for row in rows})
    mean = np.log([np.mean([row.C for row in rows if at == row.D_F]) for at in D])
    # Where training stops early is noisy, and more data never costs less to learn from.
    return dict(zip(D, np.exp(-monotone(-mean)).tolist(), strict=True))


def _at(table: Sequence[Row], scratch: str, N: float, D: float) -> dict[str, float]:
    """FLOPs from scratch at D by seed, between its own runs."""
    logs: dict[str, dict[float, float]] = {}
    for row in table:
        if row.arm == scratch and row.N == N and row.C is not None:
            logs.setdefault(row.seed, {})[math.log(row.D_F)] = math.log(row.C)
    found = {}
    for seed, costs in logs.items():
        x = sorted(costs)
        found[seed] = math.exp(float(np.interp(math.log(D), x, [costs[at] for at in x])))
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
