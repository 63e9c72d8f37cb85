"""The planner section in a browser: the same figures as `isoloss advise --json`, by every control, in every look."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import chromium
import numpy as np
import pytest
import synthetic_study as made
from tests.cli.command import isoloss

from isoloss import report
from isoloss.laws import Outlook, Points, fit, get_form, load_fit
from isoloss.report import assets, planner
from isoloss.report.page import _environment

PLANTED = {
    "chinchilla": {"A": 400.0, "B": 2000.0, "E": 1.8, "alpha": 0.34, "beta": 0.37},
    "chinchilla-tied": {"A": 400.0, "B": 1500.0, "E": 1.8, "alpha": 0.35},
    "kaplan": {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103},
    # No closed form: its best split is searched.
    "chinchilla-outer": {"A": 400.0, "B": 800.0, "E": 1.7, "alpha": 0.4, "beta": 0.42, "gamma": 0.7},
}
EACH = 26
"""Budgets that are compared for every law."""
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>planner</title>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src {{ hash }}">
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{{ style }}</style></head>
<body><main><h1>Fixture</h1>{% include "planner.html.j2" %}</main><script>{{ script }}</script></body></html>"""


def points(law: str) -> Points:
    """Noisy losses of a planted law."""
    N = np.repeat(np.geomspace(1e7, 1e9, 5), 12)
    D = N * np.tile(np.repeat([5.0, 20.0, 80.0, 320.0], 3), 5)
    noise = np.exp(0.004 * np.random.default_rng(len(law)).normal(size=len(N)))
    loss = get_form(law).predict(PLANTED[law], {"N": N, "D": D}) * noise
    return Points(N=N, D=D, C=6 * N * D, loss=loss, cluster=[f"{n:g} {i % 3}" for i, n in enumerate(N)])


