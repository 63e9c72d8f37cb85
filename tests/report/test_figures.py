"""Figures as files, and the layout of the plan's tree."""

from __future__ import annotations

import itertools
import math
import random
from importlib.resources import files
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import synthetic_study as made
from hypothesis import given
from hypothesis import strategies as st

from isoloss.report import figures, formats, tree
from isoloss.report.palette import BASELINE, DARK, LIGHT, styles
from isoloss.report.tidy import binned, tidy

QUICKSTART = ["worth", "scale", "curves", "final-loss"]
QUICKSTART += [f"{kind}-{number}-chinchilla-{arm}"
               for number, arm in enumerate(("cosine", "cooldown", "averaged"), 1)
               for kind in ("law", "surface", "residuals")]  # fmt: skip
QUICKSTART += ["plan"]


def test_every_figure_is_written_as_svg_and_png(tmp_path: Path) -> None:
    drawn = figures.draw_all(tidy(made.study()), pixels=True)
    assert list(drawn) == QUICKSTART
    written = figures.save_all(drawn, tmp_path)
    assert sorted(path.name for path in written) == sorted(
        f"{name}.{kind}" for name in QUICKSTART for kind in ("svg", "png")
    )
    for path in written:
        content = path.read_bytes()
        if path.suffix == ".png":
            assert content.startswith(b"\x89PNG\r\n\x1a\n")
            assert int.from_bytes(content[16:20], "big") == 1800  # 9 inches at 200 dots
        else:
            assert ElementTree.fromstring(content).tag == "{http://www.w3.org/2000/svg}svg"


def test_figures_repeat_to_the_byte() -> None:
    result = tidy(made.study(made.ONE_SEED))
    assert figures.draw_all(result, pixels=True) == figures.draw_all(result, pixels=True)


def test_a_figure_that_is_gone_does_not_stay_on_disk(tmp_path: Path) -> None:
    figures.save_all(figures.draw_all(tidy(made.study(made.ONE_SEED)), pixels=True), tmp_path)
    assert (tmp_path / "curves.png").exists()
    (tmp_path / "notes.txt").write_text("mine")
    figures.save_all(figures.draw_all(tidy(made.empty()), pixels=True), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "plan.png", "plan.svg"]


def test_names_never_become_paths_or_markup(tmp_path: Path) -> None:
    result = made.hostile()
    for law in result["laws"]:
        law["arm"] = "../../etc/<b>" if law["arm"] == "_base" else law["arm"]
    drawn = figures.draw_all(tidy(result))
    assert {path.parent for path in figures.save_all(drawn, tmp_path)} == {tmp_path}
    for figure in drawn.values():
        tags = {element.tag.split("}")[-1] for element in ElementTree.fromstring(figure.svg).iter()}
        assert not tags & {"script", "img", "image", "foreignObject"}


def _linear(color: str) -> np.ndarray:
    channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def _contrast(one: str, other: str) -> float:
    """WCAG 2.2, section 1.4.3."""
    dark, light = sorted(float(np.array([0.2126, 0.7152, 0.0722]) @ _linear(c)) + 0.05 for c in (one, other))
    return light / dark


# Machado, Oliveira and Fernandes 2009, severity 1: protanopia, deuteranopia, tritanopia; first: normal vision.
DEFICIENCIES = [
    np.eye(3),
    np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
]


def _oklab(rgb: np.ndarray) -> np.ndarray:
    """Ottosson 2020."""
    lms = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                    [0.0883024619, 0.2817188376, 0.6299787005]]) @ np.clip(rgb, 0, 1)  # fmt: skip
    return np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                     [0.0259040371, 0.7827717662, -0.8086757660]]) @ np.cbrt(lms)  # fmt: skip


@pytest.mark.parametrize(("colors", "papers"), [(LIGHT, ("#fcfcfa", "#ffffff")), (DARK, ("#121518", "#1b1f24"))])
def test_colours_stand_out_and_apart_for_everyone(colors: tuple[str, ...], papers: tuple[str, ...]) -> None:
    sheet = (files("isoloss.report") / "assets" / "page.css").read_text()
    assert papers[0] in sheet, "the page's own paper"
    assert min(_contrast(color, paper) for color in colors for paper in papers) >= 3
    for seen in DEFICIENCIES:
        places = [_oklab(seen @ _linear(color)) for color in colors]
        apart = min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(places, 2))
        assert apart >= 0.055, "Okabe and Ito's own colours with a grey come as near as 0.033"


