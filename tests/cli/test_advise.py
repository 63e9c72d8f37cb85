"""`isoloss advise transfer` where it cannot answer: one message, exit code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ISOLOSS = Path(sys.executable).with_name("isoloss")
CHAIN = {"source": "synthetic", "order": 1, "vocabulary": 8, "tokens": 20_000}
STUDY = {
    "study": "transfer",
    "data": {**CHAIN, "seed": 1, "context": 32},
    "model": {"family": "gpt", "depth": 1, "head_size": 4, "width": 8},
    "training": {"optimizer": {"name": "adamw", "lr": 0.01}, "batch": "2 sequences"},
    "duration": "4 updates",
    "evaluation": {"tokens": 512, "every": "2 updates", "select": "best"},
    "grid": {"data.size": ["320 tokens", "1280 tokens"], "seed": [0]},
    "baseline": {"arm": "scratch", "extra": "none"},
    "arms": {"scratch": {}, "tuned": {"pretrain": {"data": {**CHAIN, "seed": 2}, "duration": "4 updates", "lr": 0.01}}},
}


def isoloss(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    return subprocess.run([ISOLOSS, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("study")
    (made / "mine.yaml").write_text(json.dumps(STUDY))
    assert isoloss("run", "mine.yaml", cwd=made).returncode == 0
    return made


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--target-data 3 --params 1e6", "--target-data: found 3 without a unit; allowed: a number and a unit (tokens"),
        ("--target-data 3GB --params 1e6", "allowed: tokens, bytes, KB, MB"),
        ("--target-data 300tokens --params -5", "--params: found -5; allowed: a number of parameters above 0"),
        ("--target-data 300tokens --params nan", "--params: found nan"),
        (
            "--target-data 300tokens --params 1e3 --source tune",
            "no source 'tune'; found: tuned (did you",
        ),
        ("--target-data 300tokens --params 1e3", "no law of transfer to advise from"),
        ("--target-data 300tokens --params 1e3 --store nowhere", "nowhere"),
    ],
)
def test_what_cannot_be_answered_is_one_message(folder: Path, arguments: str, words: str) -> None:
    done = isoloss("advise", "transfer", "mine.yaml", *arguments.split(), cwd=folder)
    assert done.returncode == 2, done.stdout
    assert words in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""


def test_help_lists_the_questions(tmp_path: Path) -> None:
    assert "transfer" in isoloss("advise", "--help", cwd=tmp_path).stdout
