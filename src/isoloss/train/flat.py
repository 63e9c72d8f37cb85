"""All trained parameters as one fp32 vector: one call casts, clips, decays or copies them all.

Parameters that are treated alike lie side by side, those with weight decay first, so that an elementwise optimizer
sees two tensors instead of dozens. By name they appear only where they are stored.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isoloss.models import decayed

LINE = 16
"""fp32 elements in a cache line; fused kernels handle what is left beyond the last whole one by other instructions."""


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
    of the learning rate by name, 1 where there is none; ``hidden``: names of hidden matrices. ``aligned``: every
    parameter begins at a cache line, with zeros before it, so that no bit of an elementwise step depends on what
    else is in the vector. ``shapes``: of the parts of parameters that this process holds, where they are sharded.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        everywhere: bool = False,
        factors: Mapping[str, float] | None = None,
        hidden: Container[str] = (),
        aligned: bool = False,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        members: dict[Group, list[tuple[str, nn.Parameter]]] = {}
        for name, p in model.named_parameters():
            if p.requires_grad:
                group = Group(everywhere or decayed(name, p), (factors or {}).get(name, 1.0), name in hidden)
                members.setdefault(group, []).append((name, p))
        members = {group: members[group] for group in sorted(members, key=lambda group: not group.decays)}
        placed = [each for listed in members.values() for each in listed]
        self.names = [n for n, _ in placed]
        self.shapes = [tuple(p.shape) if shapes is None else shapes[n] for n, p in placed]
        self.sizes = [torch.Size(shape).numel() for shape in self.shapes]
        self.aligned = aligned
        self.places: list[int] = []
        """Where each parameter begins."""
        self.total = 0
        for size in self.sizes:
            self.places.append(self.total)
            self.total += self._room(size)
        self._counts = {group: len(listed) for group, listed in members.items()}

    def _room(self, size: int) -> int:
        return max(1, -(-size // LINE)) * LINE if self.aligned else size

    def groups(self, flat: Tensor) -> list[tuple[Group, Tensor, list[Tensor]]]:
        """(group, its part of ``flat``, views of that by parameter) in the order of the vector."""
        found, views, place = [], self.views(flat), 0
        for group, count in self._counts.items():
            begin = self.places[place]
            end = self.places[place + count] if place + count < len(self.places) else self.total
            found.append((group, flat[begin:end], views[place : place + count]))
            place += count
        return found

    def inside(self, tensor: Tensor) -> range:
        """Numbers of the parameters in a tensor that is a stretch of the flat vector."""
        begin = tensor.storage_offset()
        return range(bisect_left(self.places, begin), bisect_left(self.places, begin + tensor.numel()))

    def views(self, flat: Tensor) -> list[Tensor]:
        """One view a parameter, in the order of ``names``."""
        return [
            flat[place : place + size].view(shape)
            for place, size, shape in zip(self.places, self.sizes, self.shapes, strict=True)
        ]

    def lines(self, view: Tensor) -> Tensor:
        """A parameter's view with the zeros up to the next one, as a vector."""
        return view.as_strided((self._room(view.numel()),), (1,))

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """Views by parameter name."""
        return dict(zip(self.names, self.views(flat), strict=True))

    def gather(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """A new fp32 flat vector filled from tensors by name; raise ``KeyError`` or ``ValueError`` on a mismatch."""
        flat = torch.zeros(self.total, dtype=torch.float32)
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
