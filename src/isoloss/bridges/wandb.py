"""Weights & Biases: the `.wandb` file that a run writes on disk, offline or not. Exports are tables (`bridges.table`).

The file is a log in blocks of 32 KiB, each record with a checksum (the format of LevelDB's logs), and every record a
protocol buffer that the package `wandb` defines.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isoloss.bridges.recorded import FINISHED, Recorded, Session, Setting, flat, joined
from isoloss.recipe.errors import StudyError

PATTERN = "*.wandb"
HEADER, BLOCK, FRAME = 7, 32 * 1024, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
OWN = "_wandb"


def read(source: Path, restarts: str = "sessions") -> list[Recorded]:
    """The runs of a `.wandb` file or of all in a folder; files of one run (it was resumed) are joined.

    Settings: the config, and summary values that are no metric of the history. Raises StudyError where the package is
    missing or a file is no such log.
    """
    paths = sorted(source.rglob(PATTERN)) if source.is_dir() else [source]
    logs: dict[str, list[_Log]] = {}
    for path in paths:
        log = _Log(path)
        logs.setdefault(log.run or path.stem, []).append(log)
    names = [several[-1].name for several in logs.values()]
    found = []
    for run, several in logs.items():
        several.sort(key=lambda log: log.begin)
        last = several[-1]
        name = last.name or run
        if names.count(last.name) > 1:
            name = f"{name} ({run})"
        written: dict[str, list[Session]] = {}
        for log in several:
            for key, (steps, values) in log.series.items():
                written.setdefault(key, []).append(Session(steps, values, log.begin, log.end))
        series = {key: joined(sessions, restarts) for key, sessions in written.items()}
        settings: dict[str, Setting] = {}
        for log in several:
            settings |= {key: value for key, value in flat(log.summary).items() if key not in series}
        for log in several:
            settings |= flat(log.config)
        made = Recorded(name, str(last.path), settings, series, last.state)
        made.notes += [f"{log.path.name}: {log.lost}" for log in several if log.lost]
        found.append(made)
    return found


class _Log:
    """What one `.wandb` file says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = self.name = ""
        self.begin = self.end = 0.0
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.series: dict[str, tuple[list[float], list[float]]] = {}
        self.state = "not ended"
        """A run that was killed, or that goes on, writes no end."""
        self.lost = ""
        messages = _messages()
        reader = _Records(path)
        for content in reader:
            self._take(messages.Record.FromString(content))
        self.lost = reader.lost

    def _take(self, record: Any) -> None:
        kind = record.WhichOneof("record_type")
        if kind == "run":
            self.run, self.name = record.run.run_id, record.run.display_name
            self.begin = record.run.start_time.seconds + record.run.start_time.nanos * 1e-9
            _update(self.config, record.run.config)
            _update(self.summary, record.run.summary)
        elif kind == "config":
            _update(self.config, record.config)
        elif kind == "summary":
            _update(self.summary, record.summary)
        elif kind == "history":
            self._history(record.history)
        elif kind == "exit":
            self.state = "failed" if record.exit.exit_code else FINISHED

    def _history(self, history: Any) -> None:
        row = {_path(item): _value(item) for item in history.item}
        step = row.get("_step", history.step.num)
        self.end = max(self.end, float(row.get("_timestamp") or 0.0))
        for name, value in row.items():
            number = _number(value)
            if number is not None and not name.startswith(("_step", OWN)):
                steps, values = self.series.setdefault(name, ([], []))
                steps.append(float(step))
                values.append(number)


def _update(kept: dict[str, Any], record: Any) -> None:
    for item in record.update:
        if not _path(item).startswith(OWN):
            kept[_path(item)] = _value(item)
    for item in record.remove:
        kept.pop(_path(item), None)


def _path(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


def _value(item: Any) -> Any:
    """A value as Python has it; newer files hold numbers as they are, older ones JSON."""
    kinds = [field.name for field, _ in item.ListFields() if field.name not in ("key", "nested_key")]
    if not kinds or kinds[0] == "none":
        return None
    value = getattr(item, kinds[0])
    if kinds[0] in ("json", "value_json"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _number(value: Any) -> float | None:
    """A number that was logged; JSON has words for what is not finite."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value)
    return (
        {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}.get(value) if isinstance(value, str) else None
    )


class _Records:
    """The records of a log in their order. `lost` says where a damaged or unfinished end was left out."""

    def __init__(self, path: Path) -> None:
        self.lost = ""
        self._data = path.read_bytes()
        if self._data[:4] != b":W&B":
            raise StudyError(f"{path}: found {self._data[:4]!r} at its beginning; allowed: a file that wandb wrote")

    def __iter__(self) -> Iterator[bytes]:
        data, at = self._data, HEADER
        parts: list[bytes] = []
        while at + FRAME <= len(data):
            left = BLOCK - at % BLOCK
            if left < FRAME:
                at += left
                continue
            checksum = int.from_bytes(data[at : at + 4], "little")
            length = int.from_bytes(data[at + 4 : at + 6], "little")
            kind, content = data[at + 6], data[at + FRAME : at + FRAME + length]
            if len(content) < length or zlib.crc32(data[at + 6 : at + FRAME + length]) != checksum:
                break
            parts = [content] if kind in (FULL, FIRST) else [*parts, content]
            if kind in (FULL, LAST):
                yield b"".join(parts)
            at += FRAME + length
        if at < len(data):
            self.lost = f"the last {len(data) - at:,} bytes are cut off or damaged and were not read"


def _messages() -> Any:
    try:
        from wandb.proto import wandb_internal_pb2
    except ImportError:
        raise StudyError(
            ".wandb files are read with the package wandb: pip install 'isoloss[wandb]', or export a table in its pages"
        ) from None
    return wandb_internal_pb2
