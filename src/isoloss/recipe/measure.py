"""What is read off a trajectory: a metric of a state, or of an observer of the updates that led to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PARTS = ("A", "B")
"""Validation part A chooses (learning rate, window, stopping); part B makes the claim."""


@dataclass(frozen=True)
class Observer:
    """An averager by name and options; it watches one phase and never reaches back beyond its beginning."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Readable and unique, for instance ``window(every=1,length=100)``."""
        return f"{self.kind}({','.join(f'{k}={self.options[k]}' for k in sorted(self.options))})"

    def __hash__(self) -> int:
        return hash(self.id)


@dataclass(frozen=True)
class Measure:
    """``metric`` on ``amount`` tokens (or samples) of a validation part, of the weights or of an observer's."""

    metric: str
    part: str
    amount: int
    observer: Observer | None = None

    @property
    def name(self) -> str:
        """The stored name, for instance ``window(every=1,length=100)/loss@B:16384``."""
        prefix = f"{self.observer.id}/" if self.observer else ""
        return f"{prefix}{self.metric}@{self.part}:{self.amount}"
