"""Figures for papers: their size, their fonts, bytes that repeat, and text that can be read and touches nothing."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pdf
import pytest
import synthetic_study as made
import test_anytime_page
import test_large_batch
import test_transfer_page
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from tests.cli.command import isoloss, typed

from isoloss.recipe.errors import StudyError
from isoloss.report import figures, paper, typeset
from isoloss.report.tidy import tidy

Json = dict[str, Any]
STUDIES: dict[str, Callable[[], Json]] = {
    "quickstart": made.study,
    "one size": lambda: made.study(made.ONE_SIZE),
    "nine arms, six sizes": lambda: made.study(made.LARGE),
    "anytime": lambda: made.study() | {"anytime": [test_anytime_page.record()] * 4},
    "large batches": lambda: test_large_batch.study(sizes=(1000, 4000)),
    "transfer": test_transfer_page.study,
    "hostile": made.hostile,
}
# The laws of other arms look like that of the first.
EVERY = [
    (study, name)
    for study, make in STUDIES.items()
    for name in paper.names(make())
    if not re.match(r"(law|surface|residuals)-[2-9]-", name)
]


def fitted(result: Json, name: str, width: float, font: str = "serif") -> Figure:
    """A figure as it is before it is written."""
    points = 7.0 if width < typeset.HALF_PAGE else 8.0
    with matplotlib.rc_context(figures.RC | paper._look(font, points)):
        return paper._fitted(tidy(result), name, width, points)


# -- what a journal asks for ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("study", "name"), EVERY)
def test_a_pdf_has_its_width_true_type_fonts_and_no_text_below_six_points(study: str, name: str) -> None:
    found = pdf.read(paper.draw(STUDIES[study](), name, width="column"))
    assert found.inches[0] == pytest.approx(3.3, abs=0.005)
    assert found.fonts
    for font in found.fonts:
        assert b"/Type3" not in font
        assert b"/Type0" in font or b"/TrueType" in font or b"/CIDFontType2" in font
    described = found.of_type("FontDescriptor")
    assert described and all(b"/FontFile2 " in each for each in described)
    assert found.sizes and min(found.sizes) >= 6 and max(found.sizes) <= 7
    assert not any(b"Date" in dictionary for dictionary, _ in found.objects.values())


@pytest.mark.parametrize(("width", "size"), [("page", 6.9), (5.5, 5.5), ("5.5", 5.5)])
def test_widths_hold_in_every_format(width: str | float, size: float) -> None:
    result = made.study()
    assert pdf.read(paper.draw(result, "worth", width=width)).inches[0] == pytest.approx(size, abs=0.005)
    svg = ElementTree.fromstring(paper.draw(result, "worth", width=width, format="svg"))
    assert float(svg.attrib["width"].removesuffix("pt")) == pytest.approx(72 * size, abs=0.5)
    png = paper.draw(result, "worth", width=width, format="png")
    assert int.from_bytes(png[16:20], "big") == pytest.approx(300 * size, abs=1)


@pytest.mark.parametrize("font", paper.FONTS)
def test_the_font_is_the_one_asked_for(font: str) -> None:
    found = pdf.read(paper.draw(made.study(), "final-loss", font=font))
    wanted = paper.FONTS[font][0].encode()
    assert any(b"/FontName" in each and wanted.replace(b" ", b"") in each for each in found.of_type("FontDescriptor"))


def test_bytes_repeat_in_another_process(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(made.study()))
    code = "import json, sys, hashlib\nfrom isoloss.report import paper\nresult = json.load(open('result.json'))\n"
    code += "for name in ('worth', 'plan'):\n    for format in paper.FORMATS:\n"
    code += "        print(hashlib.sha256(paper.draw(result, name, format=format)).hexdigest())"
    said = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert said[0] == said[1] and len(set(said[0].split())) == 6


# -- what a reader asks for ----------------------------------------------------------------------------------


def shown(figure: Figure) -> list[Text]:
    """Every text of a figure that is seen."""
    hidden: set[Text] = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            hidden |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
        if not axes.get_visible():
            hidden |= {text for text in axes.findobj(Text) if isinstance(text, Text)}
    kept = [text for text in figure.findobj(Text) if isinstance(text, Text) and text not in hidden]
    return [text for text in dict.fromkeys(kept) if text.get_visible() and text.get_text().strip()]


@pytest.mark.parametrize("width", [3.3, 6.9])
@pytest.mark.parametrize(("study", "name"), EVERY)
def test_no_text_touches_another_or_leaves_the_paper(study: str, name: str, width: float) -> None:
    figure = fitted(STUDIES[study](), name, width)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    texts = [(text, text.get_window_extent(renderer)) for text in shown(figure)]
    assert len(texts) > 4
    point = figure.dpi / 72
    for text, box in texts:
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width, text.get_text()
        assert box.y0 >= 0 and box.y1 <= figure.bbox.height, text.get_text()
        assert text.get_fontsize() >= 6
    for (one, a), (other, b) in itertools.combinations(texts, 2):
        wide = min(a.x1, b.x1) - max(a.x0, b.x0)
        high = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(wide, high) <= point, f"{one.get_text()!r} lies on {other.get_text()!r}"


def test_names_that_would_touch_are_moved_or_left_out() -> None:
    figure = Figure(figsize=(3.3, 2.4), dpi=300, layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1])
    for label, place in (("above", (1, 0.5)), ("below", (1, 0.49)), ("axis", (0.5, 0)), ("\u00d72", (1, 0.51))):
        axes.annotate(label, place, xytext=(5, -3), textcoords="offset points", fontsize=7)
    axes.set_ylim(0, 1)
    axes.texts[-1].set_label(typeset.OPTIONAL)
    typeset.fit(figure, (9, 4.6), 7)
    figure.draw_without_rendering()
    boxes = {text.get_text(): text.get_window_extent() for text in axes.texts}
    assert list(boxes) == ["above", "below", "axis"]
    assert boxes["below"].y1 <= boxes["above"].y0 + 1
    assert boxes["axis"].y0 >= axes.bbox.y0


def test_a_single_panel_has_no_title_and_several_keep_their_names() -> None:
    law = fitted(made.study(), "law-1-chinchilla-cosine", 3.3)
    assert [axes.get_title(loc="left") for axes in law.axes] == [""]
    worth = fitted(made.study(), "worth", 3.3)
    assert [" ".join(axes.get_title(loc="left").split()) for axes in worth.axes] == [
        "data at equal loss", "updates at equal loss", "compute at equal loss"
    ]  # fmt: skip


def test_what_is_drawn_is_what_the_page_draws() -> None:
    result = made.study()
    size, drawing = figures.offered(tidy(result))["final-loss"]
    page = Figure(figsize=size)
    drawing(page)
    for ours, theirs in zip(fitted(result, "final-loss", 3.3).axes[0].lines, page.axes[0].lines, strict=True):
        assert list(ours.get_xdata()) == list(theirs.get_xdata())
        assert list(ours.get_ydata()) == list(theirs.get_ydata())
        assert ours.get_color() == theirs.get_color()


@pytest.mark.parametrize(
    ("ticks", "kept"),
    [
        ([1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 20.0], [1.0, 2.0, 5.0, 10.0, 20.0]),
        ([0.9, 0.95, 1.0, 1.05, 1.1], [0.9, 1.0, 1.1]),
        ([0.95, 1.0, 1.05, 1.1], [1.0, 1.1]),
    ],
)
def test_the_rounder_ticks_are_kept(ticks: list[float], kept: list[float]) -> None:
    choices = list(typeset._choices(ticks))
    assert choices[0] == ticks and choices[1] == kept and len(choices[-1]) <= 1 + len(ticks) // 2


@pytest.mark.parametrize(
    ("text", "share", "lines"),
    [
        ("compute at equal loss", 0.9, ["compute at", "equal loss"]),
        ("one two three four", 0.4, ["one two", "three", "four"]),
        ("Donaudampfschifffahrt", 0.5, ["Donaudampfschifffahrt"]),
    ],
)
def test_long_names_break_into_even_lines(text: str, share: float, lines: list[str]) -> None:
    assert typeset._balanced(text, share).split("\n") == lines


# -- the command ---------------------------------------------------------------------------------------------


def test_every_figure_has_a_line_and_one_that_is_new_must_get_one() -> None:
    for study, make in STUDIES.items():
        lines = paper.names(make())
        assert len(set(lines)) == len(lines) and all(len(line) > 20 for line in lines.values()), study


def test_the_command_writes_lists_and_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(made.study()))
    listed = isoloss("figure", "result.json", "--list", cwd=tmp_path).stdout.splitlines()
    names = [line.split()[0] for line in listed]
    assert names == list(paper.names(made.study()))
    assert not (tmp_path / "result.figures").exists()
    written = isoloss("figure", "result.json", cwd=tmp_path).stdout.split()
    assert written == [f"result.figures/{name}.pdf" for name in names]
    assert (tmp_path / written[0]).read_bytes() == paper.draw(made.study(), names[0])
    chosen = ["--name", "law-*", "--name", "plan", "--format", "svg", "--out", "here", "--json"]
    assert json.loads(isoloss("figure", "result.json", *chosen, cwd=tmp_path).stdout) == [
        f"here/{name}.svg" for name in names if name.startswith("law-") or name == "plan"
    ]


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["figure", "--help"], {"torch", "numpy", "scipy", "polars", "matplotlib"}),
        (["figure", "result.json", "--name", "plan"], {"torch", "polars"}),
    ],
)
def test_nothing_heavy_is_loaded_without_need(arguments: list[str], heavy: set[str], tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(made.study()))
    code = (
        f"import sys; sys.argv = ['isoloss', *{arguments!r}]\n"
        "from isoloss.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as e:\n    assert not e.code, e.code\n"
        f"found = {heavy!r} & set(sys.modules)\n"
        "assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--name", "wroth"), ("name: found 'wroth'", "final-loss", "did you mean 'worth'?")),
        (("--name", "xyz-*"), ("found 'xyz-*'", "allowed: worth")),
        (("--format", "pfd"), ("format: found 'pfd'; allowed: pdf, svg, png", "did you mean 'pdf'?")),
        (("--width", "colum"), ("width: found 'colum'", "3.3 inches", "did you mean 'column'?")),
        (("--width", "nan"), ("width: found 'nan'", "from 2 to 20")),
        (("--width", "1.5"), ("width: found '1.5'",)),
        (("--font", "comic"), ("font: found 'comic'; allowed: serif, sans",)),
        (("--out", "result.json/below"), ("--out: cannot write to result.json/below",)),
    ],
)
def test_a_wrong_option_is_one_message(
    arguments: tuple[str, ...], words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "result.json").write_text(json.dumps(made.study(made.ONE_SEED)))
    said = run_wrong(tmp_path, "result.json", *arguments)
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is no JSON"),
        ("[]", "schema is 'list'"),
        ('{"schema": 7}', "reads schema 1"),
        ('{"schema": 1, "study": "bare"}', "bare has no finished run and no plan; there is nothing to draw"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_file_is_one_message(text: str | None, words: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "result.json").write_text(text)
    assert words in run_wrong(tmp_path, "result.json")


def run_wrong(folder: Path, *arguments: str) -> str:
    """What the command says where the request is wrong."""
    from isoloss.cli.main import app

    with pytest.raises(StudyError) as caught:
        app(["figure", str(folder / arguments[0]), *arguments[1:]], standalone_mode=False)
    return str(caught.value)


def test_no_finished_run_leaves_the_plan() -> None:
    assert list(paper.names(made.empty())) == ["plan"]
    with pytest.raises(StudyError, match="found 'worth'; allowed: plan"):
        paper.draw(made.empty(), "worth")


@pytest.mark.multiprocess
def test_a_study_and_its_store_give_the_figures_of_its_result(small: Json, tmp_path: Path) -> None:
    import isoloss as whole

    results = whole.run(small, tmp_path / "small.store", quiet=True)
    (tmp_path / "small.yaml").write_text(json.dumps(small))
    typed("figure", "small.yaml", "--name", "final-loss", cwd=tmp_path)
    assert (tmp_path / "small.figures" / "final-loss.pdf").read_bytes() == paper.draw(results.answer(), "final-loss")
