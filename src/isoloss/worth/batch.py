"""The large-batch question: what a larger batch saves in updates, where that ends, and what a method gives back.

At one target loss every (arm, batch, seed) has a number of updates S and of samples E, read off its curve of loss
against samples (monotone, never extrapolated: `worth.compare.Curve`).

    speed-up      S(B0) / S(B)                against the smallest batch of the baseline; perfect is B / B0
    excess        E(B) / E(B0)                perfect over real speed-up; scaling has ended above 1.2
    critical      (S/S_min - 1)(E/E_min - 1) = 1    so S = S_min (1 + B_crit / B), B_crit = E_min / S_min
    gap closed    (LB - method) / (LB - SB)   of losses at the end of training

Seeds are paired: log S = cell + seed + noise, one noise for all cells, so speed-ups have Student's t intervals with the
degrees of freedom of that additive model. B_crit has the interval of its profile under the same noise (the other
parameter drops out of it); where the runs bound it from one side only, the other side is None. Fewer than three seeds
give no interval. Sources: McCandlish et al. 2018 (1812.06162) for the hyperbola and the noise scale; Hoffer et al. 2017
(1705.08741) for the gap and both laws of distance; Fieller 1954 for the interval of a ratio of means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from isoloss.laws import Points, fit
from isoloss.worth.batch_fits import FAR, MISFIT, NOTHING, Additive, Cell, additive, fieller, growth, profile
from isoloss.worth.batch_text import text
from isoloss.worth.compare import FEWEST_SEEDS, LEVEL, Curve, Ratio

if TYPE_CHECKING:
    from isoloss.worth.compare import Rows
    from isoloss.worth.results import Result

EXCESS = 1.2
"""Samples to the target, over those of the smallest batch, at which perfect scaling has ended."""
TARGETS = 5
FEWEST_BATCHES = 3
FAMILY = "batch"
"""Name of the one arm that arms which differ in nothing but their batch are taken for."""
__all__ = ["EXCESS", "Noise", "Row", "answer", "fieller", "gap", "growth", "named", "rows_of", "text"]

Noise = Mapping[str, Mapping[str, tuple[float, float]]]
"""By arm and seed: the averages of S and |G|^2, in samples."""


@dataclass(frozen=True)
class Row:
    """One measured loss: batch and D in their own units (samples, tokens), S updates; `duration` names one recipe."""

    arm: str
    batch: float
    N: int
    seed: str
    D: float
    S: float
    loss: float
    duration: str = ""


def named(results: Rows) -> list[tuple[str, Result]]:
    """Finished runs with the names of their arms, the baseline's first; axes beside batch, duration, seed and model
    join the arm."""
    done = [r for r in results.results if r.status == "done" and r.loss is not None]
    own = ("seed", "duration", "training.batch")
    varied = {
        path
        for r in done
        for path in r.cell
        if path not in own
        and not path.startswith("model.")
        and len({str(other.cell[path]) for other in done if path in other.cell}) > 1
    }
    return [
        (" · ".join([r.arm, *(f"{path.rpartition('.')[2]}={r.cell[path]}" for path in r.cell if path in varied)]), r)
        for r in sorted(done, key=lambda r: r.arm != results.baseline)
    ]


def rows_of(results: Rows) -> list[Row]:
    """Finished runs of a study as rows, their arms as in `named`.

    A run contributes its final loss; where a batch has one duration only, also the losses along the way.
    """
    found: list[Row] = []
    durations: dict[tuple[str, int, int], set[int]] = {}
    runs = named(results)
    for _, r in runs:
        durations.setdefault((r.arm, r.facts.batch, r.N), set()).add(r.S)
    for arm, r in runs:
        label = str(r.cell.get("duration", ""))
        assert r.loss is not None
        found.append(Row(arm, r.facts.batch, r.N, r.seed, r.D, r.S, r.loss, label))
        if len(durations[r.arm, r.facts.batch, r.N]) == 1:
            per = r.D / r.S
            found += [Row(arm, r.facts.batch, r.N, r.seed, at * per, at, loss) for at, loss in r.curve if at < r.S]
    return found


def answer(
    rows: Iterable[Row | Mapping[str, Any]],
    *,
    target: float | None = None,
    baseline: str | None = None,
    noise: Noise | Callable[[int], Noise] | None = None,
    unit: str = "samples",
) -> dict[str, Any]:
    """The large-batch question over an axis of batches, as JSON types: {"sizes": one record an N, "text": sentences}.

    `baseline`: the arm that is referred to (default: the first). `noise`: by arm and seed the averaged (S, |G|^2) of
    `methods.noise_scale`, in samples of the batch, or a function that gives them for an N. `unit` names what D counts.
    Raises ValueError for rows whose D is not S times the batch times one constant.
    """
    table = [row if isinstance(row, Row) else _row(row) for row in rows]
    if not table:
        raise ValueError("batch: no rows; allowed: at least one measured loss")
    first = baseline or table[0].arm
    if first not in {row.arm for row in table}:
        raise ValueError(f"batch: baseline {first!r} has no rows; found: {', '.join(sorted({r.arm for r in table}))}")
    per, merged = _per_batch(table), _one_family(table)
    head = FAMILY if merged[0].arm == FAMILY else first
    sizes = []
    for N in sorted({row.N for row in table}):
        known = (noise(N) if callable(noise) else noise) or {}
        if head != first and first in known:
            known = {head: known[first]}
        record = _scaling([row for row in merged if row.N == N], head, target, per, known)
        sizes.append({"N": N, **record, "gap": gap([row for row in table if row.N == N], baseline=baseline)})
    found: dict[str, Any] = {"unit": unit, "level": LEVEL, "excess": EXCESS, "sizes": sizes}
    return found | {"text": text(found)}


def _scaling(
    rows: Sequence[Row],
    baseline: str,
    target: float | None,
    per: float,
    noise: Noise,
) -> dict[str, Any]:
    """Everything at one N: the headline target, and the critical batch at others."""
    notes: list[str] = []
    curves = _curves(rows, notes)
    empty = {"target": None, "cells": [], "missed": [], "leaves": [], "critical": [], "by_target": [], "notes": notes}
    own = sorted(cell for cell in curves if cell[0] == baseline)
    if not own:
        notes.append(f"the baseline {baseline!r} has no batch with losses at two durations")
        return empty
    span, reached = _span(curves, own[0], None if target is None else math.log(target))
    if not reached:
        notes.append("no loss is reached by two batches: lengthen the runs of the larger ones")
        return empty
    low, high = span
    reference = min((cell for cell in reached if cell[0] == baseline), key=lambda c: c[1], default=None)
    if reference is None:
        notes.append("no batch of the baseline reaches a loss in common with another")
        return empty
    headline = low if target is None else math.log(target)
    if reference != own[0]:
        notes.append(
            f"the smallest batch {own[0][1]:g} has no loss in common with the others: {reference[1]:g} stands in"
        )
    steps = _steps({cell: curves[cell] for cell in reached}, headline, per)
    model = additive(steps)
    cells = [_cell_record(cell, steps[cell], model, reference, per) for cell in sorted(steps)]
    arms = list(dict.fromkeys(row.arm for row in rows))
    critical = [c for arm in arms if (c := _critical(arm, steps, model, per, noise.get(arm)))]
    by_target = []
    for at in np.linspace(high, low, TARGETS) if target is None and high > low else [headline]:
        here = _steps({cell: curves[cell] for cell in reached}, float(at), per)
        there = additive(here)
        by_target.append(
            {
                "target": math.exp(at),
                "updates": [{"arm": a, "batch": b, "updates": _middle(here[a, b])} for a, b in sorted(here)],
                "critical": [
                    {"arm": c["arm"], "B_crit": c["B_crit"]} for arm in arms if (c := _critical(arm, here, there, per))
                ],
            }
        )
    missed = [
        {
            "arm": arm,
            "batch": batch,
            "best": math.exp(max(curve.low for curve in curves[arm, batch].values())),
            "updates": max(row.S for row in rows if (row.arm, row.batch) == (arm, batch)),
        }
        for arm, batch in sorted(set(curves) - set(steps))
    ]
    leaves = [_leaves(arm, [c for c in cells if c["arm"] == arm], reference) for arm in arms]
    return empty | {
        "target": math.exp(headline),
        "reference": {"arm": reference[0], "batch": reference[1]},
        "seeds": model.seeds,
        "cells": cells,
        "missed": missed,
        "leaves": [leave for leave in leaves if leave],
        "critical": critical,
        "by_target": by_target,
    }


def _curves(rows: Sequence[Row], notes: list[str]) -> dict[Cell, dict[str, Curve]]:
    by: dict[Cell, dict[str, dict[float, list[float]]]] = {}
    for row in rows:
        by.setdefault((row.arm, row.batch), {}).setdefault(row.seed, {}).setdefault(row.D, []).append(row.loss)
    found: dict[Cell, dict[str, Curve]] = {}
    for (arm, batch), seeds in by.items():
        for seed, losses in seeds.items():
            if len(losses) > 1:
                curve = Curve(list(losses), [float(np.mean(values)) for values in losses.values()])
                found.setdefault((arm, batch), {})[seed] = curve
        if (arm, batch) not in found:
            notes.append(f"{arm} at batch {batch:g} has one duration only and no losses along the way")
    return found


def _span(
    curves: Mapping[Cell, Mapping[str, Curve]], smallest: Cell, target: float | None
) -> tuple[tuple[float, float], list[Cell]]:
    """(lowest, highest) log loss that the most cells reach with every seed, and those cells.

    Among equals, a target that the smallest batch of the baseline reaches, then the lowest one.
    """
    ends = {cell: (max(c.low for c in s.values()), min(c.high for c in s.values())) for cell, s in curves.items()}
    candidates = [low for low, _ in ends.values()] if target is None else [target]
    reached = {at: [cell for cell, (low, high) in ends.items() if low <= at <= high] for at in candidates}
    best = max(reached, key=lambda at: (len(reached[at]), smallest in reached[at], -at))
    cells = reached[best]
    if len(cells) < 2:
        return (math.nan, math.nan), []
    return (best, min(ends[cell][1] for cell in cells)), cells


def _steps(curves: Mapping[Cell, Mapping[str, Curve]], at: float, per: float) -> dict[Cell, dict[str, float]]:
    """log updates to the target by cell and seed."""
    found: dict[Cell, dict[str, float]] = {}
    for (arm, batch), seeds in curves.items():
        for seed, curve in seeds.items():
            # A target that is one curve's own end may lie one rounding outside of it.
            value = float(curve.log_D(np.array([min(max(at, curve.low), curve.high)]))[0])
            if math.isfinite(value):
                found.setdefault((arm, batch), {})[seed] = value - math.log(batch * per)
    return found


def _cell_record(
    cell: Cell, by_seed: Mapping[str, float], model: Additive, reference: Cell, per: float
) -> dict[str, Any]:
    speedup = model.log_ratio(reference, cell)
    perfect = cell[1] / reference[1]
    excess = _times(speedup.inverse, perfect)
    updates = _middle(by_seed)
    return {
        "arm": cell[0],
        "batch": cell[1],
        "updates": updates,
        "samples": updates * cell[1] * per,
        "by_seed": {seed: math.exp(value) for seed, value in sorted(by_seed.items())},
        "speedup": asdict(speedup),
        "perfect": perfect,
        "excess": asdict(excess),
    }


def _leaves(arm: str, cells: Sequence[Mapping[str, Any]], reference: Cell) -> dict[str, Any] | None:
    """Where an arm leaves perfect scaling: `first` by its estimate, `left` and `kept` with the whole interval."""
    ordered = sorted((c for c in cells if c["batch"] > reference[1]), key=lambda c: c["batch"])
    if not ordered:
        return None
    over = [c["batch"] for c in ordered if c["excess"]["ratio"] > EXCESS]
    surely = [c["batch"] for c in ordered if c["excess"]["low"] is not None and c["excess"]["low"] > EXCESS]
    within = []
    for c in ordered:
        if c["excess"]["high"] is None or c["excess"]["high"] > EXCESS:
            break
        within.append(c["batch"])
    return {
        "arm": arm,
        "first": over[0] if over else None,
        "left": surely[0] if surely else None,
        "kept": within[-1] if within else None,
        "largest": ordered[-1]["batch"],
    }


def _critical(
    arm: str,
    steps: Mapping[Cell, Mapping[str, float]],
    model: Additive,
    per: float,
    noise: Mapping[str, tuple[float, float]] | None = None,
) -> dict[str, Any] | None:
    """The hyperbola through one arm's updates to the target, B_crit with its interval, and the predicted one."""
    cells = sorted(cell for cell in steps if cell[0] == arm)
    predicted = _predicted(noise) if noise else None
    if len(cells) < FEWEST_BATCHES:
        few = {"arm": arm, "B_crit": dict(NOTHING), "predicted": predicted, "note": "fewer than three batches"}
        return few if noise else None
    index = [model.cells.index(cell) for cell in cells]
    y, batch = model.effects[index], np.array([cell[1] for cell in cells], float)
    law = fit(Points(S=np.exp(y - y.mean()), B=batch), "steps-examples", x="B", y="S", loss="squared")
    level = math.exp(float(np.mean([_mean(steps[cell]) for cell in cells])))
    B_crit = law.derived["B_crit"]
    found: dict[str, Any] = {"arm": arm, "S_min": level * law.parameters["S_min"], "misfit": None}
    found["E_min"] = level * law.parameters["E_min"] * per
    low, high = None, None
    notes = []
    if model.seeds >= FEWEST_SEEDS and model.freedom > 0:
        low, high, found["misfit"] = profile(y, batch, B_crit, model, index)
        if found["misfit"] is not None and found["misfit"] < MISFIT:
            notes.append("the hyperbola misses these runs by more than their noise; the interval is widened by that")
        if high is None:
            notes.append("bounded from below only: no batch here is large enough")
        if low is None:
            notes.append("bounded from above only: no batch here is small enough")
    # What the runs do not bound has no value of its own either.
    far = not batch[0] / FAR < B_crit < batch[-1] * FAR
    if far:
        found["E_min" if B_crit < batch[0] else "S_min"] = None
    if not batch[0] <= B_crit <= batch[-1]:
        notes.append(f"outside of the measured batches {batch[0]:g} to {batch[-1]:g}")
    found["B_crit"] = {"ratio": None if far else B_crit, "low": low, "high": high}
    found["note"] = "; ".join(notes)
    if predicted:
        found["predicted"] = predicted
        value = predicted["ratio"]
        found["fitted_over_predicted"] = B_crit / value if value and not far else None
    return found