def test_each_arm_keeps_its_own_look() -> None:
    look = styles(["base", *"abcdef"], "base")
    assert look["base"].color == BASELINE
    assert len({style.color for style in look.values()}) == 7
    many = styles(["base", *(f"arm{i}" for i in range(24))], "base")
    assert len({(style.color, style.marker) for style in many.values()}) == 25


@given(st.lists(st.floats(0.1, 9), min_size=1, max_size=400))
def test_long_curves_become_means_of_neighbours(losses: list[float]) -> None:
    updates = np.arange(1, len(losses) + 1)
    short = binned({"update": updates.tolist(), "loss": losses})
    edges = 10 ** (np.arange(1, 60) / 15)
    which = np.searchsorted(edges, updates * (1 + 1e-12), side="right")
    for index, inside in enumerate(which == number for number in np.unique(which)):
        assert short["loss"][index] == pytest.approx(np.array(losses)[inside].mean())
        assert short["update"][index] == pytest.approx(updates[inside].mean())
    assert len(short["loss"]) == len(np.unique(which))


# -- the tree ------------------------------------------------------------------------------------------------


@st.composite
def plans(draw: st.DrawFn) -> list[dict]:
    """Random forests of stretches: every child starts where its parent ends."""
    edges: list[dict] = []

    def grow(parent: str | None, start: int, depth: int) -> None:
        length = draw(st.integers(1, 50))
        name = f"e{len(edges)}"
        kind = draw(st.sampled_from(["trunk", "branch", "warmup"]))
        arms = draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True))
        edges.append(
            {"id": name, "parent": parent, "start": start, "end": start + length, "arms": arms, "cells": 1,
             "label": "", "kind": kind, "reused": draw(st.booleans()),
             "tuning": draw(st.booleans()), "lr": 1e-3, "cell": {}}
        )  # fmt: skip
        for _ in range(draw(st.integers(0, 3)) if depth < 3 else 0):
            grow(name, start + length, depth + 1)

    for _ in range(draw(st.integers(1, 3))):
        grow(None, 0, 0)
    return edges


@given(plans())
def test_no_two_lines_of_a_tree_meet(edges: list[dict]) -> None:
    for shape in tree.shapes(edges):
        stretches = list(shape.root.walk())
        for one in stretches:
            for other in stretches:
                if one is not other and one.lane == other.lane:
                    apart = one.edge["end"] <= other.edge["start"] or other.edge["end"] <= one.edge["start"]
                    assert apart, "two stretches lie on each other"
        for parent in stretches:
            for child in parent.children:
                fork = parent.edge["end"]
                for other in stretches:
                    crosses = other.edge["start"] < fork < other.edge["end"]
                    between = parent.lane < other.lane < child.lane
                    assert not (crosses and between), "a branch crosses a line on its way down"


@given(plans(), st.randoms())
def test_drawing_keeps_every_update_and_forgets_the_order(edges: list[dict], order: random.Random) -> None:
    found = tree.shapes(edges)
    drawn = sum(len(stretch.edges) for shape in found for stretch in shape.root.walk())
    assert drawn == len(edges)
    assert sum(shape.updates * shape.members for shape in found) == sum(e["end"] - e["start"] for e in edges)
    look = styles("abc", "a")
    shuffled = list(edges)
    order.shuffle(shuffled)
    assert tree.draw(shuffled, look) == tree.draw(edges, look)


def test_equal_trees_are_drawn_once_with_the_cells_they_stand_for() -> None:
    found = tree.shapes(tidy(made.study())["tree"])
    # Width 32 has another peak LR for the cooldown: two trees there, one shape for the nine other roots.
    assert [(shape.members, shape.cells) for shape in found] == [
        (9, "model.width 48, 64, 96 · seed 0, 1, 2 · peak LR 0.004"),
        (3, "model.width 32 · seed 0, 1, 2 · peak LR 0.004"),
        (3, "model.width 32 · seed 0, 1, 2 · peak LR 0.008"),
    ]


def test_trees_that_miss_some_combinations_say_so() -> None:
    edges = [edge for edge in made.study()["tree"] if edge["cell"] != {"model.width": 64, "seed": 2}]
    cells = [shape.cells for shape in tree.shapes(tidy({"schema": 1, "tree": edges})["tree"])]
    assert cells[0] == "model.width 48, 64, 96 · seed 0, 1, 2 · 8 of these · peak LR 0.004"


