"""LAMB: Adam with one trust ratio a tensor, so that every layer's step is proportional to its weights.

    m = b1 m + (1 - b1) g                 v = b2 v + (1 - b2) g^2
    r = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)
    u = r + wd x
    x = x - lr ratio u                    ratio = phi(||x||) / ||u||, and 1 where a norm is 0
    phi(z) = min(max(z, low), high)

Source: You et al. 2020 (arXiv 1904.00962), algorithm 2. Variants in use, by name:

    paper           bias correction, phi(z) = z                                     (also TensorFlow addons)
    nvlamb          g divided by max(1, ||all g|| / 1.0); ratio only with weight decay          (apex, timm)
    lambc           ratio at most 1                                                     (Fong et al. 2020)
    pytorch-lamb    no bias correction, phi(z) = min(z, 10)                       (cybertronai/pytorch-lamb)

On the CPU one tensor at a time: torch's fused Adam kernel at lr 1, run on a scratch that holds -wd x, leaves -u
there in one pass over g, m and v. Elsewhere, and for sharded parameters, the same on all tensors at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
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

__all__ = ["LAMB", "VARIANTS", "Variant", "exclusion_groups"]


@dataclass(frozen=True)
class Variant:
    """What the rules in use differ in."""

    bias_correction: bool = True
    phi: tuple[float, float] = (0.0, math.inf)
    ratio_max: float = math.inf
    max_norm: float = math.inf
    only_decayed: bool = False
    """Whether tensors without weight decay go without the ratio too."""


VARIANTS = {
    "paper": Variant(),
    "nvlamb": Variant(max_norm=1.0, only_decayed=True),
    "lambc": Variant(ratio_max=1.0),
    "pytorch-lamb": Variant(bias_correction=False, phi=(0.0, 10.0)),
}
"""The rules that are in use under this name."""


class LAMB(LayerWise):
    """LAMB over real parameters of any floating type.

    A group may set ``lr``, ``betas``, ``eps``, ``weight_decay`` and ``adapt`` (whether its tensors get the trust
    ratio; None: as the variant says). ``variant``: a name of VARIANTS, one for the optimizer. ``foreach``: all
    tensors at once (None: not on the CPU). A tensor without a gradient is left as it is. A gradient that is not
    finite makes its whole tensor not finite: it is never hidden by a ratio of 1. Raises ValueError for options
    out of range, complex or integer parameters, and sparse gradients.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        variant: str = "paper",
        adapt: bool | None = None,
        foreach: bool | None = None,
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"LAMB: variant {variant!r}; allowed: {', '.join(VARIANTS)}{nearest(variant, VARIANTS)}")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"variant": variant, "adapt": adapt, "foreach": foreach})

    def _check_group(self, group: dict[str, Any]) -> None:
        check_number("LAMB", "lr", group["lr"])
        check_number("LAMB", "weight_decay", group["weight_decay"])
        check_number("LAMB", "eps", group["eps"])
        for beta in group["betas"]:
            check_number("LAMB", "a beta", beta, high=1.0)
        if group["variant"] != self.defaults["variant"]:
            raise ValueError(f"LAMB: a group has variant {group['variant']!r}; allowed: {self.defaults['variant']!r}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; the value of ``closure``, which is called first, with gradients enabled."""
        loss = self._evaluate(closure)
        variant = VARIANTS[self.param_groups[0]["variant"]]
        shrink = self._shrink(variant)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._advance(p)
            for batch in self._batches(group, "step"):
                self._update(batch, group, variant, shrink)
        return loss

    def _advance(self, p: Tensor) -> None:
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(p)
            state["exp_avg_sq"] = torch.zeros_like(p)
        state["step"] += 1

    def _shrink(self, variant: Variant) -> Tensor | None:
        """1 / max(1, ||all g|| / max_norm), or None where the variant does not clip."""
        found = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if variant.max_norm == math.inf or not found:
            return None
        total = squared_norms([local(p.grad) for p in found], found).sum().sqrt()
        return 1.0 / (total / variant.max_norm).clamp(min=1.0)

    def _update(self, batch: list[Tensor], group: dict[str, Any], variant: Variant, shrink: Tensor | None) -> None:
        (b1, b2), wd, lr = group["betas"], group["weight_decay"], group["lr"]
        states = [self.state[p] for p in batch]
        x, g = [local(p) for p in batch], gradients(batch)
        m, v = [local(s["exp_avg"]) for s in states], [local(s["exp_avg_sq"]) for s in states]
        if shrink is not None:
            g = [torch.mul(g[0], shrink.item())] if alone(batch) else list(torch._foreach_mul(g, shrink.to(g[0].dtype)))
        u = list(torch._foreach_mul(x, -wd))
        # An infinite t makes both corrections 1.
        t = states[0]["step"] if variant.bias_correction else torch.full((), math.inf)
        t = t.to(device=x[0].device)
        torch._fused_adam_(
            u, g, m, v, [], [t] * len(u),
            lr=1.0, beta1=b1, beta2=b2, weight_decay=0.0, eps=group["eps"], amsgrad=False, maximize=False,
        )  # fmt: skip
        adapt = group["adapt"]
        if (wd != 0 or not variant.only_decayed) if adapt is None else adapt:
            if alone(batch):
                x[0].add_(u[0], alpha=lr * _ratio(squares(x[0]), squares(u[0]), variant))
                return
            ratios = _ratios(squared_norms(x, batch), squared_norms(u, batch), variant)
            torch._foreach_mul_(u, list(ratios.unbind()))
        torch._foreach_add_(x, u, alpha=lr)


def _ratio(x2: float, u2: float, variant: Variant) -> float:
    """phi(||x||) / ||u|| from squares."""
    if x2 == 0 or u2 == 0:
        return 1.0
    low, high = variant.phi
    return min(min(max(math.sqrt(x2), low), high) / math.sqrt(u2), variant.ratio_max)


def _ratios(x2: Tensor, u2: Tensor, variant: Variant) -> Tensor:
    """The same for many, shape (n,), without reading them."""
    ratios = x2.sqrt().clamp(*variant.phi) / u2.sqrt()
    return torch.where((x2 == 0) | (u2 == 0), 1.0, ratios).clamp(max=variant.ratio_max)
