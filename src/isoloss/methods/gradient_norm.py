"""Global gradient norm and clipping, in float64 and in a fixed order.

    norm = sqrt(sum of g^2 over all tensors);  g = g max_norm / norm  where norm > max_norm

Source: Pascanu, Mikolov and Bengio 2013, algorithm 1. Nothing is added to the norm: where it divides, it is
above max_norm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

CHUNK = 1 << 16


def global_norm(tensors: Sequence[Tensor]) -> float:
    """Euclidean norm over all elements of all tensors, in float64; not finite if one of them is not."""
    total = 0.0
    for tensor in tensors:
        # Chunks keep the float64 copies in the cache.
        for part in tensor.detach().reshape(-1).split(CHUNK):
            wide = part.double()
            total += torch.dot(wide, wide).item()
    return math.sqrt(total)


def clip_(tensors: Sequence[Tensor], max_norm: float) -> float:
    """Scale the tensors in place so that their global norm is at most `max_norm`; return the norm before.

    A norm that is not finite leaves them as they are, for the caller to see. Raises ValueError unless
    `max_norm` > 0.
    """
    if not max_norm > 0:
        raise ValueError(f"clip_: max_norm is {max_norm!r}; allowed: above 0 (None in a study: no clipping)")
    norm = global_norm(tensors)
    if max_norm < norm < math.inf:
        with torch.no_grad():
            for tensor in tensors:
                tensor.mul_(max_norm / norm)
    return norm
