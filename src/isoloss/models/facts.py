"""What planning must know about a model, in closed form and without importing torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Parameter counts by kind and matrix FLOPs, of one model at one context length.

    `embedding`: token (and position) tables. `matrices`: every other weight of two or more
    dimensions. `head`: the map to the vocabulary, 0 where it is tied to the embedding.
    `scalars`: gains and biases. A multiply and its add count as 2 FLOPs; a "token" is a sample
    for models of vectors.

    The training cost is 3 x forward: the backward pass does each product twice, once for the
    input and once for the weight (Kaplan et al. 2020, section 2.1).
    """

    embedding: int
    matrices: int
    head: int
    scalars: int
    forward_flops_per_token: float

    @property
    def non_embedding(self) -> int:
        """N of the scaling laws: all but vocabulary tables, embedding and head (Kaplan et al. 2020)."""
        return self.matrices + self.scalars

    @property
    def total(self) -> int:
        """All parameters; a tied matrix counts once."""
        return self.embedding + self.matrices + self.head + self.scalars

    @property
    def training_flops_per_token(self) -> float:
        """FLOPs that one gradient evaluation spends on one token."""
        return 3.0 * self.forward_flops_per_token
