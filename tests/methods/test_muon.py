"""Muon with AdamW against torch's two optimizers to the bit, the rule in float64, resume, bad input."""

from __future__ import annotations

import math
from typing import Any

import optimizer_cases as cases
import pytest
import torch
from torch import Tensor, nn

from isoloss.methods.muon import MuonAdamW, muon_groups
from isoloss.models import build


def test_equals_torch_muon_and_torch_adamw_to_the_bit() -> None:
    ours, theirs = cases.net(), cases.net()
    one = MuonAdamW(ours.parameters(), lr=0.02, weight_decay=0.1, adamw_ratio=0.25)
    matrices = [p for p in theirs.parameters() if p.ndim == 2]
    vectors = [p for p in theirs.parameters() if p.ndim < 2]
    two = [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1),
        torch.optim.AdamW(vectors, lr=0.005, betas=(0.9, 0.95), weight_decay=0.1, fused=True),
    ]
    for update in range(6):
        cases.closure(ours, update)()
        one.step()
        cases.closure(theirs, update)()
        for each in two:
            each.step()
    assert torch.equal(cases.weights(ours), cases.weights(theirs))
    assert (cases.weights(ours) - cases.weights(cases.net())).norm() > 0.1


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (8, 3, 2, 2)])
@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
def test_a_matrix_follows_the_rule(shape: tuple[int, ...], adjust: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator)
    lr, wd, mu, (a, b, c) = 0.02, 0.1, 0.95, (3.4445, -4.7750, 2.0315)
    W = x.double().reshape(shape[0], -1)
    B = torch.zeros_like(W)
    optimizer = MuonAdamW([x], lr=lr, weight_decay=wd, adjust_lr=adjust)
    for _ in range(4):
        g = torch.randn(shape, generator=generator)
        x.grad = g
        optimizer.step()
        G = g.double().reshape(shape[0], -1)
        B = mu * B + (1 - mu) * G
        u = (1 - mu) * G + mu * B
        X = u / u.norm()
        X = X.T if shape[0] > X.shape[1] else X
        for _ in range(5):
            A = X @ X.T
            X = a * X + (b * A + c * A @ A) @ X
        O = X if X.shape == W.shape else X.T  # noqa: E741
        s = math.sqrt(max(1, W.shape[0] / W.shape[1])) if adjust == "original" else 0.2 * math.sqrt(max(W.shape))
        W = W - lr * wd * W - lr * s * O
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double().reshape(shape[0], -1)
    # The steps are made in bfloat16, which carries 8 bits.
    assert (x.double().reshape(shape[0], -1) - W).norm() < 0.03 * (W - start).norm()


def test_an_update_is_nearly_orthogonal() -> None:
    x = torch.zeros(16, 40)
    x.grad = torch.randn(16, 40, generator=torch.Generator().manual_seed(1)) * 1e-3
    MuonAdamW([x], lr=1.0).step()
    values = torch.linalg.svdvals(x)
    assert values.min() > 0.4
    assert values.max() < 1.6


def test_groups_of_a_decoder() -> None:
    model = build({"family": "gpt", "width": 32, "depth": 1, "head_size": 16}, vocabulary=20, context=8, seed=0)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = muon_groups(model, 0.1)
    found = [({names[id(p)] for p in group["params"]}, group["muon"], group["weight_decay"]) for group in groups]
    hidden = {f"blocks.0.{layer}.weight" for layer in ("qkv", "out", "up", "down")}
    assert found == [
        (hidden, True, 0.1),
        ({"embedding.weight", "head.weight"}, False, 0.1),
        ({"norm", "blocks.0.norm1", "blocks.0.norm2"}, False, 0.0),
    ]
    states = MuonAdamW(groups)
    tokens = torch.randint(20, (2, 8), generator=torch.Generator().manual_seed(0))
    model(tokens).square().mean().backward()
    states.step()
    for name, p in model.named_parameters():
        assert ("momentum_buffer" in states.state[p]) == (name in hidden)
        assert ("exp_avg_sq" in states.state[p]) == (name not in hidden)


def test_resume_in_a_fresh_process_is_bit_identical() -> None:
    def make(model: nn.Module) -> MuonAdamW:
        return MuonAdamW(muon_groups(model, 0.05), lr=0.02, adamw_ratio=0.5)

    end = cases.assert_resumes(make, closed=False)
    _, plain = cases.train(lambda m: torch.optim.AdamW(m.parameters(), lr=0.02), range(11), workers=1, closed=False)
    assert (end - plain).norm() > 1e-2


@pytest.mark.parametrize("muon", [None, False])
def test_memory_layout_does_not_matter(muon: bool | None) -> None:
    generator = torch.Generator().manual_seed(0)
    x, g = (torch.randn(4, 4, 3, 5, generator=generator) for _ in range(2))
    wide = torch.zeros(4, 4, 3, 10)[..., ::2]
    wide.copy_(x)
    ends: list[Tensor] = []
    for each in (x.clone(), x.clone(memory_format=torch.channels_last), wide):
        each.grad = g.clone()
        optimizer = MuonAdamW([each], lr=0.1, muon=muon)
        optimizer.step()
        optimizer.step()
        ends.append(each.contiguous())
    assert all(torch.allclose(ends[0], end, rtol=1e-5, atol=1e-6) for end in ends)
    assert not torch.equal(ends[0], x)


def test_gradients_and_frozen_parameters_are_left_as_they_were() -> None:
    model = cases.net()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    cases.closure(model, 0)()
    slopes = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    optimizer = MuonAdamW(model.parameters())
    optimizer.step()
    assert torch.equal(model[0].weight, before)
    assert model[0].weight not in optimizer.state
    assert all(p.grad is None or torch.equal(p.grad, g) for p, g in zip(model.parameters(), slopes, strict=True))  # type: ignore[arg-type]


def test_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    x: Any = torch.ones(3, 2)
    for wrong, message in (
        ({"lr": -1.0}, "lr is -1.0"),
        ({"momentum": 1.0}, "momentum or a beta is 1.0"),
        ({"ns_steps": 0}, "ns_steps is 0"),
        ({"adjust_lr": "match_rms_adam"}, "did you mean 'match_rms_adamw'"),
    ):
        with pytest.raises(ValueError, match=message):
            MuonAdamW([x], **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"shape \(3,\) is in a group with muon=True"):
        MuonAdamW([{"params": [torch.ones(3)], "muon": True}])
    with pytest.raises(ValueError, match="allowed: real floats"):
        MuonAdamW([torch.zeros(2, 2, dtype=torch.complex64)])
    embedding = nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    optimizer = MuonAdamW(embedding.parameters())
    with pytest.raises(ValueError, match="allowed: dense gradients"):
        optimizer.step()
    assert not optimizer.state
    monkeypatch.setitem(__import__("sys").modules, "torch.optim._muon", None)
    with pytest.raises(ValueError, match=r"allowed: torch 2\.9 or newer"):
        MuonAdamW([x])
