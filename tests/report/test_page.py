"""The page as a reader meets it: written, escaped, opened in a browser, cut off from any network."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import itertools
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import synthetic_study as made
from chromium import Browser, Page
from rich.console import Console

from isoloss import report
from isoloss.report import answers, formats
from isoloss.report.tidy import binned

Json = dict[str, Any]
CASES: dict[str, Callable[[], Json]] = {
    "quickstart": made.study,
    "empty": made.empty,
    "hostile": made.hostile,
    "one-seed": lambda: made.study(made.ONE_SEED),
    "one-size": lambda: made.study(made.ONE_SIZE),
    "one-arm": lambda: made.study(made.ONE_ARM),
    "one-variable": made.one_variable,
    "216-runs": lambda: made.study(made.LARGE),
}


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


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Json, Path]]:
    """Result and page of a case, each written once."""
    folder, known = tmp_path_factory.mktemp("pages"), {}

    def page(case: str) -> tuple[Json, Path]:
        if case not in known:
            result = CASES[case]()
            known[case] = result, report.write(result, folder / case, figures=False)
        return known[case]

    return page


Pages = Callable[[str], tuple[Json, Path]]


# -- without a browser ---------------------------------------------------------------------------------------


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
    assert len(html.encode()) < 5e6
    for tag, attributes in Document(html).tags:
        assert tag not in ("link", "iframe", "base", "object", "embed")
        for name, value in attributes.items():
            assert not name.startswith("on"), f"<{tag} {name}> runs code"
            if name in ("src", "href", "action", "srcset"):
                assert (value or "").startswith(("data:image/svg+xml", "#")), f"<{tag} {name}={value}>"
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style and "@import" not in style


def test_only_the_two_scripts_of_the_page_may_run(pages: Pages) -> None:
    document = Document(pages("hostile")[1].read_text())
    policy = next(tag["content"] for name, tag in document.tags if "http-equiv" in tag and name == "meta")
    assert policy is not None
    data, packed, code = document.scripts
    for source in (code, gzip.decompress(base64.b64decode(packed)).decode()):
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1]
    assert policy.startswith("default-src 'none'")
    assert json.loads(data)["arms"][1]["name"] == made.HOSTILE


def test_every_text_of_a_user_is_shown_as_text(pages: Pages) -> None:
    document = Document(pages("hostile")[1].read_text())
    assert sum(name == "script" for name, _ in document.tags) == 3
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
    assert "no interval" in html and "Intervals are 90 %." in html and "95 %" not in html


# -- in a browser --------------------------------------------------------------------------------------------

TRACES = """
Object.fromEntries([...document.querySelectorAll('.live')].map(
  (e) => [e.id, e.querySelectorAll('.scatterlayer .trace').length]))
