"""The page: one HTML file that needs nothing from outside, with the figures and the result beside it."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoloss.report import assets, estimates
from isoloss.report import figures as drawings
from isoloss.report.tidy import Json, plain, tidy
from isoloss.report.view import plot_data, view

if TYPE_CHECKING:
    from jinja2 import Environment


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

    script = assets.text("page.js")
    static = {name: _data_uri(figure.svg) for name, figure in drawn.items()}
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            **view(whole),
            static=static,
            style=Markup(assets.text("page.css")),
            script=Markup(script),
            data=Markup(assets.embed_json(plot_data(whole))),
            plotly=Markup(assets.plotly_packed()),
            script_hashes=f"{assets.script_hash(script)} {assets.script_hash(assets.plotly_js())}",
        )
    )


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("isoloss.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _data_uri(svg: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def _replace(path: Path, text: str) -> None:
    """Write a whole file or none: a reader never sees half a page."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
