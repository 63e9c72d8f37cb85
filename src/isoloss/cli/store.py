"""``isoloss store``: what is kept, is it whole, what can go."""

from __future__ import annotations

from typing import Annotated

import typer

from isoloss.cli.options import Json, show

app = typer.Typer(no_args_is_help=True, help="What a store keeps: list, verify, collect garbage, export.")
Place = Annotated[str, typer.Argument(help="Folder or URL of the store.", show_default=False)]


@app.command("ls")
def ls(place: Place, json: Json = False) -> None:
    """List the tracks of a store: how far each was trained, what is kept, and its size."""
    from rich.console import Console
    from rich.table import Table

    from isoloss.store import Store

    store = Store(place, create=False)
    rows = store.pieces()
    stored = store.stored({row.end_key for row in rows})
    tracks: dict[str, list] = {}
    for row in rows:
        tracks.setdefault(row.track, []).append(row)
    listed = [
        {
            "track": track,
            "from_update": min(r.start_update for r in found),
            "to_update": max(r.end_update for r in found),
            "pieces": len(found),
            "states_kept": len({r.end_key for r in found} & stored),
            "bytes": sum({r.end_key: r.bytes for r in found if r.end_key in stored}.values()),
            "seconds": sum(r.seconds for r in found),
            "diverged": next((r.detail for r in found if r.status == "diverged"), None),
        }
        for track, found in tracks.items()
    ]
    if json:
        show(listed)
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("track", "updates", "pieces", "states kept", "MB", "seconds", ""):
        table.add_column(name, justify="left" if name in ("track", "") else "right")
    for entry in listed:
        table.add_row(
            entry["track"][:12],
            f"{entry['from_update']}-{entry['to_update']}",
            str(entry["pieces"]),
            str(entry["states_kept"]),
            f"{entry['bytes'] / 1e6:.2f}",
            f"{entry['seconds']:.1f}",
            f"diverged: {entry['diverged']}" if entry["diverged"] else "",
        )
    console = Console()
    console.print(table)
    total = sum(entry["bytes"] for entry in listed)
    console.print(f"{len(listed)} tracks, {len(rows)} pieces, {len(stored)} states kept, {total / 1e6:.1f} MB")


@app.command("verify")
def verify(
    place: Place,
    replay: Annotated[int, typer.Option("--replay", min=0, help="Also train so many random pieces again.")] = 0,
    repair: Annotated[
        bool, typer.Option("--repair", help="Put damaged files aside, so that a rerun makes them.")
    ] = False,
    json: Json = False,
) -> None:
    """Check every manifest and every stored byte; with --replay, train random pieces again and compare the bits."""
    from isoloss.store import Store

    store = Store(place, create=False)
    found = store.verify(repair=repair)
    problems = list(found.problems)
    replayed = 0
    if replay:
        from isoloss.execute.replay import audit

        replayed, different = audit(store, replay)
        problems += different
    if json:
        show({"clean": not problems, "problems": problems, "counts": dict(found.counts), "replayed": replayed})
    else:
        for problem in problems:
            print(problem)
        print(", ".join(f"{count} {what}" for what, count in found.counts.items()))
        if replay:
            print(f"{replayed} of {replay} pieces trained again")
        print("clean" if not problems else f"{len(problems)} problems; `isoloss run` trains again what is missing")
    if problems:
        raise typer.Exit(1)


@app.command("gc")
def gc(
    place: Place,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    grace: Annotated[
        float, typer.Option("--grace", min=0, help="Leave files younger than this many seconds.")
    ] = 3600.0,
    json: Json = False,
) -> None:
    """Remove what nothing refers to: left-overs of interrupted writes."""
    from isoloss.store import Store

    swept = Store(place, create=False).gc(dry_run=dry_run, grace=grace)
    if json:
        show({"removed": list(swept.names), "bytes": swept.bytes, "dry_run": dry_run})
    else:
        print(f"{'would remove' if dry_run else 'removed'} {len(swept.names)} files, {swept.bytes / 1e6:.2f} MB")


@app.command("export")
def export(
    place: Place,
    target: Annotated[str, typer.Argument(help="Folder or URL of the new store.", show_default=False)],
    states: Annotated[
        bool, typer.Option("--states", help="Also copy states, not only measurements and curves.")
    ] = False,
    columns: Annotated[
        list[str] | None,
        typer.Option("--column", help="Of training curves, kept in a .parquet file; repeat it."),
    ] = None,
    json: Json = False,
) -> None:
    """Copy a store's measurements and curves into a smaller one that can serve as a read-only layer (--under).

    A TARGET that ends in .parquet becomes one file of all measurements.
    """
    from isoloss.store import Store

    count = Store(place, create=False).export(target, states=states, columns=columns or ())
    if json:
        show({"pieces": count, "target": str(target)})
    else:
        print(f"{count} pieces copied to {target}")
