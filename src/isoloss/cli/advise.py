"""``isoloss advise``: what to train with a budget, and what to do next about transfer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from isoloss.cli.forms import Cluster, Column, Drop, Pin, Y, clean, numbers, read_request, solvable
from isoloss.cli.options import Json, StorePath, StudyFile, Threads, Under, beside, show
from isoloss.cli.power import power

if TYPE_CHECKING:
    from rich.console import Console

    from isoloss.worth.advise_budget import Source

HELP = """What to train with a budget, from a study, a table of points or a saved fit.

\b
  isoloss advise study.yaml --flops 1e18
  isoloss advise points.csv --hours 3 --device h100
  isoloss advise fit.json --tokens 2e9

This is `advise budget`; its options: isoloss advise budget --help."""


class Questions(TyperGroup):
    """Without the name of a question, the question is that of a budget."""

    default = "budget"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [self.default, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=Questions, no_args_is_help=True, help=HELP)


@app.callback()
def advise() -> None:
    """Questions to what was measured."""


@app.command("budget")
def budget(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="STUDY|POINTS|FIT.json",
            help="Study file, table of points, folder of an import, or a fit saved by fit --save.",
            show_default=False,
        ),
    ],
    flops: Annotated[float | None, typer.Option("--flops", help="Budget: training FLOPs, for instance 1e18.")] = None,
    hours: Annotated[float | None, typer.Option("--hours", help="Budget: hours on --device or --peak.")] = None,
    tokens: Annotated[float | None, typer.Option("--tokens", help="Budget: data D; the size that suits it.")] = None,
    params: Annotated[float | None, typer.Option("--params", help="Size N that is wanted; default: the best.")] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", help="h100, a100, ... (a wrong name lists them); here: as timed in the store."),
    ] = None,
    devices: Annotated[int, typer.Option("--devices", help="How many of them.")] = 1,
    peak: Annotated[float | None, typer.Option("--peak", help="Peak FLOP/s of a device that is not listed.")] = None,
    mfu: Annotated[
        float | None, typer.Option("--mfu", help="Share of the peak that training reaches; default 0.4.")
    ] = None,
    precision: Annotated[str, typer.Option("--precision", help="Peak of the device in: bf16, fp16, fp32.")] = "bf16",
    arm: Annotated[
        str | None, typer.Option("--arm", help="Arm of a study (default: the best at its largest size), or of a table.")
    ] = None,
    law: Annotated[
        str | None, typer.Option("--law", help="Law of N and D; default: the study's, or chinchilla.")
    ] = None,
    level: Annotated[float, typer.Option("--level", help="Level of the intervals.")] = 0.9,
    reach: Annotated[
        float | None, typer.Option("--reach", help="Answer up to so many times the measured ranges; default 100.")
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option("--given", help="NAME=VALUE of a further variable of the law, for instance unique=1e9."),
    ] = None,
    store: StorePath = None,
    under: Under = None,
    threads: Threads = 1,
    y: Y = "",
    column: Column = None,
    convention: Annotated[
        str, typer.Option("--convention", help="Points: FLOP convention that gives D from C and N, or C from N and D.")
    ] = "",
    drop_largest: Drop = 0,
    pin: Pin = None,
    cluster: Cluster = "",
    json: Json = False,
) -> None:
    """Best size and data for a budget, the loss to expect, what equals it, and the most informative next run."""
    from isoloss.worth.advise_budget import LAW, advise

    others = numbers(given, "--given", positive=True)
    options: dict[str, Any] = {"arm": arm, "level": level, "reach": reach, "others": others or None}
    options |= {"flops": flops, "hours": hours, "tokens": tokens, "params": params, "device": device, "peak": peak}
    options |= {"mfu": mfu, "devices": devices, "precision": precision}
    found: Source
    if source.suffix in (".yaml", ".yml"):
        import isoloss

        found = isoloss.results(source, beside(source, store, ".store"), under=under or (), threads=threads)
        result = advise(found, law=law, **options)
    elif source.suffix == ".json":
        from isoloss.laws import load_fit

        result = advise(load_fit(source), law=law, **options)
    else:
        from isoloss.laws import fit

        name = law or LAW
        reading: dict[str, Any] = {"y": y, "column": column, "flops": convention, "drop_largest": drop_largest}
        request = read_request(source, [name], pin=pin, cluster=cluster, arm=arm or "", **reading)
        with solvable(name):
            result = advise(fit(request.points, name, **request.options), **options | {"arm": None})
        result["arm"] = arm
    result = {"source": str(source), **result}
    if json:
        show(clean(result))
        return
    from rich.console import Console

    _print(result, Console(highlight=False))


def _print(found: dict[str, Any], console: Console) -> None:
    """The advice for a terminal of 80 columns."""
    from rich.table import Table
    from rich.text import Text

    from isoloss.worth.advise_text import compute_words, device_words, hours_words, practice_words, share_words, short

    answer, unit = found["answer"], found["unit"]
    level = f"{found['level']:.0%}"

    def plain(*columns: str) -> Table:
        table = Table(box=None, show_header=bool(columns), padding=(0, 2, 0, 0), header_style="dim")
        for name in columns:
            table.add_column(name, justify="left" if name == "run" else "right", no_wrap=True)
        return table

    def between(low: float | None, high: float | None, text: Any) -> str:
        return "" if low is None or high is None else f"[{text(low)}, {text(high)}]"

    best = answer["best"] if found["budget"]["params"] is None else None
    arm = f", arm {found['arm']}" if found["arm"] else ""
    time = "" if found["hours"] is None else f": {hours_words(found['hours'])} on {device_words(found['budget'])}"
    console.print(Text(f"{found['law']}{arm}: {found['formula']}; {level} intervals", style="dim"))
    console.print(Text(f"Budget  {answer['C']:.3g} FLOPs" + time, style="bold"))
    head = plain()
    rows = [
        ("Model", f"N = {short(answer['N'])}", between(best and best["N_low"], best and best["N_high"], short)),
        ("Data", f"D = {short(answer['D'])} {unit}", between(best and best["D_low"], best and best["D_high"], short)),
        ("", f"{answer['M']:.3g} {unit} a parameter", ""),
        ("Loss", f"{answer['loss']:.4f}", between(answer["low"], answer["high"], lambda v: f"{v:.4f}")),
    ]
    for name, value, interval in rows:
        head.add_row(Text(name, style="bold"), Text(value), Text(interval, style="dim"))
    console.print(head)
    for words in practice_words(found):
        console.print(Text(words))
    console.print(Text("\nThe same loss at another size", style="bold"))
    table = plain("size", "N", "D", "compute")
    for other in answer["alternatives"]:
        never = other["D"] is None
        table.add_row(
            f"{other['factor']:g}x", short(other["N"]), "never" if never else short(other["D"]),
            Text("" if never else compute_words(other)),
        )  # fmt: skip
    console.print(table)
    console.print(Text("\nThe next run that would tell most, per FLOP", style="bold"))
    plan = answer["next"]
    if plan is None or not plan["ranked"]:
        console.print(Text(found["text"][-1] if plan else "Without an interval there is nothing to narrow."))
    else:
        table = plain("run", "N", "D", "of budget", f"{level} interval of the loss", "narrower")
        table.add_row("(now)", "", "", "", Text(between(answer["low"], answer["high"], lambda v: f"{v:.4f}")), "")
        for run in plan["ranked"]:
            table.add_row(
                "another seed" if run["kind"] == "repeat" else "new", short(run["N"]), short(run["D"]),
                share_words(run["C"] / answer["C"]), Text(between(run["low"], run["high"], lambda v: f"{v:.4f}")),
                f"{run['narrower']:.0%}",
            )  # fmt: skip
        console.print(table)
    if found["warnings"]:
        console.print()
    for warning in found["warnings"]:
        console.print(Text(f"! {warning}", style="yellow"))


@app.command("transfer")
def transfer(
    study: StudyFile,
    target_data: Annotated[
        str, typer.Option("--target-data", help="Unique target data at hand, for instance 3MB or 5000 samples.")
    ],
    params: Annotated[float, typer.Option("--params", help="Size N of the planned model, for instance 1e6.")],
    source: Annotated[
        str | None, typer.Option("--source", help="One arm with pre-training; default: each of them.")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Seeds of every run that is suggested.")] = 3,
    store: StorePath = None,
    under: Under = None,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """What pre-training would be worth, whether more data or a larger model helps more, and what to run next."""
    from rich.console import Console

    import isoloss
    from isoloss.worth.advise_study import transfer_advice

    results = isoloss.results(study, beside(study, store, ".store"), under=under or (), threads=threads)
    found = transfer_advice(results, target_data=target_data, params=params, source=source, seeds=seeds)
    if json:
        show(found)
        return
    console = Console(highlight=False, soft_wrap=True)
    for sentence in found["text"]:
        console.print(sentence, markup=False)
    for caveat in found["caveats"]:
        console.print(f"! {caveat}", markup=False)


app.command("power")(power)
