"""A valid study that the tests of this room change in one place at a time."""

from pathlib import Path

import pytest


@pytest.fixture
def text() -> str:
    return Path(__file__).with_name("demo.yaml").read_text(encoding="utf-8")
