"""Ghost BatchNorm against a literal loop over chunks in float64, and the ways in which it must not fail."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from isoloss.methods.ghost_batchnorm import (
    GhostBatchNorm,
    GhostBatchNorm1d,
    GhostBatchNorm2d,
    GhostBatchNorm3d,
    convert,
    ghost_count,
    layout_dependent,
    revert,
    running_weights,
)

LAYERS: dict[int, tuple[Any, Any]] = {
    0: (GhostBatchNorm1d, nn.BatchNorm1d),
    1: (GhostBatchNorm1d, nn.BatchNorm1d),
    2: (GhostBatchNorm2d, nn.BatchNorm2d),
    3: (GhostBatchNorm3d, nn.BatchNorm3d),
}
LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def members(batch: int, ghost_size: int, grouping: str) -> list[list[int]]:
    """Sample numbers of every ghost, dealt out one by one."""
    ghosts = max(1, batch // ghost_size)
    sizes = [0] * ghosts
    for sample in range(batch):
        sizes[sample % ghosts] += 1
    if grouping == "strided":
        return [list(range(k, batch, ghosts)) for k in range(ghosts)]
    return [list(range(sum(sizes[:k]), sum(sizes[: k + 1]))) for k in range(ghosts)]


def chunk_loop(plain: Any, x: Tensor, ghost_size: int, running: str, grouping: str, seen: int) -> Tensor:
    """Normalise by one call of `plain` a ghost; with `averaged`, enter the mean of the ghosts' statistics by hand."""
    outputs, order, found = [], [], []
    for chosen in members(len(x), ghost_size, grouping):
        layer = plain
        if running == "averaged":
            layer = copy.deepcopy(plain)
            # Momentum 1: the buffers are the statistics of this chunk.
            layer.momentum = 1.0
            layer.weight, layer.bias = plain.weight, plain.bias
        outputs.append(layer(x[chosen]))
        order += chosen
        found.append(layer)
    if running == "averaged" and plain.track_running_stats:
        m = 1 / (seen + 1) if plain.momentum is None else plain.momentum
        for name in ("running_mean", "running_var"):
            mean = torch.stack([getattr(layer, name) for layer in found]).mean(0)
            getattr(plain, name).mul_(1 - m).add_(m * mean)
    return torch.cat(outputs)[torch.tensor(order).argsort()]


def same(found: Tensor | None, expected: Tensor | None) -> None:
    assert (found is None) == (expected is None)
    if found is not None:
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@settings(deadline=None, max_examples=400)
@given(
    spatial=st.lists(st.integers(1, 3), max_size=3),
    batch=st.integers(1, 17),
    channels=st.integers(1, 4),
    ghost_size=st.integers(1, 20),
    momentum=st.sampled_from([0.1, 0.01, 1.0, 0.0, None]),
    affine=st.booleans(),
    tracked=st.booleans(),
    running=st.sampled_from(["sequential", "averaged"]),
    grouping=st.sampled_from(["consecutive", "strided"]),
    memory=st.sampled_from(["contiguous", "channels last", "expanded slope", "slice"]),
    seed=st.integers(0, 2**31),
)
def test_equals_chunk_loop(
    spatial: list[int],
    batch: int,
    channels: int,
    ghost_size: int,
    momentum: float | None,
    affine: bool,
    tracked: bool,
    running: Any,
    grouping: Any,
    memory: str,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    ghost_class, plain_class = LAYERS[len(spatial)]
    options = dict(momentum=momentum, affine=affine, track_running_stats=tracked, dtype=torch.float64)
    layer = ghost_class(channels, ghost_size=ghost_size, running=running, grouping=grouping, **options)
    plain = plain_class(channels, **options)
    for tensor in [*layer.parameters(), *layer.buffers()]:
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 2, generator=generator)
    plain.load_state_dict(layer.state_dict())
    values = batch // ghost_count(batch, ghost_size) * torch.Size(spatial).numel()
    for seen in range(2):
        x = 3 + torch.randn(2 * batch, channels, *spatial, generator=generator, dtype=torch.float64)
        x = x[::2] if memory == "slice" else x[:batch]
        if memory == "channels last" and len(spatial) in LAST:
            x = x.contiguous(memory_format=LAST[len(spatial)])
        x.requires_grad_()
        if values < 2:
            with pytest.raises(ValueError, match="fewer than 2 values per channel"):
                layer(x)
            return
        other = x.detach().clone().requires_grad_()
        output, expected = layer(x), chunk_loop(plain, other, ghost_size, running, grouping, seen)
        slope = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        if memory == "expanded slope":
            slope = slope[:1].expand(x.shape)
        output.backward(slope)
        expected.backward(slope)
        same(output, expected)
        same(x.grad, other.grad)
    for one, two in zip(layer.parameters(), plain.parameters(), strict=True):
        same(one.grad, two.grad)
    same(layer.running_mean, plain.running_mean)
    same(layer.running_var, plain.running_var)
    if tracked:
        ghosts = ghost_count(batch, ghost_size)
        assert layer.num_batches_tracked == 2 * (ghosts if running == "sequential" else 1)


