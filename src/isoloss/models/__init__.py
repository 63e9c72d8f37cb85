"""Model ladders: built-in families and a user's own, with the facts that planning needs."""

from isoloss.models.adapters import library_version
from isoloss.models.build import (
    HEAD_NAMES,
    PARAMETRISATION,
    build,
    decayed,
    describe,
    has_batch_statistics,
    in_head,
    keeps_statistics,
    needs_whole_batch,
    saved_weights,
    transfer,
    transfers,
)
from isoloss.models.facts import ModelFacts
from isoloss.models.hugging_face import content as saved_content
from isoloss.models.memory import keep_freed_memory

__all__ = [
    "HEAD_NAMES",
    "PARAMETRISATION",
    "ModelFacts",
    "build",
    "decayed",
    "describe",
    "has_batch_statistics",
    "in_head",
    "keep_freed_memory",
    "keeps_statistics",
    "library_version",
    "needs_whole_batch",
    "saved_content",
    "saved_weights",
    "transfer",
    "transfers",
]
