"""Figures for papers: PDF, SVG or PNG as wide as a column or a page, fonts embedded, bytes that repeat.

What is drawn is `report.figures`; `report.typeset` makes it fit the width. No figure has a title, that is for the
caption; small panels keep their names.
"""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoloss.recipe.errors import StudyError, nearest
from isoloss.report import figures, typeset
from isoloss.report.axes import short_name
from isoloss.report.tidy import Json, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTHS = {"column": 3.3, "page": 6.9}
"""Inches: one of two columns, and a whole page."""
NARROWEST, WIDEST = 2.0, 20.0
FORMATS = ("pdf", "svg", "png")
# matplotlib carries these, so that a figure has the same bytes everywhere; the second draws what the first lacks.
FONTS = {"serif": ["STIXGeneral", "DejaVu Serif"], "sans": ["DejaVu Sans"]}
DOTS = 300
"""Dots an inch of a PNG."""

# Their height counts lines of text, not inches of width.
_OF_LINES = ("worth", "plan")
_LINES = {
    "worth": "what each arm is worth at equal loss, in data, updates and compute, with intervals",
    "scale": "what each arm is worth in data against size, with its trend",
    "curves": "loss against updates of every run, a panel a size",
    "final-loss": "final loss against training length, by arm and size",
    "plan": "the tree of trunks and branches, and what was trained once",
    "transfer": "loss from scratch and fine-tuned against target data, and the data of equal loss",
    "large-batch": "updates to one loss against batch, perfect scaling and the critical batch",
    "distances": "distance of the weights from their start against updates",
    "anytime": "loss that a cooldown from every update is predicted to reach, and real branches",
}

_OF_LAWS = {
    "law": "the law {law} of {arm}, its band, and every run",
    "surface": "the law {law} of {arm} over N and D: lines of equal loss and the best use of compute",
    "residual": "measured over predicted loss of the law {law} of {arm}",
}


def names(result: Mapping[str, Any]) -> dict[str, str]:
    """Name -> what it shows, for each figure that a result has data for. Raises ValueError for another schema."""
    whole = tidy(result)
    return {name: _line(whole, name) for name in figures.offered(whole)}


def draw(
    result: Mapping[str, Any], name: str, *, format: str = "pdf", width: str | float = "column", font: str = "serif"
) -> bytes:
    """One figure of a result as the bytes of a file.

    `format`: pdf, svg or png (300 dots an inch). `width`: column (3.3 inches), page (6.9), or inches from 2 to 20.
    `font`: serif (STIX, as Times) or sans (DejaVu Sans). Raises `StudyError` for what is not among these and for a
    figure that the result has no data for, ValueError for a result of another schema.
    """
    whole = tidy(result)
    (found,) = _chosen(whole, [_one_of("name", name, figures.offered(whole))])
    return _render(whole, found, _one_of("format", format, FORMATS), inches(width), _one_of("font", font, FONTS))


def save(
    result: Mapping[str, Any],
    folder: str | Path,
    wanted: Sequence[str] = ("all",),
    *,
    format: str = "pdf",
    width: str | float = "column",
    font: str = "serif",
) -> list[Path]:
    """Write figures as `<name>.<format>` into `folder` (made if absent); their paths.

    `wanted`: names, patterns such as `law-*`, or `all`; the rest as for `draw`. Raises `StudyError` and ValueError as
    it does, OSError where the folder cannot be written.
    """
    whole, wide = tidy(result), inches(width)
    _one_of("format", format, FORMATS)
    _one_of("font", font, FONTS)
    chosen = _chosen(whole, wanted)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in chosen:
        written.append(folder / f"{name}.{format}")
        written[-1].write_bytes(_render(whole, name, format, wide, font))
    return written


def inches(width: str | float) -> float:
    """A width by name or in inches. Raises `StudyError` for another."""
    try:
        found = WIDTHS[width] if isinstance(width, str) and width in WIDTHS else float(width)
    except ValueError:
        found = 0.0
    if not NARROWEST <= found <= WIDEST:
        raise StudyError(
            f"width: found {width!r}; allowed: column ({WIDTHS['column']:g} inches), page ({WIDTHS['page']:g}), or "
            f"inches from {NARROWEST:g} to {WIDEST:g}{nearest(str(width), WIDTHS)}"
        )
    return found


def _chosen(whole: Json, wanted: Sequence[str]) -> list[str]:
    """The figures that names and patterns stand for, in the order of the page, each once."""
    offered = list(figures.offered(whole))
    if not offered:
        raise StudyError(f"figure: {whole['study']} has no finished run and no plan; there is nothing to draw")
    kept: set[str] = set()
    for name in wanted:
        hits = offered if name == "all" else fnmatch.filter(offered, name)
        kept.update(hits or [_one_of("name", name, [*offered, "all"])])
    return [name for name in offered if name in kept]


def _one_of(what: str, given: str, allowed: Any) -> str:
    if given not in allowed:
        raise StudyError(f"{what}: found {given!r}; allowed: {', '.join(allowed)}{nearest(given, allowed)}")
    return given


def _line(whole: Json, name: str) -> str:
    for index, law in enumerate(whole["laws"]):
        for kind, other in figures.law_names(index, law).items():
            if name == other:
                return _OF_LAWS[kind].format(law=law["law"], arm=short_name(law["arm"]))
    return _LINES[name]


def _render(whole: Json, name: str, format: str, width: float, font: str) -> bytes:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    written = BytesIO()
    points = 7.0 if width < typeset.HALF_PAGE else 8.0
    with matplotlib.rc_context(figures.RC | _look(font, points)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = _fitted(whole, name, width, points)
        if format == "pdf":
            facts = {"Creator": "isoloss", "Producer": None, "CreationDate": None, "Title": f"{whole['study']}: {name}"}
            FigureCanvasPdf(figure).print_pdf(written, metadata=facts)
        elif format == "svg":
            FigureCanvasSVG(figure).print_svg(written, metadata={"Date": None, "Creator": "isoloss"})
        else:
            FigureCanvasAgg(figure).print_png(written, metadata={"Software": "isoloss"})
    return written.getvalue()


def _fitted(whole: Json, name: str, width: float, points: float) -> Figure:
    """The figure as matplotlib has it, under the settings of the caller."""
    from matplotlib.figure import Figure

    designed, drawing = figures.offered(whole)[name]
    figure = Figure(figsize=(width, designed[1]), dpi=DOTS, layout="constrained")
    drawing(figure)
    typeset.fit(figure, designed, points, lines=name in _OF_LINES)
    return figure


def _look(font: str, points: float) -> dict[Any, Any]:
    """Settings over those of the page."""
    sized = dict.fromkeys(
        ("font.size", "axes.titlesize", "axes.labelsize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize"),
        points,
    )
    return sized | {
        "font.family": FONTS[font], "axes.titleweight": "normal", "axes.linewidth": 0.6, "axes.titlepad": 3,
        "axes.labelpad": 2, "grid.linewidth": 0.4, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
        "xtick.major.size": 2.5, "ytick.major.size": 2.5, "xtick.major.pad": 2, "ytick.major.pad": 2,
        "legend.handlelength": 1.6, "legend.columnspacing": 1.2, "legend.borderpad": 0.1, "legend.labelspacing": 0.3,
        "figure.constrained_layout.w_pad": 0.02, "figure.constrained_layout.h_pad": 0.03,
        "figure.constrained_layout.wspace": 0.02, "figure.constrained_layout.hspace": 0.03,
        # TrueType: journals refuse Type 3, and the text stays text.
        "pdf.fonttype": 42, "ps.fonttype": 42,
    }  # fmt: skip
