"""The catalogue of names a study may use, with every option's kind, range and default.

A study is validated from these records alone, so nothing heavy is imported to check one.
"""

from __future__ import annotations

from isoloss.recipe.entries import data, models, readings, schedules, updates
from isoloss.recipe.entry import OPTION_KINDS, REQUIRED, Entry, Missing, Option
from isoloss.recipe.errors import StudyError, nearest

__all__ = ["KINDS", "OPTION_KINDS", "REQUIRED", "Entry", "Missing", "Option", "get", "names"]

_BY_KIND: dict[str, dict[str, Entry]] = {}
for _entry in (*models.ENTRIES, *data.ENTRIES, *updates.ENTRIES, *schedules.ENTRIES, *readings.ENTRIES):
    _BY_KIND.setdefault(_entry.kind, {})[_entry.name] = _entry

KINDS = tuple(_BY_KIND)
"""What a name may be of: model, data, optimizer and so on."""


def names(kind: str, tag: str | None = None) -> tuple[str, ...]:
    """Names of a kind in the catalogue's order; with ``tag``, those that carry it. KeyError: no such kind."""
    return tuple(name for name, entry in _BY_KIND[kind].items() if tag is None or tag in entry.tags)


def get(kind: str, name: str) -> Entry:
    """The entry of that name; StudyError with the allowed names and the nearest one."""
    entries = _BY_KIND[kind]
    if name not in entries:
        raise StudyError(f"{kind}: found {name!r}; allowed: {', '.join(entries)}{nearest(str(name), entries)}")
    return entries[name]
