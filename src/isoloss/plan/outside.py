"""Initial weights of somebody else, a file or a folder: addressed by content, checked against the model by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from isoloss import models
from isoloss.data import Source
from isoloss.data.tokenizer import open_tokenizer
from isoloss.recipe.errors import StudyError

MOST_NAMED = 6


def address(path: Path, head: str, shapes: Mapping[str, Sequence[int]]) -> str:
    """What stands for the weights in a key: the hash of the file, and whether its head is left out.

    ``shapes``: of the model's tensors by name. Raises StudyError where the file cannot be read, or lists the tensors
    that are missing, unexpected or of another shape; under ``head: reset`` those of the output head are not looked at.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size <= path.stat().st_size else None
        digest = content(path)
    except (OSError, ValueError) as error:
        raise StudyError(f"init.weights: {path} cannot be read as safetensors: {error}") from error
    if not isinstance(header, dict):
        raise StudyError(f"init.weights: {path} is no safetensors file; allowed: one that safetensors has written")
    there = {name: list(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    wanted = {name: list(shape) for name, shape in shapes.items()}
    if head == "reset":
        there, wanted = ({n: s for n, s in each.items() if not models.in_head(n)} for each in (there, wanted))
    faults = [
        ("missing", [name for name in wanted if name not in there]),
        ("unexpected", [name for name in there if name not in wanted]),
        (
            "of another shape",
            [f"{n} {there[n]} against {s}" for n, s in wanted.items() if n in there and there[n] != s],
        ),
    ]
    told = [f"{_some(names)} {words}" for words, names in faults if names]
    if told:
        raise StudyError(
            f"init.weights: {path} does not fit the model: {'; '.join(told)}; allowed: the names and shapes of the "
            "model's state_dict (init.head: reset leaves out the output head)"
        )
    return marked(digest, head)


def check_saved(path: Path, head: str, spec: Mapping[str, Any], source: Source, context: int) -> None:
    """Raise ``StudyError`` where a folder that `transformers` has saved does not fit the model or the data."""
    theirs, ours = path / "tokenizer.json", source.describe().get("tokenizer")
    if ours and theirs.is_file() and ours != open_tokenizer(str(theirs)).identity:
        raise StudyError(
            f"init.weights: {path} has a tokenizer of its own, so one token id would mean two things; allowed: "
            f"data.tokenizer: {theirs} (found: {ours.partition(':')[0]})"
        )
    models.saved_weights(path, spec, vocabulary=source.vocabulary, context=context, head=head)


def marked(digest: str, head: str) -> str:
    """A hash of weights, and whether their head is left out."""
    return digest if head == "keep" else f"{digest}:head={head}"


def content(path: Path) -> str:
    """SHA-256 of a file, or over the files of a folder that `transformers` has saved. Raises OSError, StudyError."""
    if path.is_dir():
        return models.saved_content(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
