"""How a map finds one quantity of a run: by a name, a formula of names, a number, or in the run's own name."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from isoloss.bridges.expression import Expression
from isoloss.bridges.recorded import Recorded, Setting, listed
from isoloss.bridges.table import label, number
from isoloss.recipe.errors import StudyError, nearest

STEP = "step"
_AMOUNT = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([kKmMbBgGtT])")
_OPERATOR = re.compile(r"[*+()]|\s[-/]\s")
_TIMES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
PAST_END = 1.02
"""How far beyond its last value a counter is carried on: two loggers seldom end at the same step."""
BARE = 1e4
"""Below it, a number beside others with a K, M, B or T is taken for one that lacks it."""


class Lacking(Exception):
    """A run has no such value; the message says what was sought and what there is."""


def amount(value: Setting) -> tuple[float | None, bool]:
    """A setting as a number, 125M being 125e6, and whether it had such a letter; None for other text."""
    plain = number(value)
    if plain is not None:
        return plain, False
    match = _AMOUNT.fullmatch(str(value).strip())
    return (float(match[1]) * _TIMES[match[2].lower()], True) if match else (None, False)


@dataclass
class Context:
    """One run while its values are found. `names`: what any run of the import has."""

    run: Recorded
    names: frozenset[str]
    steps: np.ndarray = field(default_factory=lambda: np.array([math.nan]))
    used: set[str] = field(default_factory=set)
    """Series that were read: what is to be told of them is told."""
    letters: dict[str, set[bool]] = field(default_factory=dict)
    """Of numbers in text, whether they had a letter for millions and the like."""

    def has(self, name: str) -> bool:
        """Whether this run has a setting or a series of that name."""
        return name in self.run.settings or name in self.run.series

    def numbers(self, name: str, counter: bool = False) -> np.ndarray:
        """A name's values at `steps`. `counter`: it grows from 0 at step 0. Raises Lacking, StudyError."""
        if name == STEP and np.isfinite(self.steps).all():
            return self.steps
        if name in self.run.series:
            return self._series(name, counter)
        if name in self.run.settings:
            value, letter = amount(self.run.settings[name])
            if value is None:
                raise Lacking(f"{name} is {self.run.settings[name]!r}, which is no number")
            if letter or value < BARE:
                self.letters.setdefault(name, set()).add(letter)
            return np.full(len(self.steps), value)
        if name == STEP:
            raise Lacking("it has no steps, so step stands for nothing; map S")
        raise self.lacking(name)

    def lacking(self, name: str) -> Lacking:
        """What to say of a name that is not there."""
        near = nearest(name, self.run.names)
        return Lacking(f"no {name!r}{near}; found: {listed(self.run.names, 30)}")

    def _series(self, name: str, counter: bool) -> np.ndarray:
        series = self.run.series[name]
        if series.fault:
            raise StudyError(
                f"run {self.run.name!r} ({self.run.source}): {name}: {series.fault}; say restarts: later where what "
                "was written later counts, or restarts: sort"
            )
        self.used.add(name)
        if not counter:
            return series.at(self.steps)
        known = np.isfinite(series.values)
        at, values = series.steps[known], series.values[known]
        if not len(at):
            raise Lacking(f"{name} has no values")
        if at[0] > 0:
            at, values = np.insert(at, 0, 0.0), np.insert(values, 0, 0.0)
        last = float(np.nanmax(self.steps))
        if last > at[-1] * PAST_END:
            raise Lacking(f"{name} ends at step {at[-1]:g}, before step {last:g}")
        beyond = np.maximum(self.steps / at[-1], 1.0) if at[-1] > 0 else 1.0
        return np.asarray(np.interp(self.steps, at, values) * beyond)

    def text(self, name: str) -> str:
        """A setting as a label. Raises Lacking."""
        if name in self.run.settings:
            return label(self.run.settings[name])
        if name in self.run.series:
            found = np.unique(self.run.series[name].values)
            if len(found) == 1:
                return label(float(found[0]))
            raise Lacking(f"{name} changes along the run, so it is no label")
        raise self.lacking(name)


