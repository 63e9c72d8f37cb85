"""Classifier of vectors: linear layers with ReLU between."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from isoloss.models.ladder import MLPConfig


class MLP(nn.Module):
    """Map vectors (B, features) to logits (B, classes).

    Weights are normal with variance 2 / fan-in, which keeps activations level under ReLU (He et al. 2015,
    equation 10), and 1 / fan-in in the head; biases are zero.
    """

    def __init__(self, config: MLPConfig, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        sizes = [config.context] + [config.width] * config.depth
        self.hidden = nn.ModuleList(nn.utils.skip_init(nn.Linear, a, b) for a, b in pairwise(sizes))
        self.head = nn.utils.skip_init(nn.Linear, config.width, config.vocabulary)
        with torch.no_grad():
            for layer, gain in [*((h, 2.0) for h in self.hidden), (self.head, 1.0)]:
                layer.weight.normal_(0.0, (gain / layer.in_features) ** 0.5, generator=generator)
                layer.bias.zero_()

    def forward(self, vectors: Tensor) -> Tensor:
        x = vectors.to(self.head.weight.dtype)
        for layer in self.hidden:
            x = torch.relu(layer(x))
        logits: Tensor = self.head(x)
        return logits
