"""Tables: CSV, TSV, JSON, JSON lines and Parquet, with one row a run or one row a step.

Exports of Weights & Biases are tables too: its table of runs, the history of a run, a chart (one column a run and
metric), and lists of runs with `config`, `summary` and `history`.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from isoloss.bridges.recorded import FINISHED, Recorded, Session, Setting, flat, joined, listed
from isoloss.laws.errors import LawError
from isoloss.laws.readers import ALIASES, read_table
from isoloss.recipe.errors import StudyError, nearest

ENDINGS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
RUN = (*ALIASES["run"], "name", "run_name")
STEP = ("step", "_step", "global_step", "trainer/global_step", "steps", "updates", "iteration", "iter")
STATE = ("state", "status")
PARTS = ("config", "summary", "summary_metrics", "summarymetrics", "systemmetrics")
"""Mappings in exports of Weights & Biases whose entries stand for themselves."""
MISSING = ("", "na", "n/a", "none", "null", "-")
CHART = re.compile(r"(?P<run>.+) - (?P<metric>.+?)(?P<edge>__MIN|__MAX|_step)?")
GROUPED = re.compile(r"(\d{1,3}(,\d{3})+)(\.\d+)?")
Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class Reading:
    """What a map says on how to read: the columns of run and step of a table, what a row is, and `restarts`."""

    run: tuple[str, ...] = ()
    step: str = ""
    rows: str = ""
    restarts: str = "sessions"


def read(path: Path, reading: Reading) -> list[Recorded]:
    """The runs of a table.

    One row a run where no run has two rows; then everything is a setting. Else one row a step: columns that never
    change within a run are settings, numbers that do are series. Raises StudyError for a file that is no table, for
    unknown columns, and where run and step cannot be told.
    """
    if path.suffix.lower() == ".json":
        return _listed(path, reading)
    try:
        columns = read_table(path)
    except LawError as error:
        raise StudyError(str(error)) from None
    if not columns or not len(next(iter(columns.values()))):
        raise StudyError(f"{path}: no rows")
    if len(columns) == 1 and ";" in next(iter(columns)):
        raise StudyError(f"{path}: the columns are parted by semicolons; allowed: commas (.csv) or tabs (.tsv)")
    return _recorded(path, _spread(columns), reading)


def number(value: Any) -> float | None:
    """A cell as a number; None where it is missing or text. NaN is a number: that of a run that diverged."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return float(value)
    text = str(value).strip()
    if GROUPED.fullmatch(text):
        text = text.replace(",", "")
    try:
        return float(text)
    except ValueError:
        return None


def missing(value: Any) -> bool:
    """Whether a cell holds nothing."""
    return value is None or (isinstance(value, str) and value.strip().lower() in MISSING)


