"""The section on larger batches: planted hyperbolas and distances, on the page, in its figures and in the terminal."""

from __future__ import annotations

import copy
import io
import itertools
import json
import math
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
from matplotlib.patches import Rectangle
from rich.console import Console

from isoloss import report
from isoloss.report import large_batch
from isoloss.report.palette import styles
from isoloss.report.tidy import tidy
from isoloss.worth.batch import answer, growth
from isoloss.worth.batch_study import finished, main_sentences

Json = dict[str, Any]
S_MIN, POWER, START = 50.0, 0.3, 2.0
CRITICAL = {"plain": 100.0, "ghost": 400.0, "lamb": 250.0}
GAIN = {"plain": 1.0, "ghost": 2.0, "lamb": 1.5}
"""Planted: at a loss of START p^-POWER every batch has S = p S_MIN (1 + CRITICAL / B) / GAIN."""


def planted(arms: tuple[str, ...], batches: tuple[int, ...], sizes: tuple[int, ...], noise: float = 0.01) -> list[Json]:
    """Runs of equal samples, so that larger batches end worse; in `lamb` the largest never gets far."""
    chance = np.random.default_rng(3)
    rows = []
    for N, arm, B, seed, doubled in itertools.product(sizes, arms, batches, range(3), range(8)):
        S = S_MIN * 64.0 * 2**doubled / B
        p = GAIN[arm] * S / (S_MIN * (1 + CRITICAL[arm] / B)) * math.exp(chance.normal(0, noise))
        loss = START * p**-POWER * (4 if arm == "lamb" and batches[-1] == B else 1)
        rows.append(
            {"arm": arm, "batch": B, "N": N, "seed": seed, "D": B * S, "S": S, "loss": loss, "duration": f"{doubled}"}
        )
    return rows


def study(
    arms: tuple[str, ...] = ("plain", "ghost", "lamb"),
    batches: tuple[int, ...] = (16, 64, 256, 1024),
    sizes: tuple[int, ...] = (1000,),
    distances: bool = True,
) -> Json:
    """A finished study with the answer to the large-batch question and, if asked for, measured distances."""
    whole = made.study(made.ONE_SEED, "large batches")
    noise = {arm: {str(seed): (CRITICAL[arm] * (1 + 0.05 * seed), 1.0) for seed in range(3)} for arm in arms}
    found = answer(planted(arms, batches, sizes), baseline=arms[0], noise=noise)
    found["text"] = [finished(sentence, set(arms)) for sentence in found["text"]]
    found["summary"] = [finished(sentence, set(arms)) for sentence in main_sentences(found)]
    whole["units"] = {"D": "samples", "loss": "nats per sample"}
    whole["summary"] += found["summary"]
    whole["large_batch"] = found
    whole["distances"] = [far(arm, N, B) for N in sizes for arm in arms for B in batches] if distances else []
    return whole


def far(arm: str, N: int, batch: int) -> Json:
    updates = [1, 2, 4, 8, 16, 32, 64, 128, 256]
    path = [0.5 + 64 / batch * math.log(t) if arm == "plain" else 64 / batch * t**0.4 for t in updates]
    return {
        "arm": arm, "N": N, "batch": batch, "seeds": 3, "update": updates, "distance": path,
        "low": [0.9 * d for d in path], "high": [1.1 * d for d in path],
        "growth": growth(updates, path), "note": None,
        "roughness": {"distance": [1.0, 2.0], "std": [0.1, 0.2], "alpha": {"ratio": 2.0, "low": 1.9, "high": 2.1}},
    }  # fmt: skip


