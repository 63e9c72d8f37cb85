"""``isoloss backtest``: how well would the law have predicted the largest scales, from several cut-offs?"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from isoloss.cli.forms import (
    Arm,
    Cluster,
    Column,
    Drop,
    Flops,
    Law,
    Pin,
    PointsFile,
    X,
    Y,
    check_level,
    clean,
    largest_scale,
    read_request,
    solvable,
)
from isoloss.cli.options import Json, show
from isoloss.recipe.errors import StudyError


def backtest(
    points: PointsFile,
    law: Law = "chinchilla",
    by: Annotated[str, typer.Option("--by", help="Scale whose largest values are predicted: C, N or D.")] = "",
    above: Annotated[list[float] | None, typer.Option("--above", help="Cut-off in --by; repeat it.")] = None,
    x: X = "",
    y: Y = "",
    column: Column = None,
    flops: Flops = "",
    drop_largest: Drop = 0,
    pin: Pin = None,
    cluster: Cluster = "",
    arm: Arm = "",
    level: Annotated[float, typer.Option("--level", help="Level of the band.")] = 0.9,
    json: Json = False,
) -> None:
    """Fit below several cut-offs, predict above, and report error, coverage and width beside baselines."""
    from isoloss import laws

    check_level(level)
    reading: dict[str, Any] = {"x": x, "y": y, "column": column, "flops": flops, "drop_largest": drop_largest}
    request = read_request(points, [law], pin=pin, cluster=cluster, arm=arm, **reading)
    table, options = request.points, request.options
    scale = request.name(by) or largest_scale(table)
    choices: list[dict[str, Any]] = [{"above": cut} for cut in above or []]
    choices = choices or [{"top": share} for share in (0.5, 0.35, 0.2, 0.1)]
    rows: list[dict[str, Any]] = []
    reason = ""
    seen: set[float] = set()
    for choice in choices:
        try:
            with solvable(law):
                found = laws.holdout(table, law, by=scale, level=level, **choice, **options)
        except laws.LawError as error:
            reason = str(error)
            rows.append({**choice, "failed": reason})
            continue
        if not above and found.threshold in seen:
            continue  # few scales: two shares end at one cut-off
        seen.add(found.threshold)
        rows.append(
            {name: value for name, value in found.to_dict().items() if name != "rows"} | {"held_out": len(found.rows)}
        )
    if all("failed" in row for row in rows):
        raise StudyError(f"backtest: no cut-off works: {reason}")
    if json:
        show(clean({"law": law, "by": scale, "level": level, "cuts": rows}))
        return
    _print(law, scale, level, rows)


def _print(law: str, scale: str, level: float, rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{law}: fitted up to a {scale}, scored above it (log loss)", show_edge=False)
    for heading in ("up to", "fit", "rows", "rmse", "bias", f"in {level:.0%}", "band", "last", "m1"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        if "failed" in row:
            table.add_row(f"{row.get('above', row.get('top')):.3g}", "-", "-", "failed")
            continue
        table.add_row(
            f"{row['threshold']:.3g}",
            str(row["fitted_rows"]),
            str(row["held_out"]),
            f"{row['rmse']:.4f}",
            f"{row['bias']:+.4f}",
            f"{row['coverage']:.0%}",
            f"{row['width']:.3f}",
            *(f"{row['baselines'][name]:.4f}" if name in row["baselines"] else "-" for name in ("last value", "m1")),
        )
    console = Console(highlight=False)
    console.print(table)
    console.print("rmse, bias and band (median width) are of log loss; last and m1 are the baselines' rmse")
    for row in rows:
        if "failed" in row:
            console.print(f"[yellow]note:[/] {row['failed']}")
