"""`isoloss advise transfer` where it cannot answer: one message, exit code 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.command import isoloss
from tests.transfer_study import pretraining, transfer_study

STUDY = transfer_study(
    {"tuned": pretraining(duration="4 updates")},
    context=32,
    batch="2 sequences",
    duration="4 updates",
    evaluation={"tokens": 512, "every": "2 updates", "select": "best"},
    grid={"data.size": ["320 tokens", "1280 tokens"], "seed": [0]},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("study")
    (made / "mine.yaml").write_text(json.dumps(STUDY))
    isoloss("run", "mine.yaml", cwd=made)
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
    done = isoloss("advise", "transfer", "mine.yaml", *arguments.split(), cwd=folder, code=2)
    assert words in done.stderr
    assert done.stdout == ""


def test_help_lists_the_questions(tmp_path: Path) -> None:
    assert "transfer" in isoloss("advise", "--help", cwd=tmp_path).stdout
