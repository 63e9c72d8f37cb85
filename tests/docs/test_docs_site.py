"""The site is built without a warning, has every public name, asks the network for nothing, and can be read."""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from docs_pages import DOCS, ROOT
from docs_public import modules, names

pytestmark = pytest.mark.slow
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return folder


def test_every_page_is_there(site: Path) -> None:
    for page in DOCS.rglob("*.md"):
        assert (site / page.relative_to(DOCS)).with_suffix(".html").exists(), page
    assert (site / "benchmarks" / "results" / "laws.html").exists(), "what pages link to outside of docs"


def test_every_public_name_is_in_the_inventory(site: Path) -> None:
    listed = zlib.decompress((site / "objects.inv").read_bytes().split(b"zlib.\n", 1)[1]).decode()
    found = {line.split()[0] for line in listed.splitlines()}
    public = [f"{module}.{name}" for module in modules() for name in names(module)]
    assert len(public) > 300
    assert [name for name in public if name not in found] == []


class Assets(HTMLParser):
    """What a page would load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video", "audio", "link"):
            self.found += [value for key in ("src", "href") if (value := given.get(key))]


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        away = [place for place in Assets(page.read_text(encoding="utf-8")).found if re.match(r"(https?:)?//", place)]
        assert not away, (page, away)
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import\s*)['\"]?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[str]:
    """The site on loopback."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


PAGES = ("index.html", "methods/schedules.html", "laws/additive.html", "api/store.html")


@pytest.mark.chromium
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_pages_can_be_read(served: str, browser: Any, width: int, dark: bool) -> None:
    from axe_playwright_python.sync_playwright import Axe

    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light")
    tab, complaints, asked = context.new_page(), [], []
    tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    for page in PAGES:
        tab.goto(served + page)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, page
        ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(18, 21, 24)" if dark else "rgb(252, 252, 250)")
        found = Axe().run(tab).response["violations"]
        serious = [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")]
        assert not serious, (page, serious)
    assert not complaints
    assert all(url.startswith((served, "data:", "blob:")) for url in asked)
    context.close()


@pytest.mark.chromium
def test_the_landing_page_shows_its_figure_and_search_finds(served: str, browser: Any) -> None:
    tab = browser.new_page()
    tab.goto(served)
    figure = tab.locator(".figure img")
    assert figure.get_attribute("alt") and figure.evaluate("image => image.naturalWidth") > 100
    tab.keyboard.press("/")
    tab.keyboard.type("gradient noise scale", delay=20)
    tab.locator(".md-search-result__link").first.wait_for()
    assert "noise" in tab.locator(".md-search-result__link").first.inner_text().lower()
    tab.close()
