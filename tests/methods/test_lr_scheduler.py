"""The torch LR scheduler against closed forms of every shape, resumes in every order, and changed schedules."""

from __future__ import annotations

import io
import json
import math
from functools import partial
from typing import Any

import optimizer_cases as cases
import pytest
import torch
from torch import Tensor

from isoloss.methods.lr_scheduler import IsolossLR
from isoloss.methods.schedules import multiplier, power

PEAK, TOTAL, WARMUP, LENGTH = 0.3, 60, 6, 20

CLOSED = {
    "linear": lambda x: 1 - x,
    "one_minus_sqrt": lambda x: 1 - x**0.5,
    "cosine": lambda x: math.cos(math.pi * x / 2) ** 2,
    "mirror_cosine": lambda x: 2 * (1 - x) - math.cos(math.pi * x / 2) ** 2,
    "square": lambda x: (1 - x) * (1 + x),
    "exponential": lambda x: 0.05**x,
    partial(power, exponent=0.3): lambda x: 1 - x**0.3,
    "power(3)": lambda x: 1 - x * x * x,
}
CONSTANT = {"total": 1000, "warmup": WARMUP}
COSINE = {"total": TOTAL, "warmup": WARMUP, "shape": "cosine"}


def sgd(lr: float = PEAK, groups: int = 1) -> torch.optim.SGD:
    return torch.optim.SGD(
        [{"params": [torch.nn.Parameter(torch.ones(2))]} for _ in range(groups)], lr=lr, momentum=0.9
    )


def rates(optimizer: torch.optim.Optimizer, scheduler: Any, updates: int) -> list[float]:
    """Rates that the updates are made with."""
    found = []
    for _ in range(updates):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("form", CLOSED, ids=lambda form: form if isinstance(form, str) else "callable")
@pytest.mark.parametrize("final", [0.0, 0.05])
def test_every_cooldown_is_its_closed_form(form: Any, final: float) -> None:
    optimizer = sgd()
    if form == "exponential" and not final:
        with pytest.raises(ValueError, match="above 0"):
            IsolossLR(optimizer, {"total": TOTAL, "cooldown": (form, LENGTH, final)})
        return
    scheduler = IsolossLR(optimizer, {"total": TOTAL, "warmup": WARMUP, "cooldown": (form, LENGTH, final)})
    expected = []
    for n in range(TOTAL):
        x = (n - (TOTAL - LENGTH)) / LENGTH
        f = CLOSED[form](max(x, 0.0))
        fall = f if form == "exponential" else final + (1 - final) * f
        expected.append(PEAK * min((n + 1) / WARMUP, 1.0, fall))
    assert rates(optimizer, scheduler, TOTAL) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_the_end_is_visible() -> None:
    optimizer = sgd()
    scheduler = IsolossLR(optimizer, {"total": 5, "shape": "linear"})
    assert rates(optimizer, scheduler, 5)[-1] == optimizer.param_groups[0]["lr"] == pytest.approx(PEAK / 5)
    with pytest.raises(ValueError, match="update 6 of a schedule of 5"):
        scheduler.step()


@pytest.mark.parametrize("order", ["optimizer first", "scheduler built first", "scheduler loaded first"])
def test_resume_in_every_order_goes_on_as_if_never_stopped(order: str) -> None:
    optimizer = sgd()
    whole = rates(optimizer, IsolossLR(optimizer, COSINE), TOTAL)
    optimizer = sgd()
    scheduler = IsolossLR(optimizer, COSINE)
    rates(optimizer, scheduler, 23)
    kept = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, kept)
    kept.seek(0)
    saved = torch.load(kept, weights_only=True)
    saved["scheduler"] = json.loads(json.dumps(saved["scheduler"]))
    again = sgd(PEAK)
    if order == "optimizer first":
        again.load_state_dict(saved["optimizer"])
        resumed = IsolossLR(again, COSINE)
        resumed.load_state_dict(saved["scheduler"])
    elif order == "scheduler built first":
        resumed = IsolossLR(again, COSINE)
        again.load_state_dict(saved["optimizer"])
        resumed.load_state_dict(saved["scheduler"])
    else:
        resumed = IsolossLR(again, COSINE)
        resumed.load_state_dict(saved["scheduler"])
        again.load_state_dict(saved["optimizer"])
    assert resumed.update == 23
    assert resumed.get_last_lr() == [whole[23]]
    assert rates(again, resumed, TOTAL - 23) == whole[23:]
    assert resumed.changes == []


def test_training_resumes_to_the_bit() -> None:
    def part(begin: int, end: int, state: dict[str, Any] | None) -> tuple[dict[str, Any], Tensor]:
        model = cases.net()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
        if state:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        scheduler = IsolossLR(optimizer, {"total": 30, "warmup": 5, "cooldown": ("one_minus_sqrt", 10, 0.0)})
        if state:
            scheduler.load_state_dict(state["scheduler"])
        for update in range(begin, end):
            cases.closure(model, update)()
            optimizer.step()
            scheduler.step()
        parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
        return {name: each.state_dict() for name, each in parts.items()}, cases.weights(model)

    _, whole = part(0, 30, None)
    for at in (1, 13, 25):
        state, _ = part(0, at, None)
        assert torch.equal(part(at, 30, state)[1], whole)


