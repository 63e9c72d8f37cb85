"""Schedule-Free against the paper's three sequences in float64, its authors' numbers, resume, evaluation, bad input."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import optimizer_cases as cases
import pytest
import torch
from torch import Tensor, nn

from isoloss.methods import schedule_free
from isoloss.methods.schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD

SHAPES = ((7, 5), (5,), (), (3, 2, 2, 2))
BOTH = (ScheduleFreeSGD, ScheduleFreeAdamW)


def start(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in SHAPES]


def slope(y: Tensor, index: int, update: int) -> Tensor:
    """Gradient of a bowl around 0.5 with a wave in it, and noise that is a function of where it stands."""
    generator = torch.Generator().manual_seed(100 * update + index)
    noise = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype)
    return (y - 0.5) + 0.3 * torch.sin(3 * y) + 0.2 * noise


def literal(
    updates: int,
    *,
    lr: float | Callable[[int], float],
    b: float,
    adam: tuple[float, float] | None,
    wd: float,
    warmup: int,
    r: float,
    power: float,
) -> list[list[tuple[Tensor, Tensor, Tensor]]]:
    """(x, y, z) of every tensor after every update, by the paper's lines: three sequences, nothing rearranged."""
    x = start()
    z = [t.clone() for t in x]
    v = [torch.zeros_like(t) for t in x]
    total, highest, found = 0.0, 0.0, []
    for t in range(1, updates + 1):
        lr_t = (lr(t) if callable(lr) else lr) * (min(1.0, t / warmup) if warmup else 1.0)
        highest = max(highest, lr_t)
        w = t**r * highest**power
        total += w
        c = w / total
        rows = []
        for i in range(len(x)):
            y = (1 - b) * z[i] + b * x[i]
            d = g = slope(y, i, t)
            if adam:
                b2, eps = adam
                v[i] = b2 * v[i] + (1 - b2) * g * g
                d = g / ((v[i] / (1 - b2**t)).sqrt() + eps)
            z[i] = z[i] - lr_t * (d + wd * y)
            x[i] = (1 - c) * x[i] + c * z[i]
            rows.append((x[i], (1 - b) * z[i] + b * x[i], z[i]))
        found.append(rows)
    return found


def fast(
    adam: bool, dtype: torch.dtype, *, lr: float, b: float, b2: float, wd: float, warmup: int, r: float, power: float
) -> tuple[list[Tensor], torch.optim.Optimizer]:
    ys = start(dtype)
    options: dict[str, Any] = {"lr": lr, "weight_decay": wd, "warmup": warmup, "r": r, "weight_lr_power": power}
    if adam:
        return ys, ScheduleFreeAdamW(ys, betas=(b, b2), eps=1e-8, **options)
    return ys, ScheduleFreeSGD(ys, momentum=b, **options)


@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize(
    ("b", "wd", "warmup", "r", "power"),
    [(0.9, 0.0, 0, 0.0, 2.0), (0.9, 0.1, 20, 0.0, 2.0), (0.95, 0.05, 7, 1.5, 1.0), (0.0, 0.1, 10, 0.0, 0.0)],
)
def test_equals_the_literal_three_sequences_at_every_update(
    adam: bool, b: float, wd: float, warmup: int, r: float, power: float
) -> None:
    lr, b2 = (0.02, 0.99) if adam else (0.3, 0.0)
    expected = literal(300, lr=lr, b=b, adam=(b2, 1e-8) if adam else None, wd=wd, warmup=warmup, r=r, power=power)
    ys, optimizer = fast(adam, torch.float64, lr=lr, b=b, b2=b2, wd=wd, warmup=warmup, r=r, power=power)
    begun, worst = start(), 0.0
    for t, rows in enumerate(expected, start=1):
        for i, y in enumerate(ys):
            y.grad = slope(y, i, t)
        optimizer.step()
        for y, x, (x_true, y_true, _) in zip(ys, optimizer.average(), rows, strict=True):  # type: ignore[attr-defined]
            worst = max(worst, (y - y_true).abs().max().item(), (x - x_true).abs().max().item())
    assert worst < 1e-10
    assert all((y - s).norm() > 0.1 for y, s in zip(ys, begun, strict=True) if y.ndim)


