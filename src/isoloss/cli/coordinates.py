"""``isoloss coordinates``: whether one learning rate serves all widths of a study's model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isoloss.cli.options import Json, StudyFile, Threads, show


def coordinates(
    study: StudyFile,
    widths: Annotated[str, typer.Option("--widths", help="Widths, with commas between.")] = "32,64,128,256",
    steps: Annotated[int, typer.Option("--steps", min=1, help="Updates before the outputs are compared.")] = 4,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Seeds to take means over.")] = 1,
    arm: Annotated[str | None, typer.Option("--arm", help="Whose model; default: the baseline's.")] = None,
    lr: Annotated[
        float | None, typer.Option("--lr", help="Learning rate at the base width; default: the study's.")
    ] = None,
    base_width: Annotated[
        int | None, typer.Option("--base-width", min=1, help="Base of muP; default: the study's, or the smallest.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the figure here: NAME.svg or NAME.png.")] = None,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Coordinate check: how far each layer's outputs move in a few updates, against width, with and without muP."""
    from rich.console import Console

    from isoloss.execute.coordinates import coordinates as check
    from isoloss.plan.summary import as_study, on_path
    from isoloss.recipe.errors import StudyError
    from isoloss.report import coordinates as room

    try:
        sizes = [int(width) for width in widths.split(",")]
    except ValueError:
        raise StudyError(f"--widths: found {widths!r}; allowed: whole numbers with commas, as 32,64,128") from None
    made = as_study(study)
    with on_path(made):
        found = check(made, sizes, steps=steps, seeds=seeds, arm=arm, lr=lr, base_width=base_width, threads=threads)
    if out is not None:
        room.save(found, out)
    if json:
        show([each.to_dict() for each in found])
        return
    Console(highlight=False).print(room.table(found))
    if out is not None:
        print(f"figure: {out}")
