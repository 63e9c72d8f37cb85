"""The page as text: written whole, escaped, one file that asks for nothing."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import synthetic_study as made
from cases import CASES, Pages
from rich.console import Console

from isoloss import report
from isoloss.report import answers, formats


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
    html = path.read_text()
    assert len(html.encode()) < 3e6
    for tag, attributes in Document(html).tags:
        assert tag not in ("link", "iframe", "base", "object", "embed")
        for name, value in attributes.items():
            assert not name.startswith("on"), f"<{tag} {name}> runs code"
            if name in ("src", "href", "action", "srcset"):
                assert (value or "").startswith(("data:image/svg+xml", "#")), f"<{tag} {name}={value}>"
    style = html[html.index("<style>") : html.index("</style>")]
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
    html = report.write(made.one_variable(), tmp_path, figures=False).read_text()
    assert "no interval" in html and "Intervals are 90 %." in html and "95 % interval" not in html


def test_a_metric_that_some_seeds_lack_says_for_how_many_it_is(tmp_path: Path) -> None:
    result = made.study()
    next(m for m in result["metrics"] if m["metric"] == "auroc")["seeds"] = 2
    page = report.write(result, tmp_path, figures=False).read_text(encoding="utf-8")
    assert page.count("2 of 3 seeds") == 1
    plain = made.study()
    del plain["metrics"]
    assert 'id="metrics"' not in report.write(plain, tmp_path, figures=False).read_text(encoding="utf-8")
