"""The page on transfer runs as printed and prints what it says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def test_the_page_prints_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (REPOSITORY / "docs" / "worth-transfer.md").read_text(encoding="utf-8")
    monkeypatch.chdir(REPOSITORY)
    examples = re.findall(r"```python\n(.*?)```.*?```text\n(.*?)```", page, re.DOTALL)
    assert len(examples) == 2
    scope: dict[str, object] = {}
    for code, expected in examples:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "worth-transfer.md", "exec"), scope)
        assert printed.getvalue() == expected
