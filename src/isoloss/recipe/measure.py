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
        """Readable and unique, for instance ``window(every=1,length=100)``; the kind alone without options."""
        options = ",".join(f"{k}={self.options[k]}" for k in sorted(self.options))
        return f"{self.kind}({options})" if options else self.kind

    def __hash__(self) -> int:
        return hash(self.id)


SCHEDULE_FREE = Observer("schedule_free")
"""x of a Schedule-Free optimizer: part of the trained state, so nothing watches and any stored state supplies it."""


@dataclass(frozen=True)
class Measure:
    """``metric`` on ``amount`` tokens (or samples) of a validation part, of the weights or of an observer's.

    ``refresh``: training batches from which running statistics are estimated again for these weights; 0: those of
    the training are used.
    """

    metric: str
    part: str
    amount: int
    observer: Observer | None = None
    refresh: int = 0

    @property
    def weights(self) -> tuple[str | None, int]:
        """What is evaluated: the observer's id, None for the trained weights, and ``refresh``."""
        return (self.observer.id if self.observer else None), self.refresh

    @property
    def name(self) -> str:
        """The stored name, for instance ``window(every=1,length=100)/loss@B:16384``."""
        prefix = f"{self.observer.id}/" if self.observer else ""
        refreshed = f"refresh={self.refresh}/" if self.refresh else ""
        return f"{prefix}{refreshed}{self.metric}@{self.part}:{self.amount}"
