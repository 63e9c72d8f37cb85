"""``isoloss plan``: what would be trained and what it costs; trains nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from isoloss.cli.options import Json, NoShare, StorePath, StudyFile, Threads, Under, Workers, beside, show

Calibrate = Annotated[
    bool | None,
    typer.Option(
        "--calibrate/--no-calibrate",
        help="Time a few updates on this machine first: always, or never; by default where speeds are not known yet.",
        show_default=False,
    ),
]


def plan(
    study: StudyFile,
    store: StorePath = None,
    under: Under = None,
    workers: Workers = 0,
    threads: Threads = 1,
    calibrate: Calibrate = None,
    no_share: NoShare = False,
    json: Json = False,
) -> None:
    """Show runs, segments, what is shared, FLOPs, time, memory and disk of a study; train nothing."""
    from rich.console import Console

    from isoloss.plan import plan as summary
    from isoloss.store import has_store

    path = beside(study, store, ".store")
    planned = summary(
        study,
        path if has_store(path) else None,
        under=under or (),
        threads=threads,
        share=not no_share,
        workers=workers,
        calibrate=calibrate,
    )
    if json:
        show(planned.to_dict())
    else:
        Console().print(planned.table())
