"""``isoloss store``: what is kept, is it whole, what can go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isoloss.cli.options import Json, show

app = typer.Typer(no_args_is_help=True, help="What a store keeps: list, verify, collect garbage, export.")
Folder = Annotated[Path, typer.Argument(help="Folder of the store.", show_default=False)]
