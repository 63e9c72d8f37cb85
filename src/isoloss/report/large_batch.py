"""Larger batches, and how far the weights went: rows of tables, sentences and figures from a tidy result."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from isoloss.report import formats
from isoloss.report.axes import INK, MUTED, log_ticks, short_name
from isoloss.report.palette import Style, styles
from isoloss.report.tidy import Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURE, DISTANCES = "large-batch", "distances"
MOST_PANELS = 6
MOST_COLUMNS = 4
"""Arms in the terminal's table."""
_LAWS = {"log-growth": "a ln t + b", "power-growth": "a tᵖ"}
Look = dict[str, Style]


def view(result: Json, look: Look) -> Json | None:
    """Everything the page says about batches and distances; None where the result has neither."""
    found, measured = result["large_batch"], result["distances"]
    if not found and not measured:
        return None
    look = _look(result, look)
    sizes = found["sizes"] if found else []
    unit = result["units"]["D"]
    return {
        "sentences": found["text"] if found else [],
        "asked": bool(found),
        "unit": unit,
        "level": _percent((found or {}).get("level") or result.get("level") or 0.9),
        "excess": formats.ratio(found["excess"]) if found else "",
        "sizes": [_size(size, look, len(sizes) > 1) for size in sizes],
        "drawn": bool(_panels(result)),
        "fitted": any(c["B_crit"]["ratio"] is not None for size in sizes for c in size["critical"]),
        "left_out": max(0, len(_panels(result)) - MOST_PANELS),
        "alt": _alt(result),
        "distances": _distances(measured, look, len({record["N"] for record in measured}) > 1),
    }


def _look(result: Json, look: Look) -> Look:
    """Styles of all arms that are named here; those the page knows keep theirs."""
    found = result["large_batch"] or {"sizes": []}
    names: dict[str, None] = {}
    for size in found["sizes"]:
        gap = size["gap"] or {"small": {}, "large": {}, "methods": []}
        entries = [*size["cells"], *size["missed"], *size["critical"], gap["small"], gap["large"], *gap["methods"]]
        names |= dict.fromkeys([*_arms(size), *(entry["arm"] for entry in entries if entry)])
    names |= dict.fromkeys(record["arm"] for record in result["distances"])
    first = next((size["reference"]["arm"] for size in found["sizes"] if size["target"] is not None), None)
    return styles(names, first) | {name: style for name, style in look.items() if name in names}


def _arms(size: Json) -> list[str]:
    """Arms with a batch at the target or one that missed it, the reference first."""
    named = [leave["arm"] for leave in size["leaves"]] + [c["arm"] for c in (*size["cells"], *size["missed"])]
    head = (size.get("reference") or {}).get("arm")
    return sorted(dict.fromkeys(named), key=lambda arm: arm != head)


def _size(size: Json, look: Look, several: bool) -> Json:
    return {
        "N": size["N"],
        "title": f"N {formats.short(size['N'])}" if several else "",
        "target": None if size["target"] is None else f"{size['target']:.4g}",
        "reference": size.get("reference"),
        "groups": [
            {
                "arm": arm,
                "style": look[arm],
                "rows": sorted(
                    [_cell(c) for c in size["cells"] if c["arm"] == arm]
                    + [_missed(c) for c in size["missed"] if c["arm"] == arm],
                    key=lambda row: row["batch"],
                ),
            }
            for arm in _arms(size)
        ],
        "critical": [_critical(c, look) for c in size["critical"]],
        "targets": _targets(size),
        "gap": _gap(size["gap"], look),
    }


def _cell(cell: Json) -> Json:
    speedup, excess = cell["speedup"], cell["excess"]
    # The reference over itself is 1 by definition: nothing was estimated.
    sure = speedup["low"] == speedup["high"]
    return {
        "batch": cell["batch"],
        "missed": "",
        "updates": cell["updates"],
        "updates_text": amount(cell["updates"]),
        "samples": formats.short(cell["samples"]),
        "speedup": speedup["ratio"],
        "speedup_text": formats.ratio(speedup["ratio"]),
        "interval": "" if sure else formats.interval(speedup["low"], speedup["high"]),
        "perfect": f"{cell['perfect']:.4g}×",
        "excess": formats.ratio(excess["ratio"]),
        "excess_interval": "" if sure else formats.interval(excess["low"], excess["high"]),
    }


