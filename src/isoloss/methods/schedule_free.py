"""Schedule-Free: no learning-rate schedule, and a good average to evaluate after every update.

    z' = z - lr_t (d + wd y)          the base step; d = g, the gradient at y, or Adam's g / (sqrt(v_hat) + eps)
    x' = (1 - c) x + c z'             the average, which is evaluated
    y' = (1 - b) z' + b x'            where the next gradient is taken

    v = b2 v + (1 - b2) g^2           v_hat = v / (1 - b2^t)
    lr_t = lr min(1, t / warmup)      c = w_t / (w_1 + .. + w_t),   w_t = t^r (max_{i <= t} lr_i)^power

Source: Defazio et al. 2024 (arXiv 2405.15682), algorithm 1, with the weights and the corrected second moment of its
authors' package; `weight_lr_power` is the power.

The parameters hold y, always: there is no mode. The state holds x. z is not kept, for b < 1 says what it is, and

    y1 = y - (1 - b) lr_t (d + wd y)            = (1 - b) z' + b x
    y' = y1 + b k (y1 - x)                      k = c / (1 - b)
    x' = x + k / (1 + b k) (y' - x)

is the same in three passes, for AdamW the first of them torch's fused kernel. Rounding of y reaches z enlarged
1 / (1 - b) times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import ParamsT

from isoloss.methods._layerwise import Checked, check_number, local

__all__ = ["ScheduleFreeAdamW", "ScheduleFreeSGD"]

# Numbers that go through the three passes together on the CPU: they stay in its last cache.
CHUNK = 1 << 19


class Part:
    """Tensors of one type and device that step together; v and t are Adam's second moments and step counts."""

    def __init__(self) -> None:
        self.y: list[Tensor] = []
        self.g: list[Tensor] = []
        self.x: list[Tensor] = []
        self.v: list[Tensor] = []
        self.t: list[Tensor] = []
        self.size = 0

    def add(self, y: Tensor, g: Tensor, x: Tensor, v: Tensor | None, t: Tensor | None) -> None:
        """One more tensor."""
        self.y.append(y)
        self.g.append(g)
        self.x.append(x)
        if v is not None and t is not None:
            self.v.append(v)
            self.t.append(t)
        self.size += y.numel()


