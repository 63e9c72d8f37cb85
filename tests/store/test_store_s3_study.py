"""A whole study from and to object storage: two drivers at once, the numbers of a run in a folder."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import s3_server
from ruamel.yaml import YAML
from tests.conftest import SMALL

import isoloss
from isoloss.store import Store

pytest.importorskip("s3fs", reason="needs isoloss[s3]")
pytest.importorskip("moto", reason="needs moto[server]")

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]


def command(*words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "isoloss.cli.main", *words]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=300)


def table(results: Any) -> Any:
    return results.frame().sort("arm", "duration", "seed").select("arm", "duration", "seed", "loss", "loss_a", "lr")


def test_two_drivers_run_one_study_to_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = copy.deepcopy(SMALL)
    study["grid"]["seed"] = [0]
    file = tmp_path / "small.yaml"
    with file.open("w") as stream:
        YAML().dump(study, stream)
    with s3_server.running() as server:
        s3_server.use(server, monkeypatch, tmp_path / "cache")
        url = "s3://bucket/small"
        line = [sys.executable, "-m", "isoloss.cli.main", "run", str(file), "--store", url, "--workers", "1"]
        drivers = [
            subprocess.Popen(
                [*line, "--out", str(tmp_path / f"page-{i}")],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            for i in range(2)
        ]
        for driver in drivers:
            _, errors = driver.communicate(timeout=300)
            assert driver.returncode == 0, errors
        stored = Store(url, create=False)
        rows = stored.pieces()
        assert stored.verify().clean and len({(r.start_key, r.end_key) for r in rows}) == len(rows)
        here = isoloss.run(file, tmp_path / "store", quiet=True, workers=2)
        assert table(isoloss.results(file, url)).equals(table(here))
        # Everything that the bucket has serves a study in a folder, which then trains nothing.
        again = isoloss.run(file, tmp_path / "top", under=[url], quiet=True, workers=1)
        assert again.trained == 0 and table(again).equals(table(here))
        said = command("plan", str(file), "--store", url)
        assert said.returncode == 0 and said.stderr == ""
        for words in (["ls", url], ["verify", url], ["gc", url, "--dry-run"], ["export", url, str(tmp_path / "small")]):
            done = command("store", *words)
            assert done.returncode == 0 and done.stderr == "", done.stderr
        for words in (["run", str(file), "--store"], ["plan", str(file), "--store"], ["store", "ls"]):
            wrong = command(*words, "s3://no-such-bucket/x")
            assert wrong.returncode == 2 and "there is no bucket 'no-such-bucket'" in wrong.stderr
            assert "Traceback" not in wrong.stderr
