"""The same runs on a GPU; skipped, and listed so, where torch finds none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import isoloss
from isoloss.plan.lower import Lowered, Lowering, open_source
from isoloss.recipe.run import Phase
from isoloss.study import from_dict
from isoloss.train import numerics
from isoloss.train.loop import Trainer

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")


def lowered(small: dict[str, Any], **training: Any) -> Lowered:
    small["training"] |= training
    (cell, *_) = from_dict(small).cells
    return Lowering()(cell.config, 0.01, where="test")


def trainer(made: Lowered, record: dict[str, Any]) -> Trainer:
    phase = Phase(made.run.phases[0].rule, 100)
    return Trainer(made.run.start, phase, open_source(made.data), record)


@gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16-autocast", "bf16-master"])
@pytest.mark.parametrize("micro_batches", [1, 4])
def test_a_gpu_learns_what_the_processor_learns(small: dict[str, Any], precision: str, micro_batches: int) -> None:
    made = lowered(small, micro_batches=micro_batches, warmup="0 updates")
    losses = {}
    for device in ("cpu", "cuda"):
        found = trainer(made, numerics.detect(precision, device=device))
        losses[device] = [found.step(update).loss for update in range(5)]
    near = 1e-4 if precision == "fp32" else 2e-2
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=near)


@gpu
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lamb", "lars", "schedule_free_adamw", "muon"])
def test_resumed_on_a_gpu_to_the_bit(small: dict[str, Any], optimizer: str) -> None:
    made = lowered(small, optimizer={"name": optimizer, "lr": 0.01}, warmup="0 updates")
    record = numerics.detect(device="cuda")
    whole, first, second = (trainer(made, record) for _ in range(3))
    for update in range(6):
        whole.step(update)
        if update < 3:
            first.step(update)
    tensors, meta = first.state()
    phase = Phase(made.run.phases[0].rule, 100)
    second.load({name: value.clone().cpu() for name, value in tensors.items()}, meta, entering=False, phase=phase)
    for update in range(3, 6):
        second.step(update)
    a, b = whole.state()[0], second.state()[0]
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@gpu
def test_a_study_on_a_gpu(small: dict[str, Any], tmp_path: Any) -> None:
    results = isoloss.run(small, tmp_path / "store", workers=1, quiet=True)
    assert {r.status for r in results.results} == {"done"}
    assert isoloss.run(small, tmp_path / "store", workers=1, quiet=True).trained == 0


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"allowed: cpu, auto|is not one of"):
        numerics.device_kind("tpu" if torch.cuda.is_available() else "cuda")
    assert numerics.detect(device="cpu")["device"] == "cpu"
