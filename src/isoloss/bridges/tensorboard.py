"""TensorBoard event files: one run a folder, read by the `tensorboard` package itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isoloss.bridges.recorded import Recorded, Session, Setting, cut, flat, joined
from isoloss.recipe.errors import StudyError

PATTERN = "*events.out.tfevents.*"
FRAME = 16
"""Bytes that a record takes beside its content: length, and two checksums."""
HPARAMS = "_hparams_/session_start_info"


def folders(root: Path) -> list[Path]:
    """Folders below (and with) `root` that hold event files."""
    return sorted({path.parent for path in root.rglob(PATTERN) if path.is_file()})


def read(source: Path, restarts: str = "sessions") -> list[Recorded]:
    """The runs of an event file, or of a folder: one a folder with event files, named by its path below `source`.

    Several event files of a folder are one run that was started again. Hyper-parameters come from the HParams plugin,
    from texts that hold JSON (as the Hugging Face Trainer writes its arguments) and from a `hparams.yaml` (Lightning).
    Raises StudyError where the package is missing.
    """
    _package()
    root = source if source.is_dir() else source.parent
    files = {folder: sorted(folder.glob(PATTERN)) for folder in folders(root)} if source.is_dir() else {root: [source]}
    found: dict[Path, Recorded] = {}
    for folder, paths in files.items():
        name = folder.relative_to(root).as_posix() if folder != root else root.resolve().name
        found[folder] = _run(name, folder, paths, restarts)
    for folder, run in list(found.items()):
        parent = found.get(folder.parent)
        if parent is not None and run.settings and all(len(series) <= 1 for series in run.series.values()):
            # `SummaryWriter.add_hparams` puts them, with the final metrics, in a folder of their own.
            parent.settings = run.settings | parent.settings
            del found[folder]
    return [run for run in found.values() if run.series or run.settings]


def _run(name: str, folder: Path, paths: list[Path], restarts: str) -> Recorded:
    run = Recorded(name, str(folder), _lightning(folder))
    written: dict[str, list[Session]] = {}
    files = []
    for path in paths:
        content = _File(path)
        run.settings |= content.settings
        if content.lost:
            run.notes.append(f"{path.name}: the last {content.lost:,} bytes are cut off or damaged and were not read")
        if content.scalars:
            files.append(content)
    files.sort(key=lambda file: file.begin)
    for file in files:
        for tag, (steps, values) in file.scalars.items():
            written.setdefault(tag, []).append(Session(steps, values, file.begin, file.end))
    run.series = {tag: joined(sessions, restarts) for tag, sessions in written.items()}
    if len(files) > 1 and files[-1].begin >= max(file.end for file in files[:-1]):
        last = files[-1].last
        why = f"steps after {last:g} were written before the training was started again, and do not count"
        run.series = {tag: cut(series, last, why) for tag, series in run.series.items()}
    return run


class _File:
    """The scalars, settings and times of one event file."""

    def __init__(self, path: Path) -> None:
        self.scalars: dict[str, tuple[list[float], list[float]]] = {}
        self.settings: dict[str, Setting] = {}
        self._plugins: dict[str, str] = {}
        self.begin = self.end = self.last = 0.0
        size = 0
        for length, event in _events(path):
            size += length
            self.begin = self.begin or event.wall_time
            self.end = max(self.end, event.wall_time)
            for value in event.summary.value:
                self._take(event.step, value)
        self.lost = max(0, path.stat().st_size - size)
        self.last = max((max(steps) for steps, _ in self.scalars.values()), default=0.0)

    def _take(self, step: int, value: Any) -> None:
        from tensorboard.util import tensor_util

        # Writers of TensorFlow 2 describe a tag at its first value only.
        plugin = self._plugins.setdefault(value.tag, value.metadata.plugin_data.plugin_name)
        if value.tag == HPARAMS:
            self.settings |= _hparams(value.metadata.plugin_data.content)
        elif plugin == "text" and value.HasField("tensor"):
            self.settings |= _text(value.tag, tensor_util.make_ndarray(value.tensor).ravel())
        elif value.HasField("simple_value"):
            self._keep(value.tag, step, value.simple_value)
        elif plugin == "scalars" and value.HasField("tensor"):
            self._keep(value.tag, step, float(tensor_util.make_ndarray(value.tensor).item()))

    def _keep(self, tag: str, step: int, value: float) -> None:
        steps, values = self.scalars.setdefault(tag, ([], []))
        steps.append(float(step))
        values.append(float(value))


def _events(path: Path) -> Iterator[tuple[int, Any]]:
    """(bytes in the file, event) of every whole record, through the package's own compatibility layer."""
    from tensorboard import data_compat
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto import event_pb2

    for record in RawEventFileLoader(str(path)).Load():
        yield len(record) + FRAME, data_compat.migrate_event(event_pb2.Event.FromString(record))


def _hparams(content: bytes) -> dict[str, Setting]:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    found: dict[str, Setting] = {}
    for name, value in HParamsPluginData.FromString(content).session_start_info.hparams.items():
        kind = value.WhichOneof("kind")
        if kind in ("string_value", "number_value", "bool_value"):
            found[name] = getattr(value, kind)
    return found


def _text(tag: str, parts: Any) -> dict[str, Setting]:
    """Settings in a text that is a JSON mapping, below the tag's name."""
    for part in parts:
        try:
            values = json.loads(part)
        except (ValueError, TypeError):
            continue
        if isinstance(values, dict):
            return flat(values, f"{tag.removesuffix('/text_summary')}.")
    return {}


def _lightning(folder: Path) -> dict[str, Setting]:
    path = folder / "hparams.yaml"
    if not path.is_file():
        return {}
    from isoloss.study.reader import decode
    from isoloss.study.reader import read as read_yaml

    try:
        values, _ = read_yaml(decode(path.read_bytes(), path.name), path.name)
    except StudyError:
        return {}  # objects that only Python can make
    return flat(values) if isinstance(values, dict) else {}


def _package() -> None:
    try:
        import tensorboard  # noqa: F401
    except ImportError:
        raise StudyError(
            "TensorBoard event files are read by the package tensorboard: pip install 'isoloss[tensorboard]'"
        ) from None
