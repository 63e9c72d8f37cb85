"""The short answer in a terminal: headline, worth, what sharing saved, caveats, and where the page is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from isoloss.report import formats, large_batch, transfer
from isoloss.report.answers import verdict
from isoloss.report.tidy import MEASURES, Json, tidy
from isoloss.report.view import view

_TONES = {"better": "green", "worse": "red", "open": "dim italic", "none": "dim italic"}
MOST_TROUBLES = 5
MOST_SENTENCES = 2


def render(result: Mapping[str, Any], page: str | Path | None = None) -> RenderableType:
    """The answer as one rich renderable. Raises ValueError where `result` is no result of schema 1."""
    whole = tidy(result)
    return Group(*_parts(whole, view(whole), page))


def _parts(whole: Json, seen: Json, page: str | Path | None) -> Iterator[RenderableType]:
    said = " ".join((seen["headline"], *seen["sentences"]))
    yield Text(seen["headline"], style="bold")
    for sentence in seen["sentences"]:
        yield Text(sentence)
    if seen["transfer"]:
        yield from _question(transfer.columns(seen["transfer"]), seen["transfer"]["sentences"], said)
    if seen["worth"]:
        yield Padding(_worth(whole, seen), (1, 0, 0, 0))
        for group in seen["worth"]["groups"]:
            if group["trend"] and group["trend"]["words"] not in said:
                yield Text.assemble((group["arm"], "bold"), f": {group['trend']['words']}")
    if seen["large_batch"]:
        yield from _question(large_batch.columns(seen["large_batch"]), seen["large_batch"]["sentences"], said)
    sharing = seen["sharing"]
    if sharing:
        yield Text("")
        first = () if formats.count(sharing["shared"]) in said else (sharing["sentence"],)
        yield Text(" ".join((*first, *sharing["extra"])))
    troubles = seen["troubles"]
    if troubles:
        yield Text("")
        yield Text(f"{len(troubles)} of {len(seen['runs'])} runs did not finish:", style="yellow")
        for run in troubles[:MOST_TROUBLES]:
            message = f": {run['message']}" if run["message"] else ""
            yield _item("-", f"{run['arm']}, {run['cell_text'] or run['id']} {run['status']}{message}")
        if len(troubles) > MOST_TROUBLES:
            yield _item("-", f"and {len(troubles) - MOST_TROUBLES} more, on the page")
    if seen["caveats"]:
        yield Text("")
        for caveat in seen["caveats"]:
            yield _item("!", caveat)
    if page is not None:
        yield Text("")
        yield Text.assemble("page  ", (str(page), "bold"), no_wrap=True, overflow="ignore")


def _item(mark: str, sentence: str) -> RenderableType:
    row = Table.grid(padding=(0, 1))
    row.add_column(style="yellow")
    row.add_column(ratio=1, overflow="fold")
    row.add_row(mark, Text(sentence))
    return row


def _worth(whole: Json, seen: Json) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), title_justify="left", title_style="",
        title=Text(f"worth at equal loss: what {seen['needs']} needs, over what the arm used"),
    )  # fmt: skip
    table.add_column("arm", overflow="fold", max_width=24)
    for measure in MEASURES:
        table.add_column(measure)
    overall = {entry["arm"]: entry for entry in whole["worth_overall"]}
    for group in seen["worth"]["groups"]:
        name = group["arm"]
        title = Text(name, style="bold")
        if group["against"]:
            title.append(f"\nagainst {group['against']}", style="not bold dim")
        table.add_row(title, *(_cells(overall[name]) if name in overall else ()))
        entries = sorted((e for e in whole["worth"] if e["arm"] == name), key=lambda e: e["N"] or 0)
        if len(entries) == 1 and name in overall:
            entries = []
        for entry in entries:
            table.add_row(Text(f"  N {formats.short(entry['N'])}", style="dim"), *_cells(entry))
        table.add_section()
    return table


def _question(
    shown: tuple[str, list[str], list[list[str]]] | None, sentences: list[str], said: str
) -> Iterator[RenderableType]:
    """A question of its own: its table (title, head, rows), and sentences that the summary has not said."""
    if shown:
        title, head, rows = shown
        table = Table(
            box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), title_justify="left", title_style="",
            title=Text(title),
        )  # fmt: skip
        for name in head:
            table.add_column(Text(name), overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        yield Padding(table, (1, 0, 0, 0))
    rest = [sentence for sentence in sentences if sentence not in said]
    for sentence in rest[:MOST_SENTENCES]:
        yield _item("-", sentence)
    if len(rest) > MOST_SENTENCES:
        yield _item("-", f"and {len(rest) - MOST_SENTENCES} more findings, on the page")


def _cells(entry: Json) -> list[Text]:
    cells = []
    for measure in MEASURES:
        found = entry[measure]
        word, tone = verdict(found, entry.get("roots"), entry["data"])
        if found["ratio"] is None:
            cells.append(Text(word, style=_TONES[tone]))
            continue
        bounds = formats.interval(found["low"], found["high"]).replace(" ", "\u00a0")
        said = " ".join(filter(None, (bounds, "" if tone in ("better", "worse") else word)))
        cells.append(Text.assemble((formats.ratio(found["ratio"]), "bold"), " ", (said, _TONES[tone])))
    return cells