def _missed(cell: Json) -> Json:
    ended = f"not reached: {formats.plural(cell['updates'], 'update')} end at {formats.loss(cell['best'])}"
    return {"batch": cell["batch"], "missed": ended}


def _critical(entry: Json, look: Look) -> Json:
    ratio = entry.get("fitted_over_predicted")
    return {
        "arm": entry["arm"],
        "style": look[entry["arm"]],
        "fitted": bounded(entry["B_crit"]),
        "value": entry["B_crit"]["ratio"],
        "predicted": bounded(entry.get("predicted")),
        "predicted_value": (entry.get("predicted") or {}).get("ratio"),
        "over": formats.ratio(ratio),
        "S_min": amount(entry.get("S_min")),
        "E_min": formats.short(entry.get("E_min")),
        "note": entry.get("note") or "",
    }


def _targets(size: Json) -> Json | None:
    """The critical batch at every target; None where there is one target or nothing fitted."""
    rows = size["by_target"]
    arms = list(dict.fromkeys(c["arm"] for row in rows for c in row["critical"]))
    if len(rows) < 2 or not arms:
        return None
    return {
        "arms": arms,
        "rows": [
            {
                "target": f"{row['target']:.4g}",
                "cells": [
                    {"arm": arm, "text": bounded(found), "value": (found or {}).get("ratio")}
                    for arm in arms
                    for found in [next((c["B_crit"] for c in row["critical"] if c["arm"] == arm), None)]
                ],
            }
            for row in rows
        ],
    }


def _gap(gap: Json | None, look: Look) -> Json | None:
    if not gap:
        return None
    ends = [(gap[key]["arm"], gap[key]["batch"], formats.loss(gap[key]["loss"])) for key in ("small", "large")]
    return {
        "small": ends[0],
        "large": ends[1],
        "gap": f"{gap['gap']:.3g}",
        "rows": [
            {
                "arm": m["arm"],
                "style": look[m["arm"]],
                "batch": f"{m['batch']:g}",
                "loss": formats.loss(m["loss"]),
                "value": m.get("share"),
                "share": formats.ABSENT if m.get("share") is None else f"{round(100 * m['share'])}\u00a0%",
                "interval": ""
                if m.get("low") is None or m.get("high") is None
                else f"[{round(100 * m['low'])}, {round(100 * m['high'])}]",
                "note": m.get("note") or "",
            }
            for m in gap["methods"]
        ],
    }


def _distances(records: list[Json], look: Look, several: bool) -> Json | None:
    if not records:
        return None
    rows = []
    for record in sorted(records, key=lambda r: r["batch"]):
        growth, rough = record["growth"], record["roughness"]
        end = record["distance"][-1] if record["distance"] else None
        alpha = rough["alpha"] if rough else None
        rows.append(
            {
                "arm": record["arm"] + (f", N {formats.short(record['N'])}" if several else ""),
                "style": look[record["arm"]],
                "batch": f"{record['batch']:g}",
                "updates": formats.count(record["update"][-1] if record["update"] else None),
                "value": end,
                "distance": formats.number(end),
                "interval": formats.interval(record["low"][-1], record["high"][-1])
                if end is not None and record["seeds"] > 1
                else "",
                "laws": [_law(growth, name) for name in _LAWS],
                "better": _LAWS.get(growth["better"], growth["better"]) if growth else record["note"] or "",
                "alpha": formats.ABSENT if not alpha else bounded(alpha),
                "alpha_value": alpha and alpha["ratio"],
            }
        )
    return {
        "rows": sorted(rows, key=lambda row: [r["arm"] for r in rows].index(row["arm"])),
        "drawn": any(len(record["update"]) > 1 for record in records),
        "seeds": max(record["seeds"] for record in records),
        "rough": any(record["roughness"] for record in records),
        "names": list(_LAWS.values()),
        "alt": "Distance of the weights from their start against updates, one line a batch, for "
        + formats.listing(dict.fromkeys(record["arm"] for record in records))
        + ". The table below holds the values at the end.",
    }


