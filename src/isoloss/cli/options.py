"""Options that several commands share."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from isoloss.recipe.errors import StudyError

StudyFile = Annotated[Path, typer.Argument(help="Study file (YAML).", show_default=False)]
StorePath = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="Store: a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX; default: NAME.store beside the study.",
    ),
]
Under = Annotated[list[str] | None, typer.Option("--under", help="Read-only store below it; may be repeated.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Out = Annotated[
    Path | None, typer.Option("--out", help="Folder of the page; default: NAME.report beside the study file.")
]
Budget = Annotated[str | None, typer.Option("--budget", help="Stop after this time, for instance 30m, 2h, 90s.")]
Patience = Annotated[
    str | None,
    typer.Option("--patience", help="Silence after which a worker is taken to hang and replaced; default: 30m."),
]
Workers = Annotated[int, typer.Option("--workers", min=0, help="Workers; 0: one a core, or all that a cluster holds.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Threads a process; part of the numerics.")]
Processes = Annotated[
    int, typer.Option("--processes", min=0, help="Processes that train one run together; 0: as the study says.")
]
Shard = Annotated[
    int,
    typer.Option("--shard", min=0, help="Processes over which one copy of the weights lies; 0: as the study says."),
]
On = Annotated[
    str,
    typer.Option(
        "--on",
        help="Where workers run: local, or a Ray cluster: ray (the one here, else one is started), ray:HOST:PORT, "
        "ray://HOST:PORT.",
    ),
]
Gpus = Annotated[float, typer.Option("--gpus", min=0, help="GPUs that every process is given; on Ray.")]
Log = Annotated[
    list[str] | None,
    typer.Option(
        "--log",
        help="Log the runs: tensorboard:FOLDER, mlflow:FOLDER-or-URI or wandb:FOLDER; may be repeated.",
    ),
]
NoShare = Annotated[bool, typer.Option("--no-share", help="Train every run from its own beginning (a check).")]

Given = TypeVar("Given", str, Path)
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h)?")


def seconds(text: str | None, option: str = "--budget") -> float | None:
    """``30m`` as seconds; raise ``StudyError`` for anything else."""
    if text is None:
        return None
    match = _TIME.fullmatch(text.strip())
    if not match or match[2] is None:
        raise StudyError(f"{option}: found {text!r}; allowed: a number with s, m or h, for instance 30m")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def beside(study: Path, given: Given | None, ending: str) -> Given | Path:
    """A folder named after the study file, beside it, unless another place is given."""
    return given if given is not None else study.with_suffix(ending)


def write_page(write: Callable[..., Path], answer: dict[str, Any], folder: Path) -> Path:
    """Write the page; an unwritable folder is one message, and nothing that was trained is lost."""
    try:
        return write(answer, folder)
    except OSError as error:
        raise StudyError(f"--out: cannot write to {folder}: {error.strerror or error}") from error


def show(value: Any) -> None:
    """Print JSON."""
    print(json.dumps(value, indent=2, allow_nan=False))


def command_line() -> str:
    """The command as it was typed, for the record."""
    import shlex
    import sys

    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
