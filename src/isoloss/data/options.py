"""Options of a data source: unknown names and values out of range are refused with one complete message."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from isoloss.recipe.errors import StudyError, nearest

HOUSE = ("source", "context", "size", "tokenizer", "version")
"""Options that every source knows."""


def refuse_unknown(source: str, spec: Mapping[str, Any], allowed: Iterable[str]) -> None:
    """Raise ``StudyError`` for an option that ``source`` does not have; null options count as not given."""
    known = sorted({*HOUSE, *allowed})
    for name, value in spec.items():
        if name not in known and value is not None:
            raise StudyError(
                f"data.{name}: the source {source!r} has no option {name!r}{nearest(str(name), known)}; "
                f"it has {', '.join(known)}"
            )


def integer(spec: Mapping[str, Any], name: str, default: int | None, low: int, high: int) -> int:
    """Whole number in [low, high] at ``name``, or ``default``; raises ``StudyError``."""
    value = spec.get(name)
    value = default if value is None else value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not low <= value <= high:
        raise StudyError(f"data.{name}: found {value!r}; allowed is a whole number from {low} to {high}")
    return value


def number(spec: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    """Finite number in [low, high] at ``name``, or ``default``; raises ``StudyError``."""
    value = spec.get(name)
    value = default if value is None else value
    if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:
        raise StudyError(f"data.{name}: found {value!r}; allowed is a number from {low} to {high}")
    return float(value)


def boolean(spec: Mapping[str, Any], name: str, default: bool) -> bool:
    """True or false at ``name``, or ``default``; raises ``StudyError``."""
    value = spec.get(name)
    value = default if value is None else value
    if type(value) is not bool:
        raise StudyError(f"data.{name}: found {value!r}; allowed are true and false")
    return value


def choice(spec: Mapping[str, Any], name: str, default: str, allowed: tuple[str, ...]) -> str:
    """One of ``allowed`` at ``name``, or ``default``; raises ``StudyError``."""
    value = spec.get(name)
    value = default if value is None else value
    if value not in allowed:
        raise StudyError(f"data.{name}: found {value!r}{nearest(str(value), allowed)}; allowed: {', '.join(allowed)}")
    return str(value)


def paths(spec: Mapping[str, Any], name: str) -> list[str]:
    """One path or a list of paths at ``name``; empty where it is not given. Raises ``StudyError``."""
    value = spec.get(name)
    if value is None:
        return []
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list | tuple) or not found or not all(isinstance(p, str) and p for p in found):
        raise StudyError(f"data.{name}: found {value!r}; allowed is a path, a glob or a list of them")
    return [str(path) for path in found]
