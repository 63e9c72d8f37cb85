"""Sums of squares of parameters that come out the same however parameters are sharded.

Squares are added in float64 along rows (the first dimension is the one that is cut) and then over the rows of the
whole parameter, so no sum depends on where a shard ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor

from isoloss.train.flat import FlatLayout

CHUNK = 1 << 15
"""Elements of a row added at once: of so few, torch does not split the sum over threads."""


class Squares:
    """Sums of squares over whole parameters of vectors that are laid out as ``layout``, this process's part of them.

    ``group``: the processes that hold the other parts, in order; None where parameters are whole.
    """

    def __init__(self, layout: FlatLayout, group: dist.ProcessGroup | None = None) -> None:
        self.layout, self.group = layout, group
        rows = [shape[0] if shape else 1 for shape in layout.shapes]
        self.rows = [rows]
        """Rows of each parameter, by process of the group."""
        if group is not None:
            self.rows = [[] for _ in range(dist.get_world_size(group))]
            dist.all_gather_object(self.rows, rows, group=group)

    def along_rows(self, flat: Tensor) -> Tensor:
        """Sums of squares of the rows of this process's part, one parameter after the other, float64."""
        return torch.cat([along_rows(view) for view in self.layout.views(flat)])

    def whole(self, rows: Tensor, members: Sequence[int] | None = None) -> Tensor:
        """Sums over whole parameters, (..., parameters), of sums over the rows that each process has, (..., rows).

        ``members``: the parameters whose rows these are (default: all).
        """
        chosen = range(len(self.layout.names)) if members is None else members
        counts = [[listed[i] for i in chosen] for listed in self.rows]
        parts = [rows]
        if self.group is not None:
            own = rows.new_zeros((*rows.shape[:-1], max(map(sum, counts))))
            own[..., : rows.shape[-1]] = rows
            gathered = [torch.empty_like(own) for _ in counts]
            dist.all_gather(gathered, own, group=self.group)
            parts = [each[..., : sum(listed)] for each, listed in zip(gathered, counts, strict=True)]
        pieces = [part.split(listed, dim=-1) for part, listed in zip(parts, counts, strict=True)]
        sums = [torch.cat(of_one, dim=-1).contiguous().sum(-1) for of_one in zip(*pieces, strict=True)]
        return torch.stack(sums, dim=-1)

    def total(self, flat: Tensor) -> float:
        """Sum of squares of everything."""
        return math.fsum(self.whole(self.along_rows(flat)).tolist())

    def of(self, parts: Sequence[Tensor], tensors: Sequence[Tensor]) -> Tensor:
        """Sums of squares, shape (n,): of ``parts[i]``, laid out as ``tensors[i]``, a stretch of the vector."""
        rows: list[Tensor] = []
        members: list[int] = []
        ends = [0]
        places, sizes, shapes = self.layout.places, self.layout.sizes, self.layout.shapes
        for part, tensor in zip(parts, tensors, strict=True):
            inside, flat = self.layout.inside(tensor), part.reshape(-1)
            rows += [
                along_rows(flat[places[i] - tensor.storage_offset() :][: sizes[i]].view(shapes[i])) for i in inside
            ]
            members += inside
            ends.append(len(members))
        sums = self.whole(torch.cat(rows), members)
        return torch.stack([sums[a:b].sum() for a, b in pairwise(ends)])


def along_rows(tensor: Tensor) -> Tensor:
    """Sums of squares of the rows, shape (rows,), float64; none of them depends on how many rows there are."""
    if tensor.ndim < 2:
        return tensor.reshape(-1).double().square()
    pieces = tensor.flatten(1).split(CHUNK, dim=1)  # there may be no rows
    sums = [torch.linalg.vector_norm(piece, dim=1, dtype=torch.float64).square() for piece in pieces]
    return sum(sums[1:], sums[0])
