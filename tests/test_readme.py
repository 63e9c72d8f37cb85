"""The numbers of the README are those of the kept result; its blocks and links are tested in tests/docs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_numbers_are_those_of_the_kept_result() -> None:
    spec = importlib.util.spec_from_file_location("readme", ROOT / "benchmarks" / "readme.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    answer = json.loads((ROOT / "docs" / "quickstart" / "answer.json").read_text())
    block = README[README.index(module.BEGIN) + len(module.BEGIN) : README.index(module.END)]
    assert block.strip() == module.table(answer).strip()
    assert any(entry["resolved"] for entry in answer["worth_overall"])
