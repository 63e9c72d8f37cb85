"""Every figure of the page as a file: SVG for papers and slides, PNG for everything else.

Drawn on matplotlib's own canvases, without pyplot: no global state, no display, bytes that repeat.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoloss.report import answers as answer_rows
from isoloss.report import anytime, formats, large_batch, law_figures, transfer
from isoloss.report import tree as trees
from isoloss.report.axes import INK, MUTED, RULE, log_ticks, short_name
from isoloss.report.palette import Style, styles
from isoloss.report.tidy import MEASURES, Json, baseline_of, binned, curve_part, done, seed_means, sizes
from isoloss.report.typeset import OPTIONAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 9.5, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.edgecolor": MUTED, "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": MUTED, "ytick.color": MUTED, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": RULE, "grid.linewidth": 0.6, "axes.axisbelow": True,
    "legend.frameon": False, "svg.hashsalt": "isoloss", "text.parse_math": False,
}  # fmt: skip
MOST_PANELS = 6
_THICKEST = 18.0
"""Points of the thickest line of the tree."""

Draw = Callable[["Figure"], None]


@dataclass(frozen=True)
class Drawn:
    """One finished figure: SVG text, and PNG bytes at 200 dots an inch where they were asked for."""

    svg: str
    png: bytes | None


def draw_all(result: Json, *, pixels: bool = False) -> dict[str, Drawn]:
    """Name -> figure, for each figure that the result has data for."""
    return {name: render(size, draw, pixels) for name, (size, draw) in offered(result).items()}


def save_all(drawn: dict[str, Drawn], folder: Path) -> list[Path]:
    """Write each figure as `<name>.svg` and, where it has pixels, `<name>.png` into `folder`; their paths.

    Figures that lie there from an earlier result and are not in `drawn` are removed: they would pass for new.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in drawn.items():
        written.append(folder / f"{name}.svg")
        written[-1].write_text(figure.svg, encoding="utf-8")
        if figure.png is not None:
            written.append(folder / f"{name}.png")
            written[-1].write_bytes(figure.png)
    for old in folder.iterdir():
        if old.suffix in (".svg", ".png") and old not in written and old.is_file():
            old.unlink()
    return written


def law_name(index: int, law: Json) -> str:
    """The file name of a law's figure; names of arms may hold anything, file names may not."""
    return law_names(index, law)["law"]


def law_names(index: int, law: Json) -> dict[str, str]:
    """File names by what is drawn of a law: law, residual, surface."""
    words = re.sub(r"[^a-z0-9]+", "-", f"{law['law']} {law['arm']}".lower()).strip("-")[:60].strip("-")
    kinds = {"law": "law", "residual": "residuals", "surface": "surface"}
    return {kind: f"{name}-{index + 1}-{words}".rstrip("-") for kind, name in kinds.items()}


def offered(result: Json) -> dict[str, tuple[tuple[float, float], Draw]]:
    """Name -> (size in inches on the page, how to draw it), for each figure that a tidy result has data for."""
    look = styles([arm["name"] for arm in result["arms"]], baseline_of(result))
    found: dict[str, tuple[tuple[float, float], Draw]] = {}
    answers = [entry for entry in result["worth"] if entry["data"]["ratio"] is not None]
    if answers:
        found["worth"] = ((9, 1.3 + 0.28 * len(answers)), lambda figure: _worth(figure, result, look))
    if len({entry["N"] for entry in answers}) > 1:
        found["scale"] = ((9, 4.2), lambda figure: law_figures.scale(figure, result, look))
    panels = min(len(sizes(result)), MOST_PANELS)
    if any(run[curve_part(result)]["update"] for run in done(result)) and panels:
        rows = (panels + 1) // 2
        found["curves"] = ((9, 0.7 + 2.7 * rows), lambda figure: _curves(figure, result, look))
    if seed_means(done(result)):
        found["final-loss"] = ((9, 4.6), lambda figure: _final(figure, result, look))
    for index, law in enumerate(result["laws"]):
        names = law_names(index, law)
        if law["curves"]:
            found[names["law"]] = ((9, 4.6), law_figures.law(result, law, look, _loss_axes))
        if law["surface"]:
            found[names["surface"]] = ((9, 5.4), law_figures.surface(result, law, look))
        if law["residuals"]:
            found[names["residual"]] = ((9, 3.2), law_figures.residuals(result, law, look))
    found |= transfer.figures(result)
    found |= large_batch.figures(result, look)
    found |= anytime.figures(result, look)
    if result["tree"]:
        found["plan"] = ((9, 0.9 + _tree_height(result) / 72), lambda figure: _tree(figure, result, look))
    return found


