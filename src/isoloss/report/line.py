"""The picture of a straight line between weights before and after a cooldown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoloss.report import formats
from isoloss.report.axes import MUTED
from isoloss.report.palette import COLORS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write(lines: Sequence[Mapping[str, Any]], path: str | Path, *, loss: str = "validation loss") -> Path:
    """Draw lines (`Line.to_dict`) into an SVG or PNG file; the path. Raises ValueError for none or another ending."""
    from isoloss.report.figures import render

    path = Path(path)
    if not lines or path.suffix not in (".svg", ".png"):
        raise ValueError(f"line: {len(lines)} lines into {path.name}; allowed: one or more into .svg or .png")
    drawn = render((9, 4.4), lambda figure: _draw(figure, lines, loss), pixels=path.suffix == ".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    if drawn.png is not None:
        path.write_bytes(drawn.png)
    else:
        path.write_text(drawn.svg, encoding="utf-8")
    return path


def _draw(figure: Figure, lines: Sequence[Mapping[str, Any]], loss: str) -> None:
    axes = figure.subplots()
    for index, line in enumerate(lines):
        color = COLORS[index % len(COLORS)]
        label = f"{line['run']}: barrier {formats.number(line['barrier'])}"
        axes.plot(line["at"], line["loss"], "o-", color=color, markersize=4, linewidth=1.5, label=label)
        axes.plot([0, 1], [line["loss"][0], line["loss"][-1]], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_xlabel("before the cooldown  →  after it, along the straight line; dashed: the chord")
    axes.set_ylabel(loss)
    axes.legend()
