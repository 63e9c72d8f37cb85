"""What the law commands share: reading a table, and `isoloss compare` for several laws on one table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isoloss.cli.options import show
from isoloss.recipe.errors import StudyError, nearest

if TYPE_CHECKING:
    from isoloss.laws import Form, Points

PointsFile = Annotated[
    Path,
    typer.Argument(
        metavar="POINTS", help="Table of points (.csv .tsv .jsonl .parquet), or an import's folder.", show_default=False
    ),
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
Arm = Annotated[str, typer.Option("--arm", help="Only rows of this arm, of a table that has several.")]
Cluster = Annotated[str, typer.Option("--cluster", help="Column whose rows are resampled as one unit.")]
Pin = Annotated[
    list[str] | None, typer.Option("--pin", help="NAME=VALUE of a parameter that is not fitted; repeat it.")
]


@dataclass(frozen=True)
class Request:
    """A table and how to fit it. headers: our name of every header; options: keywords of `laws.fit`."""

    points: Points
    headers: dict[str, str]
    options: dict[str, Any]

    def name(self, text: str) -> str:
        """A column by our name or by the header it had in the file."""
        return text if text in self.points else self.headers.get(text, text)


def read_request(
    path: Path,
    names: Sequence[str],
    *,
    x: str = "",
    y: str = "",
    column: Sequence[str] | None = None,
    flops: str = "",
    drop_largest: int = 0,
    pin: Sequence[str] | None = None,
    cluster: str = "",
    arm: str = "",
) -> Request:
    """The table and its fit options, checked for what the laws `names` need.

    `path`: a table, or a folder that `isoloss import` wrote. Headers are renamed, a missing D or C comes from the named
    convention, largest losses are dropped. Raises StudyError.
    """
    from isoloss.laws import Points, get_form
    from isoloss.laws.readers import read_columns

    renames = pairs(column, "--column")
    for ours in [name for name, _ in renames]:
        if sum(name == ours for name, _ in renames) > 1:
            raise StudyError(f"--column: {ours} is given twice")
    columns, headers = read_columns(_table(path), dict(renames))
    points = _of_arm(Points(**columns), arm, path)
    if flops and "D" not in points:
        points = points.with_tokens(flops)
    elif flops and "C" not in points:
        points = points.with_compute(flops)
    found = Request(points, headers, {})
    x, y, cluster = (found.name(text) for text in (x, y, cluster))
    forms = [get_form(name) for name in names]
    if drop_largest:
        points = points.drop_largest_loss(drop_largest, y or _response(forms[0] if forms else None, points))
    if cluster:
        points.clusters(cluster)
    fixed = numbers(pin, "--pin")
    for form in forms:
        _suits(form, points, x, y)
    return Request(points, headers, {"x": x or None, "y": y or None, "fixed": fixed, "cluster": cluster or None})


def _table(path: Path) -> Path:
    """The file of a table; of an imported folder, its points as they were imported."""
    if not path.is_dir():
        return path
    from isoloss.bridges.imported import load

    return load(path).table


def _of_arm(points: Points, arm: str, path: Path) -> Points:
    """Rows of one arm. An import of several is asked for one, as a law over all would mix them."""
    if not arm and not path.is_dir():
        return points
    from isoloss.bridges.table import label

    if "arm" not in points:
        if arm:
            raise StudyError(f"--arm: {path} has no column arm; it has {', '.join(points.columns)}")
        return points
    names = [label(name) for name in points.column("arm").tolist()]
    arms = list(dict.fromkeys(names))
    if not arm and len(arms) > 1:
        raise StudyError(
            f"{path} has the arms {', '.join(arms)}, and one law over all of them would mix them: say --arm {arms[0]}"
        )
    if arm and arm not in arms:
        raise StudyError(f"--arm: found {arm!r}; allowed: {', '.join(arms)}{nearest(arm, arms)}")
    return points.where([name == (arm or arms[0]) for name in names])


def _response(form: Form | None, points: Points) -> str:
    return form.response if form is not None and form.response in points else "loss"


def _suits(form: Form, points: Points, x: str, y: str) -> None:
    """Refuse, in words of the command line, what the library would refuse in words of Python."""
    import numpy as np

    has = f"the table has {', '.join(points.columns)}"
    if "x" in form.variables and not x and sum(name in points for name in ("D", "N", "C", "S", "x")) != 1:
        raise StudyError(f"law {form.name!r} has one variable: say which column, for instance --x D ({has})")
    response = y or _response(form, points)
    if response not in points and not y:
        raise StudyError(f"law {form.name!r} predicts {form.response!r}: name its column with --y ({has})")
    for name in dict.fromkeys([*(x if v == "x" and x else v for v in form.variables), response]):
        if name in points:
            bad = np.flatnonzero(~np.isfinite(points.numbers(name)))
            if len(bad):
                raise StudyError(
                    f"column {name!r}, row {bad[0]}: missing or not finite ({len(bad)} such rows); take them out of "
                    "the file"
                )


def check_level(level: float) -> None:
    """Refuse a level of intervals outside (0, 1). Raises StudyError."""
    if not 0 < level < 1:
        raise StudyError(f"--level: found {level:g}; allowed: a number between 0 and 1, for instance 0.9")


@contextmanager
def solvable(law: str) -> Iterator[None]:
    """One message where a degenerate fit has derived quantities without a finite value."""
    try:
        yield
    except ArithmeticError as error:
        raise StudyError(
            f"law {law!r} does not describe these rows: its parameters have no finite derived quantities ({error}); "
            "does the response vary, and fall with scale?"
        ) from None


def pairs(given: Sequence[str] | None, option: str) -> list[tuple[str, str]]:
    """NAME=VALUE options as pairs. Raises StudyError."""
    found = []
    for text in given or []:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise StudyError(f"{option}: found {text!r}; allowed: NAME=VALUE")
        found.append((name.strip(), value.strip()))
    return found


def numbers(given: Sequence[str] | None, option: str, positive: bool = False) -> dict[str, float]:
    """NAME=NUMBER options, several by comma. Raises StudyError, also for what is not finite (or positive)."""
    split = [part for text in given or [] for part in text.split(",")]
    found = {}
    for name, value in pairs(split, option):
        try:
            found[name] = float(value)
        except ValueError:
            raise StudyError(f"{option}: {name}={value!r} is not a number") from None
        if not math.isfinite(found[name]) or (positive and found[name] <= 0):
            raise StudyError(f"{option}: {name}={value}; allowed: a {'positive ' if positive else ''}finite number")
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
    **reading: Any,
) -> None:
    """Rank laws by rolling-origin error on fit rows, with each one's score on the held-out largest scale.

    Without `law`, those that suit the table's columns. `by` may carry a share: C:0.3. reading: keywords of
    `read_request`. Raises StudyError.
    """
    from rich.console import Console
    from rich.table import Table

    from isoloss.laws import compare

    if law and not reading.get("x"):
        # A law of one variable runs along the scale that is held out.
        scale, top = scale_and_share(by or largest_scale(read_request(points, (), **reading).points))
        reading["x"] = scale
    request = read_request(points, law, **reading)
    table = request.points
    scale, top = scale_and_share(by or largest_scale(table))
    scale = request.name(scale)
    names = list(law) or _suitable(table)
    options = request.options | {"x": request.options["x"] or scale}
    with solvable(names[0]):
        result = compare(table, names, by=scale, top=top, **options)
    if json:
        show(clean({"by": result.by, "best": result.best, "ranking": result.ranking}))
        return
    shown = Table(
        title=f"laws ranked by rolling origin over {result.by} (fit rows only); hold-out scored afterwards",
        show_edge=False,
    )
    for heading in ("law", "free", "rolling", "held-out", "bias", "inside", "band"):
        shown.add_column(heading, justify="left" if heading == "law" else "right", no_wrap=True, overflow="fold")
    for row in result.ranking:
        if "failed" in row:
            shown.add_row(row["law"], "", "-", "-")
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
    console = Console(highlight=False)
    console.print(shown)
    console.print("rolling and held-out: rmse of log loss; inside and band (median width): of the 90% band")
    for row in result.ranking:
        if "failed" in row:
            console.print(f"[yellow]note:[/] {row['law']}: {row['failed']}")
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
