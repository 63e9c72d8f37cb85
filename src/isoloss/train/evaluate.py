"""Losses on the fixed validation parts, in fp32 whatever the training precision is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from isoloss.train import tasks
from isoloss.train.flat import FlatLayout

CHUNK = 64
"""Samples evaluated at once; part of the arithmetic, so it is fixed."""


class Evaluator:
    """A second model in fp32 whose weights are set from any flat vector: the trained weights or an average."""

    def __init__(
        self, model: nn.Module, layout: FlatLayout, task: tasks.Task, validation: Callable[[str, int], Any]
    ) -> None:
        self.model = model.eval()
        self.flat = torch.empty(layout.total)
        layout.adopt(self.model, self.flat)
        self.task = task
        self._validation = validation
        self._parts: dict[tuple[str, int], Any] = {}

    def __call__(
        self, weights: Tensor, buffers: Mapping[str, Tensor], asked: list[tuple[str, str, int]]
    ) -> dict[tuple[str, str, int], float]:
        """Values of the asked (metric, part, amount); raise ``KeyError`` for a metric the task does not have."""
        self.flat.copy_(weights)
        own = dict(self.model.named_buffers())
        for name, value in buffers.items():
            own[name].copy_(value)
        found: dict[tuple[str, str, int], float] = {}
        for part, amount in dict.fromkeys((part, amount) for _, part, amount in asked):
            values = self._measure(part, amount)
            found.update({(m, p, a): values[m] for m, p, a in asked if (p, a) == (part, amount)})
        return found

    def _measure(self, part: str, amount: int) -> dict[str, float]:
        if (part, amount) not in self._parts:
            self._parts[part, amount] = tasks.tensors(self._validation(part, amount))
        batch = self._parts[part, amount]
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        with torch.inference_mode():
            for begin in range(0, tasks.samples(batch), CHUNK):
                piece = tasks.part(batch, begin, begin + CHUNK)
                for name, (total, count) in self.task.metrics(self.model, piece).items():
                    sums[name] = sums.get(name, 0.0) + total
                    counts[name] = counts.get(name, 0) + count
        return {name: sums[name] / counts[name] for name in sums}