def render(size: tuple[float, float], draw: Draw, pixels: bool) -> Drawn:
    """One figure of `size` inches, drawn by `draw`."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    vector, raster = StringIO(), BytesIO()
    with matplotlib.rc_context(RC), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the page itself shows it whole.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        FigureCanvasSVG(figure).print_svg(vector, metadata={"Date": None, "Creator": "isoloss"})
        if pixels:
            figure.set_dpi(200)
            FigureCanvasAgg(figure).print_png(raster, metadata={"Software": "isoloss"})
    return Drawn(vector.getvalue(), raster.getvalue() if pixels else None)


def _worth(figure: Figure, result: Json, look: dict[str, Style]) -> None:
    answers = [entry for entry in result["worth"] if entry["data"]["ratio"] is not None]
    panels = figure.subplots(1, 3, sharey=True)
    for axes, measure in zip(panels, MEASURES, strict=True):
        for row, entry in enumerate(answers):
            found, style = entry[measure], look[entry["arm"]]
            if found["ratio"] is None:
                continue
            if found["low"] is not None and found["high"] is not None:
                axes.plot([found["low"], found["high"]], [row, row], color=style.color, linewidth=2)
            axes.plot([found["ratio"]], [row], style.marker, color=style.color, markersize=5.5)
        axes.axvline(1, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_xscale("log")
        log_ticks(axes.xaxis, "{:g}×".format)
        axes.set_title(f"{measure} at equal loss")
        axes.grid(axis="y", visible=False)
    several = len({entry["N"] for entry in answers}) > 1
    names = [short_name(e["arm"]) + (f", N {formats.short(e['N'])}" if several else "") for e in answers]
    panels[0].set_yticks(range(len(answers)), names)
    panels[0].set_ylim(len(answers) - 0.4, -0.6)
    panels[1].set_xlabel(
        f"what {short_name(answer_rows.reference(result) or 'its reference')} needs, over what the arm used"
    )


def _curves(figure: Figure, result: Json, look: dict[str, Style]) -> None:
    chosen, part = sizes(result)[-MOST_PANELS:], curve_part(result)
    grid = figure.subplots((len(chosen) + 1) // 2, min(2, len(chosen)), squeeze=False)
    runs = [run for run in done(result) if run[part]["update"]]
    for axes, size in zip(grid.flat, chosen, strict=False):
        for run in runs:
            if run["N"] == size:
                curve = run[part] if part == "curve" else binned(run[part])
                losses = [math.nan if loss is None else loss for loss in curve["loss"]]
                axes.plot(curve["update"], losses, color=look[run["arm"]].color, linewidth=0.9, alpha=0.7)
        axes.set_title(f"N {formats.short(size)}")
        _loss_axes(axes, result, "validation" if part == "curve" else "training")
        axes.set_xlabel("updates")
    for axes in grid.flat[len(chosen) :]:
        axes.set_visible(False)
    _legend(figure, look, list(dict.fromkeys(run["arm"] for run in runs)))


def _legend(figure: Figure, look: dict[str, Style], arms: list[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=look[a].color, marker=look[a].marker, markersize=5, linewidth=1.6) for a in arms]
    if handles:
        figure.legend(handles, [short_name(arm) for arm in arms], loc="outside upper left", ncols=min(5, len(arms)))


def _final(figure: Figure, result: Json, look: dict[str, Style]) -> None:
    axes = figure.subplots()
    cells = seed_means(done(result))
    for (arm, _), rows in cells.items():
        style = look[arm]
        axes.plot(
            [r[0] for r in rows],
            [r[1] for r in rows],
            color=style.color,
            marker=style.marker,
            markersize=5,
            linewidth=1.4,
        )
        axes.vlines([r[0] for r in rows], [r[2] for r in rows], [r[3] for r in rows], color=style.color, linewidth=1)
    for size in {size for _, size in cells}:
        ends = [rows[-1] for (_, n), rows in cells.items() if n == size]
        law_figures.name_size(axes, size, max(end[0] for end in ends), min(end[1] for end in ends))
    _loss_axes(axes, result)
    _legend(figure, look, list(dict.fromkeys(arm for arm, _ in cells)))


def _loss_axes(axes: Axes, result: Json, kind: str = "validation") -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    log_ticks(axes.xaxis, formats.short, (1, 2, 5))
    log_ticks(axes.yaxis, "{:g}".format)
    axes.set_xlabel(f"D, {short_name(result['units']['D'])}")
    axes.set_ylabel(f"{kind} loss, {short_name(result['units']['loss'])}")


def _tree_height(result: Json) -> float:
    """Points of paper that the drawn trees take."""
    shapes = trees.shapes(result["tree"])[: trees.MOST_SHAPES]
    thick = trees.thickness(shapes, _THICKEST)
    return sum(trees.HEAD + trees.lanes(shape, thick)[1] + trees.GAP for shape in shapes)


def _tree(figure: Figure, result: Json, look: dict[str, Style]) -> None:
    axes = figure.subplots()
    shapes = trees.shapes(result["tree"])[: trees.MOST_SHAPES]
    thick, whole = trees.thickness(shapes, _THICKEST), sum(map(trees.cost, result["tree"]))
    top = longest = 0.0
    for shape in shapes:
        middles, tall = trees.lanes(shape, thick)
        title = f"{trees.heading(shape, whole)}   {shape.cells}"
        title = title if len(title) <= 110 else title[:109] + "…"
        axes.text(0, -(top + 16), title, fontsize=8, color=INK).set_in_layout(False)
        begins = {id(child): stretch for stretch in shape.root.walk() for child in stretch.children}
        for stretch in shape.root.walk():
            longest = max(longest, stretch.edge["end"])
            places = [-(top + trees.HEAD + middles[s.lane]) for s in (stretch, begins.get(id(stretch), stretch))]
            _stretch(axes, stretch, thick[id(stretch)], places, look)
        top += trees.HEAD + tall + trees.GAP
    axes.set_ylim(-top, 0)
    axes.set_xlim(-0.01 * longest, 1.22 * longest)
    axes.set_xticks(trees.ticks(longest), [formats.count(tick) for tick in trees.ticks(longest)])
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("updates; thickness is compute per update, ×n: trained once for n runs")


def _stretch(axes: Axes, stretch: trees.Stretch, tall: float, places: list[float], look: dict[str, Style]) -> None:
    """One stretch at the height `places[0]`, in stripes of its arms, with the fork from `places[1]`."""
    edge, (y, above) = stretch.edge, places
    arms = trees.arms_of(edge, look) or [""]
    colors = [look[arm].color if arm in look else INK for arm in arms]
    if above != y:
        axes.plot([edge["start"]] * 2, [above, y + tall / 2], color=colors[0], linewidth=1, alpha=0.7)
    for index, color in enumerate(colors):
        shift = (index - (len(arms) - 1) / 2) * tall / len(arms)
        dashes: Any = (0, (2, 1)) if edge["tuning"] else "-"
        axes.plot(
            [edge["start"], edge["end"]], [y - shift] * 2, color=color, linestyle=dashes,
            linewidth=tall / len(arms), solid_capstyle="butt",
        )  # fmt: skip
    if edge["cells"] > 1:
        _beside(axes, f"×{edge['cells']}", (edge["start"], y + tall / 2), (1, 1)).set_label(OPTIONAL)
    if not stretch.children:
        _beside(axes, trees.leaf_label(edge, look), (edge["end"], y), (5, -3))


def _beside(axes: Axes, text: str, place: tuple[float, float], shift: tuple[float, float]) -> Annotation:
    return axes.annotate(text, place, xytext=shift, textcoords="offset points", fontsize=7, color=MUTED)
