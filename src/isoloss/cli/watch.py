"""``isoloss watch``: a local page that shows a study while it is trained."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from isoloss.cli.options import Json, NoShare, StorePath, StudyFile, Threads, Under, beside, show

Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port of the page; 0: any free one.")]
Host = Annotated[
    str, typer.Option("--host", help="Address to serve on; another than this machine's own opens it to others.")
]
Open = Annotated[bool, typer.Option("--open", help="Open the page in the browser.")]


def watch(
    study: StudyFile,
    store: StorePath = None,
    under: Under = None,
    port: Port = 8642,
    host: Host = "127.0.0.1",
    open: Open = False,
    threads: Threads = 1,
    no_share: NoShare = False,
    json: Json = False,
) -> None:
    """Serve a page that shows the study while it is trained, until Ctrl-C; it only reads the store.

    With --json: print what the page would show now, and end.
    """
    from isoloss.report.watch.server import Looker, Server, address, is_loopback
    from isoloss.report.watch.watch import Watch

    watched = Watch(study, beside(study, store, ".store"), under=under or (), threads=threads, alone=no_share)
    if json:
        watched.look()
        show(watched.records.since()[1])
        return
    looker = Looker(watched)
    with Server(looker, host, port) as server, looker:
        url = address(host, server.server_port)
        if not is_loopback(host):
            print(f"isoloss: --host {host}: everybody who reaches this machine can read the page", file=sys.stderr)
        print(f"watching {watched.study.name} (store {watched.location})\n{url}   Ctrl-C ends it", flush=True)
        if open:
            import webbrowser

            webbrowser.open(url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
