"""Muon for matrices and AdamW for the rest, as one optimizer with one state.

    B = mu B + (1 - mu) g                 u = (1 - mu) g + mu B  with Nesterov, else B
    O = an approximate orthogonal factor of u, by Newton-Schulz steps in bfloat16
    W = W - lr wd W - lr s O              s = sqrt(max(1, rows / columns)), or 0.2 sqrt(max(rows, columns))

Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon); the second s, "match_rms_adamw", is that of Liu et al.
2025 (arXiv 2502.16982) and makes a step as large as AdamW's. The matrix part is torch's own (torch.optim.Muon, from
torch 2.9 on); the rest is torch's AdamW at `adamw_ratio` times the learning rate, so that one schedule drives both.
Convolutions are matrices of filters: (outputs, everything else).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.adamw import adamw
from torch.optim.optimizer import ParamsT

from isoloss.methods._layerwise import Checked, check_number
from isoloss.recipe.errors import nearest

__all__ = ["MuonAdamW", "hidden_matrices", "muon_groups"]

ADJUSTMENTS = ("original", "match_rms_adamw")
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NOT_HIDDEN = (r"embed", r"\bwte\b", r"\bwpe\b", r"\bhead\b", r"\blm_head\b", r"readout", r"classifier")


class MuonAdamW(Checked):
    """Muon over the matrices and AdamW over everything else.

    A group may set every option and ``muon``: True, its tensors are matrices; False, none is; None, those of two and
    more dimensions are. Embeddings and heads belong to AdamW: see ``muon_groups``. ``lr`` is Muon's, AdamW's is
    ``adamw_ratio`` times it (0.015: 3e-4 for 0.02). ``weight_decay`` is decoupled and multiplied by each part's own
    learning rate. A tensor without a gradient stays. Raises ValueError for options out of range, vectors in a group
    with ``muon=True``, sharded matrices, complex or integer parameters, sparse gradients, and a torch without Muon.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.02,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        ns_steps: int = 5,
        adjust_lr: str = "original",
        adamw_ratio: float = 0.015,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        muon: bool | None = None,
    ) -> None:
        _torch_muon()
        defaults: dict[str, Any] = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
        defaults |= {"ns_steps": ns_steps, "adjust_lr": adjust_lr, "adamw_ratio": adamw_ratio, "betas": betas}
        super().__init__(params, defaults | {"eps": eps, "muon": muon})

    def _check_group(self, group: dict[str, Any]) -> None:
        for name in ("lr", "weight_decay", "adamw_ratio", "eps"):
            check_number("MuonAdamW", name, group[name])
        for value in (group["momentum"], *group["betas"]):
            check_number("MuonAdamW", "momentum or a beta", value, high=1.0)
        check_number("MuonAdamW", "ns_steps", group["ns_steps"], low=1, high=100)
        if group["adjust_lr"] not in ADJUSTMENTS:
            raise ValueError(
                f"MuonAdamW: adjust_lr is {group['adjust_lr']!r}; allowed: {', '.join(ADJUSTMENTS)}"
                f"{nearest(str(group['adjust_lr']), ADJUSTMENTS)}"
            )
        for p in group["params"]:
            if group["muon"] and p.ndim < 2:
                raise ValueError(
                    f"MuonAdamW: a tensor of shape {tuple(p.shape)} is in a group with muon=True; "
                    "allowed: two and more dimensions"
                )
            if _is_matrix(p, group) and isinstance(p, DTensor):
                raise ValueError(
                    f"MuonAdamW: a matrix of shape {tuple(p.shape)} is sharded; allowed: whole matrices, or muon=False"
                )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; the value of ``closure``, which is called first, with gradients enabled."""
        loss = self._evaluate(closure)
        for group in self.param_groups:
            active = [p for p in group["params"] if p.grad is not None]
            self._muon([p for p in active if _is_matrix(p, group)], group)
            self._adamw([p for p in active if not _is_matrix(p, group)], group)
        return loss

    def _muon(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        buffers = []
        for p in matrices:
            state = self.state[p]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.contiguous_format)
            buffers.append(_flat(state["momentum_buffer"]))
        flat = [_flat(p) for p in matrices]
        _torch_muon()(
            flat, [_flat(p.grad).to(p.dtype) for p in matrices], buffers,
            lr=group["lr"], weight_decay=group["weight_decay"], momentum=group["momentum"],
            nesterov=group["nesterov"], ns_coefficients=COEFFICIENTS, ns_steps=int(group["ns_steps"]), eps=1e-7,
            adjust_lr_fn=group["adjust_lr"], has_complex=False,
        )  # fmt: skip
        for p, worked in zip(matrices, flat, strict=True):
            if worked.data_ptr() != p.data_ptr():
                p.copy_(worked.view(p.shape))

    def _adamw(self, rest: list[Tensor], group: dict[str, Any]) -> None:
        if not rest:
            return
        for p in rest:
            if not self.state[p]:
                moments = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
                self.state[p].update({"step": torch.zeros((), dtype=torch.float32)} | moments)
        states, (beta1, beta2) = [self.state[p] for p in rest], group["betas"]
        grads = [p.grad for p in rest if p.grad is not None]
        plain = all(t.is_cpu and t.is_contiguous() and not isinstance(t, DTensor) for t in (*rest, *grads))
        adamw(
            rest, grads, [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states], [],
            [s["step"] for s in states], fused=plain, foreach=None if plain else False, amsgrad=False,
            beta1=beta1, beta2=beta2, lr=group["lr"] * group["adamw_ratio"], weight_decay=group["weight_decay"],
            eps=group["eps"], maximize=False,
        )  # fmt: skip


def muon_groups(
    model: nn.Module, weight_decay: float = 0.0, exclude: Sequence[str] = NOT_HIDDEN
) -> list[dict[str, Any]]:
    """Three groups: hidden matrices for Muon; other matrices, and vectors without decay, for AdamW.

    Other matrices are `nn.Embedding` tables and names in which one of the regular expressions is found (case
    ignored). Frozen tensors and empty groups are left out.
    """
    matrices = hidden_matrices(model, exclude)
    hidden: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for name, p in model.named_parameters():
        if p.requires_grad:
            (vectors if p.ndim < 2 else hidden if name in matrices else others).append(p)
    groups = [
        {"params": hidden, "weight_decay": weight_decay, "muon": True},
        {"params": others, "weight_decay": weight_decay, "muon": False},
        {"params": vectors, "weight_decay": 0.0, "muon": False},
    ]
    return [group for group in groups if group["params"]]


def hidden_matrices(model: nn.Module, exclude: Sequence[str] = NOT_HIDDEN) -> set[str]:
    """Names of the tensors that ``muon_groups`` gives to Muon."""
    patterns = [re.compile(pattern, re.IGNORECASE) for pattern in exclude]
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return {
        name
        for name, p in model.named_parameters()
        if p.ndim >= 2 and id(p) not in tables and not any(pattern.search(name) for pattern in patterns)
    }


def _is_matrix(p: Tensor, group: dict[str, Any]) -> bool:
    return p.ndim >= 2 if group["muon"] is None else bool(group["muon"])


def _flat(t: Tensor | None) -> Tensor:
    """(outputs, everything else), a view where the memory layout allows it."""
    assert t is not None
    return t.detach().reshape(t.shape[0], -1)


def _torch_muon() -> Callable[..., None]:
    try:
        from torch.optim._muon import muon
    except ImportError:
        raise ValueError(f"MuonAdamW: torch {torch.__version__} has no Muon; allowed: torch 2.9 or newer") from None
    return muon
