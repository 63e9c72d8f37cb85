"""Initial weights from a file: the run begins with those bits, whatever the file is called, and misfits are listed."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import isoloss
from isoloss import models
from isoloss.execute.replay import audit
from isoloss.plan.lower import Lowering, open_source
from isoloss.recipe.errors import StudyError
from isoloss.store import Store
from isoloss.study import from_dict
from isoloss.train.loop import Trainer

MODEL = {"family": "gpt", "depth": 1, "head_size": 4, "width": 8}
STUDY: dict[str, Any] = {
    "study": "outside",
    "data": {"source": "synthetic", "order": 1, "vocabulary": 8, "tokens": 20_000, "context": 8},
    "model": MODEL,
    "training": {"optimizer": {"name": "adamw", "lr": 0.01}, "batch": "4 sequences"},
    "duration": "12 updates",
    "evaluation": {"tokens": 256},
    "checkpoint": {"every": "5 updates"},
    "grid": {"seed": [0, 1]},
    "baseline": {"arm": "scratch", "extra": "none"},
    "arms": {"scratch": {}, "given": {}},
}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    made = models.build(MODEL, vocabulary=8, context=8, seed=77)
    save_file({name: value.contiguous() for name, value in made.state_dict().items()}, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def study(path: Path, **init: Any) -> dict[str, Any]:
    made = copy.deepcopy(STUDY)
    made["arms"]["given"]["init"] = {"weights": str(path), **init}
    return made


def key(path: Path, **init: Any) -> str:
    cell = next(c for c in from_dict(study(path, **init)).cells if c.arm == "given")
    return Lowering()(cell.config, 0.01, where="given").run.key(12)


@pytest.mark.multiprocess
@pytest.mark.parametrize("head", ["keep", "reset"])
def test_the_run_is_that_of_a_literal_loop(weights: Path, tmp_path: Path, head: str) -> None:
    results = isoloss.run(study(weights, head=head), tmp_path / "store", workers=2, quiet=True)
    assert {r.status for r in results.results} == {"done"} and results.trained == 2 * 2 * 12
    store = Store(tmp_path / "store", create=False)
    for planned in results.stage.planned:
        run = planned.lowered.run
        trainer = Trainer(run.start, run.phases[0], open_source(planned.lowered.data), run.numerics)
        if planned.cell.arm == "given":
            given = load_file(weights)
            for name, value in trainer.parameters.named(trainer.weights).items():
                if head == "keep" or name != "head.weight":
                    value.copy_(given[name])
        for offset in range(12):
            trainer.step(offset)
        stored = store.load(run.key(12)).state
        for name, value in trainer.parameters.named(trainer.weights).items():
            assert torch.equal(stored[f"model/{name}"], value), name
    assert audit(store, 20) == (12, [])
    assert store.verify().clean
    assert isoloss.run(study(weights, head=head), tmp_path / "store", workers=1, quiet=True).trained == 0


def test_the_content_is_addressed_and_not_the_path(weights: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "other-name.safetensors"
    moved.parent.mkdir()
    shutil.copy(weights, moved)
    assert key(weights) == key(moved) != key(weights, head="reset")
    tensors = load_file(moved)
    tensors["head.weight"][0, 0] += 1
    save_file(tensors, moved)
    assert key(moved) != key(weights)


@pytest.mark.multiprocess
def test_pre_training_may_begin_with_it(weights: Path, tmp_path: Path) -> None:
    made = study(weights)
    made["arms"]["given"]["pretrain"] = {"data": {**STUDY["data"], "seed": 3}, "duration": "6 updates", "lr": 0.01}
    results = isoloss.run(made, tmp_path / "store", workers=1, quiet=True)
    assert results.trained == 2 * (12 + 6 + 12) and {r.status for r in results.results} == {"done"}


def test_what_does_not_fit_is_listed(weights: Path, tmp_path: Path) -> None:
    tensors = load_file(weights)
    bad = dict(tensors)
    bad["blocks.0.extra"] = bad.pop("blocks.0.down.weight")
    bad["head.weight"] = torch.zeros(16, 8)
    save_file(bad, tmp_path / "bad.safetensors")
    with pytest.raises(StudyError) as told:
        isoloss.plan(study(tmp_path / "bad.safetensors"))
    for words in (
        "blocks.0.down.weight missing",
        "blocks.0.extra unexpected",
        "head.weight [16, 8] against [8, 8] of another shape",
    ):
        assert words in str(told.value)
    # A head of another shape is no obstacle where it is not taken over.
    other = {**tensors, "head.weight": torch.zeros(16, 8)}
    save_file(other, tmp_path / "head.safetensors")
    assert isoloss.plan(study(tmp_path / "head.safetensors", head="reset")).shared.updates == 2 * 2 * 12
    (tmp_path / "text.safetensors").write_text("no tensors here, only a longer line of words")
    for path, words in ((tmp_path / "text.safetensors", "safetensors"), (tmp_path / "absent", "cannot be read")):
        with pytest.raises(StudyError, match=words):
            isoloss.plan(study(path))
    distance = study(weights)
    distance["evaluation"]["distance"] = {}
    with pytest.raises(StudyError, match=r"evaluation\.distance: .*init: null"):
        isoloss.plan(distance)
