"""Decoder ladder: RMSNorm before each branch, rotary positions, SwiGLU or GELU, no biases.

    x = E[tokens]
    x = x + attention(norm(x)) ; x = x + feed_forward(norm(x))        depth times
    logits = head(norm(x))

Special about it: on the CPU the same mathematics runs as the hand-written branches of `fused.py`; everywhere
else, and at long contexts, as the plain PyTorch below.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isoloss.models import fused
from isoloss.models.ladder import GPTConfig

ATTENTIONS = ("auto", "explicit", "sdpa")
EXPLICIT_UP_TO = 256


class GPT(nn.Module):
    """Map tokens (B, T) int64, T <= context, to logits (B, T, vocabulary).

    `attention` chooses the kernels and may be set between calls: "explicit" forms the T x T scores and runs
    the branches of `fused.py`; "sdpa" is plain PyTorch around its scaled-dot-product attention; "auto" is
    explicit on the CPU for T <= 256 (faster there, forwards and backwards) and sdpa otherwise.
    Raises ValueError for T > context or an unknown `attention`.
    """

    def __init__(self, config: GPTConfig, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.attention = "auto"
        d = config.width
        self.embedding: Any = nn.utils.skip_init(nn.Embedding, config.vocabulary, d)
        blocks = [Block(config) for _ in range(config.depth)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.Parameter(torch.ones(d))
        self.head: Any = None
        if not config.tied:
            self.head = nn.utils.skip_init(nn.Linear, d, config.vocabulary, bias=False)
        self._tables: dict[tuple[int, torch.dtype, torch.device], fused.Tables] = {}
        self._initialise(blocks, generator)

    @torch.no_grad()
    def _initialise(self, blocks: list[Block], generator: torch.Generator) -> None:
        """Unit activations: variance 1 / fan-in; the 2 x depth branches add one unit together; small logits.

        A tied table has to be small as a head, so it is scaled up by sqrt(d) on the way in.
        """
        c = self.config
        branch = (2 * c.depth) ** -0.5
        self.embedding.weight.normal_(0.0, c.width**-0.5 if c.tied else 1.0, generator=generator)
        for block in blocks:
            for layer, scale in (
                (block.qkv, 1.0),
                (block.out, branch),
                (block.up, 1.0),
                (block.down, branch),
            ):
                fan_in = layer.weight.shape[1]
                layer.weight.normal_(0.0, scale * fan_in**-0.5, generator=generator)
        if self.head is not None:
            self.head.weight.normal_(0.0, 1.0 / c.width, generator=generator)

    def forward(self, tokens: Tensor) -> Tensor:
        length, c, table = tokens.shape[1], self.config, self.embedding.weight
        if length > c.context:
            raise ValueError(f"gpt: {length} tokens are longer than the context of {c.context}")
        if self.attention not in ATTENTIONS:
            raise ValueError(f"gpt: attention is {self.attention!r}; allowed: {', '.join(ATTENTIONS)}")
        device = tokens.device.type
        scales = (1.0, c.width**0.5) if self.head is not None else (c.width**0.5, 1.0)
        on_cpu = device == "cpu" and length <= EXPLICIT_UP_TO
        if self.attention == "explicit" or (self.attention == "auto" and on_cpu):
            autocast = torch.is_autocast_enabled(device)
            dtype = torch.get_autocast_dtype(device) if autocast else table.dtype
            with torch.autocast(device, enabled=False):
                return self._fused(tokens, scales, dtype)
        tables = self._tables_for(length, table.dtype, table.device)
        x = self.embedding(tokens) * scales[0]
        for block in self.blocks:
            x = block(x, tables)
        head = table if self.head is None else self.head.weight
        return F.linear(rms_norm(x, self.norm) * (scales[1] * c.width**-0.5), head)

    def _fused(self, tokens: Tensor, scales: tuple[float, float], dtype: torch.dtype) -> Tensor:
        """The same map through `fused.py`, with weights cast to `dtype` where autocast asks for it."""
        B, T = tokens.shape
        tables = self._tables_for(T, dtype, tokens.device)
        table = self.embedding.weight.to(dtype)
        x = fused.Embed.apply(table, tokens.reshape(-1), scales[0])
        for block in self.blocks:
            x = block(x, tables, B, dtype)
        head = table if self.head is None else self.head.weight.to(dtype)
        logits: Tensor = fused.Head.apply(x, self.norm.to(dtype), head, scales[1])
        return logits.view(B, T, -1)

    def _tables_for(self, T: int, dtype: torch.dtype, device: torch.device) -> fused.Tables:
        key = (T, dtype, device)
        if key not in self._tables:
            cos, sin = rotary_tables(T, self.config.head_size)
            mask = torch.full((T, T), float("-inf")).triu(1)
            self._tables[key] = fused.Tables(*(t.to(device, dtype) for t in (cos, sin, mask)))
        return self._tables[key]


class Block(nn.Module):
    """One attention branch and one feed-forward branch on the residual stream (B, T, d), or (d, B T) for `fused.py`."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        d = config.width
        self.head_size, self.gated = config.head_size, config.mlp == "swiglu"
        self.norm1 = nn.Parameter(torch.ones(d))
        self.qkv = nn.utils.skip_init(nn.Linear, d, 3 * d, bias=False)
        self.out = nn.utils.skip_init(nn.Linear, d, d, bias=False)
        self.norm2 = nn.Parameter(torch.ones(d))
        self.up = nn.utils.skip_init(nn.Linear, d, config.hidden * (2 if self.gated else 1), bias=False)
        self.down = nn.utils.skip_init(nn.Linear, config.hidden, d, bias=False)

    def forward(
        self, x: Tensor, tables: fused.Tables, batch: int | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """With `batch` sequences the map goes through `fused.py`, with weights cast to `dtype`."""
        if batch is not None:
            weights = [w.to(dtype) for w in (self.norm1, self.qkv.weight, self.out.weight)]
            x = fused.AttentionBranch.apply(x, *weights, tables, batch)
            weights = [w.to(dtype) for w in (self.norm2, self.up.weight, self.down.weight)]
            fused_out: Tensor = fused.FeedForwardBranch.apply(x, *weights, self.gated)
            return fused_out
        cos, sin = tables.cos.t(), tables.sin.t()
        B, T, d = x.shape
        qkv = self.qkv(rms_norm(x, self.norm1)).view(B, T, 3, -1, self.head_size).permute(2, 0, 3, 1, 4)
        q, k = rotate(qkv[0], cos, sin), rotate(qkv[1], cos, sin)
        mixed = F.scaled_dot_product_attention(q, k, qkv[2], is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(B, T, d))
        h = self.up(rms_norm(x, self.norm2))
        if self.gated:
            gate, value = h.chunk(2, dim=-1)
            h = F.silu(gate) * value
        else:
            h = F.gelu(h)
        grown: Tensor = x + self.down(h)
        return grown


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * gain over the last dimension (Zhang and Sennrich 2019, equation 4)."""
    return F.rms_norm(x, gain.shape, gain, fused.EPS)


def rotary_tables(context: int, head_size: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (head_size / 2, context) of the angles position x 10000^(-2i / head_size).

    Source: Su et al. 2021 (RoFormer), equation 15; the pairs are taken from the two halves of a head.
    """
    rate = 10000.0 ** -(torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
    angle = rate[:, None] * torch.arange(context, dtype=torch.float64)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (x1, x2) of x (..., T, head_size) by the angle of their position."""
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1)
