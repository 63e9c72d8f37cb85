"""The page of one law: complete, true to the fit, and usable without a network."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoloss.laws import Fit, Points, fit, get_form, holdout
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
    assert plain["How was compute counted?"].answer.endswith("from 6 to 6 (6ND gives 6)")
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


def test_text_from_the_table_is_escaped(points: Points) -> None:
    sneaky = points.with_columns(cluster=["<script>alert(1)</script>"] * 21 + ["</script>"] * 21)
    page = render(fit(sneaky, "chinchilla", cluster="cluster"))
    assert "<script>alert(1)" not in page


@pytest.mark.chromium
def test_page_draws_in_a_browser_without_network(law: Fit, tmp_path: Path) -> None:
    import shutil
    import subprocess

    binary = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))),
        None,
    )
    if binary is None:
        pytest.skip("no Chromium found")
    path = write_law_page(law, tmp_path / "law.html", draws=law.bootstrap(50))
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--proxy-server=127.0.0.1:9",
        "--virtual-time-budget=8000",
        "--dump-dom",
    ]
    done = subprocess.run(
        [binary, *flags, f"--user-data-dir={tmp_path}/profile", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    assert done.stdout.count('class="main-svg"') >= len(plots_of(render(law)))