@pytest.mark.parametrize(
    ("momentum", "ghosts", "old"), [(0.1, 16, 0.18530), (0.1, 32, 0.03434), (0.01, 32, 0.72498), (0.1, 1, 0.9)]
)
def test_weights_of_the_running_statistics(momentum: float, ghosts: int, old: float) -> None:
    keep, weights = running_weights(momentum, ghosts, "sequential")
    assert (round(keep, 5), round(sum(weights), 5)) == (old, round(1 - old, 5))
    assert all(later > earlier for earlier, later in pairwise(weights))
    assert running_weights(momentum, ghosts, "averaged")[0] == 1 - momentum
    # The layer itself: old statistic 1 against a batch of mean 0, and the reverse.
    layer = GhostBatchNorm1d(1, momentum=momentum, ghost_size=2, dtype=torch.float64)
    for start, value, expected in ((1.0, 0.0, old), (0.0, 1.0, 1 - old)):
        layer.running_mean.fill_(start)
        layer(torch.full((2 * ghosts, 1), value, dtype=torch.float64))
        assert layer.running_mean.item() == pytest.approx(expected, abs=5e-6)


def test_the_two_rules_are_two_methods() -> None:
    """Ghost means of unit variance: sd sqrt(m / (2 - m)) with `sequential`, sqrt(32) times less with `averaged`."""
    spread = {}
    for running in ("sequential", "averaged"):
        layer = GhostBatchNorm1d(2000, ghost_size=2, running=running, affine=False)
        generator = torch.Generator().manual_seed(0)
        for _ in range(40):
            # Both samples of a ghost are near one value, so the ghost's mean has unit variance.
            centre = torch.randn(32, 1, 2000, generator=generator)
            layer((centre + torch.tensor([[-1e-3], [1e-3]])).view(64, 2000))
        spread[running] = layer.running_mean.std().item()
    assert spread["sequential"] == pytest.approx((0.1 / 1.9) ** 0.5, rel=0.05)
    assert spread["averaged"] == pytest.approx((0.1 / 1.9 / 32) ** 0.5, rel=0.05)


@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize("dims", [0, 1, 2, 3])
def test_evaluation_is_batchnorm_to_the_bit(dims: int, tracked: bool) -> None:
    ghost_class, plain_class = LAYERS[dims]
    layer = ghost_class(3, track_running_stats=tracked, ghost_size=4, grouping="strided")
    for batch in (8, 7):
        layer(torch.randn(batch, 3, *[2] * dims))
    plain = plain_class(3, track_running_stats=tracked)
    plain.load_state_dict(layer.state_dict())
    layer.eval(), plain.eval()
    for batch in (1, 2, 3, 4, 9, 16):
        x = torch.randn(batch, 3, *[2] * dims)
        if tracked or x[:, 0].numel() > 1:
            assert torch.equal(layer(x), plain(x))
    assert layer.state_dict().keys() == plain.state_dict().keys()
    assert [n for n, _ in layer.named_parameters()] == [n for n, _ in plain.named_parameters()]


def network() -> nn.Module:
    torch.manual_seed(3)
    shared = nn.BatchNorm2d(4)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        shared,
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(4, 4, 1), shared, nn.SyncBatchNorm(4, momentum=None)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.BatchNorm1d(4, affine=False),
        nn.Linear(4, 5),
    )


