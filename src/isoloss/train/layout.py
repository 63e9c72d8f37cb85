"""How processes share the micro-batches of an update: execution, never part of a key.

The recipe counts V micro-batches (virtual workers). Their gradients are added in a fixed pairwise tree, so one
process or several give the same bits: each process adds its own contiguous micro-batches, a subtree, and the
roots of the subtrees are exchanged and added by everybody in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from isoloss.recipe.errors import StudyError


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


@dataclass(frozen=True)
class Layout:
    """``world`` processes of which this is ``rank``; with more than one, ``torch.distributed`` is initialised."""

    world: int = 1
    rank: int = 0

    def share(self, micro_batches: int) -> range:
        """The micro-batches this process computes; raise ``StudyError`` where they cannot be shared exactly."""
        each = micro_batches // self.world
        if micro_batches % self.world or (self.world > 1 and each & (each - 1)):
            raise StudyError(
                f"{micro_batches} micro-batches cannot be shared by {self.world} processes: "
                "each must get the same power-of-two number of them"
            )
        return range(self.rank * each, (self.rank + 1) * each)

    def combine(self, tensor: Tensor) -> Tensor:
        """The sum over processes, added in the tree that one process would use."""
        if self.world == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.world)]
        dist.all_gather(parts, tensor)
        tree = PairwiseSum()
        for part in parts:
            tree.add(part)
        return tree.total()
