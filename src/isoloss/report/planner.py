"""The planner section: what the page computes from, and one answer for readers without a script or on paper."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from isoloss.laws import Outlook
from isoloss.report import formats
from isoloss.report.assets import embed_json
from isoloss.report.tidy import Json
from isoloss.worth.advise_text import BARELY, batch_words, compute_words, rate_words, rule_words, schedule_words
from isoloss.worth.devices import HERE, MFU
from isoloss.worth.planner import listed_devices, rate_at

FURTHER = 10.0
"""The first budget shown, over the largest that was measured."""
NONE_KNOWN = "Batch, learning rate and schedule are not known from these rows: tune them."


def view(result: Mapping[str, Any]) -> Json | None:
    """What the template prints and embeds of `result["planner"]` (`worth.planner.export`); None where that is.

    A fit alone (`of_fit`) has one entry without batch, learning rate and schedule.
    """
    planner = result.get("planner")
    if not planner or not planner["entries"]:
        return None
    unit = (result.get("units") or {}).get("D") or "tokens"
    entries = [_entry(entry, planner.get("schedule")) for entry in planner["entries"]]
    first = Outlook.from_dict(planner["entries"][0]["outlook"])
    budget = _start(first)
    answer = first.answer(budget)
    practice = list(entries[0]["words"])
    if entries[0]["rule"] and not answer["refused"]:
        practice.append(rate_words(rate_at(entries[0]["lr"], answer["N"])))
    data = {
        "unit": unit,
        "level": planner["level"],
        "mfu": planner["mfu"],
        "devices": planner["devices"],
        "start": budget,
        "barely": BARELY,
        "entries": entries,
    }
    return {
        "data": embed_json(data),
        "unit": unit,
        "level": f"{100 * planner['level']:.3g} %",
        "entries": [{"index": i, "label": entry["label"]} for i, entry in enumerate(entries)],
        "left_out": planner.get("left_out", 0),
        "devices": planner["devices"],
        "device": HERE if any(device["name"] == HERE for device in planner["devices"]) else "h100",
        "mfu": planner["mfu"],
        "practice": practice,
        "notes": list(first.notes),
        "draws": len(next(iter(first.draws.values()))) if first.draws else 0,
        **_answer(answer, unit),
    }


def of_fit(outlook: Outlook) -> Json:
    """The planner of a fitted law alone, as `worth.planner.export` gives it for a study."""
    entry = {"arm": None, "law": outlook.law, "outlook": outlook.export(), "batch": None, "lr": None}
    return {"level": outlook.level, "mfu": MFU, "entries": [entry], "devices": listed_devices()}


def _entry(entry: Mapping[str, Any], timing: Mapping[str, Any] | None) -> Json:
    """One law as the script reads it; `words`: its practice, the learning rate's rule for last."""
    lr = entry["lr"]
    words = [NONE_KNOWN]
    if entry["batch"] is not None or lr is not None:
        words = [batch_words(entry["batch"]), *([schedule_words(timing, entry["arm"])] if timing else [])]
        if lr is None or lr["coefficient"] is None:
            words.append(rate_words(rate_at(lr, 1.0)))
    rule = None if lr is None or lr["coefficient"] is None else rule_words(lr)
    name = f"{entry['arm']}, {entry['law']}" if entry["arm"] else str(entry["law"])
    return {"label": name, "outlook": entry["outlook"], "lr": lr, "words": words, "rule": rule}


def _start(outlook: Outlook) -> float:
    """A round budget beyond what was measured that still has an answer."""
    if outlook.support is None:
        return 1e18
    limits = outlook.limits() or (0.0, math.inf)
    return float(f"{min(max(FURTHER * outlook.support['C'][1], 1.001 * limits[0]), 0.999 * limits[1]):.4g}")


def _answer(answer: Mapping[str, Any], unit: str) -> Json:
    """One answer as strings, for the page before its script runs and where it does not."""
    if answer["refused"]:
        nothing: Json = {"facts": [], "others": [], "runs": [], "interval": "", "away": False}
        return nothing | {"refused": answer["refused"], "budget": formats.flops(answer["C"])}
    facts = [
        ("planner-N", answer["N"], formats.short(answer["N"]), "parameters N"),
        ("planner-D", answer["D"], formats.short(answer["D"]), "data D"),
        ("planner-M", answer["M"], formats.number(answer["M"]), f"{unit} per parameter"),
        ("planner-loss", answer["loss"], formats.loss(answer["loss"]), "expected loss"),
    ]
    between = ""
    if answer["low"] is not None:
        between = f"[{formats.loss(answer['low'])}, {formats.loss(answer['high'])}]"
    others = [
        {
            "size": f"{other['factor']:g}×",
            "N": formats.short(other["N"]),
            "D": "never" if other["D"] is None else formats.short(other["D"]),
            "compute": "" if other["D"] is None else compute_words(other).replace("x", "×"),
        }
        for other in answer["alternatives"]
    ]
    plan = answer["next"] or {"ranked": []}
    runs = [
        {
            "kind": "another seed" if run["kind"] == "repeat" else "new run",
            "N": formats.short(run["N"]),
            "D": formats.short(run["D"]),
            "share": f"{100 * run['C'] / answer['C']:.2g} %",
            "interval": f"[{formats.loss(run['low'])}, {formats.loss(run['high'])}]",
            "narrower": f"{100 * run['narrower']:.0f} %",
        }
        for run in plan["ranked"]
    ]
    return {
        "refused": None,
        "budget": formats.flops(answer["C"]),
        "facts": facts,
        "interval": between,
        "away": max(answer["times"].values()) > BARELY,
        "others": others,
        "runs": runs,
    }
