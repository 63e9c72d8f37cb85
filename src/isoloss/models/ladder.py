"""Options of the built-in models, checked, with their facts in closed form (no torch here)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar

from isoloss.models.checks import flag, fraction, positive, word
from isoloss.models.facts import ModelFacts
from isoloss.models.image_ladder import C1Config, F1Config, ResNetConfig, Shape
from isoloss.recipe.errors import nearest

MLP_KINDS = ("swiglu", "gelu")
FROM_DATA = ("vocabulary", "context", "shape")
"""Fields of a config that the data decide."""


@dataclass(frozen=True, slots=True)
class GPTConfig:
    """Shape of the decoder ladder.

    `width` d is a multiple of the even `head_size`: heads = d / head_size. The hidden size of the
    feed-forward part is `mlp_ratio` x d, rounded up to a multiple of 8; by default the ratio is 8/3 for
    "swiglu" (three matrices) and 4 for "gelu" (two), which cost the same.
    Raises ValueError with the allowed range.
    """

    vocabulary: int
    context: int
    width: int
    depth: int
    head_size: int = 16
    mlp: str = "swiglu"
    mlp_ratio: float | None = None
    tied: bool = False
    batch_statistics: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive("gpt", self, "vocabulary", "context", "width", "depth", "head_size")
        if self.head_size % 2:
            raise ValueError(f"gpt: head_size is {self.head_size}; rotary positions turn pairs, so it must be even")
        if self.width % self.head_size:
            raise ValueError(
                f"gpt: width {self.width} is no multiple of head_size {self.head_size}; "
                f"nearest widths are {_multiples(self.width, self.head_size)}"
            )
        word("gpt", self, "mlp", MLP_KINDS)
        ratio = self.mlp_ratio
        if ratio is not None and not (isinstance(ratio, int | float) and 0 < ratio <= 64):
            raise ValueError(f"gpt: mlp_ratio is {ratio!r}; allowed: a number in (0, 64]")
        flag("gpt", self, "tied")

    @property
    def heads(self) -> int:
        return self.width // self.head_size

    @property
    def hidden(self) -> int:
        """Hidden size of the feed-forward part, a multiple of 8."""
        default = 8 / 3 if self.mlp == "swiglu" else 4.0
        return 8 * math.ceil(self.width * (default if self.mlp_ratio is None else self.mlp_ratio) / 8)

    def facts(self) -> ModelFacts:
        """Counts and FLOPs in closed form.

        Forward FLOPs a token = 2 matrices + 4 depth T d + 2 V d: every weight once, the two T x d products
        of attention counted in full (causality is not subtracted, as in the FLOP model of Hoffmann et al.
        2022, appendix F), and the head, tied or not. Look-ups, norms and softmax are left out.
        """
        d, T, V = self.width, self.context, self.vocabulary
        inputs = 2 if self.mlp == "swiglu" else 1
        matrices = self.depth * (4 * d * d + (inputs + 1) * d * self.hidden)
        return ModelFacts(
            embedding=V * d,
            matrices=matrices,
            head=0 if self.tied else V * d,
            scalars=(2 * self.depth + 1) * d,
            forward_flops_per_token=2.0 * matrices + 4.0 * self.depth * T * d + 2.0 * V * d,
        )


@dataclass(frozen=True, slots=True)
class MLPConfig:
    """Shape of a classifier of vectors: `context` features, `depth` layers of `width`, `vocabulary` classes.

    Raises ValueError with the allowed range.
    """

    vocabulary: int
    context: int
    width: int
    depth: int
    batch_statistics: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive("mlp", self, "vocabulary", "context", "width", "depth")

    def facts(self) -> ModelFacts:
        """Counts and FLOPs in closed form: forward FLOPs a sample = 2 x all weights."""
        w = self.width
        matrices = self.context * w + (self.depth - 1) * w * w
        return ModelFacts(
            embedding=0,
            matrices=matrices,
            head=w * self.vocabulary,
            scalars=self.depth * w + self.vocabulary,
            forward_flops_per_token=2.0 * (matrices + w * self.vocabulary),
        )


@dataclass(frozen=True, slots=True)
class LSTMConfig:
    """Shape of the recurrent language model: `depth` layers of `width`, embeddings of the same width.

    `dropout`: share of what leaves the embedding and each layer that is dropped; the context has no bound.
    Raises ValueError with the allowed range.
    """

    vocabulary: int
    context: int
    width: int
    depth: int
    dropout: float = 0.0
    tied: bool = False
    batch_statistics: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive("lstm", self, "vocabulary", "context", "width", "depth")
        fraction("lstm", self, "dropout")
        flag("lstm", self, "tied")

    def facts(self) -> ModelFacts:
        """Forward FLOPs a token = 2 matrices + 2 V d: four gates of a layer read d inputs and d states."""
        d, V = self.width, self.vocabulary
        matrices = 8 * self.depth * d * d
        return ModelFacts(
            embedding=V * d,
            matrices=matrices,
            head=0 if self.tied else V * d,
            scalars=8 * self.depth * d,
            forward_flops_per_token=2.0 * matrices + 2.0 * V * d,
        )


Config = GPTConfig | MLPConfig | F1Config | C1Config | ResNetConfig | LSTMConfig
CONFIGS: dict[str, type[Config]] = {
    "gpt": GPTConfig,
    "mlp": MLPConfig,
    "f1": F1Config,
    "c1": C1Config,
    "resnet": ResNetConfig,
    "lstm": LSTMConfig,
}


def configure(
    family: str, options: Mapping[str, Any], *, vocabulary: int, context: int, shape: Shape | None = None
) -> Config:
    """Build a config from a study's options and from what the data decide.

    Raises ValueError that names an unknown or missing option, or that says that the model needs images.
    """
    config: Any = CONFIGS[family]
    known = {f.name: f.default for f in fields(config)}
    allowed = [name for name in known if name not in FROM_DATA]
    for name in options:
        if name not in allowed:
            raise ValueError(
                f"{family}: unknown option {name!r}; allowed: {', '.join(allowed)}{nearest(name, allowed)}"
            )
    for name in allowed:
        if known[name] is MISSING and name not in options:
            raise ValueError(f"{family}: {name} is missing; it has no default")
    if "shape" in known and shape is None:
        raise ValueError(f"{family}: reads images (C, H, W), but the data give {context} numbers without a shape")
    given = {"vocabulary": vocabulary, "context": context, "shape": shape}
    made: Config = config(**{name: value for name, value in given.items() if name in known}, **options)
    return made


def _multiples(width: int, step: int) -> str:
    low = width // step * step
    return f"{low} and {low + step}" if low else f"{step} and {2 * step}"
