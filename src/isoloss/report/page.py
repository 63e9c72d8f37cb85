"""The page: one HTML file that needs nothing from outside, with the figures and the result beside it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from isoloss.report import assets, estimates, palette
from isoloss.report import figures as drawings
from isoloss.report.plotted import plot_data
from isoloss.report.tidy import Json, plain, tidy
from isoloss.report.view import told, view

if TYPE_CHECKING:
    from jinja2 import Environment

_PATH, _DIGITS = re.compile(r' d="[^"]*"'), re.compile(r"(\.\d\d)\d+")
_PLAIN = " !$()*+,-./:;=?@[]_{|}~"


def write(result: Mapping[str, Any], folder: Path, *, figures: bool = True) -> Path:
    """Write page, figure files and `result.json` into `folder` (made if absent); the page's path."""
    shown = estimates.carried(plain(result), folder)
    whole = tidy(shown)
    drawn = drawings.draw_all(whole, pixels=figures)
    folder.mkdir(parents=True, exist_ok=True)
    if figures:
        drawings.save_all(drawn, folder / "figures")
    _replace(
        folder / "result.json",
        json.dumps(shown, indent=1, allow_nan=False, ensure_ascii=False) + "\n",
    )
    page = folder / "index.html"
    _replace(page, render(whole, drawn))
    return page


def render(whole: Json, drawn: Mapping[str, drawings.Drawn]) -> str:
    """The page of a tidy result as HTML text, `drawn` being its static figures."""
    from markupsafe import Markup

    seen = view(whole)
    planned = ["planner"] * bool(seen["planner"])
    scripts = ["scales.js", "charts.js", "specs.js", "page.js", *(f"{name}.js" for name in planned)]
    sheets = ["page.css", *(f"{name}.css" for name in planned)]
    script = "\n".join(map(assets.text, scripts))
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            **seen,
            static={name: _data_uri(figure.svg) for name, figure in drawn.items()},
            style=Markup(palette.css() + "".join(map(assets.text, sheets))),
            script=Markup(script),
            data=Markup(assets.embed_json(plot_data(whole))),
            script_hash=assets.script_hash(script),
        )
    )


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("isoloss.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["told"] = told
    return environment


def _data_uri(svg: str) -> str:
    """A figure as the source of an image, exact to a hundredth of a point: about half of base64 of the file."""
    short = _PATH.sub(lambda path: _DIGITS.sub(r"\1", path.group()), svg)
    return f"data:image/svg+xml,{quote(' '.join(short.split()), safe=_PLAIN)}"


def _replace(path: Path, text: str) -> None:
    """Write a whole file or none: a reader never sees half a page."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
