"""Options of the models for images, checked, with their facts in closed form (no torch here)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from isoloss.models.checks import fraction, positive, word
from isoloss.models.facts import ModelFacts

Shape = tuple[int, int, int]
SHORTCUTS = ("pad", "projection")


@dataclass(frozen=True, slots=True)
class F1Config:
    """Shape of F1: `context` features, `depth` layers of `width` with BatchNorm and ReLU, `vocabulary` classes.

    Raises ValueError with the allowed range.
    """

    vocabulary: int
    context: int
    width: int = 512
    depth: int = 5
    batch_statistics: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive("f1", self, "vocabulary", "context", "width", "depth")

    def facts(self) -> ModelFacts:
        """Forward FLOPs a sample = 2 x all matrices; a layer has w biases, gains and shifts each."""
        w = self.width
        matrices = self.context * w + (self.depth - 1) * w * w
        head = w * self.vocabulary
        return ModelFacts(0, matrices, head, 3 * self.depth * w + self.vocabulary, 2.0 * (matrices + head))


@dataclass(frozen=True, slots=True)
class C1Config:
    """Shape of C1: images `shape` (C, H, W), two convolutions of `width` filters, hidden layers of 6 and 3 widths.

    Raises ValueError with the allowed range, and for images below 7 pixels a side.
    """

    vocabulary: int
    shape: Shape
    width: int = 64
    dropout: float = 0.5
    batch_statistics: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive("c1", self, "vocabulary", "width")
        fraction("c1", self, "dropout")
        if min(self.shape[1:]) < 7:
            raise ValueError(f"c1: images of {self.shape[1]}x{self.shape[2]}; allowed: at least 7 pixels a side")

    @property
    def sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """(height, width) behind each pooling of 3x3 with stride 2."""
        one = tuple((side - 3) // 2 + 1 for side in self.shape[1:])
        two = tuple((side - 3) // 2 + 1 for side in one)
        return (one[0], one[1]), (two[0], two[1])

    def facts(self) -> ModelFacts:
        """Forward FLOPs a sample = 2 x weights x places: a filter is used at every place of its output."""
        w, (channels, height, width) = self.width, self.shape
        (h1, w1), (h2, w2) = self.sizes
        first, second = 25 * channels * w, 25 * w * w
        hidden = w * h2 * w2 * 6 * w + 6 * w * 3 * w
        head = 3 * w * self.vocabulary
        return ModelFacts(
            embedding=0,
            matrices=first + second + hidden,
            head=head,
            scalars=2 * (w + w + 6 * w + 3 * w) + self.vocabulary,
            forward_flops_per_token=2.0 * (first * height * width + second * h1 * w1 + hidden + head),
        )


@dataclass(frozen=True, slots=True)
class ResNetConfig:
    """Shape of the residual ladder: images `shape` (C, H, W), `depth` = 6 n + 2, stages of `width`, 2 and 4 widths.

    Raises ValueError with the allowed values.
    """

    vocabulary: int
    shape: Shape
    depth: int
    width: int = 16
    shortcut: str = "pad"
    batch_statistics: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive("resnet", self, "vocabulary", "depth", "width")
        if self.depth < 8 or self.depth % 6 != 2:
            low = max(8, self.depth - (self.depth - 2) % 6)
            raise ValueError(f"resnet: depth is {self.depth}; allowed: 6 n + 2 (nearest: {low} and {low + 6})")
        word("resnet", self, "shortcut", SHORTCUTS)

    @property
    def blocks(self) -> int:
        """Blocks of a stage, n."""
        return (self.depth - 2) // 6

    def facts(self) -> ModelFacts:
        """Forward FLOPs a sample = 2 x weights x places of the output, over all convolutions and the head."""
        channels, height, width = self.shape
        layers = [(9 * channels * self.width, height * width)]
        normed, before = self.width, self.width
        for stage in range(3):
            now = self.width << stage
            if stage:
                height, width = math.ceil(height / 2), math.ceil(width / 2)
                if self.shortcut == "projection":
                    layers.append((before * now, height * width))
                    normed += now
            layers += [(9 * before * now, height * width)] + [(9 * now * now, height * width)] * (2 * self.blocks - 1)
            normed, before = normed + 2 * self.blocks * now, now
        head = before * self.vocabulary
        return ModelFacts(
            embedding=0,
            matrices=sum(weights for weights, _ in layers),
            head=head,
            scalars=2 * normed + self.vocabulary,
            forward_flops_per_token=2.0 * (sum(weights * places for weights, places in layers) + head),
        )
