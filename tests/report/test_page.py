"""The page as text: written whole, escaped, one file that asks for nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
import synthetic_study as made
from cases import CASES, Pages
from rich.console import Console

from isoloss import report
from isoloss.report import answers, formats, law_rows, view
from isoloss.report.palette import styles
from isoloss.report.tidy import tidy


class Document(HTMLParser):
    """Tags with their attributes, the text of scripts, and all other text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words = ""
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            self.scripts[-1] += data
        else:
            self.words += data


def test_importing_the_room_loads_nothing_heavy() -> None:
    heavy = {"plotly", "matplotlib", "jinja2", "rich", "numpy", "scipy", "torch", "polars"}
    code = f"import sys, isoloss.report; print(sorted({heavy} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_what_is_written_is_the_result(tmp_path: Path) -> None:
    result = made.study(made.ONE_SEED)
    page = report.write(result, tmp_path / "out" / "study")
    assert page == tmp_path / "out" / "study" / "index.html"
    assert json.loads((page.parent / "result.json").read_text()) == result
    names = {path.name for path in (page.parent / "figures").iterdir()}
    assert {"curves.svg", "curves.png", "final-loss.svg", "worth.png", "plan.svg"} <= names
    first = page.read_bytes()
    report.write(result, page.parent)
    assert page.read_bytes() == first
    assert sorted(path.name for path in page.parent.iterdir()) == ["figures", "index.html", "result.json"]


def test_numbers_that_are_not_finite_become_null_and_break_nothing(tmp_path: Path) -> None:
    result = made.study(made.ONE_SEED)
    result["worth"][0]["data"] = {"ratio": math.inf, "low": math.nan, "high": math.inf}
    result["runs"][0]["loss"] = math.nan
    result["runs"][1]["curve"]["loss"][0] = math.inf
    page = report.write(result, tmp_path)

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    written = json.loads((tmp_path / "result.json").read_text(), parse_constant=refuse)
    assert written["worth"][0]["data"] == {"ratio": None, "low": None, "high": None}
    assert "1 of 10 runs did not finish" in page.read_text()


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({}, "schema is None, this version of isoloss reads schema 1"),
        ({"schema": 2}, "schema is 2, this version"),
        ([], "schema is 'list'"),
        ({"schema": 1, "runs": [{"loss": {1.0}}]}, r"result\.runs\[0\]\.loss: found set"),
    ],
)
def test_what_is_no_result_is_refused_in_one_message(result: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        report.write(result, tmp_path)
    with pytest.raises(ValueError, match=message):
        report.terminal(result)
    assert not list(tmp_path.iterdir())


def test_the_least_result_makes_a_page(tmp_path: Path) -> None:
    page = report.write({"schema": 1, "study": "bare"}, tmp_path)
    assert "No run has finished yet" in page.read_text()


@pytest.mark.parametrize("case", CASES)
def test_the_page_is_one_file_that_asks_for_nothing(case: str, pages: Pages) -> None:
    _, path = pages(case)
    text = path.read_text()
    assert len(text.encode()) < 3e6
    for tag, attributes in Document(text).tags:
        assert tag not in ("link", "iframe", "base", "object", "embed")
        for name, value in attributes.items():
            assert not name.startswith("on"), f"<{tag} {name}> runs code"
            if name in ("src", "href", "action", "srcset"):
                assert (value or "").startswith(("data:image/svg+xml", "#")), f"<{tag} {name}={value}>"
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style


def test_only_the_script_of_the_page_may_run(pages: Pages) -> None:
    document = Document(pages("hostile")[1].read_text())
    policy = next(tag["content"] for name, tag in document.tags if "http-equiv" in tag and name == "meta")
    assert policy is not None
    data, code = document.scripts
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert policy.split("script-src ")[1].split(";")[0] == f"'sha256-{digest}'"
    assert policy.startswith("default-src 'none'")
    assert json.loads(data)["arms"][1]["name"] == made.HOSTILE


def test_every_text_of_a_user_is_shown_as_text(pages: Pages) -> None:
    document = Document(pages("hostile")[1].read_text())
    assert sum(name == "script" for name, _ in document.tags) == 2
    assert not [tag for name, tag in document.tags if name == "img" and not tag["alt"]]
    # Title, brand, question, headline, sentence, command, caveat, message, study file, versions, ...
    assert document.words.count(made.HOSTILE) >= 15


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (1.01, 1.3, "better"),
        (0.7, 0.99, "worse"),
        (0.9, 1.1, "not resolved"),
        (None, None, "no interval from 2 roots"),
    ],
)
def test_an_interval_is_put_in_words(low: float | None, high: float | None, word: str) -> None:
    assert answers.verdict({"ratio": 1.0, "low": low, "high": high}, 2)[0] == word
    assert answers.verdict({"ratio": None, "low": low, "high": high}, 2)[0] == "no common loss"


@pytest.mark.parametrize("case", CASES)
def test_the_terminal_answer_fits_80_columns(case: str) -> None:
    result = CASES[case]()
    target = io.StringIO()
    Console(file=target, width=80, color_system=None).print(report.terminal(result, "out/index.html"))
    shown = target.getvalue()
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert "out/index.html" in shown
    flat = re.sub(r"\s+", "", shown)
    if result["summary"]:
        assert re.sub(r"\s+", "", result["summary"][0]) in flat  # markup of rich stays text, too
    for entry in result["worth_overall"]:
        assert formats.ratio(entry["data"]["ratio"]) in shown
    for caveat in result["caveats"]:
        assert re.sub(r"\s+", "", caveat) in flat


