"""What is trained on this process: a model driven by one flat vector of its parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from isoloss.methods.gradient_norm import global_norm
from isoloss.train.flat import FlatLayout
from isoloss.train.parallel.squares import Squares

Loss = Callable[[Any], tuple[Tensor, int]]
"""(callable model) -> (summed loss, number of terms)."""


class Body:
    """A whole model, whose parameters are views of ``weights`` (fp32) or of a copy of it in bf16.

    ``several``: more than one micro-batch makes an update, so that sums of squares must not depend on which process
    holds what. ``placing``: options of the flat layout.
    """

    together = False
    """Whether all processes of a copy of the weights compute every micro-batch of it."""

    def __init__(
        self, model: nn.Module, *, precision: str, compiled: bool, several: bool, placing: Mapping[str, Any]
    ) -> None:
        self.model, self.precision = model, precision
        self.plain = FlatLayout(model, **placing)
        """Whole parameters with nothing between."""
        self.parameters = FlatLayout(model, aligned=True, **placing) if several else self.plain
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.weights = torch.zeros(self.parameters.total, device=self.device)
        self.gradient = torch.zeros_like(self.weights)
        self._fill(dict(model.named_parameters()))
        self.low: Tensor | None = None
        if precision == "bf16-master":
            model.to(torch.bfloat16)
            self.low = self.weights.to(torch.bfloat16)
        self.leaves = self.parameters.adopt(model, self.weights if self.low is None else self.low)
        self.forward = torch.compile(model) if compiled else model
        self.squares = Squares(self.parameters) if several else None
        self._seen: list[float] = []
        model.train()

    def _fill(self, named: Mapping[str, Tensor]) -> None:
        for name, view in self.parameters.named(self.weights).items():
            view.copy_(named[name].detach())

    def follow(self) -> None:
        """Make the model compute with ``weights`` as they are now."""
        if self.low is not None:
            self.low.copy_(self.weights)

    def slopes(self, loss: Loss, into: Tensor) -> tuple[Tensor, int]:
        """Fill ``into`` with the gradient of a summed loss; return the loss and its number of terms."""
        with torch.enable_grad(), self.autocast():
            total, count = loss(self.forward)
        slopes = torch.autograd.grad(total, self.leaves, allow_unused=True, materialize_grads=True)
        torch._foreach_copy_(self.parameters.views(into), list(slopes))
        if self.squares is not None:
            self._seen.append(self.squares.total(into))
        return total.detach(), count

    def autocast(self) -> torch.autocast:
        """Where the forward pass runs in bf16 on fp32 weights, if it does."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16-autocast")

    def squares_seen(self) -> list[float]:
        """Squared norms of the gradients since last asked, one a micro-batch of this process."""
        seen, self._seen = self._seen, []
        return seen

    def norm(self, flat: Tensor) -> float:
        """Euclidean norm of a vector laid out as the weights, over all parts of it."""
        if self.squares is not None:
            return math.sqrt(self.squares.total(flat))
        if flat.is_cuda:  # one number to wait for
            return float(torch.linalg.vector_norm(flat, dtype=torch.float64))
        return global_norm([flat])

    def joined(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors from what this process holds of them; names end with ``/`` and the parameter's name.

        Other tensors are whole already. Empty on processes that do not write.
        """
        return dict(parts)

    def cut(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This process's parts of whole tensors: the reverse of ``joined``."""
        return dict(tensors)

    def whole(self, flat: Tensor) -> Tensor:
        """A vector laid out as the weights, as all parameters in their order with nothing between."""
        if self.parameters is self.plain:
            return flat
        return torch.cat([view.reshape(-1) for view in self.parameters.views(flat)])

    def own(self, whole: Tensor) -> Tensor:
        """This process's part, laid out as the weights, of what ``whole`` returned."""
        if self.parameters is self.plain:
            return whole.to(self.device)
        flat = torch.zeros(self.parameters.total, dtype=whole.dtype, device=self.device)
        for view, part in zip(self.parameters.views(flat), whole.split(self.parameters.sizes), strict=True):
            view.copy_(part.view(view.shape))
        return flat

    def follower(self, model: nn.Module) -> tuple[nn.Module, Callable[[Tensor], object]]:
        """An fp32 model beside this one, and what makes it compute with a flat vector of weights."""
        model = model.to(self.device)
        flat = torch.zeros_like(self.weights)
        self.parameters.adopt(model, flat)
        return model, flat.copy_
