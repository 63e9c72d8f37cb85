"""A model that no process holds whole: FSDP2 (``fully_shard``) under the flat vector of this process's parts.

Blocks (members of an ``nn.ModuleList``) and what is around them are gathered when they compute and given back
afterwards. Gradients are not averaged by FSDP: every process receives the others' gradients of its part and adds
them in the tree of ``PairwiseSum``, so the sum has the bits that one process gives.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_api import ReduceScatter
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from isoloss.methods.extrapolation import frozen_statistics
from isoloss.recipe.errors import StudyError
from isoloss.train.body import Body, Loss
from isoloss.train.flat import FlatLayout
from isoloss.train.parallel.layout import Layout, tree_sum
from isoloss.train.parallel.squares import Squares, along_rows


def blocks(model: nn.Module) -> list[nn.Module]:
    """Members of the outermost module lists that have matrices: what is sharded, and computed again, by itself."""
    found: list[nn.Module] = []
    for child in model.children():
        found += list(child) if isinstance(child, nn.ModuleList) else blocks(child)
    return [block for block in found if any(p.ndim > 1 for p in block.parameters())]


def units(model: nn.Module) -> list[nn.Module]:
    """Blocks that share no parameter with what is outside of them: FSDP keeps a tied parameter in one unit only."""
    everywhere = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))

    def alone(block: nn.Module) -> bool:
        inside = Counter(id(p) for _, p in block.named_parameters(remove_duplicate=False))
        return all(everywhere[p] == count for p, count in inside.items())

    return [block for block in blocks(model) if alone(block)]


def compute_again(model: nn.Module) -> None:
    """Keep no activations inside blocks: the backward pass computes them again, random numbers included.

    The second forward pass leaves running statistics alone.
    """
    for block in dict.fromkeys(blocks(model)):
        options: dict[str, Any] = {"use_reentrant": False}
        if any(isinstance(layer, _BatchNorm) for layer in block.modules()):
            options["context_fn"] = partial(_first_and_again, block)
        block.forward = partial(checkpoint, block.forward, **options)  # type: ignore[method-assign]


def _first_and_again(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), frozen_statistics(block)


class ShardedBody(Body):
    """``Body`` over the processes of ``layout`` that share a copy of the weights.

    ``together``: they compute every micro-batch of the copy all of them (needed where workers have weights of their
    own); otherwise each its own in turn.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: Layout,
        *,
        precision: str,
        compiled: bool,
        placing: Mapping[str, Any],
        together: bool,
    ) -> None:
        scalars = [name for name, p in model.named_parameters() if p.ndim == 0]
        if scalars:
            raise StudyError(
                f"parameter {scalars[0]!r} has no dimension that could be sharded; allowed: --shard 1, or a parameter "
                "of shape (1,)"
            )
        if not hasattr(FSDPModule, "set_custom_reduce_scatter"):
            raise StudyError(f"sharding needs a newer torch than {torch.__version__}; allowed: --shard 1")
        self.layout, self.together, self.precision, self.model = layout, together, precision, model
        self.group = layout.mesh["shard"].get_group()
        self.device = torch.device(layout.device)
        self.plain = FlatLayout(model, **placing)
        self._sizes = dict(zip(self.plain.names, self.plain.shapes, strict=True))
        self._shard_model(model.to(self.device), precision == "bf16-master", self)
        if layout.checkpointing:
            compute_again(model)
        self._held = _held(model)
        shapes = {name: tuple(part.shape) for name, part in self._held.items()}
        self.parameters = FlatLayout(model, aligned=True, shapes=shapes, **placing)
        self.weights = torch.zeros(self.parameters.total, device=self.device)
        self.gradient = torch.zeros_like(self.weights)
        self._fill(self._held)
        self.forward = torch.compile(model) if compiled else model
        self.squares: Squares = Squares(self.parameters, self.group)
        self.received: dict[str, Tensor] = {}
        """Row sums of squares of the gradients that came in a backward pass, (processes, rows), by parameter."""
        self._rows: list[Tensor] = []
        model.train()

    def _shard_model(self, model: nn.Module, low: bool, receiver: ShardedBody | None) -> None:
        """Shard blocks and what is around them; ``receiver`` hears of every gradient that comes in."""
        if low:
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    buffer.data = buffer.data.to(torch.bfloat16)
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if low else MixedPrecisionPolicy()
        named = {id(p): name for name, p in model.named_parameters()}
        for unit in (*units(model), model):
            inside = [(named[id(p)], p.shape) for p in _managed(unit) if p.requires_grad]
            # What is only evaluated gives everything back at once, so that the next pass sees its next weights.
            again = None if receiver is not None else True
            fully_shard(unit, mesh=self.layout.mesh["shard"], mp_policy=policy, reshard_after_forward=again)
            assert isinstance(unit, FSDPModule)
            if receiver is not None and inside:
                unit.set_custom_reduce_scatter(_Exchange(receiver, inside))
                unit.set_force_sum_reduction_for_comms(True)
                unit.set_gradient_divide_factor(1.0)
                unit.set_reduce_scatter_unused_params(True)

    def follow(self) -> None:
        views = self.parameters.named(self.weights)
        torch._foreach_copy_(list(self._held.values()), [views[name] for name in self._held])

    def slopes(self, loss: Loss, into: Tensor) -> tuple[Tensor, int]:
        with torch.enable_grad(), self.autocast():
            total, count = loss(self.forward)
        total.backward()
        self.received, received = {}, self.received
        named = dict(self.model.named_parameters())
        for name, view in self.parameters.named(into).items():
            found = named[name].grad
            view.copy_(found.to_local()) if isinstance(found, DTensor) else view.zero_()
            named[name].grad = None
        if not self.together:
            # Of a block that no process passed through, nothing came.
            for name in self.parameters.names:
                if name not in received:
                    shape = self.layout.shard, len(self._held[name])
                    received[name] = torch.zeros(shape, dtype=torch.float64, device=self.device)
            self._rows.append(torch.cat([received[name] for name in self.parameters.names], dim=1))
        else:
            self._rows.append(self.squares.along_rows(into)[None])
        return total.detach(), count

    def receive(self, gradients: Tensor, inside: Sequence[tuple[str, tuple[int, ...]]]) -> None:
        """Note the squares of this process's part of everybody's gradients, (processes, elements)."""
        place = 0
        for name, shape in inside:
            each = -(-shape[0] // self.layout.shard)
            columns = math.prod(shape[1:])
            mine = gradients[:, place : place + each * columns].reshape(len(gradients), each, columns)
            place += each * columns
            rows = len(self._held[name])
            self.received[name] = torch.stack([along_rows(of_one[:rows]) for of_one in mine])

    def squares_seen(self) -> list[float]:
        rows, self._rows = torch.stack(self._rows), []
        sums = self.squares.whole(rows)  # (rounds, processes, parameters)
        mine = sums[:, 0 if self.together else self.layout.part]
        return [math.fsum(each) for each in mine.tolist()]

    def joined(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self.layout.group > 0:
            return {}
        found: dict[str, Tensor] = {}
        for key in sorted(parts):  # one order on all processes
            name, part = key.rpartition("/")[2], parts[key]
            if name not in self._held:
                found[key] = part
                continue
            full = self._gathered(part, self._sizes[name])
            if self.layout.part == 0:
                found[key] = full.cpu()
        return found if self.layout.part == 0 else {}

    def _gathered(self, part: Tensor, size: tuple[int, ...]) -> Tensor:
        """A whole tensor from the parts of it that the processes hold, on each of them."""
        each = -(-size[0] // self.layout.shard)
        padded = part.new_zeros((each, *size[1:]))
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in range(self.layout.shard)]
        dist.all_gather(parts, padded, group=self.group)
        return torch.cat(parts)[: size[0]]

    def cut(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = dict(tensors)
        for key, tensor in tensors.items():
            name = key.rpartition("/")[2]
            if name in self._held:
                begin = self.layout.part * -(-len(tensor) // self.layout.shard)
                found[key] = tensor[begin : begin + len(self._held[name])]
        return found

    def whole(self, flat: Tensor) -> Tensor:
        views = self.parameters.named(flat)
        return torch.cat([self._gathered(view, self._sizes[name]).reshape(-1) for name, view in views.items()])

    def own(self, whole: Tensor) -> Tensor:
        cut = self.cut(self.plain.named(whole))
        flat = torch.zeros(self.parameters.total, dtype=whole.dtype, device=self.device)
        for name, view in self.parameters.named(flat).items():
            view.copy_(cut[name])
        return flat

    def follower(self, model: nn.Module) -> tuple[nn.Module, Callable[[Tensor], object]]:
        self._shard_model(model.to(self.device), low=False, receiver=None)
        held = _held(model)

        def take(flat: Tensor) -> None:
            views = self.parameters.named(flat)
            torch._foreach_copy_([held[name] for name in self.parameters.names], list(views.values()))

        return model, take


class _Exchange(ReduceScatter):
    """Adds gradients over processes in the fixed tree, in place of a reduce-scatter.

    ``inside``: names and shapes of the parameters whose gradients come in one message.
    """

    def __init__(self, body: ShardedBody, inside: Sequence[tuple[str, tuple[int, ...]]]) -> None:
        self.body, self.inside = body, list(inside)

    def allocate(self, size: Sequence[Any], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(tuple(size), dtype=dtype, device=device)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, op: Any, async_op: bool = False
    ) -> None:
        parts = input_tensor.view(self.body.layout.shard, -1)
        if self.body.together:  # all have the same gradient
            output_tensor.copy_(parts[self.body.layout.part])
            return
        received = torch.empty_like(parts)
        dist.all_to_all_single(received, parts, group=group)
        self.body.receive(received, self.inside)
        output_tensor.copy_(tree_sum(list(received.unbind())))


def _managed(unit: nn.Module) -> list[nn.Parameter]:
    """Parameters that ``fully_shard`` of a unit handles, in its order: children first, sharded ones left out."""
    found: dict[nn.Parameter, None] = {}

    def visit(module: nn.Module) -> None:
        for child in module.children():
            if not isinstance(child, FSDPModule):
                visit(child)
        found.update(dict.fromkeys(module.parameters(recurse=False)))

    visit(unit)
    return list(found)


def _held(model: nn.Module) -> dict[str, Tensor]:
    """What this process holds of every trained parameter, by name; shares their memory."""
    return {
        name: p.to_local().detach()
        for name, p in model.named_parameters()
        if isinstance(p, DTensor) and p.requires_grad
    }
