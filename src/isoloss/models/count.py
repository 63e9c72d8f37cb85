"""Facts of any module by introspection, for models that state none themselves."""

from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from isoloss.models.facts import ModelFacts


def count(
    model: torch.nn.Module,
    *,
    vocabulary: int,
    context: int,
    inputs: torch.Tensor | None = None,
    head: torch.Tensor | None = None,
) -> ModelFacts:
    """Count parameters by kind and the forward FLOPs of one sequence, on the model's own device (best: meta).

    Tables of `nn.Embedding` are the embedding; `head`, or without it a two-dimensional weight with `vocabulary` rows,
    is the head; other weights of two or more dimensions are matrices; the rest are scalars. `inputs` defaults to
    tokens (1, context), or vectors (1, context) for a model without an embedding.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    counts = {"embedding": 0, "matrices": 0, "head": 0, "scalars": 0}
    for parameter in model.parameters():
        if id(parameter) in tables:
            kind = "embedding"
        elif parameter.ndim < 2:
            kind = "scalars"
        else:
            rows = parameter.ndim == 2 and parameter.shape[0] == vocabulary
            kind = "head" if (rows if head is None else parameter is head) else "matrices"
        counts[kind] += parameter.numel()
    samples = context if tables else 1
    if inputs is None:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        dtype = torch.int64 if tables else torch.float32
        inputs = torch.zeros(1, context, dtype=dtype, device=device)
    # The CPU's fused attention is unknown to the counter; the plain one has the same products.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(inputs)
    return ModelFacts(**counts, forward_flops_per_token=counter.get_total_flops() / samples)
