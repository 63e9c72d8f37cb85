"""The observers by themselves: against brute force, through a save, and that they leave everything as it was."""

from __future__ import annotations

import copy
import io
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from isoloss.bridges.watching import MicroGradients, Watch, preserved_randomness
from isoloss.methods.averages import EMA, WindowAverage
from isoloss.methods.noise_scale import estimate
from isoloss.recipe.errors import StudyError


class Tied(nn.Module):
    """A weight that is used twice, and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.frozen, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.frozen(torch.tanh(self.inner(torch.tanh(self.inner(x)))))))


def batch(update: int, samples: int = 6) -> Tensor:
    return torch.randn(samples, 4, generator=torch.Generator().manual_seed(update))


def loss(model: nn.Module, x: Tensor) -> Tensor:
    return (model(x) - x.sum(1, keepdim=True)).square().mean()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, watch: Watch | None, begin: int, end: int) -> None:
    """Updates of three micro-batches of two samples."""
    for update in range(begin, end):
        optimizer.zero_grad()
        for part in batch(update).split(2):
            if watch and watch.gradients:
                watch.gradients.expect(2)
            (loss(model, part) / 3).backward()
        if watch:
            watch.gradient()
        optimizer.step()
        if watch:
            watch.after(update + 1)
            watch.loss("loss", update + 1, float(loss(model, batch(update)).detach()))


def built() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = Tied()
    return model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9)


def watch() -> Watch:
    return Watch(averages={"window": WindowAverage(4), "ema": EMA(0.8)}, noise_scale=0.9)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def test_norms_of_micro_batches_are_those_of_their_own_gradients() -> None:
    model, optimizer = built()
    weights = [p for p in model.parameters() if p.requires_grad]
    parts = batch(3).split(2)
    each = [torch.autograd.grad(loss(model, part), weights) for part in parts]
    expected = [sum(float(g.double().square().sum()) for g in gradients) for gradients in each]
    mean = [torch.stack(column).mean(0) for column in zip(*each, strict=True)]
    seen = MicroGradients(weights, 3)
    for part in parts:
        seen.expect(2)
        (loss(model, part) / 3).backward()
    found = seen.take()
    assert found is not None
    assert found[0] == pytest.approx(expected, rel=1e-5)
    assert found[1] == pytest.approx(sum(float(g.double().square().sum()) for g in mean), rel=1e-5)
    assert found[2] == [2, 2, 2]
    seen.remove()
    optimizer.zero_grad()
    seen.expect(2)
    loss(model, parts[0]).backward()
    assert seen.take() is None  # hooks are gone, and one micro-batch is no update


@pytest.mark.parametrize("sizes", [(2, 2), (2, 2, 1), (2, 2, 2, 2)])
def test_unequal_or_missing_micro_batches_give_no_estimate(sizes: tuple[int, ...]) -> None:
    model, _ = built()
    seen = MicroGradients([p for p in model.parameters() if p.requires_grad], 3)
    for size in sizes:
        seen.expect(size)
        (loss(model, batch(0, size)) / 3).backward()
    assert seen.take() is None


def test_labels_that_are_left_out_make_micro_batches_unequal() -> None:
    model, _ = built()
    seen = MicroGradients([p for p in model.parameters() if p.requires_grad], 2)
    for terms in (4, 3):
        seen.expect(2, torch.tensor(terms))
        (loss(model, batch(0, 2)) / 2).backward()
    assert seen.take() is None


def test_what_is_watched_changes_no_bit_and_is_right() -> None:
    plain, optimizer = built()
    train(plain, optimizer, None, 0, 8)
    model, optimizer = built()
    start = flat(model)
    seen = watch()
    seen.begin(model, 0, micro_batches=3)
    path = []
    for update in range(8):
        train(model, optimizer, seen, update, update + 1)
        path.append(flat(model))
    seen.end()
    assert torch.equal(flat(plain), flat(model))
    assert seen.distance is not None and seen.distance.updates[-1] == 7
    assert seen.values()["weight_distance"] == pytest.approx(
        float((path[6].double() - start.double()).norm()), rel=1e-12
    )
    averages = dict(seen.readable())
    with seen.holding(averages["window"]):
        assert torch.allclose(flat(model), torch.stack(path[-4:]).double().mean(0).float(), rtol=1e-6)
    assert torch.equal(flat(plain), flat(model))
    with pytest.raises(RuntimeError), seen.holding(averages["ema"]):
        raise RuntimeError
    assert torch.equal(flat(plain), flat(model))
    pairs = []
    again, optimizer = built()
    for update in range(8):
        weights = [p for p in again.parameters() if p.requires_grad]
        each = [torch.autograd.grad(loss(again, part), weights) for part in batch(update).split(2)]
        squares = [sum(float(g.double().square().sum()) for g in gradients) for gradients in each]
        mean = [torch.stack(column).mean(0) for column in zip(*each, strict=True)]
        pairs.append(estimate(squares, sum(float(g.double().square().sum()) for g in mean), 2))
        train(again, optimizer, None, update, update + 1)
    assert seen.noise is not None
    weights_of = [0.9 ** (7 - i) for i in range(8)]
    expected = sum(w * p.S for w, p in zip(weights_of, pairs, strict=True)) / sum(weights_of)
    assert math.isclose(seen.noise.estimate.S, expected, rel_tol=1e-5)


def saved(seen: Watch) -> dict[str, Any]:
    """Through a file, as a checkpoint has it."""
    file = io.BytesIO()
    torch.save(seen.state_dict(), file)
    file.seek(0)
    found: dict[str, Any] = torch.load(file, weights_only=True)
    return found


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return bool(one == other)


@pytest.mark.parametrize("stop", [1, 5, 6])
def test_a_resume_goes_on_to_the_bit(stop: int) -> None:
    model, optimizer = built()
    whole = watch()
    whole.begin(model, 0, micro_batches=3)
    train(model, optimizer, whole, 0, stop)
    state = saved(whole)
    other, second = built()
    other.load_state_dict(model.state_dict())
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer, whole, stop, 12)
    resumed = watch()
    resumed.load_state_dict(state)
    resumed.begin(other, stop, micro_batches=3)
    train(other, second, resumed, stop, 12)
    assert same(resumed.state_dict(), whole.state_dict())


def test_a_state_of_something_else_is_refused() -> None:
    model, optimizer = built()
    seen = watch()
    seen.begin(model, 0, micro_batches=3)
    train(model, optimizer, seen, 0, 3)
    state = saved(seen)
    with pytest.raises(StudyError, match=r"averages.*allowed: the same"):
        Watch(noise_scale=0.9).load_state_dict(state)
    with pytest.raises(StudyError, match="length"):
        Watch(averages={"window": WindowAverage(5), "ema": EMA(0.8)}, noise_scale=0.9).load_state_dict(state)
    other = watch()
    other.load_state_dict(state)
    with pytest.raises(StudyError, match="from update 5, and what they remember ends at update 3"):
        other.begin(model, 5, micro_batches=3)
    train(model, optimizer, None, 3, 4)
    with pytest.raises(StudyError, match="not those that the observers were saved with"):
        other.begin(model, 3, micro_batches=3)
    with pytest.raises(StudyError, match="ends at update 0"):
        watch().begin(model, 4, micro_batches=3)


def test_what_cannot_be_seen_is_refused() -> None:
    model, _ = built()
    with pytest.raises(StudyError, match="1 micro-batches an update in 1 processes"):
        watch().begin(model, 0)
    with pytest.raises(StudyError, match="in 2 processes"):
        watch().begin(model, 0, micro_batches=2, processes=2)
    with pytest.raises(StudyError, match=r"averages: found 'a b'"):
        Watch(averages={"a b": EMA(0.9)})
    normed = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    with pytest.raises(StudyError, match=r"refresh=.*update_bn"):
        Watch(averages={"ema": EMA(0.9)}).begin(normed, 0)


def test_running_statistics_of_an_average_are_refreshed_and_put_back() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    batches = [batch(i) for i in range(5)]
    seen = Watch(averages={"window": WindowAverage(2)}, refresh=lambda m: update_bn(batches, m))
    seen.begin(model, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for update in range(2):
        optimizer.zero_grad()
        loss(model, batches[update]).backward()
        optimizer.step()
        seen.after(update + 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    _, weights = next(seen.readable())
    twin = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    with torch.no_grad():
        for parameter, value in zip(twin.parameters(), weights, strict=True):
            parameter.copy_(value)
    update_bn(batches, twin)
    with seen.holding(weights):
        inside = {name: value.clone() for name, value in model.state_dict().items()}
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in inside.items())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not torch.equal(inside["1.running_mean"], before["1.running_mean"])


def test_a_forecast_of_a_power_law_is_right_and_its_band_covers() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(20):
        seen = Watch(distance=0)
        for update in range(10, 410, 10):
            seen.update = update
            seen.loss("loss", update, (1.5 + 8 * update**-0.6) * np.exp(0.01 * rng.standard_normal()))
        found = seen.forecast(1000, "loss", after=20)
        assert found is not None and found.update == 400 and found.end == 1000
        truth = 1.5 + 8 * 1000**-0.6
        assert found.loss == pytest.approx(truth, rel=0.05)
        inside += found.low <= truth <= found.high
        assert "90% band" in str(found)
    assert inside >= 15
    assert seen.forecast(300, "loss") is None  # behind already
    assert seen.forecast(1000, "loss", after=350) is None  # too few
    assert seen.forecast(1000, "other") is None
    seen.loss("loss", 420, float("nan"))
    assert len(seen.curves["loss"]) == 40


def test_random_states_are_put_back() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    with preserved_randomness(5):
        inside = [torch.rand(1).item(), np.random.rand(), random.random()]
    after = [torch.rand(1).item(), np.random.rand(), random.random()]
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    assert after == [torch.rand(1).item(), np.random.rand(), random.random()]
    with preserved_randomness(5):
        assert inside == [torch.rand(1).item(), np.random.rand(), random.random()]
