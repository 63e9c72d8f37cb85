"""Ghost batch normalisation: BatchNorm whose statistics come from small pieces of the batch.

    K = max(1, N // ghost_size) ghosts of a batch of N samples, B_k the samples of ghost k
    y = gamma (x - mu_k) / sqrt(var_k + eps) + beta           for x in B_k, statistics per channel

Grouping of the samples
    consecutive   ghost k holds the samples that follow those of ghost k - 1        (Hoffer et al. 2017)
    strided       ghost k holds the samples k, k + K, k + 2K, ...
Sizes differ by at most one (the first N mod K ghosts hold one sample more): no ghost is smaller than `ghost_size`,
and a batch below it is one ghost, which is plain BatchNorm.

Running statistics r, from the K ghost statistics s_1 ... s_K with momentum m
    sequential    r = (1-m)^K r + sum_k m (1-m)^(K-k) s_k     K updates in a row, as in the authors' code
    averaged      r = (1-m) r + m mean_k s_k                  one update
With momentum None, r is the mean of all s so far (sequential) or of all mean_k s_k so far (averaged).

Evaluation is BatchNorm's own. Source: Hoffer, Hubara and Soudry 2017, section 4 and algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from isoloss.recipe.errors import nearest

Running = Literal["sequential", "averaged"]
Grouping = Literal["consecutive", "strided"]
Model = TypeVar("Model", bound=nn.Module)


def ghost_count(batch: int, ghost_size: int) -> int:
    """Ghosts K that a batch of `batch` samples is cut into."""
    return max(1, batch // ghost_size)


def running_weights(momentum: float, ghosts: int, running: Running) -> tuple[float, list[float]]:
    """Weights of the old running statistic and of each ghost's, in order; they sum to 1."""
    if running == "averaged":
        return 1 - momentum, [momentum / ghosts] * ghosts
    keep = 1 - momentum
    return keep**ghosts, [momentum * keep ** (ghosts - 1 - ghost) for ghost in range(ghosts)]


class _Ghost(_BatchNorm):
    """What the layers below add to their BatchNorm: the settings, and the forward pass of training."""

    ghost_size: int
    running: Running
    grouping: Grouping

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        ghost_size: int,
        running: Running = "sequential",
        grouping: Grouping = "consecutive",
        bias: bool = True,
    ) -> None:
        _check(type(self).__name__, ghost_size, running, grouping)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        if not bias:
            self.register_parameter("bias", None)
        self.ghost_size, self.running, self.grouping = ghost_size, running, grouping

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, ...); in training each ghost by its own statistics, which enter the running ones.

        Raises ValueError in training for an empty batch and for a ghost with one value per channel.
        """
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        ghosts = ghost_count(len(input), self.ghost_size)
        if len(input) // ghosts * input.shape[2:].numel() < 2:
            raise ValueError(
                f"{type(self).__name__}: a ghost of input {tuple(input.shape)} with ghost_size {self.ghost_size} has "
                "fewer than 2 values per channel, so no variance; allowed in training: 2 or more"
            )
        buffers: Any = ()
        if self.track_running_stats:
            buffers = self.running_mean, self.running_var, self.num_batches_tracked
        means, variances = None, None
        if buffers:
            # Each ghost is normalised with running buffers of its own at momentum 1, which then hold its statistics.
            means, variances = buffers[0].new_zeros(2, ghosts, self.num_features).unbind()
        output = _normalise(input, self.weight, self.bias, means, variances, ghosts, self.grouping, self.eps)
        if buffers:
            # The operator is opaque to the compiler: whether a backward pass is running is asked when it runs.
            update: Any = torch.ops.isoloss.ghost_statistics if torch.compiler.is_compiling() else _update
            update(*buffers, means, variances, self.momentum, self.running)
        return output

    def extra_repr(self) -> str:
        settings = f"ghost_size={self.ghost_size}, running={self.running}, grouping={self.grouping}"
        return f"{super().extra_repr()}, {settings}"


class GhostBatchNorm1d(_Ghost, nn.BatchNorm1d):
    """Ghost BatchNorm of (N, C) or (N, C, L): `nn.BatchNorm1d` with `ghost_size`, `running` and `grouping`."""


class GhostBatchNorm2d(_Ghost, nn.BatchNorm2d):
    """Ghost BatchNorm of (N, C, H, W): `nn.BatchNorm2d` with `ghost_size`, `running` and `grouping`."""


class GhostBatchNorm3d(_Ghost, nn.BatchNorm3d):
    """Ghost BatchNorm of (N, C, D, H, W): `nn.BatchNorm3d` with `ghost_size`, `running` and `grouping`."""


class GhostBatchNorm(_Ghost):
    """Ghost BatchNorm of (N, C, ...), what `convert` makes of `nn.SyncBatchNorm`.

    Its ghosts are the local samples of a process, so nothing is communicated.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"GhostBatchNorm: input of shape {tuple(input.shape)}; allowed: (N, C, ...)")