def _predicted(noise: Mapping[str, tuple[float, float]]) -> dict[str, float | None]:
    """Mean S over mean |G|^2, seeds as units."""
    S, G2 = (np.array([pair[k] for pair in noise.values()], float) for k in (0, 1))
    return dict(zip(("ratio", "low", "high"), fieller(S, G2), strict=True)) if G2.mean() > 0 else dict(NOTHING)


def gap(
    rows: Iterable[Row | Mapping[str, Any]],
    *,
    baseline: str | None = None,
    small: Cell | None = None,
    large: Cell | None = None,
    better: str = "lower",
) -> dict[str, Any] | None:
    """Share of the generalisation gap that each method at the large batch closes: (LB - method) / (LB - SB).

    1 is the small batch, 0 the plain large one, above 1 better than the small batch. Cells are (arm, batch); by
    default the baseline's smallest batch, and its largest, or else the first other arm with a larger batch. `loss`
    may be any score, with `better` = "higher" for an accuracy. Each run counts at the longest duration label that
    all cells share (at its end where there is none). None where there is no large batch or no method. Raises
    ValueError for an unknown cell.
    """
    table = [row if isinstance(row, Row) else _row(row) for row in rows]
    cells: dict[Cell, list[Row]] = {}
    for row in table:
        cells.setdefault((row.arm, row.batch), []).append(row)
    first = baseline or table[0].arm
    own = sorted((cell for cell in cells if cell[0] == first), key=lambda c: c[1])
    small = small or own[0]
    if large is None:
        larger = [own[-1]] if own[-1][1] > small[1] else [cell for cell in cells if cell[1] > small[1]]
        large = larger[0] if larger else None
    for cell in (small, large):
        if cell is not None and cell not in cells:
            raise ValueError(f"gap: no rows of {cell}; allowed: {', '.join(str(c) for c in cells)}")
    methods = [c for c in cells if large and c[1] == large[1] and c not in (large, small)]
    if large is None or not methods:
        return None
    used = [small, large, *methods]
    shared = set.intersection(*({row.duration for row in cells[c] if row.duration} for c in used))
    label = max(shared, key=lambda d: max(row.D for row in cells[small] if row.duration == d), default="")
    ends = {c: _ends(cells[c], label) for c in used}
    sign = 1.0 if better == "lower" else -1.0
    LB, SB = ends[large], ends[small]
    found: dict[str, Any] = {
        "small": {"arm": small[0], "batch": small[1], "loss": _mean(SB)},
        "large": {"arm": large[0], "batch": large[1], "loss": _mean(LB)},
        "gap": sign * (_mean(LB) - _mean(SB)),
        "duration": label,
        "methods": [],
    }
    for method in methods:
        seeds = sorted(set(LB) & set(SB) & set(ends[method]))
        record: dict[str, Any] = {
            "arm": method[0],
            "batch": method[1],
            "loss": _mean(ends[method]),
            "seeds": len(seeds),
        }
        if seeds:
            over = np.array([sign * (LB[s] - ends[method][s]) for s in seeds])
            under = np.array([sign * (LB[s] - SB[s]) for s in seeds])
            share = fieller(over, under)
            record |= {"share": share[0], "low": share[1], "high": share[2]}
            if under.mean() <= 0:
                record |= {
                    "share": None,
                    "low": None,
                    "high": None,
                    "note": "the large batch is not worse: no gap to close",
                }
            elif share[1] is None and len(seeds) >= FEWEST_SEEDS:
                record["note"] = "the gap itself is not resolved"
        found["methods"].append(record)
    return found


