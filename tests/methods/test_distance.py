"""Distance and roughness: against float64 sums and landscapes whose alpha is known; neither changes a bit."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from isoloss.methods.distance import Distance, direction, log_spaced, roughness, squared_distances
from isoloss.methods.gradient_norm import CHUNK


def test_log_spaced_moments_do_not_depend_on_the_length_of_the_run() -> None:
    for per_decade in (1, 3, 8, 40):
        listed = sorted({round(10 ** (i / per_decade)) for i in range(5 * per_decade + 1)})
        assert [u for u in range(10**5 + 1) if log_spaced(u, per_decade)] == listed
    assert [u for u in range(101) if log_spaced(u)] == [1, 2, 3, 4, 6, 7, 10, 13, 18, 24, 32, 42, 56, 75, 100]


def test_distances_equal_exact_sums() -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((CHUNK + 7,), (3, 4), ())]
    moved = [t + 1e-3 * torch.randn(t.shape, generator=generator) for t in start]
    for got, a, b in zip(squared_distances(moved, start), moved, start, strict=True):
        pairs = zip(a.reshape(-1).tolist(), b.reshape(-1).tolist(), strict=True)
        assert got == pytest.approx(math.fsum((x - y) ** 2 for x, y in pairs), rel=1e-13)
    with pytest.raises(ValueError, match="as at the start"):
        squared_distances(moved[:2], start)


def train(updates: int, probe: Distance | None) -> list[Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    weights = list(model.parameters())
    if probe:
        probe.observe(weights, 0)
    for update in range(1, updates + 1):
        loss = model(torch.randn(8, 5)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if probe:
            probe.observe(weights, update)
    return [w.detach().clone() for w in weights]


def test_watching_changes_no_bit_and_sees_every_tensor() -> None:
    probe = Distance()
    watched, alone = train(100, probe), train(100, None)
    assert all(torch.equal(a, b) for a, b in zip(watched, alone, strict=True))
    assert probe.updates == [u for u in range(101) if log_spaced(u)]
    first = train(0, None)
    exact = [float((a.double() - b.double()).norm()) for a, b in zip(alone, first, strict=True)]
    assert probe.by_tensor[-1] == pytest.approx(exact, rel=1e-12)
    assert probe.total[-1] == pytest.approx(math.hypot(*exact), rel=1e-12)
    assert probe.total[-1] > probe.total[0] > 0


def test_resume_goes_on_to_the_bit(tmp_path: Path) -> None:
    weights = [torch.zeros(3), torch.zeros(2, 2)]

    def walk(probe: Distance, first: int, last: int) -> None:
        for update in range(first, last):
            generator = torch.Generator().manual_seed(update)
            probe.observe([w + update * torch.randn(w.shape, generator=generator) for w in weights], update)

    whole, half = Distance(4), Distance(4)
    walk(whole, 0, 200)
    walk(half, 0, 60)
    torch.save(half.state_dict(), tmp_path / "state.pt")
    resumed = Distance(4)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt"))
    walk(resumed, 60, 200)
    assert resumed.updates == whole.updates and resumed.by_tensor == whole.by_tensor
    for name, value in whole.state_dict().items():
        other = resumed.state_dict()[name]
        assert torch.equal(value, other) if isinstance(value, Tensor) else value == other
    with pytest.raises(ValueError, match="per_decade = 4; allowed: 8"):
        Distance().load_state_dict(torch.load(tmp_path / "state.pt"))


def test_a_fresh_state_can_be_saved_and_the_order_is_checked() -> None:
    probe = Distance()
    fresh = Distance()
    fresh.load_state_dict(probe.state_dict())
    with pytest.raises(ValueError, match="update 3 came first; allowed: 0"):
        fresh.observe([torch.zeros(1)], 3)
    fresh.observe([torch.zeros(1)], 0)
    with pytest.raises(ValueError, match="update 0 came after 0"):
        fresh.observe([torch.zeros(1)], 0)
    with pytest.raises(ValueError, match="at least 1"):
        Distance(0)


def test_directions_are_unit_vectors_and_independent() -> None:
    like = [torch.zeros(300), torch.zeros(20, 35)]
    found = torch.stack([torch.cat([p.reshape(-1) for p in direction(like, 1, i)]) for i in range(20)])
    gram = found @ found.t()
    assert torch.allclose(gram.diagonal(), torch.ones(20, dtype=torch.float64), atol=1e-12)
    assert (gram - torch.eye(20)).abs().max() < 5 / math.sqrt(1000)
    assert torch.equal(found[3], torch.cat([p.reshape(-1) for p in direction(like, 1, 3)]))
    assert not torch.equal(found[3], torch.cat([p.reshape(-1) for p in direction(like, 2, 3)]))


@pytest.mark.parametrize(("power", "alpha"), [(1, 2.0), (2, 4.0), (0.5, 1.0)])
def test_alpha_of_a_landscape_with_known_growth(power: float, alpha: float) -> None:
    """|L(w) - L(0)| = |c w|^power along every direction, so std grows as z^power and alpha is twice that."""
    w = torch.zeros(50, dtype=torch.float64)
    c = torch.randn(50, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    seen = roughness(lambda: (c @ w).abs() ** power, [w], [0.1, 0.3, 1.0, 3.0], directions=8)
    assert seen.alpha == pytest.approx(alpha, abs=1e-9)


def test_std_of_a_linear_loss_equals_its_closed_form() -> None:
    """L = c w: E (z c v)^2 = z^2 |c|^2 / n over isotropic unit v."""
    n = 40
    w, c = [torch.zeros(n // 2), torch.zeros(n // 2)], torch.linspace(-1, 1, n, dtype=torch.float64)
    z = 2.0
    seen = roughness(lambda: c @ torch.cat(w).double(), w, [z], directions=4000)
    expected = z * float(c.norm()) / math.sqrt(n)
    assert seen.std[0] == pytest.approx(expected, rel=0.04)
    assert seen.centred[0] == pytest.approx(expected, rel=0.04)


def test_weights_come_back_to_the_bit_and_no_random_state_is_touched() -> None:
    w = [torch.randn(5, 5), torch.randn(3).requires_grad_()]
    before, state = [t.detach().clone() for t in w], torch.random.get_rng_state()
    seen = roughness(lambda: w[0].square().sum() + w[1].sum(), w, [0.5, 1.0], directions=3, seed=7)
    assert all(torch.equal(a, b) for a, b in zip(w, before, strict=True))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert seen == roughness(lambda: w[0].square().sum() + w[1].sum(), w, [0.5, 1.0], directions=3, seed=7)

    calls = iter([1.0])
    with pytest.raises(StopIteration):
        roughness(lambda: next(calls), w, [0.5])
    assert all(torch.equal(a, b) for a, b in zip(w, before, strict=True))


def test_wrong_use_of_roughness() -> None:
    w = [torch.zeros(2)]
    for distances, directions in (([], 1), ([0.0], 1), ([-1.0], 1), ([1.0], 0)):
        with pytest.raises(ValueError, match="allowed"):
            roughness(lambda: 0.0, w, distances, directions=directions)
    with pytest.raises(ValueError, match="allowed"):
        roughness(lambda: 0.0, [], [1.0])
    flat = roughness(lambda: 1.0, w, [1.0, 2.0], directions=1)
    assert math.isnan(flat.alpha) and all(math.isnan(v) for v in flat.centred)
