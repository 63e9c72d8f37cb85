"""Counts and FLOPs against built modules, the flop counter and a published table."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from isoloss.models import build, describe
from isoloss.models.count import count
from isoloss.models.gpt import GPT

# Haegele et al. 2024, flops.ipynb: name, width, heads, depth, FFN, parameters, FLOPs a sequence of 512.
PUBLISHED = [
    ("33M", 384, 6, 8, 1024, 33.45e6, 1.718e11),
    ("53M", 512, 8, 8, 1536, 52.99e6, 2.549e11),
    ("60M", 512, 8, 10, 1536, 59.81e6, 2.791e11),
    ("93M", 640, 10, 12, 1792, 93.11e6, 4.093e11),
    ("124M", 768, 12, 12, 2048, 123.5e6, 5.274e11),
    ("151M", 768, 12, 16, 2048, 151.8e6, 6.241e11),
    ("166M", 896, 14, 12, 2560, 166.1e6, 6.829e11),
    ("210M", 768, 12, 24, 2048, 208.5e6, 8.176e11),
    ("360M", 1024, 16, 24, 2816, 359.7e6, 1.341e12),
]

SPECS = st.builds(
    lambda heads, head_size, depth, mlp, ratio, tied: {
        "family": "gpt",
        "width": heads * head_size,
        "head_size": head_size,
        "depth": depth,
        "mlp": mlp,
        "mlp_ratio": ratio,
        "tied": tied,
    },
    st.integers(1, 4),
    st.sampled_from([2, 8, 16]),
    st.integers(1, 3),
    st.sampled_from(["swiglu", "gelu"]),
    st.sampled_from([None, 1.0, 3.3]),
    st.booleans(),
)


@pytest.mark.parametrize(("name", "d", "heads", "depth", "ffn", "parameters", "flops"), PUBLISHED)
def test_published_ladder(name: str, d: int, heads: int, depth: int, ffn: int, parameters: float, flops: float) -> None:
    spec = {"family": "gpt", "width": d, "depth": depth, "head_size": 64, "mlp_ratio": ffn / d, "tied": True}
    s, V = 512, 50257
    facts = describe(spec, vocabulary=V, context=s)
    assert d == 64 * heads
    assert facts.matrices + facts.embedding == pytest.approx(parameters, rel=3e-4)
    # Their model also counts the look-up as a product (2 s V d) and 3 FLOPs for each score's softmax.
    theirs = s * facts.forward_flops_per_token + 2 * s * V * d + 3 * heads * s * s * depth
    assert 3 * theirs == pytest.approx(flops, rel=1e-3)


@settings(max_examples=25, deadline=None)
@given(spec=SPECS, vocabulary=st.integers(2, 40), context=st.integers(1, 9))
def test_closed_form_equals_the_built_model(spec: dict[str, Any], vocabulary: int, context: int) -> None:
    facts = describe(spec, vocabulary=vocabulary, context=context)
    model = build(spec, vocabulary=vocabulary, context=context, seed=0)
    assert isinstance(model, GPT)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    vectors = sum(p.numel() for p in model.parameters() if p.ndim == 1)
    assert facts.total == sum(sizes.values())
    assert facts.embedding == sizes["embedding.weight"]
    assert facts.head == sizes.get("head.weight", 0)
    assert facts.scalars == vectors
    assert facts.non_embedding == sum(n for name, n in sizes.items() if not name.startswith(("embedding", "head")))


@pytest.mark.parametrize("attention", ["explicit", "sdpa"])
@pytest.mark.parametrize("options", [{}, {"mlp": "gelu", "tied": True}])
def test_flop_counter_agrees_forwards_and_backwards(options: dict[str, Any], attention: str) -> None:
    spec = {"family": "gpt", "width": 32, "depth": 2, **options}
    facts = describe(spec, vocabulary=40, context=16)
    model = build(spec, vocabulary=40, context=16, seed=0)
    model.attention = attention
    tokens = torch.randint(40, (3, 16))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        logits = model(tokens)
        forward = counter.get_total_flops() / tokens.numel()
        F.cross_entropy(logits.view(-1, 40), tokens.view(-1)).backward()
    both = counter.get_total_flops() / tokens.numel()
    if attention == "explicit":
        # The written-out branch has one more row in two products: its sums of scores, forwards and backwards.
        extra = 2 * 16 * model.config.heads * 2
        assert forward == facts.forward_flops_per_token + extra
        assert both == facts.training_flops_per_token + 2 * extra
    else:
        assert forward == facts.forward_flops_per_token
        assert both == facts.training_flops_per_token


def test_mlp_facts() -> None:
    spec = {"family": "mlp", "width": 24, "depth": 3}
    facts = describe(spec, vocabulary=5, context=11)
    model = build(spec, vocabulary=5, context=11, seed=0)
    assert facts.total == sum(p.numel() for p in model.parameters())
    assert facts.head == 24 * 5
    inputs = torch.randn(4, 11)
    with FlopCounterMode(display=False) as counter:
        loss = F.cross_entropy(model(inputs), torch.zeros(4, dtype=torch.int64))
        assert counter.get_total_flops() / 4 == facts.forward_flops_per_token
        loss.backward()
    first_layer_input = 2 * 11 * 24
    assert counter.get_total_flops() / 4 == facts.training_flops_per_token - first_layer_input


@pytest.mark.parametrize("tied", [False, True])
def test_introspection_agrees_with_the_closed_form(tied: bool) -> None:
    spec = {"family": "gpt", "width": 32, "depth": 2, "tied": tied}
    model = build(spec, vocabulary=40, context=16, seed=0)
    model.attention = "sdpa"
    assert count(model.to("meta"), vocabulary=40, context=16) == describe(spec, vocabulary=40, context=16)


def test_hand_worked_example() -> None:
    """Width 16, depth 1, SwiGLU 48: 4 x 16^2 + 3 x 16 x 48 = 3328 matrix weights."""
    facts = describe({"family": "gpt", "width": 16, "depth": 1}, vocabulary=10, context=4)
    assert (facts.embedding, facts.matrices, facts.head, facts.scalars) == (160, 3328, 160, 48)
    assert (facts.non_embedding, facts.total) == (3376, 3696)
    assert facts.forward_flops_per_token == 2 * 3328 + 4 * 4 * 16 + 2 * 160
    assert facts.training_flops_per_token == 3 * facts.forward_flops_per_token
