"""Rows of strings for the page's plain tables: metrics, tuning, runs, provenance."""

from __future__ import annotations

from typing import Any

from isoloss.recipe import catalogue
from isoloss.report import formats
from isoloss.report.palette import Style
from isoloss.report.tidy import Json


def metrics(result: Json, look: dict[str, Style]) -> Json | None:
    """The table of metrics: columns by name, one row an arm and size; None where nothing was measured."""
    names = list(dict.fromkeys(entry["metric"] for entry in result["metrics"]))
    if not names:
        return None
    groups: dict[str, dict[tuple[float, str], Json]] = {}
    for entry in result["metrics"]:
        rows = groups.setdefault(entry["arm"], {})
        row = rows.setdefault(
            (entry["N"] or 0, str(entry["cell"])),
            {
                "size": formats.short(entry["N"]),
                "N": entry["N"],
                "length": formats.short(entry["D"]),
                "found": {},
            },
        )
        row["found"][entry["metric"]] = entry
    shown = [arm["name"] for arm in result["arms"] if arm["name"] in groups]
    known = catalogue.names("metric")
    return {
        "names": names,
        "groups": [
            {
                "arm": arm,
                "style": look[arm],
                "rows": [_metric_row(row, names) for _, row in sorted(groups[arm].items())],
            }
            for arm in shown
        ],
        "legend": [(name, catalogue.get("metric", name).summary) for name in names if name in known],
    }


def _metric_row(row: Json, names: list[str]) -> Json:
    seeds = max(entry["seeds"] for entry in row["found"].values())
    return {**row, "seeds": seeds, "cells": [_metric(row["found"].get(name), seeds) for name in names]}


def _metric(entry: Json | None, seeds: int) -> Json:
    """One cell; a metric that is not defined for every seed says for how many it is."""
    mean, sd = (entry["mean"], entry["sd"]) if entry else (None, None)
    partly = f" {entry['seeds']} of {seeds} seeds" if entry and 0 < entry["seeds"] < seeds else ""
    return {
        "name": entry["metric"] if entry else "", "value": mean, "text": formats.measured(mean, sd), "partly": partly,
    }  # fmt: skip


_RULES = {
    "tuned": "tuned",
    "between": "between tuned sizes",
    "given": "given",
    "nearest": "nearest",
    "transferred": "width transfer (muP)",
}


def tuned(arm: Json, style: Style) -> Json:
    tuning = arm["tuning"]
    return {
        "arm": arm["name"],
        "style": style,
        "budget": ""
        if not tuning
        else f"{formats.plural(tuning.get('runs') or 0, 'run')}, "
        f"{formats.count(tuning.get('updates') or 0)} updates, "
        f"{formats.flops(tuning.get('flops'))} FLOPs",
        "candidates": _listed(tuning or {}),
        "rows": [
            {
                "size": formats.short(row.get("N")),
                "width": row.get("width"),
                "lr": formats.number(row.get("lr")),
                "value": row.get("lr"),
                "tuned": row.get("rule") == "tuned",
                "rule": _RULES.get(row.get("rule"), row.get("rule") or ""),
                "edge": bool(row.get("edge")),
                "losses": _candidates(tuning, row.get("N")),
                "others": {
                    path: {
                        "value": _word(found.get("value")),
                        "rule": _RULES.get(found.get("rule"), found.get("rule") or ""),
                        "edge": bool(found.get("edge")),
                    }
                    for path, found in (row.get("tuned") or {}).items()
                },
            }
            for row in arm["lr"]
        ],
    }


def _listed(tuning: Json) -> str:
    """What was tried: of several paths, each with its own list."""
    if tuning.get("paths"):
        return "; ".join(f"{path}: {', '.join(map(_word, values))}" for path, values in tuning["paths"].items())
    return ", ".join(_word(c) for c in tuning.get("candidates") or [])


def _candidates(tuning: Json | None, size: float | None) -> str:
    """The losses that decided a tuned size: `0.002: 1.9312, 0.004: 1.9020`; by name where several are tuned."""
    choices = (tuning or {}).get("choices") or []
    table = next((choice.get("table") or [] for choice in choices if choice.get("N") == size), [])
    if table:
        return ", ".join(f"{_named(candidate)}:\u00a0{formats.loss(loss)}" for candidate, loss in table)
    losses = next((choice.get("losses") or [] for choice in choices if choice.get("N") == size), [])
    return ", ".join(f"{formats.number(lr)}:\u00a0{formats.loss(loss)}" for lr, loss in losses)


def _named(candidate: Json) -> str:
    """`lr 0.002 weight_decay 0.1`."""
    return " ".join(f"{path.rpartition('.')[2]} {_word(value)}" for path, value in candidate.items())


def _word(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return formats.number(value) if isinstance(value, float | int) else str(value)


def run_row(run: Json, look: dict[str, Style]) -> Json:
    return {
        **run,
        "style": look[run["arm"]],
        "index": list(look).index(run["arm"]),
        "size": formats.short(run["N"]),
        "tokens": formats.short(run["D"]),
        "updates": formats.count(run["S"]),
        "flops": formats.flops(run["C"]),
        "a": formats.loss(run["loss_a"]),
        "b": formats.loss(run["loss"]),
        "seed_text": formats.ABSENT if run["seed"] is None else str(run["seed"]),
        "cell_text": " · ".join(f"{path} {value}" for path, value in run["cell"].items()),
    }


def provenance(result: Json) -> Json:
    found = result["provenance"]
    return {
        "groups": [
            (title, [(str(key).replace("_", " "), _fact(value)) for key, value in found[name].items()])
            for title, name in (("Data", "data"), ("Numerics", "numerics"), ("Versions", "versions"))
            if found[name]
        ],
        "study_file": found.get("study_file"),
        "store": found.get("store"),
    }


def _fact(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: formats.ABSENT}[value]
    if isinstance(value, int):
        return formats.count(value) if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return formats.number(value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_fact(item)}" for key, item in value.items())
    return ", ".join(_fact(item) for item in value) if isinstance(value, list) else str(value)
