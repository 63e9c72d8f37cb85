"""`isoloss branch` as it is typed: what it prints, and one line for what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.command import isoloss, typed

from isoloss.store import Store

STUDY = """
study: trunk
data: {source: synthetic, order: 1, vocabulary: 8, tokens: 20000, context: 8}
model: {family: gpt, depth: 1, head_size: 4, width: 8}
training: {optimizer: {name: adamw, lr: 0.01}, batch: 4 sequences, warmup: 4 updates}
evaluation: {tokens: 256}
duration: 20 updates
grid: {seed: [0, 1]}
baseline: {arm: flat, extra: none}
arms: {flat: {schedule: {shape: constant}}}
"""


@pytest.mark.multiprocess
def test_branch(tmp_path: Path) -> None:
    (tmp_path / "trunk.yaml").write_text(STUDY)
    isoloss("run", "trunk.yaml", cwd=tmp_path)
    found = json.loads(typed("branch", "trunk.yaml", "--run", "flat seed=1", "--json", cwd=tmp_path).stdout)
    assert (found["fork"], found["length"], found["total"], found["trained"]) == (20, 5, 25, 5)
    store = Store(tmp_path / "trunk.store")
    assert store.measurement(found["key"], "loss@B:256") == found["losses"]["B"]
    text = isoloss("branch", found["fork_key"][:12], "--store", "trunk.store", cwd=tmp_path).stdout
    assert "one_minus_sqrt over 5 updates from update 20: 25 in all" in text
    assert f"loss {found['losses']['A']:.4f} on A, {found['losses']['B']:.4f} on B (256 each); 0 updates" in text
    assert found["key"] in text
    for arguments, words in (
        (["trunk.yaml", "--run", "flat"], "several runs are called"),
        (["trunk.yaml", "--run", "flat seed=1", "--cooldown", "one_minus_sqr"], "did you mean 'one_minus_sqrt'"),
        (["elsewhere.yaml", "--run", "flat", "--store", "trunk.store"], "elsewhere.yaml"),
        (["trunk.yaml", "--run", "flat", "--store", "nowhere"], "nowhere"),
        (["0123456789", "--store", "trunk.store"], "no state or track"),
        (["trunk.yaml.pt"], "--store is missing"),
    ):
        said = isoloss("branch", *arguments, cwd=tmp_path, code=2).stderr
        assert words in said
        assert len(said.strip().splitlines()) == 1


def test_its_help_is_light(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['isoloss', 'branch', '--help']\nfrom isoloss.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as e:\n    assert not e.code\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--cooldown" in done.stdout