@pytest.mark.parametrize("adam", [False, True])
def test_float32_stays_at_its_rounding_from_the_literal_form(adam: bool) -> None:
    """z follows from y and x with 1 / (1 - b) times the rounding of y: 6e-8 x 10 an update here."""
    lr, b2 = (0.01, 0.99) if adam else (0.1, 0.0)
    options: dict[str, Any] = {"lr": lr, "b": 0.9, "wd": 0.05, "warmup": 10, "r": 0.0, "power": 2.0}
    expected = literal(300, adam=(b2, 1e-8) if adam else None, **options)
    ys, optimizer = fast(adam, torch.float32, b2=b2, **options)
    for t, rows in enumerate(expected, start=1):
        for i, y in enumerate(ys):
            y.grad = slope(y, i, t)
        optimizer.step()
        for y, (_, y_true, _) in zip(ys, rows, strict=True):
            assert (y - y_true).abs().max() < 5e-5


def test_a_learning_rate_that_changes_weighs_by_the_highest_so_far() -> None:
    def lr(t: int) -> float:
        return 0.02 * (1.0 if t <= 30 else 0.5)

    expected = literal(60, lr=lr, b=0.9, adam=(0.99, 1e-8), wd=0.0, warmup=0, r=0.0, power=2.0)
    ys, optimizer = fast(True, torch.float64, lr=0.02, b=0.9, b2=0.99, wd=0.0, warmup=0, r=0.0, power=2.0)
    for t in range(1, 61):
        optimizer.param_groups[0]["lr"] = lr(t)
        for i, y in enumerate(ys):
            y.grad = slope(y, i, t)
        optimizer.step()
    for y, (_, y_true, _) in zip(ys, expected[-1], strict=True):
        torch.testing.assert_close(y, y_true, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("adam", "wd", "warmup"), [(True, 0.0, 0), (True, 0.1, 5), (False, 0.1, 5)])
