"""C1, the shallow conv net of the large-batch papers, for small images.

    x = relu(norm(pool(conv5x5(x))))                  twice; pool 3x3 with stride 2
    x = dropout(relu(norm(W x)))                      twice: 6 and 3 times the width
    logits = V x + b

Source: Keskar et al. 2017, appendix B; the order of the layers is that of the code of Hoffer et al. 2017.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isoloss.models.image_ladder import C1Config


class C1(nn.Module):
    """Map images (B, C, H, W) to logits (B, classes); convolutions pad by 2 and have no biases."""

    def __init__(self, config: C1Config, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        w, places = config.width, config.sizes[1][0] * config.sizes[1][1]
        self.conv1 = convolution(config.shape[0], w, 5)
        self.norm1 = nn.BatchNorm2d(w)
        self.conv2 = convolution(w, w, 5)
        self.norm2 = nn.BatchNorm2d(w)
        self.hidden1 = nn.utils.skip_init(nn.Linear, w * places, 6 * w, bias=False)
        self.norm3 = nn.BatchNorm1d(6 * w)
        self.hidden2 = nn.utils.skip_init(nn.Linear, 6 * w, 3 * w, bias=False)
        self.norm4 = nn.BatchNorm1d(3 * w)
        self.head = nn.utils.skip_init(nn.Linear, 3 * w, config.vocabulary)
        initialise(self, self.head, generator)

    def forward(self, images: Tensor) -> Tensor:
        x = images.to(self.head.weight.dtype)
        x = torch.relu(self.norm1(F.max_pool2d(self.conv1(x), 3, 2)))
        x = torch.relu(self.norm2(F.max_pool2d(self.conv2(x), 3, 2)))
        drop = self.config.dropout
        x = F.dropout(torch.relu(self.norm3(self.hidden1(x.flatten(1)))), drop, self.training)
        x = F.dropout(torch.relu(self.norm4(self.hidden2(x))), drop, self.training)
        logits: Tensor = self.head(x)
        return logits


def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    """A square convolution without bias that keeps the image's size at stride 1; not initialised."""
    made: nn.Conv2d = nn.utils.skip_init(nn.Conv2d, inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
    return made


@torch.no_grad()
def initialise(model: nn.Module, head: nn.Linear, generator: torch.Generator) -> None:
    """He et al. 2015: convolutions of variance 2 / fan-out (equation 14), hidden linear layers 2 / fan-in, the head
    1 / fan-in with bias 0. Drawn in the order of the modules; BatchNorm keeps gain 1 and shift 0.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.out_channels * layer.kernel_size[0] * layer.kernel_size[1]
            layer.weight.normal_(0.0, (2.0 / fan_out) ** 0.5, generator=generator)
        elif isinstance(layer, nn.Linear):
            gain = 1.0 if layer is head else 2.0
            layer.weight.normal_(0.0, (gain / layer.in_features) ** 0.5, generator=generator)
    head.bias.zero_()