def test_convert_and_revert_keep_everything_else() -> None:
    model = network()
    group = object()
    model[3][2].process_group = group
    model[6].eval()
    calls: list[str] = []
    model[1].register_forward_hook(lambda *_: calls.append("hook"))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    kinds = [type(module) for module in model.modules()]
    held = {name: id(t) for name, t in [*model.named_parameters(), *model.named_buffers()]}
    before = copy.deepcopy(model.state_dict())

    assert convert(model, 4, running="averaged", grouping="strided") is model
    assert [type(model[1]), type(model[3][2]), type(model[6])] == [GhostBatchNorm2d, GhostBatchNorm, GhostBatchNorm1d]
    assert model[3][1] is model[1] and not model[6].training and model[3][2].momentum is None
    assert (model[1].ghost_size, model[1].running, model[1].grouping) == (4, "averaged", "strided")
    assert "ghost_size=4, running=averaged, grouping=strided" in repr(model)
    model.load_state_dict(before, strict=True)
    model(torch.randn(8, 3, 5, 5)).square().sum().backward()
    optimizer.step()
    assert calls == ["hook"] * 2 and not torch.equal(model[1].running_mean, before["1.running_mean"])
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model[6])))
    assert twin.ghost_size == 4 and twin.state_dict().keys() == model[6].state_dict().keys()
    assert convert(model, 2)[1].ghost_size == 2

    assert revert(model) is model
    assert [type(module) for module in model.modules()] == kinds and model[3][2].process_group is group
    assert held == {name: id(t) for name, t in [*model.named_parameters(), *model.named_buffers()]}
    assert not any("ghost" in key for module in model.modules() for key in vars(module))
    fresh = revert(nn.Sequential(GhostBatchNorm(4, ghost_size=2)))[0]
    assert type(fresh) is nn.SyncBatchNorm and fresh.process_group is None


def test_layers_that_depend_on_the_layout() -> None:
    model = network()
    assert layout_dependent(model) == ["1", "6"]
    assert layout_dependent(convert(model, 2)) == []
    assert layout_dependent(nn.Linear(2, 2)) == []


class Odd(nn.BatchNorm2d):
    pass


class OddGhost(GhostBatchNorm2d):
    pass


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: convert(network(), 0), "ghost_size is 0; allowed: a whole number from 1"),
        (lambda: convert(network(), -4), "ghost_size is -4"),
        (lambda: convert(network(), 2.0), "ghost_size is 2.0"),  # type: ignore[arg-type]
        (lambda: convert(network(), True), "ghost_size is True"),
        (lambda: GhostBatchNorm2d(4, ghost_size=0), "GhostBatchNorm2d: ghost_size is 0"),
        (lambda: convert(network(), 4, running="average"), "running is 'average'.*did you mean 'averaged'"),  # type: ignore[arg-type]
        (lambda: convert(network(), 4, grouping="stride"), "grouping is 'stride'.*did you mean 'strided'"),  # type: ignore[arg-type]
        (lambda: convert(nn.Sequential(nn.Linear(2, 2), nn.GroupNorm(1, 2)), 4), "Sequential has no BatchNorm layer"),
        (lambda: convert(nn.Sequential(nn.BatchNorm1d(2), Odd(2)), 4), "layer '1' is a Odd; allowed: BatchNorm1d"),
        (lambda: convert(nn.LazyBatchNorm1d(), 4), "'itself' is a LazyBatchNorm1d.*run a lazy layer once"),
        (lambda: revert(network()), "Sequential has no Ghost BatchNorm"),
        (lambda: revert(OddGhost(2, ghost_size=2)), "has a OddGhost; allowed: GhostBatchNorm1d"),
        (lambda: GhostBatchNorm1d(2, ghost_size=1)(torch.ones(4, 2)), "ghost_size 1 has fewer than 2 values"),
        (lambda: GhostBatchNorm2d(2, ghost_size=8)(torch.ones(0, 2, 3, 3)), "fewer than 2 values"),
        (lambda: GhostBatchNorm1d(2, ghost_size=8)(torch.ones(1, 2)), "fewer than 2 values"),
        (lambda: GhostBatchNorm2d(2, ghost_size=8)(torch.ones(4, 2)), "expected 4D input"),
        (lambda: GhostBatchNorm(2, ghost_size=8)(torch.ones(4)), r"allowed: \(N, C"),
    ],
)
def test_bad_input(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_refused_conversion_changes_nothing() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), Odd(2))
    with pytest.raises(ValueError, match="Odd"):
        convert(model, 4)
    assert type(model[0]) is nn.BatchNorm1d and not hasattr(model[0], "ghost_size")


