"""What is public: the names that users may rely on, and whether they are documented."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from docs_pages import inline, pages, read

ROOMS = ("data", "laws", "models", "plan", "recipe.catalogue", "report", "store", "study", "worth")
"""Modules whose `__all__` is public."""
FILES = ("bridges", "laws.forms", "methods")
"""Packages each of whose modules is public."""


def modules() -> list[str]:
    """Every public module; what the documentation imports from is public too."""
    found = {"isoloss", *(f"isoloss.{room}" for room in ROOMS)}
    for package in FILES:
        path = importlib.import_module(f"isoloss.{package}").__path__
        found |= {f"isoloss.{package}.{m.name}" for m in pkgutil.iter_modules(path) if not m.name.startswith("_")}
    return sorted(found | {module for module, _ in imported()})


def imported() -> set[tuple[str, str]]:
    """(module, name) of everything that the pages' Python blocks import from isoloss."""
    found = set()
    for path in pages():
        for block in read(path):
            if block.language == "python":
                for node in ast.walk(ast.parse(block.code)):
                    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "isoloss":
                        for alias in node.names:
                            whole = f"{node.module}.{alias.name}"
                            found.add((whole, "") if is_module(whole) else (str(node.module), alias.name))
    return found


def is_module(name: str) -> bool:
    """Whether it is a module, and not a function that its package has under the module's name."""
    package, _, last = name.rpartition(".")
    found = getattr(importlib.import_module(package), last, None)
    if found is None:
        try:
            found = importlib.import_module(name)
        except ModuleNotFoundError:
            return False
    return isinstance(found, ModuleType)


def names(module: str) -> list[str]:
    """The public names of a module: its `__all__`, or what it defines."""
    found = importlib.import_module(module)
    return list(found.__all__) if hasattr(found, "__all__") else [name for name, _ in defined(found)]


def defined(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Public classes and functions that a module defines."""
    for name, value in vars(module).items():
        made = inspect.isclass(value) or inspect.isfunction(value)
        if made and not name.startswith("_") and value.__module__ == module.__name__:
            yield name, value


def members(value: type) -> Iterator[str]:
    """Public methods and properties that a class defines."""
    for name, member in vars(value).items():
        plain = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if not name.startswith("_") and (inspect.isfunction(plain) or isinstance(member, property)):
            yield name


def spoken_of() -> set[str]:
    """Dotted names of isoloss in the inline code of the pages."""
    found = set()
    for path in pages():
        for code in inline(path.read_text(encoding="utf-8")):
            name = code.split("(")[0]
            if name.startswith("isoloss.") and all(part.isidentifier() for part in name.split(".")):
                found.add(name)
    return found


def resolve(name: str) -> Any:
    """The object of a dotted name; AttributeError or ModuleNotFoundError where there is none."""
    parts = name.split(".")
    value: Any = importlib.import_module(parts[0])
    for i, part in enumerate(parts[1:], 2):
        try:
            value = getattr(value, part)
        except AttributeError:
            value = importlib.import_module(".".join(parts[:i]))
    return value
