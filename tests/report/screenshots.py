"""Pictures of the page for the docs: python -m tests.report.screenshots RESULT.json [FOLDER]

RESULT.json is what `isoloss quickstart` left beside its page; the pictures go to docs/screenshots.
"""

from __future__ import annotations

import json
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps
from tests.report.chromium import INSTALL, Browser, Page, find

from isoloss import report

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "screenshots"
LARGEST = 150_000
"""Bytes of a picture."""
MARGIN = 24


def take(result: Path, folder: Path) -> list[Path]:
    """All pictures of the page of a result; their paths. Raises RuntimeError without a browser."""
    binary = find()
    if binary is None:
        raise RuntimeError(f"no Chromium found; install it with: {INSTALL}")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with tempfile.TemporaryDirectory() as made, Browser(binary) as browser:
        path = report.write(json.loads(result.read_text()), Path(made), figures=False)
        page = browser.open(path, width=1280, height=1180)
        page.wait_drawn()
        written.append(_keep(page, folder / "light.png"))
        written.append(_keep(page, folder / "loss.png", "#controls", "#loss", point="final"))
        written.append(_keep(page, folder / "cost.png", "#plan"))
        if page.tab.locator("#planner").count():
            written.append(_keep(page, folder / "planner.png", "#planner"))
        page.tab.emulate_media(media="print")
        page.resize(688, 973)  # A4 without margins
        page.tab.evaluate("scrollTo({ top: 0, behavior: 'instant' })")
        written.append(_keep(page, folder / "print.png", margin=2 * MARGIN))
        page.close()
        page = browser.open(path, width=1280, height=1180, dark=True)
        page.wait_drawn()
        written.append(_keep(page, folder / "dark.png"))
        page.tab.locator(".overall .pick").first.click()
        written.append(_keep(page, folder / "law.png", "#law"))
        page.close()
        page = browser.open(path, width=360, height=1500)
        page.wait_drawn()
        written.append(_keep(page, folder / "phone.png"))
        page.close()
    return written


def _keep(page: Page, path: Path, *parts: str, point: str = "", margin: int = 0) -> Path:
    """What is in view, or all of some parts (with a point of the chart `point` read out), as a file of at most
    `LARGEST` bytes. Raises ValueError where it cannot be.
    """
    if parts:
        page.evaluate("scrollTo({ top: 0, behavior: 'instant' })")
        boxes = [box for part in parts if (box := page.tab.locator(part).bounding_box())]
        left, top = (min(box[side] for box in boxes) - MARGIN for side in ("x", "y"))
        right, foot = (max(box[a] + box[b] for box in boxes) + MARGIN for a, b in (("x", "width"), ("y", "height")))
        clip = {"x": left, "y": top, "width": right - left, "height": foot - top}
        if point:
            page.evaluate(f"(chart => chart.say(chart.targets[0][1]))(document.getElementById('{point}').chart)")
        taken = page.tab.screenshot(animations="disabled", full_page=True, clip=clip)
    else:
        taken = page.tab.screenshot(animations="disabled")
    picture = ImageOps.expand(Image.open(BytesIO(taken)).convert("RGB"), margin, "white")
    for colors in (None, 256, 128, 64):
        written = BytesIO()
        fewer = picture if colors is None else picture.quantize(colors, Image.Quantize.MAXCOVERAGE)
        fewer.save(written, "PNG", optimize=True)
        if len(written.getvalue()) <= LARGEST:
            path.write_bytes(written.getvalue())
            return path
    raise ValueError(f"{path.name}: larger than {LARGEST} bytes in 64 colours")


if __name__ == "__main__":
    for picture in take(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else FOLDER):
        print(f"{picture}  {picture.stat().st_size:,} bytes")