TWINS: dict[type[_BatchNorm], type[_Ghost]] = {
    nn.BatchNorm1d: GhostBatchNorm1d,
    nn.BatchNorm2d: GhostBatchNorm2d,
    nn.BatchNorm3d: GhostBatchNorm3d,
    nn.SyncBatchNorm: GhostBatchNorm,
}


def convert(
    model: Model, ghost_size: int, *, running: Running = "sequential", grouping: Grouping = "consecutive"
) -> Model:
    """Turn every BatchNorm of `model` into Ghost BatchNorm, in place; return `model`.

    Layers change class and nothing else, so parameters, buffers, hooks, modes and optimizers that hold them stay.
    Layers that are ghosts already take the new settings. Compile, shard and parametrise after it.
    Raises ValueError for wrong settings, a model without BatchNorm, and BatchNorm layers of foreign classes; the
    model is unchanged then.
    """
    _check("convert", ghost_size, running, grouping)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)}
    if not layers:
        raise ValueError(f"convert: {type(model).__name__} has no BatchNorm layer, so ghost_size would do nothing")
    for name, layer in layers.items():
        if type(layer) not in TWINS and type(layer) not in TWINS.values():
            allowed = ", ".join(twin.__name__ for twin in TWINS)
            raise ValueError(
                f"convert: layer {name or 'itself'!r} is a {type(layer).__name__}; allowed: {allowed} (run a lazy "
                "layer once first; convert before sharding or parametrising)"
            )
    for layer in layers.values():
        layer.__class__ = TWINS.get(type(layer), type(layer))  # type: ignore[assignment]
        layer.ghost_size, layer.running, layer.grouping = ghost_size, running, grouping  # type: ignore[assignment]
    return model


def revert(model: Model) -> Model:
    """Undo `convert`, in place; return `model`. Raises ValueError for a model without Ghost BatchNorm."""
    plain = {ghost: twin for twin, ghost in TWINS.items()}
    layers = [layer for layer in model.modules() if isinstance(layer, _Ghost)]
    if not layers:
        raise ValueError(f"revert: {type(model).__name__} has no Ghost BatchNorm layer")
    for layer in layers:
        if type(layer) not in plain:
            allowed = ", ".join(ghost.__name__ for ghost in plain)
            raise ValueError(f"revert: the model has a {type(layer).__name__}; allowed: {allowed}")
    for layer in layers:
        del layer.ghost_size, layer.running, layer.grouping
        layer.__class__ = plain[type(layer)]  # type: ignore[assignment]
        if isinstance(layer, nn.SyncBatchNorm) and not hasattr(layer, "process_group"):
            layer.process_group = None
    return model


def layout_dependent(model: nn.Module) -> list[str]:
    """Names of the plain BatchNorm layers: how a batch is cut into micro-batches changes their statistics."""
    fixed = (_Ghost, nn.SyncBatchNorm)
    return [n for n, layer in model.named_modules() if isinstance(layer, _BatchNorm) and not isinstance(layer, fixed)]


def _check(where: str, ghost_size: object, running: str, grouping: str) -> None:
    if not isinstance(ghost_size, int) or isinstance(ghost_size, bool) or ghost_size < 1:
        raise ValueError(f"{where}: ghost_size is {ghost_size!r}; allowed: a whole number from 1")
    for name, value, kind in (("running", running, Running), ("grouping", grouping, Grouping)):
        allowed = get_args(kind)
        if value not in allowed:
            hint = nearest(str(value), allowed)
            raise ValueError(f"{where}: {name} is {value!r}; allowed: {', '.join(allowed)}{hint}")


