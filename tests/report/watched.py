"""A store that grows before one's eyes: the pieces of a finished one, one after the other, as drivers publish them."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.conftest import SMALL


def tuned() -> dict[str, Any]:
    """The small study with its learning rate tuned."""
    study = copy.deepcopy(SMALL)
    del study["training"]["optimizer"]["lr"]
    study["tune"] = {"training.optimizer.lr": [0.005, 0.01], "at": {"duration": "20 updates"}}
    return study


def written(study: dict[str, Any], folder: Path, name: str = "small.yaml") -> Path:
    """A study as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(study))
    return path


def growing(finished: Path, target: Path) -> Iterator[int]:
    """Make ``target`` a store that has the blobs of another one and, from step to step, one more of its pieces."""
    target.mkdir(parents=True)
    shutil.copy2(finished / "format.json", target)
    shutil.copytree(finished / "blobs", target / "blobs")
    manifests = sorted((finished / "pieces").rglob("*.json"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    yield 0
    for number, manifest in enumerate(manifests, 1):
        place = target / manifest.relative_to(finished)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(manifest, place)
        yield number


def listing(store: Path) -> dict[str, tuple[int, int]]:
    """Size and time of writing of every file below a folder."""
    return {
        str(path.relative_to(store)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(store.rglob("*"))
        if path.is_file()
    }


def merged(known: dict[str, Any] | None, message: dict[str, Any]) -> dict[str, Any]:
    """What a page knows after a message, given what it knew."""
    if message["whole"] or known is None:
        assert message["whole"]
        return {name: message[name] for name in ("head", "plan", "runs", "tracks")}
    return {
        "head": message["head"],
        "plan": known["plan"],
        "runs": {**known["runs"], **message["runs"]},
        "tracks": {**known["tracks"], **message["tracks"]},
    }
