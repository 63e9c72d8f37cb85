"""Figures of what each law says on public tables, from the kept results alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import polars

from isoloss.report import formats
from isoloss.report.axes import INK, MUTED, log_ticks
from isoloss.report.figures import render
from isoloss.report.palette import BASELINE, COLORS
from reproductions.laws_claims import REFIT, Results, coverage, over_units
from reproductions.laws_on_public_data import (
    ALL_ROWS,
    CHINCHILLA,
    FEW_PASSES,
    FORMS,
    GADRE,
    OLMO,
    REPEATED_LAWS,
    REPEATS,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Draw = Callable[[Results, "Figure"], None]


def draw_all(results: Results) -> dict[str, tuple[str, str]]:
    """Name -> (what it shows, SVG)."""
    return {
        name: (alt, render(size, partial(draw, results), pixels=False).svg)
        for name, (alt, size, draw) in FIGURES.items()
    }


def _parameters(results: Results, figure: Figure) -> None:
    axes = figure.subplots()
    rows = ("by model size", "by row", "all 245 rows")
    for place, name in enumerate(REFIT):
        for index, split in enumerate(rows):
            found = results.one(table=CHINCHILLA, part="fit", law="chinchilla", split=split, quantity=name)
            ends = [found[end] / REFIT[name] for end in ("low", "value", "high")]
            y = place + 0.22 * (index - 1)
            color = (BASELINE, COLORS[0], COLORS[1])[index]
            axes.plot([ends[0], ends[2]], [y, y], color=color, linewidth=2, label=None if place else split)
            axes.plot([ends[1]], [y], "osD"[index], color=color, markersize=5)
        limit = results.value(table=CHINCHILLA, part="objective", law="chinchilla", split="l1", quantity=name)
        axes.plot(
            [limit / REFIT[name]], [place - 0.42], "v", color=MUTED, markersize=5, label=None if place else "L1 limit"
        )
    axes.axvline(1, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_xscale("log")
    axes.set_yticks(range(len(REFIT)), list(REFIT))
    axes.set_ylim(len(REFIT) - 0.5, -0.6)
    log_ticks(axes.xaxis, "{:g}×".format, (1, 2, 5))
    axes.set_xlabel("over the refit of Besiroglu et al. 2024")
    axes.grid(axis="y", visible=False)
    axes.legend(loc="upper right")


PANELS = (
    ("Chinchilla points: C > 1e20", ((CHINCHILLA, "C > 1e20"),)),
    ("OLMo: 7B and 13B", ((OLMO, "7B and 13B"),)),
    ("over-training: 1.4B and 6.9B", tuple((name, ALL_ROWS) for name in GADRE.values())),
    ("repeated data: 14 and 44 passes", tuple((name, "over 7 passes") for name in REPEATS.values())),
)


HUES = {
    "chinchilla": BASELINE,
    "chinchilla-tied": COLORS[0],
    "chinchilla-outer": COLORS[1],
    "kaplan": COLORS[2],
    "m2": COLORS[3],
    "additive:N,unique": COLORS[3],
    "overtraining": COLORS[4],
    **dict.fromkeys(REPEATED_LAWS[:2], COLORS[5]),
}
"""One colour a law in all panels."""


def _held_out(results: Results, figure: Figure) -> None:
    panels = figure.subplots(2, 2)
    for axes, (title, places) in zip(panels.flat, PANELS, strict=True):
        laws = results.of(table=places[0][0], part="holdout", split=places[0][1])["law"].unique(maintain_order=True)
        for row, law in enumerate(laws):
            held = [results.held(*place, law) for place in places]
            error = 100 * np.concatenate([part["error"].to_numpy() for part in held])
            units = [f"{place}|{unit}" for place, part in zip(places, held, strict=True) for unit in part["unit"]]
            color, many = HUES[law], len(error) > 20
            size, alpha = (3.5, 0.35) if many else (4.5, 0.6)
            axes.plot(error, np.full(len(error), row), "o", color=color, markersize=size, alpha=alpha)
            mean = over_units(error, units)
            if mean is not None and mean["low"] is not None:
                axes.plot([mean["low"], mean["high"]], [row + 0.28] * 2, color=color, linewidth=2.5)
        last = (
            100
            * polars.concat([results.held(*place, laws[0]).select("error_of_last") for place in places])[
                "error_of_last"
            ]
        )
        axes.plot(last, np.full(len(last), len(laws)), "x", color=MUTED, markersize=4)
        axes.axvline(0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_yticks(range(len(laws) + 1), [*laws, "last value"])
        axes.set_ylim(len(laws) + 0.5, -0.6)
        axes.set_title(title)
        axes.grid(axis="y", visible=False)
    for axes in panels[1]:
        axes.set_xlabel("predicted over measured loss, %")


def _curves(results: Results, figure: Figure) -> None:
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for index, law in enumerate(("default", *FORMS, "last value")):
        rmse = np.sort(list(results.curves("rmse", law).values()))
        color = MUTED if law == "last value" else (BASELINE, *COLORS)[index]
        name = "extrapolate" if law == "default" else law
        _steps(left, rmse, color, name, "--" if law == "last value" else "-")
    reference = np.sort(list(results.curves("rmse", "reference m4").values()))
    _steps(left, reference, COLORS[3], "m4, reference", ":")
    left.set_xscale("log")
    log_ticks(left.xaxis, lambda value: f"{100 * value:g} %", (1, 3))
    left.set_ylabel("share of the curves")
    left.set_xlabel("RMSE of log loss on the held-out part of a curve")
    left.legend(loc="upper left", fontsize=8)
    for row, law in enumerate(("default", *FORMS)):
        found = coverage(results, law)
        assert found is not None
        color = (BASELINE, *COLORS)[row]
        right.plot([100 * found["low"], 100 * found["high"]], [row, row], color=color, linewidth=2.5)
        right.plot([100 * found["value"]], [row], "o", color=color, markersize=5.5)
    right.axvline(90, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    right.set_yticks(range(len(FORMS) + 1), ["extrapolate", *FORMS])
    right.set_ylim(len(FORMS) + 0.5, -0.5)
    right.set_xlabel("rows inside the 90 % band, %")
    right.grid(axis="y", visible=False)


def _steps(axes: Axes, values: np.ndarray, color: str, name: str, line: str) -> None:
    shares = np.arange(1, len(values) + 1) / len(values)
    axes.step(values, shares, where="post", color=color, linewidth=1.4, linestyle=line, label=name)


def _repeats(results: Results, figure: Figure) -> None:
    panels = figure.subplots(1, 2)
    lines = {REPEATED_LAWS[0]: "-", REPEATED_LAWS[2]: ":"}
    for axes, name in zip(panels, REPEATS.values(), strict=True):
        runs = results.of(table=name, part="run").with_columns(passes=polars.col("split").cast(polars.Float64))
        for index, (size,) in enumerate(runs.select("item").unique(maintain_order=True).iter_rows()):
            color, marker = (BASELINE, *COLORS)[index], "osD"[index]
            here = runs.filter(item=size).sort("passes")
            measured = here.filter(quantity="loss")
            axes.plot(
                measured["passes"], measured["value"], marker, color=color, markersize=5,
                label=f"N {formats.short(float(size))}",
            )  # fmt: skip
            for law, line in lines.items():
                drawn = here.filter(quantity="predicted", law=law)
                axes.plot(drawn["passes"], drawn["value"], line, color=color, linewidth=1.3)
        axes.axvline(FEW_PASSES * 1.4, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_xscale("log")
        log_ticks(axes.xaxis, "{:g}".format, (1, 2, 3, 5))
        axes.set_title(name)
        axes.set_xlabel("passes over the unique tokens")
    panels[0].set_ylabel("final loss, nats a token")
    for law, line in lines.items():
        panels[0].plot([], [], line, color=INK, label=law)
    panels[0].legend(loc="upper left", fontsize=8)


FIGURES: dict[str, tuple[str, tuple[float, float], Draw]] = {
    "parameters": ("refit of the Chinchilla points over the published refit, with intervals", (9, 3.6), _parameters),
    "held-out": ("errors of every held-out row by law, on four kinds of tables", (9, 6.6), _held_out),
    "curves": ("held-out RMSE and coverage on 92 learning curves, by forecast", (9, 4.2), _curves),
    "repeats": ("final loss against passes, and two laws fitted up to 7 passes", (9, 4.0), _repeats),
}
