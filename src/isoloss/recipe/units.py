"""Quantities with units: how long, how large a batch, how much data."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from isoloss.recipe.errors import nearest

DURATION = ("updates", "tokens", "samples", "epochs", "tokens/param")
BATCH = ("sequences", "samples", "tokens")
SIZE = ("tokens", "bytes", "KB", "MB", "samples", "%")

UNITS = tuple(dict.fromkeys(DURATION + BATCH + SIZE))
WHOLE = frozenset(("updates", "tokens", "samples", "sequences", "bytes"))

# Decimal multiples, so that "1 MB" and "1000 KB" are one quantity with one text.
_MULTIPLES = {"KB": 1_000, "MB": 1_000_000}
_SINGULAR = {
    "updates": "update",
    "tokens": "token",
    "samples": "sample",
    "epochs": "epoch",
    "sequences": "sequence",
    "bytes": "byte",
    "tokens/param": "token/param",
}
_PLURAL = {one: many for many, one in _SINGULAR.items()}
# Words other tools use: never accepted, only the reason for a suggestion.
_SYNONYMS = {
    "step": "updates",
    "steps": "updates",
    "iteration": "updates",
    "iterations": "updates",
    "iters": "updates",
    "batches": "updates",
    "tok": "tokens",
    "examples": "samples",
    "images": "samples",
    "seqs": "sequences",
    "percent": "%",
    "tokens/parameter": "tokens/param",
    "tokens per parameter": "tokens/param",
}
_TEXT = re.compile(r"([+-]?(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*)", re.DOTALL)
_LARGEST = 2**53  # above it a float no longer counts in ones


@dataclass(frozen=True)
class Quantity:
    """A non-negative amount and its unit; KB and MB become bytes, so that equal amounts compare equal.

    Raises ValueError for an unknown unit, a negative or non-finite value, one above 2**53, and for a fraction
    of what only comes whole (updates, tokens, samples, sequences, bytes).
    """

    value: float
    unit: str

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"found unit {self.unit!r}; allowed: {_listed(UNITS)}{_suggest(self.unit, UNITS)}")
        value = float(self.value) * _MULTIPLES.get(self.unit, 1)
        unit = "bytes" if self.unit in _MULTIPLES else self.unit
        if not (math.isfinite(value) and 0 <= value <= _LARGEST):
            raise ValueError(f"found {self.value} {self.unit}; allowed: a number from 0 to 2**53")
        if unit in WHOLE and value != int(value):
            raise ValueError(f"found {self.value} {self.unit}; allowed: a whole number of {unit}")
        if unit == "%" and value > 100:
            raise ValueError(f"found {self.value} %; allowed: at most 100 %")
        object.__setattr__(self, "value", value)
        object.__setattr__(self, "unit", unit)

    @classmethod
    def parse(cls, text: str, units: Iterable[str] = UNITS) -> Quantity:
        """Read ``"200 updates"``, ``"1e6 tokens"`` or ``"1 update"``; ``units`` are those allowed here.

        Raises ValueError saying what was found, which units are allowed, and the nearest one.
        """
        if not isinstance(text, str):
            raise ValueError(_bare(text, tuple(units)))
        return _parse(text, tuple(units))

    @property
    def count(self) -> int:
        """The value as an integer; ValueError where the unit has fractions (epochs, tokens/param, %)."""
        if self.unit not in WHOLE:
            raise ValueError(f"found {self}; allowed: a quantity in {_listed(tuple(sorted(WHOLE)))}")
        return int(self.value)

    def scaled(self, factor: float) -> Quantity:
        """This amount times ``factor``, rounded to a whole number where the unit has no fractions."""
        value = self.value * factor
        return Quantity(round(value) if self.unit in WHOLE else value, self.unit)

    def __str__(self) -> str:
        """The canonical text: one spelling for every way of writing the same quantity."""
        number = str(int(self.value)) if self.value == int(self.value) else repr(self.value)
        return f"{number} {_SINGULAR.get(self.unit, self.unit) if self.value == 1 else self.unit}"


@lru_cache(maxsize=4096)
def _parse(text: str, units: tuple[str, ...]) -> Quantity:
    match = _TEXT.fullmatch(text.strip())
    if not match:
        raise ValueError(f"found {_shown(text)}; allowed: a number and a unit ({_listed(units)})")
    number, word = match.groups()
    if not word:
        raise ValueError(_bare(number, units))
    unit = _PLURAL.get(word, word)
    if unit not in units:
        raise ValueError(f"found unit {_shown(word)}; allowed: {_listed(units)}{_suggest(word, units)}")
    return Quantity(float(number), unit)


def _bare(found: object, units: tuple[str, ...]) -> str:
    if isinstance(found, bool) or not isinstance(found, (int, float, str)):
        return f"found {_shown(found)}; allowed: a number and a unit ({_listed(units)})"
    return (
        f"found {_shown(found, bare=True)} without a unit; allowed: a number and a unit "
        f"({_listed(units)}) (did you mean '{_shown(found, bare=True)} {units[0]}'?)"
    )


def _shown(value: object, bare: bool = False) -> str:
    text = str(value) if bare else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)


def _suggest(word: str, units: Iterable[str]) -> str:
    known = tuple(units)
    synonym = _SYNONYMS.get(word.lower())
    if synonym in known:
        return f" (did you mean {synonym!r}?)"
    same = [unit for unit in known if unit.lower() == word.lower()]
    return f" (did you mean {same[0]!r}?)" if same else nearest(word, known)