def label(value: Any) -> str:
    """A cell as a name: 3.0 is "3", as tables do not tell whole numbers from others."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value)


def column(path: Path, columns: Mapping[str, Any], given: Sequence[str], usual: Sequence[str], what: str) -> list[str]:
    """The columns that are given by name, or the one that has a usual name; empty where there is none."""
    for name in given:
        if name not in columns:
            raise StudyError(
                f"{path}: no column {name!r} (for {what}){nearest(name, columns)}; found: {listed(columns, 40)}"
            )
    if given:
        return list(given)
    lower = {name.strip().lower(): name for name in reversed(list(columns))}
    return [lower[name] for name in usual if name in lower][:1]


def _recorded(path: Path, columns: Columns, reading: Reading) -> list[Recorded]:
    if not reading.run and not reading.step and (chart := _chart(columns)):
        return _melted(path, columns, chart, reading)
    runs = column(path, columns, reading.run, RUN, "run")
    steps = column(path, columns, [reading.step] if reading.step else [], STEP, "step")
    size = len(next(iter(columns.values())))
    names = [" ".join(label(columns[name][row]) for name in runs) for row in range(size)] if runs else []
    several = len(set(names)) < len(names)
    if reading.rows == "steps" and not steps:
        raise StudyError(f"{path}: rows: steps needs a column of steps; say step: COLUMN; found: {listed(columns, 40)}")
    if not names and (reading.rows == "steps" or (reading.rows != "runs" and _history(columns, steps))):
        return [_by_step(path, path.stem, columns, list(range(size)), steps[0], set(columns), reading)]
    if reading.rows == "runs" or not several:
        return [
            Recorded(names[row] if names else f"row {row + 1}", str(path), _settings(columns, row), {},
                     _state(columns, row))
            for row in range(size)
        ]  # fmt: skip
    twice = next(name for name in names if names.count(name) > 1)
    if not steps:
        raise StudyError(
            f"{path}: run {twice!r} has {names.count(twice)} rows and there is no column of steps; say step: COLUMN, "
            f"or run: [COLUMN, COLUMN] where a row is a run; found: {listed(columns, 40)}"
        )
    by_name: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        by_name.setdefault(name, []).append(row)
    varying = {name for name, values in columns.items() if any(_varies(values, rows) for rows in by_name.values())}
    return [_by_step(path, name, columns, rows, steps[0], varying, reading) for name, rows in by_name.items()]


def _varies(values: list[Any], rows: list[int]) -> bool:
    """Whether a column is no setting of a run: it changes, or it is a number that only some of its steps have."""
    there = [values[row] for row in rows if not missing(values[row])]
    sparse = 0 < len(there) < len(rows) and all(number(value) is not None for value in there)
    return sparse or len({repr(value) for value in there}) > 1


def _history(columns: Columns, steps: Sequence[str]) -> bool:
    """Whether a table without names of runs is one run: its steps only ascend, and it has one size."""
    if not steps:
        return False
    at = [number(value) for value in columns[steps[0]]]
    sizes = [name for name in columns if name.strip().lower() in ALIASES["N"]]
    return (
        len(at) > 2
        and all(a is not None and b is not None and a < b for a, b in pairwise(at))
        and all(len(set(map(repr, columns[name]))) == 1 for name in sizes)
    )


def _by_step(
    path: Path, name: str, columns: Columns, rows: list[int], step: str, varying: set[str], reading: Reading
) -> Recorded:
    made = Recorded(name, str(path), {}, {}, _state(columns, rows[-1]))
    for key, values in columns.items():
        present = [row for row in rows if not missing(values[row])]
        if not present:
            continue
        if key not in varying and key != step:
            made.settings[key] = values[present[-1]]
            continue
        points = [(number(columns[step][row]), number(values[row]), row) for row in present]
        for at, _, row in points:
            if at is None:
                raise StudyError(f"{path}: {step}, row {row + 1}: found {columns[step][row]!r}; allowed: a number")
        if any(value is None for _, value, _ in points):
            made.settings[key] = label(values[present[-1]])
            continue
        session = Session([at or 0.0 for at, *_ in points], [math.nan if v is None else v for _, v, _ in points])
        made.series[key] = joined([session], "sort" if key == step else reading.restarts)
    return made


def _settings(columns: Columns, row: int) -> dict[str, Setting]:
    return {
        name: value if isinstance(value, str | int | float | bool) else str(value)
        for name, values in columns.items()
        if not missing(value := values[row])
    }


def _state(columns: Columns, row: int) -> str:
    """The state of a run in an export of Weights & Biases; other tables do not say."""
    lower = {name.strip().lower(): name for name in reversed(list(columns))}
    for name in STATE:
        value = columns[lower[name]][row] if name in lower else None
        if isinstance(value, str) and value.strip():
            word = value.strip().lower()
            return FINISHED if word in ("finished", "done", "completed", "complete", "success", "succeeded") else word
    return Recorded("", "").state


def _spread(columns: Columns) -> Columns:
    """Columns of mappings, or of mappings as Python prints them, as a column for each of their entries."""
    found: Columns = {}
    size = len(next(iter(columns.values())))
    for name, values in columns.items():
        parsed = [_mapping(value) for value in values]
        if not any(isinstance(value, dict) for value in parsed):
            found.setdefault(name, values)
            continue
        prefix = "" if name.strip().lower() in PARTS else f"{name}."
        rows = [flat(_unwrapped(value), prefix) if isinstance(value, dict) else {} for value in parsed]
        for key in dict.fromkeys(key for row in rows for key in row):
            # What a config and a summary both have is the config's, which comes as it was set.
            kept = key if key not in found else f"{name}.{key}"
            found[kept] = [row.get(key) for row in rows]
    return {name: values for name, values in found.items() if len(values) == size}


def _mapping(value: Any) -> Any:
    if not (isinstance(value, str) and value.lstrip().startswith("{")):
        return value
    try:
        return json.loads(value)
    except ValueError:
        pass
    try:
        # Python prints nan and inf as words, which are no literals.
        return ast.literal_eval(re.sub(r"(?<![\w'\"])(nan|inf)(?![\w'\"])", r"'\1'", value))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return value


def _unwrapped(values: Mapping[str, Any]) -> dict[str, Any]:
    """`{lr: {value: 0.1, desc: null}}`, as Weights & Biases has it, as `{lr: 0.1}`; its own entries left out."""
    return {
        name: value["value"] if isinstance(value, Mapping) and "value" in value and set(value) <= {"value", "desc"}
        else value
        for name, value in values.items()
        if name != "_wandb"
    }  # fmt: skip


def _chart(columns: Columns) -> str:
    """The column of steps of an exported chart: every other one is called `RUN - METRIC`. Empty for other tables."""
    first, *others = columns
    return first if others and all(CHART.fullmatch(name) for name in others) and not CHART.fullmatch(first) else ""


def _melted(path: Path, columns: Columns, step: str, reading: Reading) -> list[Recorded]:
    """An exported chart as runs; the edges of what was drawn are left out."""
    found: dict[str, Recorded] = {}
    for name, values in columns.items():
        match = CHART.fullmatch(name)
        if name == step or match is None or match["edge"]:
            continue
        run = found.setdefault(match["run"], Recorded(match["run"], str(path)))
        points = [(number(at), number(v)) for at, v in zip(columns[step], values, strict=True) if not missing(v)]
        kept = [(at, value) for at, value in points if at is not None and value is not None]
        run.series[match["metric"]] = joined([Session([at for at, _ in kept], [v for _, v in kept])], reading.restarts)
    return list(found.values())


def _listed(path: Path, reading: Reading) -> list[Recorded]:
    """A JSON file: a list of rows, a mapping of columns, or runs with `config`, `summary` and `history`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise StudyError(f"{path}: cannot be read as JSON ({error})") from None
    if isinstance(content, dict) and content and all(isinstance(v, list | dict) for v in content.values()):
        content = _rows_of(content)
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list) or not content or not all(isinstance(row, dict) for row in content):
        raise StudyError(f"{path}: found {type(content).__name__}; allowed: a list of rows or of runs")
    if any("history" in row for row in content):
        return [_exported(path, index, row, reading) for index, row in enumerate(content)]
    names = dict.fromkeys(name for row in content for name in row)
    return _recorded(path, _spread({name: [row.get(name) for row in content] for name in names}), reading)