def _row(record: Mapping[str, Any]) -> Row:
    """A row from a mapping; `arm`, `N`, `seed` and `duration` may be left out."""
    missing = [name for name in ("batch", "D", "S", "loss") if record.get(name) is None]
    if missing:
        raise ValueError(f"batch: a row lacks {', '.join(missing)}; allowed: batch, D, S, loss, arm, N, seed, duration")
    numbers = {name: float(record[name]) for name in ("batch", "D", "S", "loss")}
    if not all(math.isfinite(v) for v in numbers.values()) or min(numbers["batch"], numbers["D"], numbers["S"]) <= 0:
        raise ValueError(f"batch: a row has {numbers}; allowed: finite numbers, batch, D and S above 0")
    arm, seed, duration = (str(record.get(name, "")) for name in ("arm", "seed", "duration"))
    return Row(
        arm, numbers["batch"], int(record.get("N", 0)), seed, numbers["D"], numbers["S"], numbers["loss"], duration
    )


def _per_batch(rows: Sequence[Row]) -> float:
    """Units of D in one unit of batch, the same for all rows."""
    ratios = np.array([row.D / (row.S * row.batch) for row in rows])
    if ratios.max() > 1.01 * ratios.min():
        raise ValueError(
            f"batch: D / (S batch) runs from {ratios.min():.4g} to {ratios.max():.4g}; allowed: one constant, "
            "the tokens of a sequence or 1"
        )
    return float(np.median(ratios))


