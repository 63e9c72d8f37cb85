"""Averagers by name, watching one phase: they see every update and change nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor

from isoloss.methods import averages
from isoloss.recipe.measure import SCHEDULE_FREE, Observer


class Average(Protocol):
    """What the averages of ``methods`` have in common."""

    @property
    def lookback(self) -> int | None: ...
    def observe(self, tensors: list[Tensor], update: int) -> None: ...
    def average(self) -> list[Tensor]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


_KINDS: dict[str, Callable[..., Average]] = {
    "window": averages.WindowAverage,
    "ema": averages.EMA,
    "lawa": averages.LAWA,
}


def build(observer: Observer) -> Average:
    """A fresh averager; it has seen nothing."""
    return _KINDS[observer.kind](**{k: v for k, v in observer.options.items() if k != "semantics"})


def lookback(observer: Observer) -> int | None:
    """How many updates an average reaches back; None when it remembers everything."""
    return 0 if observer == SCHEDULE_FREE else build(observer).lookback


def pack(average: Average) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, JSON facts) of an averager's memory."""
    state = average.state_dict()
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in state.items() if name not in tensors}


def unpack(observer: Observer, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Average:
    """The averager that ``pack`` saw."""
    average = build(observer)
    average.load_state_dict({**tensors, **facts})
    return average
