"""Metrics of an evaluation: against scikit-learn, from one forward pass, and of a user's own task."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from isoloss.recipe.errors import StudyError
from isoloss.train import calibration, tasks
from isoloss.train.evaluate import CHUNK, Evaluator, try_metrics
from isoloss.train.flat import FlatLayout

ALL = ("loss", "accuracy", *calibration.METRICS)
SAMPLES = 3 * CHUNK + 17


class Counted(nn.Module):
    """A linear classifier that counts its forward passes."""

    def __init__(self, features: int = 6, classes: int = 4) -> None:
        super().__init__()
        self.head = nn.Linear(features, classes)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.head(x)


class Tokens(nn.Module):
    """A bigram model."""

    def __init__(self, vocabulary: int = 5) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table(tokens)


class Margins(tasks.Classification):
    """A task with a metric of its own beside those that it inherits."""

    def metrics(self, model: Callable[..., Any], batch: tuple[Tensor, Tensor]) -> dict[str, tuple[float, int]]:
        inputs, classes = batch
        two = model(inputs).topk(2).values
        return {**super().metrics(model, batch), "margin": ((two[:, 0] - two[:, 1]).sum().item(), len(classes))}


class Bare:
    """The least that a task must have, with two metrics of its own."""

    def loss(self, model: Callable[..., Any], batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
        return (model(batch[0])[:, 0] - batch[1]).square().sum(), len(batch[1])

    def metrics(self, model: Callable[..., Any], batch: tuple[Tensor, Tensor]) -> dict[str, tuple[float, int]]:
        total, count = self.loss(model, batch)
        return {"loss": (total.item(), count), "recall": (3.0, 4), "never": (0.0, 0)}


class Careless(Bare):
    """A task that changes its batch and calls the model in ways of its own."""

    def metrics(self, model: Any, batch: tuple[Tensor, Tensor]) -> dict[str, tuple[float, int]]:
        x = batch[0].clone()
        first = model(x).sum().item()
        x.add_(1.0)
        second = model(x).sum().item()
        bias = model.head.bias.sum().item()  # the model's own attributes are there too
        return {"loss": (0.0, 1), "first": (first, 1), "second": (second, 1), "bias": (bias, 1)}


def data(samples: int = SAMPLES) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(samples, 6)).astype(np.float32), rng.integers(0, 4, samples)


def evaluator(task: Any, model: nn.Module, batch: Any) -> tuple[Evaluator, Tensor]:
    layout = FlatLayout(model)
    weights = layout.gather({name: value.detach() for name, value in model.named_parameters()})
    flat = torch.zeros_like(weights)
    layout.adopt(model, flat)
    return Evaluator(model, flat.copy_, task, lambda part, amount: batch), weights


def measured(task: Any, model: nn.Module, batch: Any, names: tuple[str, ...]) -> dict[str, float]:
    evaluate, weights = evaluator(task, model, batch)
    return {name: value for (name, _, _), value in evaluate(weights, {}, [(name, "B", 1) for name in names]).items()}


def test_classification_agrees_with_scikit_learn() -> None:
    peers = pytest.importorskip("sklearn.metrics")
    curve = pytest.importorskip("sklearn.calibration").calibration_curve
    torch.manual_seed(0)
    model, (x, y) = Counted(), data()
    found = measured(tasks.Classification(), model, (x, y), ALL)
    with torch.inference_mode():
        p = model(torch.from_numpy(x)).double().softmax(-1).numpy()
    sure, right = p.max(1), p.argmax(1) == y
    assert found["accuracy"] == pytest.approx(peers.accuracy_score(y, p.argmax(1)), abs=1e-12)
    assert found["loss"] == pytest.approx(peers.log_loss(y, p, labels=range(4)), abs=1e-6)
    assert found["brier"] == pytest.approx(peers.brier_score_loss(right, sure), abs=1e-7)
    assert found["auroc"] == pytest.approx(peers.roc_auc_score(right, sure), abs=1e-6)
    truth, mean = curve(right, sure, n_bins=10, strategy="quantile")
    # 209 samples are no multiple of 10 bins: both cut within one sample of each other.
    assert found["ece"] == pytest.approx(np.abs(truth - mean).mean(), abs=0.02)
    assert found["rms_calibration_error"] == pytest.approx(np.sqrt(np.square(truth - mean).mean()), abs=0.02)


def test_all_metrics_come_from_one_forward_pass_and_change_no_bit_of_the_loss() -> None:
    model = Counted()
    found = measured(tasks.Classification(), model, data(), ALL)
    assert model.calls == math.ceil(SAMPLES / CHUNK)
    assert measured(tasks.Classification(), model, data(), ("loss",)) == {"loss": found["loss"]}
    assert tuple(found) == ALL


def test_language_modelling_judges_every_token() -> None:
    torch.manual_seed(1)
    model = Tokens()
    tokens = torch.randint(5, (80, 9), generator=torch.Generator().manual_seed(2))
    found = measured(tasks.LanguageModelling(), model, tokens.numpy(), ALL)
    with torch.inference_mode():
        logits = model(tokens[:, :-1])
    assert found["accuracy"] == (logits.argmax(-1) == tokens[:, 1:]).double().mean().item()
    expected = calibration.summarise(logits, tokens[:, 1:])
    assert {name: found[name] for name in calibration.METRICS} == pytest.approx(expected, abs=1e-12)


def test_a_task_of_the_users_own_names_its_metrics() -> None:
    found = measured(Margins(), Counted(), data(), ("loss", "margin", "accuracy", "auroc"))
    assert found["margin"] > 0 and 0 <= found["auroc"] <= 1
    bare = measured(Bare(), Counted(), data(), ("recall", "never", "loss"))
    assert bare["recall"] == 0.75 and math.isnan(bare["never"]) and bare["loss"] > 0


def test_what_a_task_does_to_its_batch_is_its_own_affair() -> None:
    model = Counted()
    x, y = data(CHUNK)
    found = measured(Careless(), model, (x, y), ("first", "second", "bias"))
    with torch.inference_mode():
        apart = model(torch.from_numpy(x) + 1.0).sum() - model(torch.from_numpy(x)).sum()
    assert found["second"] - found["first"] == pytest.approx(apart.item(), rel=1e-4)
    assert found["bias"] == pytest.approx(model.head.bias.sum().item())


@pytest.mark.parametrize(
    ("task", "name", "message"),
    [
        (tasks.Classification(), "acuracy", r"found 'acuracy'; allowed: accuracy, ece, .*did you mean 'accuracy'"),
        (Bare(), "recal", r"found 'recal'; allowed: recall, never, which the task measures \(did you mean 'recall'"),
        (Bare(), "ece", r"found 'ece'; allowed: recall, never"),
    ],
)
def test_a_metric_that_the_task_has_not_is_one_message(task: Any, name: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        measured(task, Counted(), data(), ("loss", name))


def test_a_task_is_tried_before_anything_trains() -> None:
    reference = f"{__name__}:Margins"
    try_metrics(reference, ("margin", "ece"), Counted(), data())
    with pytest.raises(StudyError, match=r"found 'margins'; .*did you mean 'margin'.*\(task '.*Margins'\)"):
        try_metrics(reference, ("margins",), Counted(), data())
    with pytest.raises(StudyError, match=r"Margins' cannot measure margin: RuntimeError"):
        try_metrics(reference, ("margin",), Counted(features=7), data())


def test_calibration_of_a_model_that_broke_is_not_defined() -> None:
    model = Counted()
    with torch.no_grad():
        model.head.weight.fill_(math.nan)
    found = measured(tasks.Classification(), model, data(), ALL)
    assert all(math.isnan(found[name]) for name in ("loss", *calibration.METRICS))
