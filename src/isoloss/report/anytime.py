"""Anytime curves on the page: what a cooldown would reach from every update of a trunk, beside real branches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from isoloss.report import formats
from isoloss.report.axes import INK, MUTED, log_ticks, short_name
from isoloss.report.palette import Style, styles
from isoloss.report.tidy import Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURE = "anytime"
MOST_PANELS = 6
Look = dict[str, Style]


def view(result: Json) -> Json | None:
    """Sentences, the figure's words and the held-out branches; None where no trunk has a curve."""
    found = result["anytime"]
    if not found:
        return None
    return {
        "sentences": [record["text"] for record in found[:MOST_PANELS]],
        "alt": "Loss of the trunk and the loss a cooldown begun at each update is predicted to reach, with real "
        f"branches, for {formats.listing(dict.fromkeys(record['arm'] for record in found))}.",
        "level": f"{100 * found[0]['level']:.3g} %",
        "left_out": max(0, len(found) - MOST_PANELS),
        "rows": [_row(record, held) for record in found for held in record["held_out"]],
    }


def _row(record: Json, held: Json) -> Json:
    low, high = held["low"], held["high"]
    return {
        "arm": record["arm"],
        "size": formats.short(record["N"]),
        "seed": held["seed"],
        "fork": formats.count(round(held["fork"])),
        "actual": formats.loss(held["actual"]),
        "predicted": formats.loss(held["loss"]),
        "interval": "" if low is None or high is None else f"[{low:.4f}, {high:.4f}]",
        "inside": {None: "no band", True: "inside", False: "outside"}[held["inside"]],
        "kind": "beyond the others" if held["extrapolated"] else "between others",
    }


def figures(result: Json, look: Look) -> dict[str, tuple[tuple[float, float], Any]]:
    """The section's figure by name: (inches, what draws it)."""
    shown = result["anytime"][:MOST_PANELS]
    if not shown:
        return {}
    look = styles(dict.fromkeys(record["arm"] for record in shown), None) | look
    columns = 2 if len(shown) == 4 else min(len(shown), 3)
    rows = -(-len(shown) // columns)
    size = (9.0, 4.4) if len(shown) == 1 else (9.0, 0.9 + 3.0 * rows)
    return {FIGURE: (size, lambda figure: _draw(figure, shown, (rows, columns), look))}


def _draw(figure: Figure, shown: list[Json], grid: tuple[int, int], look: Look) -> None:
    flat = list(figure.subplots(*grid, squeeze=False).flat)
    for axes in flat[len(shown) :]:
        axes.set_visible(False)
    for axes, record in zip(flat, shown, strict=False):
        panel(axes, record, look[record["arm"]].color)
        axes.set_title(f"{short_name(record['arm'])}, N {formats.short(record['N'])}")
    handles, names = flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=4)


def panel(axes: Axes, record: Json, color: str) -> None:
    """One trunk (the first seed): its loss, the predicted one with its band, and the real branches."""
    curve = record["curves"][0]
    begin = record["range"][0]
    # What lies far before the first branch is flagged anyway, and would hide the rest.
    points = [p for p in curve["points"] if p["fork"] >= begin / 2]
    inside = [p for p in points if not p["extrapolated"]]
    x = [p["fork"] for p in points]
    axes.plot(x, [p["trunk"] for p in points], color=MUTED, linewidth=1.2, label="trunk, smoothed")
    axes.plot(x, [p["loss"] for p in points], color=color, linewidth=1.2, linestyle=":", label="outside the branches")
    axes.plot([p["fork"] for p in inside], [p["loss"] for p in inside], color=color, linewidth=1.8, label="cooled down")
    banded = [p for p in points if p["low"] is not None and p["high"] is not None]
    axes.fill_between(
        [p["fork"] for p in banded], [p["low"] for p in banded], [p["high"] for p in banded],
        color=color, alpha=0.16, linewidth=0,
    )  # fmt: skip
    real = [b for b in record["branches"] if b["seed"] == curve["seed"]]
    axes.plot(
        [b["fork"] for b in real], [b["loss"] for b in real], "o", color=INK, markersize=5, label="real branches"
    )  # fmt: skip
    seen = [p["trunk"] for p in points] + [b["loss"] for b in real] + [p["loss"] for p in inside]
    room = 0.15 * (max(seen) - min(seen))
    axes.set_ylim(min(seen) - room, max(seen) + room)
    axes.set_xscale("log")
    log_ticks(axes.xaxis, formats.short, (1, 2, 5))
    axes.set_xlabel("updates at which the cooldown begins")
    axes.set_ylabel("validation loss")
