"""Training-FLOP conventions as named functions: FLOPs per training token, forward and backward.

A convention is always chosen by name; nothing in this package assumes one when compute was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from isoloss.laws.errors import LawError, unknown

Columns = Mapping[str, np.ndarray]


def six_n(columns: Columns) -> np.ndarray:
    """6N: two FLOPs a multiply-add, once forward and twice backward (Kaplan et al. 2020, section 2.1)."""
    return 6.0 * columns["N"]


def six_n_attention(columns: Columns) -> np.ndarray:
    """6N + 6 n_layer n_ctx d_model: adds causal attention scores (Kaplan et al. 2020, equation 2.2)."""
    return 6.0 * columns["N"] + 6.0 * columns["n_layer"] * columns["n_ctx"] * columns["d_model"]


def palm(columns: Columns) -> np.ndarray:
    """6N + 12 n_layer n_ctx d_model: attention counted without the causal mask (PaLM, appendix B)."""
    return 6.0 * columns["N"] + 12.0 * columns["n_layer"] * columns["n_ctx"] * columns["d_model"]


def hoffmann(columns: Columns) -> np.ndarray:
    """Layer-by-layer count with embeddings and logits (Hoffmann et al. 2022, appendix F)."""
    context, width = columns["n_ctx"], columns["d_model"]
    vocabulary, layers = columns["vocab"], columns["n_layer"]
    heads, feed_forward = columns["n_head"], columns["d_ff"]
    attention = 6 * width * width + 2 * context * width + 3 * heads * context + 2 * context * width
    block = attention + 2 * width * width + 4 * width * feed_forward
    forward = 4 * vocabulary * width + layers * block
    return 3.0 * forward


CONVENTIONS: dict[str, Callable[[Columns], np.ndarray]] = {
    "6ND": six_n,
    "6ND+attention": six_n_attention,
    "palm": palm,
    "hoffmann": hoffmann,
}


def flops_per_token(convention: str, columns: Columns) -> np.ndarray:
    """FLOPs per training token under a named convention.

    Raises LawError for an unknown convention or a column that the convention needs and the table lacks.
    """
    if convention not in CONVENTIONS:
        raise unknown("FLOP convention", convention, CONVENTIONS)
    try:
        return np.asarray(CONVENTIONS[convention](columns), dtype=float)
    except KeyError as missing:
        raise LawError(f"FLOP convention {convention!r} needs column {missing}") from None
