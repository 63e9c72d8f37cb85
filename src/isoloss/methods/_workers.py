"""What wrappers around a base optimizer share: one state with the base, virtual workers, their mean in a fixed tree.

Workers are added pairwise, ((0+1)+(2+3))+..., so their number decides the bits and not how processes share them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from isoloss.methods._layerwise import check_parameters, local

Closure = Callable[[], Any]
Gradient = list[Tensor | None]
Reduce = Callable[[list[Tensor]], object]


class Wrapper(torch.optim.Optimizer):
    """An optimizer that drives a base: groups and state are the base's own, so one ``state_dict`` restores both.

    ``count``: name of the entry of every group that counts updates.
    """

    count: str

    def __init__(self, base: torch.optim.Optimizer) -> None:
        if not isinstance(base, torch.optim.Optimizer):
            raise self._wrong(f"base is a {type(base).__name__}; allowed: a torch.optim.Optimizer")
        if isinstance(base, Wrapper):
            raise self._wrong(
                f"base is {type(base).__name__}, a wrapper itself; allowed: an optimizer without closures"
            )
        check_parameters((p for group in base.param_groups for p in group["params"]), type(self).__name__)
        super().__init__(base.param_groups, {})
        self.base = base
        self._adopt()
        for group in self.param_groups:
            group.setdefault(self.count, 0)

    def _adopt(self) -> None:
        """Share groups and state with the base, whose objects loading replaces."""
        self.param_groups, self.state = self.base.param_groups, self.base.state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the base. Raises ValueError for complex or integer parameters."""
        if not hasattr(self, "base"):
            super().add_param_group(param_group)
            return
        given = param_group["params"]
        check_parameters([given] if isinstance(given, Tensor) else list(given), type(self).__name__)
        self.base.add_param_group(param_group)
        self._adopt()
        self.param_groups[-1][self.count] = self.update

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned: the base's state, the wrapper's own, and the count of updates."""
        self.base.load_state_dict(dict(state_dict))
        self._adopt()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()

    @property
    def update(self) -> int:
        """Updates taken."""
        return int(self.param_groups[0][self.count])

    def _advance(self) -> None:
        for group in self.param_groups:
            group[self.count] += 1

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _several(self, closures: Closure | Sequence[Closure] | None, name: str = "closures") -> list[Closure]:
        """The callables, of which there must be one at least."""
        found = [closures] if callable(closures) else list(closures or ())
        if not found or not all(callable(each) for each in found):
            raise self._wrong(
                f"step without {name}; allowed: a callable, or one a worker, that fills p.grad with the gradient "
                "at the current parameters and returns the loss"
            )
        return found

    def _wrong(self, message: str) -> ValueError:
        return ValueError(f"{type(self).__name__}: {message}")


def read(parameters: Sequence[Tensor]) -> Gradient:
    """Local gradients; they share the memory of ``p.grad``."""
    return [None if p.grad is None else local(p.grad) for p in parameters]


def write(parameters: Sequence[Tensor], gradient: Gradient) -> None:
    """Put a gradient into ``p.grad``, in place where there is one."""
    for p, g in zip(parameters, gradient, strict=True):
        if g is None:
            continue
        if p.grad is not None:
            if local(p.grad).data_ptr() != g.data_ptr():
                local(p.grad).copy_(g)
        elif isinstance(p, DTensor):
            p.grad = DTensor.from_local(
                g, p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride()
            )
        else:
            p.grad = g


def copied(gradient: Gradient) -> Gradient:
    """Own copies."""
    return [None if g is None else g.clone() for g in gradient]


class Tree:
    """Adds gradients pairwise in the order they come, holding at most log2(n) + 1 of them.

    A count that is no power of two is completed by adding the open subtrees, the latest first.
    """

    def __init__(self) -> None:
        self.count = 0
        self._open: list[tuple[int, Gradient, bool]] = []

    def add(self, gradient: Gradient, *, stable: bool) -> None:
        """Add one more. ``stable``: it will not change before the sum is read, so that it need not be copied."""
        self.count += 1
        size, own = 1, False
        while self._open and self._open[-1][0] == size:
            _, earlier, earlier_own = self._open.pop()
            gradient, own = _plus(earlier, gradient, into=earlier_own), True
            size *= 2
        if not own and not stable:
            gradient, own = copied(gradient), True
        self._open.append((size, gradient, own))

    def total(self) -> Gradient:
        """The sum; of a single stable one, itself."""
        _, gradient, _ = self._open.pop()
        while self._open:
            _, earlier, own = self._open.pop()
            gradient = _plus(earlier, gradient, into=own)
        return gradient

    def mean(self, reduce: Reduce | None = None, processes: int = 1) -> Gradient:
        """The mean over all workers; ``reduce`` adds sums over processes in place."""
        total = self.total()
        present = [g for g in total if g is not None]
        if reduce is not None:
            reduce(present)
        if self.count * processes > 1:
            torch._foreach_mul_(present, 1.0 / (self.count * processes))
        return total


def _plus(first: Gradient, second: Gradient, into: bool) -> Gradient:
    """Sum, ``into`` the first or new; a gradient that is not there counts as zero."""
    found = list(first)
    both: list[tuple[int, Tensor, Tensor]] = []
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        if a is not None and b is not None:
            both.append((i, a, b))
        elif b is not None:
            found[i] = b.clone()
        elif a is not None and not into:
            found[i] = a.clone()
    if both and into:
        torch._foreach_add_([a for _, a, _ in both], [b for _, _, b in both])
    elif both:
        sums = torch._foreach_add([a for _, a, _ in both], [b for _, _, b in both])
        for (i, _, _), each in zip(both, sums, strict=True):
            found[i] = each
    return found


def average(losses: Sequence[Any]) -> Any:
    """Mean of what closures returned; None where they returned nothing."""
    if any(loss is None for loss in losses):
        return None
    if len(losses) == 1:
        return losses[0]
    return _tree_sum([loss.detach() if isinstance(loss, Tensor) else loss for loss in losses]) / len(losses)


def _tree_sum(values: Sequence[Any]) -> Any:
    """Pairwise, as ``Tree`` adds."""
    if len(values) == 1:
        return values[0]
    half = 1 << (len(values) - 1).bit_length() - 1
    return _tree_sum(values[:half]) + _tree_sum(values[half:])
