"""A headless Chromium for the tests that look at the page."""

from __future__ import annotations

import os
from collections.abc import Iterator

import chromium
import pytest


@pytest.fixture(scope="session")
def browser() -> Iterator[chromium.Browser]:
    binary = chromium.find()
    if binary is None:
        message = f"no Chromium found; install it with: {chromium.INSTALL}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with chromium.Browser(binary) as running:
        yield running
