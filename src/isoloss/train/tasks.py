"""What is trained: a loss as (sum, count), so that batches of any size add up exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from isoloss.recipe.errors import StudyError
from isoloss.recipe.references import is_reference, load
from isoloss.train import calibration


class Task(Protocol):
    """A user's own task has these two methods, and may have ``judge``.

    ``judge(model, batch)`` returns (p, y), float tensors of equal shape (n,): the probability that the model gives to
    each of its answers, and whether that is right. With it a study can measure accuracy and calibration.
    """

    def loss(self, model: Callable[..., Any], batch: Any) -> tuple[Tensor, int]:
        """Summed loss in nats and the number of terms in it."""

    def metrics(self, model: Callable[..., Any], batch: Any) -> Mapping[str, tuple[float, int]]:
        """(sum, count) by metric name, ``loss`` among them: a metric of an evaluation is sum / count over all of it."""


class LanguageModelling:
    """Next-token prediction; ``batch`` is (sequences, context + 1) token ids, the loss is in nats per token."""

    def loss(self, model: Callable[..., Any], batch: Tensor) -> tuple[Tensor, int]:
        """Summed cross entropy of the next tokens, and their number."""
        logits = model(batch[:, :-1])
        targets = batch[:, 1:].reshape(-1)
        total = F.cross_entropy(logits.reshape(targets.numel(), -1).float(), targets, reduction="sum")
        return total, targets.numel()

    def metrics(self, model: Callable[..., Any], batch: Tensor) -> dict[str, tuple[float, int]]:
        """``loss`` alone."""
        total, count = self.loss(model, batch)
        return {"loss": (total.item(), count)}

    def judge(self, model: Callable[..., Any], batch: Tensor) -> tuple[Tensor, Tensor]:
        """(p, y) of the most likely token at every position."""
        return calibration.top(model(batch[:, :-1]), batch[:, 1:])


class Classification:
    """Class prediction; ``batch`` is (inputs, class ids), the loss is in nats per sample."""

    def loss(self, model: Callable[..., Any], batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
        """Summed cross entropy of the classes, and the number of samples."""
        inputs, classes = batch
        return F.cross_entropy(model(inputs).float(), classes, reduction="sum"), classes.numel()

    def metrics(self, model: Callable[..., Any], batch: tuple[Tensor, Tensor]) -> dict[str, tuple[float, int]]:
        """``loss`` and ``accuracy``."""
        inputs, classes = batch
        logits = model(inputs).float()
        total = F.cross_entropy(logits, classes, reduction="sum").item()
        right = int((logits.argmax(-1) == classes).sum())
        return {"loss": (total, classes.numel()), "accuracy": (right, classes.numel())}

    def judge(self, model: Callable[..., Any], batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """(p, y) of the most likely class of every sample."""
        inputs, classes = batch
        return calibration.top(model(inputs), classes)


_BUILT_IN: dict[str, type[Task]] = {"language-modelling": LanguageModelling, "classification": Classification}


def build(name: str) -> Task:
    """The task of that name, or a user's ``package.module:attribute`` (called without arguments)."""
    if name in _BUILT_IN:
        return _BUILT_IN[name]()
    if not is_reference(name):
        raise StudyError(f"task {name!r} is not one of {', '.join(_BUILT_IN)}, nor package.module:attribute")
    task: Task = load(name)()
    for method in ("loss", "metrics"):
        if not callable(getattr(task, method, None)):
            raise StudyError(f"task {name!r} has no method {method}(model, batch)")
    return task


def tensors(batch: Any, device: torch.device | str = "cpu") -> Any:
    """A data source's arrays as tensors; on the CPU they share their memory."""
    if isinstance(batch, tuple):
        return tuple(tensors(part, device) for part in batch)
    return torch.from_numpy(batch).to(device)


def part(batch: Any, begin: int, end: int) -> Any:
    """Samples ``begin`` to ``end`` of a batch."""
    return tuple(item[begin:end] for item in batch) if isinstance(batch, tuple) else batch[begin:end]


def samples(batch: Any) -> int:
    """Number of samples in a batch."""
    return len(batch[0] if isinstance(batch, tuple) else batch)