class ScheduleFree(Checked):
    """What both have: the clock and weights of a group, the two interpolations, the average.

    A group counts the updates in which one of its tensors had a gradient; a group without any stands still. A tensor
    without a gradient is left as it is.
    """

    _inside = False

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults | {"updates": 0, "weight_sum": 0.0, "lr_max": 0.0})
        self.register_state_dict_pre_hook(_not_inside)

    def _check_group(self, group: dict[str, Any]) -> None:
        who = type(self).__name__
        for name in ("lr", "weight_decay", "r", "weight_lr_power"):
            check_number(who, name, group[name])
        warmup = group["warmup"]
        if not isinstance(warmup, int) or isinstance(warmup, bool) or warmup < 0:
            raise ValueError(f"{who}: warmup is {warmup!r}; allowed: a number of updates, at least 0")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; the value of ``closure``, which is called first, with gradients enabled.

        Raises ValueError for sparse gradients and inside ``averaged()``.
        """
        _not_inside(self)
        loss = self._evaluate(closure)
        for group in self.param_groups:
            active = [p for p in group["params"] if p.grad is not None]
            if not active:
                continue
            for p in active:
                if "x" not in self.state[p]:
                    self._begin(p)
            self._advance(active)
            lr, c = _tick(group)
            b = self._interpolation(group)
            k = c / (1.0 - b)
            for part in self._parts(active):
                self._descend(part, group, (1.0 - b) * lr)
                torch._foreach_lerp_(part.y, part.x, -b * k)
                torch._foreach_lerp_(part.x, part.y, k / (1.0 + b * k))
        return loss

    def average(self) -> list[Tensor]:
        """x of every parameter, group by group, as new tensors: the weights to evaluate and to ship."""
        _not_inside(self)
        return [self._x(p).clone() for group in self.param_groups for p in group["params"]]

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The parameters hold x inside, and the very bits of y again afterwards, after an error too.

        Inside, ``step``, ``state_dict``, ``average`` and ``averaged`` raise ValueError. Costs one copy of the
        parameters.
        """
        _not_inside(self)
        held = [(p, p.detach().clone()) for group in self.param_groups for p in group["params"]]
        self._inside = True
        try:
            with torch.no_grad():
                for p, _ in held:
                    p.copy_(self._x(p))
            yield
        finally:
            with torch.no_grad():
                for p, y in held:
                    p.copy_(y)
            self._inside = False

    def _x(self, p: Tensor) -> Tensor:
        state: dict[str, Tensor] = self.state.get(p, {})
        return state.get("x", p.detach())

    def _begin(self, p: Tensor) -> None:
        self.state[p]["x"] = p.detach().clone(memory_format=torch.preserve_format)

    def _advance(self, active: list[Tensor]) -> None:
        """Count an update of each tensor, where the rule needs its own count."""

    def _parts(self, active: list[Tensor]) -> Iterator[Part]:
        """The tensors with what belongs to them: on the CPU in parts that stay in the cache, elsewhere together."""
        parts: dict[Any, Part] = {}
        irregular = []
        for p in active:
            state = self.state[p]
            y, g, x, v, t = p, p.grad, state["x"], state.get("exp_avg_sq"), state.get("step")
            assert g is not None
            plain = y.is_contiguous() and g.is_contiguous() and x.is_contiguous() and g.dtype == y.dtype
            if not plain or isinstance(p, DTensor) or (v is not None and not v.is_contiguous()):
                y, g, x, v = self._laid_out(p)
                irregular.append((local(p), y))
            size, on_cpu = y.numel(), y.is_cpu
            if on_cpu and size > CHUNK and y.is_contiguous():
                for at in range(0, size, CHUNK):
                    part = Part()
                    part.add(_cut(y, at), _cut(g, at), _cut(x, at), v if v is None else _cut(v, at), t)
                    yield part
                continue
            key = y.dtype, y.device
            if key not in parts:
                parts[key] = Part()
            elif on_cpu and parts[key].size + size > CHUNK:
                yield parts[key]
                parts[key] = Part()
            parts[key].add(y, g, x, v, t)
        yield from parts.values()
        for p, y in irregular:
            if p is not y:
                p.copy_(y)

    def _laid_out(self, p: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """y, g, x and v in one dense memory layout, for kernels that walk memory; y is a copy where need be."""
        y = local(p)
        if not torch.ops.aten.is_non_overlapping_and_dense(y):
            y = y.clone()
        assert p.grad is not None
        g = local(p.grad)
        if g.dtype != y.dtype or g.stride() != y.stride():
            g = torch.empty_like(y).copy_(g)
        state = self.state[p]
        for name in ("x", "exp_avg_sq"):
            if name in state and local(state[name]).stride() != y.stride():
                state[name] = torch.empty_like(y).copy_(state[name])
        return y, g, local(state["x"]), local(state["exp_avg_sq"]) if "exp_avg_sq" in state else None

    def _interpolation(self, group: dict[str, Any]) -> float:
        raise NotImplementedError

    def _descend(self, part: Part, group: dict[str, Any], lr: float) -> None:
        """y - lr (d + wd y), in place of y."""
        raise NotImplementedError


class ScheduleFreeSGD(ScheduleFree):
    """Schedule-Free SGD over real parameters of any floating type.

    ``lr``: 10 to 50 times that of scheduled SGD is usual. ``momentum``: b, in [0, 1); 0 averages plain SGD.
    ``weight_decay`` is decay at y. ``warmup``: updates of linear warm-up. ``r``, ``weight_lr_power``: weights of the
    average. A group may set each of them. A gradient is never written to. Raises ValueError for options out of
    range, complex or integer parameters, sparse gradients.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        warmup: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "warmup": warmup}
        super().__init__(params, defaults | {"r": r, "weight_lr_power": weight_lr_power})

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        check_number("ScheduleFreeSGD", "momentum", group["momentum"], high=1.0)

    def _interpolation(self, group: dict[str, Any]) -> float:
        return float(group["momentum"])

    def _descend(self, part: Part, group: dict[str, Any], lr: float) -> None:
        if group["weight_decay"]:
            torch._foreach_mul_(part.y, 1.0 - lr * group["weight_decay"])
        torch._foreach_add_(part.y, part.g, alpha=-lr)


class ScheduleFreeAdamW(ScheduleFree):
    """Schedule-Free AdamW over real parameters of any floating type.

    ``lr``: 1 to 10 times that of scheduled AdamW is usual. ``betas``: (b, b2); b in [0, 1) and up to 0.98 for very
    long runs. ``weight_decay`` is decay at y. ``warmup``: updates of linear warm-up. ``r``, ``weight_lr_power``:
    weights of the average. A group may set each of them. A finite gradient is never changed. Raises ValueError for
    options out of range, complex or integer parameters, sparse gradients.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.0025,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        warmup: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "warmup": warmup}
        super().__init__(params, defaults | {"r": r, "weight_lr_power": weight_lr_power})

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        check_number("ScheduleFreeAdamW", "eps", group["eps"])
        for beta in group["betas"]:
            check_number("ScheduleFreeAdamW", "a beta", beta, high=1.0)

    def _interpolation(self, group: dict[str, Any]) -> float:
        return float(group["betas"][0])

    def _begin(self, p: Tensor) -> None:
        super()._begin(p)
        self.state[p]["step"] = torch.zeros((), dtype=torch.float32)
        self.state[p]["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)

    def _advance(self, active: list[Tensor]) -> None:
        torch._foreach_add_([self.state[p]["step"] for p in active], torch.ones(()), alpha=1)

    def _descend(self, part: Part, group: dict[str, Any], lr: float) -> None:
        # Without a first moment the kernel writes m = g: onto the gradient itself, where that changes nothing.
        t = part.t if part.y[0].device.type == "cpu" else [step.to(part.y[0].device) for step in part.t]
        torch._fused_adamw_(
            part.y, part.g, part.g, part.v, [], t,
            lr=lr, beta1=0.0, beta2=group["betas"][1], weight_decay=group["weight_decay"], eps=group["eps"],
            amsgrad=False, maximize=False,
        )  # fmt: skip


def _tick(group: dict[str, Any]) -> tuple[float, float]:
    """(lr_t, c) of the next update of a group, whose clock moves on."""
    group["updates"] = t = group["updates"] + 1
    lr = float(group["lr"]) * min(1.0, t / group["warmup"] if group["warmup"] else 1.0)
    group["lr_max"] = max(group["lr_max"], lr)
    weight = t ** group["r"] * group["lr_max"] ** group["weight_lr_power"]
    group["weight_sum"] += weight
    return lr, weight / group["weight_sum"] if group["weight_sum"] else 0.0


def _cut(tensor: Tensor, at: int) -> Tensor:
    return tensor.view(-1)[at : at + CHUNK]


def _not_inside(optimizer: torch.optim.Optimizer) -> None:
    if getattr(optimizer, "_inside", False):
        raise ValueError(
            f"{type(optimizer).__name__}: inside averaged() the parameters hold the average x; "
            "allowed there: evaluation and saving of the weights. Step, save the optimizer and average outside"
        )
