"""What each arm is worth, as rows of a table: ratios, small pictures of intervals and of the trend with size, words."""

from __future__ import annotations

import math

from markupsafe import Markup

from isoloss.report import formats
from isoloss.report.palette import Style
from isoloss.report.tidy import MEASURES, Json, baseline_of

HEIGHT, PAD = 20, 8
WIDTHS = {1: 300, 2: 220, 3: 150}
"""Width of a small interval by the number of columns."""
TREND_WIDTH, TREND_HEIGHT = 132, 40
MOST_ROWS = 16
"""Rows of sizes that are shown at once; more are opened by a button."""
_WIDEST = 16.0
_SAME = 1e-9
Span = tuple[float, float]


def table(result: Json, look: dict[str, Style]) -> Json | None:
    """Columns, axes and one group an arm: all sizes first, then one row a size. None where nothing was compared."""
    span, merged = domain(result), columns(result)
    several = reference(result) is None
    alone = len({entry["N"] for entry in result["worth"]}) == 1  # one size says what all sizes say
    groups = []
    overall = {entry["arm"]: entry for entry in result["worth_overall"]}
    for index, arm in enumerate(result["arms"]):
        name = arm["name"]
        entries = sorted((e for e in result["worth"] if e["arm"] == name), key=lambda e: e["N"] or 0)
        if arm["baseline"] or not (entries or name in overall):
            continue
        whole = overall.get(name)
        groups.append(
            {
                "arm": name,
                "index": index,
                "against": (entries or [whole])[0].get("reference") if several else None,
                "line": arm["line"],
                "style": look[name],
                "overall": None if whole is None else _row(whole, look[name], span, merged),
                "charged": None if whole is None else _charged(whole),
                "trend": None if whole is None else trend(whole.get("trend")),
                "spark": Markup("") if whole is None else _spark(whole.get("trend"), entries, look[name]),
                "note": entries[0].get("note") if alone and whole and entries else None,
                "sizes": [] if alone and whole else [_row(entry, look[name], span, merged) for entry in entries],
            }
        )
    rows = sum(len(group["sizes"]) for group in groups)
    return {
        "columns": [formats.listing(group).capitalize() for group in merged],
        "axis": _axis(span, WIDTHS[len(merged)]),
        "trends": any(group["trend"] for group in groups),
        "groups": groups,
        "rows": rows,
        "folded": rows > MOST_ROWS,
    } if groups else None  # fmt: skip


def columns(result: Json) -> list[tuple[str, ...]]:
    """The measures, those together that say the same in every row (one batch: data and updates; one cost: compute)."""
    entries = result["worth"] + result["worth_overall"]

    def same(one: str, other: str) -> bool:
        pairs = [(entry[one][key], entry[other][key]) for entry in entries for key in ("ratio", "low", "high")]
        return all(a == b or (None not in (a, b) and abs(a - b) <= _SAME * abs(b)) for a, b in pairs)

    found: list[tuple[str, ...]] = [(MEASURES[0],)]
    for measure in MEASURES[1:]:
        if same(found[-1][0], measure):
            found[-1] += (measure,)
        else:
            found.append((measure,))
    return found


def reference(result: Json) -> str | None:
    """The one that all others are compared with, None where there are several."""
    found = {entry.get("reference") or baseline_of(result) for entry in result["worth"]}
    return found.pop() if len(found) == 1 else None if found else baseline_of(result)


def _row(entry: Json, style: Style, span: Span, merged: list[tuple[str, ...]]) -> Json:
    return {
        "N": entry.get("N"),
        "size": formats.short(entry.get("N")),
        "note": entry.get("note"),
        "cells": [_cell(measures, entry, style, span, WIDTHS[len(merged)]) for measures in merged],
    }


def _cell(measures: tuple[str, ...], entry: Json, style: Style, span: Span, width: int) -> Json:
    found, inverse = entry[measures[0]], entry["inverse"][measures[0]]
    word, tone = verdict(found, entry.get("roots"), entry["data"])
    return {
        "measures": " ".join(measures),
        "title": formats.listing(measures).capitalize(),
        "value": found["ratio"],
        "text": formats.ratio(found["ratio"]),
        "interval": formats.interval(found["low"], found["high"]),
        "word": word,
        "tone": tone,
        "inverse": "" if inverse["ratio"] is None else formats.ratio(inverse["ratio"]),
        "bar": _bar(formats.listing(measures), found, style, span, width),
    }


def _charged(entry: Json) -> str:
    """What the arm's tuning makes of its worth in compute, in words; empty where nothing was tuned."""
    found, free = entry.get("compute with tuning") or {}, entry["compute"]
    if found.get("ratio") is None or found["ratio"] == free["ratio"]:
        return ""
    bounds = formats.interval(found["low"], found["high"])
    return f"{formats.ratio(found['ratio'])} {bounds}".strip() + " in compute with tuning charged"


