"""The page of a store that is being written: every look at it is whole, and shows no less than the look before."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import SMALL

import isoloss
from isoloss.report import tidy


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_report_reads_while_a_run_writes(tmp_path: Path) -> None:
    study = copy.deepcopy(SMALL)
    study["grid"] |= {"duration": ["60 updates", "120 updates"], "seed": [0, 1, 2]}
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(study))  # JSON is YAML
    store = tmp_path / "study.store"
    command = [sys.executable, "-m", "isoloss", "run", str(path), "--store", str(store), "--workers", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path) as running:
        finished: list[int] = []
        while running.poll() is None:
            if (store / "format.json").exists():
                finished.append(_look(path, store, tmp_path / "page"))
        assert running.stdout is not None
        assert running.returncode == 0, running.stdout.read().decode()
    finished.append(_look(path, store, tmp_path / "page"))
    assert finished == sorted(finished) and finished[-1] == 18
    assert len(set(finished)) > 2, "some looks fell between the first run and the last"


def _look(path: Path, store: Path, folder: Path) -> int:
    """Runs that the page shows as finished; page and numbers agree."""
    page = isoloss.report(isoloss.results(path, store).answer(), folder, figures=False)
    shown = page.read_text(encoding="utf-8")
    done = len(tidy.done(tidy.tidy(json.loads((folder / "result.json").read_text(encoding="utf-8")))))
    assert shown.rstrip().endswith("</html>")
    assert shown.count('<data class="loss"') == done
    return done
