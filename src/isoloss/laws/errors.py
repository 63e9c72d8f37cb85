"""The error type of the law library and the search for the nearest valid name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from isoloss.recipe.errors import StudyError


class LawError(StudyError, ValueError):
    """A request the law library cannot meet; the message says what was found and what is allowed."""


def unknown(kind: str, found: str, allowed: Iterable[str]) -> LawError:
    """Error for a name that does not exist, with the nearest valid names."""
    names = sorted(set(allowed))
    near = get_close_matches(found.lower(), [name.lower() for name in names], n=1, cutoff=0.5)
    hint = ""
    if near:
        hint = f"; did you mean {next(name for name in names if name.lower() == near[0])!r}?"
    return LawError(f"unknown {kind} {found!r}; allowed: {', '.join(names) or 'none'}{hint}")