def test_what_serves_several_runs_is_counted_and_tuning_is_hatched() -> None:
    edges = tidy(made.study())["tree"]
    look = styles(["cosine", "cooldown", "averaged"], "cosine")
    stretches = [stretch for shape in tree.shapes(edges) for stretch in shape.root.walk()]
    drawn = str(tree.draw(edges, look))
    assert drawn.count(" shared") == sum(s.edge["cells"] > 1 for s in stretches) > 0
    wide = [s.edge["cells"] for s in stretches if s.edge["cells"] > 1 and s.edge["end"] - s.edge["start"] > 60]
    assert drawn.count('class="serves"') == len(wide) and all(f">×{cells}<" in drawn for cells in wide)
    assert "tuning" not in drawn
    for edge in edges:
        edge["tuning"] = edge["kind"] == "branch"
    assert str(tree.draw(edges, look)).count('class="stretch branch tuning"') == sum(
        s.edge["kind"] == "branch" for s in stretches
    )


@given(plans(), st.lists(st.floats(1.0, 1e3), min_size=60, max_size=60))
def test_area_in_the_tree_is_cost(edges: list[dict], prices: list[float]) -> None:
    for edge, price in zip(edges, itertools.cycle(prices), strict=False):
        edge["flops"] = price * (edge["end"] - edge["start"])
    shapes = tree.shapes(edges)
    thick = tree.thickness(shapes, 1000.0)
    stretches = [stretch for shape in shapes for stretch in shape.root.walk()]
    rates = [sum(edge["flops"] for edge in s.edges) / (s.edge["end"] - s.edge["start"]) for s in stretches]
    for rate, stretch in zip(rates, stretches, strict=True):
        assert thick[id(stretch)] == pytest.approx(max(tree.THINNEST, 1000.0 * rate / max(rates)))
    assert sum(shape.cost for shape in shapes) == pytest.approx(sum(edge["flops"] for edge in edges))
    assert [shape.cost for shape in shapes] == sorted((shape.cost for shape in shapes), reverse=True)
    for shape in shapes:
        middles, height = tree.lanes(shape, thick)
        spans = [(middles[s.lane] - thick[id(s)] / 2, middles[s.lane] + thick[id(s)] / 2, s) for s in shape.root.walk()]
        assert all(low >= -1e-9 and high <= height for low, high, _ in spans)
        assert all(one[1] <= other[0] for one in spans for other in spans if one[2].lane < other[2].lane)


def test_costs_say_what_training_was_for() -> None:
    edges = tidy(made.study())["tree"]
    edges[-1]["tuning"] = True
    rows = tree.costs(edges)
    assert [row["kind"] for row in rows] == ["several runs at once", "one run", "tuning alone"]
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    several = sum(e["flops"] for e in edges if e["cells"] > 1 and not e["tuning"])
    assert rows[0]["share"] == pytest.approx(several / sum(e["flops"] for e in edges))
    assert rows[0]["flops"] == formats.flops(several)
    for edge in edges:
        edge["flops"] = None
    assert tree.costs(edges)[0]["flops"] == formats.ABSENT, "without FLOPs the shares are of updates"
    assert tree.costs([]) == []


@pytest.mark.parametrize("longest", [0, 1, 7, 200, 999, 1600, 123_456])
def test_ticks_are_few_round_and_inside(longest: int) -> None:
    marks = tree.ticks(longest)
    assert marks[0] == 0 and marks[-1] <= longest and len(marks) <= 7
    if longest:
        step = marks[1] if len(marks) > 1 else longest
        assert step / 10 ** math.floor(math.log10(step)) in (1, 2, 5) or len(marks) == 1


# -- numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made_of", "text"),
    [
        (formats.short(999_600), "1M"), (formats.short(12_345), "12.3k"), (formats.short(0), "0"),
        (formats.short(999), "999"), (formats.short(1), "1"), (formats.short(None), "–"),
        (formats.flops(6.38e19), "6.38×10¹⁹"), (formats.flops(9.999e9), "1.00×10¹⁰"), (formats.flops(0), "0"),
        (formats.ratio(1.2136), "1.21×"), (formats.ratio(14.26), "14.3×"), (formats.ratio(0.0123), "0.0123×"),
        (formats.interval(1.149, 1.281), "[1.15, 1.28]"), (formats.interval(None, 2.0), ""),
        (formats.interval(1.0021, 1.3), "[1.002, 1.300]"), (formats.interval(0.9996, 1.3), "[1.000, 1.300]"),
        (formats.signed(-0.001), "0.00"), (formats.signed(-0.126), "−0.13"),
        (formats.listing(["a", "b", "c"]), "a, b and c"), (formats.listing(["a"]), "a"),
        (formats.listing([]), ""),
        (formats.plural(1, "run"), "1 run"), (formats.plural(1200, "run"), "1,200 runs"),
    ],
)  # fmt: skip
def test_numbers_read_well(made_of: str, text: str) -> None:
    assert made_of == text
