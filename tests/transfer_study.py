"""The study of transfer that several rooms' tests run: two Markov chains, one tiny model, scratch and fine-tuned."""

from __future__ import annotations

from typing import Any

CHAIN: dict[str, Any] = {"source": "synthetic", "order": 1, "vocabulary": 8, "tokens": 20_000}


def pretraining(seed: int = 2, duration: str = "40 updates", **options: Any) -> dict[str, Any]:
    """A pre-training on the chain of that seed; seed 1 is the target itself."""
    return {"data": {**CHAIN, "seed": seed}, "duration": duration, "lr": 0.01, **options}


def transfer_study(
    tuned: dict[str, dict[str, Any]], *, context: int = 8, batch: str = "4 sequences", **parts: Any
) -> dict[str, Any]:
    """From scratch and with each pre-training of ``tuned``, by arm; ``parts`` replace whole parts of the study."""
    return {
        "study": "transfer",
        "data": {**CHAIN, "seed": 1, "context": context},
        "model": {"family": "gpt", "depth": 1, "head_size": 4, "width": 8},
        "training": {"optimizer": {"name": "adamw", "lr": 0.01}, "batch": batch},
        "duration": "20 updates",
        "evaluation": {"tokens": 256, "every": "5 updates", "select": "best"},
        "checkpoint": {"every": "8 updates"},
        "grid": {"data.size": ["400 tokens", "1600 tokens"], "seed": [0, 1]},
        "baseline": {"arm": "scratch", "extra": "none"},
        "arms": {"scratch": {}} | {arm: {"pretrain": pretrain} for arm, pretrain in tuned.items()},
        **parts,
    }
