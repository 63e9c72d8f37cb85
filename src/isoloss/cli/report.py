"""``isoloss report``: the page again from the store."""

from __future__ import annotations

from isoloss.cli.options import (
    Json,
    NoShare,
    Out,
    StorePath,
    StudyFile,
    Threads,
    Under,
    beside,
    command_line,
    show,
    write_page,
)


def report(
    study: StudyFile,
    store: StorePath = None,
    under: Under = None,
    out: Out = None,
    threads: Threads = 1,
    no_share: NoShare = False,
    json: Json = False,
) -> None:
    """Write the page from what the store has; train nothing."""
    from rich.console import Console

    import isoloss
    from isoloss import report as room

    results = isoloss.results(
        study, beside(study, store, ".store"), under=under or (), threads=threads, share=not no_share
    )
    answer = results.answer(command_line())
    page = write_page(room.write, answer, beside(study, out, ".report"))
    if json:
        show(answer)
    else:
        Console().print(room.terminal(answer, page))
