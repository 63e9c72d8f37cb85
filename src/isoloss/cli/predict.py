"""``isoloss predict``: the loss at planned values, and the best (N, D) for a compute budget."""

from __future__ import annotations

import math
from pathlib import Path
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
    Request,
    X,
    Y,
    check_level,
    clean,
    numbers,
    read_request,
    solvable,
)
from isoloss.cli.options import Json, show
from isoloss.recipe.errors import StudyError


def predict(
    source: Annotated[
        Path,
        typer.Argument(metavar="POINTS|FIT.json", help="Table of points, or a saved fit.", show_default=False),
    ],
    at: Annotated[list[str] | None, typer.Option("--at", help="Values, for instance N=1e10,D=2e11; repeat it.")] = None,
    budget: Annotated[
        list[float] | None,
        typer.Option("--compute", help="Compute budget in FLOPs: best N and D; repeat it."),
    ] = None,
    law: Law = "chinchilla",
    x: X = "",
    y: Y = "",
    column: Column = None,
    flops: Flops = "",
    drop_largest: Drop = 0,
    pin: Pin = None,
    cluster: Cluster = "",
    arm: Arm = "",
    level: Annotated[float, typer.Option("--level", help="Level of the intervals.")] = 0.9,
    by: Annotated[str, typer.Option("--by", help="Column along which past forecasts calibrate the band.")] = "",
    json: Json = False,
) -> None:
    """Predict the loss at planned values, or the best size and data for a compute budget."""
    if not at and not budget:
        raise StudyError("predict: say where, --at N=1e10,D=2e11 or --compute 1e22")
    check_level(level)
    targets = [numbers([text], "--at", positive=True) for text in at or []]
    for value in budget or []:
        if not (math.isfinite(value) and value > 0):
            raise StudyError(f"--compute: found {value:g}; allowed: a positive number of FLOPs")
    if source.suffix == ".json":
        rows = _from_saved(source, targets, budget or [])
    else:
        reading: dict[str, Any] = {"x": x, "y": y, "column": column, "flops": flops, "drop_largest": drop_largest}
        request = read_request(source, [law], pin=pin, cluster=cluster, arm=arm, **reading)
        targets = [{request.name(name): value for name, value in target.items()} for target in targets]
        with solvable(law):
            rows = _from_points(request, law, targets, budget or [], level, request.name(by))
    if json:
        show(clean({"level": level, "predictions": rows}))
        return
    _print(rows, level)


def _from_saved(path: Path, targets: list[dict[str, float]], budgets: list[float]) -> list[dict[str, Any]]:
    from isoloss import laws

    saved = laws.load_fit(path)
    rows: list[dict[str, Any]] = []
    for target in targets:
        try:
            value = saved.predict(**target)
        except laws.LawError as error:
            raise StudyError(f"--at: {error}") from None
        rows.append({**target, "predicted": value})
    for budget in budgets:
        _allocates(saved.form)
        best = saved.optimum(budget)
        rows.append({"C": budget, "N": float(best["N"]), "D": float(best["D"]), "predicted": float(best["loss"])})
    return rows


def _allocates(form: Any) -> None:
    from isoloss.laws import LawError
    from isoloss.laws.allocation import allocates

    try:
        allocates(form, {})
    except LawError as error:
        raise StudyError(f"--compute: {error}; use --at") from None


def _from_points(
    request: Request,
    law: str,
    targets: list[dict[str, float]],
    budgets: list[float],
    level: float,
    by: str,
) -> list[dict[str, Any]]:
    from isoloss import laws
    from isoloss.laws.allocation import flops_ratio
    from isoloss.laws.validate import calibrate_fit

    table, options = request.points, request.options
    result = laws.fit(table, law, **options)
    columns = list(result.problem.columns.values())
    scale = by or ("C" if "C" in table and set(columns) <= {"N", "D", "C", "M"} else columns[-1])
    rows: list[dict[str, Any]] = []
    for target in targets:
        given = {**target}
        if "C" in table and "C" not in given and {"N", "D"} <= set(given):
            # The table's own ratio of C to N D: what its FLOPs were counted as.
            given["C"] = float(given["N"] * given["D"] * flops_ratio(table))
        if "M" in columns and "M" not in given and {"N", "D"} <= set(given):
            given["M"] = given["D"] / given["N"]
        missing = [name for name in columns if name not in given]
        if missing:
            raise StudyError(f"--at: give {' and '.join(missing)} too (law {law!r} predicts from {', '.join(columns)})")
        if scale not in given:
            raise StudyError(f"--at: give {scale} too (the band grows along it), or name another column with --by")
        place = laws.Points(**{name: [value] for name, value in given.items()})
        calibration = calibrate_fit(table, result, scale, options)
        low, middle, high = laws.forecast(result, place, scale, calibration, level)
        sizes = [scale, *(name for name in ("N", "D", "C") if name in given and name in table and name != scale)]
        beyond = {f"times_largest_{name}": given[name] / float(table.numbers(name).max()) for name in sizes}
        rows.append(
            {
                **target,
                "predicted": float(middle[0]),
                "low": float(low[0]),
                "high": float(high[0]),
                **beyond,
            }
        )
    if budgets:
        _allocates(result.form)
        draws = result.bootstrap(500)
        for budget in budgets:
            best = laws.optimum_intervals(draws, budget, level)
            row: dict[str, Any] = {"C": budget}
            for name, key in (("N", "N"), ("D", "D"), ("loss", "predicted")):
                row |= {
                    key: best[name].estimate,
                    f"{name}_low": best[name].low,
                    f"{name}_high": best[name].high,
                }
            rows.append(row)
    return rows


def _print(rows: list[dict[str, Any]], level: float) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for row in rows:
        table = Table(show_edge=False, show_header=False)
        for name, value in row.items():
            table.add_row(name, f"{value:.6g}")
        console.print(table)
    if any("low" in row or "N_low" in row for row in rows):
        console.print(
            f"{level:.0%} intervals: cluster bootstrap; for --at also the errors of earlier forecasts, "
            "growing with the largest distance over N, D and C"
        )