def test_equals_the_authors_package(adam: bool, wd: float, warmup: int) -> None:
    package = pytest.importorskip("schedulefree", reason="the authors' package is not installed")
    ours, theirs = start(), start()
    options: dict[str, Any] = {"lr": 0.02, "weight_decay": wd}
    if adam:
        mine: Any = ScheduleFreeAdamW(ours, warmup=warmup, betas=(0.9, 0.99), **options)
        other: Any = package.AdamWScheduleFree(theirs, warmup_steps=warmup, betas=(0.9, 0.99), **options)
    else:
        mine = ScheduleFreeSGD(ours, warmup=warmup, **options)
        other = package.SGDScheduleFree(theirs, warmup_steps=warmup, **options)
    other.train()
    for t in range(1, 101):
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            a.grad, b.grad = slope(a, i, t), slope(b, i, t)
        mine.step()
        other.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)
    other.eval()
    for a, b in zip(mine.average(), theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


def test_without_interpolation_it_is_the_mean_of_plain_sgd() -> None:
    ours, plain = start(), start()
    mine, sgd = ScheduleFreeSGD(ours, lr=0.1, momentum=0.0), torch.optim.SGD(plain, lr=0.1)
    seen = []
    for t in range(1, 21):
        for i, (a, b) in enumerate(zip(ours, plain, strict=True)):
            a.grad, b.grad = slope(a, i, t), slope(b, i, t)
        mine.step()
        sgd.step()
        seen.append([p.clone() for p in plain])
    for a, b, x, past in zip(ours, plain, mine.average(), zip(*seen, strict=True), strict=True):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(x, torch.stack(past).mean(0))


def train(kind: type, updates: int, look: Callable[[int, Any, nn.Module], None] | None = None) -> Tensor:
    model = cases.net()
    optimizer = kind(model.parameters(), lr=0.05, warmup=3, weight_decay=0.01)
    for update in range(updates):
        cases.closure(model, update)()
        optimizer.step()
        if look is not None:
            look(update, optimizer, model)
    return cases.weights(model)


@pytest.mark.parametrize("kind", BOTH)
def test_evaluation_does_not_move_the_trajectory_by_a_bit(kind: type) -> None:
    losses = []

    def look(update: int, optimizer: Any, model: nn.Module) -> None:
        for _ in range(3):
            given = torch.cat([x.reshape(-1) for x in optimizer.average()])
            with optimizer.averaged():
                assert torch.equal(cases.weights(model), given)
                losses.append(float(cases.closure(model, update)()))

    assert torch.equal(train(kind, 25), train(kind, 25, look))
    assert len(set(losses[-3:])) == 1


@pytest.mark.parametrize("kind", BOTH)
def test_an_error_during_evaluation_gives_the_weights_back(kind: type) -> None:
    model = cases.net()
    optimizer = kind(model.parameters(), lr=0.05)
    for update in range(5):
        cases.closure(model, update)()
        optimizer.step()
    before = cases.weights(model)
    with pytest.raises(ZeroDivisionError), optimizer.averaged():
        assert not torch.equal(cases.weights(model), before)
        raise ZeroDivisionError
    assert torch.equal(cases.weights(model), before)
    for act in (optimizer.step, optimizer.state_dict, optimizer.average, lambda: optimizer.averaged().__enter__()):
        with pytest.raises(ValueError, match=r"inside averaged\(\)"), optimizer.averaged():
            act()
        assert torch.equal(cases.weights(model), before)
    optimizer.state_dict()


@pytest.mark.parametrize("kind", BOTH)
def test_resume_in_a_fresh_process_is_bit_identical(kind: type) -> None:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = kind(model.parameters(), lr=0.05, warmup=7, weight_decay=0.01, r=0.5)
        return made

    end = cases.assert_resumes(make, closed=False)
    _, plain = cases.train(lambda m: torch.optim.AdamW(m.parameters(), lr=0.05), range(11), workers=1, closed=False)
    assert (end - plain).norm() > 1e-2


@pytest.mark.parametrize("kind", BOTH)
def test_state_round_trip_keeps_every_bit_of_the_average(kind: type) -> None:
    model = cases.net()
    optimizer = kind(model.parameters(), lr=0.05)
    for update in range(4):
        cases.closure(model, update)()
        optimizer.step()
    other = copy.deepcopy(model)
    again = kind(other.parameters(), lr=0.7)
    again.load_state_dict(optimizer.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(optimizer.average(), again.average(), strict=True))
    assert again.param_groups[0]["weight_sum"] == optimizer.param_groups[0]["weight_sum"]
    assert again.param_groups[0]["lr"] == 0.05


@pytest.mark.multiprocess
@pytest.mark.parametrize("kind", BOTH)
def test_sharded_equals_one_process(kind: type) -> None:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = kind(model.parameters(), lr=0.02, weight_decay=0.01)
        return made

    assert cases.sharded(make, closed=False) <= 1e-6


@pytest.mark.parametrize("kind", BOTH)
def test_frozen_groups_stand_still_and_start_as_new_when_thawed(kind: type) -> None:
    model = cases.net()
    groups = [{"params": model[0].parameters()}, {"params": model[3].parameters()}]
    model[0].requires_grad_(False)
    before = copy.deepcopy(model[0].state_dict())
    optimizer = kind(groups, lr=0.05)
    for update in range(6):
        cases.closure(model, update)()
        optimizer.step()
    assert all(torch.equal(model[0].state_dict()[name], t) for name, t in before.items())
    assert torch.equal(optimizer.average()[0], before["weight"])
    assert [group["updates"] for group in optimizer.param_groups] == [0, 6]
    assert model[0].weight not in optimizer.state
    model[0].requires_grad_(True)
    cases.closure(model, 6)()
    optimizer.step()
    # After one update of its own x = z = y, whatever the other group's clock says.
    torch.testing.assert_close(optimizer.average()[0], model[0].weight.detach(), rtol=1e-5, atol=1e-6)
    assert not torch.equal(model[0].weight, before["weight"])


@pytest.mark.parametrize("kind", BOTH)
def test_parts_and_memory_layouts_do_not_matter(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    values, slopes = (torch.randn(4, 4, 3, 5, generator=generator) for _ in range(2))

    def stepped(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        optimizer = kind([x, x.detach().clone().contiguous()], lr=0.1, weight_decay=0.1)
        for scale in (1.0, -0.5, 2.0):
            for p in optimizer.param_groups[0]["params"]:
                p.grad = g * scale if p is x else None
            optimizer.step()
        return x.clone().contiguous(), optimizer.average()[0].contiguous()

    plain = stepped(values.clone(), slopes)
    wide = torch.full((4, 4, 3, 10), 7.0)
    sliced = wide[..., ::2]
    sliced.copy_(values)
    last = torch.channels_last
    for each, g in (
        (sliced, slopes),
        (values.clone(memory_format=last), slopes),
        (values.clone(), slopes.clone(memory_format=last)),
    ):
        for found, expected in zip(stepped(each, g), plain, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    assert torch.equal(wide[..., 1::2], torch.full((4, 4, 3, 5), 7.0))
    monkeypatch.setattr(schedule_free, "CHUNK", 64)
    for found, expected in zip(stepped(values.clone(), slopes), plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", BOTH)
def test_gradients_are_left_as_they_were(kind: type) -> None:
    xs = start(torch.float32)
    slopes = [slope(x, i, 1) for i, x in enumerate(xs)]
    for x, g in zip(xs, slopes, strict=True):
        x.grad = g.clone()
    kind(xs, weight_decay=0.1).step()
    assert all(torch.equal(x.grad, g) for x, g in zip(xs, slopes, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_gradient_shows_and_stays_where_it_is(kind: type, bad: float) -> None:
    x, other = torch.ones(4), torch.ones(4)
    x.grad, other.grad = torch.tensor([1.0, bad, 1.0, 1.0]), torch.ones(4)
    kind([x, other], lr=0.1).step()
    assert not x[1].isfinite()
    assert x[[0, 2, 3]].isfinite().all()
    assert other.isfinite().all()


@pytest.mark.parametrize("kind", BOTH)
def test_bfloat16_parameters_train(kind: type) -> None:
    x = torch.full((40,), 2.0, dtype=torch.bfloat16)
    optimizer = kind([x], lr=0.1)
    for _ in range(60):
        x.grad = x.clone()
        optimizer.step()
    assert x.abs().max() < 1.0
    assert optimizer.average()[0].dtype == torch.bfloat16


def test_closure_is_called_with_gradients_and_its_value_returned() -> None:
    model = cases.net()
    optimizer = ScheduleFreeAdamW(model.parameters())
    expected = cases.closure(model, 0)()
    assert torch.equal(optimizer.step(cases.closure(model, 0)), expected)


def test_a_learning_rate_of_zero_moves_nothing() -> None:
    x = torch.ones(3)
    x.grad = torch.ones(3)
    optimizer = ScheduleFreeSGD([x], lr=0.0)
    optimizer.step()
    assert torch.equal(x, torch.ones(3))
    assert torch.equal(optimizer.average()[0], torch.ones(3))


@pytest.mark.parametrize("kind", BOTH)
def test_bad_input(kind: type) -> None:
    x = torch.ones(3)
    wrongs = [
        ({"lr": -1.0}, "lr is -1.0"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"warmup": 2.5}, "warmup is 2.5"),
    ]
    wrongs += [({"r": -1.0}, "r is -1.0"), ({"weight_lr_power": -1.0}, "weight_lr_power")]
    wrongs += [({"betas": (1.0, 0.9)}, "a beta is 1.0")] if kind is ScheduleFreeAdamW else []
    wrongs += [({"momentum": 1.0}, "momentum is 1.0")] if kind is ScheduleFreeSGD else []
    for wrong, message in wrongs:
        with pytest.raises(ValueError, match=message):
            kind([x], **wrong)
    for dtype in (torch.complex64, torch.int64):
        with pytest.raises(ValueError, match="allowed: real floats"):
            kind([torch.zeros(2, dtype=dtype)])
    embedding = nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    before = embedding.weight.detach().clone()
    optimizer = kind(embedding.parameters())
    with pytest.raises(ValueError, match="allowed: dense gradients"):
        optimizer.step()
    assert torch.equal(embedding.weight, before)
    assert not optimizer.state
    assert optimizer.param_groups[0]["updates"] == 0
