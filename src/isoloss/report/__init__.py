"""The page and the short answer of a finished study, both made from one plain result dict (schema 1).

Nothing heavy is imported here: plotly, matplotlib, jinja2 and rich load with the first call.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoloss.recipe.callable import make_callable

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["terminal", "write"]


def write(result: Mapping[str, Any], folder: str | Path, *, figures: bool = True) -> Path:
    """Write `index.html`, `result.json` and `figures/*.svg|png` into `folder`; the page's path is returned.

    `figures=False` leaves out the figure files (the page keeps its inline ones). Raises ValueError where
    `result` is no result of schema 1, OSError where the folder cannot be written.
    """
    from isoloss.report.page import write as write_page

    return write_page(result, Path(folder), figures=figures)


def terminal(result: Mapping[str, Any], page: str | Path | None = None) -> RenderableType:
    """The short answer for a terminal of 80 columns or more: headline, worth, sharing, caveats, the page.

    Raises ValueError where `result` is no result of schema 1.
    """
    from isoloss.report.console import render

    return render(result, page)


make_callable(__name__, "write")