def _law(growth: Json | None, name: str) -> Json:
    if not growth:
        return {"text": formats.ABSENT, "errors": ""}
    law = growth["laws"][name]
    numbers = [f"{key} {formats.number(law[key])}" for key in law if key not in ("rmse", "ahead")]
    ahead = "does not extend" if law["ahead"] is None else f"{law['ahead']:.2g} ahead"
    return {"text": ", ".join(numbers), "errors": f"error {law['rmse']:.2g}, {ahead}"}


def amount(value: float | None) -> str:
    """A number of updates: three significant digits, whole from a hundred on."""
    if value is None:
        return formats.ABSENT
    return formats.count(value) if value >= 99.95 else f"{value:#.3g}"


def bounded(value: Json | None) -> str:
    """A value whose interval may be open: `79.5 [59.6, 107]`, `184 [56.9, ?]`, `above 900`."""
    if not value or all(v is None for v in value.values()):
        return formats.ABSENT
    middle, low, high = value["ratio"], value["low"], value["high"]
    if middle is None:
        return f"below {high:.3g}" if low is None else f"above {low:.3g}"
    if low is None and high is None:
        return f"{middle:.3g}"
    ends = ["?" if end is None else f"{end:.3g}" for end in (low, high)]
    return f"{middle:.3g} [{ends[0]}, {ends[1]}]"


def _percent(share: float) -> str:
    return f"{100 * share:.3g}\u00a0%"


def _alt(result: Json) -> str:
    panels = _panels(result)
    if not panels:
        return ""
    size = panels[-1][0]
    arms = formats.listing(dict.fromkeys(arm for _, arm in panels[:MOST_PANELS]))
    fitted = [f"{c['arm']} {bounded(c['B_crit'])}" for c in size["critical"]]
    found = f" Critical batch fitted: {formats.listing(fitted)}." if fitted else ""
    return (
        f"Updates to loss {size['target']:.4g} against batch on logarithmic axes, beside perfect scaling, for {arms}."
        f"{found} The table below holds every value."
    )


# -- figures -------------------------------------------------------------------------------------------------


def figures(result: Json, look: Look) -> dict[str, tuple[tuple[float, float], Callable[[Figure], None]]]:
    """Name -> (size in inches, how to draw it), for what the result has data for."""
    found: dict[str, tuple[tuple[float, float], Callable[[Figure], None]]] = {}
    look = _look(result, look)
    panels = _panels(result)[:MOST_PANELS]
    if panels:
        found[FIGURE] = (_paper(len(panels), 4.6), lambda figure: _scaling(figure, panels, result["units"]["D"], look))
    paths = [record for record in result["distances"] if len(record["update"]) > 1]
    if paths:
        arms = list(dict.fromkeys((record["N"], record["arm"]) for record in paths))[:MOST_PANELS]
        found[DISTANCES] = (_paper(len(arms), 4.2), lambda figure: _far(figure, paths, arms, look))
    return found


def _panels(result: Json) -> list[tuple[Json, str]]:
    """(size, arm) of each small picture."""
    sizes = (result["large_batch"] or {"sizes": []})["sizes"]
    return [(size, arm) for size in sizes for arm in _arms(size) if any(c["arm"] == arm for c in size["cells"])]