def test_a_cooldown_branch_goes_on_and_is_on_record() -> None:
    optimizer = sgd()
    trunk = IsolossLR(optimizer, CONSTANT)
    rates(optimizer, trunk, 40)
    branched = sgd()
    branched.load_state_dict(optimizer.state_dict())
    branch = IsolossLR(branched, CONSTANT | {"total": 60, "cooldown": ("linear", 20, 0.0)})
    branch.load_state_dict(trunk.state_dict())
    assert rates(branched, branch, 20) == pytest.approx([PEAK * (1 - x / 20) for x in range(20)])
    (change,) = branch.state_dict()["changes"]
    assert change["update"] == 40
    assert "total=1000" in change["before"][0]
    assert "cooldown=('linear', 20, 0.0)" in change["after"][0]


def test_a_changed_horizon_is_refused_and_named() -> None:
    optimizer = sgd()
    scheduler = IsolossLR(optimizer, COSINE)
    rates(optimizer, scheduler, 30)
    longer = COSINE | {"total": 2 * TOTAL}
    other = sgd()
    resumed = IsolossLR(other, longer)
    with pytest.raises(ValueError, match=r"update 30 contradicts.*total=60.*total=120.*accept_change=True"):
        resumed.load_state_dict(scheduler.state_dict())
    assert resumed.update == 0
    assert other.param_groups[0]["lr"] == PEAK / WARMUP
    accepted = IsolossLR(other, longer, accept_change=True)
    accepted.load_state_dict(scheduler.state_dict())
    assert rates(other, accepted, 5) == [PEAK * multiplier(u, **longer) for u in range(30, 35)]  # type: ignore[arg-type]
    assert accepted.changes[0]["update"] == 30
    # A cooldown that should have begun earlier contradicts the past as well.
    early = IsolossLR(sgd(), {"total": TOTAL, "warmup": WARMUP, "cooldown": ("linear", 50, 0.0)})
    trunk = IsolossLR(sgd(), CONSTANT)
    for _ in range(20):
        trunk.optimizer.step()
        trunk.step()
    with pytest.raises(ValueError, match="contradicts"):
        early.load_state_dict(trunk.state_dict())


def test_a_new_base_rate_is_never_mixed_in_silently() -> None:
    optimizer = sgd(0.1)
    scheduler = IsolossLR(optimizer, CONSTANT)
    rates(optimizer, scheduler, 10)
    other = sgd(0.05)
    resumed = IsolossLR(other, CONSTANT)
    with pytest.raises(ValueError, match=r"base rates \[0.1\] were saved, these are \[0.05\]"):
        resumed.load_state_dict(scheduler.state_dict())
    loaded = sgd(0.05)
    loaded.load_state_dict(optimizer.state_dict())
    chosen = IsolossLR(loaded, CONSTANT, base_lr=0.05, accept_change=True)
    chosen.load_state_dict(scheduler.state_dict())
    assert loaded.param_groups[0]["lr"] == loaded.param_groups[0]["initial_lr"] == 0.05
    assert chosen.changes[0]["before_lrs"] == [0.1]


def test_groups_functions_and_tensor_rates() -> None:
    optimizer = sgd(groups=2)
    optimizer.param_groups[1]["lr"] = 0.01
    scheduler = IsolossLR(optimizer, [COSINE, lambda u: 1 / (u + 1)])
    for update in range(8):
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert first == PEAK * multiplier(update, **COSINE)  # type: ignore[arg-type]
        assert second == pytest.approx(0.01 / (update + 1))
        optimizer.step()
        scheduler.step()
    resumed = IsolossLR(sgd(groups=2), [COSINE, lambda u: 1 / (u + 1)], base_lr=[PEAK, 0.01])
    resumed.load_state_dict(scheduler.state_dict())
    assert resumed.get_last_lr() == scheduler.get_last_lr()
    p = torch.nn.Parameter(torch.ones(2))
    tensor = torch.optim.AdamW([p], lr=torch.tensor(0.5))
    scheduler = IsolossLR(tensor, {"total": 4, "shape": "linear"})
    found = rates(tensor, scheduler, 3)
    assert found == pytest.approx([0.5, 0.375, 0.25])
    assert isinstance(tensor.param_groups[0]["lr"], Tensor)


def test_inside_torch_sequential() -> None:
    optimizer = sgd()
    parts = [IsolossLR(optimizer, {"total": 5}), IsolossLR(optimizer, {"total": 10, "shape": "linear"})]
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, parts, milestones=[5])  # type: ignore[arg-type]
    found = rates(optimizer, scheduler, 12)
    assert found == pytest.approx([PEAK] * 5 + [PEAK * (1 - x / 10) for x in range(7)])


def test_bad_input() -> None:
    for schedule, message in (
        ({"total": 10, "warmups": 2}, "did you mean 'warmup'"),
        ({"warmup": 2}, "needs its total"),
        ([{"total": 3}] * 2, "2 schedules for 1 parameter groups"),
        ({"total": 10, "shape": "cosin"}, "did you mean 'cosine'"),
    ):
        with pytest.raises(ValueError, match=message):
            IsolossLR(sgd(), schedule)
    with pytest.raises(ValueError, match="2 base rates"):
        IsolossLR(sgd(), CONSTANT, base_lr=[0.1, 0.2])
    scheduler = IsolossLR(sgd(groups=2), CONSTANT)
    with pytest.raises(ValueError, match="state is of 2 parameter groups"):
        IsolossLR(sgd(), CONSTANT).load_state_dict(scheduler.state_dict())