def verdict(found: Json, roots: int | None = None, data: Json | None = None) -> tuple[str, str]:
    """What an interval says, and its tone: better, worse, open (unresolved), none (nothing to say).

    `data`: the worth in data beside it; where there is one, a missing ratio is of an amount that nobody wrote down.
    """
    if found["ratio"] is None:
        return ("not known" if data and data["ratio"] is not None else "no common loss"), "none"
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
        "short": {"steady": "steady in this range", "growing": "grows", "fading": "fades"}.get(
            found["verdict"], found["verdict"]
        ),
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


def _at(value: float, span: Span, width: int) -> float:
    low, high = (math.log(edge) for edge in span)
    share = (math.log(max(value, 1e-12)) - low) / (high - low)
    return PAD + (width - 2 * PAD) * min(1.0, max(0.0, share))


def _bar(measure: str, found: Json, style: Style, span: Span, width: int) -> Markup:
    """An interval on the table's common logarithmic axis: line, marker, and a rule at one."""
    if found["ratio"] is None:
        return Markup("")
    middle = HEIGHT / 2
    label = f"{measure}: {formats.ratio(found['ratio'])} {formats.interval(found['low'], found['high'])}".strip()
    one = Markup('<line class="one" x1="{0:.1f}" x2="{0:.1f}" y1="0" y2="{1}"/>')
    parts = [one.format(_at(1, span, width), HEIGHT)]
    if found["low"] is not None and found["high"] is not None:
        ends = [_at(found[end], span, width) for end in ("low", "high")]
        reach = Markup('<line class="reach" x1="{:.1f}" x2="{:.1f}" y1="{y}" y2="{y}"/>')
        parts.append(reach.format(*ends, y=middle))
    parts.append(Markup('<circle cx="{:.1f}" cy="{}" r="4.5"/>').format(_at(found["ratio"], span, width), middle))
    return Markup('<svg class="bar {}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        style.css, width, HEIGHT, label, Markup("").join(parts)
    )


def _axis(span: Span, width: int) -> Markup:
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
        if _at(candidates[-1], (span[0], max(span[1], candidates[-1])), width) - _at(1, span, width) >= 36:
            break
    marks = [Markup('<text x="{:.1f}" y="10">{:g}×</text>').format(_at(tick, span, width), tick) for tick in inside]
    return Markup('<svg class="bar axis" viewBox="0 0 {} 12" aria-hidden="true">{}</svg>').format(
        width, Markup("").join(marks)
    )


def _spark(found: Json | None, entries: list[Json], style: Style) -> Markup:
    """Worth in data against size as a small picture: band and line of the trend inside the measured sizes, points."""
    points = [(e["N"], e["data"]["ratio"]) for e in entries if e["N"] and e["data"]["ratio"]]
    band = (found or {}).get("band") or {}
    if len(points) < 3 or not band:
        return Markup("")
    rows = [
        (N, ratio, low, high)
        for N, ratio, low, high in zip(band["N"], band["ratio"], band["low"], band["high"], strict=True)
        if points[0][0] <= N <= points[-1][0]
    ]
    bounded = all(row[2] is not None for row in rows)
    ratios = [ratio for _, ratio in points] + [v for row in rows for v in (row[1:] if bounded else row[1:2])] + [1.0]
    low, high = math.log(min(ratios)), math.log(max(ratios))
    first, last = math.log(points[0][0]), math.log(points[-1][0])

    def place(N: float, ratio: float) -> str:
        x = 5 + (TREND_WIDTH - 10) * (math.log(N) - first) / (last - first)
        y = TREND_HEIGHT - 5 - (TREND_HEIGHT - 10) * (math.log(ratio) - low) / (high - low or 1)
        return f"{x:.1f} {y:.1f}"

    one = place(points[0][0], 1).split()[1]
    parts = [Markup('<path class="one" d="M0 {0}H{1}"/>').format(one, TREND_WIDTH)]
    if bounded:
        outline = [place(row[0], row[3]) for row in rows] + [place(row[0], row[2]) for row in reversed(rows)]
        parts.append(Markup('<path class="band" d="M{}Z"/>').format("L".join(outline)))
    parts.append(Markup('<path class="line" d="M{}"/>').format("L".join(place(row[0], row[1]) for row in rows)))
    for N, ratio in points:
        x, y = place(N, ratio).split()
        parts.append(Markup('<circle cx="{}" cy="{}" r="2.6"/>').format(x, y))
    return Markup('<svg class="spark {}" viewBox="0 0 {} {}" aria-hidden="true">{}</svg>').format(
        style.css, TREND_WIDTH, TREND_HEIGHT, Markup("").join(parts)
    )
