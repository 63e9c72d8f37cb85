"""Mistakes in a study file, collected while it is read and told in one message."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from isoloss.recipe.errors import StudyError

Path = tuple[str | int, ...]

_MOST = 20


def dotted(path: Path) -> str:
    """``("grid", "model.width", 1)`` as ``grid.model.width[1]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def show(value: Any) -> str:
    """A value as it stands in a file, shortened to fit a message."""
    if value is None:
        text = "null"
    elif isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, dict):
        text = f"a mapping with {', '.join(map(str, value))}" if value else "an empty mapping"
    elif isinstance(value, list):
        text = f"a list of {len(value)}" if len(value) > 4 else "[" + ", ".join(map(show, value)) + "]"
    else:
        try:
            text = repr(value)
        except ValueError:  # an integer with more digits than Python will print
            text = "a number of thousands of digits"
    return text if len(text) <= 80 else text[:77] + "..."


def printable(text: str) -> str:
    """Text with control characters and line separators escaped, so that a message stays on its line."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


class Problems:
    """What is wrong with one study: lines of ``file:line: path: message``, each said once.

    ``lines`` maps a path in the file to the line it stands on; empty for a study that came as a dict.
    """

    def __init__(self, name: str, lines: dict[Path, int]) -> None:
        self.name = name
        self.lines = lines
        self.count = 0
        """How often something was found, repetitions included."""
        self._found: dict[str, None] = {}

    def line(self, path: Path) -> int | None:
        """Line of ``path``, or of the nearest thing around it that stands in the file."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None

    def add(self, path: Path, message: str) -> None:
        """Note a mistake at ``path`` of the file."""
        line = self.line(path)
        place = self.name if line is None else f"{self.name}:{line}"
        where = f"{dotted(path)}: " if path else ""
        self.count += 1
        self._found[printable(f"{place}: {where}{message}")] = None

    def raise_if_any(self) -> None:
        """Raise one StudyError with everything found so far, or return."""
        if self._found:
            raise StudyError(_joined(self._found))


def _joined(lines: Iterable[str]) -> str:
    found = list(lines)
    if len(found) > _MOST:
        found = [*found[:_MOST], f"... and {len(found) - _MOST} more"]
    return "\n".join(found)
