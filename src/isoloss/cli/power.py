"""``isoloss advise power``: the smallest worth that a study's design resolves, from pilot seeds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from isoloss.cli.options import Json, StorePath, StudyFile, Threads, Under, beside, show
from isoloss.recipe.errors import StudyError

if TYPE_CHECKING:
    from isoloss.worth.power import Power


def power(
    study: StudyFile,
    pilot: Annotated[int, typer.Option("--pilot", help="How many of the first seeds to judge by.")] = 2,
    worth: Annotated[float, typer.Option("--worth", help="The worth in data that is to be resolved.")] = 1.1,
    store: StorePath = None,
    under: Under = None,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """What the study's seeds can tell apart, and how many would resolve a given worth."""
    from rich.console import Console
    from rich.table import Table

    import isoloss
    from isoloss.worth.power import power as resolved

    results = isoloss.results(study, beside(study, store, ".store"), under=under or (), threads=threads)
    try:
        rows = resolved(results, pilot, worth)
    except ValueError as error:
        raise StudyError(str(error)) from None
    if json:
        show([row.to_dict() for row in rows])
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("arm", "noise of log loss", "slope", "spread of log worth", "resolves", f"seeds for {worth:g}x"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for row in rows:
        table.add_row(*cells(row))
    console = Console()
    console.print(table)
    if rows:
        first = rows[0]
        console.print(
            f"From seeds {', '.join(first.pilot)}: the smallest worth in data at one size that {first.seeds} seeds "
            "tell from 1x, by a 90 % interval.",
            highlight=False,
        )


def cells(row: Power) -> list[str]:
    """A row of the table."""

    def number(value: float) -> str:
        return f"{value:.4f}" if math.isfinite(value) else "-"

    return [
        row.arm,
        number(row.noise),
        number(row.slope),
        number(row.spread),
        f"{row.smallest:.3f}x" if math.isfinite(row.smallest) else "needs 3 seeds",
        "over 200" if row.needed is None else str(row.needed),
    ]