def _normalise(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    means: Tensor | None,
    variances: Tensor | None,
    ghosts: int,
    grouping: Grouping,
    eps: float,
) -> Tensor:
    """Normalised x; statistics of the ghosts are written into `means` and `variances` (K, C), where given."""
    layout = _layout(x)
    x = x.contiguous(memory_format=layout)
    strided = grouping == "strided"
    mean, variance = (None if s is None else s.view(-1) for s in (means, variances))
    if ghosts == 1:
        return F.batch_norm(x, mean, variance, weight, bias, True, 1.0, eps)
    if strided and len(x) % ghosts == 0 and layout == torch.contiguous_format:
        # Sample i = s K + k of channel c is sample s of channel k C + c: the memory is (N/K, K C, ...) as it stands.
        view = x.view(len(x) // ghosts, ghosts * x.shape[1], *x.shape[2:])
        # Of one channel reshape would be a view of stride 0, which torch's backward kernel reads past.
        gamma, beta = (None if p is None else p.expand(ghosts, -1).reshape(-1).contiguous() for p in (weight, bias))
        return F.batch_norm(view, mean, variance, gamma, beta, True, 1.0, eps).view_as(x)
    if _takes_loop(x, weight, means):
        output: Tensor = _Loop.apply(x, weight, bias, means, variances, ghosts, strided, layout, eps)  # type: ignore[no-untyped-call]
        return output
    order = torch.cat([torch.arange(len(x), device=x.device)[k::ghosts] for k in range(ghosts)]) if strided else None
    pieces = (x if order is None else x[order]).tensor_split(ghosts)
    outputs = [
        F.batch_norm(piece.contiguous(memory_format=layout), mean, variance, weight, bias, True, 1.0, eps)
        for piece, mean, variance in zip(pieces, _rows(means, ghosts), _rows(variances, ghosts), strict=True)
    ]
    joined = torch.cat(outputs)
    return joined if order is None else joined[order.argsort()].contiguous(memory_format=layout)


class _Loop(torch.autograd.Function):
    """The ghosts one after the other, each read from and written to its place: no joining of pieces at the end."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        means: Tensor | None,
        variances: Tensor | None,
        ghosts: int,
        strided: bool,
        layout: torch.memory_format,
        eps: float,
    ) -> Tensor:
        output = torch.empty_like(x)
        mu, inverse = x.new_empty(2, ghosts, x.shape[1]).unbind()
        statistics = _rows(means, ghosts), _rows(variances, ghosts), mu.unbind(), inverse.unbind()
        places = _pieces(x, ghosts, strided), _pieces(output, ghosts, strided)
        for piece, place, mean, variance, *saved in zip(*places, *statistics, strict=True):
            dense = piece.contiguous(memory_format=layout)
            out = torch.empty_like(dense) if strided else place
            torch.native_batch_norm(dense, weight, bias, mean, variance, True, 1.0, eps, out=(out, *saved))
            if strided:
                place.copy_(out)
        ctx.save_for_backward(x, weight, mu, inverse)
        ctx.settings = strided, layout, eps
        return output

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mu, inverse = ctx.saved_tensors
        strided, layout, eps = ctx.settings
        ghosts, wanted = len(mu), list(ctx.needs_input_grad[:3])
        gradient = torch.empty_like(x)
        sums: list[Tensor | None] = [None, None]
        places = [_pieces(t, ghosts, strided) for t in (slopes[0], x, gradient)]
        for slope, piece, place, mean, scale in zip(*places, mu.unbind(), inverse.unbind(), strict=True):
            found, *parts = torch.ops.aten.native_batch_norm_backward(
                slope.contiguous(memory_format=layout),
                piece.contiguous(memory_format=layout),
                weight,
                None,
                None,
                mean,
                scale,
                True,
                eps,
                wanted,
            )
            if wanted[0]:
                place.copy_(found)
            for i, part in enumerate(parts):
                if wanted[i + 1]:
                    before = sums[i]
                    sums[i] = part if before is None else before + part
        return gradient if wanted[0] else None, *sums, *[None] * 6


def _takes_loop(x: Tensor, *others: Tensor | None) -> bool:
    """Whether `_Loop` serves this call: eager CPU code of one precision without transforms."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and all(other is None or other.dtype == x.dtype for other in others)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def _layout(x: Tensor) -> torch.memory_format:
    """Memory format that the output keeps."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
    if last is None or x.is_contiguous() or not x.is_contiguous(memory_format=last):
        return torch.contiguous_format
    return last


def _pieces(x: Tensor, ghosts: int, strided: bool) -> Iterator[Tensor]:
    """Views of x, one a ghost. Each is made when it is asked for: autograd refuses to write into an older view."""
    size, more = divmod(len(x), ghosts)
    for k in range(ghosts):
        if strided:
            yield x[k::ghosts]
        else:
            begin = k * size + min(k, more)
            yield x[begin : begin + size + (k < more)]


def _rows(statistics: Tensor | None, ghosts: int) -> Sequence[Tensor | None]:
    return [None] * ghosts if statistics is None else statistics.unbind()


@torch.no_grad()
def _update(
    mean: Tensor,
    variance: Tensor,
    count: Tensor,
    means: Tensor,
    variances: Tensor,
    momentum: float | None,
    running: Running,
) -> None:
    """Enter the statistics (K, C) of the ghosts of one batch into the running ones (C), in place."""
    if torch._C._current_graph_task_id() != -1:
        # Inside a backward pass a forward pass is a checkpoint's second one: its batch is counted already.
        return
    ghosts = len(means)
    steps = ghosts if running == "sequential" else 1
    count.add_(steps)
    wide = torch.promote_types(mean.dtype, torch.float32)
    if momentum is not None:
        keep, shares = running_weights(momentum, ghosts, running)
        weights = means.new_tensor(shares, dtype=wide)
    for old, found in ((mean, means), (variance, variances)):
        exact = old if old.dtype == wide else old.to(wide)
        new = found if found.dtype == wide else found.to(wide)
        if momentum is None:
            # The count stays on its device.
            exact.lerp_(new.mean(0), steps / count.to(wide))
        else:
            exact.addmv_(new.t(), weights, beta=keep)
        if exact is not old:
            old.copy_(exact)


torch.library.custom_op(
    "isoloss::ghost_statistics",
    _update,
    mutates_args=("mean", "variance", "count"),
    schema="(Tensor(a!) mean, Tensor(b!) variance, Tensor(c!) count, Tensor means, Tensor variances, float? momentum, "
    "str running) -> ()",
).register_fake(lambda *_: None)
