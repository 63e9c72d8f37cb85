"""What each arm is worth, as rows of a table: ratios, small pictures of intervals, and words."""

from __future__ import annotations

import math

from markupsafe import Markup

from isoloss.report import formats
from isoloss.report.palette import Style
from isoloss.report.tidy import MEASURES, Json, baseline_of

BAR_WIDTH, BAR_HEIGHT, BAR_PAD = 150, 20, 8
_WIDEST = 16.0
Span = tuple[float, float]


def rows(result: Json, look: dict[str, Style]) -> list[Json]:
    """One group an arm: the answer over all sizes first, then one row a size."""
    span = domain(result)
    several = reference(result) is None
    alone = len({entry["N"] for entry in result["worth"]}) == 1  # one size says what all sizes say
    groups = []
    overall = {entry["arm"]: entry for entry in result["worth_overall"]}
    for arm in result["arms"]:
        name = arm["name"]
        entries = sorted((e for e in result["worth"] if e["arm"] == name), key=lambda e: e["N"] or 0)
        if arm["baseline"] or not (entries or name in overall):
            continue
        whole = overall.get(name)
        groups.append(
            {
                "arm": name,
                "against": (entries or [whole])[0].get("reference") if several else None,
                "line": arm["line"],
                "style": look[name],
                "overall": None if whole is None else _worth_row(whole, look[name], span),
                "trend": None if whole is None else trend(whole.get("trend")),
                "note": entries[0].get("note") if alone and whole and entries else None,
                "sizes": [] if alone and whole else [_worth_row(entry, look[name], span) for entry in entries],
            }
        )
    return groups


def reference(result: Json) -> str | None:
    """The one that all others are compared with, None where there are several."""
    found = {entry.get("reference") or baseline_of(result) for entry in result["worth"]}
    return found.pop() if len(found) == 1 else None if found else baseline_of(result)


def _worth_row(entry: Json, style: Style, span: Span) -> Json:
    roots = entry.get("roots")
    return {
        "N": entry.get("N"),
        "size": formats.short(entry.get("N")),
        "note": entry.get("note"),
        "roots": roots,
        "cells": [_worth_cell(measure, entry, style, span) for measure in MEASURES],
    }


def _worth_cell(measure: str, entry: Json, style: Style, span: Span) -> Json:
    found, inverse = entry[measure], entry["inverse"][measure]
    word, tone = verdict(found, entry.get("roots"))
    return {
        "measure": measure,
        "value": found["ratio"],
        "low": found["low"],
        "high": found["high"],
        "text": formats.ratio(found["ratio"]),
        "interval": formats.interval(found["low"], found["high"]),
        "word": word,
        "tone": tone,
        "inverse": "" if inverse["ratio"] is None else formats.ratio(inverse["ratio"]),
        "bar": _bar(measure, found, style, span),
    }


def verdict(found: Json, roots: int | None = None) -> tuple[str, str]:
    """What an interval says, and its tone: better, worse, open (unresolved), none (nothing to say)."""
    if found["ratio"] is None:
        return "no common loss", "none"
    if found["low"] is None or found["high"] is None:
        return (f"no interval from {formats.plural(roots, 'root')}" if roots else "no interval"), "none"
    if found["low"] > 1:
        return "better", "better"
    if found["high"] < 1:
        return "worse", "worse"
    return "not resolved", "open"


def trend(found: Json | None) -> Json | None:
    """The trend of worth with N, in words: `worth` grows as N to the power `slope`."""
    if not found or not found.get("verdict"):
        return None
    words = {
        "growing": "grows with size",
        "steady": "does not change with size in this range",
        "fading": "fades with size",
        "not resolved": "trend with size not resolved",
    }
    slope, low, high = found.get("slope"), found.get("low"), found.get("high")
    return {
        "verdict": found["verdict"],
        "words": words.get(found["verdict"], found["verdict"]),
        "slope": "" if slope is None else formats.signed(slope),
        "bounds": "" if low is None or high is None else f"[{formats.signed(low)}, {formats.signed(high)}]",
    }


def domain(result: Json) -> Span:
    """The common logarithmic range of all small intervals, one always inside."""
    values = [1 / 1.12, 1.12]
    for entry in result["worth"] + result["worth_overall"]:
        for measure in MEASURES:
            values += [v for v in entry[measure].values() if isinstance(v, float | int) and v > 0]
    return max(min(values), 1 / _WIDEST) / 1.06, min(max(values), _WIDEST) * 1.06


def _at(value: float, span: Span) -> float:
    low, high = (math.log(edge) for edge in span)
    share = (math.log(max(value, 1e-12)) - low) / (high - low)
    return BAR_PAD + (BAR_WIDTH - 2 * BAR_PAD) * min(1.0, max(0.0, share))


def _bar(measure: str, found: Json, style: Style, span: Span) -> Markup:
    """An interval on the table's common logarithmic axis: line, marker, and a rule at one."""
    if found["ratio"] is None:
        return Markup("")
    middle = BAR_HEIGHT / 2
    label = f"{measure}: {formats.ratio(found['ratio'])} {formats.interval(found['low'], found['high'])}".strip()
    parts = [
        Markup('<line class="one" x1="{0:.1f}" x2="{0:.1f}" y1="1" y2="{1}"/>').format(_at(1, span), BAR_HEIGHT - 1)
    ]
    if found["low"] is not None and found["high"] is not None:
        parts.append(
            Markup('<line class="reach" x1="{:.1f}" x2="{:.1f}" y1="{y}" y2="{y}" stroke="{}"/>').format(
                _at(found["low"], span), _at(found["high"], span), style.color, y=middle
            )
        )
    parts.append(
        Markup('<circle cx="{:.1f}" cy="{}" r="4.5" fill="{}"/>').format(_at(found["ratio"], span), middle, style.color)
    )
    return Markup('<svg class="bar" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        BAR_WIDTH, BAR_HEIGHT, label, Markup("").join(parts)
    )


def axis(span: Span) -> Markup:
    """The labels of the small intervals' axis."""
    for candidates in (
        (0.9, 1, 1.1),
        (0.8, 1, 1.25),
        (0.67, 1, 1.5),
        (0.5, 1, 2),
        (0.25, 1, 4),
        (0.1, 1, 10),
    ):
        inside = [tick for tick in candidates if span[0] <= tick <= span[1]]
        if _at(candidates[-1], (span[0], max(span[1], candidates[-1]))) - _at(1, span) >= 36:
            break
    marks = [Markup('<text x="{:.1f}" y="10">{:g}×</text>').format(_at(tick, span), tick) for tick in inside]
    return Markup('<svg class="bar axis" viewBox="0 0 {} 12" aria-hidden="true">{}</svg>').format(
        BAR_WIDTH, Markup("").join(marks)
    )
