"""Recurrent language model: an embedding, layers of LSTM, a head (Zaremba et al. 2014, section 3).

    i, f, g, o = W x_t + b + U h_{t-1} + c
    s_t = sigmoid(f) s_{t-1} + sigmoid(i) tanh(g),      h_t = sigmoid(o) tanh(s_t)

Every sample begins with the state zero: samples of a study are blocks in a keyed order, which do not continue one
another. Dropout is on what goes into a layer or the head, never on the recurrence.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isoloss.models.ladder import LSTMConfig


class LSTM(nn.Module):
    """Map tokens (B, T) int64 to logits (B, T, vocabulary).

    Matrices have variance 1 / fan-in (the width); biases are zero but for the forget gate's, 1 (Jozefowicz et al.
    2015). Embeddings have variance 1 and the head standard deviation 1 / d; a tied table has variance 1 / d and is
    scaled by sqrt(d) on the way in, as in `gpt`.
    """

    def __init__(self, config: LSTMConfig, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        d = config.width
        self.embedding: Any = nn.utils.skip_init(nn.Embedding, config.vocabulary, d)
        between = config.dropout if config.depth > 1 else 0.0
        with torch.device("meta"):
            layers = nn.LSTM(d, d, config.depth, batch_first=True, dropout=between)
        self.layers = layers.to_empty(device="cpu")
        self.head: Any = None
        if not config.tied:
            self.head = nn.utils.skip_init(nn.Linear, d, config.vocabulary, bias=False)
        self._initialise(generator)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        d = self.config.width
        self.embedding.weight.normal_(0.0, d**-0.5 if self.config.tied else 1.0, generator=generator)
        for name, parameter in self.layers.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, d**-0.5, generator=generator)
            else:
                parameter.zero_()
                if name.startswith("bias_ih"):
                    parameter[d : 2 * d] = 1.0
        if self.head is not None:
            self.head.weight.normal_(0.0, 1.0 / d, generator=generator)

    def forward(self, tokens: Tensor) -> Tensor:
        c = self.config
        x = self.embedding(tokens) * (c.width**0.5 if c.tied else 1.0)
        x, _ = self.layers(F.dropout(x, c.dropout, self.training))
        x = F.dropout(x, c.dropout, self.training)
        if self.head is None:
            return F.linear(x * c.width**-0.5, self.embedding.weight)
        logits: Tensor = self.head(x)
        return logits