def write(result: dict[str, Any], path: Path) -> Path:
    """A page of nothing but the planner, under the content security policy of the real one."""
    from markupsafe import Markup

    style = assets.text("page.css") + assets.text("planner.css")
    known = {"style": Markup(style), "script": Markup(assets.text("planner.js")), "planner": planner.view(result)}
    text = _environment().from_string(PAGE).render(**known, hash=Markup(assets.script_hash(assets.text("planner.js"))))
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Saved fits of all laws and a page that plans by them; its first entry has all that a study knows."""
    place = tmp_path_factory.mktemp("planner")
    result: dict[str, Any] = {}
    for law in PLANTED:
        found = fit(points(law), law, cluster="cluster")
        found.save(place / f"{law}.json", found.bootstrap(200))
        one = planner.of_fit(load_fit(place / f"{law}.json").outlook())
        result = result or one
        result["entries"] += one["entries"] if result is not one else []
    first = result["entries"][0]
    first["arm"] = "<b>cool</b>"
    first["batch"] = {
        "used": 16,
        "value": 210.0,
        "low": 150.0,
        "high": None,
        "source": "critical batch of <i>x</i>",
        "unit": "samples",
    }
    first["lr"] = {"rule": "fitted", "sizes": [[1e7, 0.01], [1e9, 0.002]], "edge": False, "coefficient": 0.3,
                   "exponent": -0.35, "batch": {"batch": 210.0, "rule": "sqrt", "factor": 3.6}}  # fmt: skip
    result["schedule"] = {"arm": "<b>cool</b>", "words": "constant", "known": False, "worth": None}
    result["devices"].insert(0, {"name": "here", "label": "this machine", "peak": 5e9, "mfu": 1.0})
    write({"planner": result}, place / "page.html")
    return place


def opened(browser: chromium.Browser, folder: Path, **options: Any) -> chromium.Page:
    """The page, its script at work."""
    page = browser.open(folder / "page.html", **options)
    if options.get("script", True):
        page.tab.wait_for_selector("html[data-planner=ready]")
    return page


def settled(page: chromium.Page) -> None:
    """Wait until what was asked for is shown."""
    # Keys come from another process: on a busy machine a little after the frame in which they were sent.
    page.evaluate(
        "() => new Promise((done) => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 40))"
    )


def value(page: chromium.Page, name: str) -> float:
    """The exact value behind a figure that the section shows."""
    return float(page.tab.get_attribute(f"#planner-{name}", "value") or "nan")


def budgets(outlook: Outlook, law: str) -> list[dict[str, float]]:
    """Random budgets of every kind inside what the law answers."""
    rng = np.random.default_rng(sum(map(ord, law)))
    limits = outlook.limits()
    assert limits is not None
    low, high = np.log(limits)
    found: list[dict[str, float]] = []
    for i in range(EACH):
        C = float(np.exp(rng.uniform(low, high)))
        kind = ("flops", "flops", "params", "tokens", "hours")[i % 5]
        if kind == "params":
            found.append({"flops": C, "params": outlook.answer(C)["N"] * float(np.exp(rng.uniform(-1, 1)))})
        elif kind == "tokens":
            found.append({"tokens": outlook.answer(C)["D"]})
        elif kind == "hours":
            found.append({"hours": C / (3600 * 2 * 312e12 * 0.35), "mfu": 0.35, "devices": 2})
        else:
            found.append({"flops": C})
    return found


def apart(mine: Any, theirs: Any, path: str = "answer") -> float:
    """Largest relative difference of two nested answers. Raises AssertionError where they differ in kind."""
    if isinstance(mine, dict):
        assert isinstance(theirs, dict) and set(mine) == set(theirs), path
        return max((apart(mine[key], theirs[key], f"{path}.{key}") for key in mine), default=0.0)
    if isinstance(mine, list):
        assert isinstance(theirs, list) and len(mine) == len(theirs), path
        return max(
            (apart(a, b, f"{path}[{i}]") for i, (a, b) in enumerate(zip(mine, theirs, strict=True))), default=0.0
        )
    if isinstance(mine, int | float) and isinstance(theirs, int | float):
        return abs(mine - theirs) / max(abs(mine), abs(theirs), 1e-9)
    assert mine == theirs, path
    return 0.0


READ = """async (steps) => {
  const $ = (id) => document.getElementById(id);
  const set = (id, value) => {
    $(id).value = String(value);
    $(id).dispatchEvent(new Event("input", {bubbles: true}));
  };
  const drawn = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  const found = [];
  for (const step of steps) {
    const radio = document.querySelector(`input[name=planner-kind][value=${step.kind}]`);
    if (!radio.checked) radio.click();
    if (step.kind === "hours") {
      set("planner-device", "a100");
      set("planner-devices", step.devices);
      set("planner-mfu", step.mfu);
    }
    set("planner-budget", step.amount);
    await drawn();
    const value = (id) => Number($(id).value), loss = $("planner-loss");
    found.push([value("planner-N"), value("planner-D"), value("planner-M"), value("planner-loss"),
                Number(loss.dataset.low), Number(loss.dataset.high)]);
  }
  return found;
}"""


@pytest.mark.chromium
def test_the_page_says_what_advise_says(folder: Path, browser: chromium.Browser) -> None:
    """At least 100 random budgets over four laws: every figure of the answer, and what the page shows, to 1e-6."""
    page, worst, compared = opened(browser, folder), 0.0, 0
    for number, law in enumerate(PLANTED):
        asked = budgets(load_fit(folder / f"{law}.json").outlook(), law)
        told = []
        for one in asked:
            options = [f"--{name}={value!r}" for name, value in one.items()]
            options += ["--device=a100"] if "hours" in one else []
            told.append(json.loads(isoloss("advise", f"{law}.json", *options, "--json", cwd=folder).stdout))
        requests = [[reply["answer"]["C"], one.get("params")] for one, reply in zip(asked, told, strict=True)]
        answers = page.tab.evaluate(
            """([number, requests]) => {
              const data = JSON.parse(document.getElementById("planner-data").textContent);
              const law = new isoloss.Law(data.entries[number].outlook);
              return requests.map(([C, N]) => law.answer(C, N));
            }""",
            [number, requests],
        )
        worst = max(worst, *(apart(reply["answer"], answer) for reply, answer in zip(told, answers, strict=True)))
        # The same through the controls, as a reader moves them (a size is not typed but dragged).
        page.tab.select_option("#planner-law", str(number))
        typed = [(one, reply) for one, reply in zip(asked, told, strict=True) if "params" not in one]
        kinds = [next(kind for kind in ("flops", "hours", "tokens") if kind in one) for one, _ in typed]
        steps = [{"kind": kind, "amount": one[kind], **one} for kind, (one, _) in zip(kinds, typed, strict=True)]
        for shown, (_, reply) in zip(page.tab.evaluate(READ, steps), typed, strict=True):
            answer = reply["answer"]
            expected = [answer[key] for key in ("N", "D", "M", "loss", "low", "high")]
            worst = max(worst, apart(expected, shown))
        compared += len(asked)
    assert compared >= 100
    assert worst < 1e-9, f"the page and the command differ by {worst:.2g}"
    assert page.complaints() == []
    page.close()


@pytest.mark.chromium
def test_every_control_works_by_keyboard(folder: Path, browser: chromium.Browser) -> None:
    page = opened(browser, folder)

    order = []
    page.tab.keyboard.press("Tab")
    for _ in range(6):
        order.append(page.evaluate("document.activeElement.id || document.activeElement.name"))
        page.tab.keyboard.press("Tab")
    assert order[:5] == ["planner-kind", "planner-slide", "planner-budget", "planner-size", "planner-best"]
    before = value(page, "N")
    page.tab.focus("#planner-slide")
    page.tab.keyboard.press("ArrowRight")
    settled(page)
    assert value(page, "N") > before
    assert "FLOPs" in page.tab.get_attribute("#planner-slide", "aria-valuetext")
    best = value(page, "N")
    page.tab.focus("#planner-size")
    for _ in range(20):
        page.tab.keyboard.press("ArrowRight")
    settled(page)
    assert value(page, "N") == pytest.approx(2 * best, rel=1e-6) and page.tab.inner_text("#planner-size-text") == "2×"
    assert page.tab.inner_text("#planner-N-interval") == "", "a chosen size has no interval"
    loss = value(page, "loss")
    page.tab.focus("#planner-best")
    page.tab.keyboard.press("Enter")
    settled(page)
    assert value(page, "N") == pytest.approx(best, rel=1e-9) and value(page, "loss") < loss
    page.tab.focus("input[name=planner-kind]:checked")
    page.tab.keyboard.press("ArrowRight")
    settled(page)
    assert page.tab.inner_text("#planner-budget-label") == "Hours" and page.tab.is_visible("#planner-device")
    assert page.tab.is_hidden("#planner-mfu"), "the speed of this machine is measured: no MFU"
    assert value(page, "N") == pytest.approx(best, rel=1e-2), "the same plan in another unit"
    page.tab.select_option("#planner-device", "")
    page.tab.fill("#planner-peak", "1e15")
    page.tab.fill("#planner-budget", "10")
    settled(page)
    assert page.tab.is_visible("#planner-mfu") and value(page, "C") == pytest.approx(3.6e4 * 1e15 * 0.4)
    page.wait(lambda: page.evaluate("document.getElementById('planner-said').textContent.startsWith('For 10 hours')"))
    page.tab.locator("input[value=tokens]").check()
    page.tab.fill("#planner-budget", "3e9")
    settled(page)
    assert value(page, "D") == pytest.approx(3e9, rel=1e-9)
    assert page.complaints() == []
    page.close()


@pytest.mark.chromium
def test_what_has_no_answer_says_why(folder: Path, browser: chromium.Browser) -> None:
    page = opened(browser, folder)
    for typed, words in (
        ("1e30", "times above the measured"),
        ("1e12", "times below the measured"),
        ("5", "no best size at this compute"),
        ("", "no number above 0"),
    ):
        page.tab.fill("#planner-budget", typed)
        settled(page)
        assert words in page.tab.inner_text("#planner-warning") and page.tab.is_hidden("#planner-answer")
    refused = isoloss("advise", "chinchilla.json", "--flops", "1e30", cwd=folder, code=2).stderr
    page.tab.fill("#planner-budget", "1e30")
    settled(page)
    assert refused.split("advise: ")[1].strip() in page.tab.inner_text("#planner-warning"), "one message in both"
    largest = load_fit(folder / "chinchilla.json").outlook().support["C"][1]
    page.tab.fill("#planner-budget", str(5 * largest))
    page.wait(lambda: page.evaluate("!document.getElementById('planner-answer').hidden"))
    assert "Beyond what was measured" in page.tab.inner_text("#planner-warning")
    page.tab.fill("#planner-budget", str(0.005 * largest))
    page.wait(lambda: page.evaluate("document.getElementById('planner-warning').hidden"))
    assert page.complaints() == []
    page.close()


@pytest.mark.chromium
def test_names_stay_text_and_practice_follows_the_size(folder: Path, browser: chromium.Browser) -> None:
    page = opened(browser, folder)
    assert page.tab.locator("#planner b, #planner i").count() == 0
    assert "<b>cool</b>, chinchilla" in page.tab.inner_text("#planner-law option:checked")
    practice = page.tab.inner_text("#planner-practice")
    rate = 0.3 * float(page.tab.get_attribute("#planner-N", "value")) ** -0.35
    assert f"Learning rate: {rate:.3g}; {3.6 * rate:.3g} at that batch (sqrt rule), by a power of N" in practice
    assert "about 210 [150, ?] samples (critical batch of <i>x</i>" in practice
    page.tab.select_option("#planner-law", "1")
    settled(page)
    assert page.tab.inner_text("#planner-practice") == planner.NONE_KNOWN
    page.close()


@pytest.mark.chromium
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (360, False)])
def test_it_fits_and_is_accessible(folder: Path, browser: chromium.Browser, width: int, dark: bool) -> None:
    page = opened(browser, folder, width=width, dark=dark)
    for kind in ("flops", "hours", "tokens"):
        page.tab.locator(f"input[value={kind}]").check()
        settled(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.violations() == []
    page.tab.locator("#planner-chart").hover()
    assert page.tab.inner_text("#planner-read").startswith("N ")
    assert page.complaints() == []
    page.close()


@pytest.mark.chromium
def test_paper_and_a_page_without_script_hold_an_answer(folder: Path, browser: chromium.Browser) -> None:
    page = opened(browser, folder)
    page.tab.emulate_media(media="print")
    assert (
        page.tab.is_hidden("#planner-form")
        and page.tab.is_visible("#planner-loss")
        and page.tab.is_visible("#planner-chart")
    )
    plain = opened(browser, folder, script=False)
    assert plain.tab.is_hidden("#planner-form") and plain.tab.is_hidden("#planner-chart")
    for name in ("N", "D", "loss"):
        assert value(plain, name) == pytest.approx(value(page, name), rel=1e-9)
        assert plain.tab.inner_text(f"#planner-{name}") == page.tab.inner_text(f"#planner-{name}")
    assert plain.tab.inner_text("#planner-others") == page.tab.inner_text("#planner-others")
    assert plain.tab.inner_text("#planner-practice") == page.tab.inner_text("#planner-practice")
    page.close()
    plain.close()


def test_a_result_without_a_planner_has_no_section() -> None:
    assert planner.view({"planner": None}) is None
    assert planner.view({}) is None
    assert planner.view({"planner": {"entries": []}}) is None


def test_a_law_that_never_answers_shows_the_reason(tmp_path: Path) -> None:
    flat = Points(N=[1e6, 1e6, 1e7, 1e7, 1e8, 1e8], D=[1e8, 1e9] * 3, loss=[3.0, 3.0, 2.5, 2.5, 2.2, 2.2])
    outlook = Outlook.of(fit(flat, "chinchilla", fixed={"beta": 0.0}))
    seen = planner.view({"planner": planner.of_fit(outlook)})
    assert seen is not None and "has no best size at this compute" in seen["refused"]
    text = write({"planner": planner.of_fit(outlook)}, tmp_path / "page.html").read_text()
    assert "No answer: law chinchilla has no best size" in text
    assert math.isfinite(float(f"{planner._start(outlook)}"))


@pytest.mark.chromium
def test_the_page_of_a_study_has_the_section(folder: Path, browser: chromium.Browser, tmp_path: Path) -> None:
    outlook = load_fit(folder / "kaplan.json").outlook()
    path = report.write({**made.study(), "planner": planner.of_fit(outlook)}, tmp_path, figures=False)
    page = browser.open(path)
    page.tab.wait_for_selector("html[data-planner=ready]", state="attached")
    assert value(page, "loss") == pytest.approx(outlook.answer(planner._start(outlook))["loss"], rel=1e-9)
    assert page.tab.is_visible("nav a[href='#planner']")
    assert page.complaints() == []
    page.close()
