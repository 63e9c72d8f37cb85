"""Worth in data: what pre-training is worth, in target data that training from scratch would have needed.

    D_E   data at which training from scratch (same N) reaches the fine-tuned loss      worth.effective
    D_T = D_E - D_F,   fraction D_T / D_E,   multiplier D_E / D_F
    D(N)  data for 99 % of infinite-data performance, L(inf) = 0.99 L(D(N)); low data is D_F <= 0.1 D(N)
    law   D_T = k D_F^alpha N^beta                                                      worth.transfer_law

Ossified: fine-tuned worse than from scratch on the same target data. Hurt: worse than the same model fine-tuned on less
(D_F = 0 is the pre-trained model itself). Both are one-sided tests over all cells by Holm's rule at 5 %.
Intervals are for 90 %, from roots (seeds); fewer than three give none. Source: Hernandez et al. 2021 (2102.01293).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from isoloss.laws import Points, fit
from isoloss.recipe.errors import nearest
from isoloss.worth import transfer_law
from isoloss.worth.compare import FEWEST_SEEDS, LEVEL
from isoloss.worth.effective import Effective, ScratchCurve, paired
from isoloss.worth.transfer_compute import compute_view
from isoloss.worth.transfer_text import sentences

__all__ = ["ALARM", "LOW_DATA", "PERFORMANCE", "Row", "answer", "infinite_data", "read_rows", "regime", "sentences"]

PERFORMANCE = 0.99
"""Share of infinite-data performance that defines D(N)."""
LOW_DATA = 0.1
"""Share of D(N) up to which target data counts as low."""
ALARM = 0.05
"""Level of the tests for ossification and hurt, over all cells together."""
FEWEST_FOR_FLOOR = 5
"""Sizes of data from scratch that an estimate of the loss at infinite data needs."""
DRAWS = 200

NUMBERS = ("N", "D_F", "loss", "C", "C_pretrain")
Interval = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One finished training: D_F unique target data (all its data for a run from scratch), its best held-out loss.

    C: training FLOPs of this run alone; C_pretrain: those of the pre-training that it started from.
    """

    arm: str
    N: float
    D_F: float
    seed: str
    loss: float
    C: float | None = None
    C_pretrain: float | None = None


def read_rows(rows: Iterable[Row | Mapping[str, Any]], scratch: str = "scratch") -> list[Row]:
    """Checked rows. Raises ValueError that names the row and the fault."""
    table: list[Row] = []
    for index, given in enumerate(rows):
        record = asdict(given) if isinstance(given, Row) else given
        missing = [name for name in ("arm", "N", "D_F", "seed", "loss") if record.get(name) is None]
        if missing:
            raise ValueError(
                f"transfer: row {index} lacks {', '.join(missing)}; allowed: arm, N, D_F, seed, loss, C, C_pretrain"
            )
        numbers = {n: None if record.get(n) is None else float(record[n]) for n in NUMBERS}
        row = Row(str(record["arm"]), seed=str(record["seed"]), **numbers)  # type: ignore[arg-type]
        known = [v for v in numbers.values() if v is not None]
        fine = all(math.isfinite(v) and v >= 0 for v in known) and row.N > 0 and row.loss > 0
        # Only a pre-trained model that is not fine-tuned may have cost and seen nothing.
        if not fine or (row.D_F == 0 and row.arm == scratch) or (row.C == 0 and row.D_F > 0):
            raise ValueError(
                f"transfer: row {index} ({row.arm}) has {numbers}; allowed: finite numbers, N and loss above 0, "
                f"D_F and C above 0 (0 for a pre-trained model that was not fine-tuned)"
            )
        table.append(row)
    seen: set[tuple[Any, ...]] = set()
    for row in table:
        place = (row.arm, row.N, row.D_F, row.seed)
        if place in seen:
            raise ValueError(
                f"transfer: two rows of arm {row.arm!r}, N = {row.N:g}, D_F = {row.D_F:g}, seed {row.seed}; "
                "allowed: one, the tuned one"
            )
        seen.add(place)
    return table


