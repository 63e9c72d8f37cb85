"""``isoloss import``: runs that were trained elsewhere as points and curves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isoloss.cli.options import Json, command_line, show
from isoloss.recipe.errors import StudyError

if TYPE_CHECKING:
    from rich.console import Console

MOST = 12
"""Notes that are printed; all of them are in the record."""


def import_(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Files or folders: tables (.csv .tsv .json .jsonl .parquet), TensorBoard event files, MLflow stores, "
            ".wandb files, trainer_state.json.",
            show_default=False,
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write, or an import to replace.")] = None,
    map_file: Annotated[
        Path | None, typer.Option("--map", help="YAML that says where N, D, arm, seed, loss ... are found.")
    ] = None,
    given: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE of the map, for instance loss=eval/loss; repeat it.")
    ] = None,
    form: Annotated[
        str, typer.Option("--format", help="wandb, mlflow, huggingface, tensorboard or table; default: what is there.")
    ] = "",
    show_only: Annotated[
        bool, typer.Option("--show", help="Write nothing: list what the sources have, and what would be taken.")
    ] = False,
    json: Json = False,
) -> None:
    """Make points and curves of runs that isoloss never trained, for fit, report and advise."""
    from rich.console import Console

    from isoloss.bridges import importing
    from isoloss.bridges.runmap import load
    from isoloss.bridges.showing import inventory

    console = Console(highlight=False, soft_wrap=True)
    chart = load(map_file, given or ())
    if show_only:
        found = inventory(*importing.gather(sources, chart, form), chart)
        show(found) if json else _inventory(found, console)
        return
    if out is None:
        raise StudyError("--out is missing: the folder to write (or --show, to see what the sources have)")
    record = importing.write(sources, out, chart, form, command_line())
    show(record) if json else _record(record, out, console)


def _inventory(found: dict[str, Any], console: Console) -> None:
    from rich.table import Table

    for source in found["sources"]:
        console.print(f"{source['source']}: {source['format']}, {source['runs']} runs", markup=False)
    names = [run["run"] for run in found["runs"]]
    console.print(f"runs: {', '.join(names[:MOST])}{f' and {len(names) - MOST} more' if len(names) > MOST else ''}\n",
                  markup=False)  # fmt: skip
    if found["settings"]:
        table = Table("setting", "runs", "values", "for instance", show_edge=False)
        for row in found["settings"]:
            table.add_row(_plain(row["name"]), str(row["runs"]), str(row["values"]), _plain(", ".join(row["examples"])))
        console.print(table, "")
    if found["series"]:
        table = Table("series", "runs", "points", "steps", "last value", show_edge=False)
        for row in found["series"]:
            ends = row["last_value"]
            values = (
                "-" if ends is None else f"{ends[0]:.4g} to {ends[1]:.4g}" if ends[0] < ends[1] else f"{ends[0]:.4g}"
            )
            values += f" ({row['not_finite']} not finite)" if row["not_finite"] else ""
            steps = "-" if row["points"] == 0 else f"{row['first_step']:g} to {row['last_step']:g}"
            steps += f" ({row['fault']})" if row["fault"] else ""
            table.add_row(_plain(row["name"]), str(row["runs"]), str(row["points"]), _plain(steps), values)
        console.print(table, "")
    table = Table("quantity", "taken from", "", show_edge=False)
    for row in found["quantities"]:
        words = {"map": "map", "usual name": "by its usual name", "unclear": "say which", "default": "by default"}
        missing = "name it" if row["name"] in ("N", "D", "loss") else ""
        table.add_row(row["name"], _plain(row["from"] or "-"), words.get(row["how"], missing))
    console.print(table)


def _record(record: dict[str, Any], out: Path, console: Console) -> None:
    from rich.table import Table

    states = Counter(run["status"] for run in record["runs"])
    done = [run for run in record["runs"] if run["status"] == "done"]
    for source in record["sources"]:
        console.print(f"{source['source']}: {source['format']}, {source['runs']} runs", markup=False)
    others = "".join(f", {count} {state}" for state, count in states.items() if state != "done")
    console.print(f"{len(done)} runs count{others}\n", markup=False)
    table = Table("arm", "runs", "seeds", "N", "D", "loss", show_edge=False)
    for arm in dict.fromkeys(run["arm"] for run in done):
        mine = [run for run in done if run["arm"] == arm]
        table.add_row(
            _plain(arm),
            str(len(mine)),
            str(len({run["seed"] for run in mine})),
            *(_span([run[name] for run in mine]) for name in ("N", "D", "loss")),
        )
    console.print(table, "")
    for quantity, source in record["taken"].items():
        console.print(f"{quantity:>10}  {source}", markup=False)
    for title, said in (("note", record["notes"]), ("warning", record["warnings"])):
        for sentence in said[:MOST]:
            console.print(f"{title}: {sentence}", markup=False)
        if len(said) > MOST:
            console.print(f"{len(said) - MOST} more {title}s in {out}/import.json", markup=False)
    for run in [run for run in record["runs"] if run["status"] not in ("done", "candidate")][:MOST]:
        console.print(f"{run['status']}: {run['run']}: {run['message']}", markup=False)
    console.print(f"\nwrote {out}; next: isoloss fit {out}, isoloss report {out} --baseline ARM", markup=False)


def _span(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)
