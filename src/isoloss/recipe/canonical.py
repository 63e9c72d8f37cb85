"""Canonical bytes of a value: equal values give equal bytes, on every machine and Python version.

The text is readable, so that two recipes can be compared as a diff: keys sorted, integers in decimal,
floats by ``float.hex`` (``1.0`` and ``1`` differ), strings as JSON. A type without a stable form raises.
A dataclass field that was added later carries ``metadata={"neutral": value}`` and is left out at that value,
so that older keys stay valid.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any


def encode(value: Any) -> bytes:
    """Return the canonical bytes of ``value``; raise ``TypeError`` or ``ValueError`` where there are none."""
    return _text(value).encode()


def digest(value: Any) -> str:
    """Return the SHA-256 of the canonical bytes, as 64 hexadecimal characters."""
    return hashlib.sha256(encode(value)).hexdigest()


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    kind = type(value)
    if kind is int:
        return str(value)
    if kind is float:
        if not math.isfinite(value):
            raise ValueError(f"{value} has no place in a recipe: only finite numbers are addressed")
        return value.hex()
    if kind is str:
        return json.dumps(value, ensure_ascii=True)
    if kind in (list, tuple):
        return "[" + ",".join(_text(item) for item in value) + "]"
    if isinstance(value, Mapping):
        if not all(type(key) is str for key in value):
            raise TypeError(f"keys of a recipe must be strings, found {list(value)[:5]}")
        return "{" + ",".join(f"{json.dumps(key)}:{_text(value[key])}" for key in sorted(value)) + "}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [f'"!":{json.dumps(kind.__name__)}']
        for field in sorted(dataclasses.fields(value), key=lambda f: f.name):
            item = getattr(value, field.name)
            if "neutral" in field.metadata and item == field.metadata["neutral"]:
                continue
            parts.append(f"{json.dumps(field.name)}:{_text(item)}")
        return "{" + ",".join(parts) + "}"
    raise TypeError(f"a recipe cannot hold a {kind.__module__}.{kind.__qualname__}: it has no stable form")
