"""YAML 1.2 text to plain values, with the line of every key and value.

The parser's events are walked here rather than composed: the nesting is bounded, duplicate keys and tags
are told with their line, and a scalar means what the YAML 1.2 core schema says (``4e-3`` is a number, ``on``
a word).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from isoloss.recipe.errors import StudyError, nearest
from isoloss.study.problems import Path, printable, show

DEEPEST = 32
LARGEST_FILE = 1_000_000
MOST_VALUES = 100_000

_NULL = re.compile(r"|~|null|Null|NULL")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"([-+]?)\.(inf|Inf|INF|nan|NaN|NAN)")
_LONGEST_NUMBER = 400
_HALF = re.compile("[\ud800-\udfff]")
_STANDARD = "tag:yaml.org,2002:"


def decode(data: bytes, name: str) -> str:
    """Bytes of a study file as text; StudyError with the line where they are no UTF-8, or for too many."""
    if len(data) > LARGEST_FILE:
        raise StudyError(f"{name}: found {len(data)} bytes; allowed: a study file of at most {LARGEST_FILE}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise StudyError(
            f"{name}:{line}: found byte 0x{data[error.start]:02x} at {error.start}; allowed: text in UTF-8"
        ) from None


def read(text: str, name: str) -> tuple[Any, dict[Path, int]]:
    """The value of the one document in ``text`` and the line of every path in it.

    Raises StudyError for a syntax error, a duplicate key, a tag, a merge key, an alias that contains itself,
    and more nesting or values than a study can have.
    """
    if len(text) > LARGEST_FILE:
        raise StudyError(f"{name}: found {len(text)} characters; allowed: a study of at most {LARGEST_FILE}")
    reader = _Reader(name)
    parser = YAML(typ="safe", pure=True)
    try:
        for event in parser.parse(text):
            reader.take(event)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark is not None else ""
        reason = " ".join(str(part) for part in (error.context, error.problem) if part)
        hint = "; allowed: spaces, not tabs, for indentation" if "\\t" in reason else ""
        raise StudyError(printable(f"{name}{line}: this is not YAML: {' '.join(reason.split())}{hint}")) from None
    except (YAMLError, ValueError, OverflowError) as error:
        position = getattr(error, "position", None)
        line = f":{text.count(chr(10), 0, position) + 1}" if isinstance(position, int) else ""
        reason = " ".join(str(getattr(error, "reason", None) or error).split())
        raise StudyError(printable(f"{name}{line}: this is not YAML: {reason}")) from None
    return reader.value, reader.lines


@dataclass
class _Open:
    """A mapping or sequence whose end has not been read."""

    value: Any
    path: Path
    anchor: str | None
    key: str | None = None
    waiting: bool = True  # in a mapping: the next scalar is a key


@dataclass
class _Reader:
    name: str
    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    _stack: list[_Open] = field(default_factory=list)
    _anchors: dict[str, Any] = field(default_factory=dict)
    _documents: int = 0
    _count: int = 0

    def take(self, event: Any) -> None:
        """One event of the parser."""
        line = event.start_mark.line + 1
        if isinstance(event, DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._fail(line, "found a second document (---); allowed: one study in a file")
        elif isinstance(event, ScalarEvent):
            self._scalar(event, line)
        elif isinstance(event, AliasEvent):
            self._alias(event, line)
        elif isinstance(event, (MappingStartEvent, SequenceStartEvent)):
            self._begin(event, line)
        elif isinstance(event, (MappingEndEvent, SequenceEndEvent)):
            ended = self._stack.pop()
            if ended.anchor:
                self._anchors[ended.anchor] = ended.value

    def _scalar(self, event: Any, line: int) -> None:
        if self._stack and isinstance(self._stack[-1].value, dict) and self._stack[-1].waiting:
            self._key(event.value, line, plain=event.style is None)
            return
        value = self._resolved(event, line)
        if event.anchor:
            self._anchors[event.anchor] = value
        self._place(value, line)

    def _resolved(self, event: Any, line: int) -> Any:
        tag = str(event.tag) if event.tag else None
        if tag in ("!", _STANDARD + "str") or (tag is None and event.style is not None):
            return self._whole(event.value, line)
        if tag is not None:
            self._fail(line, f"found the tag {show(tag)}; allowed: plain values without tags")
        return self._core(event.value, line)

    def _core(self, text: str, line: int) -> Any:
        if _NULL.fullmatch(text):
            return None
        if _BOOL.fullmatch(text):
            return text.lower() == "true"
        if len(text) > _LONGEST_NUMBER:
            if _FLOAT.fullmatch(text) or _BASED.fullmatch(text):
                self._fail(line, f"found a number of {len(text)} digits; allowed: at most {_LONGEST_NUMBER}")
            return text
        if _INT.fullmatch(text):
            return int(text)
        if _BASED.fullmatch(text):
            return int(text, 0)
        if _FLOAT.fullmatch(text):
            return float(text)
        if special := _SPECIAL.fullmatch(text):
            return float(special[1] + special[2])
        return text

    def _whole(self, text: str, line: int) -> str:
        r"""Text in which the two halves of ``"\ud83d\ude00"``, as JSON escapes it, are one character."""
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self._fail(line, "found half a character (a lone surrogate); allowed: text that UTF-8 can hold")

    def _begin(self, event: Any, line: int) -> None:
        self._keyless(line)
        if event.tag:
            self._fail(line, f"found the tag {show(str(event.tag))}; allowed: plain values without tags")
        if len(self._stack) >= DEEPEST:
            self._fail(line, f"found more than {DEEPEST} levels of nesting; allowed: at most {DEEPEST}")
        value: Any = {} if isinstance(event, MappingStartEvent) else []
        path = self._place(value, line)
        self._stack.append(_Open(value, path, event.anchor))
        if event.anchor:
            self._anchors.pop(event.anchor, None)

    def _key(self, key: str, line: int, *, plain: bool) -> None:
        top, key = self._stack[-1], self._whole(key, line)
        if key == "<<" and plain:
            self._fail(line, "found a merge key <<; allowed: keys written out, or an arm that overrides them")
        if key in top.value:
            first = self.lines.get((*top.path, key))
            self._fail(line, f"found the key {show(key)} again; allowed: once (it stands on line {first})")
        top.key, top.waiting = key, False
        self.lines[(*top.path, key)] = line

    def _keyless(self, line: int) -> None:
        if self._stack and isinstance(self._stack[-1].value, dict) and self._stack[-1].waiting:
            self._fail(line, "found a mapping, list or alias as a key; allowed: a name")

    def _alias(self, event: Any, line: int) -> None:
        self._keyless(line)
        if event.anchor not in self._anchors:
            open_anchors = [entry.anchor for entry in self._stack]
            if event.anchor in open_anchors:
                self._fail(line, f"found *{event.anchor} inside itself; allowed: an alias of something complete")
            self._fail(
                line,
                f"found *{event.anchor}, which no anchor names; allowed: "
                f"{', '.join(self._anchors) or 'none'}{nearest(str(event.anchor), self._anchors)}",
            )
        self._place(self._copied(self._anchors[event.anchor], line), line)

    def _copied(self, value: Any, line: int, depth: int = 0) -> Any:
        if depth + len(self._stack) > DEEPEST:
            self._fail(line, f"found more than {DEEPEST} levels of nesting; allowed: at most {DEEPEST}")
        self._counted(line)
        if isinstance(value, dict):
            return {key: self._copied(item, line, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [self._copied(item, line, depth + 1) for item in value]
        return value

    def _counted(self, line: int) -> None:
        self._count += 1
        if self._count > MOST_VALUES:
            self._fail(line, f"found more than {MOST_VALUES} values; allowed: at most {MOST_VALUES}")

    def _place(self, value: Any, line: int) -> Path:
        self._counted(line)
        if not self._stack:
            self.value = value
            self.lines[()] = line
            return ()
        top = self._stack[-1]
        path: Path
        if isinstance(top.value, dict):
            assert top.key is not None
            path = (*top.path, top.key)
            top.value[top.key] = value
            top.waiting = True
        else:
            path = (*top.path, len(top.value))
            top.value.append(value)
            self.lines[path] = line
        return path

    def _fail(self, line: int, message: str) -> NoReturn:
        raise StudyError(printable(f"{self.name}:{line}: {message}"))


def plain(value: Any, name: str, path: str = "", depth: int = 0) -> Any:
    """A Python value as the loader would have given it: dicts with text keys, lists, scalars.

    Raises StudyError, naming the place, for anything that a study file could not hold.
    """
    if depth > DEEPEST:
        raise _unfit(name, path, f"more than {DEEPEST} levels of nesting; allowed: at most {DEEPEST}")
    if isinstance(value, str) and _HALF.search(value):
        raise _unfit(name, path, "half a character (a lone surrogate); allowed: whole text")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(item, name, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        made: dict[str, Any] = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise _unfit(name, path, f"the key {show(key)}; allowed: text keys")
            made[plain(key, name, path)] = plain(item, name, f"{path}.{key}" if path else key, depth + 1)
        return made
    permitted = "mappings, lists, text, numbers, true, false, null"
    raise _unfit(name, path, f"a {type(value).__name__}; allowed: {permitted}")


def _unfit(name: str, path: str, found: str) -> StudyError:
    return StudyError(printable(f"{name}: {path}{': ' if path else ''}found {found}"))
