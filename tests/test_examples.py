"""The example loop: killed and resumed, and cooled down from any checkpoint, to the bit."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import isoloss

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "examples" / "own_loop.py"


@pytest.fixture(scope="module")
def own_loop() -> ModuleType:
    spec = importlib.util.spec_from_file_location("own_loop", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(SCRIPT), *map(str, arguments)]


ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its checkpoints, after the loop was killed and begun again."""
    folder = tmp_path_factory.mktemp("own")
    begun = subprocess.Popen(command(folder, "--updates", 1500), env=ONE_THREAD)
    deadline = time.monotonic() + 60
    while not (folder / "update-250.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    begun.kill()
    assert begun.wait() == -9
    assert not (folder / "trunk.pt").exists()
    done = subprocess.run(
        command(folder, "--updates", 1500), capture_output=True, text=True, check=True, env=ONE_THREAD
    )
    assert "from update-" in done.stdout
    return folder


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_killed_run_ends_where_an_undisturbed_one_does(runs: Path, own_loop: ModuleType) -> None:
    undisturbed = own_loop.go(own_loop.TRUNK, None, 1500)
    assert same(torch.load(runs / "trunk.pt"), undisturbed.state_dict())


@pytest.mark.slow
def test_cooldowns_equal_runs_in_one_go(runs: Path, own_loop: ModuleType) -> None:
    validation = own_loop.batch(-1)
    for fork in (500, 1250):
        subprocess.run(command(runs, "--cooldown", fork, "--length", 150), check=True, env=ONE_THREAD)
        schedule = own_loop.TRUNK | {"total": fork + 150, "cooldown": ("one_minus_sqrt", 150, 0.0)}
        whole = own_loop.go(schedule, None, fork + 150)
        assert same(torch.load(runs / f"cooled-{fork + 150}.pt"), whole.state_dict())
        trunk, _ = own_loop.build()
        trunk.load_state_dict(torch.load(runs / f"update-{fork}.pt")["model"])
        assert own_loop.loss_of(whole, validation) < own_loop.loss_of(trunk, validation)


def test_isoloss_branches_it_without_its_loop(runs: Path, own_loop: ModuleType, tmp_path: Path) -> None:
    found = isoloss.branch(runs / "update-500.pt", adapter=own_loop.Training, length=150, out=tmp_path / "cooled.pt")
    whole = own_loop.go(own_loop.TRUNK | {"total": 650, "cooldown": ("one_minus_sqrt", 150, 0.0)}, None, 650)
    written = torch.load(tmp_path / "cooled.pt", weights_only=True)
    assert same(written["model"], whole.state_dict())
    assert written["update"] == 650 == found.to_dict()["total"]
    assert found.to_dict()["validation"]["after"] < found.to_dict()["validation"]["before"]


def test_another_past_is_refused(runs: Path, own_loop: ModuleType, tmp_path: Path) -> None:
    class Wrong(own_loop.Training):  # type: ignore[misc, name-defined]
        schedule = own_loop.TRUNK | {"warmup": 50}

    with pytest.raises(isoloss.recipe.errors.StudyError, match="must be the past of the checkpoint"):
        isoloss.branch(runs / "update-500.pt", adapter=Wrong, length=150, out=tmp_path / "cooled.pt")
    assert not list(tmp_path.iterdir())
