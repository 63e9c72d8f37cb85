"""The README's figure and table: what each method was worth, from the kept files of all studies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoloss.report import formats
from reproductions.kept import PAGES, Json
from reproductions.markdown import table

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"
FIGURE = "worth.svg"
FEW = 100
"""Updates below which a run has hardly begun."""
NOTE = (
    "Compute counts every gradient, and a pre-training as if it were used once. † some of the runs are shorter than "
    f"{FEW} updates and have hardly begun."
)


@dataclass(frozen=True)
class Line:
    """What a method was worth in data, and in compute, against another, over all sizes of a study, at equal loss.

    ``updates``: of its shortest run.
    """

    method: str
    against: str
    where: str
    folder: str
    ratio: Mapping[str, Any]
    compute: Mapping[str, Any]
    updates: int


def lines(folder: str, answer: Json, where: str, named: Mapping[str, tuple[str, str]]) -> list[Line]:
    """Lines of one study: variants with what they and their references are called here."""
    found = {entry["arm"]: entry for entry in answer["worth_overall"] if entry["data"]["ratio"] is not None}
    return [
        Line(
            *names,
            where,
            folder,
            found[arm]["data"],
            found[arm]["compute"],
            fewest(run for run in answer["runs"] if run["arm"] == arm),
        )
        for arm, names in named.items()
        if arm in found
    ]


def fewest(runs: Iterable[Json]) -> int:
    """Updates of the shortest finished run."""
    return min(int(run["S"]) for run in runs if run["status"] == "done")


def worth(ratio: Mapping[str, Any], mark: str = "") -> str:
    """A worth with its interval, as a cell of a table; the value between marks."""
    if ratio.get("ratio") is None:
        return "–"
    return f"{mark}{formats.ratio(ratio['ratio'])}{mark} {formats.interval(ratio['low'], ratio['high'])}".strip()


def write(rows: Sequence[Line], readme: Path = README, pages: Path = PAGES) -> list[Path]:
    """Draw the figure and write the README's block; their paths."""
    (pages / FIGURE).write_text(_drawn(rows), encoding="utf-8")
    cells = [
        (
            row.method + (" †" if row.updates < FEW else ""),
            row.against,
            worth(row.ratio, "**"),
            worth(row.compute),
            f"[{row.where}](docs/reproductions/{row.folder}/index.md)",
        )
        for row in rows
    ]
    picture = f"![What each method was worth in data: the numbers of the table](docs/reproductions/{FIGURE})"
    block = "\n\n".join(
        [picture, table(("method", "against", "worth in data", "in compute", "measured on"), cells), NOTE]
    )
    text = readme.read_text(encoding="utf-8")
    head, tail = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    readme.write_text(f"{head}\n\n{block}\n\n{tail}", encoding="utf-8")
    return [pages / FIGURE, readme]


def _drawn(rows: Sequence[Line]) -> str:
    from isoloss.report import figures
    from isoloss.report.axes import INK, MUTED
    from isoloss.report.palette import LIGHT

    folders = list(dict.fromkeys(row.folder for row in rows))

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        axes.set_xscale("log")
        axes.axvline(1, color=INK, linewidth=1, dashes=(4, 3))
        for at, row in enumerate(rows):
            color = LIGHT[1:][folders.index(row.folder) % (len(LIGHT) - 1)]
            middle, low, high = (row.ratio[name] for name in ("ratio", "low", "high"))
            if low is not None:
                axes.plot([low, high], [at, at], color=color, linewidth=2, solid_capstyle="butt")
            axes.plot([middle], [at], "o", color=color, markersize=5)
        axes.set_yticks(range(len(rows)), [f"{row.method}, against {row.against}" for row in rows])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        places = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if _in(t, rows)]
        axes.set_xticks(places, [f"{place:g}×" for place in places])
        axes.minorticks_off()
        axes.set_xlabel("data the baseline needs, over data the method used", color=MUTED)

    return figures.render((9, 0.9 + 0.28 * len(rows)), draw, pixels=False).svg


def _in(place: float, rows: Sequence[Line]) -> bool:
    ends = [end for row in rows for end in (row.ratio["ratio"], row.ratio["low"], row.ratio["high"]) if end]
    return bool(min([*ends, 0.9]) * 0.9 <= place <= max([*ends, 1.1]) * 1.1)
