"""The newcomer's path: at most five commands from an installation to a decision on a table of one's own."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from tests.cli.command import isoloss

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorials" / "old-runs.md"


def test_five_commands_from_a_table_to_a_decision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAGE.read_text()
    monkeypatch.chdir(tmp_path)
    (made,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    exec(made, {})
    commands = [line for block in re.findall(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
                for line in block.splitlines()]  # fmt: skip
    assert re.search(r"^```text\npip install isoloss\n```$", text, re.MULTILINE)
    assert len(commands) + 1 <= 5
    said = {}
    for command in commands:
        name, *arguments = shlex.split(command)
        assert name == "isoloss"
        said[arguments[0] + arguments[-1]] = isoloss(*arguments, cwd=tmp_path).stdout
    (decision,) = re.findall(r'^```text title="decision"\n(.*?)\n```$', text, re.DOTALL | re.MULTILINE)
    assert decision in " ".join(said["reportadamw"].split())
    shown = re.findall(r"^ (\w+) +┃? *│ (.*?) +│ (.*?)$", text, re.MULTILINE)
    assert len(shown) == 6
    for quantity, source, how in shown:
        row = rf"^ {quantity} +│ {re.escape(source)} +│ {how} *$"
        assert re.search(row, said["import--show"], re.MULTILINE), quantity
    assert (tmp_path / "old.report" / "index.html").is_file()
