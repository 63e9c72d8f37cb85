"""Fixtures that every room's tests share."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Said before the packages of others are imported: no network, no telemetry.
os.environ.update(
    {
        "DO_NOT_TRACK": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "TRANSFORMERS_OFFLINE": "1",
        "WANDB_ERROR_REPORTING": "false",
    }
)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So a shell starts what runs in the background; programs that the tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

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


BREAKING = """from torch import nn


class Net(nn.Module):
    def __init__(self, vocabulary, fail):
        super().__init__()
        self.fail, self.count = fail, 0
        self.embedding = nn.Embedding(vocabulary, vocabulary)

    def forward(self, tokens):
        self.count += 1
        if self.fail and self.count > 12:
            raise RuntimeError('no such luck')
        return self.embedding(tokens)
"""


@pytest.fixture
def breaking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], dict[str, Any]]:
    """A user's model in a file of its own, as a study names it: one that fails in training, or one that does not."""
    name = f"breaking_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(BREAKING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return lambda fail: {"name": f"{name}:Net", "fail": fail}


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data beside the checkout; tests that need it skip where it is absent."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder}")
    return folder


@pytest.fixture(scope="session")
def laws_data(shared_data: Path) -> Path:
    """Folder of the loss tables."""
    folder = shared_data / "laws"
    if not folder.is_dir():
        pytest.skip(f"no loss tables at {folder}")
    return folder