class Value:
    """One entry of a map. Raises StudyError for what no entry can be."""

    def __init__(self, given: Any) -> None:
        self.given = given
        self._formula: Expression | None = None
        self._match: list[tuple[re.Pattern[str], Any]] = []
        if isinstance(given, Mapping):
            self._mapping(given)
        elif isinstance(given, list):
            if not given or not all(isinstance(item, str) for item in given):
                raise StudyError(f"found {given!r}; allowed: a list of names")
        elif isinstance(given, bool) or not isinstance(given, int | float | str) or given == "":
            raise StudyError(f"found {given!r}; allowed: {_ALLOWED}")

    def _mapping(self, given: Mapping[str, Any]) -> None:
        keys = set(given)
        if keys in ({"name"}, {"of", "match"}):
            pattern = given["name"] if "name" in given else given["match"]
            rules = pattern if isinstance(pattern, Mapping) else {pattern: None}
            for text, value in rules.items():
                if not isinstance(text, str) or (value is not None and not isinstance(value, str | int | float)):
                    raise StudyError(f"found {given!r}; allowed: a regular expression, or values by them")
                try:
                    self._match.append((re.compile(text), value))
                except re.error as error:
                    raise StudyError(f"{text!r} is no regular expression: {error}") from None
        elif keys == {"text"} and isinstance(given["text"], str | int | float):
            pass
        elif keys == {"first"} and isinstance(given["first"], list) and given["first"]:
            for item in given["first"]:
                Value(item)
        else:
            raise StudyError(f"found {listed(map(str, given))}; allowed: {_ALLOWED}")

    @property
    def words(self) -> str:
        """The entry as a reader takes it."""
        if not isinstance(self.given, Mapping):
            return " · ".join(self.given) if isinstance(self.given, list) else str(self.given)
        if "text" in self.given:
            return f"{self.given['text']}"
        if "first" in self.given:
            return " or ".join(map(str, self.given["first"]))
        return f"found in {self.given.get('of', 'the name of the run')}"

    def names(self, known: Iterable[str]) -> list[str]:
        """Names that the entry reads."""
        if isinstance(self.given, str):
            formula = None if self.given in set(known) else self._expression()
            return [self.given] if formula is None else list(formula.names)
        if isinstance(self.given, list):
            return list(self.given)
        if isinstance(self.given, Mapping) and "of" in self.given:
            return [self.given["of"]]
        if isinstance(self.given, Mapping) and "first" in self.given:
            return [name for item in self.given["first"] for name in Value(item).names(known)]
        return []

    def numbers(self, here: Context, counter: bool = False) -> np.ndarray:
        """Values at the context's steps. Raises Lacking."""
        given = self.given
        if isinstance(given, str):
            formula = None if given in here.names or given == STEP else self._expression()
            if formula is None:
                return here.numbers(given, counter)
            found = formula(lambda name: here.numbers(name, counter))
            return np.broadcast_to(found, (len(here.steps),)).astype(float)
        if isinstance(given, int | float):
            return np.full(len(here.steps), float(given))
        if isinstance(given, Mapping) and "first" in given:
            return self._first(lambda value: value.numbers(here, counter))
        text = self.label(here)
        value, _ = amount(text)
        if value is None:
            raise Lacking(f"{text!r} is no number")
        return np.full(len(here.steps), value)

    def label(self, here: Context) -> str:
        """The value as a label. Raises Lacking."""
        given = self.given
        if isinstance(given, str):
            if given not in here.names and not given.isidentifier():
                raise here.lacking(given)
            return here.text(given)
        if isinstance(given, list):
            return " · ".join(here.text(name) for name in given)
        if isinstance(given, Mapping):
            if "text" in given:
                return label(given["text"])
            if "first" in given:
                return str(self._first(lambda value: value.label(here)))
            return self._matched(here.run.name if "name" in given else here.text(given["of"]))
        return label(given)

    def _matched(self, text: str) -> str:
        for pattern, value in self._match:
            match = pattern.search(text)
            if match is not None:
                if value is not None:
                    return label(value)
                return str(match[1] if pattern.groups else match[0])
        shown = " or ".join(repr(pattern.pattern) for pattern, _ in self._match)
        raise Lacking(f"{text!r} does not match {shown}")

    def _first(self, read: Callable[[Value], Any]) -> Any:
        missed = []
        for item in self.given["first"]:
            try:
                return read(Value(item))
            except Lacking as error:
                missed.append(str(error).partition(";")[0])
        raise Lacking("; ".join(missed))

    def _expression(self) -> Expression | None:
        """The formula; None for a name that is no plain word and that no run has. Raises StudyError."""
        if self._formula is None:
            try:
                self._formula = Expression(str(self.given))
            except StudyError:
                if _OPERATOR.search(str(self.given)):
                    raise
        return self._formula


_ALLOWED = (
    'a name, a number, a formula of names ("12 * layers * width ** 2"), [names] that make a label, '
    "{name: REGEX on the run's name}, {of: NAME, match: REGEX}, {text: WORD} or {first: [...]}"
)
