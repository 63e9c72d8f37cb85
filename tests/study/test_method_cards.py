"""Every YAML example of a method's card is a study, put on top of a small one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from isoloss.study import loads

CARDS = sorted((Path(__file__).resolve().parents[2] / "docs" / "methods").glob("*.md"))
EXAMPLES = [
    (card.stem, block)
    for card in CARDS
    for block in re.findall(r"```yaml\n(.*?)```", card.read_text(encoding="utf-8"), re.DOTALL)
]
REST = {
    "data": "{source: stdlib-code, context: 64}",
    "model": "{family: gpt, depth: 2, width: 32}",
    "training": "{optimizer: {name: adamw}, batch: 16 sequences}",
    "duration": "100 updates",
    "tune": "{training.optimizer.lr: [1e-3]}",
}


@pytest.mark.parametrize(("card", "block"), EXAMPLES, ids=[card for card, _ in EXAMPLES])
def test_examples_are_studies(card: str, block: str) -> None:
    written = re.findall(r"^(\w+):", block, re.MULTILINE)
    rest = {key: value for key, value in REST.items() if key != "tune" or "training" not in written}
    lines = [f"{key}: {value}" for key, value in rest.items() if key not in written]
    if "training" in written and "batch" not in block:
        block = block.replace("training: {", "training: {batch: 16 sequences, ")
    study = loads("\n".join([f"study: {card}", *lines, block]))
    assert study.cells


def test_there_are_examples() -> None:
    assert {"schedule_free", "muon", "mup"} <= {card for card, _ in EXAMPLES}
