"""``isoloss compare``: two studies side by side, or several laws on one table of points."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from isoloss.cli.forms import Arm, Cluster, Column, Drop, Flops, Pin, X, Y
from isoloss.cli.options import Json, beside, show


def compare(
    first: Annotated[Path, typer.Argument(help="A study file, or a table of points.", show_default=False)],
    second: Annotated[Path | None, typer.Argument(help="Another study file.", show_default=False)] = None,
    law: Annotated[list[str] | None, typer.Option("--law", help="A law for a table of points; repeat it.")] = None,
    holdout: Annotated[
        str, typer.Option("--holdout", help="Points: the scale whose largest values are held out.")
    ] = "",
    x: X = "",
    y: Y = "",
    column: Column = None,
    flops: Flops = "",
    drop_largest: Drop = 0,
    pin: Pin = None,
    cluster: Cluster = "",
    arm: Arm = "",
    json: Json = False,
) -> None:
    """Compare two finished studies run by run, or laws on one table by their held-out score."""
    from isoloss.recipe.errors import StudyError

    if second is None:
        if first.suffix in (".yaml", ".yml"):
            raise StudyError(
                "compare: one study is not enough; give a second study file, or a table of points with --law"
            )
        from isoloss.cli.forms import compare_forms

        reading: dict[str, Any] = {"x": x, "y": y, "column": column, "flops": flops, "drop_largest": drop_largest}
        compare_forms(first, law=law or [], json=json, by=holdout, pin=pin, cluster=cluster, arm=arm, **reading)
        return
    from rich.console import Console

    import isoloss
    from isoloss.worth.studies import compare_studies

    pair = [isoloss.results(path, beside(path, None, ".store")) for path in (first, second)]
    found = compare_studies(*pair)
    if json:
        show(found.to_dict())
    else:
        Console().print(found.table())
