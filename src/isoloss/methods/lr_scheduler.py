"""The schedules as a torch LR scheduler, for anybody's loop, which goes on after a resume as if never stopped.

    lr_u = base_lr multiplier(u)        u = 0, 1, ..: the update that comes next

The learning rate is a pure function of the update and the base rates: nothing is multiplied up from step to step, so
there is nothing to drift. A saved state also says which schedule it came from and what its multipliers were. Loaded
under another schedule it goes on if that agrees with the past (a cooldown behind a constant trunk), and the change
is on record in `changes`; if it does not (another horizon of a cosine) it is refused unless `accept_change`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from isoloss.methods.schedules import Form, decay, multiplier
from isoloss.recipe.errors import nearest

__all__ = ["IsolossLR"]

Schedule = Callable[[int], float] | Mapping[str, Any]
OPTIONS = ("total", "warmup", "shape", "final", "horizon", "drops", "cooldown")


class IsolossLR(LRScheduler):
    """Learning rates of an optimizer by a schedule; `step()` after every `optimizer.step()`, as usual.

    `schedule`: options of `schedules.multiplier` as a mapping ({"total": 1000, "cooldown": ("linear", 200, 0.0)}), or
    any pure function of the update; a sequence of them gives every parameter group its own. `base_lr`: the peak,
    one for all groups or one each; by default the groups' `initial_lr`, else their `lr`. `accept_change`: go on where
    a loaded state contradicts this schedule or these base rates, with this schedule and these rates.

    With a `total` of N the rate of the last update stays after it; one step more raises ValueError. So do unknown
    options, and counts of schedules or rates that do not fit the groups.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule | Sequence[Schedule],
        *,
        base_lr: float | Sequence[float] | None = None,
        accept_change: bool = False,
    ) -> None:
        groups = len(optimizer.param_groups)
        single = callable(schedule) or isinstance(schedule, Mapping)
        given: list[Any] = [schedule] * groups if single else list(schedule)  # type: ignore[arg-type]
        if len(given) != groups:
            raise ValueError(
                f"IsolossLR: {len(given)} schedules for {groups} parameter groups; allowed: one, or one each"
            )
        self._take(given)
        self.accept_change = accept_change
        self.changes: list[dict[str, Any]] = []
        if base_lr is not None:
            rates = [base_lr] * groups if isinstance(base_lr, int | float) else list(base_lr)
            if len(rates) != groups:
                raise ValueError(f"IsolossLR: {len(rates)} base rates for {groups} parameter groups")
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["initial_lr"] = rate
        super().__init__(optimizer)

    def _take(self, given: list[Any]) -> None:
        """Go by these schedules, one a group."""
        schedules = [_function(each) for each in given]
        self._given, self._schedules = given, schedules
        self._described = [_description(each) for each in given]
        self._totals = [_total(each) for each in given]

    @property
    def update(self) -> int:
        """The update that comes next, from 0."""
        return int(self.last_epoch)

    def get_lr(self) -> list[float | torch.Tensor]:
        """Rates of the next update, one a group. Raises ValueError past the end of the schedule."""
        return [*self._rates(self.update)]

    def _get_closed_form_lr(self) -> list[float | torch.Tensor]:
        return self.get_lr()

    def cool_down(self, at: int, length: int, shape: str | Form = "one_minus_sqrt", final: float = 0.0) -> None:
        """Fall from update `at` on, over `length` updates to the fraction `final` of the rate there; that is the end.

        For a cooldown that is decided while training goes on. What was before `at` stays, and the change is on record.
        Raises ValueError, before anything has changed, where `at` is behind already or the schedule decays by itself.
        """
        if self.update > at:
            raise ValueError(
                f"IsolossLR: a cooldown from update {at}, but {self.update} are made; allowed: {self.update} or later"
            )
        before = list(self._described)
        self._take([_cooled(each, at, (shape, length, final)) for each in self._given])
        bases = [float(base) for base in self.base_lrs]
        change = {"update": self.update, "before": before, "after": list(self._described)}
        self.changes.append(change | {"before_lrs": bases, "after_lrs": bases})
        self._set(self._rates(self.update))

    def _set(self, rates: list[float]) -> None:
        """Give the groups their rates."""
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self._last_lr = [*rates]

    def _rates(self, update: int) -> list[float]:
        return [float(base) * self._multiplier(i, update) for i, base in enumerate(self.base_lrs)]

    def _multiplier(self, index: int, update: int) -> float:
        total = self._totals[index]
        if total is not None and update > total:
            raise ValueError(
                f"IsolossLR: update {update} of a schedule of {total}; allowed: {total} updates, "
                "or a schedule with a larger total"
            )
        return self._schedules[index](update if total is None else min(update, total - 1))

    def state_dict(self) -> dict[str, Any]:
        """The count, base rates, schedules as text, multipliers of past updates, changes; plain types only."""
        past = [[[u, self._multiplier(i, u)] for u in _samples(self.update)] for i in range(len(self._schedules))]
        return {
            "update": self.update,
            "base_lrs": [float(base) for base in self.base_lrs],
            "schedules": list(self._described),
            "past": past,
            "changes": list(self.changes),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the state's update, and set the groups' rates to this schedule's there.

        Raises ValueError, before anything has changed, where the state contradicts this schedule or these base rates
        and `accept_change` is not set.
        """
        update, bases = state_dict["update"], [float(base) for base in self.base_lrs]
        if len(state_dict["base_lrs"]) != len(bases):
            raise ValueError(
                f"IsolossLR: the state is of {len(state_dict['base_lrs'])} parameter groups, "
                f"the optimizer has {len(bases)}"
            )
        wrong = []
        if state_dict["base_lrs"] != bases:
            wrong.append(f"base rates {state_dict['base_lrs']} were saved, these are {bases}")
        for i, past in enumerate(state_dict["past"]):
            differs = [(u, m, self._multiplier(i, u)) for u, m in past if self._multiplier(i, u) != m]
            if differs:
                u, before, now = differs[0]
                wrong.append(
                    f"group {i} was trained with {before:.6g} of its base rate at update {u}, "
                    f"this schedule has {now:.6g} (saved: {state_dict['schedules'][i]}; here: {self._described[i]})"
                )
        if wrong and not self.accept_change:
            raise ValueError(
                f"IsolossLR: a state saved at update {update} contradicts this schedule: {'; '.join(wrong)}; "
                "allowed: a schedule with the same past, or accept_change=True"
            )
        self.last_epoch = update
        rates = self._rates(update)
        self._step_count = update + 1
        self.changes = list(state_dict["changes"])
        if state_dict["schedules"] != self._described or state_dict["base_lrs"] != bases:
            change = {"update": update, "before": list(state_dict["schedules"]), "after": list(self._described)}
            self.changes.append(change | {"before_lrs": state_dict["base_lrs"], "after_lrs": bases})
        for group, base in zip(self.optimizer.param_groups, bases, strict=True):
            group["initial_lr"] = base
        self._set(rates)


def _total(schedule: Any) -> int | None:
    """Updates of a schedule; None where it has no end."""
    if isinstance(schedule, partial) and schedule.func is _falling:
        return int(schedule.keywords["at"] + schedule.keywords["cooldown"][1])
    return schedule["total"] if isinstance(schedule, Mapping) else None


def _cooled(schedule: Schedule, at: int, cooldown: tuple[str | Form, int, float]) -> Schedule:
    """The same schedule up to update `at`, and a cooldown behind it."""
    if not isinstance(schedule, Mapping):
        decay(0, cooldown[1], shape=cooldown[0], final=cooldown[2])  # a bad form is an error here
        return partial(_falling, schedule=schedule, at=at, cooldown=cooldown)
    if schedule.get("cooldown") is not None:
        raise ValueError(
            f"IsolossLR: the schedule has a cooldown already ({_description(schedule)}); allowed: one without"
        )
    return {**schedule, "total": at + cooldown[1], "cooldown": cooldown}


def _falling(
    update: int, *, schedule: Callable[[int], float], at: int, cooldown: tuple[str | Form, int, float]
) -> float:
    """A function's value, from update `at` on that at `at` times a decay."""
    if update < at:
        return schedule(update)
    shape, length, final = cooldown
    return schedule(at) * decay(update - at, length, shape=shape, final=final)


def _function(schedule: Schedule) -> Callable[[int], float]:
    if not isinstance(schedule, Mapping):
        return schedule
    for name in schedule:
        if name not in OPTIONS:
            raise ValueError(
                f"IsolossLR: unknown option {name!r}; allowed: {', '.join(OPTIONS)}{nearest(str(name), OPTIONS)}"
            )
    if "total" not in schedule:
        raise ValueError("IsolossLR: a schedule needs its total; allowed: {'total': updates of the whole run, ...}")
    options = dict(schedule)

    def found(update: int) -> float:
        return multiplier(update, **options)

    # Its last update too, so that a bad cooldown is an error before training.
    for update in (0, options["total"] - 1):
        found(update)
    return found


def _description(schedule: Any) -> str:
    """A schedule in words that stay the same from process to process."""
    if isinstance(schedule, Mapping):
        return ", ".join(f"{name}={_description(schedule[name])}" for name in OPTIONS if name in schedule)
    if isinstance(schedule, tuple | list):
        return f"({', '.join(_description(each) for each in schedule)})"
    if isinstance(schedule, partial):
        options = [*map(_description, schedule.args)]
        options += [f"{name}={_description(value)}" for name, value in sorted(schedule.keywords.items())]
        return f"{_description(schedule.func)}({', '.join(options)})"
    if callable(schedule):
        kind = schedule if hasattr(schedule, "__qualname__") else type(schedule)
        return f"{kind.__module__}.{kind.__qualname__}"
    return repr(schedule)


def _samples(update: int) -> list[int]:
    """Past updates that say what a schedule was: every one of the first and last 8, and ever thinner between."""
    found = set(range(min(update, 8))) | set(range(max(update - 8, 0), update))
    step = 8
    while step < update:
        found |= {step, update - step}
        step = step * 5 // 4
    return sorted(found)
