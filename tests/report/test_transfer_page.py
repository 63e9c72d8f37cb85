"""The section on worth in data: a planted law of transfer on the page, in its figure and in the terminal."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic_study as made
from chromium import Page
from matplotlib.figure import Figure
from rich.console import Console
from tests.worth.transfer_data import CLOSER, LAW, SIZES, planted

from isoloss import report
from isoloss.report import transfer
from isoloss.report.palette import styles
from isoloss.report.tidy import tidy
from isoloss.worth.transfer import read_rows
from isoloss.worth.transfer_study import answered

Json = dict[str, Any]


def study(
    laws: dict[str, Json] | None = None, seeds: int = 5, sizes: tuple[float, ...] = SIZES, worse: float = 1.0
) -> Json:
    """A finished study with the answer to the transfer question; `worse`: factor on the fine-tuned loss on most."""
    whole = made.study(made.ONE_SEED, "transfer")
    rows = planted(0.001, seeds, laws=laws or {"text": LAW}, sizes=sizes)
    most = max(row["D_F"] for row in rows if row["arm"] != "scratch")
    for row in rows:
        if row["arm"] != "scratch" and row["D_F"] == most:
            row["loss"] *= worse
    found = answered(read_rows(rows), "scratch", "tokens")
    found["contamination"] = [
        {"source": source, "part": part, "windows": 5000, "shared": 12}
        for source in found["sources"]
        for part in ("train", "A", "B")
    ]
    whole["transfer"] = found
    whole["summary"] = [found["advice"], *whole["summary"]]
    return whole


CASES: dict[str, Callable[[], Json]] = {
    "one": study,
    "two sources": lambda: study({"text": LAW, "text and code": CLOSER}),
    "ossified": lambda: study(sizes=SIZES[:1], worse=1.3),
    "one seed": lambda: study(seeds=1),
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Json, Path]]:
    known: dict[str, tuple[Json, Path]] = {}

    def page(name: str) -> tuple[Json, Path]:
        if name not in known:
            result = CASES[name]()
            known[name] = (result, report.write(result, tmp_path_factory.mktemp("page")))
        return known[name]

    return page


class Values(HTMLParser):
    """Every `<data>` of the page, and its words."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.data: list[dict[str, str | None]] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "data":
            self.data.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.mark.parametrize("case", list(CASES))
def test_the_page_holds_the_values_of_the_answer(case: str, pages: Callable[[str], tuple[Json, Path]]) -> None:
    result, path = pages(case)
    found = result["transfer"]
    values = Values(path.read_text())
    multipliers = {
        (d["data-arm"], d["data-size"], d["data-data"]): float(d["value"] or "nan")
        for d in values.data
        if d["class"] == "multiplier"
    }
    assert multipliers == {
        (c["source"], str(c["N"]), str(c["D_F"])): c["multiplier"]["value"]
        for c in found["cells"]
        if c["multiplier"]["value"] is not None
    }
    for law in found["laws"]:
        for route, constants in (law["routes"] if not law["reason"] else {}).items():
            for name in ("k", "alpha", "beta"):
                (shown,) = [
                    d for d in values.data
                    if (d["class"], d.get("data-arm"), d.get("data-route")) == (f"law-{name}", law["source"], route)
                ]  # fmt: skip
                assert float(shown["value"] or "nan") == constants[name]["estimate"]
        assert not law["reason"] or f"no law: {law['reason']}" in values.words
    words = re.sub(r"\s+", " ", values.words)
    assert found["advice"] in words and all(sentence in words for sentence in found["text"])
    assert "validation part A 12 of 5,000" in words
    assert ("ossified" in re.findall(r'class="mark">([a-z-]+)', path.read_text())) == (case == "ossified")
    assert (path.parent / "figures" / "transfer.svg").exists()
    assert json.loads((path.parent / "result.json").read_text())["transfer"]["advice"] == found["advice"]