def answer(
    rows: Iterable[Row | Mapping[str, Any]],
    *,
    scratch: str = "scratch",
    unit: str = "tokens",
    uses: float = 1.0,
) -> dict[str, Any]:
    """What every source of pre-training is worth at every (N, D_F), the laws, the compute view, as JSON types.

    scratch: the arm trained from scratch; every other arm is one source of pre-training. unit: what D counts.
    uses: fine-tunings over which one pre-training is charged. Raises ValueError for rows that cannot be compared.
    """
    table = read_rows(rows, scratch)
    sources = _check(table, scratch)
    curves, sizes = _curves([row for row in table if row.arm == scratch], scratch)
    cells: list[dict[str, Any]] = []
    usable: dict[str, list[transfer_law.Cell]] = {source: [] for source in sources}
    left_out: dict[str, dict[str, int]] = {source: {} for source in sources}
    for source in sources:
        for N in sorted({row.N for row in table if row.arm == source}):
            own = _by_data([row for row in table if row.arm == source and row.N == N])
            for D_F, losses in own.items():
                found = curves[N].effective(losses)
                cell = _cell(source, N, D_F, losses, found, curves[N], sizes[N]["D_infinite"])
                less = [paired(losses, own[D]) for D in own if D < D_F]
                cell["p_hurt"] = min((a.p_worse for a in less if a.p_worse is not None), default=None)
                # The best of several smaller sets is compared: as many tests as there are sets.
                cell["p_hurt"] = cell["p_hurt"] and min(1.0, cell["p_hurt"] * len(less))
                cells.append(cell)
                reason = _use(cell, found, usable[source])
                if reason:
                    left_out[source][reason] = left_out[source].get(reason, 0) + 1
    _holm(cells, "p_ossified", "ossified")
    _holm(cells, "p_hurt", "hurt")
    answered: dict[str, Any] = {
        "unit": unit,
        "level": LEVEL,
        "scratch": scratch,
        "sources": sources,
        "sizes": list(sizes.values()),
        "cells": cells,
        "laws": [_law(source, usable[source], left_out[source]) for source in sources],
        "between_sources": [_between(a, b, usable) for a, b in combinations(sources, 2)],
        "compute": compute_view(table, scratch, cells, uses),
    }
    return answered | {"text": sentences(answered)}


def _check(table: Sequence[Row], scratch: str) -> list[str]:
    """Names of the sources; raises ValueError where rows do not fit together."""
    arms = list(dict.fromkeys(row.arm for row in table))
    if scratch not in arms:
        hint = nearest(scratch, arms)
        raise ValueError(f"transfer: no rows of arm {scratch!r}; found: {', '.join(arms) or 'no rows at all'}{hint}")
    sources = [arm for arm in arms if arm != scratch]
    if not sources:
        raise ValueError(f"transfer: all rows are of arm {scratch!r}; allowed: at least one fine-tuned arm beside it")
    sizes = sorted({row.N for row in table if row.arm == scratch})
    for row in table:
        if row.N not in sizes:
            raise ValueError(
                f"transfer: arm {row.arm!r} has N = {row.N:g} and no run from scratch has; "
                f"allowed: {', '.join(f'{N:g}' for N in sizes)}"
            )
    for N in sizes:
        data = {row.D_F for row in table if row.arm == scratch and row.N == N}
        if len(data) < 2:
            raise ValueError(
                f"transfer: the curve from scratch at N = {N:g} is too short to invert: {len(data)} size of data; "
                "allowed: two or more, far enough apart to reach the fine-tuned loss"
            )
    return sources


def _by_data(rows: Sequence[Row]) -> dict[float, dict[str, float]]:
    found: dict[float, dict[str, float]] = {}
    for row in sorted(rows, key=lambda r: r.D_F):
        found.setdefault(row.D_F, {})[row.seed] = row.loss
    return found


def _curves(rows: Sequence[Row], scratch: str) -> tuple[dict[float, ScratchCurve], dict[float, dict[str, Any]]]:
    curves, sizes = {}, {}
    for N in sorted({row.N for row in rows}):
        own = [row for row in rows if row.N == N]
        curve = curves[N] = ScratchCurve(_by_data(own))
        levels = zip(curve.D, curve.mean, curve.log_mean, strict=True)
        sizes[N] = {
            "N": N,
            "seeds": curve.seeds,
            "curve": [{"D": float(D), "loss": float(m), "monotone": math.exp(s)} for D, m, s in levels],
            "D_infinite": infinite_data(own),
        }
    return curves, sizes


def infinite_data(rows: Sequence[Row]) -> Interval:
    """D(N) of one size from L = E + b D^-c: E = 0.99 L gives D = (99 b / E)^(1/c), where it is inside the runs.

    Beyond the largest data it is "more than" that: a floor that was not approached is not known. The curve itself gives
    a lower bound without any law: infinite data do at least as well as the largest data, so D(N) is not below the data
    for 99 % of that performance. Where the sizes are too few for the law, this bound is all.
    """
    D = sorted({row.D_F for row in rows})
    found: Interval = dict.fromkeys(("value", "bound", "low", "high")) | {"side": "", "open": "", "note": ""}
    if len(D) < FEWEST_FOR_FLOOR:
        note = f"no estimate from {len(D)} sizes of data, {FEWEST_FOR_FLOOR} are the fewest"
        least = _least(rows) if len(D) > 1 else 0.0
        return found | {"note": note} | ({"low": least, "open": "high"} if least > D[0] else {})
    points = Points(D=[row.D_F for row in rows], loss=[row.loss for row in rows], cluster=[row.seed for row in rows])
    odds = PERFORMANCE / (1.0 - PERFORMANCE)

    def needed(p: Mapping[str, Any]) -> Any:
        with np.errstate(all="ignore"):
            return (odds * np.asarray(p["b"]) / np.asarray(p["E"])) ** (1.0 / np.asarray(p["c"]))

    try:
        law = fit(points, "m2", x="D", loss="squared", cluster="cluster")
        value = float(needed(law.parameters))
        if math.isnan(value):
            return found | {"note": "the law of the curve from scratch has no loss at infinite data"}
        if D[0] <= value <= D[-1]:
            found |= {"value": value}
        else:
            found |= {"side": "less", "bound": D[0]} if value < D[0] else {"side": "more", "bound": D[-1]}
        if len({row.seed for row in rows}) >= FEWEST_SEEDS:
            ends = law.bootstrap(DRAWS).interval(needed, LEVEL)
            # What is not a number bounds nothing.
            low, high = max(_least(rows), 0.0 if math.isnan(ends.low) else ends.low), ends.high
            opened = {(True, True): "both", (True, False): "low", (False, True): "high"}
            found["open"] = opened.get((low < D[0], not high <= D[-1]), "")
            found["low"] = None if low < D[0] else min(low, D[-1])
            found["high"] = max(high, D[0]) if high <= D[-1] else None
    except ValueError as error:  # a LawError too
        found["note"] = str(error)
    return found


