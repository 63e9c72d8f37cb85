"""Classifiers of vectors: linear layers with ReLU between, plain and with BatchNorm."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from isoloss.models.image_ladder import F1Config
from isoloss.models.ladder import MLPConfig


class MLP(nn.Module):
    """Map vectors (B, features), or images of so many numbers, to logits (B, classes).

    Weights are normal with variance 2 / fan-in, which keeps activations level under ReLU (He et al. 2015,
    equation 10), and 1 / fan-in in the head; biases are zero.
    """

    def __init__(self, config: MLPConfig, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.hidden, self.head = _layers(config, generator)

    def forward(self, vectors: Tensor) -> Tensor:
        x = vectors.flatten(1).to(self.head.weight.dtype)
        for layer in self.hidden:
            x = torch.relu(layer(x))
        logits: Tensor = self.head(x)
        return logits


class F1(nn.Module):
    """F1 of Keskar et al. 2017 and of Hoffer et al. 2017: linear, BatchNorm, ReLU, `depth` times; then the head.

    At its defaults on 784 numbers and 10 classes: 784-512x5-10. The linear layers keep their biases, as in the second
    paper's code, although BatchNorm takes them out again. Initialisation as in `MLP`; gains 1, shifts 0.
    """

    def __init__(self, config: F1Config, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.hidden, self.head = _layers(config, generator)
        self.norms = nn.ModuleList(nn.BatchNorm1d(config.width) for _ in range(config.depth))

    def forward(self, vectors: Tensor) -> Tensor:
        x = vectors.flatten(1).to(self.head.weight.dtype)
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            x = torch.relu(norm(layer(x)))
        logits: Tensor = self.head(x)
        return logits


@torch.no_grad()
def _layers(config: MLPConfig | F1Config, generator: torch.Generator) -> tuple[nn.ModuleList, nn.Linear]:
    """The hidden layers and the head, initialised."""
    sizes = [config.context] + [config.width] * config.depth
    hidden = [nn.utils.skip_init(nn.Linear, a, b) for a, b in pairwise(sizes)]
    head = nn.utils.skip_init(nn.Linear, config.width, config.vocabulary)
    for layer, gain in [*((h, 2.0) for h in hidden), (head, 1.0)]:
        layer.weight.normal_(0.0, (gain / layer.in_features) ** 0.5, generator=generator)
        layer.bias.zero_()
    return nn.ModuleList(hidden), head