def test_the_picture_has_both_families_and_arrows_to_equal_loss() -> None:
    result = tidy(study({"text": LAW, "closer": CLOSER}))
    found, size = result["transfer"], result["transfer"]["sizes"][0]
    axes = Figure().subplots()
    look = styles(["scratch", *found["sources"]], "scratch")
    transfer.panel(axes, found, size, look)
    lines = {line.get_label(): np.array(line.get_data()) for line in axes.lines}
    assert lines["from scratch"].tolist() == [[p["D"] for p in size["curve"]], [p["monotone"] for p in size["curve"]]]
    cells = [c for c in found["cells"] if c["N"] == size["N"]]
    for source in found["sources"]:
        mine = sorted((c["D_F"], c["loss"]) for c in cells if c["source"] == source)
        assert lines[source].T.tolist() == [list(point) for point in mine]
    arrows = {(a.xyann, a.xy) for a in axes.texts}
    ends = {((c["D_F"], c["loss"]), (c["D_E"]["value"] or c["D_E"]["bound"], c["loss"])) for c in cells}
    assert arrows == ends and len(ends) == 6
    # Arrow heads lie on the curve from scratch.
    x, y = np.log(lines["from scratch"])
    for cell in cells:
        if cell["D_E"]["value"] is not None:
            assert np.interp(np.log(cell["D_E"]["value"]), x, y) == pytest.approx(np.log(cell["loss"]), abs=0.02)
    assert axes.get_xscale() == axes.get_yscale() == "log"


def test_values_outside_of_the_curve_and_open_ends() -> None:
    inside = {"side": "", "open": "", "value": 21.8, "bound": None, "low": 16.8, "high": 27.1}
    assert transfer.bounded(inside, transfer.formats.ratio) == ("21.8×", "[16.8, 27.1]")
    assert transfer.bounded(inside | {"open": "high", "high": None}) == ("21.8", "[16.8, ?]")
    assert transfer.bounded(inside | {"low": None, "high": None}) == ("21.8", "")
    assert transfer.bounded(inside | {"value": None, "side": "more", "bound": 64.0}) == (">\u00a064", "")
    assert transfer.bounded(inside | {"value": None, "side": "less", "bound": 2.0}) == ("<\u00a02", "")
    assert transfer.bounded(None) == ("–", "")


def test_results_without_the_question_have_no_section(tmp_path: Path) -> None:
    result = study()
    for answer in (None, "absent"):
        if answer is None:
            result["transfer"] = None
        else:
            del result["transfer"]
        html = report.write(result, tmp_path).read_text()
        assert 'id="transfer"' not in html and 'href="#transfer"' not in html
        assert not (tmp_path / "figures" / "transfer.svg").exists()


def test_names_of_arms_stay_text(tmp_path: Path) -> None:
    result = json.loads(json.dumps(study()).replace('"text"', json.dumps(made.HOSTILE)))
    result["transfer"]["text"] = study()["transfer"]["text"]
    path = report.write(result, tmp_path, figures=False)
    assert made.HOSTILE in {d.get("data-arm") for d in Values(path.read_text()).data}
    assert path.read_text().count("<script") == 2


def test_the_terminal_shows_multipliers_and_advice() -> None:
    result = study()
    target = io.StringIO()
    Console(file=target, width=80, color_system=None).print(report.terminal(result, "out/index.html"))
    lines = target.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    text = re.sub(r"\s+", " ", target.getvalue())
    assert text.startswith(result["transfer"]["advice"]) and "worth in data: tokens from scratch" in text
    cell = next(c for c in result["transfer"]["cells"] if c["multiplier"]["value"] is not None)
    assert f"{cell['multiplier']['value']:.1f}" in text


@pytest.mark.chromium
@pytest.mark.parametrize("case", ["two sources", "ossified"])
def test_the_section_is_shown_clean_at_every_width(
    case: str, pages: Callable[[str], tuple[Json, Path]], clean_pages: Callable[[Path], Iterator[Page]]
) -> None:
    result, path = pages(case)
    for page in clean_pages(path):
        image = "document.querySelector('#transfer img')"
        assert page.evaluate(f"{image}.complete && {image}.naturalWidth > 0 && {image}.checkVisibility()")
        text = page.evaluate("document.querySelector('#transfer').innerText")
        assert result["transfer"]["advice"] in text
        assert all(sentence in text for sentence in result["transfer"]["text"])
        count = page.evaluate(
            "[...document.querySelectorAll('#transfer data.multiplier')].filter(e => e.checkVisibility()).length"
        )
        assert count == sum(c["multiplier"]["value"] is not None for c in result["transfer"]["cells"])
