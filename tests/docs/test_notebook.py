"""The notebooks are kept without outputs, run from top to bottom, and say what the API says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nbformat
import numpy as np
import polars
import pytest
from nbclient import NotebookClient

import isoloss
from isoloss import laws
from isoloss.data import open_source

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "docs" / "notebooks" / "quickstart.ipynb"
NOTEBOOKS = [path for room in ("docs", "examples", "benchmarks") for path in sorted((ROOT / room).rglob("*.ipynb"))]

VALUES = """
print(__import__("json").dumps({
    "losses": frame["loss"].to_list(), "keys": frame["key"].to_list(), "worth": worth.to_dicts(),
    "verdicts": {found.arm: found.trend.verdict for found in comparison.overall},
    "law": law.parameters, "interval": list(draws.interval("E"))[:2], "entropy": entropy, "rmse": held.rmse,
    "forecast": [low[0], middle[0], high[0]], "last": last, "averaged": averaged,
}))
"""
"""Appended to the executed copy: what its names hold."""


def stripped(notebook: nbformat.NotebookNode) -> list[str]:
    """What should not be in a notebook that is kept, by cell."""
    faults = []
    for cell in notebook.cells:
        if cell.get("outputs"):
            faults.append(f"{cell.id}: has outputs")
        if cell.get("execution_count") is not None:
            faults.append(f"{cell.id}: has an execution count")
        if cell.metadata:
            faults.append(f"{cell.id}: has metadata {sorted(cell.metadata)}")
    if extra := set(notebook.metadata) - {"kernelspec", "language_info"}:
        faults.append(f"metadata {sorted(extra)}")
    return faults


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_kept_notebook_is_valid_and_has_no_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not stripped(notebook), "clear all outputs, then save"
    assert len(notebook.cells) <= 30


def test_outputs_are_seen() -> None:
    notebook = nbformat.read(QUICKSTART, as_version=4)
    cell = notebook.cells[1]
    cell.outputs, cell.execution_count = [nbformat.v4.new_output("stream", text="done")], 3
    cell.metadata["execution"] = {"iopub.status.busy": "2026-01-15T12:30:00Z"}
    assert len(stripped(notebook)) == 3


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """Cells of the executed notebook by id, the values of its names, and its folder."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(QUICKSTART, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(VALUES, id="values"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("ISOLOSS_CACHE", str(folder / "cache"))
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    cells = {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}
    return cells, json.loads(text(cells["values"])), folder


def text(cell: Any) -> str:
    """What a cell printed."""
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


@pytest.fixture(scope="module")
def study() -> dict[str, Any]:
    scope: dict[str, Any] = {}
    exec(next(cell.source for cell in nbformat.read(QUICKSTART, as_version=4).cells if cell.id == "study"), scope)
    return dict(scope["study"])


@pytest.mark.slow
@pytest.mark.multiprocess
def test_the_tour_says_what_the_api_says(executed: Any, study: dict[str, Any]) -> None:
    cells, values, folder = executed
    for cell in cells.values():
        assert not [o for o in cell.outputs if o.output_type == "error" or o.get("name") == "stderr"], cell.id
    results = isoloss.results(study, folder / "tour.store")
    frame = results.frame()
    assert frame["status"].unique().to_list() == ["done"]
    assert (frame["key"].to_list(), frame["loss"].to_list()) == (values["keys"], values["losses"])
    assert len(frame) == 4 * 3 * (3 * 3 + 1)

    planned = isoloss.plan(study)
    assert text(cells["run"]) == f"{planned.shared.updates:,} updates trained, then 0\n"
    assert f"{planned.unshared.updates:,}" in text(cells["plan"])

    comparison = isoloss.worth(results)
    found = [(w.arm, w.ratios["data"]) for w in (*comparison.overall, *comparison.by_size)]
    assert [(row["arm"], row["worth"], row["low"], row["high"]) for row in values["worth"]] == [
        (arm, ratio.ratio, ratio.low, ratio.high) for arm, ratio in found
    ]
    for arm, verdict in values["verdicts"].items():
        assert f"{arm}: {verdict} with size" in text(cells["trend"])


@pytest.mark.slow
@pytest.mark.multiprocess
def test_the_law_is_that_of_the_losses_and_its_floor_is_the_entropy(executed: Any, study: dict[str, Any]) -> None:
    cells, values, folder = executed
    frame = isoloss.results(study, folder / "tour.store").frame().filter(polars.col("arm") == "cosine")
    columns = {name: frame[name].to_numpy() for name in ("N", "D", "loss")}
    fitted = laws.fit(laws.Points(**columns, cluster=frame["root"].to_list()), "chinchilla")
    assert values["law"] == pytest.approx(fitted.parameters, rel=1e-6)
    assert f"{fitted.parameters['beta']:.3f}" in text(cells["law"])

    # -sum pi(s) P(x | s) log P(x | s), pi from the eigenvector of the largest eigenvalue.
    P = open_source(study["data"]).chain.probabilities
    left = np.linalg.eig(P.T)
    pi = np.real(left.eigenvectors[:, np.argmax(left.eigenvalues.real)])
    entropy = float(-((pi / pi.sum())[:, None] * P * np.log(P)).sum())
    assert values["entropy"] == pytest.approx(entropy, abs=1e-9)
    assert values["law"]["E"] == pytest.approx(entropy, abs=0.05)
    assert min(frame["loss"]) > entropy
    low, high = values["interval"]
    assert low < values["law"]["E"] < high

    cut = frame["D"].unique().sort()[-2]
    inside = {name: column[frame["D"].to_numpy() <= cut] for name, column in columns.items()}
    short = laws.fit(laws.Points(**inside), "chinchilla")
    long = frame.filter(polars.col("D") > cut)
    error = np.log(short.predict(N=long["N"].to_numpy(), D=long["D"].to_numpy()) / long["loss"].to_numpy())
    assert values["rmse"] == pytest.approx(float(np.sqrt(np.mean(error**2))), rel=1e-6)
    bottom, middle, top = values["forecast"]
    assert bottom < middle < top and middle == pytest.approx(
        fitted.predict(N=2.0 * max(columns["N"]), D=2.0 * max(columns["D"])), rel=1e-6
    )


@pytest.mark.slow
@pytest.mark.multiprocess
def test_the_figure_the_page_and_the_average_are_there(executed: Any) -> None:
    cells, values, folder = executed
    (figure,) = [o.data["image/svg+xml"] for o in cells["figure"].outputs if "image/svg+xml" in o.get("data", {})]
    assert ElementTree.fromstring(figure).tag.endswith("svg")
    (link,) = [o.data["text/html"] for o in cells["page"].outputs if "text/html" in o.get("data", {})]
    assert "href='tour.report/index.html'" in link
    answer = json.loads((folder / "tour.report" / "result.json").read_text())
    assert [run["loss"] for run in answer["runs"]] == values["losses"]
    # The floor of the mean squared error is the variance of the noise, 1; averaging comes near.
    assert 0.9 < values["averaged"] < 1.1 < values["last"]
