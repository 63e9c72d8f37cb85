"""What the README says is what is kept and what runs."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

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


def test_the_study_in_it_is_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from isoloss.study import loads

    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    study = loads(text)
    assert len(study.cells) == 3 * 3 * 3 * 2 + 9
    assert study.tune is not None


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        if not link.startswith("http"):
            assert (ROOT / link).exists(), link


def test_the_parts_in_it_run() -> None:
    import numpy as np

    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    parts = next(block for block in blocks if "isoloss.methods" in block)
    rng = np.random.default_rng(0)
    N, D = (a.ravel() for a in np.meshgrid([1e6, 1e7, 1e8, 1e9], [1e8, 1e9, 1e10, 1e11]))
    loss = (1.7 + 400 / N**0.34 + 900 / D**0.36) * np.exp(rng.normal(0, 0.003, N.size))
    scope = {"update": 500, "N": N, "D": D, "loss": loss, "run": [f"{i}" for i in range(N.size)]}
    exec(parts, scope)
    assert scope["lr"] == pytest.approx(3e-4)
