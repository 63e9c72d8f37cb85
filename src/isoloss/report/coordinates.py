"""The coordinate check as a figure and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from isoloss.execute.coordinates import FLAT, Coordinates, named
from isoloss.recipe.errors import StudyError
from isoloss.report.axes import MUTED, log_ticks
from isoloss.report.figures import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

MOST_LABELS = 12


def save(found: Sequence[Coordinates], path: Path) -> Path:
    """Write the figure to ``path``, .svg or .png. Raises ``StudyError`` for another ending and an unwritable place."""
    if path.suffix not in (".svg", ".png"):
        raise StudyError(f"--out: found {path.name}; allowed: a name that ends with .svg or .png")
    drawn = render((9, 4.2), lambda figure: _draw(figure, found), path.suffix == ".png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if drawn.png is None:
            path.write_text(drawn.svg, encoding="utf-8")
        else:
            path.write_bytes(drawn.png)
    except OSError as error:
        raise StudyError(f"--out: cannot write to {path}: {error.strerror or error}") from error
    return path


def _draw(figure: Figure, found: Sequence[Coordinates]) -> None:
    import matplotlib

    colors = matplotlib.colormaps["viridis"]
    panels = figure.subplots(1, len(found), sharey=True)
    layers = list(dict.fromkeys(row.layer for check in found for row in check.rows))
    widths = sorted({row.width for check in found for row in check.rows})
    last = max((row.step for check in found for row in check.rows), default=0)
    for axes, check in zip(panels, found, strict=True):
        for index, layer in enumerate(layers):
            points = sorted((r.width, r.change) for r in check.rows if r.layer == layer and r.step == last)
            label = named(layer) if len(layers) <= MOST_LABELS else None
            color = colors(index / max(len(layers) - 1, 1))
            x, y = [width for width, _ in points], [change for _, change in points]
            axes.plot(x, y, "o-", color=color, markersize=3.5, linewidth=1.3, label=label)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        log_ticks(axes.yaxis, "{:g}".format)
        axes.set_xticks(widths, [str(width) for width in widths])
        axes.set_xlabel("width")
        axes.set_title(check.sentence)
        axes.text(0.02, 0.98, f"after {last} updates", transform=axes.transAxes, va="top", color=MUTED, fontsize=8)
    panels[0].set_ylabel("mean change of a layer's outputs")
    if len(layers) <= MOST_LABELS:
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", fontsize=7.5)


def table(found: Sequence[Coordinates]) -> RenderableType:
    """Change of every layer at every width after the last update, with its slope, for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    shown: list[RenderableType] = []
    last = max((row.step for check in found for row in check.rows), default=0)
    for check in found:
        widths = sorted({row.width for row in check.rows})
        title = f"{check.parametrisation}: mean change of outputs after {last} updates"
        made = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
        made.add_column("layer")
        for width in widths:
            made.add_column(f"width {width}", justify="right")
        made.add_column("slope", justify="right")
        changes = {(row.layer, row.width): row.change for row in check.rows if row.step == last}
        for layer, slope in check.growth.items():
            values = [f"{changes[layer, width]:.3g}" for width in widths]
            style = "" if FLAT[0] <= slope <= FLAT[1] else "bold"
            made.add_row(named(layer), *values, Text(f"{slope:+.2f}", style=style))
        shown += [made, Text(check.sentence), Text()]
    return Group(*shown[:-1])
