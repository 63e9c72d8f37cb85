"""A study of images through lowering, the update loop and evaluation."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from isoloss.plan.lower import Lowering, open_source
from isoloss.study import from_dict
from isoloss.train.loop import Trainer

STUDY: dict[str, Any] = {
    "study": "digits",
    "data": {"source": "digits", "crop": 1, "cutout": 2},
    "model": {"family": "f1", "width": 48, "depth": 2},
    "duration": "60 updates",
    "training": {"optimizer": {"name": "sgd", "lr": 0.1}, "batch": "64 samples", "clip": 5.0},
    "schedule": {"shape": "linear"},
    "evaluation": {"samples": 256},
}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_digits_are_learnt_and_running_statistics_resume_to_the_bit() -> None:
    (cell,) = from_dict(STUDY).cells
    made = Lowering()(cell.config, 0.1, where="test")
    _, phase, _ = made.run.tracks[0]
    source = open_source(made.data)

    def trainer() -> Trainer:
        return Trainer(made.run.start, phase, source, made.run.numerics)

    whole, first, second = trainer(), trainer(), trainer()
    for update in range(60):
        whole.step(update)
    for update in range(25):
        first.step(update)
    tensors, meta = first.state()
    assert {"buffer/norms.0.running_mean", "buffer/norms.1.num_batches_tracked"} <= tensors.keys()
    second.load({name: value.clone() for name, value in tensors.items()}, meta, entering=False, phase=phase)
    for update in range(25, 60):
        second.step(update)
    a, b = whole.state()[0], second.state()[0]
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)

    values = whole.evaluator()(whole.weights, whole.buffers(), [("accuracy", "B", 256), ("loss", "B", 256)])
    assert values["accuracy", "B", 256] > 0.7
    assert made.facts.N == 64 * 48 + 48 * 48 + 3 * 2 * 48 + 10
    assert made.facts.unit == "samples"


def test_augmentation_and_classes_are_part_of_the_key_and_unused_options_are_not() -> None:
    def key(**data: Any) -> str:
        (cell,) = from_dict({**STUDY, "data": {"source": "digits", **data}}).cells
        return Lowering()(cell.config, 0.1, where="test").run.key(10)

    plain = key()
    assert plain == key(crop=0, flip=False, fill=7)
    assert len({plain, key(crop=1), key(flip=True), key(cutout=2), key(classes="0-9"), key(holdout=0.4)}) == 6
