"""Cooldowns behind the learning-rate schedulers of other people's loops.

What falls is the multiplier of the scheduler that is there, as a pure function of its count of updates: its state and
its log of rates stay right, and a resume goes on by itself. Kinds: ``LambdaLR`` (every schedule of transformers by
name), ``IsolossLR``, or no scheduler at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from isoloss.execute.cooldown import Cooldown
from isoloss.methods.lr_scheduler import IsolossLR
from isoloss.methods.schedules import Form, decay
from isoloss.plan.phases import form_of
from isoloss.recipe.errors import StudyError
from isoloss.recipe.references import is_reference, load

SAME = 1e-9
"""Relative difference up to which two learning rates are one."""


def shape_of(cooldown: Cooldown) -> str | Form:
    """The form as ``methods.schedules`` takes it."""
    if is_reference(cooldown.shape):
        found: Form = load(cooldown.shape)
        return found
    return form_of(cooldown.mapping)


def falling(cooldown: Cooldown, length: int) -> Callable[[int], float]:
    """Multiplier of the rate where the cooldown begins, by the updates since then. Raises ValueError for a bad form."""
    shape, final = shape_of(cooldown), float(cooldown.mapping["final"])
    decay(0, length, shape=shape, final=final)
    return lambda update: decay(update, length, shape=shape, final=final)


def check_constant(scheduler: Any, at: int, length: int) -> None:
    """Raise ``StudyError`` unless ``scheduler`` (None: there is none) can be followed by a cooldown from ``at`` on.

    A rate that changes by itself between ``at`` and the cooldown's end would be lowered twice.
    """
    if scheduler is None or isinstance(scheduler, IsolossLR):
        return
    if not isinstance(scheduler, LambdaLR):
        raise StudyError(
            f"cooldown: the learning rate is set by {type(scheduler).__name__}, whose future is not known; allowed: "
            "none, LambdaLR (transformers' constant, constant_with_warmup) or isoloss.methods.lr_scheduler.IsolossLR"
        )
    for index, multiplier in enumerate(scheduler.lr_lambdas):
        level = multiplier(at)
        changes = [u for u in range(at, at + length + 1) if not math.isclose(multiplier(u), level, rel_tol=SAME)]
        if changes:
            raise StudyError(
                f"cooldown: the scheduler of the training decays (or warms up) by itself: group {index} has "
                f"{level:.4g} of its rate at update {at} and {multiplier(changes[0]):.4g} at update {changes[0]}; "
                "allowed: one that is constant from there on, such as lr_scheduler_type='constant_with_warmup'"
            )


def cool_down(
    optimizer: torch.optim.Optimizer, scheduler: Any, at: int, cooldown: Cooldown, behind: int
) -> Callable[[int], None]:
    """Let the rates of ``optimizer`` fall from update ``at`` on, with ``behind`` updates made; before ``at`` nothing
    changes.

    Returns what is to be called with the count of updates behind, now and after every update: it sets the rates where
    there is no scheduler to do it. Raises ``StudyError`` where the scheduler does not allow it, or where ``at`` is
    behind already and the rate there did not fall.
    """
    length = cooldown.updates(at)
    check_constant(scheduler, at, length)
    multiplier = falling(cooldown, length)
    if isinstance(scheduler, IsolossLR):
        try:
            scheduler.cool_down(at, length, shape_of(cooldown), float(cooldown.mapping["final"]))
        except ValueError as error:
            raise StudyError(f"cooldown: {error}") from error
        return _nothing
    if scheduler is None:
        for group in optimizer.param_groups if behind <= at else ():
            group["initial_lr"] = float(group["lr"])  # kept in the optimizer's state, for a resume
        bases = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    else:
        scheduler.lr_lambdas = [_followed(own, at, multiplier) for own in scheduler.lr_lambdas]
        bases = [b * f(at) for b, f in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
        behind = scheduler.last_epoch
    for group, base in zip(optimizer.param_groups, bases, strict=True):
        wanted, found = base * multiplier(max(behind - at, 0)), float(group["lr"])
        if behind > at and not math.isclose(wanted, found, rel_tol=SAME, abs_tol=1e-30):
            raise StudyError(
                f"cooldown from update {at}: training goes on from update {behind}, where its learning rate is "
                f"{found:.6g}, not the {wanted:.6g} of the cooldown; allowed: a checkpoint of update {at}, or one of "
                "this cooldown"
            )
    return _nothing if scheduler is not None else _setter(optimizer, at, multiplier)


def _nothing(update: int) -> None:
    """The scheduler sets the rates."""


def _followed(own: Callable[[int], float], at: int, multiplier: Callable[[int], float]) -> Callable[[int], float]:
    """A multiplier with the cooldown behind it."""

    def both(update: int) -> float:
        return own(update) if update < at else own(at) * multiplier(update - at)

    return both


def _setter(optimizer: torch.optim.Optimizer, at: int, multiplier: Callable[[int], float]) -> Callable[[int], None]:
    """Sets the rates by hand."""

    def apply(update: int) -> None:
        for group in optimizer.param_groups if update >= at else ():
            rate = group["initial_lr"] * multiplier(update - at)
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    return apply
