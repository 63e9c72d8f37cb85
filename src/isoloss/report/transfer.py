"""What pre-training is worth in target data: rows of tables, sentences and the figure from a tidy result."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from isoloss.report import formats
from isoloss.report.axes import MUTED, RULE, log_ticks, short_name
from isoloss.report.palette import Style, styles
from isoloss.report.tidy import Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURE = "transfer"
MOST_PANELS = 6
MOST_COLUMNS = 4
"""Columns of multipliers in the terminal's table."""
LOW_DATA = 0.1
CONSTANTS = ("k", "alpha", "beta")
Look = dict[str, Style]


def view(result: Json) -> Json | None:
    """Everything the page says about transfer; None where the study does not ask."""
    found = result["transfer"]
    if not found:
        return None
    look = _look(found)
    return {
        "advice": found["advice"],
        "sentences": found["text"],
        "unit": found["unit"],
        "scratch": found["scratch"],
        "level": f"{100 * found['level']:.3g}\u00a0%",
        "groups": [
            {"arm": source, "style": look[source], "rows": [_cell(c) for c in _cells(found, source)]}
            for source in found["sources"]
        ],
        "sizes": [_size(size) for size in found["sizes"]],
        "laws": [_law(law, look[law["source"]]) for law in found["laws"]],
        "pairs": [_pair(pair) for pair in found["between_sources"]],
        "compute": [_compute(entry, look) for entry in found["compute"]],
        "forms": _forms(found.get("forms") or {}),
        "contamination": _contamination(found.get("contamination") or []),
        "drawn": bool(_panels(found)),
        "left_out": max(0, len(found["sizes"]) - MOST_PANELS),
        "alt": _alt(found),
    }


def _look(found: Json) -> Look:
    return styles([found["scratch"], *found["sources"]], found["scratch"])


def _cells(found: Json, source: str) -> list[Json]:
    return sorted((c for c in found["cells"] if c["source"] == source), key=lambda c: (c["N"], c["D_F"]))


def bounded(value: Json | None, text: Callable[[float], str] = formats.short) -> tuple[str, str]:
    """(value, interval): `21.8`, `[16.8, 27.1]`; outside of the curve `> 64.5`; an open end is `?`."""
    if not value:
        return formats.ABSENT, ""
    if value["side"]:
        return f"{'>' if value['side'] == 'more' else '<'}\u00a0{text(value['bound'])}", ""
    if value["value"] is None:
        return formats.ABSENT, ""
    low, high = value["low"], value["high"]
    if low is None and high is None and not value["open"]:
        return text(value["value"]), ""
    ends = ["?" if end is None else text(end).rstrip("×") for end in (low, high)]
    return text(value["value"]), f"[{ends[0]}, {ends[1]}]"


def _cell(cell: Json) -> Json:
    multiplier, interval = bounded(cell["multiplier"], formats.ratio)
    data, data_interval = bounded(cell["D_E"])
    fraction, _ = bounded(cell["fraction"], lambda share: f"{round(100 * share)}\u00a0%")
    over = cell["over_scratch"]
    marks = [word for flag, word in (("ossified", "ossified"), ("hurt", "fine-tuning hurts")) if cell[flag]]
    return {
        "N": cell["N"],
        "size": formats.short(cell["N"]),
        "D_F": cell["D_F"],
        "data": formats.short(cell["D_F"]),
        "loss": formats.loss(cell["loss"]),
        "effective": data,
        "effective_interval": data_interval,
        "value": (cell["multiplier"] or {}).get("value"),
        "multiplier": multiplier,
        "interval": interval,
        "fraction": fraction if cell["D_T"]["value"] is None or cell["D_T"]["value"] > 0 else "none",
        "over": formats.ratio(over["ratio"]) if over else formats.ABSENT,
        "over_interval": formats.interval(over["low"], over["high"]) if over else "",
        "regime": cell["regime"],
        "marks": marks,
    }


def _size(size: Json) -> Json:
    found = size["D_infinite"]
    value, interval = bounded(found)
    if value == formats.ABSENT:
        value = "" if found["low"] is None else f"at least {formats.short(found['low'])}"
    known = f"{value} {interval}".strip()
    note = f"({found['note']})" if known and found["note"] else found["note"]
    return {"size": formats.short(size["N"]), "infinite": f"{known} {note}".strip()}


def _law(law: Json, style: Style) -> Json:
    routes = [] if law["reason"] else [(name, route) for name, route in law["routes"].items()]
    return {
        "arm": law["source"],
        "style": style,
        "reason": law["reason"] or "",
        "cells": law.get("cells"),
        "scatter": "" if not law.get("scatter") else f"{100 * law['scatter']:.0f}\u00a0%",
        "routes": [
            {
                "name": name,
                "note": route.get("note") or "",
                "values": [] if "note" in route else [_constant(key, route[key]) for key in CONSTANTS],
            }
            for name, route in routes
        ],
        "left_out": formats.listing(
            f"{count} cell{'s' if count != 1 else ''} ({reason})" for reason, count in law["left_out"].items()
        ),
    }


