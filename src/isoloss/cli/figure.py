"""``isoloss figure``: figures of a study for a paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from isoloss.cli.options import Json, StorePath, beside, command_line, show
from isoloss.recipe.errors import StudyError


def figure(
    study: Annotated[
        Path, typer.Argument(help="Study file (YAML), or the result.json beside a page.", show_default=False)
    ],
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="Which: a name of --list, a pattern as 'law-*', or all; may be repeated."),
    ] = None,
    format: Annotated[str, typer.Option("--format", help="pdf, svg or png.")] = "pdf",
    width: Annotated[str, typer.Option("--width", help="column (3.3 inches), page (6.9), or inches.")] = "column",
    font: Annotated[str, typer.Option("--font", help="serif or sans.")] = "serif",
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the figures; default: NAME.figures beside the file.")
    ] = None,
    store: StorePath = None,
    list_names: Annotated[bool, typer.Option("--list", help="Print the names there are, and draw nothing.")] = False,
    json: Json = False,
) -> None:
    """Write figures for a paper: at the width of its column or page, vectors, fonts embedded."""
    answer = _result(study, store)
    from isoloss.report import paper

    try:
        if list_names:
            offered = paper.names(answer)
            if json:
                show(offered)
            else:
                longest = max(map(len, offered), default=0)
                print("\n".join(f"{each:<{longest}}  {line}" for each, line in offered.items()))
            return
        folder = beside(study, out, ".figures")
        written = paper.save(answer, folder, name or ["all"], format=format, width=width, font=font)
    except ValueError as error:
        raise StudyError(f"{study}: {error}") from error
    except OSError as error:
        raise StudyError(f"--out: cannot write to {folder}: {error.strerror or error}") from error
    if json:
        show([str(path) for path in written])
    else:
        print("\n".join(map(str, written)))


def _result(path: Path, store: str | None) -> dict[str, Any]:
    """The result in a file, or that of a study and its store; trains nothing."""
    if path.suffix != ".json":
        import isoloss

        return isoloss.results(path, beside(path, store, ".store")).answer(command_line())
    import json

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise StudyError(f"{path}: is no JSON: {error}") from error
    return found
