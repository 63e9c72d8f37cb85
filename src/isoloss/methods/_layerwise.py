"""What methods that work on parameter tensors share: checks, norms of whole tensors, exclusion lists.

A sharded parameter (DTensor) is worked on through its local part; its norm is that of the whole tensor, by one
all-reduce of the squares in float64.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

CHUNK = 1 << 16


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds, sharing its memory."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def squared_norms(parts: Sequence[Tensor], whole: Sequence[Tensor]) -> Tensor:
    """Sums of squares of whole tensors, shape (n,), float64, on the device of the first.

    ``parts[i]`` is what this process holds of a tensor that is sharded as ``whole[i]`` is: a DTensor, or a tensor with
    an attribute ``whole_squares``, a function like this one, which then answers. Raises ValueError for values that are
    not added up yet (a Partial placement).
    """
    answer = getattr(whole[0], "whole_squares", None)
    if answer is not None:
        found: Tensor = answer(parts, whole)
        return found
    if parts[0].device.type == "cpu":
        sums = torch.tensor([squares(part) for part in parts], dtype=torch.float64)
    else:
        sums = torch.stack(torch._foreach_norm(list(parts))).double().square()
    shared: dict[tuple[Any, tuple[int, ...]], list[int]] = defaultdict(list)
    for index, tensor in enumerate(whole):
        if isinstance(tensor, DTensor):
            if any(placement.is_partial() for placement in tensor.placements):
                raise ValueError(f"norm: tensor {index} has placements {tensor.placements}; allowed: Shard, Replicate")
            cut = tuple(d for d, placement in enumerate(tensor.placements) if placement.is_shard())
            shared[tensor.device_mesh, cut].append(index)
    for (mesh, dimensions), members in shared.items():
        some = sums[members]
        for dimension in dimensions:
            dist.all_reduce(some, group=mesh.get_group(dimension))
        sums[members] = some
    return sums


def squares(part: Tensor) -> float:
    """Sum of squares on the CPU: chunks in the tensor's own type, their sum in float64."""
    if part.is_contiguous():
        flat = part.view(-1)
    elif torch.ops.aten.is_non_overlapping_and_dense(part):
        flat = part.as_strided((part.numel(),), (1,))
    else:
        flat = part.reshape(-1)
    if flat.dtype not in (torch.float32, torch.float64):
        flat = flat.float()
    total = _dot(flat)
    if flat.dtype == torch.float32 and not 1e-30 < total < math.inf:
        # Squares may have left the range of float32.
        total = _dot(flat.double())
    return total


def _dot(flat: Tensor) -> float:
    if flat.numel() <= CHUNK:
        return float(torch.dot(flat, flat).item())
    return float(sum(torch.dot(chunk, chunk).item() for chunk in flat.split(CHUNK)))


def check_parameters(parameters: Iterable[Tensor], who: str) -> None:
    """Raise ValueError for complex or integer parameters."""
    for index, p in enumerate(parameters):
        if not p.is_floating_point():
            raise ValueError(f"{who}: parameter {index} of shape {tuple(p.shape)} is {p.dtype}; allowed: real floats")


def check_gradients(groups: Iterable[dict[str, Any]], who: str) -> None:
    """Raise ValueError for sparse gradients, before anything has changed."""
    for number, group in enumerate(groups):
        for index, p in enumerate(group["params"]):
            if p.grad is not None and p.grad.layout != torch.strided:
                raise ValueError(
                    f"{who}: the gradient of parameter {index} in group {number}, shape {tuple(p.shape)}, is "
                    f"{p.grad.layout}; allowed: dense gradients (nn.Embedding(..., sparse=False))"
                )


def check_number(who: str, name: str, value: object, low: float = 0.0, high: float = math.inf) -> None:
    """Raise ValueError unless low <= value < high."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value < high:
        upper = f" and below {high:g}" if high < math.inf else ""
        raise ValueError(f"{who}: {name} is {value!r}; allowed: a number of at least {low:g}{upper}")


def alone(batch: Sequence[Tensor]) -> bool:
    """Whether a batch is one whole tensor on the CPU, whose norms may be read as numbers."""
    tensor = batch[0]
    parted = isinstance(tensor, DTensor) or hasattr(tensor, "whole_squares")
    return len(batch) == 1 and tensor.device.type == "cpu" and not parted


class Checked(torch.optim.Optimizer):
    """Base of the optimizers here: no group is kept, and no tensor stepped on, before it is checked."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group. Raises ValueError for options out of range and parameters that cannot be stepped on."""
        super().add_param_group(param_group)
        try:
            check_parameters(self.param_groups[-1]["params"], type(self).__name__)
            self._check_group(self.param_groups[-1])
        except ValueError:
            del self.param_groups[-1]
            raise

    def _check_group(self, group: dict[str, Any]) -> None:
        raise NotImplementedError

    def _evaluate(self, closure: Callable[[], Any] | None) -> Any:
        """The value of ``closure``, called with gradients enabled. Raises ValueError for sparse gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        check_gradients(self.param_groups, type(self).__name__)
        return loss


class LayerWise(Checked):
    """Base of rules with one ratio a tensor: tensors in batches that step together."""

    def _batches(self, group: dict[str, Any], key: str | None = None) -> Iterator[list[Tensor]]:
        """Parameters with a gradient: one at a time on the CPU (they stay in the cache), else together.

        Together means of one type and device and, with ``key``, of one value of that state entry.
        """
        found = [p for p in group["params"] if p.grad is not None]
        if not group["foreach"] and all(alone([p]) for p in found):
            yield from ([p] for p in found)
            return
        buckets: dict[Any, list[Tensor]] = defaultdict(list)
        for p in found:
            buckets[p.dtype, p.device, float(self.state[p][key]) if key else 0.0].append(p)
        yield from buckets.values()


def gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Local gradients in the memory layout of their parameters, as fused kernels walk memory and not indices."""
    found = []
    for p in parameters:
        assert p.grad is not None
        g, x = local(p.grad), local(p)
        same = g.dtype == x.dtype and g.stride() == (x.stride() if x.is_contiguous() else torch.empty_like(x).stride())
        found.append(g if same else torch.empty_like(x).copy_(g))
    return found


def exclusion_groups(
    model: nn.Module, weight_decay: float, exclude: Sequence[str] = (r"bias$", r"norm", r"\bbn\d*\b")
) -> list[dict[str, Any]]:
    """Two groups: layer-wise with decay; and the exclusion list, with neither decay nor trust ratio.

    Excluded: tensors of fewer than two dimensions, and names in which one of the regular expressions is found
    (case ignored). Groups that would be empty are left out.
    """
    patterns = [re.compile(pattern, re.IGNORECASE) for pattern in exclude]
    kept: list[nn.Parameter] = []
    excluded: list[nn.Parameter] = []
    for name, p in model.named_parameters():
        if p.requires_grad:
            out = p.ndim < 2 or any(pattern.search(name) for pattern in patterns)
            (excluded if out else kept).append(p)
    groups = [
        {"params": kept, "weight_decay": weight_decay, "adapt": True},
        {"params": excluded, "weight_decay": 0.0, "adapt": False},
    ]
    return [group for group in groups if group["params"]]
