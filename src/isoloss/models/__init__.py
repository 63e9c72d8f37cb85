"""Model ladders: built-in families and a user's own, with the facts that planning needs."""

from isoloss.models.build import build, decayed, describe
from isoloss.models.facts import ModelFacts
from isoloss.models.memory import keep_freed_memory

__all__ = ["ModelFacts", "build", "decayed", "describe", "keep_freed_memory"]