def _constant(name: str, value: Json) -> Json:
    low, high = value["low"], value["high"]
    ends = "" if low is None or high is None else f"[{_number(low)}, {_number(high)}]"
    return {"name": name, "value": value["estimate"], "text": _number(value["estimate"]), "interval": ends}


def _number(value: float) -> str:
    return f"{value:.3g}".replace("-", "\u2212") if abs(value) < 1e4 else formats.flops(value)


def _pair(pair: Json) -> Json:
    rows = []
    for name in () if pair["reason"] else ("alpha", "beta"):
        value = pair[name]
        ends = "" if value["low"] is None else f"[{_number(value['low'])}, {_number(value['high'])}]"
        rows.append((name, _number(value["difference"]), ends, "" if value["p"] is None else f"{value['p']:.2g}"))
    return {"first": pair["first"], "second": pair["second"], "reason": pair["reason"] or "", "rows": rows}


def _compute(entry: Json, look: Look) -> Json:
    loss = entry["equal_loss"] or {}
    free, charged = ("".join(_spaced(bounded(loss.get(key), formats.ratio))) for key in ("free", "charged"))
    uses, most = loss.get("break_even_uses"), loss.get("break_even_at_most")
    pays = f"{uses:.3g}" if uses is not None else f"at most {most:.3g}" if most is not None else formats.ABSENT
    equal = (entry["equal_flops"] or {}).get("free")
    return {
        "arm": entry["source"],
        "style": look[entry["source"]],
        "size": formats.short(entry["N"]),
        "data": formats.short(entry["D_F"]),
        "C": formats.flops(entry["C"]),
        "free": free,
        "charged": charged,
        "uses": f"{entry['uses']:g}",
        "pays": "not resolved" if not loss.get("resolved", True) else "never" if loss.get("never") else pays,
        "equal": f"{formats.ratio(equal['ratio'])} {formats.interval(equal['low'], equal['high'])}".strip()
        if equal
        else formats.ABSENT,
    }


def _spaced(parts: tuple[str, str]) -> tuple[str, ...]:
    return (parts[0], f" {parts[1]}") if parts[1] else parts[:1]


def _forms(forms: Json) -> Json | None:
    """Laws of the curves from scratch, best first, and the combined form."""
    curves = [
        {
            "size": formats.short(curve["N"]),
            "laws": [
                f"{law['law']} {100 * law['rmse']:.2g}\u00a0%" for law in curve["laws"] if law["rmse"] is not None
            ],
        }
        for curve in forms.get("curves") or []
    ]
    met = [
        f"{one['source']}: the combined form L(N, D_F), tentative, misses the fine-tuned losses by "
        f"{100 * one['rmse']:.2g}\u00a0% and the runs from scratch by {100 * one['rmse_scratch']:.2g}\u00a0%."
        for one in forms.get("combined") or []
        if one["rmse"] is not None
    ]
    curves = [curve for curve in curves if curve["laws"]]
    return {"curves": curves, "combined": met} if curves or met else None


def _contamination(entries: list[Json]) -> list[Json]:
    parts = {"train": "training data", "A": "validation part A", "B": "validation part B"}
    rows: list[Json] = []
    for source in dict.fromkeys(entry["source"] for entry in entries):
        mine = {entry["part"]: entry for entry in entries if entry["source"] == source}
        cells = [
            f"{formats.count(mine[part]['shared'])} of {formats.count(mine[part]['windows'])}" if part in mine else "?"
            for part in parts
        ]
        rows.append({"source": source, "cells": list(zip(parts.values(), cells, strict=True))})
    return rows


def _alt(found: Json) -> str:
    cells = [c for c in found["cells"] if c["multiplier"]]
    if not cells:
        return ""
    told = [f"{c['source']} at N {formats.short(c['N'])} and {formats.short(c['D_F'])}: "
            f"{bounded(c['multiplier'], formats.ratio)[0]}" for c in cells[:3]]  # fmt: skip
    return (
        f"Loss against unique target data on logarithmic axes, from scratch and fine-tuned, one picture a size; arrows "
        f"lead to the data from scratch of equal loss. {'; '.join(told)}. The table below holds every value."
    )


# -- figure --------------------------------------------------------------------------------------------------


