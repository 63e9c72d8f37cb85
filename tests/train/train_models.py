"""Models that tests bring in by name, as a user would."""

from __future__ import annotations

import torch
from torch import nn


class Dropping(nn.Module):
    """An embedding, dropout and a head."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.embedding(tokens)))
