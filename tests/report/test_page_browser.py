"""The page as a reader meets it: opened in a browser, used by mouse and keyboard, printed, cut off from any network."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import synthetic_study as made
from cases import CASES, Json, Pages
from chromium import Browser, Page

from isoloss import report
from isoloss.report.tidy import binned

pytestmark = pytest.mark.chromium

VISIBLE = "e => e.checkVisibility()"
STATIC = (
    "[...document.querySelectorAll('.plot img')].every(i => i.complete && i.naturalWidth > 0 && i.checkVisibility())"
)
DRAWN = """
Object.fromEntries([...document.querySelectorAll('.live')].filter(e => e.checkVisibility()).map(
  (e) => [e.id, e.querySelectorAll('.layer path').length]))
"""
PRINT_WIDTH = 688  # A4 without the margins of the style sheet, in CSS pixels


@pytest.mark.parametrize("case", CASES)
def test_the_page_opens_clean_on_a_desk_and_on_a_phone(case: str, pages: Pages, browser: Browser) -> None:
    result, path = pages(case)
    page = browser.open(path, width=360)
    page.wait_drawn()
    if any(run["status"] == "done" for run in result["runs"]):
        drawn = page.evaluate(DRAWN)
        first = next((f"law-{i}" for i, law in enumerate(result["laws"]) if law["curves"]), "final")
        assert {"curves", "final", first} <= set(drawn)
        assert all(count > 0 for count in drawn.values()), drawn
    else:
        assert page.evaluate("document.querySelectorAll('.live').length") == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.complaints() == []
    assert page.requests() == [path.resolve().as_uri()]
    assert page.tab.title() == f"{result['study']} · isoloss"
    page.close()
    desk = browser.open(path, width=768)
    desk.wait_drawn()
    for width in (768, 1000, 1280):
        desk.resize(width)
        assert desk.evaluate("document.documentElement.scrollWidth") <= width
    assert desk.complaints() == []
    desk.close()


@pytest.mark.parametrize(
    ("case", "width", "dark"),
    [
        *(("planned", width, dark) for width, dark in ((1280, False), (1280, True), (360, False))),
        *(("hostile", width, dark) for width, dark in ((1280, True), (360, False))),
        ("empty", 1280, False),
        ("12-arms", 360, True),
    ],
)
def test_axe_finds_no_serious_violation(case: str, width: int, dark: bool, pages: Pages, browser: Browser) -> None:
    page = browser.open(pages(case)[1], width=width, dark=dark)
    page.wait_drawn()
    page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    if case == "planned":
        page.evaluate("document.querySelector('.pick').click()")
    assert page.violations() == []
    page.close()


def layers(page: Page, chart: str, fields: str) -> Any:
    """Fields of the layers of a chart: what is drawn and read out, not what is painted."""
    return page.evaluate(f"document.getElementById('{chart}').chart.layers.map(layer => {fields})")


def test_what_is_shown_is_what_was_computed(pages: Pages, browser: Browser) -> None:
    result, path = pages("separate")
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
    text = page.evaluate("document.body.innerText")
    for fact in (result["command"], result["provenance"]["data"]["digest"], *result["caveats"]):
        assert fact in text
    page.close()


def test_what_is_drawn_is_what_was_computed(pages: Pages, browser: Browser) -> None:
    result, path = pages("separate")
    page = browser.open(path)
    page.wait_drawn()
    names = [arm["name"] for arm in result["arms"]]

    largest = max(run["N"] for run in result["runs"])
    lines = layers(page, "final", "[layer.name, layer.x, layer.y, layer.low, layer.high]")
    assert [name for name, *_ in lines] == names
    for name, xs, ys, lows, highs in lines:
        cells: dict[float, list[float]] = {}
        for run in result["runs"]:
            if (run["arm"], run["N"]) == (name, largest):
                cells.setdefault(run["D"], []).append(run["loss"])
        assert xs == sorted(cells)
        assert ys == pytest.approx([sum(cells[x]) / len(cells[x]) for x in xs], rel=1e-12)
        assert [lows, highs] == [[min(cells[x]) for x in xs], [max(cells[x]) for x in xs]]

    for number, measure in enumerate(("data", "updates", "compute")):
        page.tab.locator(f"input[name=measure][value='{number}']").check()
        drawn = layers(page, "scale", "[layer.arm, layer.size, layer.y, layer.low, layer.high, Boolean(layer.marks)]")
        points = {(names[arm], size): [*y, *low, *high] for arm, size, y, low, high, marks in drawn if marks}
        assert points == {(w["arm"], w["N"]): list(w[measure].values()) for w in result["worth"]}

    law, runs = result["laws"][0], [run for run in result["runs"] if run["arm"] == "cosine"]
    drawn = layers(page, "law-0", "[layer.size, layer.x, layer.y, Boolean(layer.marks), Boolean(layer.dashed)]")
    assert sorted(y for _, _, ys, marks, _ in drawn if marks for y in ys) == sorted(run["loss"] for run in runs)
    for curve in law["curves"]:
        reach = max(run["D"] for run in runs if run["N"] == curve["N"])
        solid, dashed = ([x for n, xs, _, marks, beyond in drawn if n == curve["N"] and not marks and beyond is want
                          for x in xs] for want in (False, True))  # fmt: skip
        assert max(solid) <= reach * 1.001 <= max(dashed) and min(solid) == pytest.approx(curve["x"][0], rel=1e-5)
        assert len(solid) + len(dashed) == len(curve["x"]) + 1, "the two parts meet"

    drawn = layers(page, "residual-0", "[layer.x, layer.y, Boolean(layer.hollow)]")
    shown = sorted(y for _, ys, held in drawn if not held for y in ys)
    assert shown == pytest.approx(sorted(100 * (r["actual"] / r["predicted"] - 1) for r in law["residuals"]), rel=1e-9)
    held = sorted(y for _, ys, hollow in drawn if hollow for y in ys)
    rows = law["holdout"]["rows"]
    assert held == pytest.approx(sorted(100 * (r["actual"] / r["predicted"] - 1) for r in rows), rel=1e-9)

    drawn = layers(page, "surface-0", "[layer.css, layer.x, layer.y, Boolean(layer.dashed)]")
    lines = [(x, y, dashed) for css, x, y, dashed in drawn if css == "iso"]
    expected = [(line["D"], line["N"], not line["measured"]) for line in law["surface"]["lines"]]
    for (x, y, dashed), (D, N, beyond) in zip(sorted(lines), sorted(expected), strict=True):
        assert (x, y) == (pytest.approx(D, rel=1e-5), pytest.approx(N, rel=1e-5)) and dashed is beyond
    page.close()


def axes(page: Page) -> list[Any]:
    return page.evaluate(
        "['curves', 'final'].flatMap(id => { const { layers, spec } = document.getElementById(id).chart;"
        " return [layers.length, spec.x.title, spec.x.kind, spec.y.kind]; })"
    )


def test_every_control_works_by_mouse(pages: Pages, browser: Browser) -> None:
    result, path = pages("quickstart")
    page = browser.open(path)
    page.wait_drawn()

    def choose(name: str, value: str) -> None:
        page.tab.locator(f"input[name={name}][value='{value}']").click()

    assert axes(page) == [3, "tokens", "log", "log"] * 2
    choose("x", "C")
    choose("xscale", "linear")
    choose("yscale", "linear")
    assert axes(page) == [3, "training FLOPs", "linear", "linear"] * 2
    assert page.evaluate("document.getElementById('law-0').chart.spec.x.title") == "training FLOPs"
    longest = max((r for r in result["runs"] if r["arm"] == "cosine"), key=lambda r: (r["N"], r["D"]))
    assert layers(page, "final", "layer.x.at(-1)")[0] == longest["C"]
    assert max(x for xs in layers(page, "residual-0", "layer.x") for x in xs) > longest["D"]
    choose("x", "S")
    assert layers(page, "final", "layer.x.at(-1)")[0] == longest["S"]
    choose("arm", "2")
    assert axes(page)[0::4] == [2, 2]
    assert {arm for arm in layers(page, "scale", "layer.arm")} == {1}
    page.tab.select_option("#size", "all")
    assert axes(page)[0::4] == [8, 8]
    choose("seeds", "each")
    points = layers(page, "final", "layer.marks && layer.tip ? layer.y : []")
    kept = [run["loss"] for run in result["runs"] if run["arm"] != "averaged"]
    assert sorted(y for ys in points for y in ys) == sorted(kept)
    first = "document.getElementById('curves').chart.layers[0].y.find(y => y !== null)"
    before = page.evaluate(first)
    choose("part", "train")
    run = result["runs"][0]
    assert (before, page.evaluate(first)) == pytest.approx(
        (run["curve"]["loss"][0], binned(run["train"])["loss"][0]), rel=1e-5
    )
    choose("law", "1")
    assert page.tab.is_visible("#law-panel-1") and page.tab.is_hidden("#law-panel-0")
    assert page.evaluate(DRAWN)["surface-1"] > 0
    for arm in ("0", "1"):
        choose("arm", arm)
    assert axes(page)[0::4] == [0, 0]
    assert page.complaints() == []
    page.close()


def marked(page: Page) -> Json:
    """What stands out: pressed buttons, the words of the mark, and how many layers of each chart are not faded."""
    return page.evaluate(
        "({ pressed: [...document.querySelectorAll('.pick[aria-pressed=true]')].map(e => e.textContent.trim()),"
        " words: document.getElementById('clear').hidden ? null : document.getElementById('clear-words').textContent,"
        " law: document.querySelector('input[name=law]:checked').value, size: document.getElementById('size').value,"
        " clear: Object.fromEntries(['scale', 'final', 'law-1', 'surface-1'].map(id => [id,"
        "  [...document.querySelectorAll(`#${id} .layer:not(.dim)`)].length])),"
        " arms: [...new Set([...document.querySelectorAll('#scale .layer:not(.dim)')].map(e => e.classList[2]))],"
        " tree: document.querySelectorAll('.tree .dim').length,"
        " rows: document.querySelectorAll('.answers .dim').length })"
    )


def test_what_is_marked_in_one_place_is_marked_in_all(pages: Pages, browser: Browser) -> None:
    page = browser.open(pages("quickstart")[1])
    page.wait_drawn()
    before = marked(page)
    assert before["words"] is None and before["tree"] == before["rows"] == 0

    page.tab.locator(".overall .pick").first.click()
    arm = marked(page)
    assert arm["pressed"] == ["■\u00a0cooldown"] and arm["words"] == "cooldown"
    assert arm["law"] == "1" and arm["arms"] == ["c1"]
    assert arm["clear"]["final"] < before["clear"]["final"] and arm["tree"] > 0 and arm["rows"] > 0

    page.tab.locator(".size .pick").first.click()
    both = marked(page)
    assert both["words"] == "cooldown, N 37.1k" and both["size"] == "0"
    assert 0 < both["clear"]["scale"] < arm["clear"]["scale"] and both["clear"]["final"] <= arm["clear"]["final"]
    assert page.tab.locator(".size.marked").count() == 1 and page.tab.locator("#all-runs .marked").count() == 9
    page.click("#clear")
    assert marked(page)["words"] is None and marked(page)["tree"] == 0

    # A point of a chart marks as well, and the same point takes the mark away.
    page.tab.locator("#scale .area").scroll_into_view_if_needed()
    box = page.tab.locator("#scale .area").bounding_box()
    spot = page.evaluate(
        "(({ left, top }) => [left, top])(document.getElementById('scale').chart.targets.flat()"
        ".find(p => p.layer.marks && p.layer.arm === 2))"
    )
    assert box is not None
    page.tab.mouse.click(box["x"] + spot[0], box["y"] + spot[1])
    assert (marked(page)["words"] or "").startswith("averaged, N ") and marked(page)["law"] == "2"
    page.tab.mouse.click(box["x"] + spot[0], box["y"] + spot[1])
    assert marked(page)["words"] is None
    assert page.complaints() == []
    page.close()


def test_pointing_reads_out_exact_values_and_dragging_zooms(pages: Pages, browser: Browser) -> None:
    result, path = pages("quickstart")
    page = browser.open(path)
    page.wait_drawn()
    page.tab.locator("#final").scroll_into_view_if_needed()
    box = page.tab.locator("#final .area").bounding_box()
    assert box is not None
    left, top = page.evaluate(
        "(({ left, top }) => [left, top])(document.getElementById('final').chart.targets[0].at(-1))"
    )
    page.tab.mouse.move(box["x"] + left + 2, box["y"] + top - 2)
    page.tab.wait_for_selector("#final .tip:not([hidden])")
    said = page.tab.inner_text("#final .tip")
    longest = max(run["D"] for run in result["runs"])
    runs = [run for run in result["runs"] if run["D"] == longest and run["N"] == max(r["N"] for r in result["runs"])]
    mean = sum(run["loss"] for run in runs) / len(runs)
    assert float(said.split("loss")[1].split()[0]) == pytest.approx(mean, rel=1e-5)
    assert f"{longest:,}" in said and f"{runs[0]['S']:,}" in said and f"{runs[0]['N']:,}" in said
    page.tab.mouse.move(0, 0)
    page.tab.wait_for_selector("#final .tip", state="hidden")

    whole = page.evaluate("document.getElementById('final').chart.shown.x")
    page.tab.mouse.move(box["x"] + 120, box["y"] + 80)
    page.tab.mouse.down()
    page.tab.mouse.move(box["x"] + 240, box["y"] + 200, steps=4)
    page.tab.mouse.up()
    low, high = page.evaluate("document.getElementById('final').chart.shown.x")
    assert whole[0] < low < high < whole[1]
    page.tab.locator("#final .tools button", has_text="Show all").click()
    assert page.evaluate("document.getElementById('final').chart.shown.x") == whole
    page.close()


def test_a_chart_is_saved_as_a_file_with_its_style(pages: Pages, browser: Browser) -> None:
    page = browser.open(pages("quickstart")[1])
    page.wait_drawn()
    page.tab.locator("#scale").hover()
    with page.tab.expect_download() as waiting:
        page.tab.locator("#scale .tools button", has_text="Save SVG").click()
    assert waiting.value.suggested_filename == "scale.svg"
    drawing = ElementTree.parse(waiting.value.path()).getroot()
    assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
    strokes = {element.get("style", "") for element in drawing.iter() if element.tag.endswith("path")}
    assert any("stroke:rgb(31, 95, 168)" in style for style in strokes), "colours are written out"
    page.close()


def test_training_loss_is_drawn_where_validation_was_measured_only_at_the_end(tmp_path: Path, browser: Browser) -> None:
    result = made.study(made.ONE_SEED)
    for run in result["runs"]:
        run["curve"] = {"update": [run["S"]], "loss": [run["loss"]]}
    page = browser.open(report.write(result, tmp_path, figures=False))
    page.wait_drawn()
    assert page.evaluate("document.querySelector('input[name=part]') === null")
    largest = max(run["N"] for run in result["runs"])
    mine = [run for run in result["runs"] if run["arm"] == "cosine" and run["N"] == largest]
    shown = page.evaluate("document.getElementById('curves').chart.layers[0].y.filter(y => y !== null)")
    expected = [loss for run in mine for loss in binned(run["train"])["loss"]]
    assert sorted(shown) == pytest.approx(sorted(expected), rel=1e-5)
    page.close()


def test_every_control_is_reached_by_keyboard_and_shows_its_focus(pages: Pages, browser: Browser) -> None:
    page = browser.open(pages("separate")[1])
    page.wait_drawn()
    reached = {}
    for _ in range(90):
        page.press("Tab")
        name, visible = page.evaluate(
            "(() => { const e = document.activeElement;"
            " const m = e.matches('.choice input') ? e.nextElementSibling : e;"
            " const own = e.className.split(' ')[0] + (e.closest('.live')?.id ?? '');"
            " return [e.name || e.id || e.hash || own || e.tagName,"
            " getComputedStyle(m).outlineStyle !== 'none']; })()"
        )
        reached[name] = visible
    names = ("#worth", "pick", "measure", "areascale", "arm", "size", "x", "xscale", "yscale", "seeds", "part", "law")
    for name in (*names, "areacurves", "areafinal", "arealaw-0", "areasurface-0", "arearesidual-0", "scroll"):
        assert reached.get(name), f"{name} is not reached with Tab, or shows no focus: {reached}"
    page.close()


def test_every_control_works_by_keyboard(pages: Pages, browser: Browser) -> None:
    page = browser.open(pages("quickstart")[1])
    page.wait_drawn()
    page.tab.focus("input[name=x]:checked")
    page.press("ArrowRight")
    assert axes(page)[1] == "training FLOPs"
    page.tab.focus("input[name=arm]")
    page.press(" ")
    assert axes(page)[4] == 2
    page.press(" ")
    page.tab.focus("#size")
    page.press("Home")
    assert axes(page)[4] == 12
    page.tab.focus("input[name=law]:checked")
    page.press("ArrowRight")
    assert page.tab.is_visible("#law-panel-1")
    page.tab.focus(".overall .pick")
    page.press("Enter")
    assert marked(page)["words"] == "cooldown"
    page.press("Escape")
    assert marked(page)["words"] is None

    page.tab.focus("#scale .area")
    page.press("ArrowRight")
    first = page.tab.inner_text("#told")
    assert page.tab.is_visible("#scale .tip") and "trend" in first
    page.press("ArrowRight")
    assert page.tab.inner_text("#told") != first, "each point is said"
    for _ in range(20):
        page.press("ArrowDown")
        if page.tab.inner_text("#told").startswith("averaged. worth"):
            break
    page.press("Enter")
    assert (marked(page)["words"] or "").startswith("averaged, N ")
    page.press("Escape")
    assert marked(page)["words"] is None
    whole = page.evaluate("document.getElementById('scale').chart.shown.x")
    page.press("+")
    low, high = page.evaluate("document.getElementById('scale').chart.shown.x")
    assert high / low < whole[1] / whole[0]
    page.press("0")
    assert page.evaluate("document.getElementById('scale').chart.shown.x") == whole
    assert page.complaints() == []
    page.close()


def test_rows_of_many_arms_fold_and_unfold(pages: Pages, browser: Browser) -> None:
    page = browser.open(pages("12-arms")[1])
    page.wait_drawn()
    rows = "[...document.querySelectorAll('.answers .size')].filter(e => e.checkVisibility()).length"
    assert page.evaluate(rows) == 0
    page.click("#fold")
    assert page.evaluate(rows) == 33 and page.tab.get_attribute("#fold", "aria-expanded") == "true"
    page.tab.focus("#fold")
    page.press("Enter")
    assert page.evaluate(rows) == 0
    page.tab.emulate_media(media="print")
    assert page.evaluate(rows) == 33
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


def test_light_and_dark_both_read_well(pages: Pages, browser: Browser) -> None:
    page = browser.open(pages("planned")[1], dark=True)
    page.wait_drawn()
    colors = (
        "[document.body, document.querySelector('#final .tick'), document.querySelector('#final .line')]"
        ".flatMap(e => { const s = getComputedStyle(e); return [s.backgroundColor, s.color, s.fill, s.stroke]; })"
    )
    dark = page.evaluate(colors)
    assert page.evaluate(CONTRAST) == []
    page.scheme("light")
    page.wait(lambda: page.evaluate(colors) != dark)
    light = page.evaluate(colors)
    assert light[0] != dark[0] and light[1] != dark[1] and light[6] != dark[6] and light[11] != dark[11]
    assert page.evaluate(CONTRAST) == []
    page.close()


@pytest.mark.parametrize("case", ["planned", "separate", "hostile", "12-arms"])
def test_it_prints_with_its_static_figures_and_cuts_nothing(case: str, pages: Pages, browser: Browser) -> None:
    page = browser.open(pages(case)[1], dark=True)
    page.wait_drawn()
    assert page.pdf().startswith(b"%PDF-")
    page.tab.emulate_media(media="print", color_scheme="dark")
    page.resize(PRINT_WIDTH)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    interactive = "[...document.querySelectorAll('.live, .controls, nav, button:not(.pick)')]"
    assert not page.evaluate(f"{interactive}.some({VISIBLE})")
    page.wait(lambda: page.evaluate(STATIC))
    page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    wide = page.evaluate(
        "[...document.querySelectorAll('table, pre, .tree, .scroll, figure, dl')].filter(e => e.checkVisibility())"
        f".filter(e => e.getBoundingClientRect().right > {PRINT_WIDTH} + 0.5 || e.scrollWidth > e.clientWidth + 1)"
        ".map(e => [e.tagName, e.className, e.closest('section')?.id, e.scrollWidth])"
    )
    assert wide == []
    page.close()


def test_without_scripts_the_page_is_still_whole(pages: Pages, browser: Browser) -> None:
    page = browser.open(pages("planned")[1], script=False)
    assert page.tab.locator(".live svg").count() == 0
    for image in page.tab.locator(".plot img").all():
        image.scroll_into_view_if_needed()
        assert image.is_visible() and (image.bounding_box() or {"height": 0})["height"] > 100
    assert page.tab.locator(".scripted:visible, #clear:visible").count() == 0
    assert all(article.is_visible() for article in page.tab.locator(".law").all())
    assert page._complaints == []
    page.close()


def test_screen_readers_find_names_for_everything(pages: Pages, browser: Browser) -> None:
    page = browser.open(pages("planned")[1])
    page.wait_drawn()
    nodes = page.tab.context.new_cdp_session(page.tab).send("Accessibility.getFullAXTree")["nodes"]
    roles = {"radio", "checkbox", "combobox", "image", "link", "button", "region", "navigation", "group", "application"}
    seen = set()
    for node in nodes:
        role = node.get("role", {}).get("value")
        if not node.get("ignored") and role in roles:
            seen.add(role)
            assert node.get("name", {}).get("value"), f"a {role} without a name: {node.get('properties')}"
    assert {"radio", "checkbox", "combobox", "link", "button", "region", "application"} <= seen
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(e => Number(e.tagName[1]))")
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert page.evaluate("document.documentElement.lang") == "en"
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    page.close()


def test_names_stay_text_inside_the_plots(pages: Pages, browser: Browser) -> None:
    page = browser.open(pages("hostile")[1])
    page.wait_drawn()
    assert page.evaluate("document.querySelector('#final .xtitle').textContent") == made.HOSTILE
    assert page.evaluate("document.querySelectorAll('.live img, .live script, .tree img, img[src=x]').length") == 0
    shown = page.evaluate("[...document.querySelectorAll('.choice label')].map(e => e.textContent.trim())")
    assert any(made.HOSTILE in label for label in shown)
    page.tab.focus("#final .area")
    for _ in range(6):
        page.press("ArrowDown")
        if page.tab.inner_text("#told").startswith(made.HOSTILE):
            break
    assert page.tab.inner_text("#told").startswith(made.HOSTILE) and made.HOSTILE in page.tab.inner_text("#final .tip")
    page.press("Enter")
    assert page.tab.inner_text("#clear-words").startswith(made.HOSTILE)
    assert page.complaints() == [] and page.tab.title() != "owned"
    page.close()


def test_the_network_really_is_cut(browser: Browser, tmp_path: Path) -> None:
    """The checks above would be empty if the browser could reach out, or if a request went unseen."""
    leak = tmp_path / "leak.html"
    leak.write_text("<img src='http://example.com/a.png'>")
    page = browser.open(leak)
    page.wait(lambda: any("example.com" in url for url in page.requests()))
    page.wait(lambda: page.complaints() != [])
    page.close()
