"""What the law commands share: reading a table, and `isoloss compare` for several laws on one table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isoloss.cli.options import show
from isoloss.recipe.errors import StudyError

if TYPE_CHECKING:
    from isoloss.laws import Points

PointsFile = Annotated[
    Path,
    typer.Argument(metavar="POINTS", help="Table of points: .csv, .tsv, .jsonl or .parquet.", show_default=False),
]
Law = Annotated[str, typer.Option("--law", help="Name of the law; a wrong name lists them all.")]
X = Annotated[str, typer.Option("--x", help="Column of a one-variable law, for instance D.")]
Y = Annotated[str, typer.Option("--y", help="Response column; default: loss, or what the law predicts.")]
Column = Annotated[
    list[str] | None, typer.Option("--column", help="OURS=HEADER, for instance N='Model Size'; repeat it.")
]
Flops = Annotated[
    str,
    typer.Option("--flops", help="FLOP convention that gives D from C and N, or C from N and D: 6ND, palm ..."),
]
Drop = Annotated[int, typer.Option("--drop-largest", min=0, help="Leave out this many rows of largest loss.")]
Cluster = Annotated[str, typer.Option("--cluster", help="Column whose rows are resampled as one unit.")]
Pin = Annotated[
    list[str] | None, typer.Option("--pin", help="NAME=VALUE of a parameter that is not fitted; repeat it.")
]


def read_points(path: Path, column: Sequence[str] | None, flops: str, drop: int) -> Points:
    """The table: headers renamed, missing D or C derived by the named convention, largest losses dropped."""
    from isoloss.laws import Points

    points = Points.read(path, dict(pairs(column, "--column")))
    if flops and "D" not in points:
        points = points.with_tokens(flops)
    elif flops and "C" not in points:
        points = points.with_compute(flops)
    return points.drop_largest_loss(drop) if drop else points


def pairs(given: Sequence[str] | None, option: str) -> list[tuple[str, str]]:
    """NAME=VALUE options as pairs. Raises StudyError."""
    found = []
    for text in given or []:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise StudyError(f"{option}: found {text!r}; allowed: NAME=VALUE")
        found.append((name.strip(), value.strip()))
    return found


def numbers(given: Sequence[str] | None, option: str) -> dict[str, float]:
    """NAME=NUMBER options, several by comma. Raises StudyError."""
    split = [part for text in given or [] for part in text.split(",")]
    found = {}
    for name, value in pairs(split, option):
        try:
            found[name] = float(value)
        except ValueError:
            raise StudyError(f"{option}: {name}={value!r} is not a number") from None
    return found


def clean(value: Any) -> Any:
    """Plain JSON values: numpy scalars as numbers, what is not finite as null."""
    if isinstance(value, dict):
        return {str(name): clean(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if hasattr(value, "tolist"):
        return clean(value.tolist())
    return float(value) if math.isfinite(value) else None


def compare_forms(
    points: Path,
    law: Sequence[str] = (),
    json: bool = False,
    by: str = "",
    x: str = "",
    column: Sequence[str] | None = None,
    flops: str = "",
    drop_largest: int = 0,
) -> None:
    """Rank laws by rolling-origin error on fit rows, with each one's score on the held-out largest scale.

    Without `law`, those that suit the table's columns. `by` may carry a share: C:0.3. Raises StudyError.
    """
    from rich.console import Console
    from rich.table import Table

    from isoloss.laws import compare

    table = read_points(points, column, flops, drop_largest)
    scale, top = scale_and_share(by or largest_scale(table))
    names = list(law) or _suitable(table)
    result = compare(table, names, by=scale, top=top, x=x or scale)
    if json:
        show(clean({"by": result.by, "best": result.best, "ranking": result.ranking}))
        return
    shown = Table(title=f"laws ranked by rolling origin over {result.by} (fit rows only); hold-out scored afterwards")
    for heading in (
        "law",
        "parameters",
        "rolling rmse",
        "held-out rmse",
        "bias",
        "coverage",
        "band (median)",
    ):
        shown.add_column(heading, justify="left" if heading == "law" else "right")
    for row in result.ranking:
        if "failed" in row:
            shown.add_row(row["law"], "", "-", "-", "", "", row["failed"][:60])
            continue
        shown.add_row(
            row["law"],
            str(row["parameters"]),
            f"{row['rolling_rmse']:.4f}",
            f"{row['holdout_rmse']:.4f}",
            f"{row['holdout_bias']:+.4f}",
            f"{row['coverage']:.0%}",
            f"{row['width']:.3f}",
        )
    console = Console()
    console.print(shown)
    console.print("baselines, held-out rmse: " + _baselines(result.ranking[0]["baselines"]))


def _baselines(found: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in found.items())


def largest_scale(points: Points) -> str:
    """C where the table has it, else D, N or S. Raises StudyError."""
    for name in ("C", "D", "N", "S"):
        if name in points:
            return name
    raise StudyError(f"no column to hold out by: name one with --holdout (the table has {', '.join(points.columns)})")


def scale_and_share(text: str) -> tuple[str, float | None]:
    """'C' or 'C:0.3' as a column and the share of its scales to hold out. Raises StudyError."""
    name, colon, share = text.partition(":")
    if not colon:
        return name, None
    try:
        return name, float(share)
    except ValueError:
        raise StudyError(f"--holdout: found {text!r}; allowed: a column, or COLUMN:SHARE such as C:0.3") from None


def _suitable(points: Points) -> list[str]:
    if {"N", "D", "unique"} <= set(points.columns):
        return ["chinchilla", "chinchilla-tied", "kaplan", "data-constrained-tied"]
    if {"N", "D"} <= set(points.columns):
        return ["chinchilla", "chinchilla-tied", "chinchilla-outer", "kaplan", "m2"]
    return ["m1", "m2", "m3", "shifted-power", "bnsl-1", "log-linear"]