def _least(rows: Sequence[Row]) -> float:
    """Data that surely fall short of 99 % of the performance at the largest data; 0 where none do."""
    by_D = _by_data(rows)
    last = {root: loss / PERFORMANCE for root, loss in by_D[max(by_D)].items()}
    return ScratchCurve(by_D).effective(last).low or 0.0


def regime(D_F: float, limit: Interval) -> str:
    """ "low data", "beyond" or "not resolved", with the whole interval of D(N) where there is one."""
    if limit["low"] is None and limit["high"] is None and not limit["open"]:
        lowest = limit["bound"] if limit["side"] == "more" else limit["value"]
        highest = limit["bound"] if limit["side"] == "less" else limit["value"]
    else:
        lowest, highest = limit["low"], limit["high"]
    if lowest is not None and LOW_DATA * lowest >= D_F:
        return "low data"
    return "beyond" if highest is not None and LOW_DATA * highest < D_F else "not resolved"


def _cell(
    source: str,
    N: float,
    D_F: float,
    losses: Mapping[str, float],
    found: Effective,
    curve: ScratchCurve,
    limit: Interval,
) -> dict[str, Any]:
    """Worth at one (source, N, D_F)."""
    D_E = found.record()
    against = curve.against(losses, D_F) if D_F > 0 else None

    def turned(function: Any) -> Interval:
        names = ("value", "bound", "low", "high")
        return {"side": found.side, "open": found.open} | {
            name: None if D_E[name] is None else float(function(D_E[name])) for name in names
        }

    return {
        "source": source,
        "N": N,
        "D_F": D_F,
        "loss": sum(losses.values()) / len(losses),
        "seeds": found.seeds,
        "D_E": D_E,
        "D_T": turned(lambda D: D - D_F),
        "fraction": turned(lambda D: 1.0 - D_F / D),
        "multiplier": turned(lambda D: D / D_F) if D_F > 0 else None,
        "regime": regime(D_F, limit),
        "over_scratch": None if against is None else {n: getattr(against, n) for n in ("ratio", "low", "high")},
        "p_ossified": None if against is None else against.p_worse,
    }


def _use(cell: Mapping[str, Any], found: Effective, usable: list[transfer_law.Cell]) -> str:
    """Take a cell into the law, or say why not."""
    D_F, D_E = cell["D_F"], found.value
    if D_F == 0:
        return "no target data"
    if cell["regime"] == "beyond":
        return "beyond low data"
    if D_E is None:
        return f"{found.side} than the curve from scratch"
    if found.parts is None:
        return "on a flat stretch of the curve from scratch"
    D_T = D_E - D_F
    if D_T <= 0 or (found.seeds >= FEWEST_SEEDS and (found.low is None or found.low <= D_F)):
        return "no transfer resolved"
    stretch = D_E / D_T
    parts = {root: stretch * value for root, value in found.parts.items()}
    usable.append(transfer_law.Cell(cell["N"], D_F, D_T, parts))
    return ""


def _holm(cells: Sequence[dict[str, Any]], p: str, flag: str) -> None:
    """Mark the cells whose test rejects at ALARM over all cells together (Holm 1979)."""
    for cell in cells:
        cell[flag] = False
    tested = sorted((c for c in cells if c[p] is not None), key=lambda c: float(c[p]))
    for rank, cell in enumerate(tested):
        if cell[p] > ALARM / (len(tested) - rank):
            break
        cell[flag] = True


def _law(source: str, cells: Sequence[transfer_law.Cell], left_out: Mapping[str, int]) -> dict[str, Any]:
    reason = transfer_law.refusal(cells)
    record: dict[str, Any] = {"source": source, "left_out": dict(left_out), "reason": reason}
    if reason:
        return record
    try:
        return record | transfer_law.law(cells)
    except ValueError as error:
        return record | {"reason": str(error)}


def _between(a: str, b: str, usable: Mapping[str, Sequence[transfer_law.Cell]]) -> dict[str, Any]:
    record: dict[str, Any] = {"first": a, "second": b, "reason": None}
    try:
        return record | transfer_law.same(usable[a], usable[b])
    except ValueError as error:
        return record | {"reason": str(error)}
