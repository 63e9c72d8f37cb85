"""Cooldowns behind other loops' schedulers, against closed forms, resumes and what does not fit."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR

from isoloss.bridges.schedulers import check_constant, cool_down
from isoloss.execute.cooldown import Cooldown
from isoloss.methods.lr_scheduler import IsolossLR
from isoloss.recipe.errors import StudyError

PEAK, WARMUP, AT, LENGTH = 0.2, 5, 20, 16
FORMS = {
    "linear": lambda x: 1 - x,
    "one_minus_sqrt": lambda x: 1 - math.sqrt(x),
    "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2,
    "square": lambda x: 1 - x * x,
}
KINDS = ("lambda", "isoloss", "function", "none")


def warm(update: int) -> float:
    return min((update + 1) / WARMUP, 1.0)


def made(kind: str) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=PEAK)
    scheduler = {
        "lambda": lambda: LambdaLR(optimizer, warm),
        "isoloss": lambda: IsolossLR(optimizer, {"total": 1000, "warmup": WARMUP}),
        "function": lambda: IsolossLR(optimizer, warm),
        "none": lambda: None,
    }[kind]()
    return optimizer, scheduler


def train(optimizer: torch.optim.Optimizer, scheduler: Any, apply: Any, begin: int, end: int) -> list[float]:
    """Rates with which updates ``begin`` to ``end`` are made, in the order of a Trainer's loop."""
    rates = []
    for update in range(begin, end):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        apply(update + 1)
    return rates


def fall(kind: str, cooldown: Cooldown, behind: int = 0) -> tuple[torch.optim.Optimizer, Any, Any]:
    optimizer, scheduler = made(kind)
    apply = cool_down(optimizer, scheduler, AT, cooldown, behind)
    apply(behind)
    return optimizer, scheduler, apply


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("final", [0.0, 0.1])
def test_rates_are_the_closed_form(kind: str, form: str, final: float) -> None:
    cooldown = Cooldown(form, length=LENGTH, final=final)
    rates = train(*fall(kind, cooldown), 0, AT + LENGTH)
    before = [PEAK * (1.0 if kind == "none" else warm(u)) for u in range(AT)]
    after = [PEAK * (final + (1 - final) * FORMS[form](k / LENGTH)) for k in range(LENGTH)]
    assert rates[:AT] == before
    assert rates[AT:] == pytest.approx(after, rel=1e-12, abs=1e-15)


def test_the_length_of_a_fraction_is_that_of_a_study() -> None:
    _, scheduler, _ = fall("isoloss", Cooldown(fraction=0.2))
    assert scheduler._totals == [AT + Cooldown(fraction=0.2).updates(AT)] == [25]


@pytest.mark.parametrize("kind", ["lambda", "none"])
@pytest.mark.parametrize("stop", [AT - 3, AT, AT + 7])
def test_a_resume_goes_on_as_if_it_had_not_stopped(kind: str, stop: int) -> None:
    cooldown = Cooldown(length=LENGTH)
    whole = train(*fall(kind, cooldown), 0, AT + LENGTH)
    optimizer, scheduler, apply = fall(kind, cooldown)
    first = train(optimizer, scheduler, apply, 0, stop)
    file = io.BytesIO()
    torch.save([optimizer.state_dict(), scheduler and scheduler.state_dict()], file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again, other = made(kind)
    again.load_state_dict(saved[0])
    if other is not None:
        other.load_state_dict(saved[1])
    apply = cool_down(again, other, AT, cooldown, stop)
    apply(stop)
    assert first + train(again, other, apply, stop, AT + LENGTH) == whole


def test_a_cooldown_that_is_decided_later_is_the_one_that_was_planned() -> None:
    form = ("one_minus_sqrt", LENGTH, 0.1)
    optimizer, _ = made("none")
    planned = IsolossLR(optimizer, {"total": AT + LENGTH, "warmup": WARMUP, "cooldown": form})
    expected = train(optimizer, planned, lambda update: None, 0, AT + LENGTH)
    other, later = made("isoloss")
    rates = train(other, later, lambda update: None, 0, AT)
    later.cool_down(AT, LENGTH, "one_minus_sqrt", 0.1)
    assert later.changes[-1]["update"] == AT
    rates += train(other, later, lambda update: None, AT, AT + LENGTH - 4)
    state = copy.deepcopy(later.state_dict())
    rates += train(other, later, lambda update: None, AT + LENGTH - 4, AT + LENGTH)
    assert rates == expected
    # The state of the one goes into the other.
    fresh = IsolossLR(made("isoloss")[0], {"total": AT + LENGTH, "warmup": WARMUP, "cooldown": form})
    fresh.load_state_dict(state)
    assert fresh.get_last_lr() == [expected[AT + LENGTH - 4]]
    with pytest.raises(ValueError, match="contradicts"):
        made("isoloss")[1].load_state_dict(state)


def test_what_is_behind_cannot_be_cooled_down() -> None:
    optimizer, scheduler = made("isoloss")
    train(optimizer, scheduler, lambda update: None, 0, AT + 1)
    with pytest.raises(ValueError, match="from update 20, but 21 are made"):
        scheduler.cool_down(AT, LENGTH)
    rates = scheduler.get_last_lr()
    for options, message in (
        ({"total": 100, "cooldown": ("linear", 10, 0.0)}, "has a cooldown already"),
        ({"total": 100, "shape": "cosine"}, "already decays"),
    ):
        falling = IsolossLR(made("none")[0], options)
        with pytest.raises(ValueError, match=message):
            falling.cool_down(AT, LENGTH)
        assert not falling.changes
    assert rates == [PEAK]


@pytest.mark.parametrize("kind", ["lambda", "none"])
def test_a_checkpoint_beyond_the_fork_is_the_wrong_one(kind: str) -> None:
    optimizer, scheduler = made(kind)
    train(optimizer, scheduler, lambda update: None, 0, AT + 4)
    with pytest.raises(StudyError, match=r"goes on from update 24.*allowed: a checkpoint of update 20"):
        cool_down(optimizer, scheduler, AT, Cooldown(length=LENGTH), AT + 4)


def test_a_scheduler_that_decays_is_refused() -> None:
    optimizer, _ = made("none")
    linear = LambdaLR(optimizer, lambda u: max(0.0, 1 - u / 100))
    with pytest.raises(StudyError, match=r"0\.8 of its rate at update 20 and 0\.79 at update 21.*constant_with_warmup"):
        check_constant(linear, AT, LENGTH)
    with pytest.raises(StudyError, match="set by CosineAnnealingLR, whose future is not known"):
        check_constant(CosineAnnealingLR(optimizer, 100), AT, LENGTH)
    with pytest.raises(StudyError, match="decays \\(or warms up\\)"):
        check_constant(LambdaLR(optimizer, warm), 2, LENGTH)
    with pytest.raises(StudyError, match="already decays"):
        cool_down(optimizer, IsolossLR(optimizer, {"total": 90, "shape": "linear"}), AT, Cooldown(length=LENGTH), 0)
