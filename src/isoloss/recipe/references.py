"""Things a user brings in by ``package.module:attribute``: loading them and addressing their code."""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from isoloss.recipe.errors import StudyError

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def is_reference(name: object) -> bool:
    """Whether ``name`` has the form ``package.module:attribute``."""
    return isinstance(name, str) and _REFERENCE.fullmatch(name) is not None


def load(name: str) -> Any:
    """Import ``package.module:attribute``; raise ``StudyError`` naming what is missing."""
    if not is_reference(name):
        raise StudyError(f"{name!r} is not of the form package.module:attribute")
    module_name, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise StudyError(
            f"cannot import {module_name!r} of {name!r}: {error}; modules beside the study file are found too"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise StudyError(f"module {module_name!r} has no attribute {attribute!r}")
        found = getattr(found, part)
    return found


@lru_cache(maxsize=256)
def code_digest(name: str) -> str:
    """SHA-256 of the source file that holds ``name``: editing a user's file changes every key it decides."""
    load(name)
    path = getattr(sys.modules[name.partition(":")[0]], "__file__", None)
    if path is None:
        raise StudyError(f"{name!r} has no source file to address; give it an explicit version: in the study")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def code_of(name: str, version: object, semantics: int | None) -> dict[str, Any]:
    """The part of a key that stands for code: a built-in's semantics, a user's version or source digest."""
    if semantics is not None:
        return {"semantics": semantics}
    if version is not None:
        return {"version": str(version)}
    return {"source": code_digest(name)}
