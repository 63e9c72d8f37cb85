"""The commands and the code of docs/branch.md run, in its order, and do what it says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "branch.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}[^\n]*\n(.*?)```", TEXT, re.DOTALL)


def run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


@pytest.mark.slow
@pytest.mark.multiprocess
def test_what_it_says_runs(tmp_path: Path) -> None:
    (tmp_path / "trunk.yaml").write_text(blocks("yaml")[0])
    shutil.copy(ROOT / "examples" / "own_loop.py", tmp_path)
    of_store, own = (block.strip().splitlines() for block in blocks("bash"))
    said = []
    for line in of_store + own:
        words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', line)]
        head = [sys.executable] if words[0] == "python" else [sys.executable, "-m", "isoloss.cli.main"]
        said.append(run([*head, *words[1:]], tmp_path))
    assert "one_minus_sqrt over 20 updates from update 80: 100 in all" in said[1]
    assert "linear over 15 updates from update 60: 75 in all" in said[2]
    last = json.loads(said[3])
    assert (last["fork"], last["length"], last["trained"], last["cooldown"]["exponent"]) == (52, 13, 13, 0.3)
    python = run([sys.executable, "-c", blocks("python")[0]], tmp_path).split()
    assert (float(python[0]), python[1]) == (
        pytest.approx(float(re.findall(r"([\d.]+) on B", said[2])[0]), abs=1e-4),
        "0",
    )
    assert float(python[2]) > 0
    assert (tmp_path / "runs" / "update-500-one_minus_sqrt-100.pt").exists()
    assert "validation" in said[-1]


def test_its_table_names_every_form_and_its_adapter_is_the_example() -> None:
    from isoloss.recipe import catalogue

    forms = re.search(r"one of (.*?), or your own", TEXT)
    assert forms is not None
    assert set(forms[1].split(", ")) == set(catalogue.names("schedule", "decay"))
    example = (ROOT / "examples" / "own_loop.py").read_text()
    for line in blocks("text")[0].splitlines():
        code = re.sub(r"\s*#.*", "", line).strip()
        if code and not code.startswith(("schedule", "def ")):
            assert code in example, code
