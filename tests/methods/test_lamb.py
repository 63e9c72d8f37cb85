"""LAMB against the paper's rule in float64, its variants, shards, resume and bad input."""

from __future__ import annotations

import math
from typing import Any

import optimizer_cases as cases
import pytest
import torch
from torch import Tensor, nn

from isoloss.methods.lamb import LAMB, VARIANTS, exclusion_groups

SHAPES = ((7, 5), (5,), (70_001,), (), (3, 2, 2, 2))


def tensors(dtype: torch.dtype = torch.float32, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [(torch.randn(s, generator=generator, dtype=torch.float64) * scale).to(dtype) for s in SHAPES]


def slopes(update: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(50 + update)
    return [(torch.randn(s, generator=generator, dtype=torch.float64) * 0.3).to(dtype) for s in SHAPES]


def reference(start: list[Tensor], updates: int, variant: str, lr: float, wd: float, adapt: bool) -> list[Tensor]:
    """The rule line by line, in float64."""
    b1, b2, eps = 0.9, 0.999, 1e-6
    xs = [x.double() for x in start]
    ms, vs = [torch.zeros_like(x) for x in xs], [torch.zeros_like(x) for x in xs]
    for t in range(1, updates + 1):
        gs = [g.double() for g in slopes(t)]
        if variant == "nvlamb":
            norm = math.sqrt(sum(float((g * g).sum()) for g in gs))
            gs = [g / max(1.0, norm / 1.0) for g in gs]
        for i, g in enumerate(gs):
            ms[i] = b1 * ms[i] + (1 - b1) * g
            vs[i] = b2 * vs[i] + (1 - b2) * g * g
            corrected = variant != "pytorch-lamb"
            m = ms[i] / (1 - b1**t) if corrected else ms[i]
            v = vs[i] / (1 - b2**t) if corrected else vs[i]
            u = m / (v.sqrt() + eps) + wd * xs[i]
            xn, un = float((xs[i] ** 2).sum().sqrt()), float((u**2).sum().sqrt())
            if variant == "pytorch-lamb":
                xn = min(xn, 10.0)
            ratio = xn / un if xn > 0 and un > 0 else 1.0
            if variant == "lambc":
                ratio = min(ratio, 1.0)
            if not adapt or (variant == "nvlamb" and wd == 0):
                ratio = 1.0
            xs[i] = xs[i] - lr * ratio * u
    return xs


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize(("wd", "adapt", "scale"), [(0.01, None, 1.0), (0.0, None, 0.05), (0.3, False, 1.0)])
def test_equals_the_rule_in_float64(variant: str, foreach: bool, wd: float, adapt: bool | None, scale: float) -> None:
    xs = tensors(scale=scale)
    expected = reference(xs, 7, variant, 0.02, wd, adapt is not False)
    start = [x.double() for x in xs]
    optimizer = LAMB(xs, lr=0.02, weight_decay=wd, variant=variant, adapt=adapt, foreach=foreach)
    for t in range(1, 8):
        for x, g in zip(xs, slopes(t), strict=True):
            x.grad = g
        optimizer.step()
    for x, e, s in zip(xs, expected, start, strict=True):
        moved = (e - s).norm()
        assert (x.double() - e).norm() <= 3e-6 * (moved + e.norm())
        assert moved > 0


def test_float64_equals_the_rule_to_rounding() -> None:
    xs = tensors(torch.float64)
    expected = reference(xs, 5, "paper", 0.02, 0.01, True)
    optimizer = LAMB(xs, lr=0.02)
    for t in range(1, 6):
        for x, g in zip(xs, slopes(t), strict=True):
            x.grad = g.double()
        optimizer.step()
    for x, e in zip(xs, expected, strict=True):
        torch.testing.assert_close(x, e, rtol=1e-12, atol=1e-14)


def test_variants_differ() -> None:
    ends = []
    for variant in VARIANTS:
        xs = tensors(scale=3.0)
        optimizer = LAMB(xs, lr=0.05, variant=variant)
        for t in range(1, 4):
            for x, g in zip(xs, slopes(t), strict=True):
                x.grad = g
            optimizer.step()
        ends.append(torch.cat([x.reshape(-1) for x in xs]))
    for i in range(len(ends)):
        for j in range(i):
            assert (ends[i] - ends[j]).norm() > 1e-3


def test_the_first_step_has_the_length_of_the_weights() -> None:
    x = torch.full((100,), 2.0)
    before = x.clone()
    x.grad = torch.randn(100, generator=torch.Generator().manual_seed(0))
    LAMB([x], lr=0.01, weight_decay=0.0).step()
    assert (x - before).norm().item() == pytest.approx(0.01 * before.norm().item(), rel=1e-5)


@pytest.mark.parametrize("foreach", [False, True])
def test_ratio_is_one_where_a_norm_is_zero(foreach: bool) -> None:
    zero, still = torch.zeros(4), torch.ones(4)
    zero.grad, still.grad = torch.full((4,), 0.5), torch.zeros(4)
    LAMB([zero, still], lr=0.1, weight_decay=0.0, foreach=foreach).step()
    torch.testing.assert_close(zero, torch.full((4,), -0.1), rtol=1e-4, atol=0)
    assert torch.equal(still, torch.ones(4))


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("make", [lambda t: t.to(memory_format=torch.channels_last), lambda t: t.transpose(0, 1)])
def test_memory_layout_does_not_matter(foreach: bool, make: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    x, g = torch.randn(4, 4, 3, 5, generator=generator), torch.randn(4, 4, 3, 5, generator=generator)
    plain, moved = x.clone(), make(x.clone())
    wide = torch.zeros(4, 4, 3, 10)[..., ::2]
    wide.copy_(x)
    plain.grad, moved.grad = g.clone(), make(g).contiguous()
    wide.grad = g.clone()
    for each in (plain, moved, wide):
        optimizer = LAMB([each], lr=0.1, foreach=foreach)
        optimizer.step()
        optimizer.step()
    torch.testing.assert_close(make(plain), moved, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(plain, wide, rtol=1e-6, atol=1e-7)


def test_norm_of_a_large_tensor_is_exact() -> None:
    x = torch.full((3_000_000,), 0.1)
    g = torch.randn(x.numel(), generator=torch.Generator().manual_seed(0))
    expected = x.double() - 0.01 * x.double().norm() / g.double().sign().norm() * g.double().sign()
    x.grad = g
    LAMB([x], lr=0.01, weight_decay=0.0, eps=1e-30).step()
    assert ((x.double() - expected).abs().max() / (0.001)).item() < 2e-5


def test_exclusion_list_gets_neither_decay_nor_ratio() -> None:
    model = cases.net()
    groups = exclusion_groups(model, 0.1, exclude=(r"^3\.weight",))
    assert [len(group["params"]) for group in groups] == [1, 5]
    cases.closure(model, 0)()
    optimizer = LAMB(groups, lr=0.01)
    biases = {name: p.detach().clone() for name, p in model.named_parameters() if name != "0.weight"}
    optimizer.step()
    for name, p in model.named_parameters():
        if name != "0.weight":
            assert p.grad is not None
            adam = biases[name] - 0.01 * p.grad / (p.grad.abs() + 1e-6)
            torch.testing.assert_close(p.detach(), adam, rtol=1e-5, atol=1e-7)


def test_gradients_are_left_as_they_were() -> None:
    xs = tensors()
    for x, g in zip(xs, slopes(1), strict=True):
        x.grad = g.clone()
    LAMB(xs, variant="nvlamb").step()
    assert all(torch.equal(x.grad, g) for x, g in zip(xs, slopes(1), strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("variant", VARIANTS)
def test_resume_in_a_fresh_process_is_bit_identical(variant: str) -> None:
    def make(model: nn.Module) -> LAMB:
        return LAMB(exclusion_groups(model, 0.05), lr=0.02, variant=variant)

    end = cases.assert_resumes(make, closed=False)
    _, plain = cases.train(lambda m: torch.optim.AdamW(m.parameters(), lr=0.02), range(11), workers=1, closed=False)
    assert (end - plain).norm() > 1e-2


@pytest.mark.multiprocess
@pytest.mark.parametrize("variant", ["paper", "nvlamb"])
def test_sharded_equals_one_process(variant: str) -> None:
    def make(model: nn.Module) -> LAMB:
        return LAMB(model.parameters(), lr=0.02, variant=variant)

    assert cases.sharded(make, closed=False) <= 1e-6


def test_frozen_parameters_stay() -> None:
    model = cases.net()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    optimizer = LAMB(model.parameters(), lr=0.1)
    cases.closure(model, 0)()
    optimizer.step()
    assert torch.equal(model[0].weight, before)
    assert model[0].weight not in optimizer.state


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_gradient_shows(foreach: bool, bad: float) -> None:
    x, other = torch.ones(4), torch.ones(4)
    x.grad, other.grad = torch.tensor([1.0, bad, 1.0, 1.0]), torch.ones(4)
    LAMB([x, other], foreach=foreach).step()
    assert x.isnan().all()
    assert other.isfinite().all()


def test_bad_input() -> None:
    x = torch.ones(3)
    for wrong, message in (
        ({"variant": "nvlam"}, r"did you mean 'nvlamb'"),
        ({"betas": (0.9, 1.0)}, "a beta is 1.0"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"eps": -1e-6}, "eps"),
        ({"weight_decay": -0.1}, "weight_decay"),
    ):
        with pytest.raises(ValueError, match=message):
            LAMB([x], **wrong)  # type: ignore[arg-type]
    for dtype in (torch.complex64, torch.int64):
        with pytest.raises(ValueError, match="allowed: real floats"):
            LAMB([torch.zeros(2, dtype=dtype)])
    embedding = nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    before = embedding.weight.detach().clone()
    optimizer = LAMB(embedding.parameters())
    with pytest.raises(ValueError, match="allowed: dense gradients"):
        optimizer.step()
    assert torch.equal(embedding.weight, before)
    assert not optimizer.state
