"""All trained parameters as one fp32 vector: one call casts, clips, decays or copies them all.

Parameters that are treated alike lie side by side, those with weight decay first, so that an elementwise optimizer
sees two tensors instead of dozens. By name they appear only where they are stored.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isoloss.models import decayed


@dataclass(frozen=True)
class Group:
    """How an optimizer treats some parameters."""

    decays: bool
    factor: float = 1.0
    """Of the learning rate (width transfer)."""
    hidden: bool = False
    """Whether they are hidden matrices (Muon's)."""


class FlatLayout:
    """Names, shapes and places of a model's parameters in the flat vector.

    ``everywhere``: weight decay on every parameter, not only where ``models.decayed`` says it belongs. ``factors``
    of the learning rate by name, 1 where there is none; ``hidden``: names of hidden matrices.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        everywhere: bool = False,
        factors: Mapping[str, float] | None = None,
        hidden: Container[str] = (),
    ) -> None:
        members: dict[Group, list[tuple[str, nn.Parameter]]] = {}
        for name, p in model.named_parameters():
            if p.requires_grad:
                group = Group(everywhere or decayed(name, p), (factors or {}).get(name, 1.0), name in hidden)
                members.setdefault(group, []).append((name, p))
        members = {group: members[group] for group in sorted(members, key=lambda group: not group.decays)}
        placed = [each for listed in members.values() for each in listed]
        self.names = [n for n, _ in placed]
        self.shapes = [tuple(p.shape) for _, p in placed]
        self.sizes = [p.numel() for _, p in placed]
        self.total = sum(self.sizes)
        self._counts = {group: len(listed) for group, listed in members.items()}

    def groups(self, flat: Tensor) -> list[tuple[Group, Tensor, list[Tensor]]]:
        """(group, its part of ``flat``, views of that by parameter) in the order of the vector."""
        found, views, begin, place = [], self.views(flat), 0, 0
        for group, count in self._counts.items():
            mine = views[place : place + count]
            end = begin + sum(view.numel() for view in mine)
            found.append((group, flat[begin:end], mine))
            begin, place = end, place + count
        return found

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
