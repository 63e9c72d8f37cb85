"""What pages carry inside themselves: style sheet, scripts, data, and for the page of a law plotly.js."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib import resources
from typing import Any

# Plain `<` ends a script element early, U+2028/9 end a JavaScript line: all five are legal JSON escapes.
_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


@cache
def text(name: str) -> str:
    """The text of a file in `report/assets`."""
    return resources.files("isoloss.report").joinpath("assets", name).read_text(encoding="utf-8")


@cache
def plotly_js() -> str:
    """The source of the plotly.js that the installed plotly package carries."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def script_hash(source: str) -> str:
    """The source expression of one inline script in a content security policy (CSP level 3, sha256)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def embed_json(value: Any) -> str:
    """Compact JSON that is safe inside a `<script>` element. Raises ValueError on NaN and infinities."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).translate(_ESCAPES)