@pytest.mark.parametrize("last", [False, True])
def test_strided_is_one_call_without_copies(last: bool) -> None:
    class Calls(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = func(*args, **(kwargs or {}))
            first = found[0] if isinstance(found, (tuple, list)) else found
            if isinstance(first, Tensor) and first.numel() == x.numel() and first.data_ptr() != x.data_ptr():
                names.append(func.__name__.split(".")[0])
            return found

    names: list[str] = []
    x = torch.randn(24, 3, 4, 5)
    layer = GhostBatchNorm2d(3, ghost_size=6, grouping="strided")
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
        assert layer(x).is_contiguous(memory_format=torch.channels_last)
        return
    with Calls():
        output = layer(x)
    assert names[0] == "native_batch_norm" and set(names[1:]) <= {"view", "detach", "alias", "_unsafe_view"}
    assert output.is_contiguous()


CASES = [(grouping, batch) for grouping in ("consecutive", "strided") for batch in (12, 13)]


def one_update(
    run: Callable[[nn.Module, Tensor], Tensor], grouping: Any, batch: int, double: bool = True
) -> list[Tensor]:
    """Output, gradients and buffers of a small net after one forward and backward pass through `run`."""
    model = network()
    del model[3]
    model = convert(model, 4, grouping=grouping)
    model[5].momentum = None
    x = torch.randn(batch, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    if double:
        model, x = model.double(), x.double()
    x.requires_grad_()
    output = run(model, x)
    output.sin().sum().backward()
    assert x.grad is not None
    parameters = [p.grad for p in model.parameters() if p.grad is not None]
    return [output.detach(), x.grad, *parameters, *(b.double() for b in model.buffers())]


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize(("grouping", "batch"), CASES)
def test_checkpointing_counts_a_batch_once(grouping: str, batch: int, reentrant: bool) -> None:
    plain = one_update(lambda model, x: model(x), grouping, batch)
    again = one_update(lambda model, x: checkpoint(model, x, use_reentrant=reentrant), grouping, batch)
    assert len(plain) == len(again) and all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def compiled(backend: str, how: str) -> Callable[[nn.Module, Tensor], Tensor]:
    def run(model: nn.Module, x: Tensor) -> Tensor:
        torch._dynamo.reset()
        whole = torch.compile(model, backend=backend, fullgraph=True)
        if how == "checkpoint outside":
            return checkpoint(whole, x, use_reentrant=False)
        if how == "checkpoint inside":
            return torch.compile(lambda y: checkpoint(model, y, use_reentrant=False), backend=backend)(x)
        return whole(x)

    return run


@pytest.mark.parametrize("how", ["plain", "checkpoint outside", "checkpoint inside"])
@pytest.mark.parametrize(
    ("backend", "grouping", "batch"),
    [("aot_eager", *CASES[0]), ("aot_eager", *CASES[2]), ("aot_eager", *CASES[3])]
    + [pytest.param("inductor", *case, marks=pytest.mark.slow) for case in CASES],
)
def test_compiled(backend: str, how: str, grouping: str, batch: int) -> None:
    eager = one_update(lambda model, x: model(x), grouping, batch)
    for found, expected in zip(one_update(compiled(backend, how), grouping, batch), eager, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("grouping", "batch"), [("consecutive", 4), ("strided", 4), ("strided", 5)])
def test_second_derivatives(grouping: Any, batch: int, last: bool) -> None:
    layer = GhostBatchNorm2d(2, ghost_size=2, grouping=grouping, dtype=torch.float64)
    x = torch.randn(batch, 2, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    inputs = x, layer.weight.detach() + 0.5, layer.bias.detach() + 0.1
    for tensor in inputs:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.parametrize("frozen", ["input", "weight", "bias", "weight and bias"])
def test_frozen_inputs_get_no_gradient(frozen: str) -> None:
    layer = GhostBatchNorm2d(2, ghost_size=2)
    x = torch.randn(6, 2, 2, 2, requires_grad=frozen != "input")
    layer.weight.requires_grad_("weight" not in frozen)
    layer.bias.requires_grad_("bias" not in frozen)
    layer(x).square().sum().backward()
    for tensor in (x, layer.weight, layer.bias):
        assert (tensor.grad is not None) == tensor.requires_grad


@pytest.mark.parametrize("grouping", ["consecutive", "strided"])
def test_function_transforms(grouping: Any) -> None:
    layer = GhostBatchNorm1d(3, ghost_size=2, grouping=grouping, track_running_stats=False, dtype=torch.float64)
    x = torch.randn(4, 7, 3, dtype=torch.float64)
    looped = torch.stack([layer(part) for part in x])
    torch.testing.assert_close(torch.vmap(layer)(x), looped)
    slope = torch.func.grad(lambda part: layer(part).sin().sum())(x[0])
    part = x[0].clone().requires_grad_()
    layer(part).sin().sum().backward()
    torch.testing.assert_close(slope, part.grad)


@pytest.mark.parametrize("grouping", ["consecutive", "strided"])
@pytest.mark.parametrize(
    ("input_type", "layer_type"), [(torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32)]
)
def test_low_precision(input_type: torch.dtype, layer_type: torch.dtype, grouping: Any) -> None:
    exact = GhostBatchNorm2d(3, ghost_size=4, grouping=grouping)
    layer = copy.deepcopy(exact).to(layer_type)
    x = torch.randn(11, 3, 4, 4).to(input_type)
    output = layer(x)
    assert output.dtype == input_type and layer.running_var.dtype == layer_type
    torch.testing.assert_close(output.float(), exact(x.float()), rtol=0.02, atol=0.02)
    torch.testing.assert_close(layer.running_var.float(), exact.running_var, rtol=0.01, atol=0.01)


def test_several_forward_passes_before_the_backward_pass() -> None:
    layer = GhostBatchNorm2d(2, ghost_size=2)
    x = torch.randn(4, 2, 3, 3, requires_grad=True)
    total = layer(x).sin().sum() + layer(2 * x).cos().sum()
    layer.running_mean.zero_()  # what DistributedDataParallel does to buffers between two passes
    total.backward()
    assert x.grad is not None and x.grad.isfinite().all()


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    while True:
        x = torch.randn(16, 3, 5, 5, generator=generator)
        yield x, (x.mean((1, 2, 3)) > 0).long()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> list[float]:
    losses = []
    for update, (x, y) in zip(range(last), batches(), strict=False):
        if update >= first:
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def test_training_changes_falls_and_resumes_to_the_bit(tmp_path: Path) -> None:
    def fresh(ghost_size: int | None) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = network()
        del model[3][2]
        if ghost_size:
            convert(model, ghost_size)
        return model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)

    losses = {size: train(*fresh(size), 0, 30) for size in (None, 4, 8)}
    assert len({tuple(found) for found in losses.values()}) == 3
    # A ghost of the whole batch is plain BatchNorm to the bit.
    assert train(*fresh(16), 0, 5) == losses[None][:5]
    assert sum(losses[4][-5:]) < 0.8 * sum(losses[4][:5])

    model, optimizer = fresh(4)
    assert train(model, optimizer, 0, 12) == losses[4][:12]
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "half.pt")
    stored = torch.load(tmp_path / "half.pt", weights_only=True)
    model, optimizer = fresh(4)
    model.load_state_dict(stored["model"])
    optimizer.load_state_dict(stored["optimizer"])
    assert train(model, optimizer, 12, 30) == losses[4][12:]


def _rank(rank: int, folder: str, grouping: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = convert(network().double(), 4, grouping=grouping)
    wrapped = nn.parallel.DistributedDataParallel(model)
    for update in range(2):
        x = torch.randn(2, 12, 3, 5, 5, generator=torch.Generator().manual_seed(update), dtype=torch.float64)
        wrapped(x[rank]).sin().mean().backward()
    found = {"gradient": {n: p.grad for n, p in model.named_parameters()}, "buffer": dict(model.named_buffers())}
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    # A regular exit tears down gloo's threads and aborts now and then.
    os._exit(0)


@pytest.mark.multiprocess
@pytest.mark.parametrize("grouping", ["consecutive", "strided"])
def test_distributed_data_parallel(grouping: Any, tmp_path: Path) -> None:
    """Every rank has its own ghosts: gradients are the mean over ranks, running statistics start from rank 0's."""
    torch.multiprocessing.spawn(_rank, args=(str(tmp_path), grouping), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    model = convert(network().double(), 4, grouping=grouping)
    for update in range(2):
        x = torch.randn(2, 12, 3, 5, 5, generator=torch.Generator().manual_seed(update), dtype=torch.float64)
        entered = copy.deepcopy(dict(model.named_buffers()))
        (model(x[0]).sin().mean() / 2).backward()
        first = copy.deepcopy(dict(model.named_buffers()))
        for name, buffer in model.named_buffers():
            buffer.copy_(entered[name])
        (model(x[1]).sin().mean() / 2).backward()
        second = copy.deepcopy(dict(model.named_buffers()))
        for name, buffer in model.named_buffers():
            buffer.copy_(first[name])
    for rank, expected in zip(ranks, (first, second), strict=True):
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(rank["gradient"][name], parameter.grad, rtol=1e-10, atol=1e-12)
        for name, buffer in expected.items():
            torch.testing.assert_close(rank["buffer"][name], buffer, rtol=1e-10, atol=1e-12)
