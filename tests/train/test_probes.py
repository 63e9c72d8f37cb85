"""Readings of the weights against direct computation on states that were stored."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import isoloss
from isoloss.methods.distance import log_spaced
from isoloss.plan.lower import Lowering, open_source
from isoloss.study import from_dict
from isoloss.train.loop import Trainer


def study(small: dict[str, Any], **evaluation: Any) -> dict[str, Any]:
    small |= {"grid": {"seed": [0]}, "duration": "20 updates", "arms": {"only": {}}, "baseline": "only"}
    small["evaluation"] = {"tokens": 128} | evaluation
    small["checkpoint"] = {"every": "5 updates"}
    return small


def trained(small: dict[str, Any], updates: int) -> tuple[Trainer, dict[str, torch.Tensor]]:
    """A trainer after some updates of the study's run, and its weights by name at the start."""
    (cell,) = from_dict(small).cells
    made = Lowering()(cell.config, 0.01, where="test")
    start: dict[str, torch.Tensor] = {}
    state: tuple[dict[str, torch.Tensor], dict[str, Any]] = ({}, {})
    done = 0
    for _, phase, _ in made.run.tracks:
        trainer = Trainer(made.run.start, phase, open_source(made.data), made.run.numerics)
        if done:
            trainer.load(*state, entering=True, phase=phase)
        else:
            start = {n: w.clone() for n, w in trainer.parameters.named(trainer.weights).items()}
        for offset in range(min(phase.length, updates - done)):
            trainer.step(offset)
            done += 1
        tensors, meta = trainer.state()
        state = ({n: t.clone() for n, t in tensors.items()}, meta)
        if done == updates:
            break
    return trainer, start


def test_distance_is_that_of_the_weights_at_log_spaced_updates(small: dict[str, Any], tmp_path: Path) -> None:
    found = isoloss.run(study(small, distance={"per_decade": 4, "tensors": True}), store=tmp_path / "s", quiet=True)
    (result,) = found.results
    assert [u for u, _ in result.distance] == [u for u in range(1, 21) if u == 20 or log_spaced(u, 4)]
    for update in (3, 10, 20):
        trainer, start = trained(small, update)
        squares = {
            n: float((w - start[n]).double().square().sum())
            for n, w in trainer.parameters.named(trainer.weights).items()
        }
        assert dict(result.distance)[update] == pytest.approx(math.sqrt(sum(squares.values())), rel=1e-6)
    at_end = found.store.measurements([result.key])[result.key]
    for name, square in squares.items():
        assert at_end[f"distance({name})@start:0"] == pytest.approx(math.sqrt(square), rel=1e-6)


def test_probes_change_no_bit_and_can_be_asked_for_later(small: dict[str, Any], tmp_path: Path) -> None:
    plain = isoloss.run(study(small), store=tmp_path / "s", quiet=True)
    asked = study(small, distance={"per_decade": 1}, roughness={"distances": [0.1, 1.0], "directions": 3})
    planned = isoloss.plan(asked, tmp_path / "s")
    again = isoloss.run(asked, store=tmp_path / "s", quiet=True)
    assert again.results[0].loss == plain.results[0].loss and again.results[0].key == plain.results[0].key
    assert again.trained == again.replayed == planned.replayed < 20  # 1 and 10 lie inside pieces; the end is stored
    assert [z for z, _ in again.results[0].roughness] == [0.1, 1.0]
    fresh = isoloss.run(asked, store=tmp_path / "fresh", quiet=True)
    assert fresh.results[0].roughness == again.results[0].roughness
    assert fresh.results[0].distance == again.results[0].distance


def test_roughness_grows_with_distance_and_is_charged(small: dict[str, Any], tmp_path: Path) -> None:
    asked = study(small, roughness={"distances": [0.01, 0.1, 1.0], "directions": 8})
    found = isoloss.run(asked, store=tmp_path / "s", quiet=True)
    spread = [s for _, s in found.results[0].roughness]
    assert 0 < spread[0] < spread[1] < spread[2]
    # Close by, the loss is linear along a direction, so its spread is proportional to the distance.
    assert spread[1] / spread[0] == pytest.approx(10, rel=0.2)
    with_, without = isoloss.plan(asked), isoloss.plan(study(small))
    one = without.shared.evaluation_flops / 2
    assert with_.shared.evaluation_flops == pytest.approx(one * (2 + 3 * 8))
