"""``isoloss branch``: a cooldown from any checkpoint, of a store or of a training of your own."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from isoloss.cli.options import Json, StorePath, Threads, Under, beside, show

EVERY = 10.0
"""Seconds between lines that say how far it is."""


def branch(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="Key of a state or track in the store, a study file, or a folder or file of a training of your own.",
            show_default=False,
        ),
    ],
    cooldown: Annotated[str, typer.Option("--cooldown", help="Form, as in a study.")] = "one_minus_sqrt",
    fraction: Annotated[
        float | None, typer.Option("--fraction", help="Part of the whole run that the cooldown is; default: 0.2.")
    ] = None,
    length: Annotated[int | None, typer.Option("--length", help="Updates of the cooldown.")] = None,
    at: Annotated[int | None, typer.Option("--at", help="Update it leaves from; default: the newest state.")] = None,
    final: Annotated[
        float | None, typer.Option("--final", help="Where the learning rate ends, as a fraction; default: 0.")
    ] = None,
    exponent: Annotated[float | None, typer.Option("--exponent", help="a of 1 - x^a, for power alone.")] = None,
    run: Annotated[str | None, typer.Option("--run", help="Name of the study's run, or some of its words.")] = None,
    store: StorePath = None,
    under: Under = None,
    adapter: Annotated[
        str | None, typer.Option("--adapter", help="Of a training of your own: package.module:attribute.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Of a training of your own: where the result goes.")] = None,
    amount: Annotated[
        int | None, typer.Option("--amount", min=1, help="Tokens or samples of each part that is measured.")
    ] = None,
    threads: Threads = 1,
    json: Json = False,
) -> None:
    """Cool a checkpoint down; in a store the branch has the key that a study's run of that shape has."""
    import isoloss

    said = time.monotonic()

    def progress(update: int, total: int, loss: float) -> None:
        nonlocal said
        if time.monotonic() - said > EVERY:
            said = time.monotonic()
            print(f"update {update}/{total}  loss {loss:.4f}", file=sys.stderr)

    path = Path(checkpoint)
    if path.suffix in (".yaml", ".yml"):
        store = str(beside(path, store, ".store"))
    found = isoloss.branch(
        checkpoint,
        store,
        cooldown=cooldown,
        fraction=fraction,
        length=length,
        final=final,
        exponent=exponent,
        at=at,
        run=run,
        amount=amount,
        adapter=adapter,
        out=out,
        under=under or (),
        threads=threads,
        progress=progress,
    )
    if json:
        show(found.to_dict())
    else:
        print(found.text())
