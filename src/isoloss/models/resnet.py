"""Residual ladder for small images: depth 6 n + 2, three stages of n blocks (He et al. 2016, section 4.2).

    x = relu(norm(conv3x3(images)))
    x = relu(S x + norm(conv3x3(relu(norm(conv3x3(x))))))      n times with w, 2w and 4w filters
    logits = V mean(x) + b

The first block of the second and third stage halves the image. S is the identity, and there, by `shortcut`: "pad"
takes every other pixel and adds zero channels (option A, the paper's for CIFAR: no parameters), "projection" is a
1x1 convolution with BatchNorm (option B, in the code of Hoffer et al. 2017).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isoloss.models.convnet import convolution, initialise
from isoloss.models.image_ladder import ResNetConfig


class ResNet(nn.Module):
    """Map images (B, C, H, W) to logits (B, classes)."""

    def __init__(self, config: ResNetConfig, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        w = config.width
        self.conv = convolution(config.shape[0], w, 3)
        self.norm = nn.BatchNorm2d(w)
        blocks, before = [], w
        for stage in range(3):
            for k in range(config.blocks):
                stride = 2 if stage and k == 0 else 1
                blocks.append(Block(before, w << stage, stride, config.shortcut))
                before = w << stage
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.utils.skip_init(nn.Linear, before, config.vocabulary)
        initialise(self, self.head, generator)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(images.to(self.head.weight.dtype))))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Block(nn.Module):
    """Two convolutions around which the input passes."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, outputs, 3, stride)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = convolution(outputs, outputs, 3)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.stride, self.added = stride, outputs - inputs
        self.projection: nn.Conv2d | None = None
        self.projection_norm: nn.BatchNorm2d | None = None
        if stride > 1 and shortcut == "projection":
            self.projection = convolution(inputs, outputs, 1, stride)
            self.projection_norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm1(self.conv1(x)))
        h = self.norm2(self.conv2(h))
        if self.projection is not None and self.projection_norm is not None:
            x = self.projection_norm(self.projection(x))
        elif self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        return torch.relu(x + h)
