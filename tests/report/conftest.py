"""A headless Chromium for the tests that look at the page."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import chromium
import pytest
from cases import CASES, Json, Pages

from isoloss import report


@pytest.fixture(scope="module")
def browser() -> Iterator[chromium.Browser]:
    binary = chromium.find()
    if binary is None:
        message = f"no Chromium found; install it with: {chromium.INSTALL}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with chromium.Browser(binary) as running:
        yield running


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """Result and page of a case, each written once."""
    folder = tmp_path_factory.mktemp("pages")
    known: dict[str, tuple[Json, Path]] = {}

    def page(case: str) -> tuple[Json, Path]:
        if case not in known:
            result = CASES[case]()
            known[case] = result, report.write(result, folder / case, figures=False)
        return known[case]

    return page


@pytest.fixture
def clean_pages(browser: chromium.Browser) -> Callable[[Path], Iterator[chromium.Page]]:
    """A file on a phone and, in the dark scheme, on a desk: drawn, without complaints, nothing cut off, accessible."""

    def opened(path: Path) -> Iterator[chromium.Page]:
        for width, dark in ((360, False), (1280, True)):
            page = browser.open(path, width=width, dark=dark)
            page.wait_drawn()
            assert page.complaints() == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.violations() == []
            yield page
            page.close()

    return opened