def test_level_and_missing_intervals_are_named(tmp_path: Path) -> None:
    page = report.write(made.one_variable(), tmp_path, figures=False).read_text()
    assert "no interval" in page and "Intervals are 90 %." in page and "95 % interval" not in page


def test_a_metric_that_some_seeds_lack_says_for_how_many_it_is(tmp_path: Path) -> None:
    result = made.study()
    next(m for m in result["metrics"] if m["metric"] == "auroc")["seeds"] = 2
    page = report.write(result, tmp_path, figures=False).read_text(encoding="utf-8")
    assert page.count("2 of 3 seeds") == 1
    plain = made.study()
    del plain["metrics"]
    assert 'id="metrics"' not in report.write(plain, tmp_path, figures=False).read_text(encoding="utf-8")


# -- words and rows --------------------------------------------------------------------------------------------


def test_ratios_stand_out_in_a_sentence_and_markup_stays_text() -> None:
    told = str(view.told("worth 1.21x [1.15, 1.28] the <i>data</i>, 2× here"))
    assert told == "worth <b>1.21x [1.15, 1.28]</b> the &lt;i&gt;data&lt;/i&gt;, <b>2×</b> here"
    assert str(view.told(made.HOSTILE)).count("<") == 0


def test_measures_that_say_the_same_share_a_column() -> None:
    result = tidy(made.study())
    assert answers.columns(result) == [("data", "updates", "compute")]
    result["worth"][0]["compute"]["low"] *= 1 + 1e-6
    assert answers.columns(result) == [("data", "updates"), ("compute",)]
    result["worth_overall"][0]["updates"]["ratio"] *= 2
    assert answers.columns(result) == [("data",), ("updates",), ("compute",)]
    assert answers.columns(tidy(made.study(made.ONE_SEED))) == [("data", "updates", "compute")], (
        "also without intervals"
    )


def test_small_intervals_lie_where_their_numbers_are() -> None:
    result = tidy(made.study())
    span = answers.domain(result)
    (group, *_) = answers.table(result, styles([arm["name"] for arm in result["arms"]], "cosine"))["groups"]
    places = []
    for row in (group["overall"], *group["sizes"]):
        (cell,) = row["cells"]
        bar = ElementTree.fromstring(str(cell["bar"]))
        one, reach, mark = list(bar)
        at = [float(reach.get("x1")), float(mark.get("cx")), float(reach.get("x2")), float(one.get("x1"))]
        found = (cell["value"], *(float(v) for v in cell["interval"].strip("[]").split(",")))
        places += [*zip(at, (found[1], found[0], found[2], 1.0), strict=True)]
    inner = answers.WIDTHS[1] - 2 * answers.PAD
    for at, value in places:
        share = math.log(value / span[0]) / math.log(span[1] / span[0])
        assert at == pytest.approx(answers.PAD + inner * share, abs=inner * 0.01 / math.log(span[1] / span[0]))


def test_the_law_says_the_best_split_of_the_largest_compute() -> None:
    result = tidy(made.study())
    law = result["laws"][0]
    (shown, *_) = law_rows.view(result, styles([arm["name"] for arm in result["arms"]], "cosine"))
    best, largest = law["surface"]["frontier"], max(run["N"] * run["D"] * 6 for run in result["runs"])
    at = min(range(len(best["C"])), key=lambda i: abs(math.log(best["C"][i] / largest)))
    assert f"At {formats.flops(best['C'][at])} FLOPs" in shown["split"]
    assert f"N {formats.short(best['N'][at])} [" in shown["split"]
    p = {row["name"]: row["value"] for row in law["parameters"]}
    assert f"to the power {p['beta'] / (p['alpha'] + p['beta']):.2f}." in shown["split"]
    rows = [row for row in law["holdout"]["rows"] if row["low"] <= row["actual"] <= row["high"]]
    assert shown["holdout"]["covered"].startswith(f"{len(rows)} of {len(law['holdout']['rows'])} lie inside")


def test_an_unequal_tuning_budget_is_not_called_equal(tmp_path: Path) -> None:
    result = made.study()
    assert "the same budget for every arm" in report.write(result, tmp_path / "a", figures=False).read_text()
    result["arms"][1]["tuning"]["updates"] = 7
    assert "the same budget" not in report.write(result, tmp_path / "b", figures=False).read_text()


def test_embedded_figures_are_the_files_in_short(tmp_path: Path) -> None:
    page = report.write(made.study(made.ONE_SEED), tmp_path)
    sources = re.findall(r'<img class="static" src="data:image/svg\+xml,([^"]*)"', page.read_text())
    files = {path.name: path.read_text() for path in (tmp_path / "figures").glob("*.svg")}
    assert len(sources) == len(files) - 2, "all but the table's and the tree's, which the page draws itself"
    for source in sources:
        inside = ElementTree.fromstring(unquote(html.unescape(source)))
        shapes = len(list(inside.iter()))
        (file,) = [text for text in files.values() if len(list(ElementTree.fromstring(text).iter())) == shapes]
        assert len(source) < 1.2 * len(file)


def test_only_what_has_a_planner_carries_its_script(pages: Pages) -> None:
    assert 'id="planner"' in pages("planned")[1].read_text()
    assert "planner" not in pages("quickstart")[1].read_text()
