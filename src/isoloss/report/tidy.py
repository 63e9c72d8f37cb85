"""A result dict made whole: checked, non-finite numbers absent, every expected list present."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]

SCHEMA = 1
BINS_A_DECADE = 15
MEASURES = ("data", "updates", "compute")

_RUN: Json = {
    "id": "", "arm": "", "cell": {}, "seed": None, "root": None, "N": None, "N_total": None, "D": None,
    "S": None, "C": None, "loss": None, "loss_a": None, "status": "missing", "message": None, "extra": False,
    "curve": None, "train": None,
}  # fmt: skip
_EDGE: Json = {
    "id": "", "parent": None, "start": 0, "end": 0, "arms": [], "cells": 1, "label": "", "kind": "trunk",
    "reused": False, "tuning": False, "lr": None, "cell": {}, "N": None, "flops": None,
}  # fmt: skip
_METRIC: Json = {"arm": "", "N": None, "D": None, "cell": {}, "metric": "", "mean": None, "sd": None, "seeds": 0}
_LAW: Json = {
    "arm": "", "law": "", "formula": "", "parameters": [], "rows": 0, "holdout": None, "curves": [],
    "warnings": [], "residuals": [], "surface": None,
}  # fmt: skip


def plain(result: Mapping[str, Any]) -> Json:
    """A deep copy of `result` as JSON can hold it: numbers that are not finite become None.

    Raises ValueError where `result` has another schema or holds what JSON cannot.
    """
    if not isinstance(result, Mapping) or result.get("schema") != SCHEMA:
        found = result.get("schema") if isinstance(result, Mapping) else type(result).__name__
        raise ValueError(
            f"result: schema is {found!r}, this version of isoloss reads schema {SCHEMA}; "
            "was it written by another version?"
        )
    copy: Json = _plain(result, "result")
    return copy


def tidy(result: Mapping[str, Any]) -> Json:
    """A deep copy of `result` in which every documented key exists and every number is finite or None.

    Raises ValueError where `result` has another schema or holds what JSON cannot.
    """
    whole = plain(result)
    answers = ("worth", "worth_overall", "distances", "fixed_durations", "anytime", "laws")
    for key in ("summary", "arms", "runs", "metrics", *answers, "tree", "caveats"):
        whole[key] = whole.get(key) or []
    for key in ("large_batch", "transfer", "estimates", "planner"):
        whole[key] = whole.get(key) or None
    for key in ("provenance", "sharing", "units"):
        whole[key] = whole.get(key) or {}
    for key in ("numerics", "data", "versions"):
        whole["provenance"][key] = whole["provenance"].get(key) or {}
    whole["imported"] = bool(whole.get("imported"))
    whole["units"] = {"D": "tokens", "loss": "loss", **whole["units"]}
    whole["study"] = str(whole.get("study") or "study")
    for key, template in (("runs", _RUN), ("metrics", _METRIC), ("tree", _EDGE), ("laws", _LAW)):
        whole[key] = [{**template, **entry} for entry in whole[key]]
    for run in whole["runs"]:
        if run["status"] == "done" and run["loss"] is None:
            run["status"] = "failed"
            run["message"] = run["message"] or "finished without a finite validation loss"
        for key in ("curve", "train"):
            run[key] = run[key] or {"update": [], "loss": []}
    for entry in whole["worth"] + whole["worth_overall"]:
        for measure in MEASURES:
            entry[measure] = _measure(entry.get(measure))
        inverse = entry.get("inverse") or {}
        entry["inverse"] = {measure: _measure(inverse.get(measure)) for measure in MEASURES}
    for entry in whole["worth_overall"]:
        trend = entry["trend"] = entry.get("trend") or None
        entry["trends"] = entry.get("trends") or ({"data": trend} if trend else {})
    _complete_arms(whole)
    return whole


def _measure(found: Json | None) -> Json:
    return {"ratio": None, "low": None, "high": None, **(found or {})}


def _complete_arms(whole: Json) -> None:
    """Arms in the order of the study, then any that only runs or answers mention."""
    known = {}
    for arm in whole["arms"]:
        known[arm["name"]] = {"baseline": False, "line": "", **arm}
        known[arm["name"]]["lr"] = arm.get("lr") or []
        known[arm["name"]]["tuning"] = arm.get("tuning")
    for entry in (*whole["runs"], *whole["metrics"], *whole["worth"], *whole["worth_overall"], *whole["laws"]):
        if entry["arm"] not in known:
            known[entry["arm"]] = {
                "name": entry["arm"],
                "baseline": False,
                "line": "",
                "lr": [],
                "tuning": None,
            }
    whole["arms"] = list(known.values())


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise ValueError(f"{where}: found {type(value).__name__}, allowed are plain JSON values")


def baseline_of(result: Json) -> str | None:
    """The name of the baseline arm, None where no arm is marked."""
    return next((arm["name"] for arm in result["arms"] if arm["baseline"]), None)


def done(result: Json) -> list[Json]:
    """The runs that finished with a loss."""
    return [run for run in result["runs"] if run["status"] == "done"]


def curve_part(result: Json) -> str:
    """Which curves to show first: validation (`curve`) where it was measured along the way, else `train`."""
    along = any(len(run["curve"]["update"]) > 2 for run in done(result))
    return "curve" if along or not any(run["train"]["update"] for run in done(result)) else "train"


def binned(curve: Json) -> Json:
    """A training curve as means over neighbouring updates, 15 bins a decade of updates.

    The loss of single batches is noise to the eye. The bins do not depend on the length of the run, so that
    runs which share a stretch are drawn as one line there.
    """
    bins: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for update, loss in zip(curve["update"], curve["loss"], strict=False):
        if loss is not None and update > 0:
            bins[math.floor(BINS_A_DECADE * math.log10(update))].append((update, loss))
    means = [[sum(part) / len(part) for part in zip(*inside, strict=True)] for _, inside in sorted(bins.items())]
    return {"update": [mean[0] for mean in means], "loss": [mean[1] for mean in means]}


def sizes(result: Json) -> list[float]:
    """Every N of a finished run, ascending."""
    return sorted({run["N"] for run in done(result) if run["N"] is not None})


def seed_means(runs: list[Json], x: str = "D") -> dict[tuple[str, float], list[tuple[float, float, float, float]]]:
    """(arm, N) -> rows (x, mean, lowest, highest final loss over seeds) by ascending x (D, S or C)."""
    cells: dict[tuple[str, float], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if run["loss"] is not None and run[x] and run["N"] is not None:
            cells[run["arm"], run["N"]][run[x]].append(run["loss"])
    return {
        key: [(at, sum(losses) / len(losses), min(losses), max(losses)) for at, losses in sorted(by.items())]
        for key, by in cells.items()
    }
