"""Where old runs come from: what a path holds, and its runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from isoloss.bridges import mlflow, table, tensorboard, trainer_state, wandb
from isoloss.bridges.recorded import Recorded, listed
from isoloss.bridges.table import Reading
from isoloss.recipe.errors import StudyError, nearest

FORMATS = ("wandb", "mlflow", "huggingface", "tensorboard", "table")
"""In the order in which they are looked for: a run of one may keep files of those after it."""
REMOTE = ("http://", "https://", "s3://", "gs://", "databricks")
RECORD = "import.json"
"""What an import writes into its folder."""


def read(source: str | Path, form: str = "", reading: Reading | None = None) -> tuple[str, list[Recorded]]:
    """(format, runs) of a file or folder. Raises StudyError for what is not there, unknown formats and no runs."""
    reading = reading or Reading()
    path = _local(source)
    found = _formats(path)
    if form and form not in FORMATS:
        raise StudyError(f"--format: found {form!r}; allowed: {', '.join(FORMATS)}{nearest(form, FORMATS)}")
    if form and form not in found:
        raise StudyError(f"{source}: found {', '.join(found) or 'no runs'}; --format {form} reads {_HOLDS[form]}")
    if not found:
        allowed = "; ".join(f"{name}: {what}" for name, what in _HOLDS.items())
        raise StudyError(f"{source}: found no runs ({_content(path)}); allowed: {allowed}")
    form = form or found[0]
    runs = _read(path, form, reading)
    if not runs:
        raise StudyError(f"{source}: {_HOLDS[form]}, but no runs in it")
    others = [name for name in found if name not in (form, "table")]
    if others:
        runs[0].notes.append(f"{source} also holds {' and '.join(others)}; read as {form} (--format reads the other)")
    return form, runs


_HOLDS = {
    "wandb": "run-ID.wandb files",
    "mlflow": "an mlruns folder or a SQLite database of MLflow",
    "huggingface": "trainer_state.json files",
    "tensorboard": "event files (events.out.tfevents...)",
    "table": f"files {', '.join(table.ENDINGS)}",
}


def _read(path: Path, form: str, reading: Reading) -> list[Recorded]:
    if form == "wandb":
        return wandb.read(path, reading.restarts)
    if form == "mlflow":
        return mlflow.read(path, reading.restarts)
    if form == "huggingface":
        return trainer_state.read(path, reading.restarts)
    if form == "tensorboard":
        return tensorboard.read(path, reading.restarts)
    return [run for file in _tables(path) for run in table.read(file, reading)]


def _formats(path: Path) -> list[str]:
    """What a path holds, the format that is taken first."""
    if path.is_file():
        name = path.name
        if name.endswith(".wandb"):
            return ["wandb"]
        if name == trainer_state.FILE:
            return ["huggingface"]
        if "events.out.tfevents." in name:
            return ["tensorboard"]
        if path.suffix.lower() in table.ENDINGS:
            return ["table"]
        return ["mlflow"] if mlflow.is_store(path) else []
    has = {
        "wandb": any(path.rglob(wandb.PATTERN)),
        "mlflow": mlflow.is_store(path),
        "huggingface": any(path.rglob(trainer_state.FILE)),
        "tensorboard": bool(tensorboard.folders(path)),
        "table": bool(_tables(path)),
    }
    return [form for form in FORMATS if has[form]]


def _tables(path: Path) -> Sequence[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.iterdir() if file.is_file() and file.suffix.lower() in table.ENDINGS)


def _local(source: str | Path) -> Path:
    text = str(source)
    if text.startswith(REMOTE):
        raise StudyError(
            f"{source}: found an address; allowed: files and folders here (a server's runs can be exported as a table)"
        )
    for scheme in ("sqlite:///", "file://"):
        text = text.removeprefix(scheme)
    path = Path(text)
    if not path.exists():
        beside = path.parent.iterdir() if path.parent.is_dir() else ()
        near = nearest(path.name, [other.name for other in beside])
        raise StudyError(f"{source}: there is no such file or folder{near}")
    if path.is_dir() and (path / RECORD).is_file():
        raise StudyError(
            f"{source}: is an import already; use it as it is: isoloss fit {source}, isoloss report {source}"
        )
    return path


def _content(path: Path) -> str:
    if path.is_file():
        return f"a file {path.suffix or 'without ending'}"
    return f"in the folder: {listed(sorted(file.name for file in path.iterdir()), 6)}"