def _rows_of(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Columns (lists, or mappings by row as pandas writes them) as rows; a single run stays one."""
    if "history" in content or any(name.lower() in PARTS for name in content):
        return [dict(content)]
    columns = {name: list(v.values()) if isinstance(v, dict) else v for name, v in content.items()}
    if len({len(values) for values in columns.values()}) != 1:
        return [dict(content)]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _exported(path: Path, index: int, row: Mapping[str, Any], reading: Reading) -> Recorded:
    """One run with its history, as a script that asks the public API writes it."""
    history = row.get("history") or []
    if isinstance(history, Mapping):
        history = _rows_of(history)
    settings = _spread({name: [value] for name, value in row.items() if name != "history"})
    names = column(path, settings, reading.run, RUN, "run") if settings else []
    name = " ".join(label(settings[key][0]) for key in names) or f"run {index + 1}"
    made = Recorded(name, str(path), _settings(settings, 0), {}, _state(settings, 0))
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        raise StudyError(f"{path}: history of {name}: allowed: a list of rows")
    if history:
        keys = dict.fromkeys(key for entry in history for key in entry)
        columns = {key: [entry.get(key) for entry in history] for key in keys}
        steps = column(path, columns, [reading.step] if reading.step else [], STEP, "step")
        if not steps:
            raise StudyError(f"{path}: history of {name} has no column of steps; found: {listed(_strings(keys), 40)}")
        curves = _by_step(path, name, columns, list(range(len(history))), steps[0], set(columns), reading)
        made.series = curves.series
        made.settings = {key: value for key, value in made.settings.items() if key not in made.series}
    return made


def _strings(names: Iterable[Any]) -> list[str]:
    return [str(name) for name in names]