def figures(result: Json) -> dict[str, tuple[tuple[float, float], Callable[[Figure], None]]]:
    """Name -> (size in inches, how to draw it)."""
    found = result["transfer"]
    if not found or not _panels(found):
        return {}
    panels = _panels(found)[:MOST_PANELS]
    rows = -(-len(panels) // _columns(len(panels)))
    paper = (9, 4.6 if len(panels) == 1 else 0.9 + 3.2 * rows)
    return {FIGURE: (paper, lambda figure: _draw(figure, found, panels, result["units"]["loss"]))}


def _panels(found: Json) -> list[Json]:
    """Sizes with fine-tuned runs."""
    return [size for size in found["sizes"] if any(c["N"] == size["N"] and c["D_F"] > 0 for c in found["cells"])]


def _columns(panels: int) -> int:
    return {1: 1, 2: 2, 4: 2}.get(panels, 3)


def _draw(figure: Figure, found: Json, panels: list[Json], loss: str) -> None:
    columns = _columns(len(panels))
    flat = list(figure.subplots(-(-len(panels) // columns), columns, squeeze=False).flat)
    for axes in flat[len(panels) :]:
        axes.set_visible(False)
    look = _look(found)
    for axes, size in zip(flat, panels, strict=False):
        panel(axes, found, size, look)
        axes.set_title(f"N {formats.short(size['N'])}" if len(panels) > 1 else "")
        axes.set_xlabel(f"unique target {found['unit']}")
        axes.set_ylabel(loss)
    entries: dict[str, Any] = {}
    for axes in flat[: len(panels)]:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    figure.legend(list(entries.values()), list(entries), loc="outside upper left", ncols=3)


def panel(axes: Axes, found: Json, size: Json, look: Look) -> None:
    """Loss against unique data at one size; an arrow leads from a fine-tuned point to its D_E on the scratch curve."""
    scratch, curve = look[found["scratch"]], size["curve"]
    D = [point["D"] for point in curve]
    axes.plot(D, [point["monotone"] for point in curve], color=scratch.color, linewidth=1.6, label="from scratch")
    axes.plot(D, [point["loss"] for point in curve], scratch.marker, color=scratch.color, markersize=5)
    cells = [c for c in found["cells"] if c["N"] == size["N"] and c["D_F"] > 0]
    for source in found["sources"]:
        style, mine = look[source], [c for c in _cells(found, source) if c in cells]
        axes.plot(
            [c["D_F"] for c in mine], [c["loss"] for c in mine], linewidth=1.1, dashes=(1, 1.2), color=style.color,
            marker=style.marker, markersize=5.5, label=short_name(source),
        )  # fmt: skip
        for cell in mine:
            _arrow(axes, cell, style)
    flagged = [c for c in cells if c["ossified"] or c["hurt"]]
    if flagged:
        axes.plot(
            [c["D_F"] for c in flagged], [c["loss"] for c in flagged], "o", markersize=13, markerfacecolor="none",
            color=MUTED, label="ossified or hurt",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    reach = axes.get_xlim()
    limit = size["D_infinite"]["low"] or size["D_infinite"]["value"]
    if limit is not None and limit * LOW_DATA > reach[0]:
        # Behind everything: up to a tenth of D(N), where the law of transfer is meant.
        axes.axvspan(reach[0], limit * LOW_DATA, color=RULE, alpha=0.45, linewidth=0, zorder=0, label="low data")
        axes.set_xlim(*reach)
    log_ticks(axes.xaxis, formats.short, (1,) if reach[1] > 300 * reach[0] else (1, 3))
    log_ticks(axes.yaxis, lambda value: f"{value:.3g}")


def _arrow(axes: Axes, cell: Json, style: Style) -> None:
    """To D_E; dashed to the end of the curve where D_E lies beyond it."""
    to = cell["D_E"]["value"] if cell["D_E"]["value"] is not None else cell["D_E"]["bound"]
    if to is None or to == cell["D_F"]:
        return
    axes.annotate(
        "", (to, cell["loss"]), (cell["D_F"], cell["loss"]),
        arrowprops={
            "arrowstyle": "->", "color": style.color, "linewidth": 0.9, "alpha": 0.75, "shrinkA": 4, "shrinkB": 0,
            "linestyle": (0, (4, 3)) if cell["D_E"]["value"] is None else "-",
        },
    )  # fmt: skip


# -- terminal ------------------------------------------------------------------------------------------------


def columns(seen: Json) -> tuple[str, list[str], list[list[str]]] | None:
    """Title, head and rows of the terminal's table: a row an amount of target data, a column a source and size."""
    places = [(g["arm"], row["size"]) for g in seen["groups"] for row in g["rows"]]
    places = list(dict.fromkeys(places))
    if not places:
        return None
    # The largest sizes say most where not all fit.
    shown = places if len(places) <= MOST_COLUMNS else [p for p in places if p[1] == places[-1][1]][:MOST_COLUMNS]
    cells = {(g["arm"], row["size"], row["D_F"]): row for g in seen["groups"] for row in g["rows"]}
    rows = []
    for D in sorted({row["D_F"] for g in seen["groups"] for row in g["rows"] if row["D_F"] > 0}):
        found = [cells.get((*place, D)) for place in shown]
        texts = [
            " ".join((c["multiplier"], c["interval"], *c["marks"])).strip() if c else formats.ABSENT for c in found
        ]
        rows.append([formats.short(D), *texts])
    title = f"worth in data: {seen['unit']} from scratch for the same loss, over the target data used"
    return title, [f"target {seen['unit']}", *(f"{arm}, N {size}" for arm, size in shown)], rows
