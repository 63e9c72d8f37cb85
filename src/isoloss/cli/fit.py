"""``isoloss fit``: a law on anybody's table, with intervals, a held-out check and one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    arm: Arm = "",
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
    request = read_request(points, [law], pin=pin, cluster=cluster, arm=arm, **reading)
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
            draws.refuse_unusable()
        except laws.LawError as error:
            draws, refused = None, str(error)
    held = None
    if holdout:
        by, top = scale_and_share(holdout)
        held = laws.holdout(table, law, by=request.name(by), top=top, level=level, seed=seed, **options)
    try:
        if save:
            result.save(save, draws)
        if report:
            from isoloss.report.law_page import write_law_page

            report = write_law_page(result, report, draws=draws, holdout=held, level=level, refused=refused)
    except OSError as error:
        raise StudyError(f"cannot write {error.filename or report}: {error.strerror}") from None
    if json:
        show(clean(_plain(result, draws, held, notes, refused, level)))
        return
    _print(result, draws, held, notes, refused, level)
    for path in filter(None, (save, report)):
        print(f"wrote {path}")


def _plain(
    result: Fit, draws: Draws | None, held: Holdout | None, notes: list[str], refused: str, level: float
) -> dict[str, Any]:
    plain = result.to_dict() | {"checks": notes}
    if draws is not None:
        names = [*result.form.names, *result.form.derived()]
        intervals = {name: draws.interval(name, level) for name in names}
        plain["intervals"] = {name: list(one) for name, one in intervals.items()}
        plain["interval_notes"] = {name: one.note for name, one in intervals.items() if one.note}
        plain["identification"] = draws.identification(level)
        plain["level"] = level
        plain["bootstrap"] = {
            "draws": len(draws),
            "clusters": draws.clusters,
            "unit": draws.unit,
            "failed": draws.failed,
            "redrawn": draws.redrawn,
            "at_bound": draws.at_bound,
            "notes": draws.notes,
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
        between, note = "", "pinned" if name in result.problem.fixed else d.active.get(name, "")
        if draws is not None and name not in result.problem.fixed:
            found = draws.interval(name, level)
            between = f"{found.low:.5g} to {found.high:.5g}"
            note = "; ".join(filter(None, (note, found.note)))
        table.add_row(name, f"{value:.8g}", between, note)
    console.print(table)
    if draws is not None:
        console.print(
            f"intervals: {len(draws)} resamples of {draws.clusters} clusters by {draws.unit}, {draws.failed} failed, "
            f"{draws.redrawn} drawn again; {draws.identification(level)}"
        )
    if refused:
        console.print(f"[yellow]{refused}[/]")
    console.print(
        f"solver: {'converged' if result.converged else 'NOT CONVERGED'}, {len(result.minima)} distinct "
        "minima, "
        f"relative gradient {result.gradient:.1e}"
    )
    for text in dict.fromkeys([*result.warnings, *(draws.notes if draws is not None else ()), *notes]):
        console.print(f"[yellow]note:[/] {text}")
    if held is not None:
        others = ", ".join(f"{name} {value:.4f}" for name, value in held.baselines.items())
        console.print(
            f"hold-out: {len(held.rows)} rows with {held.by} above {held.threshold:.4g}: rmse "
            f"{held.rmse:.4f} (bias "
            f"{held.bias:+.4f}), {held.coverage:.0%} inside the {held.level:.0%} band; baselines {others}"
        )
