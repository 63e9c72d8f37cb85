"""Things a user brings in by ``package.module:attribute``: loading them and addressing their code."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
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
    except Exception as error:  # whatever a user's module does when it is imported
        raise StudyError(
            f"cannot import {module_name!r} of {name!r}: {type(error).__name__}: {error}; "
            "modules beside the study file are found too"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise StudyError(f"module {module_name!r} has no attribute {attribute!r}")
        found = getattr(found, part)
    return found


@lru_cache(maxsize=256)
def code_digest(name: str) -> str:
    """What stands for the code behind ``name``: editing a user's files changes every key it decides.

    SHA-256 over all Python files of the top-level package (or of the one module); for an installed distribution
    its name and version. Cached until ``forget_code``.
    """
    load(name)
    top = name.partition(":")[0].partition(".")[0]
    path = getattr(sys.modules[top], "__file__", None)
    if path is None:
        raise StudyError(f"{name!r} has no source file to address; give it an explicit version: in the study")
    if "site-packages" in Path(path).parts:
        found = importlib.metadata.packages_distributions().get(top, [])
        return "; ".join(f"{d} {importlib.metadata.version(d)}" for d in sorted(set(found))) or _hash([Path(path)])
    folder = Path(path).parent
    return _hash(sorted(folder.rglob("*.py")) if Path(path).name == "__init__.py" else [Path(path)])


def forget_code() -> None:
    """Look at the files again the next time."""
    code_digest.cache_clear()


def _hash(paths: list[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        total.update(f"{path.name}:".encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def code_of(name: str, version: object, semantics: int | None) -> dict[str, Any]:
    """The part of a key that stands for code: a built-in's semantics, a user's version or source digest."""
    if semantics is not None:
        return {"semantics": semantics}
    if version is not None:
        return {"version": str(version)}
    return {"source": code_digest(name)}
