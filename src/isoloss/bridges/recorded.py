"""A run as some logger wrote it down: settings, series of values by step, and how it ended."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Setting = str | int | float | bool
FINISHED, UNKNOWN = "finished", "unknown"
MOST_NAMES = 12


@dataclass(frozen=True)
class Series:
    """Values by ascending step. Told to whoever uses them: `notes`, what was resolved; `fault`, why it could not be."""

    steps: np.ndarray
    values: np.ndarray
    fault: str = ""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.steps)

    def at(self, steps: np.ndarray) -> np.ndarray:
        """Values at steps: its own where they are asked for, else linear in between and those of the ends outside."""
        if np.array_equal(steps, self.steps):
            return self.values
        known = np.isfinite(self.values)
        if not known.any():
            return np.full(len(steps), np.nan)
        return np.asarray(np.interp(steps, self.steps[known], self.values[known]))


@dataclass(frozen=True)
class Session:
    """What one process wrote of one series, in its order; `begin` and `end` in seconds, 0 where unknown."""

    steps: Sequence[float]
    values: Sequence[float]
    begin: float = 0.0
    end: float = 0.0


@dataclass
class Recorded:
    """One run. `state`: finished, unknown (the logger does not say), or the logger's own word for anything else."""

    name: str
    source: str
    settings: dict[str, Setting] = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)
    state: str = UNKNOWN
    notes: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Everything that a map can name here."""
        return list(dict.fromkeys([*self.settings, *self.series]))

    @property
    def last_step(self) -> float | None:
        """The last step of any series."""
        return max((float(s.steps[-1]) for s in self.series.values() if len(s)), default=None)


RESTARTS = ("sessions", "later", "sort")
"""sessions: a later process counts from its first step on; later: any step back is a restart; sort: by step."""


def joined(sessions: Sequence[Session], restarts: str = "sessions") -> Series:
    """One series of what several processes wrote one after the other.

    A process that was started again repeats steps: from its first step on it counts, as its weights went on. What goes
    back inside of one process, or was written by two at a time, is a fault unless `restarts` says how to take it.
    """
    if restarts == "sort":
        latest = {step: value for s in sessions for step, value in zip(s.steps, s.values, strict=True)}
        ordered = sorted(latest)
        return Series(np.array(ordered, float), np.array([latest[step] for step in ordered], float))
    steps: list[float] = []
    values: list[float] = []
    said: list[str] = []
    fault, ended = "", 0.0
    for session in sorted((s for s in sessions if len(s.steps)), key=lambda s: s.begin):
        own, numbers, back = _forward(session)
        if back and restarts == "later":
            said.append(f"{back}: what was written later counts")
        elif back:
            fault = fault or back
        if steps and own[0] <= steps[-1]:
            again = f"steps {own[0]:g} to {steps[-1]:g}"
            if session.begin < ended and restarts == "sessions":
                fault = fault or f"two processes wrote {again} at the same time"
            said.append(f"{again} were trained again: the later process counts")
            keep = next(i for i, step in enumerate(steps) if step >= own[0])
            del steps[keep:], values[keep:]
        steps += own
        values += numbers
        ended = max(ended, session.end)
    return Series(np.array(steps, float), np.array(values, float), fault, tuple(said))


def _forward(session: Session) -> tuple[list[float], list[float], str]:
    """Steps that only ascend, a later value taking the place of all from its step on; and the first step back."""
    steps: list[float] = []
    values: list[float] = []
    back = ""
    for step, value in zip(session.steps, session.values, strict=True):
        if steps and steps[-1] >= step:
            if steps[-1] == step and _same(values[-1], value):
                continue
            back = back or (
                f"two values at step {step:g}" if steps[-1] == step else f"step {step:g} comes after step {steps[-1]:g}"
            )
        while steps and steps[-1] >= step:
            steps.pop()
            values.pop()
        steps.append(step)
        values.append(value)
    return steps, values, back


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def cut(series: Series, end: float, why: str) -> Series:
    """Without what comes after a step, and with a note that says so."""
    keep = series.steps <= end
    if keep.all():
        return series
    return Series(series.steps[keep], series.values[keep], series.fault, (*series.notes, why))


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Setting]:
    """Nested mappings as one, names joined by dots; lists and everything else that is no scalar as text."""
    found: dict[str, Setting] = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{path}.")
        elif isinstance(value, str | int | float | bool):
            found[path] = value
        elif value is not None:
            found[path] = str(value)
    return found


def listed(names: Iterable[str], most: int = MOST_NAMES) -> str:
    """Names for a message, the first few."""
    found = list(names)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return (", ".join(found[:most]) + more) or "none"
