"""Model ladders: built-in families and a user's own, with the facts that planning needs."""

from isoloss.models.adapters import library_version
from isoloss.models.build import build, decayed, describe, has_batch_statistics, needs_whole_batch
from isoloss.models.facts import ModelFacts
from isoloss.models.memory import keep_freed_memory

__all__ = [
    "ModelFacts",
    "build",
    "decayed",
    "describe",
    "has_batch_statistics",
    "keep_freed_memory",
    "library_version",
    "needs_whole_batch",
]
