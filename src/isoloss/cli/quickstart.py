"""``isoloss quickstart``: the whole way on the embedded default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isoloss.cli.options import Budget, Json, NoShare, On, Workers


def quickstart(
    folder: Annotated[Path, typer.Option("--folder", help="Where study, store and page go.")] = Path("quickstart"),
    workers: Workers = 0,
    budget: Budget = None,
    on: On = "local",
    no_share: NoShare = False,
    json: Json = False,
) -> None:
    """Train, fit, compare and report the shipped study on real text, in a few minutes on two CPU cores."""
    from importlib.resources import files

    from isoloss.cli.run import run
    from isoloss.recipe.errors import StudyError

    study = folder / "quickstart.yaml"
    shipped = files("isoloss") / "studies" / "quickstart.yaml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not study.exists():
            study.write_bytes(shipped.read_bytes())
    except OSError as error:
        raise StudyError(f"--folder: cannot write to {folder}: {error.strerror or error}") from error
    run(study, workers=workers, budget=budget, on=on, no_share=no_share, json=json)
