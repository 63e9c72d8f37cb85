"""Every Python example of docs/laws runs as printed, page by page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from isoloss.laws import ALIASES, FORMS

PAGES = sorted((Path(__file__).resolve().parents[2] / "docs" / "laws").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_run(page: Path) -> None:
    before = dict(FORMS)
    scope: dict[str, object] = {}
    try:
        for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            exec(compile(block, page.name, "exec"), scope)
    finally:
        for name in set(FORMS) - set(before):
            del FORMS[name]


def test_every_form_has_a_row() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    missing = [name for name in FORMS if f"`{name}`" not in text and not name.startswith("bnsl")]
    assert not missing
    assert all(f"`{alias}`" in text for alias in ALIASES if alias != "hoffmann")
