"""Headless Chromium through Playwright, cut off from any network, that notes what a page asks for and complains of."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page as Tab
from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
INSTALL = "apt-get install chromium"
PHONE = 600
"""Narrower pages are shown as on a phone: touched, and in its own layout."""


def find() -> str | None:
    """The path of an installed Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One Chromium process; no tab reaches anything but files, or what runs on this machine where that is allowed."""

    def __init__(self, binary: str) -> None:
        # Requests that a tab's own block misses (the browser's services) meet a proxy port that nobody serves.
        self._playwright = sync_playwright().start()
        self._browser = self._playwright.chromium.launch(
            executable_path=binary,
            args=["--no-sandbox", "--proxy-server=127.0.0.1:9", "--proxy-bypass-list=127.0.0.1;localhost"],
        )

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._browser.close()
        self._playwright.stop()

    def open(
        self,
        place: Path | str,
        *,
        width: int = 1280,
        height: int = 900,
        dark: bool = False,
        script: bool = True,
        local: bool = False,
    ) -> Page:
        """Open a file (or, with `local`, an address of this machine) in a new tab of the given size."""
        context = self._browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            java_script_enabled=script,
            has_touch=width < PHONE,
            is_mobile=width < PHONE,
            accept_downloads=True,
        )
        page = Page(context.new_page(), local)
        page.tab.goto(place.resolve().as_uri() if isinstance(place, Path) else place)
        return page


class Page:
    """One tab in a context of its own; `tab` is Playwright's page."""

    def __init__(self, tab: Tab, local: bool) -> None:
        self.tab = tab
        self._complaints: list[str] = []
        self._requests: list[str] = []
        tab.set_default_timeout(30_000)
        tab.route("**/*", lambda route: route.continue_() if self._may(route.request.url, local) else route.abort())
        tab.on("pageerror", lambda error: self._complaints.append(str(error)))
        tab.on("console", self._console)
        tab.on("request", lambda request: self._requests.append(request.url))
        tab.on("requestfailed", lambda request: self._complaints.append(f"{request.url}: {request.failure}"))

    @staticmethod
    def _may(url: str, local: bool) -> bool:
        inside = ("file:", "data:", "blob:")
        return url.startswith((*inside, "http://127.0.0.1", "http://localhost") if local else inside)

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning", "assert"):
            self._complaints.append(message.text)

    def close(self) -> None:
        self.tab.context.close()

    def resize(self, width: int, height: int = 900) -> None:
        self.tab.set_viewport_size({"width": width, "height": height})

    def scheme(self, name: str) -> None:
        """Prefer a colour scheme: `light` or `dark`."""
        self.tab.emulate_media(color_scheme="dark" if name == "dark" else "light")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression (promises awaited)."""
        return self.tab.evaluate(expression)

    def wait(self, holds: Callable[[], Any], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError("the page did not get ready")
            self.tab.wait_for_timeout(20)

    def wait_drawn(self) -> None:
        """Until the charts are drawn."""
        self.tab.wait_for_selector("html[data-plots=drawn]", state="attached")

    def press(self, key: str) -> None:
        """Press and release one key, as a keyboard would."""
        self.tab.keyboard.press(key)

    def click(self, selector: str) -> None:
        """Click the middle of an element with the mouse."""
        self.tab.click(selector)

    def complaints(self) -> list[str]:
        """Errors and warnings of the console, exceptions and failed requests so far."""
        self.evaluate("0")
        return list(self._complaints)

    def requests(self) -> list[str]:
        """The addresses that this tab asked for, without what the page carries inside."""
        self.evaluate("0")
        return [url for url in self._requests if not url.startswith(("data:", "blob:"))]

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        self.tab.screenshot(path=path, full_page=whole, animations="disabled")

    def pdf(self) -> bytes:
        return self.tab.pdf(prefer_css_page_size=True, print_background=False)

    def violations(self) -> list[str]:
        """What axe-core calls a serious or critical violation: rule, where, and why."""
        found = Axe().run(self.tab).response["violations"]
        return [
            f"{rule['id']} ({rule['impact']}): {node['target']} {node['failureSummary']}"
            for rule in found
            if rule["impact"] in ("serious", "critical")
            for node in rule["nodes"]
        ]
