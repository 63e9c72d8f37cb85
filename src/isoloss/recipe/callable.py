"""Rooms that are also verbs: ``isoloss.plan(study)`` calls the room's main function."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


def make_callable(module: str, function: str) -> None:
    """Let the imported ``module`` be called; the call goes to its attribute ``function``."""

    class Room(ModuleType):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return getattr(self, function)(*args, **kwargs)

    sys.modules[module].__class__ = Room
