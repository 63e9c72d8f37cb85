"""Worth in shots: how many shots the baseline source needs for the error another source reaches with fewer.

A table of scores by source, shots (examples a class) and seed needs no training to be asked this. The baseline's mean
error against shots is the curve, everything else as in worth.effective: seeds paired by their number, intervals for
90 %, and never a shot beyond the baseline's own range. Format of the tables read: Cherti and Jitsev 2021 (2106.00116).
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from isoloss.recipe.errors import nearest
from isoloss.worth.compare import LEVEL
from isoloss.worth.effective import ScratchCurve


def read(path: str | Path, full: float | None = None) -> list[dict[str, Any]]:
    """Rows (source, shots, seed, score) of a CSV table.

    Either columns source, shots and one column a seed (seed0, seed1, ...), or the columns of the published result files
    (metric_value, seed, shot, pretrained_model), where repeated rows count once. full: shots of the whole
    training set, for rows that say "full". Raises ValueError for other columns and for "full" without its number.
    """
    with Path(path).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        names = reader.fieldnames or []
        seeds = [name for name in names if re.fullmatch(r"seed\d+", name)]
        if {"metric_value", "seed", "shot", "pretrained_model"} <= set(names):
            rows = [(r["pretrained_model"], r["shot"], r["seed"], r["metric_value"]) for r in reader]
        elif {"source", "shots"} <= set(names) and seeds:
            rows = [(r["source"], r["shots"], s.removeprefix("seed"), r[s]) for r in reader for s in seeds if r[s]]
        else:
            raise ValueError(
                f"few-shot table {path}: columns {', '.join(names) or 'none'}; allowed: source, shots, seed0 and on, "
                "or metric_value, seed, shot, pretrained_model"
            )
    return [
        {"source": source, "shots": _shots(shots, full, path), "seed": seed, "score": float(score)}
        for source, shots, seed, score in dict.fromkeys(rows)
    ]


def answer(
    rows: Iterable[Mapping[str, Any]], *, baseline: str | None = None, best: float = 1.0, better: str = "higher"
) -> dict[str, Any]:
    """Every other source's worth in the baseline's shots, as JSON types.

    Error is best - score for better = "higher" (an accuracy), the score itself for "lower". baseline: a source
    (default: the first). Raises ValueError for rows that lack a field, an unknown baseline, or errors not above 0.
    """
    errors: dict[str, dict[float, dict[str, float]]] = {}
    for index, row in enumerate(rows):
        missing = [name for name in ("source", "shots", "seed", "score") if row.get(name) is None]
        if missing:
            raise ValueError(f"few-shot: row {index} lacks {', '.join(missing)}; allowed: source, shots, seed, score")
        error = best - float(row["score"]) if better == "higher" else float(row["score"])
        if not error > 0 or not math.isfinite(error):
            raise ValueError(f"few-shot: row {index} has error {error:g}; allowed: above 0 (best = {best:g})")
        cell = errors.setdefault(str(row["source"]), {}).setdefault(float(row["shots"]), {})
        if str(row["seed"]) in cell:
            raise ValueError(f"few-shot: row {index} repeats a source, shots and seed; allowed: one score each")
        cell[str(row["seed"])] = error
    base = baseline or next(iter(errors), "")
    if base not in errors:
        raise ValueError(
            f"few-shot: no rows of {base!r}; found: {', '.join(errors) or 'no rows at all'}{nearest(base, errors)}"
        )
    curve = ScratchCurve(errors[base])
    cells: list[dict[str, Any]] = []
    for source, by_shots in errors.items():
        for shots, losses in sorted(by_shots.items()) if source != base else ():
            found = curve.effective(losses)
            mine = {"source": source, "shots": shots, "error": sum(losses.values()) / len(losses)}
            worth = None if found.value is None else found.value - shots
            cells.append({**mine, "seeds": found.seeds, "needed": found.record(), "worth": worth})
    shown = [{"shots": float(D), "error": float(e)} for D, e in zip(curve.D, curve.mean, strict=True)]
    record: dict[str, Any] = {"baseline": base, "level": LEVEL, "curve": shown, "cells": cells}
    return record | {"text": [_sentence(cell, base) for cell in cells]}


def _sentence(cell: Mapping[str, Any], base: str) -> str:
    needed = cell["needed"]
    if needed["side"]:
        words = f"{needed['side']} than {needed['bound']:g}"
    else:
        band = ""
        if needed["low"] is not None or needed["high"] is not None:
            low, high = needed["low"], needed["high"]
            band = f" [{'fewer' if low is None else f'{low:.3g}'}, {'more' if high is None else f'{high:.3g}'}]"
        words = f"{needed['value']:.3g}{band}"
    shots = f"{cell['shots']:g} shot{'s' if cell['shots'] != 1 else ''}"
    return f"{cell['source']} with {shots} reaches what {base} needs {words} for (error {cell['error']:.3g})."


def _shots(text: str, full: float | None, path: str | Path) -> float:
    word = text.removesuffix("_shot")
    if word == "full":
        if full is None:
            raise ValueError(f"few-shot table {path}: it has rows of the full set; allowed: full=, its shots a class")
        return float(full)
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"few-shot table {path}: shots {text!r}; allowed: a number, N_shot or full_shot") from None
