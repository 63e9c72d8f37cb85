"""The line between weights before and after a cooldown: its ends are what training measured, its middle a twin's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import isoloss
from isoloss.plan.lower import open_source
from isoloss.report.line import write
from isoloss.worth.results import Results

GPT: dict[str, Any] = {
    "study": "line",
    "data": {"source": "synthetic", "tokens": 20_000, "context": 16},
    "model": {"family": "gpt", "width": 16, "depth": 1, "head_size": 8},
    "training": {"batch": "8 sequences", "optimizer": {"lr": 1e-2}, "warmup": "5 updates"},
    "evaluation": {"tokens": 1024, "at": ["80 updates", "end"]},
    "duration": "100 updates",
    "baseline": "cooldown",
    "arms": {
        "cooldown": {"schedule": {"shape": "constant", "cooldown": {"fraction": 0.2}}},
        "constant": {"schedule": {"shape": "constant"}},
    },
}
NORMED = {
    "study": "line",
    "data": {"source": "digits"},
    "model": {"family": "f1", "width": 16, "depth": 1},
    "training": {"batch": "32 samples", "optimizer": {"name": "sgd", "lr": 0.1}},
    "evaluation": {"samples": 256},
    "schedule": {"shape": "constant", "cooldown": {"fraction": 0.5}},
    "duration": "40 updates",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return isoloss.run(GPT, tmp_path_factory.mktemp("line") / "store", workers=1, quiet=True)


def test_the_ends_are_the_losses_of_the_training_to_the_bit(trained: Results) -> None:
    cooled = next(r for r in trained.results if r.arm == "cooldown")
    found = isoloss.line(trained, cooled.name)
    assert (found.begin, found.end) == (80, 100)
    assert len(found.at) == 11 and found.at[0] == 0 and found.at[-1] == 1
    assert found.loss[-1] == cooled.loss
    assert found.loss[0] == dict(cooled.curve)[80]
    assert found.barrier >= 0 and found.monotone == (sorted(found.loss, reverse=True) == list(found.loss))


def test_the_middle_is_that_of_a_model_with_the_mean_of_the_weights(trained: Results) -> None:
    name = "cooldown"
    found = isoloss.line(trained, name, points=3)
    planned = next(p for p in trained.stage.planned if p.name == name)
    run = planned.lowered.run
    before, after = (trained.store.load(run.key(u)).state for u in (80, 100))
    source = open_source(planned.lowered.data)
    model = isoloss.models.build(run.start.model["spec"], vocabulary=source.vocabulary, context=16, seed=9)
    model.load_state_dict({n[6:]: (before[n] + after[n]) / 2 for n in before if n.startswith("model/")})
    tokens = torch.as_tensor(source.validation("B", 1024, 16)).long()
    with torch.no_grad():
        logits = model(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert found.loss[1] == pytest.approx(float(loss), rel=1e-5)


def test_running_statistics_are_those_of_each_point(tmp_path: Path) -> None:
    results = isoloss.run(NORMED, tmp_path / "store", workers=1, quiet=True)
    (cooled,) = results.results
    found = isoloss.line(results, cooled.name, points=5)
    assert cooled.loss is not None
    # Statistics from 32 batches in place of a moving average: near, and not the same.
    assert found.loss[-1] == pytest.approx(cooled.loss, rel=0.2) and found.loss[-1] != cooled.loss
    assert found.loss == isoloss.line(results, cooled.name, points=5).loss


def test_mistakes_are_told(trained: Results) -> None:
    with pytest.raises(ValueError, match=r"no run 'cooldwn'.*did you mean 'cooldown'"):
        isoloss.line(trained, "cooldwn")
    with pytest.raises(ValueError, match="constant has no cooldown"):
        isoloss.line(trained, "constant")
    with pytest.raises(ValueError, match="found 1 points"):
        isoloss.line(trained, "cooldown", points=1)


def test_the_figure(trained: Results, tmp_path: Path) -> None:
    record = isoloss.line(trained, "cooldown", points=5).to_dict()
    text = write([record], tmp_path / "line.svg").read_text()
    assert "<svg" in text
    assert write([record, record], tmp_path / "line.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="0 lines"):
        write([], tmp_path / "line.svg")
