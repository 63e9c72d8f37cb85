"""The tutorial on transfer as a new user would follow it: its file, its commands, on a folder of text."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "transfer.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.multiprocess
def test_from_a_folder_of_text_to_advice(tmp_path: Path) -> None:
    text = tmp_path / "my-text"
    text.mkdir()
    for path in (Path(np.__file__).parent / "lib").glob("_*impl.py"):
        shutil.copy(path, text / f"{path.stem}.txt")
    (study,) = re.findall(r"```yaml title=\"mine.yaml\"\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "mine.yaml").write_text(study)
    commands = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    assert [command.split()[1] for command in commands] == ["plan", "run", "advise"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "ISOLOSS_CACHE": str(tmp_path / "cache"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }

    def called(command: str) -> str:
        done = subprocess.run(
            command.split(), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
        return re.sub(r"\s+", " ", done.stdout)

    planned, ran, advised = map(called, commands)
    assert "48 runs" in planned and "worth in data" in ran and "english, N 25.2k" in ran
    html = (tmp_path / "mine.report" / "index.html").read_text(encoding="utf-8")
    found = json.loads((tmp_path / "mine.report" / "result.json").read_text())["transfer"]
    assert 'id="transfer"' in html and found["advice"] in re.sub(r"\s+", " ", ran)
    assert "30k tokens with N = 25k should be worth" in advised and "helps more" in advised
    told = json.loads(
        subprocess.run(
            [*commands[-1].split(), "--json"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout
    )
    assert told["target_data"] == 30_000 and told["sources"][0]["multiplier"]["value"] > 1
    again = called(commands[1])
    assert found["advice"] in again
