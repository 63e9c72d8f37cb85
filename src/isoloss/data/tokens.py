"""``tokens``: a memory map of token ids that somebody else made (``.npy``, or raw ``.bin``)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from isoloss.data.cache import cache_folder
from isoloss.data.files import missing, path_of, remembered
from isoloss.data.options import choice, integer, number, refuse_unknown
from isoloss.data.size import token_limit
from isoloss.data.source import TokenSource
from isoloss.recipe.errors import StudyError

_TYPES = ("uint8", "uint16", "int16", "uint32", "int32", "int64")
_CHUNK = 1 << 22


def open_tokens(spec: Mapping[str, Any], cache: Path | None = None) -> TokenSource:
    """``tokens``: options path, vocabulary, validation (a file of its own), holdout (0.1), dtype of ``.bin``
    (uint16).

    Without a validation file the last ``holdout`` of the tokens is held out. Nothing is copied.
    """
    refuse_unknown("tokens", spec, ("path", "vocabulary", "validation", "holdout", "dtype"))
    vocabulary = integer(spec, "vocabulary", None, 2, 2**31 - 1)
    holdout = number(spec, "holdout", 0.1, 0.001, 0.5)
    dtype = choice(spec, "dtype", "uint16", _TYPES)
    folder = cache_folder(cache)
    train, content = _load("path", spec.get("path"), dtype, vocabulary, folder)
    own = spec.get("validation")
    if own is None:
        cut = len(train) - round(len(train) * holdout)
        train, held_out = train[:cut], train[cut:]
        split: dict[str, Any] = {"split": "tail", "holdout": holdout}
    else:
        held_out, other = _load("validation", own, dtype, vocabulary, folder)
        split = {"split": "own", "validation": other}
    return TokenSource(
        name="tokens",
        train=train,
        held_out=held_out,
        documents=[len(held_out)],
        vocabulary=vocabulary,
        identity={"source": "tokens", "semantics": 1, "content": content, "vocabulary": vocabulary, **split},
        facts={"content_digest": content, **split},
        bytes_per_token=math.nan,
        limit=token_limit(spec.get("size"), len(train), context=spec.get("context")),
        context=spec.get("context"),
    )


def _load(option: str, value: Any, dtype: str, vocabulary: int, cache: Path) -> tuple[np.ndarray, str]:
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str) or not value:
        raise StudyError(f"data.{option}: found {value!r}; allowed is the path of one .npy or .bin file of token ids")
    path = path_of(option, value)
    if not path.is_file():
        raise missing(option, path)
    array = _map(option, path, dtype)
    if len(array) == 0:
        raise StudyError(f"data.{option}: {path} holds no tokens (empty corpus)")
    facts = remembered(path, cache, f"tokens:{array.dtype.str}", lambda: _measure(array))
    if facts["least"] < 0 or facts["largest"] >= vocabulary:
        raise StudyError(
            f"data.vocabulary: {path} holds ids from {facts['least']} to {facts['largest']}; "
            f"with a vocabulary of {vocabulary} allowed is 0 to {vocabulary - 1}"
        )
    return array, str(facts["sha256"])


def _map(option: str, path: Path, dtype: str) -> np.ndarray:
    try:
        if path.suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            if array.ndim != 1 or array.dtype.kind not in "iu":
                raise StudyError(
                    f"data.{option}: {path} holds {array.dtype} of shape {array.shape}; "
                    "allowed are integers in one dimension"
                )
            return array
        if path.suffix != ".bin":
            raise StudyError(f"data.{option}: {path} ends in {path.suffix!r}; allowed: .npy, .bin")
        size, item = path.stat().st_size, np.dtype(dtype).itemsize
        if size % item:
            raise StudyError(
                f"data.{option}: {path} has {size} bytes, which is no whole number of {dtype}; set data.dtype"
            )
        return np.memmap(path, dtype=np.dtype(dtype).newbyteorder("<"), mode="r") if size else np.empty(0, dtype)
    except (OSError, ValueError, EOFError) as error:
        raise StudyError(f"data.{option}: cannot read {path}: {error}") from error


def _measure(array: np.ndarray) -> dict[str, Any]:
    """Range and hash in one pass; the hash is of the values, whatever their stored type."""
    content, least, largest = hashlib.sha256(), math.inf, -math.inf
    for start in range(0, len(array), _CHUNK):
        chunk = np.asarray(array[start : start + _CHUNK])
        least, largest = min(least, int(chunk.min())), max(largest, int(chunk.max()))
        content.update(np.ascontiguousarray(chunk, dtype="<i8").data)
    return {"sha256": content.hexdigest(), "least": int(least), "largest": int(largest)}