"""
VISIBLE = "e => e.checkVisibility()"
STATIC = (
    "[...document.querySelectorAll('.plot img')].every(i => i.complete && i.naturalWidth > 0 && i.checkVisibility())"
)


@pytest.mark.chromium
@pytest.mark.parametrize("case", CASES)
def test_the_page_opens_clean_on_a_desk_and_on_a_phone(case: str, pages: Pages, browser: Browser) -> None:
    result, path = pages(case)
    page = browser.open(path, width=360)
    if any(run["status"] == "done" for run in result["runs"]):
        page.wait_drawn()
        traces = page.evaluate(TRACES)
        fitted = [f"law-{i}" for i, law in enumerate(result["laws"]) if law["curves"]]
        assert {"curves", "final", *fitted} == set(traces)
        assert all(count > 0 for count in traces.values()), traces
    for width in (360, 1280):
        page.resize(width)
        page.wait(lambda width=width: page.evaluate("window.innerWidth") == width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.complaints() == []
    assert page.requests() == [path.resolve().as_uri()]
    assert page.evaluate("document.title") == f"{result['study']} · isoloss"
    page.close()


@pytest.mark.chromium
def test_what_is_shown_is_what_was_computed(pages: Pages, browser: Browser) -> None:
    result, path = pages("quickstart")
    page = browser.open(path)
    page.wait_drawn()

    def data(selector: str) -> list[list[Any]]:
        return page.evaluate(
            f"[...document.querySelectorAll('data.{selector}')]"
            ".map(e => [Number(e.value), e.textContent, {...e.dataset}])"
        )

    assert page.evaluate("document.querySelector('h1').textContent") == result["summary"][0]
    ratios = {(d["arm"], d["measure"], d["size"]): (value, text) for value, text, d in data("ratio")}
    expected = {
        (entry["arm"], measure, str(entry.get("N", "all"))): entry[measure]["ratio"]
        for entry in result["worth"] + result["worth_overall"]
        for measure in ("data", "updates", "compute")
    }
    assert {key: value for key, (value, _) in ratios.items()} == expected
    for value, text in ratios.values():
        assert float(text.removesuffix("×")) == pytest.approx(value, abs=0.005)
    assert [value for value, *_ in data("loss")] == [run["loss"] for run in result["runs"]]
    assert [value for value, *_ in data("lr")] == [row["lr"] for arm in result["arms"] for row in arm["lr"]]
    assert [value for value, *_ in data("parameter")] == [
        p["value"] for law in result["laws"] for p in law["parameters"]
    ]
    metrics = {(d["arm"], float(d["size"]), d["metric"]): (value, text) for value, text, d in data("metric")}
    known = {(m["arm"], m["N"], m["metric"]): m for m in result["metrics"] if m["mean"] is not None}
    assert {key: value for key, (value, _) in metrics.items()} == {key: m["mean"] for key, m in known.items()}
    for key, (value, text) in metrics.items():
        shown, _, spread = text.partition("\u00a0±\u00a0")
        assert float(shown) == pytest.approx(value, abs=5e-5)
        assert (float(spread) if spread else None) == pytest.approx(known[key]["sd"], abs=5e-5)
    sharing = page.evaluate("({...document.getElementById('sharing').dataset})")
    assert {key: int(value) for key, value in sharing.items()} == result["sharing"]["updates"]
    shown = page.evaluate("document.body.innerText")
    for fact in (result["command"], result["provenance"]["data"]["digest"], *result["caveats"]):
        assert fact in shown

    # The plotted points: means over seeds of the largest size, an arm a line.
    largest = max(run["N"] for run in result["runs"])
    lines = page.evaluate("document.getElementById('final').data.map(t => [t.name, t.x, t.y])")
    assert [name for name, *_ in lines] == [arm["name"] for arm in result["arms"]]
    for name, xs, ys in lines:
        cells: dict[float, list[float]] = {}
        for run in result["runs"]:
            if (run["arm"], run["N"]) == (name, largest):
                cells.setdefault(run["D"], []).append(run["loss"])
        assert xs == sorted(cells)
        assert ys == pytest.approx([sum(cells[x]) / len(cells[x]) for x in sorted(cells)], rel=1e-12)
    page.close()


@pytest.mark.chromium
def test_every_control_works_by_mouse(pages: Pages, browser: Browser) -> None:
    result, path = pages("quickstart")
    page = browser.open(path)
    page.wait_drawn()

    def state() -> list[Any]:
        return page.evaluate(
            "['curves', 'final'].flatMap(id => { const e = document.getElementById(id), l = e.layout;"
            " return [e.data.length, l.xaxis.title.text, l.xaxis.type, l.yaxis.type]; })"
        )

    assert state() == [3, "tokens", "log", "log"] * 2
    page.click("input[name=x][value=C]")
    page.click("input[name=xscale][value=linear]")
    page.click("input[name=yscale][value=linear]")
    assert state() == [3, "training FLOPs", "linear", "linear"] * 2
    last = page.evaluate("document.getElementById('final').data[0].x.at(-1)")
    longest = max((r for r in result["runs"] if r["arm"] == "cosine"), key=lambda r: (r["N"], r["D"]))
    assert last == longest["C"]
    page.click("input[name=x][value=S]")
    assert page.evaluate("document.getElementById('final').data[0].x.at(-1)") == longest["S"]
    page.click("input[name=arm][value=averaged]")
    assert state()[0::4] == [2, 2]
    page.evaluate("document.getElementById('size').value = 'all'")
    page.evaluate("document.getElementById('size').dispatchEvent(new Event('change', {bubbles: true}))")
    assert state()[0::4] == [8, 8]
    page.click("input[name=seeds][value=each]")
    points = page.evaluate("document.getElementById('final').data.filter(t => t.mode === 'markers').flatMap(t => t.y)")
    assert sorted(points) == sorted(run["loss"] for run in result["runs"] if run["arm"] != "averaged")
    first = "document.getElementById('curves').data[0].y.find(y => y !== null)"
    before = page.evaluate(first)
    page.click("input[name=part][value=train]")
    run = result["runs"][0]
    assert (before, page.evaluate(first)) == pytest.approx(
        (run["curve"]["loss"][0], binned(run["train"])["loss"][0]), rel=1e-5
    )
    for arm in ("cosine", "cooldown"):
        page.click(f"input[name=arm][value={arm}]")
    assert state()[0::4] == [0, 0]
    assert page.complaints() == []
    page.close()


@pytest.mark.chromium
def test_training_loss_is_drawn_where_validation_was_measured_only_at_the_end(tmp_path: Path, browser: Browser) -> None:
    result = made.study(made.ONE_SEED)
    for run in result["runs"]:
        run["curve"] = {"update": [run["S"]], "loss": [run["loss"]]}
    page = browser.open(report.write(result, tmp_path, figures=False))
    page.wait_drawn()
    assert page.evaluate("document.querySelector('input[name=part]') === null")
    largest = max(run["N"] for run in result["runs"])
    mine = [run for run in result["runs"] if run["arm"] == "cosine" and run["N"] == largest]
    shown = page.evaluate("document.getElementById('curves').data[0].y.filter(y => y !== null)")
    expected = [loss for run in mine for loss in binned(run["train"])["loss"]]
    assert sorted(shown) == pytest.approx(sorted(expected), rel=1e-5)
    page.close()


@pytest.mark.chromium
def test_every_control_works_by_keyboard_and_shows_its_focus(pages: Pages, browser: Browser) -> None:
    page = browser.open(pages("quickstart")[1])
    page.wait_drawn()
    reached = []
    for _ in range(40):
        page.press("Tab", 9)
        reached.append(
            page.evaluate(
                "(() => { const e = document.activeElement;"
                " const m = e.matches('input') ? e.nextElementSibling : e;"
                " return [e.name || e.id || e.hash || e.className || e.tagName,"
                " e.matches('.skip') || getComputedStyle(m).outlineStyle !== 'none']; })()"
            )
        )
    names = [name for name, _ in reached]
    for name in ("#worth", "arm", "size", "x", "xscale", "yscale", "seeds", "part", "scroll"):
        assert name in names, f"{name} cannot be reached with Tab: {names}"
    assert all(visible for name, visible in reached if name in ("arm", "size", "x", "seeds", "#worth"))

    page.evaluate("document.querySelector('input[name=x]:checked').focus()")
    page.press("ArrowRight", 39)
    assert page.evaluate("document.getElementById('final').layout.xaxis.title.text") == "training FLOPs"
    page.evaluate("document.querySelector('input[name=arm]').focus()")
    page.press(" ", 32)
    assert page.evaluate("document.getElementById('final').data.length") == 2
    page.close()


# Relative luminance and contrast: WCAG 2.2, section 1.4.3.
CONTRAST = """
(() => {
  const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const color = parse(getComputedStyle(e).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const poor = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    const skipped = e.closest('script, style, .live, svg, .glyph, .skip') || !e.checkVisibility();
    if (skipped || !walker.currentNode.data.trim()) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push([walker.currentNode.data.trim().slice(0, 30), ratio]);
  }
  return poor;
})()
"""


@pytest.mark.chromium
def test_light_and_dark_both_read_well(pages: Pages, browser: Browser) -> None:
    page = browser.open(pages("quickstart")[1], dark=True)
    page.wait_drawn()
    colors = (
        "[getComputedStyle(document.body).backgroundColor,"
        " document.getElementById('final').layout.font.color, getComputedStyle(document.body).color]"
    )
    dark = page.evaluate(colors)
    assert page.evaluate(CONTRAST) == []
    page.scheme("light")
    page.wait(lambda: page.evaluate(colors)[1] != dark[1])
    light = page.evaluate(colors)
    assert light[0] != dark[0] and light[2] != dark[2]
    assert page.evaluate(CONTRAST) == []
    page.close()


@pytest.mark.chromium
def test_it_prints_with_its_static_figures(pages: Pages, browser: Browser) -> None:
    page = browser.open(pages("quickstart")[1], dark=True)
    page.wait_drawn()
    assert page.pdf().startswith(b"%PDF-")
    page.send(
        "Emulation.setEmulatedMedia",
        media="print",
        features=[{"name": "prefers-color-scheme", "value": "dark"}],
    )
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.evaluate(f"[...document.querySelectorAll('.live, .controls, nav')].some({VISIBLE})")
    page.wait(lambda: page.evaluate(STATIC))
    page.close()


@pytest.mark.chromium
def test_without_scripts_the_page_is_still_whole(pages: Pages, browser: Browser) -> None:
    page = browser.open(pages("quickstart")[1], script=False)
    assert page.evaluate("document.querySelectorAll('.live svg').length") == 0
    assert page.evaluate(STATIC)
    assert not page.evaluate("document.getElementById('controls').checkVisibility()")
    assert page.complaints() == []
    page.close()


@pytest.mark.chromium
def test_screen_readers_find_names_for_everything(pages: Pages, browser: Browser) -> None:
    page = browser.open(pages("quickstart")[1])
    page.wait_drawn()
    nodes = page.send("Accessibility.getFullAXTree")["nodes"]
    roles = {"radio", "checkbox", "combobox", "image", "link", "button", "region", "navigation", "group"}
    for node in nodes:
        role = node.get("role", {}).get("value")
        if not node.get("ignored") and role in roles:
            assert node.get("name", {}).get("value"), f"a {role} without a name: {node.get('properties')}"
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(e => Number(e.tagName[1]))")
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert page.evaluate("document.documentElement.lang") == "en"
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    page.close()


@pytest.mark.chromium
def test_names_stay_text_inside_the_plots(pages: Pages, browser: Browser) -> None:
    page = browser.open(pages("hostile")[1])
    page.wait_drawn()
    title = "document.querySelector('#final .xtitle').textContent"
    assert page.evaluate(title) == made.HOSTILE
    assert page.evaluate("document.querySelectorAll('.live img, .live script, .tree img, img[src=x]').length") == 0
    shown = page.evaluate("[...document.querySelectorAll('.choice label')].map(e => e.textContent.trim())")
    assert any(made.HOSTILE in label for label in shown)
    page.close()


@pytest.mark.chromium
def test_the_network_really_is_cut(browser: Browser, tmp_path: Path) -> None:
    """The checks above would be empty if the browser could reach out, or if a request went unseen."""
    leak = tmp_path / "leak.html"
    leak.write_text("<img src='http://example.com/a.png'>")
    page: Page = browser.open(leak)
    page.wait(lambda: any("example.com" in url for url in page.requests()))
    page.wait(lambda: page.complaints() != [])
    page.close()


def test_a_metric_that_some_seeds_lack_says_for_how_many_it_is(tmp_path: Path) -> None:
    result = made.study()
    next(m for m in result["metrics"] if m["metric"] == "auroc")["seeds"] = 2
    page = report.write(result, tmp_path, figures=False).read_text(encoding="utf-8")
    assert page.count("2 of 3 seeds") == 1
    plain = made.study()
    del plain["metrics"]
    assert 'id="metrics"' not in report.write(plain, tmp_path, figures=False).read_text(encoding="utf-8")
