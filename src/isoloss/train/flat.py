"""All trained parameters as one fp32 vector: one call casts, clips, decays or copies them all.

Parameters that get weight decay come first, so that an elementwise optimizer sees two tensors instead of
dozens. By name they appear only where they are stored.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from isoloss.models import decayed


class FlatLayout:
    """Names, shapes and places of a model's parameters in the flat vector.

    ``everywhere``: weight decay on every parameter, not only where ``models.decayed`` says it belongs.
    """

    def __init__(self, model: nn.Module, *, everywhere: bool = False) -> None:
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        with_decay = [(n, p) for n, p in named if everywhere or decayed(n, p)]
        without = [(n, p) for n, p in named if not (everywhere or decayed(n, p))]
        self.names = [n for n, _ in with_decay + without]
        self.shapes = [tuple(p.shape) for _, p in with_decay + without]
        self.sizes = [p.numel() for _, p in with_decay + without]
        self.total = sum(self.sizes)
        self.split = sum(p.numel() for _, p in with_decay)
        """Elements before this place get weight decay."""

    def groups(self, flat: Tensor) -> list[tuple[Tensor, bool]]:
        """The (part, gets decay) of ``flat`` that are not empty; they share its memory."""
        parts = [(flat[: self.split], True), (flat[self.split :], False)]
        return [(part, decay) for part, decay in parts if part.numel()]

    def views(self, flat: Tensor) -> list[Tensor]:
        """One view a parameter, in the order of ``names``."""
        return [part.view(shape) for part, shape in zip(flat.split(self.sizes), self.shapes, strict=True)]

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """Views by parameter name."""
        return dict(zip(self.names, self.views(flat), strict=True))

    def gather(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """A new fp32 flat vector filled from tensors by name; raise ``KeyError`` or ``ValueError`` on a mismatch."""
        flat = torch.empty(self.total, dtype=torch.float32)
        for name, shape, view in zip(self.names, self.shapes, self.views(flat), strict=True):
            if tuple(tensors[name].shape) != shape:
                raise ValueError(f"parameter {name!r} has shape {tuple(tensors[name].shape)}, the model has {shape}")
            view.copy_(tensors[name])
        return flat

    def adopt(self, model: nn.Module, flat: Tensor) -> list[Tensor]:
        """Make the model's parameters views of ``flat`` and return them in layout order."""
        owners = dict(model.named_parameters(remove_duplicate=False))
        found: list[Tensor] = []
        for name, view in self.named(flat).items():
            owners[name].data = view
            found.append(owners[name])
        return found
