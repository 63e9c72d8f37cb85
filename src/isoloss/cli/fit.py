"""``isoloss fit``: a law on anybody's table, with intervals, a held-out check and one page."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isoloss.cli.forms import (
    Cluster,
    Column,
    Drop,
    Flops,
    Law,
    Pin,
    PointsFile,
    Request,
    X,
    Y,
    check_level,
    clean,
    read_request,
    scale_and_share,
    solvable,
)
from isoloss.cli.options import Json, show
from isoloss.recipe.errors import StudyError

if TYPE_CHECKING:
    from isoloss.laws import Draws, Fit, Holdout, Points


def fit(
    points: PointsFile,
    law: Law = "chinchilla",
    x: X = "",
    y: Y = "",
    column: Column = None,
    flops: Flops = "",
    drop_largest: Drop = 0,
    loss: Annotated[
        str, typer.Option("--loss", help="huber, l1, squared or lower-envelope; default huber.", show_default=False)
    ] = "",
    delta: Annotated[float | None, typer.Option("--delta", help="Huber width in log loss; default 1e-3.")] = None,
    pin: Pin = None,
    cluster: Cluster = "",
    bootstrap: Annotated[int, typer.Option("--bootstrap", min=0, help="Resamples; 0: none.")] = 1000,
    level: Annotated[float, typer.Option("--level", help="Level of the intervals.")] = 0.9,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the resamples.")] = 0,
    holdout: Annotated[
        str, typer.Option("--holdout", help="Also hold out the largest scale of a column: C, N, D, or C:0.3.")
    ] = "",
    report: Annotated[Path | None, typer.Option("--report", help="Write one HTML page here.")] = None,
    save: Annotated[Path | None, typer.Option("--save", help="Write the fit as JSON, for predict.")] = None,
    json: Json = False,
) -> None:
    """Fit a law to a table of points."""
    check_level(level)
    reading: dict[str, Any] = {"x": x, "y": y, "column": column, "flops": flops, "drop_largest": drop_largest}
    request = read_request(points, [law], pin=pin, cluster=cluster, **reading)
    table = request.points
    options = request.options | {"delta": delta} | ({"loss": loss} if loss else {})
    with solvable(law):
        _fit(request, table, law, options, bootstrap, level, seed, holdout, report, save, json)


def _fit(
    request: Request,
    table: Points,
    law: str,
    options: dict[str, Any],
    bootstrap: int,
    level: float,
    seed: int,
    holdout: str,
    report: Path | None,
    save: Path | None,
    json: bool,
) -> None:
    from isoloss import laws

    result = laws.fit(table, law, **options)
    notes = table.check()
    draws, refused = None, ""
    if bootstrap:
        try:
            draws = result.bootstrap(bootstrap, seed)
        except laws.LawError as error:
            refused = str(error)
    held = None
    if holdout:
        by, top = scale_and_share(holdout)
        held = laws.holdout(table, law, by=request.name(by), top=top, level=level, seed=seed, **options)
    try:
        if save:
            save.parent.mkdir(parents=True, exist_ok=True)
            save.write_text(json_module.dumps(_saved(result), indent=2) + "\n", encoding="utf-8")
        if report:
            from isoloss.report.law_page import write_law_page

            report = write_law_page(result, report, draws=draws, holdout=held, level=level)
    except OSError as error:
        raise StudyError(f"cannot write {error.filename or report}: {error.strerror}") from None
    if json:
        show(clean(_plain(result, draws, held, notes, refused, level)))
        return
    _print(result, draws, held, notes, refused, level)
    for path in filter(None, (save, report)):
        print(f"wrote {path}")


def _saved(result: Fit) -> dict[str, Any]:
    """The fit in plain numbers, with k of C = k N D so that allocation needs no table."""
    from isoloss.laws.allocation import flops_ratio

    return result.to_dict() | {"flops_per_nd": flops_ratio(result.points)}


def _plain(
    result: Fit, draws: Draws | None, held: Holdout | None, notes: list[str], refused: str, level: float
) -> dict[str, Any]:
    plain = _saved(result) | {"checks": notes}
    if draws is not None:
        names = [*result.form.names, *result.form.derived()]
        plain["intervals"] = {name: list(draws.interval(name, level)) for name in names}
        plain["level"] = level
        plain["bootstrap"] = {
            "draws": len(draws),
            "clusters": draws.clusters,
            "unit": draws.unit,
            "failed": draws.failed,
            "at_bound": draws.at_bound,
        }
    if refused:
        plain["intervals_refused"] = refused
    if held is not None:
        plain["holdout"] = held.to_dict()
    return plain


def _print(
    result: Fit, draws: Draws | None, held: Holdout | None, notes: list[str], refused: str, level: float
) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    d = result.diagnosis
    console.print(f"[bold]{result.form.name}[/]  {result.form.formula}")
    console.print(
        f"{len(result.points)} rows, "
        f"{', '.join(f'{name} over {span:.2f} decades' for name, span in d.decades.items())}; "
        f"sum of {result.loss.kind} {result.objective:.8g} at delta {result.loss.delta:g}, {d.inside:.0%} "
        "of rows inside; "
        f"rmse {result.rmse:.4f}"
    )
    table = Table(show_edge=False)
    table.add_column("quantity")
    table.add_column("value", justify="right")
    table.add_column(f"{level:.0%} interval", justify="right")
    table.add_column("")
    values = result.parameters | result.derived
    for name, value in values.items():
        between = ""
        if draws is not None and name not in result.problem.fixed:
            low, high = draws.interval(name, level)
            between = f"{low:.5g} to {high:.5g}"
        note = "pinned" if name in result.problem.fixed else d.active.get(name, "")
        table.add_row(name, f"{value:.8g}", between, note)
    console.print(table)
    if draws is not None:
        console.print(f"intervals: {len(draws)} resamples of {draws.clusters} clusters by {draws.unit}")
    if refused:
        console.print(f"[yellow]{refused}[/]")
    console.print(
        f"solver: {'converged' if result.converged else 'NOT CONVERGED'}, {len(result.minima)} distinct "
        "minima, "
        f"relative gradient {result.gradient:.1e}"
    )
    for text in dict.fromkeys([*result.warnings, *notes]):
        console.print(f"[yellow]note:[/] {text}")
    if held is not None:
        others = ", ".join(f"{name} {value:.4f}" for name, value in held.baselines.items())
        console.print(
            f"hold-out: {len(held.rows)} rows with {held.by} above {held.threshold:.4g}: rmse "
            f"{held.rmse:.4f} (bias "
            f"{held.bias:+.4f}), {held.coverage:.0%} inside the {held.level:.0%} band; baselines {others}"
        )
