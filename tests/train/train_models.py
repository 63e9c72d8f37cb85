"""Models that tests bring in by name, as a user would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from isoloss.train.tasks import LanguageModelling


class Dropping(nn.Module):
    """An embedding, dropout and a head."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.embedding(tokens)))


class Normed(nn.Module):
    """A classifier with running statistics."""

    def __init__(self, vocabulary: int, context: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(context)
        self.head = nn.Linear(context, vocabulary)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(x))


class Exploding(LanguageModelling):
    """A task whose loss is not finite from the third update on."""

    def __init__(self) -> None:
        self.calls = 0

    def loss(self, model: Callable[..., Any], batch: torch.Tensor) -> tuple[torch.Tensor, int]:
        self.calls += 1
        total, count = super().loss(model, batch)
        return total * (float("inf") if self.calls > 2 else 1.0), count


class Irregular(nn.Module):
    """One row to a matrix, blocks that share weights, one that is not used, a frozen one, a tied head."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.gate = nn.Linear(width, 1)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(6))
        self.blocks[1].weight = self.blocks[0].weight
        self.blocks[3] = self.blocks[2]
        self.blocks[4].requires_grad_(False)
        self.head = nn.Linear(width, vocabulary)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        x = x * torch.sigmoid(self.gate(x))
        for block in list(self.blocks)[:5]:
            x = x + torch.tanh(block(x))
        return self.head(x)


class NormedBlocks(nn.Module):
    """A classifier whose blocks have running statistics."""

    def __init__(self, vocabulary: int, context: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(context, context), nn.BatchNorm1d(context)) for _ in range(2)
        )
        self.head = nn.Linear(context, vocabulary)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)
