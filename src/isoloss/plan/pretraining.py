"""What must agree between an earlier training and the run that goes on from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from isoloss import models
from isoloss.data import Source
from isoloss.recipe.errors import StudyError


def check(
    given: Mapping[str, Any],
    starts: tuple[Mapping[str, Any], Mapping[str, Any]],
    sources: tuple[Source, Source],
    tensors: Callable[[], Sequence[str]],
) -> None:
    """Raise ``StudyError`` where a state of the earlier training would not fit the run, or would mean something else.

    ``given``: the mapping ``pretrain``; ``starts``, ``sources``: model records and data of the earlier training, then
    of the run; ``tensors``: names of the model's trained tensors.
    """
    there, here = (source.describe().get("tokenizer") for source in sources)
    if here and there and here != there:
        raise StudyError(
            f"pretrain.data.tokenizer: one token id would mean two things ({_short(there)} against {_short(here)} of "
            "data); allowed: data of the same tokenizer"
        )
    theirs, ours = starts
    differ = [name for name in ("vocabulary", "context", "shape") if ours.get(name) != theirs.get(name)]
    if differ:
        found = "; ".join(f"{name} {theirs.get(name)} against {ours.get(name)} of data" for name in differ)
        raise StudyError(
            f"pretrain.data: the model would have other tensors ({found}); allowed: data of the same tokenizer or "
            "number of classes, context and shape"
        )
    if given["head"] == "reset" and not any(map(models.in_head, tensors())):
        raise StudyError(
            "pretrain.head: found reset, but the model has no output head of its own (no tensor below a name of "
            f"{', '.join(models.HEAD_NAMES)}); allowed: keep"
        )


def _short(tokenizer: str) -> str:
    """A tokenizer's identity; of a long hash the first digits."""
    kind, colon, code = tokenizer.partition(":")
    return f"{kind}{colon}{code[:12]}"
