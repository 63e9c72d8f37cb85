"""LARS against its rules in float64, variants, shards, resume and bad input."""

from __future__ import annotations

import math
from typing import Any

import optimizer_cases as cases
import pytest
import torch
from torch import Tensor, nn

from isoloss.methods.lars import LARS, VARIANTS, exclusion_groups

SHAPES = ((7, 5), (5,), (70_001,), (), (3, 2, 2, 2))
RULES: list[dict[str, Any]] = [
    {"variant": "original", "momentum": 0.9},
    {"variant": "original", "momentum": 0.9, "nesterov": True},
    {"variant": "original", "momentum": 0.0},
    {"variant": "larc", "momentum": 0.9, "lr": 0.0005},
    {"variant": "lamb-paper", "momentum": 0.9, "lr": 0.01},
    {"variant": "lamb-paper", "momentum": 0.0, "lr": 0.01},
    {"variant": "original", "momentum": 0.9, "adapt": False, "lr": 0.01},
    {"variant": "lamb-paper", "momentum": 0.9, "adapt": False, "lr": 0.01},
]


def tensors(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator) for s in SHAPES]


def reference(start: list[Tensor], updates: int, rule: dict[str, Any], wd: float, c: float) -> list[Tensor]:
    """The rules line by line, in float64."""
    mu, lr, eps = rule["momentum"], rule["lr"], 1e-8
    xs = [x.double() for x in start]
    bs = [torch.zeros_like(x) for x in xs]
    for t in range(updates):
        for i, g in enumerate(each.double() for each in tensors(50 + t)):
            x, b = xs[i], bs[i]
            adapt = rule.get("adapt", True)
            if rule["variant"] == "lamb-paper":
                b = mu * b + (1 - mu) * (g + wd * x)
                ratio = float(x.pow(2).sum().sqrt() / b.pow(2).sum().sqrt()) if adapt else 1.0
                step = ratio * b
            else:
                xn, gn = math.sqrt(float((x * x).sum())), math.sqrt(float((g * g).sum()))
                ratio = c * xn / (gn + wd * xn + eps)
                if rule["variant"] == "larc":
                    ratio = min(ratio / lr, 1.0)
                d = (ratio if adapt else 1.0) * (g + wd * x)
                b = mu * b + d
                step = d + mu * b if rule.get("nesterov") else b
            xs[i], bs[i] = x - lr * step, b
    return xs


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_equals_the_rule_in_float64(rule: dict[str, Any], foreach: bool) -> None:
    options = {"lr": 2.0} | rule
    xs = tensors(3)
    start = [x.double() for x in xs]
    expected = reference(xs, 6, options, 0.01, 0.02)
    optimizer = LARS(xs, weight_decay=0.01, coefficient=0.02, foreach=foreach, **options)
    for t in range(6):
        for x, g in zip(xs, tensors(50 + t), strict=True):
            x.grad = g
        optimizer.step()
    for x, e, s in zip(xs, expected, start, strict=True):
        moved = (e - s).norm()
        assert moved > 1e-4
        assert (x.double() - e).norm() <= 1e-6 * (moved + e.norm())


def test_without_the_ratio_it_is_torch_sgd() -> None:
    ours, theirs = tensors(3), tensors(3)
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
    first, second = LARS(ours, adapt=False, **options), torch.optim.SGD(theirs, **options)
    for t in range(4):
        for x, y, g in zip(ours, theirs, tensors(50 + t), strict=True):
            x.grad, y.grad = g, g.clone()
        first.step()
        second.step()
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_ratio_is_one_where_a_norm_is_zero(variant: str, foreach: bool) -> None:
    zero, still = torch.zeros(4), torch.ones(4)
    zero.grad, still.grad = torch.full((4,), 0.5), torch.zeros(4)
    LARS([zero, still], lr=1.0, momentum=0.0, variant=variant, foreach=foreach).step()
    torch.testing.assert_close(zero, torch.full((4,), -0.5))
    assert torch.equal(still, torch.ones(4))


@pytest.mark.parametrize("foreach", [False, True])
def test_a_gradient_of_norm_zero_leaves_the_plain_decay(foreach: bool) -> None:
    x = torch.ones(4)
    x.grad = torch.zeros(4)
    LARS([x], lr=1.0, momentum=0.0, weight_decay=0.25, foreach=foreach).step()
    torch.testing.assert_close(x, torch.full((4,), 0.75))


@pytest.mark.parametrize("nesterov", [False, True])
def test_memory_layout_does_not_matter(nesterov: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, g = torch.randn(4, 4, 3, 5, generator=generator), torch.randn(4, 4, 3, 5, generator=generator)
    plain, last = x.clone(), x.clone().to(memory_format=torch.channels_last)
    wide = torch.zeros(4, 4, 3, 10)[..., ::2]
    wide.copy_(x)
    for each in (plain, last, wide):
        each.grad = g.clone()
        optimizer = LARS([each], lr=3.0, weight_decay=0.1, nesterov=nesterov)
        optimizer.step()
        optimizer.step()
    assert (plain - x).norm() > 1e-3
    torch.testing.assert_close(plain, last, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(plain, wide, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("variant", VARIANTS)
def test_resume_in_a_fresh_process_is_bit_identical(variant: str) -> None:
    lr = {"original": 5.0, "larc": 0.01, "lamb-paper": 0.02}[variant]

    def make(model: nn.Module) -> LARS:
        return LARS(exclusion_groups(model, 0.05), lr=lr, coefficient=0.01, variant=variant)

    end = cases.assert_resumes(make, closed=False)
    plain_lr = 0.01 if variant == "larc" else lr
    _, plain = cases.train(
        lambda m: torch.optim.SGD(m.parameters(), lr=plain_lr, momentum=0.9), range(11), workers=1, closed=False
    )
    assert (end - plain).norm() > 1e-3


@pytest.mark.multiprocess
@pytest.mark.parametrize("variant", ["original", "lamb-paper"])
def test_sharded_equals_one_process(variant: str) -> None:
    def make(model: nn.Module) -> LARS:
        return LARS(model.parameters(), lr=0.05, coefficient=0.1, weight_decay=0.01, variant=variant)

    assert cases.sharded(make, closed=False) <= 1e-6


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_bad_gradient_shows(variant: str, foreach: bool) -> None:
    x, other = torch.ones(4), torch.ones(4)
    x.grad, other.grad = torch.tensor([1.0, math.nan, 1.0, 1.0]), torch.ones(4)
    LARS([x, other], lr=0.1, variant=variant, foreach=foreach).step()
    assert x.isnan().all()
    assert other.isfinite().all()


def test_frozen_parameters_stay() -> None:
    model = cases.net()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    optimizer = LARS(model.parameters(), lr=0.1, weight_decay=0.1)
    cases.closure(model, 0)()
    optimizer.step()
    assert torch.equal(model[0].weight, before)


def test_bad_input() -> None:
    x = torch.ones(3)
    for wrong, message in (
        ({"variant": "lark"}, r"did you mean 'larc'"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov"),
        ({"nesterov": True, "variant": "lamb-paper"}, "nesterov"),
        ({"coefficient": -1.0}, "coefficient"),
    ):
        with pytest.raises(ValueError, match=message):
            LARS([x], **wrong)  # type: ignore[arg-type]
    for dtype in (torch.complex64, torch.int64):
        with pytest.raises(ValueError, match="allowed: real floats"):
            LARS([torch.zeros(2, dtype=dtype)])
    embedding = nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="allowed: dense gradients"):
        LARS(embedding.parameters()).step()
