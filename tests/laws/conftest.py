"""Real tables that several tests of the law library share."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from curve_data import Curve, read_curves

from isoloss.laws import Fit, Points, fit


@pytest.fixture(scope="session")
def epoch_all(laws_data: Path) -> Points:
    """All 245 points of Besiroglu et al. 2024."""
    return Points.read(laws_data / "epoch-chinchilla" / "svg_extracted_data.csv").with_tokens("6ND")


@pytest.fixture(scope="session")
def epoch(epoch_all: Points) -> Points:
    """The 240 points of the published fit."""
    return epoch_all.drop_largest_loss(5)


@pytest.fixture(scope="session")
def epoch_fit(epoch: Points) -> Fit:
    """The Chinchilla law on the 240 points."""
    return fit(epoch, "chinchilla")


@pytest.fixture(scope="session")
def curves(laws_data: Path) -> list[Curve]:
    """The 92 curves; one value a distinct x among the fit rows, as in the reference code."""
    folder = laws_data / "revisiting-neural-scaling-laws"
    return list(read_curves([folder / "benchmark.vision.csv", folder / "benchmark.lang.csv"]))


@pytest.fixture(scope="session")
def reference_rmse(laws_data: Path) -> dict[tuple[str, str, str, str], float]:
    """Held-out RMSE of log loss of the reference estimators, by curve and estimator."""
    path = laws_data / "revisiting-neural-scaling-laws" / "measured_rmse_reference_estimators.csv"
    with path.open(newline="") as file:
        return {
            (row["dom"], row["task"], row["model"], row["est"]): float(row["rmse"])
            for row in csv.DictReader(file)
            if row["rmse"]
        }
