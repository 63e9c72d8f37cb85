"""MLflow stores: a folder of files (`mlruns`) or a SQLite database, read as they lie, without the package.

The client would do for both, but it makes folders in a store of files, refuses such stores unless a variable of the
environment allows them, and refuses a database that another version of it wrote. Reading here writes nothing.
"""

from __future__ import annotations

import math
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from isoloss.bridges.recorded import FINISHED, Recorded, Session, Setting, joined
from isoloss.recipe.errors import StudyError
from isoloss.study.reader import decode
from isoloss.study.reader import read as read_yaml

SQLITE = b"SQLite format 3\x00"
STATES = {1: "running", 2: "scheduled", 3: FINISHED, 4: "failed", 5: "killed"}
"""`RunStatus` of MLflow's protocol, as a store of files has it; a database has the words."""
OWN = "mlflow."
NAME = "mlflow.runName"
LARGEST = sys.float_info.max
Metrics = dict[str, list[tuple[int, float, float]]]
"""(time in milliseconds, step, value) by name."""


def is_store(path: Path) -> bool:
    """Whether a path is a database of MLflow, or a folder with runs of a store of files in it."""
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(SQLITE)) != SQLITE:
                return False
        try:
            with closing(_connected(path)) as base:
                tables = {row[0] for row in base.execute("SELECT name FROM sqlite_master")}
        except sqlite3.Error as error:
            raise StudyError(f"{path}: cannot be read as a database ({error})") from None
        return {"runs", "metrics", "params"} <= tables
    return next(_run_folders(path), None) is not None


def read(source: Path, restarts: str = "sessions") -> list[Recorded]:
    """The runs of a database or a folder that are not deleted. Raises StudyError for a damaged store.

    Settings: params, tags that are not MLflow's own (`tags.NAME`), the experiment. Series: metrics, in the order in
    which they were logged.
    """
    return _database(source, restarts) if source.is_file() else _files(source, restarts)


def _made(
    name: str, source: str, state: str, settings: dict[str, Setting], metrics: Metrics, restarts: str
) -> Recorded:
    series = {}
    for key, logged in metrics.items():
        ordered = sorted(logged, key=lambda row: row[0])
        series[key] = joined([Session([step for _, step, _ in ordered], [value for *_, value in ordered])], restarts)
    return Recorded(name, source, settings, series, state)


def _files(root: Path, restarts: str) -> list[Recorded]:
    found = []
    for folder in _run_folders(root):
        meta = _meta(folder)
        if meta.get("lifecycle_stage") == "deleted":
            continue
        tags = {path: file.read_text() for path, file in _below(folder / "tags")}
        settings: dict[str, Setting] = {path: file.read_text() for path, file in _below(folder / "params")}
        settings |= {f"tags.{name}": value for name, value in tags.items() if not name.startswith(OWN)}
        if (folder.parent / "meta.yaml").is_file():
            settings["experiment"] = str(_meta(folder.parent).get("name", ""))
        state = STATES.get(meta.get("status", 0), str(meta.get("status")))
        metrics = {path: _lines(file) for path, file in _below(folder / "metrics")}
        name = tags.get(NAME) or str(meta.get("run_name") or folder.name)
        found.append((meta.get("start_time") or 0, name, folder.name, str(folder), state, settings, metrics))
    found.sort(key=lambda run: run[0])
    names = [name for _, name, *_ in found]
    return [
        _made(_alone(name, run, names), source, state, settings, metrics, restarts)
        for _, name, run, source, state, settings, metrics in found
    ]


def _alone(name: str, run: str, names: list[str]) -> str:
    """A run's name, with the beginning of its id where several have it."""
    return f"{name} ({run[:8]})" if names.count(name) > 1 else name


def _run_folders(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("meta.yaml")):
        folder = path.parent
        if (folder / "metrics").is_dir() and (folder / "params").is_dir() and ".trash" not in folder.parts:
            yield folder


def _meta(folder: Path) -> dict[str, Any]:
    path = folder / "meta.yaml"
    values, _ = read_yaml(decode(path.read_bytes(), str(path)), str(path))
    if not isinstance(values, dict):
        raise StudyError(f"{path}: found no mapping; allowed: what MLflow writes")
    return values


def _below(folder: Path) -> list[tuple[str, Path]]:
    """(name, file) of everything below a folder; slashes of a name are folders there."""
    return [(path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*")) if path.is_file()]


def _lines(path: Path) -> list[tuple[int, float, float]]:
    """Rows of one metric: time, value, step, and in newer versions a data set after it."""
    found = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        parts = line.split()
        try:
            found.append((int(parts[0]), float(parts[2]) if len(parts) > 2 else 0.0, float(parts[1])))
        except (IndexError, ValueError):
            raise StudyError(f"{path}, line {number}: found {line!r}; allowed: time, value and step") from None
    return found


def _database(path: Path, restarts: str) -> list[Recorded]:
    settings: dict[str, dict[str, Setting]] = {}
    metrics: dict[str, Metrics] = {}
    try:
        with closing(_connected(path)) as base:
            runs = base.execute(
                "SELECT r.run_uuid, r.name, r.status, e.name FROM runs r LEFT JOIN experiments e "
                "ON r.experiment_id = e.experiment_id WHERE r.lifecycle_stage = 'active' "
                "ORDER BY r.start_time, r.run_uuid"
            ).fetchall()
            for run, key, value in base.execute("SELECT run_uuid, key, value FROM params ORDER BY key"):
                settings.setdefault(run, {})[key] = value
            tags = base.execute("SELECT run_uuid, key, value FROM tags ORDER BY key").fetchall()
            # NaN has a column of its own; infinity is stored as the largest number.
            for run, key, value, time, step, undefined in base.execute(
                "SELECT run_uuid, key, value, timestamp, step, is_nan FROM metrics ORDER BY timestamp, rowid"
            ):
                number = math.nan if undefined else math.copysign(math.inf, value) if abs(value) >= LARGEST else value
                metrics.setdefault(run, {}).setdefault(key, []).append((time, step, number))
    except sqlite3.Error as error:
        raise StudyError(f"{path}: cannot be read as a database of MLflow ({error})") from None
    names = {run: name or run for run, name, *_ in runs}
    for run, key, value in tags:
        if key == NAME and run in names:
            names[run] = value
        elif not key.startswith(OWN):
            settings.setdefault(run, {})[f"tags.{key}"] = value
    found = []
    for run, _, status, experiment in runs:
        own = settings.get(run, {}) | ({"experiment": experiment} if experiment else {})
        name = _alone(names[run], run, list(names.values()))
        found.append(_made(name, str(path), str(status).lower(), own, metrics.get(run, {}), restarts))
    return found


def _connected(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
