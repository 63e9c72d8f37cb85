"""How processes share the micro-batches of an update: execution, never part of a key.

The recipe counts V micro-batches (virtual workers). Their gradients are added in a fixed pairwise tree, so one
process or several give the same bits. Processes form ``data`` groups of ``shard`` each. A group computes a contiguous
block of micro-batches, a subtree; inside it the processes hold parts of one copy of the weights and take the
micro-batches of the block in turn, so that each round of theirs is a subtree again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from isoloss.recipe.errors import StudyError

Item = TypeVar("Item")


class PairwiseSum:
    """Adds tensors in the fixed tree ((0+1)+(2+3))+..., holding at most log2(V)+1 of them.

    A count that is no power of two is completed by adding the open subtrees, the latest first.
    """

    def __init__(self) -> None:
        self._open: list[tuple[int, Tensor]] = []

    def add(self, tensor: Tensor) -> None:
        """Take over ``tensor`` (it may be changed)."""
        size = 1
        while self._open and self._open[-1][0] == size:
            _, earlier = self._open.pop()
            tensor = earlier.add_(tensor)
            size *= 2
        self._open.append((size, tensor))

    def total(self) -> Tensor:
        """The sum of everything added."""
        _, tensor = self._open.pop()
        while self._open:
            _, earlier = self._open.pop()
            tensor = earlier.add_(tensor)
        return tensor


def tree_sum(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of all, in the fixed tree; the tensors may be changed."""
    tree = PairwiseSum()
    for tensor in tensors:
        tree.add(tensor)
    return tree.total()


@dataclass(frozen=True)
class Parallel:
    """What a study or a command asks for: ``data`` copies of the weights, each on ``shard`` processes.

    ``checkpointing``: activations of a block are computed again in the backward pass, in place of being kept.
    """

    data: int = 1
    shard: int = 1
    checkpointing: bool = False

    @property
    def world(self) -> int:
        """Processes in all."""
        return self.data * self.shard

    def layout(self, rank: int = 0, device: str = "cpu") -> Layout:
        """The place of one of these processes."""
        return Layout(self.world, rank, self.shard, self.checkpointing, device)


ALONE = Parallel()
"""One process."""


@dataclass(frozen=True)
class Layout:
    """``world`` processes of which this is ``rank``; with more than one, ``torch.distributed`` is initialised."""

    world: int = 1
    rank: int = 0
    shard: int = 1
    checkpointing: bool = False
    device: str = "cpu"
    """Kind of device that the weights lie on."""

    @property
    def groups(self) -> int:
        """Copies of the weights."""
        return self.world // self.shard

    @property
    def group(self) -> int:
        """The copy this process holds, or holds a part of."""
        return self.rank // self.shard

    @property
    def part(self) -> int:
        """The part of the copy that this process holds."""
        return self.rank % self.shard

    @cached_property
    def mesh(self) -> DeviceMesh:
        """Processes as (data, shard); made by all of them together."""
        return init_device_mesh(self.device, (self.groups, self.shard), mesh_dim_names=("data", "shard"))

    def share(self, micro_batches: int, together: bool = False) -> list[int]:
        """The micro-batches this process computes, in their order; ``together``: all those of its group.

        Raises ``StudyError`` where they cannot be shared exactly.
        """
        each = micro_batches // self.world
        if micro_batches % self.world or (self.world > 1 and each & (each - 1)) or self.shard & (self.shard - 1):
            raise StudyError(
                f"{micro_batches} micro-batches cannot be shared by {self.world} processes"
                + (f", {self.shard} to a copy of the weights" if self.shard > 1 else "")
                + ": each must get the same power-of-two number of them"
                + (", and a copy must lie on a power of two" if self.shard > 1 else "")
            )
        begin, end = self.group * each * self.shard, (self.group + 1) * each * self.shard
        return list(range(begin, end)) if together else list(range(begin + self.part, end, self.shard))

    def combine(self, tensor: Tensor) -> Tensor:
        """The sum over copies of the weights, added in the tree that one process would use."""
        if self.groups == 1:
            return tensor
        group = self.mesh.get_group("data")
        if self.groups == 2:  # one addition, whose order does not matter
            dist.all_reduce(tensor, group=group)
            return tensor
        parts = torch.empty((self.groups, *tensor.shape), dtype=tensor.dtype, device=tensor.device)
        dist.all_gather(list(parts.unbind()), tensor.contiguous(), group=group)
        return tree_sum(list(parts.unbind()))

    def collect(self, rows: Tensor, together: bool = False) -> Tensor:
        """(V, ...): one row a micro-batch in their order, of which ``rows`` are this process's own."""
        if self.world == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.world)]
        dist.all_gather(parts, rows.contiguous())
        count = len(rows) * (self.groups if together else self.world)
        found = torch.empty((count, *rows.shape[1:]), dtype=rows.dtype, device=rows.device)
        for rank, part in enumerate(parts):
            found[torch.tensor(Layout(self.world, rank, self.shard).share(count, together))] = part
        return found

    def turns(self, items: Sequence[Item]) -> list[Item]:
        """Every world-th item, for this process; all processes get as many, some the last item once more."""
        rounds = -(-len(items) // self.world)
        return [items[min(turn * self.world + self.rank, len(items) - 1)] for turn in range(rounds)]

    def in_order(self, found: list[Item], count: int) -> list[Item]:
        """What the processes found for the ``count`` items of ``turns``, in the items' order; plain data."""
        if self.world == 1:
            return found
        parts: list[list[Item]] = [[] for _ in range(self.world)]
        dist.all_gather_object(parts, found)
        return [parts[i % self.world][i // self.world] for i in range(count)]
