"""The page of one law: complete, true to the fit, and usable without a network."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import Browser
from tests.laws.planted_laws import PLANTED

from isoloss.laws import FORMS, Fit, Points, fit, get_form, holdout
from isoloss.laws.checklist import checklist
from isoloss.report.law_page import render, write_law_page


@pytest.fixture(scope="module")
def points() -> Points:
    N, D = (g.ravel() for g in np.meshgrid(np.geomspace(1e7, 3e9, 7), np.geomspace(1e9, 1e11, 6), indexing="ij"))
    truth = {"A": 400.0, "B": 2000.0, "E": 1.8, "alpha": 0.34, "beta": 0.37}
    noise = np.exp(0.003 * np.random.default_rng(0).normal(size=len(N)))
    return Points(N=N, D=D, C=6 * N * D, loss=get_form("chinchilla").predict(truth, {"N": N, "D": D}) * noise)


@pytest.fixture(scope="module")
def law(points: Points) -> Fit:
    return fit(points, "chinchilla")


def plots_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script id="plots" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert found
    return dict(json.loads(found[1]))


def test_page_carries_every_section_and_its_own_library(law: Fit, points: Points, tmp_path: Path) -> None:
    held = holdout(points, "chinchilla", by="C", n=50)
    path = write_law_page(law, tmp_path / "folder", draws=law.bootstrap(50), holdout=held)
    assert path.name == "index.html"
    page = path.read_text(encoding="utf-8")
    for title in (
        "Parameters",
        "Fit",
        "Residuals",
        "Profiles",
        "Forecast fan",
        "IsoFLOP view",
        "Hold-out",
        "Choices",
        "Pitfalls checklist",
    ):
        assert f"<h2>{title}</h2>" in page
    outside = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", outside)
    assert len(page) > 1_000_000 and "Plotly" in page
    assert page.count("data-plot=") == len(plots_of(page))


def test_figures_hold_the_rows_of_the_fit(law: Fit, points: Points) -> None:
    plots = plots_of(render(law))
    titles = {plot["layout"]["xaxis"]["title"]["text"]: plot for plot in plots.values()}
    residuals = titles["D"]["data"][0]
    assert residuals["x"] == pytest.approx(points.D.tolist())
    assert residuals["y"] == pytest.approx(law.residuals.tolist())
    parity = titles["predicted"]["data"][0]
    np.testing.assert_allclose(parity["y"], points.loss, rtol=1e-12)
    np.testing.assert_allclose(parity["x"], law.predict(points), rtol=1e-9)
    assert {"alpha", "beta", "E"} <= set(titles)


def test_checklist_is_filled_from_the_data(law: Fit, points: Points) -> None:
    plain = {item.question: item for item in checklist(law)}
    assert plain["How was compute counted?"].state == "unknown"
    measured = points.with_columns(C=points.C * np.geomspace(0.9, 1.1, len(points)))
    counted = {item.question: item for item in checklist(fit(measured, "chinchilla"))}["How was compute counted?"]
    assert counted.answer.endswith("from 5.4 to 6.6 (6ND gives 6)")
    assert plain["Was the largest scale predicted before it was seen?"].state == "look"
    outlier = points.with_columns(loss=np.where(np.arange(42) == 20, points.loss * 1.2, points.loss))
    assert "rows 20" in {i.question: i for i in checklist(fit(outlier, "chinchilla"))}["Do a few rows decide?"].answer
    copied = fit(points.join(points.where(np.arange(3))), "chinchilla")
    assert {i.question: i for i in checklist(copied)}["Are there copied rows?"].state == "look"
    repeated = fit(points.with_columns(unique=points.D / 4), "chinchilla")
    assert {i.question: i for i in checklist(repeated)}["Is data repeated?"].state == "look"


@pytest.mark.parametrize("name", ["m2", "m3", "ppl"])
def test_one_variable_laws_have_a_page_too(name: str) -> None:
    x = np.geomspace(1e3, 1e6, 30)
    loss = (2 + 50 * x**-0.5) * np.exp(0.002 * np.random.default_rng(0).normal(size=30))
    page = render(fit(Points(D=x, loss=loss), name, x="D"))
    assert "<h2>Forecast fan</h2>" in page and "IsoFLOP" not in page


def test_checklist_does_not_claim_what_the_table_cannot_show(law: Fit) -> None:
    x = np.geomspace(1e3, 1e6, 30)
    curve = {item.question: item for item in checklist(fit(Points(images=x, loss=2 + 50 * x**-0.5), "m2", x="images"))}
    assert curve["Is N, D, C in the right units?"].state == "unknown"
    assert curve["Do N and D vary apart?"].state == "unknown"
    stopped = {item.question: item for item in checklist(replace(law, converged=False))}
    assert stopped["Is every parameter identified?"].state == "unknown"


def test_page_tells_how_many_draws_were_replaced_and_failed(law: Fit, points: Points) -> None:
    few = fit(points.where(points.N < 3e8), "chinchilla")
    draws = few.bootstrap(200)
    assert draws.clusters == 4 and draws.redrawn > 0
    page = render(few, draws)
    assert f"0 failed, {draws.redrawn} drawn again" in page
    assert "were drawn again" in page and "only 4 independent clusters by N" in page
    identified = {item.question: item for item in checklist(few, draws=draws)}["Is every parameter identified?"]
    assert identified.state == "look" and "independent clusters" in identified.answer
    unsolved = replace(law.bootstrap(50), failed=10)
    assert "10 of 60 bootstrap draws had no solution" in render(law, unsolved)
    assert "No intervals: the rows form" in render(law, refused="no interval: the rows form 2 clusters")


def test_fan_says_what_its_band_is(law: Fit, points: Points) -> None:
    draws = law.bootstrap(50)
    by_compute, by_size = (holdout(points, "chinchilla", by=by, n=50) for by in ("C", "N"))
    assert "There is no band" in render(law, holdout=by_compute)
    assert "bootstrap spread only" in render(law, draws)
    assert "says nothing about D" in render(law, draws, by_size)
    calibrated = render(law, draws, by_compute)
    assert "errors of earlier forecasts along C" in calibrated

    def width(page: str) -> float:
        fan = next(p for p in plots_of(page).values() if p["layout"]["yaxis"]["title"]["text"] == "response")
        high, low = (np.array(trace["y"]) for trace in fan["data"][:2])
        return float(np.log(high / low)[-1])

    assert width(calibrated) > width(render(law, draws, by_size)) == pytest.approx(width(render(law, draws)))


PAGES = (
    "transfer",
    "transfer-fraction",
    "critical-batch",
    "steps-examples",
    "sigmoid",
    "log-sigmoid",
    "exp-decay",
    "log-growth",
    "power-growth",
    "envelope",
    "kaplan-n",
    "overtraining",
    "chinchilla-tied",
)


def test_every_response_other_than_loss_is_planted() -> None:
    assert {name for name, form in FORMS.items() if form.response != "loss"} <= set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_laws_of_every_response_have_a_page(name: str) -> None:
    form = get_form(name)
    N, D = (g.ravel() for g in np.meshgrid(np.geomspace(5e7, 1e10, 9), np.geomspace(1e9, 3e11, 9), indexing="ij"))
    shares = form.response in ("accuracy", "error")
    columns = {"N": N, "D": D, "C": 6 * N * D, "M": D / N, "D_F": D / 1e4, "loss": np.linspace(2, 5, 81)}
    columns |= {"S": np.tile(np.geomspace(1e3, 1e6, 9), 9), "B": np.geomspace(1e2, 1e6, 81)}
    columns["x"] = np.linspace(0.5, 2.0, 81) if shares else np.geomspace(1e6, 1e10, 81)
    given = {variable: columns[variable] for variable in form.variables}
    exact = form.to_space(form.predict(PLANTED[name], given))
    response = form.from_space(exact + 0.002 * np.random.default_rng(0).normal(size=81))
    options: dict[str, Any] = {"x": "x"} if "x" in form.variables else {}
    if name == "envelope":
        options["fixed"] = {"L_inf": 1.7}
    page = render(fit(Points(**{**given, form.response: response}), form, **options))
    largest = "losses" if form.response == "loss" else f"values of {form.response}"
    assert f"largest {largest}" in page


def test_a_response_of_another_name_has_a_page(points: Points) -> None:
    renamed = points.with_columns(nll=points.loss, loss=None)
    page = render(fit(renamed, "chinchilla", y="nll"))
    assert "largest values of nll" in page


def test_text_from_the_table_is_escaped(points: Points) -> None:
    sneaky = points.with_columns(cluster=["<script>alert(1)</script>"] * 21 + ["</script>"] * 21)
    page = render(fit(sneaky, "chinchilla", cluster="cluster"))
    assert "<script>alert(1)" not in page


@pytest.mark.chromium
def test_page_draws_in_a_browser_without_network(law: Fit, browser: Browser, tmp_path: Path) -> None:
    page = browser.open(write_law_page(law, tmp_path / "law.html", draws=law.bootstrap(50)))
    plots = "document.querySelectorAll('[class=\"main-svg\"]').length"
    page.wait(lambda: page.evaluate(plots) >= len(plots_of(render(law))))
    page.close()
