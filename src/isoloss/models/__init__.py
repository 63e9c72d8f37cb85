"""Model ladders: built-in families and a user's own, with the facts that planning needs."""

from isoloss.models.build import build, decayed, describe
from isoloss.models.facts import ModelFacts

__all__ = ["ModelFacts", "build", "decayed", "describe"]