class Values(HTMLParser):
    """Every `<data>` with its class and attributes, images, and the words of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.data: list[dict[str, str | None]] = []
        self.images: list[dict[str, str | None]] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "data":
            self.data.append(dict(attrs))
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.words += data

    def of(self, kind: str) -> dict[tuple[str, ...], float]:
        """Value by arm, size and batch (those that are given)."""
        return {
            tuple(str(d[f"data-{name}"]) for name in ("arm", "size", "batch") if f"data-{name}" in d): float(
                d["value"] or "nan"
            )
            for d in self.data
            if d["class"] == kind
        }


def expected(result: Json) -> dict[str, dict[tuple[str, ...], float]]:
    sizes = result["large_batch"]["sizes"]
    cells = [(s, c) for s in sizes for c in s["cells"]]
    critical = [(s, c) for s in sizes for c in s["critical"]]

    def place(size: Json, cell: Json) -> tuple[str, ...]:
        return cell["arm"], str(size["N"]), str(cell["batch"])

    return {
        "batch-updates": {place(s, c): c["updates"] for s, c in cells},
        "speedup": {place(s, c): c["speedup"]["ratio"] for s, c in cells},
        "critical": {(c["arm"], str(s["N"])): c["B_crit"]["ratio"] for s, c in critical if c["B_crit"]["ratio"]},
        "predicted": {(c["arm"], str(s["N"])): c["predicted"]["ratio"] for s, c in critical},
        "share": {(m["arm"], str(s["N"])): m["share"] for s in sizes for m in s["gap"]["methods"] if m.get("share")},
        "distance": {(r["arm"], str(r["batch"])): r["distance"][-1] for r in result["distances"]},
        "alpha": {(r["arm"], str(r["batch"])): r["roughness"]["alpha"]["ratio"] for r in result["distances"]},
    }


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Json, Path]]:
    folder, known = tmp_path_factory.mktemp("large"), {}
    cases = {"three": study, "sizes": lambda: study(("plain", "ghost"), (16, 64, 256), (1000, 3000), False)}

    def page(case: str) -> tuple[Json, Path]:
        if case not in known:
            result = cases[case]()
            known[case] = result, report.write(result, folder / case)
        return known[case]

    return page


def test_the_page_holds_the_values_of_the_result(pages: Callable[[str], tuple[Json, Path]]) -> None:
    for case in ("three", "sizes"):
        result, path = pages(case)
        values = Values(path.read_text())
        for kind, wanted in expected(result).items():
            assert values.of(kind) == wanted, kind
        assert len(expected(result)["batch-updates"]) >= 11
        for sentence in result["large_batch"]["text"]:
            assert sentence in values.words


def test_what_was_planted_is_what_is_said(pages: Callable[[str], tuple[Json, Path]]) -> None:
    result, path = pages("three")
    found = Values(path.read_text())
    for (arm, _), value in found.of("critical").items():
        assert value == pytest.approx(CRITICAL[arm], rel=0.1)
    for (arm, _, batch), value in found.of("speedup").items():
        truth = GAIN[arm] * (1 + CRITICAL["plain"] / 16) / (1 + CRITICAL[arm] / float(batch))
        assert value == pytest.approx(truth, rel=0.05)
    ends = {(arm, B): ((B + CRITICAL[arm]) / GAIN[arm]) ** POWER for arm, B in itertools.product(CRITICAL, (16, 1024))}
    ends["lamb", 1024] *= 4
    small, large = ends["plain", 16], ends["plain", 1024]
    assert set(found.of("share")) == {("ghost", "1000"), ("lamb", "1000")}
    for (arm, _), value in found.of("share").items():
        assert value == pytest.approx((large - ends[arm, 1024]) / (large - small), rel=0.05)
    assert "not reached: " in found.words
    laws = {(r["arm"], r["growth"]["better"]) for r in result["distances"]}
    assert laws == {("plain", "log-growth"), ("ghost", "power-growth"), ("lamb", "power-growth")}
    assert found.words.count("a ln t + b") >= 1 + 4 and found.words.count("a tᵖ") >= 1 + 8


def test_figures_are_files_with_words_for_those_who_do_not_see_them(pages: Callable[[str], tuple[Json, Path]]) -> None:
    _, path = pages("three")
    for name in ("large-batch", "distances"):
        for kind in ("svg", "png"):
            assert (path.parent / "figures" / f"{name}.{kind}").stat().st_size > 5000
    alts = [image["alt"] or "" for image in Values(path.read_text()).images]
    assert any(alt.startswith("Updates to loss") and "plain, ghost and lamb" in alt for alt in alts)
    assert any(alt.startswith("Distance of the weights") for alt in alts)
    html = path.read_text()
    section = html[html.index('<section id="large-batch"') : html.index('<section id="loss"')]
    assert section.count("<figcaption>") == section.count("<figure>") == 2
    assert section.count("<caption>") == section.count("<table") == 5
    assert 'href="#large-batch">Larger batches' in html


def test_the_figure_draws_the_planted_lines() -> None:
    result = tidy(study())
    size = result["large_batch"]["sizes"][0]
    axes = Figure().subplots()
    large_batch.scaling_panel(axes, size, "ghost", styles(["ghost"], None)["ghost"])
    lines = {line.get_label(): np.array(line.get_data()) for line in axes.lines}
    start = next(c for c in size["cells"] if (c["arm"], c["batch"]) == ("plain", 16))
    for x, y in lines["perfect"].T:
        assert y == pytest.approx(start["updates"] * 16 / x)
    x, y = lines["hyperbola"]
    scale = (size["target"] / START) ** (-1 / POWER)
    assert y == pytest.approx(S_MIN * (1 + CRITICAL["ghost"] / x) / GAIN["ghost"] * scale, rel=0.05)
    assert {tuple(p) for p in lines["measured"].T} == {
        (c["batch"], c["updates"]) for c in size["cells"] if c["arm"] == "ghost"
    }
    (critical,) = [c for c in size["critical"] if c["arm"] == "ghost"]
    for label, value in (("critical", critical["B_crit"]), ("predicted", critical["predicted"])):
        (band,) = [patch for patch in axes.patches if patch.get_label() == label]
        assert isinstance(band, Rectangle)
        assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((value["low"], value["high"]))
    assert axes.get_xscale() == axes.get_yscale() == "log"


@pytest.mark.parametrize("names", [("large_batch",), ("large_batch", "distances")])
def test_results_without_the_question_have_no_section_or_one_of_distances(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    result = study()
    for name in names:
        result.pop(name)
    html = report.write(result, tmp_path).read_text()
    assert ('<section id="large-batch"' in html) == (len(names) == 1)
    assert ('<h2 id="large-batch-title">How far the weights went' in html) == (len(names) == 1)
    assert "Larger batches" not in html
    assert not (tmp_path / "figures" / "large-batch.svg").exists()


def test_names_of_arms_stay_text(tmp_path: Path) -> None:
    result = json.loads(json.dumps(study()).replace('"ghost"', json.dumps(made.HOSTILE)))
    path = report.write(result, tmp_path, figures=False)
    values = Values(path.read_text())
    assert values.of("speedup")[made.HOSTILE, "1000", "64.0"] > 0
    assert path.read_text().count("<script") == 2
    shown(result)


def test_open_intervals_and_what_no_run_bounds() -> None:
    assert large_batch.bounded(None) == "–"
    assert large_batch.bounded({"ratio": 80.0, "low": 60.0, "high": None}) == "80 [60, ?]"
    assert large_batch.bounded({"ratio": 80.0, "low": None, "high": None}) == "80"
    assert large_batch.bounded({"ratio": None, "low": 900.0, "high": None}) == "above 900"
    assert large_batch.bounded({"ratio": None, "low": None, "high": 3.0}) == "below 3"
    result = study(distances=False)
    open_ended = copy.deepcopy(result)
    critical = open_ended["large_batch"]["sizes"][0]["critical"][0]
    critical.update(S_min=None, B_crit={"ratio": None, "low": 900.0, "high": None}, predicted=None)
    drawn = large_batch.figures(tidy(open_ended), {})
    figure = Figure()
    drawn["large-batch"][1](figure)
    lines = {line.get_label(): np.array(line.get_data()) for line in figure.axes[0].lines}
    x, y = lines["hyperbola"]
    assert np.diff(np.log(y)) / np.diff(np.log(x)) == pytest.approx(-1)


def shown(result: Json) -> list[str]:
    target = io.StringIO()
    Console(file=target, width=80, color_system=None).print(report.terminal(result, "out/index.html"))
    return target.getvalue().splitlines()


def test_the_terminal_answers_in_a_dozen_lines() -> None:
    result = study()
    lines = shown(result)
    assert max(map(len, lines)) <= 80
    begin = next(i for i, line in enumerate(lines) if line.startswith("updates to loss"))
    end = next(i for i, line in enumerate(lines) if line.startswith("- and "))
    assert sum(bool(line.strip()) for line in lines[begin : end + 1]) <= 14
    cells = {(c["arm"], c["batch"]): c for c in result["large_batch"]["sizes"][0]["cells"]}
    for batch in (16, 64, 256, 1024):
        row = next(line for line in lines[begin:end] if re.match(rf" {batch} ", line))
        numbers = row.split()[1:]
        for arm in ("plain", "ghost"):
            cell = cells[arm, batch]
            updates, speedup = numbers.pop(0), numbers.pop(0)
            assert float(updates.replace(",", "")) == pytest.approx(cell["updates"], rel=0.006)
            assert float(speedup.rstrip("×")) == pytest.approx(cell["speedup"]["ratio"], rel=0.006)
    assert any("1024" in line and "not reached" in line for line in lines[begin:end])
    text = re.sub(r"\s+", " ", " ".join(lines))
    assert len(result["large_batch"]["summary"]) == 3
    for sentence in result["large_batch"]["summary"]:
        assert text.count(sentence) == 1


def test_many_arms_fit_the_terminal() -> None:
    result = study()
    size = result["large_batch"]["sizes"][0]
    for i in range(6):
        size["cells"] += [
            {**c, "arm": f"arm number {i} with a long name"} for c in size["cells"] if c["arm"] == "ghost"
        ]
    lines = shown(result)
    assert max(map(len, lines)) <= 80
    assert any("5 arms more on the page" in re.sub(r"\s+", " ", a + b) for a, b in itertools.pairwise(lines))


@pytest.mark.chromium
@pytest.mark.parametrize("case", ["three", "sizes"])
def test_the_section_is_shown_clean_at_every_width(
    case: str, pages: Callable[[str], tuple[Json, Path]], clean_pages: Callable[[Path], Iterator[Page]]
) -> None:
    result, path = pages(case)
    for page in clean_pages(path):
        images = "[...document.querySelectorAll('#large-batch img')]"
        assert page.evaluate(f"{images}.length") == (2 if result["distances"] else 1)
        assert page.evaluate(f"{images}.every(i => i.complete && i.naturalWidth > 0 && i.checkVisibility())")
        text = page.evaluate("document.querySelector('#large-batch').innerText")
        assert all(sentence in text for sentence in result["large_batch"]["text"])
        found = page.evaluate(
            "[...document.querySelectorAll('#large-batch data.speedup')].filter(e => e.checkVisibility())"
            ".map(e => [e.dataset.arm, e.dataset.size, e.dataset.batch, Number(e.value)])"
        )
        assert {(arm, size, batch): value for arm, size, batch, value in found} == expected(result)["speedup"]
