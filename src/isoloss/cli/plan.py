"""``isoloss plan``: what would be trained and what it costs; trains nothing."""

from __future__ import annotations

from isoloss.cli.options import Json, NoShare, StorePath, StudyFile, Threads, Under, beside, show


def plan(
    study: StudyFile,
    store: StorePath = None,
    under: Under = None,
    threads: Threads = 1,
    no_share: NoShare = False,
    json: Json = False,
) -> None:
    """Show runs, segments, what is shared, FLOPs, time and disk of a study; train nothing."""
    from rich.console import Console

    import isoloss

    path = beside(study, store, ".store")
    planned = isoloss.plan(
        study, path if path.exists() else None, under=under or (), threads=threads, share=not no_share
    )
    if json:
        show(planned.to_dict())
    else:
        Console().print(planned.table())
