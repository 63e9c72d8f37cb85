"""The decoder's branches with their backward passes written out, for training on CPUs.

Activations are feature-major, x (d, N) with the N = B T tokens contiguous: every elementwise pass then runs
over long rows even at width 16. The norm's gain is folded into the weight that follows it, W' = W diag(gain),
so it costs a product of the weight's size instead of the activations'. Each function equals its plain form in
`gpt.py`; the tests compare values and gradients in float64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-6
# exp without subtracting the row maximum is used while every row's sum of exponentials stays inside these.
LOWEST, HIGHEST = 1e-15, 1e15


class Tables(NamedTuple):
    """Constants of one context length T: cos and sin (head_size / 2, T), mask (T, T) with 0 and -inf."""

    cos: Tensor
    sin: Tensor
    mask: Tensor


def _normalise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Unit columns y = x r, r (1, N) = 1 / |column|; the factor sqrt(d) to unit rms is left to the weight."""
    r = (x * x).sum(0, keepdim=True).add_(EPS * x.shape[0]).rsqrt_()
    return x * r, r


def _normalise_backward(dy: Tensor, y: Tensor) -> Tensor:
    """dx / r = dy - y (y . dy), in place of dy."""
    return dy.addcmul_(y, (dy * y).sum(0, keepdim=True), value=-1)


def _fold(weight: Tensor, gain: Tensor, scale: float) -> Tensor:
    return weight * (gain * scale)


