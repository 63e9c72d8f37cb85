"""The section on anytime curves, from predictions on trajectories of known truth."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic_study as made
from matplotlib.figure import Figure

from isoloss import report
from isoloss.report import anytime as section
from isoloss.report.tidy import tidy
from isoloss.worth.anytime import Point, anytime, sentence


def record(until: int = 1200) -> dict[str, Any]:
    chance = np.random.default_rng(0)
    points = [
        Point(str(seed), u, 1.3 + 14 / u**0.55 + chance.normal(0, 0.004))
        for seed in range(3)
        for u in range(40, until + 1, 40)
    ]
    for seed in range(3):
        for fork in (240, 480, 960):
            loss = 1.3 + 14 / fork**0.55 - 0.05 * np.log(fork / 100) + chance.normal(0, 0.004)
            points.append(Point(str(seed), round(fork / 0.8), float(loss), fork))
    found = anytime(points)
    held = found.held_out()
    return {
        "arm": "cooldown", "N": 30_000, "level": found.level, "terms_per_update": 1024, "range": list(found.range),
        "branches": [asdict(b) for b in found.branches],
        "curves": [{"seed": s, "points": [asdict(p) for p in found.curve(s)]} for s in found.seeds],
        "held_out": [{"seed": h.seed, "actual": h.actual, "inside": h.inside, **asdict(h.predicted)} for h in held],
        "text": sentence("cooldown", 30_000, found, held),
    }  # fmt: skip


def test_the_page_has_the_section_where_there_is_a_curve(tmp_path: Path) -> None:
    whole = made.study(made.ONE_SEED) | {"anytime": [record()]}
    page = report(whole, tmp_path / "with").read_text()
    assert 'id="anytime"' in page and 'href="#anytime"' in page
    assert "a cooldown begun at any update from 240 to 960" in page
    assert page.count("<td>between others<") == 3 and page.count("<td>beyond the others<") == 6
    assert (tmp_path / "with" / "figures" / "anytime.svg").exists()
    page = report(made.study(made.ONE_SEED), tmp_path / "without").read_text()
    assert 'id="anytime"' not in page and 'href="#anytime"' not in page


def test_the_figure_shows_branches_band_and_what_lies_outside() -> None:
    whole = tidy(made.study() | {"anytime": [record()]})
    axes = Figure().subplots()
    section.panel(axes, whole["anytime"][0], "#0072B2")
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines["real branches"].get_xdata()) == [240, 480, 960]
    inside = lines["cooled down"].get_xdata()
    assert min(inside) >= 240 and max(inside) <= 960
    assert max(lines["outside the branches"].get_xdata()) == pytest.approx(1200)
    assert len(axes.collections) == 1


def test_many_curves_fit_in_one_figure() -> None:
    whole = tidy(made.study() | {"anytime": [record()] * 8})
    (name,) = section.figures(whole, {})
    size, draw = section.figures(whole, {})[name]
    figure = Figure(figsize=size, layout="constrained")
    draw(figure)
    assert sum(axes.get_visible() for axes in figure.axes) == section.MOST_PANELS
    seen = section.view(whole)
    assert seen is not None and seen["left_out"] == 2
