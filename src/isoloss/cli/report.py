"""``isoloss report``: the page again from the store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from isoloss.cli.options import (
    Json,
    NoShare,
    Out,
    StorePath,
    Threads,
    Under,
    beside,
    command_line,
    show,
    write_page,
)


def report(
    study: Annotated[
        Path, typer.Argument(help="Study file (YAML), or a folder that isoloss import wrote.", show_default=False)
    ],
    store: StorePath = None,
    under: Under = None,
    out: Out = None,
    threads: Threads = 1,
    no_share: NoShare = False,
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="Imported runs: the arm that the others are compared with.")
    ] = None,
    json: Json = False,
) -> None:
    """Write the page from what the store has, or from imported runs; train nothing."""
    from rich.console import Console

    import isoloss
    from isoloss import report as room
    from isoloss.recipe.errors import StudyError

    answer: dict[str, Any]
    if study.is_dir():
        from isoloss.bridges.imported import load

        for option, given in (("--store", store), ("--under", under), ("--no-share", no_share)):
            if given:
                raise StudyError(f"{option}: found with imported runs; allowed: with a study file")
        answer = load(study).answer(baseline, command_line())
    elif not study.exists():
        raise StudyError(f"{study}: there is no such study file or folder of imported runs")
    elif baseline is not None:
        raise StudyError(f"--baseline: found with {study}; allowed: with imported runs (a study names its own)")
    else:
        results = isoloss.results(
            study, beside(study, store, ".store"), under=under or (), threads=threads, share=not no_share
        )
        answer = results.answer(command_line())
    page = write_page(room.write, answer, beside(study, out, ".report"))
    if json:
        show(answer)
    else:
        Console().print(room.terminal(answer, page))
