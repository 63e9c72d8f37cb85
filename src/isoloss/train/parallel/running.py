"""Running statistics of BatchNorm layers when several micro-batches make an update.

Each micro-batch gives its own contribution c: what the buffers hold after it had they begun at zero. Afterwards the
contributions of all of them are entered in their order, r = (1 - momentum)^n r + c for n batches seen in it, so the
result does not depend on which process computed which.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from isoloss.methods.extrapolation import statistics_frozen
from isoloss.recipe.errors import StudyError
from isoloss.train.parallel.layout import Layout


class RunningStatistics:
    """The BatchNorm buffers of ``model`` over one update: ``of`` each micro-batch, then ``settle``."""

    def __init__(self, model: nn.Module) -> None:
        self.layers: list[Any] = [
            m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and m.momentum is not None
        ]
        self.buffers: list[Tensor] = [b for layer in self.layers for b in (layer.running_mean, layer.running_var)]
        self._found: dict[int, tuple[Tensor, Tensor]] = {}
        self._before: list[Tensor] = []

    def check(self, model: nn.Module) -> None:
        """Raise ``StudyError`` where processes would see a buffer in parts."""
        known = {id(b) for layer in self.layers for b in layer.buffers(recurse=False)}
        kept = model.state_dict().keys()
        other = [name for name, b in model.named_buffers() if name in kept and id(b) not in known]
        if other:
            raise StudyError(
                f"the model has buffers ({', '.join(other[:3])}), which processes that share micro-batches would see "
                "in parts; allowed: running statistics of BatchNorm layers with a momentum, or --processes 1"
            )

    @contextmanager
    def of(self, index: int) -> Iterator[None]:
        """Collect the contribution of the micro-batch ``index``, unless its pass leaves the statistics alone."""
        if not self.layers or statistics_frozen():
            yield
            return
        if not self._before:
            self._before = [buffer.clone() for buffer in self.buffers]
        counts = [int(layer.num_batches_tracked) for layer in self.layers]
        for buffer in self.buffers:
            buffer.zero_()
        yield
        seen = [int(layer.num_batches_tracked) - n for layer, n in zip(self.layers, counts, strict=True)]
        self._found[index] = torch.tensor(seen), torch.cat([b.reshape(-1) for b in self.buffers])
        for layer, count in zip(self.layers, counts, strict=True):
            layer.num_batches_tracked.fill_(count)

    def settle(self, layout: Layout, together: bool = False) -> None:
        """Enter what was collected on all processes."""
        if not self._found:
            return
        order = sorted(self._found)
        seen = layout.collect(torch.stack([self._found[i][0] for i in order]), together).tolist()
        found = layout.collect(torch.stack([self._found[i][1] for i in order]), together)
        sizes = [buffer.numel() for buffer in self.buffers]
        for numbers, contributions in zip(seen, found, strict=True):
            twice = [(layer, n) for layer, n in zip(self.layers, numbers, strict=True) for _ in range(2)]
            for (layer, n), now, c in zip(twice, self._before, contributions.split(sizes), strict=True):
                now.mul_((1.0 - layer.momentum) ** n).add_(c.view_as(now))
        for buffer, now in zip(self.buffers, self._before, strict=True):
            buffer.copy_(now)
        for layer, numbers in zip(self.layers, zip(*seen, strict=True), strict=True):
            layer.num_batches_tracked += sum(numbers)
        self._found, self._before = {}, []
