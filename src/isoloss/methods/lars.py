"""LARS: momentum SGD with one trust ratio a tensor.

    original       ratio = c ||x|| / (||g|| + wd ||x|| + eps)      d = ratio (g + wd x)
                   b = mu b + d;  x = x - lr b                     with Nesterov: x = x - lr (d + mu b)
    larc           the same with min(ratio / lr, 1): never above plain SGD's step
    lamb-paper     b = mu b + (1 - mu) (g + wd x);  x = x - lr phi(||x||) / ||b|| b      with phi(z) = z

A ratio is 1 where one of its norms is 0. Sources: You, Gitman and Ginsburg 2017 (arXiv 1708.03888), as
implementations have it: lr outside the momentum; NVIDIA apex (larc); You et al. 2020 (arXiv 1904.00962),
algorithm 1 (lamb-paper).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from isoloss.methods._layerwise import (
    LayerWise,
    alone,
    check_number,
    exclusion_groups,
    gradients,
    local,
    squared_norms,
    squares,
)
from isoloss.recipe.errors import nearest

__all__ = ["LARS", "VARIANTS", "exclusion_groups"]

VARIANTS = ("original", "larc", "lamb-paper")
"""The rules that are in use under this name."""


class LARS(LayerWise):
    """LARS over real parameters of any floating type.

    A group may set ``lr``, ``momentum``, ``weight_decay``, ``coefficient`` (c), ``eps`` and ``adapt`` (whether its
    tensors get the trust ratio; without it the rule is momentum SGD with weight decay). ``variant``: a name of
    VARIANTS, one for the optimizer. ``foreach``: all tensors at once (None: not on the CPU). A tensor without a
    gradient is left as it is. A gradient that is not finite makes its tensor not finite. Raises ValueError for
    options out of range, complex or integer parameters, and sparse gradients.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        coefficient: float = 0.001,
        eps: float = 1e-8,
        nesterov: bool = False,
        variant: str = "original",
        adapt: bool = True,
        foreach: bool | None = None,
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"LARS: variant {variant!r}; allowed: {', '.join(VARIANTS)}{nearest(variant, VARIANTS)}")
        defaults: dict[str, Any] = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "coefficient": coefficient,
        }
        defaults |= {"eps": eps, "nesterov": nesterov, "variant": variant, "adapt": adapt, "foreach": foreach}
        super().__init__(params, defaults)

    def _check_group(self, group: dict[str, Any]) -> None:
        for name in ("lr", "weight_decay", "coefficient", "eps"):
            check_number("LARS", name, group[name])
        check_number("LARS", "momentum", group["momentum"], high=1.0)
        if group["nesterov"] and (group["momentum"] == 0 or group["variant"] == "lamb-paper"):
            raise ValueError(
                f"LARS: nesterov with momentum {group['momentum']:g} and variant {group['variant']!r}; "
                "allowed: momentum above 0, and variants original and larc"
            )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; the value of ``closure``, which is called first, with gradients enabled."""
        loss = self._evaluate(closure)
        for group in self.param_groups:
            rule = _lamb_paper if group["variant"] == "lamb-paper" else _original
            for batch in self._batches(group):
                buffers = []
                if group["momentum"]:
                    for p in batch:
                        if "momentum_buffer" not in self.state[p]:
                            self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                    buffers = [local(self.state[p]["momentum_buffer"]) for p in batch]
                rule(batch, [local(p) for p in batch], gradients(batch), buffers, group)
        return loss


def _original(batch: list[Tensor], x: list[Tensor], g: list[Tensor], b: list[Tensor], group: dict[str, Any]) -> None:
    mu, wd, lr = group["momentum"], group["weight_decay"], group["lr"]
    if alone(batch):
        ratio = _ratio(squares(x[0]), squares(g[0]), group) if group["adapt"] else 1.0
        _one(x[0], g[0], b, ratio, group)
        return
    d = torch._foreach_add(g, x, alpha=wd)
    if group["adapt"]:
        ratios = _ratios(squared_norms(x, batch), squared_norms(g, batch), group)
        torch._foreach_mul_(d, list(ratios.unbind()))
    if mu:
        torch._foreach_mul_(b, mu)
        torch._foreach_add_(b, d)
        if group["nesterov"]:
            torch._foreach_add_(d, b, alpha=mu)
        else:
            d = tuple(b)
    torch._foreach_add_(x, d, alpha=-lr)


def _ratio(x2: float, g2: float, group: dict[str, Any]) -> float:
    """c ||x|| / (||g|| + wd ||x|| + eps) from squares; larc: over lr, at most 1."""
    if x2 == 0 or g2 == 0:
        ratio = 1.0
    else:
        norm = math.sqrt(x2)
        ratio = group["coefficient"] * norm / (math.sqrt(g2) + group["weight_decay"] * norm + group["eps"])
    if group["variant"] == "larc":
        return min(ratio / group["lr"], 1.0) if group["lr"] else 1.0
    return ratio


def _ratios(x2: Tensor, g2: Tensor, group: dict[str, Any]) -> Tensor:
    """The same for many, shape (n,), without reading them."""
    norm = x2.sqrt()
    full = group["coefficient"] * norm / (g2.sqrt() + group["weight_decay"] * norm + group["eps"])
    ratios = torch.where((x2 == 0) | (g2 == 0), 1.0, full)
    return (ratios / group["lr"]).clamp(max=1.0) if group["variant"] == "larc" else ratios


def _one(x: Tensor, g: Tensor, b: list[Tensor], ratio: float, group: dict[str, Any]) -> None:
    """One tensor on the CPU, in as few passes as the kernels allow."""
    mu, wd, lr = group["momentum"], group["weight_decay"], group["lr"]
    if group["nesterov"]:
        b[0].mul_(mu).add_(g, alpha=ratio).add_(x, alpha=ratio * wd)
        x.mul_(1.0 - lr * ratio * wd).add_(g, alpha=-lr * ratio).add_(b[0], alpha=-lr * mu)
    elif mu == 0:
        x.mul_(1.0 - lr * ratio * wd).add_(g, alpha=-lr * ratio)
    elif x.stride() == b[0].stride():
        # SGD's kernel adds (1 - dampening) times the gradient to the momentum.
        torch._fused_sgd_(
            [x], [g], b,
            weight_decay=wd, momentum=mu, lr=lr, dampening=1.0 - ratio,
            nesterov=False, maximize=False, is_first_step=False,
        )  # fmt: skip
    else:
        b[0].mul_(mu).add_(g, alpha=ratio).add_(x, alpha=ratio * wd)
        x.add_(b[0], alpha=-lr)


def _lamb_paper(batch: list[Tensor], x: list[Tensor], g: list[Tensor], b: list[Tensor], group: dict[str, Any]) -> None:
    mu, wd, lr = group["momentum"], group["weight_decay"], group["lr"]
    if mu:
        torch._foreach_mul_(b, mu)
        torch._foreach_add_(b, g, alpha=1.0 - mu)
        torch._foreach_add_(b, x, alpha=(1.0 - mu) * wd)
    else:
        b = list(torch._foreach_add(g, x, alpha=wd))
    if not group["adapt"]:
        torch._foreach_add_(x, b, alpha=-lr)
    elif alone(batch):
        x1, b1 = math.sqrt(squares(x[0])), math.sqrt(squares(b[0]))
        x[0].add_(b[0], alpha=-lr * (1.0 if x1 == 0 or b1 == 0 else x1 / b1))
    else:
        x2, b2 = squared_norms(x, batch), squared_norms(b, batch)
        ratios = torch.where((x2 == 0) | (b2 == 0), 1.0, (x2 / b2).sqrt())
        torch._foreach_add_(x, torch._foreach_mul(b, list(ratios.unbind())), alpha=-lr)
