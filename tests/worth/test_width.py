"""Shifts of the best learning rate: planted parabolas, edges, and a really trained pair of widths."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import isoloss
from isoloss.plan.optimum import vertex
from isoloss.worth.width import width_transfer

RATES = [2.0**k * 1e-3 for k in range(8)]


def planted(shift: dict[str, float], noise: float, seeds: int = 5) -> Any:
    rng = np.random.default_rng(0)
    found = []
    for arm, by in shift.items():
        for N, moved in ((1_000, 0.0), (16_000, by)):
            for seed in range(seeds):
                best = math.log(1.1e-2) + moved + rng.normal(0, noise)
                for lr in RATES:
                    loss = 2.0 + 0.1 * (math.log(lr) - best) ** 2
                    found.append(SimpleNamespace(arm=arm, N=N, seed=str(seed), lr=lr, loss=loss, status="done"))
    return SimpleNamespace(results=found, study=SimpleNamespace(grid={"training.optimizer.lr": tuple(RATES)}))


def test_a_planted_vertex_is_found_between_the_candidates() -> None:
    losses = {lr: 3.0 + 0.2 * (math.log(lr) - math.log(7e-3)) ** 2 for lr in RATES}
    assert vertex(losses) == pytest.approx(7e-3, rel=1e-9)
    assert vertex(losses | {RATES[-1]: math.inf}) == pytest.approx(7e-3, rel=1e-9)
    assert vertex({lr: lr for lr in RATES}) is None and vertex({}) is None


def test_planted_shifts_are_found_with_their_intervals() -> None:
    found = width_transfer(planted({"standard": -1.0, "mup": 0.1}, noise=0.05))
    shifts = {entry["arm"]: entry["shift"] for entry in found["arms"]}
    assert shifts["standard"]["low"] < -1.0 < shifts["standard"]["high"] < 0
    assert shifts["mup"]["low"] < 0.1 < shifts["mup"]["high"]
    (pair,) = found["between"]
    assert pair["difference"]["low"] < 0.9 < pair["difference"]["high"]


def test_fewer_seeds_give_no_interval_and_other_studies_an_error() -> None:
    few = width_transfer(planted({"standard": -1.0}, noise=0.05, seeds=2))
    assert few["arms"][0]["shift"]["low"] is None
    other = planted({"standard": -1.0}, noise=0.0)
    other.study.grid = {}
    with pytest.raises(ValueError, match=r"no training\.optimizer\.lr"):
        width_transfer(other)


@pytest.mark.slow
def test_the_optimum_moves_less_under_mup(tmp_path: Path) -> None:
    """Five seeds over a fourfold width: the difference of the shifts is resolved."""
    study = Path(__file__).parents[2] / "studies" / "small" / "width-transfer.yaml"
    found = width_transfer(isoloss.run(study, tmp_path / "store", quiet=True))
    shifts = {entry["arm"]: entry["shift"] for entry in found["arms"]}
    assert shifts["standard"]["seeds"] == shifts["mup"]["seeds"] == 5
    assert shifts["standard"]["high"] < -0.5
    assert abs(shifts["mup"]["value"]) < abs(shifts["standard"]["value"])
    (pair,) = found["between"]
    assert pair["arms"] == ["standard", "mup"] and pair["difference"]["low"] > 0
