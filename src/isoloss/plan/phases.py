"""A run's phases: warm-up, body and cooldown of the learning rate, cut where a method is switched on or off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from isoloss.recipe import catalogue
from isoloss.recipe.canonical import digest
from isoloss.recipe.errors import StudyError
from isoloss.recipe.references import code_of, is_reference
from isoloss.recipe.run import LR

Updates = Callable[[str, str], int]
"""(duration as written, its path for messages) -> updates."""

SWITCHED = ("extrapolate", "sharpness", "local_sgd")
_SWITCHES = ("begin", "end")


@dataclass(frozen=True)
class Stretch:
    """Updates under one learning-rate function and one set of methods."""

    lr: LR
    length: int
    methods: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Switch:
    """A method and the updates between which it is on."""

    record: Mapping[str, Any]
    begin: int
    end: int


def stretches(
    schedule: Mapping[str, Any], training: Mapping[str, Any], peak: float, total: int, warmup: int, updates: Updates
) -> list[Stretch]:
    """The phases of a run of ``total`` updates; raise ``StudyError`` where they do not fit."""
    ghost = _ghost(training)
    switches = _switches(training, total, updates)
    borders = {moment for s in switches for moment in (s.begin, s.end)}
    found = []
    begun = 0
    for lr, length in _rates(schedule, peak, total, warmup, updates):
        cuts = [0, *sorted(b - begun for b in borders if 0 < b - begun < length), length]
        for start, end in pairwise(cuts):
            here = begun + start
            on = [s.record for s in switches if s.begin <= here < s.end]
            if len(on) > 1:
                names = " and ".join(f"training.{record['kind']}" for record in on)
                raise StudyError(f"{names} are both on at update {here}; allowed: one at a time (begin, end)")
            later = lr if lr.stationary or not start else replace(lr, skip=start)
            found.append(Stretch(later, end - start, (*ghost, *on)))
        begun += length
    return found


def _rates(schedule: Mapping[str, Any], peak: float, total: int, warmup: int, updates: Updates) -> list[tuple[LR, int]]:
    """Warm-up, body and cooldown with their lengths."""
    shape, cooldown = schedule["shape"], schedule.get("cooldown")
    length = 0
    if cooldown:
        fraction = cooldown.get("fraction")
        length = round(fraction * total) if fraction is not None else updates(cooldown["length"], "schedule.cooldown")
        length = max(length, 1)
    if warmup + length > total:
        raise StudyError(
            f"schedule: a warm-up of {warmup} and a cooldown of {length} updates do not fit in {total}; "
            f"allowed: at most {total} together"
        )
    found = [(LR("warmup", peak, length=warmup), warmup)] if warmup else []
    body = total - warmup - length
    level = peak
    if shape == "constant":
        found.append((LR("constant", peak), body))
    elif shape == "steps":
        drops = sorted((updates(d["at"], "schedule.drops.at"), float(d["factor"])) for d in schedule["drops"])
        reached = warmup
        for at, factor in drops:
            until = min(max(at, reached), warmup + body)
            found.append((LR("constant", level), until - reached))
            reached, level = until, level * factor
        found.append((LR("constant", level), warmup + body - reached))
    elif shape == "inverse_sqrt":
        if cooldown:
            raise StudyError("schedule: a cooldown follows shape constant or steps, not inverse_sqrt")
        found.append((LR("inverse_sqrt", peak, offset=warmup), body))
    else:
        horizon = updates(schedule["horizon"], "schedule.horizon") if schedule.get("horizon") else total
        if horizon < total:
            raise StudyError(f"schedule.horizon: {horizon} updates; allowed: at least the run's {total}")
        found.append((falling(schedule, peak, horizon - warmup), body))
    if cooldown:
        found.append((falling(cooldown, level, length), length))
    return found


def falling(mapping: Mapping[str, Any], level: float, length: int) -> LR:
    """A decay from ``level`` over ``length`` updates, of a schedule or cooldown: shape, final, exponent, version."""
    code = _form_code(mapping["shape"], mapping.get("version"))
    return LR(form_of(mapping), level, final=level * float(mapping["final"]), length=length, code=code)


def form_of(mapping: Mapping[str, Any]) -> str:
    """The decay form of a schedule or cooldown as ``methods.schedules`` names it: ``power(0.5)`` with its exponent."""
    shape = str(mapping["shape"])
    return f"power({float(mapping['exponent'])!r})" if shape == "power" else shape


def _ghost(training: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    size = training["ghost_size"]
    if size is None:
        return []
    options = {"size": size, "running": training["ghost_running"], "grouping": training["ghost_grouping"]}
    return [{"kind": "ghost", "semantics": 1, "options": options}]


def _switches(training: Mapping[str, Any], total: int, updates: Updates) -> list[Switch]:
    """The methods that are on for a part of the run or all of it."""
    found = []
    for kind in SWITCHED:
        given = training[kind]
        if given is None:
            continue
        begin, end = (
            None if given.get(name) is None else updates(given[name], f"training.{kind}.{name}") for name in _SWITCHES
        )
        until = total if end is None else min(end, total)
        if end is not None and end <= (begin or 0):
            raise StudyError(f"training.{kind}: it ends at update {end} and begins at {begin or 0}; allowed: later")
        options = {name: value for name, value in given.items() if name not in _SWITCHES}
        _check(kind, options, training)
        if (begin or 0) < until:
            found.append(Switch({"kind": kind, "semantics": _semantics(kind, options), "options": options}, begin or 0,
                                until))  # fmt: skip
    return found


def _semantics(kind: str, options: Mapping[str, Any]) -> int:
    key = {"extrapolate": "direction", "sharpness": "method"}.get(kind)
    return 1 if key is None else catalogue.get(kind, options[key]).semantics


def _check(kind: str, options: Mapping[str, Any], training: Mapping[str, Any]) -> None:
    """What must agree between a method, the optimizer and the micro-batches."""
    optimizer, micro = training["optimizer"], training["micro_batches"]
    if kind == "local_sgd" and optimizer["name"] in catalogue.names("optimizer", "averaging"):
        raise StudyError(
            f"training.local_sgd: found over {optimizer['name']}, whose average the workers would not share; "
            "allowed: another optimizer"
        )
    if kind == "local_sgd" and micro < 2:
        raise StudyError(f"training.local_sgd: micro_batches is {micro}; allowed: 2 or more, which are its workers")
    plain_momentum = optimizer["name"] == "sgd" and optimizer["momentum"] > 0 and not optimizer["nesterov"]
    if options.get("nesterov") and not plain_momentum:
        raise StudyError(
            f"training.{kind}.nesterov: found true over {optimizer['name']}; allowed: optimizer sgd with momentum "
            "above 0 and nesterov false"
        )


def _form_code(shape: str, version: object) -> str | None:
    """What stands for the code of a decay form; nothing for the first semantics of a built-in one."""
    if is_reference(shape):
        return digest(code_of(shape, version, None))
    semantics = catalogue.get("schedule", shape).semantics
    return None if semantics == 1 else str(semantics)


def methods_digest(methods: Sequence[Mapping[str, Any]]) -> str:
    """A hashable name for the methods of a rule."""
    return digest(list(methods)) if methods else ""
