"""The decoder against a literal twin in float64, and the properties it promises."""

from __future__ import annotations

import cmath
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from isoloss.models import build, fused
from isoloss.models.gpt import GPT, rotary_tables, rotate

VARIANTS = [
    {"mlp": "swiglu"},
    {"mlp": "gelu"},
    {"mlp": "swiglu", "tied": True, "head_size": 8},
    {"mlp": "gelu", "mlp_ratio": 1.5},
]


def make(width: int = 32, depth: int = 2, vocabulary: int = 50, context: int = 12, **options: Any) -> GPT:
    spec = {"family": "gpt", "width": width, "depth": depth, **options}
    model = build(spec, vocabulary=vocabulary, context=context, seed=0)
    assert isinstance(model, GPT)
    return model


def shaken(**options: Any) -> GPT:
    """A float64 model with gains that differ and branches that matter."""
    model = make(**options).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.mul_(torch.rand(parameter.shape, generator=generator, dtype=torch.float64) + 0.5)
            elif "blocks" in name:
                parameter.mul_(3.0)
    return model


def twin(model: GPT, tokens: list[int]) -> Tensor:
    """Logits (T, V) of one sequence, written token by token and head by head with complex rotations."""
    c = model.config

    def norm(v: Tensor, gain: Tensor) -> Tensor:
        return v / (v.square().mean() + 1e-6).sqrt() * gain

    def turned(v: Tensor, position: int) -> Tensor:
        half = len(v) // 2
        pairs = []
        for i in range(half):
            turn = cmath.exp(1j * position * 10000 ** (-2 * i / len(v)))
            pairs.append(complex(v[i].item(), v[half + i].item()) * turn)
        return torch.tensor([p.real for p in pairs] + [p.imag for p in pairs], dtype=v.dtype)

    head = model.embedding.weight if model.head is None else model.head.weight
    scale = math.sqrt(c.width) if model.head is None else 1.0
    stream = [model.embedding.weight[t] * scale for t in tokens]
    for b in model.blocks:
        parts = [(b.qkv.weight @ norm(x, b.norm1)).view(3, c.heads, c.head_size) for x in stream]
        mixed = []
        for t in range(len(stream)):
            heads = []
            for h in range(c.heads):
                q = turned(parts[t][0, h], t)
                scores = [(q @ turned(parts[s][1, h], s)).item() / math.sqrt(c.head_size) for s in range(t + 1)]
                top = max(scores)
                weights = [math.exp(s - top) for s in scores]
                total = sum(weights)
                heads.append(sum(w / total * parts[s][2, h] for s, w in enumerate(weights)))
            mixed.append(torch.cat(heads))  # type: ignore[arg-type]
        stream = [x + b.out.weight @ m for x, m in zip(stream, mixed, strict=True)]
        for t, x in enumerate(stream):
            h = b.up.weight @ norm(x, b.norm2)
            if c.mlp == "swiglu":
                gate, value = h[: c.hidden], h[c.hidden :]
                h = gate / (1 + (-gate).exp()) * value
            else:
                h = h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))
            stream[t] = x + b.down.weight @ h
    return torch.stack([head @ norm(x, model.norm) / scale for x in stream])


def loss_and_gradients(model: GPT, tokens: Tensor, targets: Tensor) -> tuple[Tensor, list[Tensor]]:
    logits = model(tokens)
    loss = F.cross_entropy(logits.reshape(targets.numel(), -1).to(logits.dtype), targets.reshape(-1))
    return logits.detach(), list(torch.autograd.grad(loss, list(model.parameters())))


