"""Static figures of the fitted laws and of worth against size: measurement with marks, prediction beyond it dashed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from isoloss.report import answers, formats, plotted
from isoloss.report.axes import INK, MUTED, RULE, log_ticks, short_name
from isoloss.report.palette import Style
from isoloss.report.tidy import Json, done

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Draw = Callable[["Figure"], None]
Look = dict[str, Style]
BEYOND: Any = (0, (4, 3))
"""Dashes of what lies beyond the data."""
HELD_SHIFT = 1.08
"""Held-out marks stand beside those of the fit, at the same D."""


def scale(figure: Figure, result: Json, look: Look) -> None:
    """Worth in data against size: points with intervals, the trend's line and band, dashed beyond the sizes."""
    axes = figure.subplots()
    found = plotted.scale(result)
    low, high = found["measured"]
    axes.axhline(1, color=MUTED, linewidth=1)
    for place, entry in enumerate(found["arms"]):
        name = result["arms"][entry["arm"]]["name"]
        style, band = look[name], entry["bands"][0]
        if band:
            for rows, dashes in _inside(band["N"], low, high):
                x = [band["N"][i] for i in rows]
                axes.plot(x, [band["ratio"][i] for i in rows], color=style.color, linewidth=1.4, linestyle=dashes)
                if band["low"][0] is not None:
                    low_edge, high_edge = ([band[end][i] for i in rows] for end in ("low", "high"))
                    alpha = 0.14 if dashes == "-" else 0.06
                    axes.fill_between(x, low_edge, high_edge, color=style.color, alpha=alpha, linewidth=0)
        shift = 1 + min(0.035, 0.16 / len(found["arms"])) * (place - (len(found["arms"]) - 1) / 2)
        points = [(point["N"] * shift, *point["worth"][0]) for point in entry["points"] if point["worth"][0]]
        bounded = [point for point in points if point[2] is not None]
        axes.vlines([p[0] for p in bounded], [p[2] for p in bounded], [p[3] for p in bounded], color=style.color)
        axes.plot(
            [p[0] for p in points], [p[1] for p in points], style.marker, color=style.color, label=short_name(name)
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    _fit_measured(axes, found)
    log_ticks(axes.xaxis, formats.short, (1, 2, 5))
    log_ticks(axes.yaxis, "{:g}×".format)
    axes.set_xlabel("N, parameters; dashed: beyond the measured sizes")
    axes.set_ylabel(f"worth in {found['measures'][0]}, over {short_name(answers.reference(result) or 'its reference')}")
    figure.legend(loc="outside upper left", ncols=min(5, len(found["arms"])))


def _fit_measured(axes: Axes, found: Json) -> None:
    """Vertical limits from what was measured: a band that opens beyond it would hide the rest."""
    seen = [value for entry in found["arms"] for point in entry["points"] for value in point["worth"][0] or []]
    known = [value for value in seen if value is not None] + [1.0]
    pad = max(max(known) / min(known), 1.02) ** 0.15
    axes.set_ylim(min(known) / pad, max(known) * pad)


def _inside(x: Sequence[float], low: float, high: float) -> list[tuple[list[int], Any]]:
    """Places of x below, inside and above [low, high], each with how its line is drawn; neighbours share an end."""
    first = next(i for i, value in enumerate(x) if value >= low * (1 - 1e-5))
    last = max(i for i, value in enumerate(x) if value <= high * (1 + 1e-5))
    pieces = ((range(first + 1), BEYOND), (range(first, last + 1), "-"), (range(last, len(x)), BEYOND))
    return [(list(piece), dashes) for piece, dashes in pieces if len(piece) > 1]


def law(result: Json, law: Json, look: Look, loss_axes: Callable[[Axes, Json], None]) -> Draw:
    """Loss against D: every run, the law with its band, dashed beyond the lengths measured at each size."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        style = look[law["arm"]]
        runs = [run for run in done(result) if run["arm"] == law["arm"]]
        for curve in law["curves"]:
            size, x = curve.get("N"), curve["x"]
            reach = max((run["D"] for run in runs if size in (None, run["N"]) and run["D"]), default=0)
            inside = [i for i, D in enumerate(x) if reach * (1 + 1e-6) >= D]
            beyond = list(range(max(inside, default=0), len(x)))
            for rows, dashes in ((inside, "-"), (beyond, BEYOND)):
                at = [x[i] for i in rows]
                axes.plot(at, [curve["loss"][i] for i in rows], color=style.color, linestyle=dashes, linewidth=1.4)
                if curve.get("low") and curve.get("high"):
                    low, high = ([curve[end][i] for i in rows] for end in ("low", "high"))
                    alpha = 0.16 if dashes == "-" else 0.07
                    axes.fill_between(at, low, high, color=style.color, alpha=alpha, linewidth=0)
            if x:
                name_size(axes, size, x[-1], curve["loss"][-1])
        axes.plot(
            [run["D"] for run in runs], [run["loss"] for run in runs], style.marker, color=style.color, markersize=4.5,
            label="measured",
        )  # fmt: skip
        axes.set_title(f"{short_name(law['arm'])}: {law['formula'][:60]}")
        loss_axes(axes, result)
        axes.legend(loc="upper right")

    return draw


def name_size(axes: Axes, size: float | None, x: float, y: float) -> None:
    """`N 25.2k` at the end of a line."""
    axes.annotate(
        "all sizes" if size is None else f"N {formats.short(size)}",
        (x, y),
        xytext=(7, -3),
        textcoords="offset points",
        color=MUTED,
        fontsize=8,
    )


def residuals(result: Json, law: Json, look: Look) -> Draw:
    """Measured over law, minus one, against D: runs of the fit, and runs held out of another fit with its interval."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        style, held = look[law["arm"]], (law["holdout"] or {}).get("rows") or []
        axes.axhline(0, color=MUTED, linewidth=1)
        rows = law["residuals"]
        axes.plot(
            [row["D"] for row in rows], [_percent(row["actual"], row["predicted"]) for row in rows], style.marker,
            color=style.color, markersize=4.5, label="used in the fit",
        )  # fmt: skip
        if held:
            for row in held:
                if row.get("low") is not None and row.get("high") is not None:
                    low, high = (_percent(row[end], row["predicted"]) for end in ("low", "high"))
                    axes.vlines(row["D"] * HELD_SHIFT, low, high, color=style.color, linewidth=1)
            axes.plot(
                [row["D"] * HELD_SHIFT for row in held],
                [_percent(row["actual"], row["predicted"]) for row in held], style.marker,
                color=style.color, markersize=7, markerfacecolor="white", markeredgewidth=1.5, label="held out",
            )  # fmt: skip
        axes.set_xscale("log")
        log_ticks(axes.xaxis, formats.short, (1, 2, 5))
        axes.set_xlabel(f"D, {short_name(result['units']['D'])}")
        axes.set_ylabel("measured over law, minus 1, %")
        axes.set_title(short_name(law["arm"]))
        figure.legend(loc="outside upper right", ncols=2)

    return draw


def _percent(actual: float, predicted: float) -> float:
    return 100 * (actual / predicted - 1)


def surface(result: Json, law: Json, look: Look) -> Draw:
    """Lines of equal loss over D and N with the compute-optimal frontier; dashed beyond the measured ranges."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        found, style = law["surface"], look[law["arm"]]
        widths, heights, k = found["extent"]["D"], found["extent"]["N"], found["flops_per_nd"]
        least, most = (k * heights[i] * widths[i] for i in (0, 1))
        for power in range(math.ceil(math.log10(least)), math.floor(math.log10(most)) + 1):
            ends = [max(widths[0], 10**power / (k * heights[1])), min(widths[1], 10**power / (k * heights[0]))]
            axes.plot(ends, [10**power / (k * D) for D in ends], color=RULE, linewidth=0.8, zorder=1)
        last: dict[float, Json] = {}
        for line in found["lines"]:
            dashes = "-" if line["measured"] else BEYOND
            axes.plot(line["D"], line["N"], color=INK, linewidth=0.9, linestyle=dashes)
            last[line["loss"]] = line
        for loss, line in last.items():
            axes.annotate(
                f"{loss:g}", (line["D"][-1], line["N"][-1]), xytext=(3, -9), textcoords="offset points", color=INK,
                fontsize=8, annotation_clip=True,
            )  # fmt: skip
        best = found["frontier"]
        if best:
            _frontier(axes, best, k, style)
        runs = {(run["D"], run["N"]) for run in done(result) if run["arm"] == law["arm"] and run["D"]}
        axes.plot(
            [D for D, _ in runs], [N for _, N in runs], style.marker, color=style.color, markersize=4.5,
            label="measured",
        )  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(*widths)
        axes.set_ylim(*heights)
        log_ticks(axes.xaxis, formats.short, (1, 2, 5))
        log_ticks(axes.yaxis, formats.short, (1, 2, 5))
        axes.set_xlabel(f"D, {short_name(result['units']['D'])}; grey: equal FLOPs; dashed: beyond the data")
        axes.set_ylabel("N, parameters")
        axes.set_title(f"{short_name(law['arm'])}: equal loss")
        axes.grid(visible=False)
        figure.legend(loc="outside upper right", ncols=2)

    return draw


def _frontier(axes: Axes, best: Json, k: float, style: Style) -> None:
    rows = range(len(best["C"]))
    bounded = [i for i in rows if best["N_low"][i] is not None and best["N_high"][i] is not None]
    # The interval of N is at equal compute: its ends lie on one grey line.
    outline = [(best["C"][i] / (k * best["N_high"][i]), best["N_high"][i]) for i in bounded]
    outline += [(best["C"][i] / (k * best["N_low"][i]), best["N_low"][i]) for i in reversed(bounded)]
    if len(bounded) > 1:
        axes.fill([D for D, _ in outline], [N for _, N in outline], color=style.color, alpha=0.12, linewidth=0)
    known = [i for i in rows if best["measured"][i]]
    below = [i for i in rows if not known or i <= known[0]]
    above = [i for i in rows if known and i >= known[-1]]
    for piece, dashes in ((known, "-"), (below, BEYOND), (above, BEYOND)):
        label = "best split of compute" if piece is (known or below) else None
        axes.plot(
            [best["D"][i] for i in piece], [best["N"][i] for i in piece], color=style.color, linewidth=2.2,
            linestyle=dashes, label=label,
        )  # fmt: skip