def _paper(panels: int, alone: float) -> tuple[float, float]:
    rows = -(-panels // _columns(panels))
    return 9, alone if panels == 1 else 0.9 + 3.0 * rows


def _columns(panels: int) -> int:
    return {1: 1, 2: 2, 4: 2}.get(panels, 3)


def _grid(figure: Figure, panels: int) -> list[Axes]:
    columns = _columns(panels)
    flat = list(figure.subplots(-(-panels // columns), columns, squeeze=False).flat)
    for axes in flat[panels:]:
        axes.set_visible(False)
    return flat[:panels]


def _scaling(figure: Figure, panels: list[tuple[Json, str]], unit: str, look: Look) -> None:
    several = len({size["N"] for size, _ in panels}) > 1
    for axes, (size, arm) in zip(_grid(figure, len(panels)), panels, strict=True):
        scaling_panel(axes, size, arm, look[arm])
        axes.set_title(short_name(arm) + (f", N {formats.short(size['N'])}" if several else ""))
        axes.set_xlabel("batch, samples" if unit == "samples" else "batch, sequences")
        axes.set_ylabel(f"updates to loss {size['target']:.4g}")
    _explain(figure)


def scaling_panel(axes: Axes, size: Json, arm: str, style: Style) -> None:
    """Updates to the target against batch of one arm, beside perfect scaling and the critical batch."""
    cells = [c for c in size["cells"] if c["arm"] == arm]
    batches = sorted({c["batch"] for c in (*size["cells"], *size["missed"])})
    reach = _reach(size, batches)
    start = next(c for c in size["cells"] if (c["arm"], c["batch"]) == _key(size["reference"]))
    perfect = [start["updates"] * start["batch"] / batch for batch in reach]
    axes.plot(reach, perfect, color=MUTED, dashes=(4, 3), linewidth=1, label="perfect")
    critical = next((c for c in size["critical"] if c["arm"] == arm), None)
    if critical:
        _band(axes, critical.get("predicted"), reach, None)
        _band(axes, critical["B_crit"], reach, style.color)
        curve = _hyperbola(critical, cells[0])
        if curve:
            xs = [reach[0] * (reach[1] / reach[0]) ** (i / 80) for i in range(81)]
            axes.plot(xs, [curve(x) for x in xs], color=style.color, linewidth=1.4, label="hyperbola")
    for cell in cells:
        seeds = list(cell["by_seed"].values())
        axes.vlines(cell["batch"], min(seeds), max(seeds), color=style.color, linewidth=1.6)
    points = [c["batch"] for c in cells], [c["updates"] for c in cells]
    axes.plot(*points, style.marker, color=style.color, markersize=5.5, label="measured")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*reach)
    seen = [v for c in size["cells"] for v in c["by_seed"].values()]
    axes.set_ylim(min(seen) / 1.8, max(seen) * 1.5)
    log_ticks(axes.yaxis, formats.short, (1, 2, 5))
    axes.set_xticks(_spread(batches, reach), [f"{b:g}" for b in _spread(batches, reach)], minor=False)
    axes.minorticks_off()


def _key(cell: Json) -> tuple[str, float]:
    return cell["arm"], cell["batch"]


def _reach(size: Json, batches: list[float]) -> tuple[float, float]:
    """Horizontal limits: the batches, and critical ones that lie near them."""
    marks = [c[key]["ratio"] for c in size["critical"] for key in ("B_crit", "predicted") if c.get(key)]
    near = [m for m in marks if m and batches[0] / 4 <= m <= batches[-1] * 4]
    return min([*batches, *near]) / 1.5, max([*batches, *near]) * 1.5


def _spread(batches: list[float], reach: tuple[float, float]) -> list[float]:
    """Batches far enough apart for their labels."""
    apart = (reach[1] / reach[0]) ** (1 / 9)
    kept = batches[:1]
    for _, batch in pairwise(batches):
        if batch >= kept[-1] * apart:
            kept.append(batch)
    return kept


_HATCHED: dict[str, Any] = {"facecolor": "none", "edgecolor": MUTED, "hatch": "////", "alpha": 0.45, "linewidth": 0}


def _band(axes: Axes, value: Json | None, reach: tuple[float, float], color: str | None) -> None:
    """A vertical band over an interval (an open side runs to the edge) and a line at the value; no colour: hatched."""
    if not value:
        return
    low, high, name = value["low"], value["high"], "critical" if color else "predicted"
    if low is not None or high is not None:
        ends = max(reach[0], low or reach[0]), min(reach[1], high or reach[1])
        band = _HATCHED if color is None else {"color": color, "alpha": 0.16, "linewidth": 0}
        axes.axvspan(*ends, label=name, **band)
    if value["ratio"] is not None and reach[0] <= value["ratio"] <= reach[1]:
        line = axes.axvline(value["ratio"], color=color or MUTED, linewidth=1.2, linestyle="-" if color else ":")
        line.set_label(name)


def _hyperbola(critical: Json, cell: Json) -> Callable[[float], float] | None:
    """S(B) = S_min + E_min / (B x what one unit of batch counts); a side that is not bounded is left out."""
    per = cell["samples"] / (cell["updates"] * cell["batch"])
    S_min, E_min = critical.get("S_min"), critical.get("E_min")
    if S_min is None and E_min is None:
        return None
    return lambda batch: (S_min or 0.0) + (E_min or 0.0) / (per * batch)


def _explain(figure: Figure) -> None:
    """A legend of what the panels show, once for all."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    drawn = {artist.get_label() for axes in figure.axes for artist in (*axes.lines, *axes.patches)}
    entries: dict[str, tuple[Any, str]] = {
        "measured": (Line2D([], [], color=INK, marker="o", markersize=5, linewidth=1.6), "measured, over seeds"),
        "perfect": (Line2D([], [], color=MUTED, dashes=(4, 3), linewidth=1), "perfect scaling"),
        "hyperbola": (Line2D([], [], color=INK, linewidth=1.4), "hyperbola fitted"),
        "critical": (Patch(color=INK, alpha=0.35, linewidth=0), "critical batch, fitted"),
        "predicted": (Patch(**_HATCHED), "as the noise scale predicts"),
    }
    shown = [entry for name, entry in entries.items() if name in drawn]
    figure.legend([handle for handle, _ in shown], [name for _, name in shown], loc="outside upper left", ncols=3)


def _far(figure: Figure, paths: list[Json], arms: list[tuple[float, str]], look: Look) -> None:
    several = len({N for N, _ in arms}) > 1
    for axes, (N, arm) in zip(_grid(figure, len(arms)), arms, strict=True):
        mine = sorted((r for r in paths if (r["N"], r["arm"]) == (N, arm)), key=lambda r: r["batch"])
        for index, record in enumerate(mine):
            # Paler for smaller batches: colour says the arm, lightness the batch.
            alpha = 0.4 + 0.6 * (index + 1) / len(mine)
            axes.plot(record["update"], record["distance"], color=look[arm].color, alpha=alpha, linewidth=1.5)
            axes.fill_between(
                record["update"], record["low"], record["high"], color=look[arm].color, alpha=0.12 * alpha, linewidth=0
            )
            axes.annotate(
                f"batch {record['batch']:g}",
                (record["update"][-1], record["distance"][-1]),
                xytext=(4, -3), textcoords="offset points", color=MUTED, fontsize=7.5,
            )  # fmt: skip
        axes.set_xscale("log")
        ends = min(record["update"][0] for record in mine), max(record["update"][-1] for record in mine)
        # Room on the right for the names of the lines.
        axes.set_xlim(ends[0] / 1.2, ends[1] * (ends[1] / ends[0]) ** 0.35)
        log_ticks(axes.xaxis, formats.short, (1, 2, 5) if ends[1] < 50 * ends[0] else (1,))
        axes.set_ylim(bottom=0)
        axes.set_title(short_name(arm) + (f", N {formats.short(N)}" if several else ""))
        axes.set_xlabel("updates")
        axes.set_ylabel("distance from the start")


# -- terminal ------------------------------------------------------------------------------------------------


def columns(seen: Json) -> tuple[str, list[str], list[list[str]]] | None:
    """Title, head and rows of the terminal's table for the largest size with a target: a row a batch, a column an arm.

    A cell holds updates to the target and the speed-up; the last rows hold the critical batches. None without a target.
    """
    size = next((s for s in reversed(seen["sizes"]) if s["target"] is not None), None)
    if size is None:
        return None
    groups = size["groups"][:MOST_COLUMNS]
    more = len(size["groups"]) - len(groups)
    where = f" at {size['title']}" if size["title"] else ""
    rest = f"; {formats.plural(more, 'arm')} more on the page" if more else ""
    title = f"updates to loss {size['target']}{where}, and speed-up over batch {size['reference']['batch']:g}{rest}"
    batches = sorted({row["batch"] for group in groups for row in group["rows"]})
    rows = [[f"{batch:g}", *(_said(group["rows"], batch) for group in groups)] for batch in batches]
    known = {c["arm"]: c for c in size["critical"]}
    for name, key in (("critical", "fitted"), ("predicted", "predicted")):
        cells = [known[g["arm"]][key] if g["arm"] in known else formats.ABSENT for g in groups]
        if any(cell != formats.ABSENT for cell in cells):
            rows.append([name, *cells])
    return title, ["batch", *(group["arm"] for group in groups)], rows


def _said(rows: Iterable[Json], batch: float) -> str:
    row = next((row for row in rows if row["batch"] == batch), None)
    if row is None:
        return formats.ABSENT
    return "not reached" if row["missed"] else f"{row['updates_text']}  {row['speedup_text']}"