def sample(model: GPT, B: int = 3, T: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    both = torch.randint(model.config.vocabulary, (B, T + 1), generator=generator)
    return both[:, :-1], both[:, 1:]


@pytest.mark.parametrize("attention", ["explicit", "sdpa"])
@pytest.mark.parametrize("options", VARIANTS)
def test_forward_equals_the_literal_twin(options: dict[str, Any], attention: str) -> None:
    model = shaken(**options)
    model.attention = attention
    tokens, _ = sample(model, B=2, T=7)
    with torch.no_grad():
        for row, logits in zip(tokens, model(tokens), strict=True):
            torch.testing.assert_close(logits, twin(model, row.tolist()), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("options", VARIANTS)
def test_written_out_backward_equals_autograd(options: dict[str, Any]) -> None:
    model = shaken(**options)
    tokens, targets = sample(model)
    results = []
    for attention in ("explicit", "sdpa"):
        model.attention = attention
        results.append(loss_and_gradients(model, tokens, targets))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-11, atol=1e-11)
    for (name, _), mine, plain in zip(model.named_parameters(), results[0][1], results[1][1], strict=True):
        assert (mine - plain).norm() <= 1e-11 * plain.norm(), name


def test_written_out_backward_by_finite_differences() -> None:
    model = shaken(width=8, depth=1, vocabulary=5, head_size=4)
    model.attention = "explicit"
    tokens, targets = sample(model, B=2, T=4)
    _, gradients = loss_and_gradients(model, tokens, targets)
    generator = torch.Generator().manual_seed(3)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter.add_(direction, alpha=step)
                values.append(F.cross_entropy(model(tokens).view(-1, 5), targets.reshape(-1)).item())
                parameter.sub_(direction, alpha=step)
        assert (values[0] - values[1]) / 2e-5 == pytest.approx((gradient * direction).sum().item(), rel=1e-6)


def test_second_backward_gives_the_same_gradients() -> None:
    """The written-out passes work in place; nothing they saved may be among what they overwrite."""
    model = shaken()
    model.attention = "explicit"
    tokens, targets = sample(model)
    loss = F.cross_entropy(model(tokens).view(-1, 50), targets.reshape(-1))
    first = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    second = torch.autograd.grad(loss, list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("attention", ["explicit", "sdpa"])
def test_scores_beyond_exp_are_safe(attention: str, dtype: torch.dtype) -> None:
    model = make()
    with torch.no_grad():
        for block in model.blocks:
            block.qkv.weight.mul_(20.0)
    reference = shaken().double()
    reference.load_state_dict(model.state_dict())
    reference.attention = "sdpa"
    model.to(dtype).attention = attention
    tokens, targets = sample(model)
    logits, gradients = loss_and_gradients(model, tokens, targets)
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(g).all() for g in gradients)
    tolerance = {torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float64: 1e-10}[dtype]
    torch.testing.assert_close(logits.double(), reference(tokens), rtol=0, atol=tolerance)


def test_large_scores_take_the_safe_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The case above must really leave the range of the short cut, and the ordinary case must not."""
    answers = []

    def watched(sums: Tensor) -> bool:
        answers.append(original(sums))
        return answers[-1]

    original = fused._safe
    monkeypatch.setattr(fused, "_safe", watched)
    model = make().bfloat16()
    tokens, _ = sample(model)
    model(tokens)
    assert answers == [True, True]
    answers.clear()
    with torch.no_grad():
        model.blocks[0].qkv.weight.mul_(20.0)
    model(tokens)
    assert answers == [False, True]


@pytest.mark.parametrize("attention", ["explicit", "sdpa"])
def test_no_token_sees_the_future(attention: str) -> None:
    model = shaken()
    model.attention = attention
    tokens, _ = sample(model)
    changed = tokens.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 50
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7], rtol=1e-12, atol=1e-12)
    assert (before[:, 7:] - after[:, 7:]).abs().amin(dim=-1).max() > 0


def test_a_short_sequence_is_a_prefix_of_a_long_one() -> None:
    model = shaken()
    tokens, _ = sample(model)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens[:, :5]), model(tokens)[:, :5], rtol=1e-12, atol=1e-12)


def test_samples_of_a_batch_are_independent() -> None:
    model = shaken()
    tokens, _ = sample(model)
    with torch.no_grad():
        whole, alone = model(tokens), model(tokens[1:2])
    torch.testing.assert_close(whole[1:2], alone, rtol=1e-12, atol=1e-12)


def test_rotary_products_depend_on_the_distance_only() -> None:
    cos, sin = rotary_tables(40, 8)
    q, k = torch.randn(2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    turned_q = rotate(q.expand(40, 8), cos.t(), sin.t())
    turned_k = rotate(k.expand(40, 8), cos.t(), sin.t())
    scores = turned_q @ turned_k.t()
    for distance in (0, 3, 11):
        diagonal = scores.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-12, atol=1e-12)
    assert scores[0, 0].item() == pytest.approx((q @ k).item())


@pytest.mark.parametrize("depth", [1, 4, 16])
@pytest.mark.parametrize("tied", [False, True])
def test_activations_are_level_with_depth_at_initialisation(depth: int, tied: bool) -> None:
    model = make(width=64, depth=depth, vocabulary=256, context=32, tied=tied)
    model.attention = "sdpa"
    sizes = []
    for block in model.blocks:
        block.register_forward_hook(lambda _m, _i, out: sizes.append(out.square().mean().sqrt().item()))
    tokens, targets = sample(model, B=4, T=32)
    with torch.no_grad():
        loss = F.cross_entropy(model(tokens).view(-1, 256), targets.reshape(-1)).item()
    assert 0.9 < sizes[0] < 1.5
    assert 1.0 < sizes[-1] < 1.6
    assert loss == pytest.approx(math.log(256), abs=0.1)


@pytest.mark.parametrize("options", VARIANTS[:3])
def test_bf16_gradients_are_close(options: dict[str, Any]) -> None:
    model = make(width=64, vocabulary=64, context=32, **{**options, "head_size": 16})
    tokens, targets = sample(model, B=8, T=32)
    model.attention = "explicit"
    _, exact = loss_and_gradients(model.double(), tokens, targets)
    _, rough = loss_and_gradients(model.bfloat16(), tokens, targets)
    for (name, _), a, b in zip(model.named_parameters(), exact, rough, strict=True):
        assert (a - b.double()).norm() < 0.03 * a.norm(), name


def test_embedding_gradient_is_added_in_float32() -> None:
    """600 additions of 1 stop at 256 in bf16."""
    table = torch.zeros(2, 4, dtype=torch.bfloat16, requires_grad=True)
    x = fused.Embed.apply(table, torch.zeros(600, dtype=torch.int64), 1.0)
    (gradient,) = torch.autograd.grad(x.sum(), table)
    assert gradient[0].tolist() == [600.0] * 4
    assert gradient[1].tolist() == [0.0] * 4


def test_autocast_equals_weights_cast_to_bf16() -> None:
    model, low = make(), make().bfloat16()
    tokens, targets = sample(model)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(tokens)
    assert torch.equal(logits, low(tokens))
    gradients = torch.autograd.grad(logits.float().square().mean(), list(model.parameters()))
    assert all(g.dtype == torch.float32 and torch.isfinite(g).all() for g in gradients)
    assert targets.shape == tokens.shape


def test_auto_is_explicit_up_to_256_tokens() -> None:
    model = make(context=300)
    for T, attention in ((256, "explicit"), (257, "sdpa")):
        tokens, _ = sample(model, B=1, T=T)
        with torch.no_grad():
            model.attention = "auto"
            chosen = model(tokens)
            model.attention = attention
            assert torch.equal(chosen, model(tokens))


def test_wrong_use_of_forward() -> None:
    model = make()
    with pytest.raises(ValueError, match="13 tokens are longer than the context of 12"):
        model(torch.zeros(1, 13, dtype=torch.int64))
    model.attention = "flash"
    with pytest.raises(ValueError, match=r"'flash'; allowed: auto, explicit, sdpa"):
        model(torch.zeros(1, 3, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_the_same_bits_whatever_memory_was_used_before(dtype: torch.dtype) -> None:
    model = make(width=48, context=40, vocabulary=64).to(dtype)
    model.attention = "explicit"
    tokens, targets = sample(model, B=5, T=40)
    logits, gradients = loss_and_gradients(model, tokens, targets)
    held = []
    for size in (3, 1001, 77_777, 5):
        held.append(torch.full((size,), float("nan")))
        again_logits, again = loss_and_gradients(model, tokens, targets)
        assert torch.equal(logits, again_logits)
        assert all(torch.equal(a, b) for a, b in zip(gradients, again, strict=True))
