"""Fixtures that every room's tests share."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

SMALL: dict[str, Any] = {
    "study": "small",
    "data": {"source": "synthetic", "order": 1, "vocabulary": 8, "tokens": 20_000, "context": 8},
    "model": {"family": "gpt", "depth": 1, "head_size": 4, "width": 8},
    "training": {"optimizer": {"name": "adamw", "lr": 0.01}, "batch": "4 sequences", "warmup": "4 updates"},
    "evaluation": {"tokens": 256, "every": "10 updates"},
    "checkpoint": {"every": "8 updates"},
    "grid": {"duration": ["20 updates", "40 updates"], "seed": [0, 1]},
    "baseline": {"arm": "cosine", "extra": "none"},
    "arms": {
        "cosine": {"schedule": {"shape": "cosine", "final": 0.1}},
        "cooldown": {"schedule": {"shape": "constant", "cooldown": {"shape": "one_minus_sqrt", "fraction": 0.2}}},
        "averaged": {"schedule": {"shape": "constant"}, "average": {"kind": "window", "length": "10 updates"}},
    },
}


@pytest.fixture
def small() -> dict[str, Any]:
    """A study of seconds: a Markov chain, one tiny model, three arms, two durations, two seeds."""
    return copy.deepcopy(SMALL)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data beside the checkout; tests that need it skip where it is absent."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}")
    return folder
