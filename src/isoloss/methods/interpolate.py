"""Loss along the straight line between two sets of weights: connected basin, or a barrier between them.

    w(a) = (1 - a) start + a end        a in [0, 1]; further is allowed
    barrier = max over a of  loss(w(a)) - ((1 - a) loss(start) + a loss(end))

Between the weights before and after a cooldown the loss falls smoothly (Haegele et al. 2024, arXiv 2405.18392). The
barrier is that of Frankle et al. 2020 (arXiv 1912.05671), section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["barrier", "loss_along_line"]


@torch.no_grad()
def loss_along_line(
    loss: Callable[[], float],
    weights: Sequence[Tensor],
    start: Sequence[Tensor],
    end: Sequence[Tensor],
    at: Sequence[float],
    *,
    refresh: Callable[[], object] | None = None,
) -> list[float]:
    """`loss()` with `weights` at each point of the line; afterwards, and after an error, they hold what they held.

    `weights`: what `loss` reads, such as a model's parameters; `start` and `end`: tensors of the same shapes, of
    which 0 and 1 are exact. `refresh` is called at each point first, for BatchNorm statistics: those belong to one
    set of weights, and what it changes beyond `weights` is the caller's. Raises ValueError where shapes differ.
    """
    shapes = [tuple(w.shape) for w in weights]
    for name, tensors in (("start", start), ("end", end)):
        found = [tuple(t.shape) for t in tensors]
        if found != shapes:
            odd = next((pair for pair in zip(found, shapes, strict=False) if pair[0] != pair[1]), None)
            what = f"a tensor of shape {odd[0]} for a weight of {odd[1]}" if odd else f"{len(found)} tensors"
            raise ValueError(f"line: {name} has {what}; allowed: the shapes of the {len(shapes)} weights, in order")
    # start and end may share memory with weights, which are written to.
    start, end, held = ([t.detach().clone() for t in tensors] for tensors in (start, end, weights))
    losses = []
    try:
        for a in at:
            for w, first, last in zip(weights, start, end, strict=True):
                w.copy_(torch.lerp(first, last, float(a)))
            if refresh is not None:
                refresh()
            losses.append(float(loss()))
    finally:
        for w, before in zip(weights, held, strict=True):
            w.copy_(before)
    return losses


def barrier(at: Sequence[float], losses: Sequence[float]) -> float:
    """Greatest rise of the loss above the chord between its ends; 0 at least.

    Raises ValueError unless both ends, a = 0 and a = 1, are among the points.
    """
    known = dict(zip(at, losses, strict=True))
    if 0 not in known or 1 not in known:
        raise ValueError(f"barrier: points {list(at)}; allowed: points with 0 and 1 among them")
    return max(loss - ((1 - a) * known[0] + a * known[1]) for a, loss in known.items() if 0 <= a <= 1)
