"""Errors a user can cause or must hear about; each carries one complete message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class IsolossError(Exception):
    """Base of every error that is reported as one message without a traceback."""


class StudyError(IsolossError):
    """The request is wrong (exit code 2): a study file, an option or an input that cannot be used."""


class StoreError(IsolossError):
    """The store cannot be used as asked: damaged, newer than this version, or not writable."""


class NotDeterministic(StoreError):
    """Two trainings of one key gave different bits: the alarm that sharing rests on."""


class StateLost(StoreError):
    """A state that a plan counted on is gone or damaged; planning again finds another way."""


class RunFailed(IsolossError):
    """One run could not be trained (exit code 1); the others go on."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest allowed name, or an empty string."""
    found = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f" (did you mean {found[0]!r}?)" if found else ""