def _one_family(rows: Sequence[Row]) -> Sequence[Row]:
    """Arms of one batch each, no two alike, are one arm over an axis of batches."""
    pairs = {(row.arm, row.batch) for row in rows}
    arms, batches = {arm for arm, _ in pairs}, {batch for _, batch in pairs}
    if len(pairs) < FEWEST_BATCHES or len(pairs) > len(arms) or len(pairs) > len(batches):
        return rows
    return [replace(row, arm=FAMILY) for row in rows]


def _ends(rows: Sequence[Row], label: str) -> dict[str, float]:
    """Loss by seed at the end of training (of one duration label)."""
    found: dict[str, float] = {}
    mine = [row for row in rows if not label or row.duration == label]
    for seed in sorted({row.seed for row in mine}):
        last = max(row.S for row in mine if row.seed == seed)
        found[seed] = float(np.mean([row.loss for row in mine if row.seed == seed and last == row.S]))
    return found


def _times(value: Ratio, factor: float) -> Ratio:
    low, high = value.low, value.high
    return Ratio(value.ratio * factor, None if low is None else low * factor, None if high is None else high * factor)


def _mean(by_seed: Mapping[str, float]) -> float:
    return float(np.mean(list(by_seed.values())))


def _middle(log_by_seed: Mapping[str, float]) -> float:
    """Geometric mean over seeds of values that are given as logarithms."""
    return math.exp(_mean(log_by_seed))
