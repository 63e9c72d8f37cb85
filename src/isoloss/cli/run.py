"""``isoloss run``: train what the store lacks, fit, compare, report."""

from __future__ import annotations

import os

import typer

from isoloss.cli.options import (
    Budget,
    Gpus,
    Json,
    Log,
    NoShare,
    On,
    Out,
    Patience,
    Processes,
    Shard,
    StorePath,
    StudyFile,
    Threads,
    Under,
    Workers,
    beside,
    command_line,
    seconds,
    show,
    write_page,
)


def run(
    study: StudyFile,
    store: StorePath = None,
    under: Under = None,
    out: Out = None,
    budget: Budget = None,
    workers: Workers = 0,
    threads: Threads = 1,
    processes: Processes = 0,
    shard: Shard = 0,
    on: On = "local",
    gpus: Gpus = 0.0,
    patience: Patience = None,
    no_share: NoShare = False,
    log: Log = None,
    json: Json = False,
) -> None:
    """Train what the store lacks, fit, compare and write the page; run it again to go on where it stopped."""
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ["RANK"] != "0":
        from isoloss.execute import torchrun

        torchrun.serve()  # for the driver, which is the first of the processes
        return
    from rich.console import Console

    import isoloss
    from isoloss import report

    results = isoloss.run(
        study,
        beside(study, store, ".store"),
        under=under or (),
        budget=seconds(budget),
        workers=workers,
        threads=threads,
        processes=processes,
        shard=shard,
        share=not no_share,
        on=on,
        gpus=gpus,
        patience=seconds(patience, "--patience"),
        log=log or (),
    )
    answer = results.answer(command_line())
    page = write_page(report.write, answer, beside(study, out, ".report"))
    if json:
        show(answer)
    else:
        Console().print(report.terminal(answer, page))
    if results.failures or any(r.status in ("failed", "diverged") for r in results.results):
        raise typer.Exit(1)
