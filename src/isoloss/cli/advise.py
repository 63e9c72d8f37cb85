"""``isoloss advise``: what to do next, from what a store has measured."""

from __future__ import annotations

from typing import Annotated

import typer

from isoloss.cli.options import Json, StorePath, StudyFile, Threads, Under, beside, show

app = typer.Typer(no_args_is_help=True, help="What to do next, from the finished runs of a study.")


@app.callback()
def advise() -> None:
    """What to do next, from the finished runs of a study."""


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