def _fold_backward(dW: Tensor, weight: Tensor, gain: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Gradients of the weight and the gain from that of the folded weight, which is overwritten."""
    dgain = (dW * weight).sum(0).mul_(scale)
    return dW.mul_(gain * scale), dgain


def _safe(sums: Tensor) -> bool:
    low, high = sums.aminmax()
    return low.item() > LOWEST and high.item() < HIGHEST


class AttentionBranch(torch.autograd.Function):
    """x + Wo attention(rotary(W diag(gain) x / rms(x))) for x (d, N), N = B T.

    With P = exp(mask + scale q k) not normalised and l its row sums (a row of ones beside v yields them in
    the same product), o = v P / l. Backward, with g' = do / l and D = sum(g' o): dP = g' v - D, dS = P dP.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, weight: Tensor, out: Tensor, tables: Tables, B: int) -> Tensor:
        d, N = x.shape
        cos, sin, mask = tables
        half, T = cos.shape
        heads = (B, d // (2 * half), 2 * half, T)
        y, r = _normalise(x)
        folded = _fold(weight, gain, d**0.5)
        qkv = (folded @ y).view(3, heads[1], 2 * half, B, T).permute(0, 3, 1, 2, 4)
        qk = x.new_empty(2, *heads)
        x1, x2 = qkv[:2, ..., :half, :], qkv[:2, ..., half:, :]
        o1, o2 = qk[..., :half, :], qk[..., half:, :]
        torch.mul(x1, cos, out=o1)
        o1.addcmul_(x2, sin, value=-1)
        torch.mul(x2, cos, out=o2)
        o2.addcmul_(x1, sin)
        q, k = qk.view(2, -1, 2 * half, T).unbind(0)
        v = x.new_ones(B * heads[1], 2 * half + 1, T)
        v.view(B, heads[1], -1, T)[:, :, :-1].copy_(qkv[2])
        S = torch.baddbmm(mask, q.transpose(1, 2), k, alpha=(2 * half) ** -0.5)
        # PyTorch's float32 softmax is faster than its float32 exp, so there P is normalised at once.
        P = S.softmax(-1) if x.dtype == torch.float32 else S.exp()
        mixed = torch.bmm(v, P.transpose(1, 2))
        if not _safe(mixed[:, -1]):
            P = S.softmax(-1)
            mixed = torch.bmm(v, P.transpose(1, 2))
        mixed = mixed.view(B, heads[1], -1, T)
        o = x.new_empty(d, N)
        torch.div(mixed[:, :, :-1], mixed[:, :, -1:], out=o.view(heads[1], 2 * half, B, T).permute(2, 0, 1, 3))
        ctx.save_for_backward(gain, weight, out, folded, y, r, q, k, v, P, o, mixed, cos, sin)
        return torch.addmm(x, out, o)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        gain, weight, out, folded, y, r, q, k, v, P, o, mixed, cos, sin = ctx.saved_tensors
        d = g.shape[0]
        half, T = cos.shape
        B, H = mixed.shape[:2]
        by_head = (H, 2 * half, B, T)
        do = (out.t() @ g).view(by_head).permute(2, 0, 1, 3)
        dout = g @ o.t()
        gD = torch.empty_like(mixed)
        torch.div(do, mixed[:, :, -1:], out=gD[:, :, :-1])
        torch.sum(gD[:, :, :-1] * o.view(by_head).permute(2, 0, 1, 3), 2, out=gD[:, :, -1])
        gD[:, :, -1].neg_()
        gD = gD.view(B * H, -1, T)
        dv = torch.bmm(gD[:, :-1], P)
        dS = torch.bmm(gD.transpose(1, 2), v).mul_(P)
        dqk = torch.empty(2, *q.shape, dtype=g.dtype)
        torch.bmm(k, dS.transpose(1, 2), out=dqk[0])
        torch.bmm(q, dS, out=dqk[1])
        dqkv = torch.empty(3 * d, g.shape[1], dtype=g.dtype)
        spread = dqkv.view(3, H, 2 * half, B, T).permute(0, 3, 1, 2, 4)
        spread[2].copy_(dv.view(B, H, -1, T))
        scale = (2 * half) ** -0.5
        cos, sin = cos * scale, sin * scale
        dqk = dqk.view(2, B, H, 2 * half, T)
        d1, d2 = dqk[..., :half, :], dqk[..., half:, :]
        o1, o2 = spread[:2, ..., :half, :], spread[:2, ..., half:, :]
        torch.mul(d1, cos, out=o1)
        o1.addcmul_(d2, sin)
        torch.mul(d2, cos, out=o2)
        o2.addcmul_(d1, sin, value=-1)
        dweight, dgain = _fold_backward(dqkv @ y.t(), weight, gain, d**0.5)
        dx = torch.addcmul(g, _normalise_backward(folded.t() @ dqkv, y), r)
        return dx, dgain, dweight, dout, None, None


class FeedForwardBranch(torch.autograd.Function):
    """x + down(silu(gate) value), or x + down(gelu(h)), with h = [gate; value] = W diag(gain) x / rms(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, weight: Tensor, down: Tensor, gated: bool) -> Tensor:
        y, r = _normalise(x)
        folded = _fold(weight, gain, x.shape[0] ** 0.5)
        h = folded @ y
        if gated:
            gate, value = h.chunk(2)
            s = F.silu(gate)
            a = s * value
        else:
            s = a = F.gelu(h)
        ctx.gated = gated
        ctx.save_for_backward(gain, weight, down, folded, y, r, h, s, a)
        return torch.addmm(x, down, a)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        gain, weight, down, folded, y, r, h, s, a = ctx.saved_tensors
        da = down.t() @ g
        ddown = g @ a.t()
        if ctx.gated:
            gate, value = h.chunk(2)
            dh = torch.empty_like(h)
            torch.mul(da, s, out=dh[len(gate) :])
            torch.ops.aten.silu_backward.grad_input(da.mul_(value), gate, grad_input=dh[: len(gate)])
        else:
            dh = torch.ops.aten.gelu_backward(da, h)
        dweight, dgain = _fold_backward(dh @ y.t(), weight, gain, g.shape[0] ** 0.5)
        dx = torch.addcmul(g, _normalise_backward(folded.t() @ dh, y), r)
        return dx, dgain, dweight, ddown, None


class Head(torch.autograd.Function):
    """Logits (N, V) = scale (W diag(gain) x / |x|)^T for x (d, N); unit rms is scale = sqrt(d)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, weight: Tensor, scale: float) -> Tensor:
        y, r = _normalise(x)
        folded = _fold(weight, gain, scale)
        ctx.scale = scale
        ctx.save_for_backward(gain, weight, folded, y, r)
        return y.t() @ folded.t()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        gain, weight, folded, y, r = ctx.saved_tensors
        dweight, dgain = _fold_backward(g.t() @ y.t(), weight, gain, ctx.scale)
        dx = _normalise_backward(folded.t() @ g.t(), y).mul_(r)
        return dx, dgain, dweight, None


class Embed(torch.autograd.Function):
    """scale x columns (d, N) of a table (V, d) at tokens (N,); gradients are added in float32 at least."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, tokens: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.shape, ctx.dtype, ctx.scale = table.shape, table.dtype, scale
        x = F.embedding(tokens, table).t().contiguous()
        return x if scale == 1.0 else x.mul_(scale)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        (tokens,) = ctx.saved_tensors
        total = torch.zeros(ctx.shape, dtype=torch.promote_types(ctx.dtype, torch.float32))
        total.index_add_(0, tokens, g.to(total.dtype).t().contiguous(), alpha=ctx.scale)
        return total.to(ctx.dtype), None, None
