"""The records of the catalogue: names with their options, kinds, ranges and defaults."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Missing(Enum):
    """The default of an option that has none."""

    REQUIRED = "required"


REQUIRED = Missing.REQUIRED
"""The default of an option that a study must give."""

OPTION_KINDS = ("integer", "number", "boolean", "word", "text", "paths", "pair", "duration", "drops")
"""What the value of an option may be; `Option` says what each means."""


@dataclass(frozen=True)
class Option:
    """One option of an entry.

    ``kind``: one of OPTION_KINDS ("pair": two numbers; "paths": one text or a list; "drops": a list of
    {at: duration, factor: number}). ``low`` and ``high`` bound numbers, and are excluded where ``open_low``
    or ``open_high``. A default of None means that null is allowed and leaves it to the method.
    """

    name: str
    kind: str
    default: object = REQUIRED
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    summary: str = ""
    open_low: bool = False
    open_high: bool = False

    @property
    def required(self) -> bool:
        """Whether a study must give it."""
        return self.default is REQUIRED


@dataclass(frozen=True)
class Entry:
    """One name a study may use: what it is, where its code is (``module:attribute``), and its options.

    ``semantics`` is raised by hand when the numbers it produces change: it is part of every key. ``tags`` say
    what a name can do: data "tokens" or "vectors", a schedule's "decay" (also a cooldown) or "trunk" (may be
    followed by a cooldown), a task's and a model's "tokens" or "vectors" ("images": of images alone), an optimizer's
    "adam" or "sgd" (the learning rates it takes under width transfer) and "averaging" (evaluated at its own average),
    a model's "open" (takes the options of another library too).
    """

    name: str
    kind: str
    summary: str
    target: str
    semantics: int
    options: tuple[Option, ...] = ()
    tags: tuple[str, ...] = ()

    def option(self, name: str) -> Option:
        """The option of that name; KeyError if there is none."""
        for option in self.options:
            if option.name == name:
                return option
        raise KeyError(name)
