"""A drawn figure made to fit small paper: panels, names, ticks and legends that neither touch nor leave it.

The drawing functions of `report.figures` lay out for a page nine inches wide and know nothing of narrower ones. Nothing
is known here of what they drew: panels are stacked where they would be too narrow, texts get one size, long names are
broken over lines, and ticks are thinned until their numbers stand apart.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.backend_bases import RendererBase
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec
    from matplotlib.text import Annotation, Text

SMALLEST = 6.0
"""Points; journals ask for no less."""
NARROWEST = 1.5
"""Inches of a panel with an axis of its own."""
SQUARER = 0.72
"""Least height over width of a panel narrower than half a page."""
HALF_PAGE = 4.0
OPTIONAL = "may be left out"
"""As the label of an annotation: it goes where it would lie on another."""


def fit(figure: Figure, designed: tuple[float, float], points: float, *, lines: bool = False) -> None:
    """Fit a figure of constrained layout to its width in inches, its text between `SMALLEST` and `points`.

    `designed`: the inches it was laid out for. The height follows: that of as many lines of text (`lines`), else from
    the shape of the panels. The title of a single panel goes: the caption says it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    width = float(figure.get_figwidth())
    panels = _panels(figure)
    if len(panels) == 1:
        panels[0].set_title("", loc="left")
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_fontsize(min(points, max(SMALLEST, float(text.get_fontsize()))))
    height = _arranged(panels, designed, width)
    _say_once(panels)
    smaller = 0.8 if width < HALF_PAGE else 0.9
    _thinner(figure, smaller)
    if lines:
        height = 0.45 + smaller * (designed[1] - 0.9)
    renderer = FigureCanvasAgg(figure).get_renderer()
    legend = _legend(figure, renderer)
    figure.set_figheight(height + legend)
    # Shorter names make room for more ticks, and fewer ticks for longer names: twice is enough.
    for _ in range(2):
        figure.draw_without_rendering()
        for axes in panels:
            _break_names(axes, renderer, alone=sum(bool(other.get_xlabel()) for other in panels) == 1)
            _thin(axes.xaxis, renderer, 0)
            if axes.get_yscale() == "log":
                _thin(axes.yaxis, renderer, 1)
    figure.draw_without_rendering()
    for axes in panels:
        _keep_apart(axes, renderer)
        _shorten(axes, renderer)
        for text in axes.texts:
            if text.get_text() and text.get_label() != OPTIONAL:
                # A line that runs under a name stops at it.
                text.set_bbox({"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.4})


def _panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_visible() and axes.get_subplotspec() is not None]


def _arranged(panels: Sequence[Axes], designed: tuple[float, float], width: float) -> float:
    """Panels in fewer columns where they would be too narrow; the figure's height without its legend, in inches."""
    from matplotlib.gridspec import GridSpec

    figure = panels[0].get_figure(root=True)
    assert figure is not None
    before = _place(panels[0]).get_gridspec()
    rows, columns = before.nrows, before.ncols
    shape = (designed[1] / rows) / (designed[0] / columns)
    # Panels that share their vertical axis are read side by side.
    shared = any(panels[0].get_shared_y_axes().joined(panels[0], other) for other in panels[1:])
    if not shared and columns > 1:
        columns = max(1, min(columns, int(width / NARROWEST)))
        rows = -(-len(panels) // columns)
        grid = GridSpec(rows, columns, figure=figure)
        for index, axes in enumerate(panels):
            axes.set_subplotspec(grid[index // columns, index % columns])
    panel = width / columns
    return rows * panel * max(shape, SQUARER if panel < HALF_PAGE else 0)


def _place(axes: Axes) -> SubplotSpec:
    place = axes.get_subplotspec()
    assert place is not None
    return place.get_topmost_subplotspec()


def _say_once(panels: Sequence[Axes]) -> None:
    """An axis label that the panel to the left or below has too is left out."""
    placed = {(_place(axes).rowspan.start, _place(axes).colspan.start): axes for axes in panels}
    said = {place: (axes.get_xlabel(), axes.get_ylabel()) for place, axes in placed.items()}
    for (row, column), axes in placed.items():
        across, up = said[row, column]
        if said.get((row + 1, column), ("", ""))[0] == across:
            axes.set_xlabel("")
        if said.get((row, column - 1), ("", ""))[1] == up:
            axes.set_ylabel("")


def _thinner(figure: Figure, by: float) -> None:
    """Lines and marks scaled with the paper."""
    from matplotlib.lines import Line2D

    for line in figure.findobj(Line2D):
        assert isinstance(line, Line2D)
        line.set_linewidth(by * line.get_linewidth())
        line.set_markersize(by * line.get_markersize())


def _legend(figure: Figure, renderer: RendererBase) -> float:
    """The figure's legend above the panels in as many columns as fit its width; its height in inches."""
    if not figure.legends:
        return 0.0
    handles = [handle for handle in figure.legends[0].legend_handles if handle is not None]
    names = [text.get_text() for text in figure.legends[0].texts]
    for columns in range(len(names), 0, -1):
        figure.legends[0].remove()
        made = figure.legend(handles, names, loc="outside upper left", ncols=columns)
        box = made.get_window_extent(renderer)
        if box.width <= 0.97 * figure.bbox.width:
            break
    return float(box.height / figure.dpi)


def _break_names(axes: Axes, renderer: RendererBase, *, alone: bool) -> None:
    """Title and axis labels over as many lines as they need; a label of all panels (`alone`) may be wider than one."""
    own = axes.get_window_extent(renderer)
    across = own.width
    if alone:
        figure = axes.get_figure(root=True)
        assert figure is not None
        middle = own.x0 + own.width / 2
        across = 2 * min(middle, figure.bbox.width - middle)
    for text, room, side in (
        (axes.title, own.width, 0),
        (axes._left_title, own.width, 0),  # type: ignore[attr-defined]
        (axes.xaxis.label, across, 0),
        (axes.yaxis.label, own.height, 1),
    ):
        box = text.get_window_extent(renderer)
        size = box.width if side == 0 else box.height
        if text.get_text() and size > room:
            text.set_text(_balanced(" ".join(text.get_text().split()), room / size))
            text.set_linespacing(1)


def _balanced(text: str, share: float) -> str:
    """A text in lines of at most `share` of its length where words allow, as few of them and as even as can be."""
    width = max(8, int(len(text) * share))
    lines = textwrap.wrap(text, width, break_long_words=False)
    while width > 1 and len(narrower := textwrap.wrap(text, width - 1, break_long_words=False)) == len(lines):
        width, lines = width - 1, narrower
    return "\n".join(lines)


def _thin(axis: Axis, renderer: RendererBase, side: int) -> None:
    """Fewer ticks where numbers would touch, the rounder ones kept."""
    low, high = sorted(axis.get_view_interval())
    marks = [
        (float(tick.get_loc()), tick.label1)
        for tick in axis.get_major_ticks()
        if low <= tick.get_loc() <= high and tick.label1.get_text() and tick.label1.get_visible()
    ]
    for kept in _choices([at for at, _ in marks]):
        chosen = [(at, label) for at, label in marks if at in kept]
        if _apart([label for _, label in chosen], renderer, side):
            if len(chosen) < len(marks):
                axis.set_ticks([at for at, _ in chosen], labels=[label.get_text() for _, label in chosen])
            return


def _choices(ticks: list[float]) -> Iterator[list[float]]:
    """Ever fewer of the ticks: at even distances, or by their first digit where they are not even."""
    yield ticks
    steps = {round((b - a) / (ticks[-1] - ticks[0]), 6) for a, b in pairwise(ticks)}
    if len(steps) > 1:
        for digits in ((1, 2, 5), (1, 3), (1, 2), (1,)):
            kept = [tick for tick in ticks if tick > 0 and _first_digit(tick) in digits]
            if len(kept) > 1:
                yield kept
    # Nothing gained and nothing lost is the tick to keep.
    anchor = next((ticks.index(value) for value in (1.0, 0.0) if value in ticks), 0)
    for step in range(2, len(ticks) + 1):
        yield ticks[anchor % step :: step]


def _first_digit(value: float) -> float:
    """The mantissa of a positive number, to one digit after the point."""
    return round(value / 10.0 ** math.floor(math.log10(value) + 1e-9), 1)


def _apart(labels: Sequence[Text], renderer: RendererBase, side: int) -> bool:
    boxes = sorted(((box.x0, box.x1) if side == 0 else (box.y0, box.y1)) for box in
                   (label.get_window_extent(renderer) for label in labels))  # fmt: skip
    gap = 0.5 * _em(labels[0]) if labels and side == 0 else 0.0
    return all(one[1] + gap <= other[0] for one, other in pairwise(boxes))


def _em(text: Text) -> float:
    """The size of a text in pixels."""
    figure = text.get_figure(root=True)
    assert figure is not None
    return float(text.get_fontsize()) * figure.dpi / 72


def _keep_apart(axes: Axes, renderer: RendererBase) -> None:
    """Names of points and lines moved up or down until none lies on another, nor on the axis below."""
    notes = _kept(axes, renderer)
    boxes = [note.get_window_extent(renderer) for note in notes]
    moved = [0.0] * len(notes)
    order = sorted(range(len(notes)), key=lambda i: boxes[i].y0)
    floors = [axes.bbox.y0 + 1 if box.x0 < axes.bbox.x1 else -math.inf for box in boxes]
    for _ in range(20 * len(notes)):
        still = True
        for place, i in enumerate(order):
            moved[i] = max(moved[i], floors[i] - boxes[i].y0)
            for j in order[place + 1 :]:
                beside = boxes[i].x0 < boxes[j].x1 and boxes[j].x0 < boxes[i].x1
                over = boxes[i].y1 + moved[i] - boxes[j].y0 - moved[j]
                if beside and over > 0.5:
                    moved[i], moved[j], still = moved[i] - over / 2, moved[j] + over / 2, False
        if still:
            break
    for note, by in zip(notes, moved, strict=True):
        _move(note, by)


def _kept(axes: Axes, renderer: RendererBase) -> list[Annotation]:
    """Names beside points and lines, those that may be left out only where they are free; the others are removed."""
    from matplotlib.text import Annotation

    notes = [t for t in axes.texts if isinstance(t, Annotation) and t.get_text() and t.anncoords == "offset points"]
    kept: list[Annotation] = []
    for note in sorted(notes, key=lambda note: note.get_label() == OPTIONAL):
        box = note.get_window_extent(renderer)
        if note.get_label() == OPTIONAL and any(box.overlaps(other.get_window_extent(renderer)) for other in kept):
            note.remove()
        else:
            kept.append(note)
    return kept


def _move(note: Annotation, pixels: float) -> None:
    figure = note.get_figure(root=True)
    assert figure is not None
    x, y = note.xyann
    note.xyann = (x, float(y) + pixels * 72 / figure.dpi)


def _shorten(axes: Axes, renderer: RendererBase) -> None:
    """Texts inside a panel that would leave the paper end in an ellipsis."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    for text in axes.texts:
        box = text.get_window_extent(renderer)
        over = box.x1 - figure.bbox.width
        if over > 0 and box.width > 0:
            whole = text.get_text()
            text.set_text(whole[: max(1, int(len(whole) * (1 - over / box.width)) - 2)].rstrip() + "…")
