"""One case of each kind of fault; ``make chaos`` is the long form."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import table
from tests.chaos.kinds import KINDS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.multiprocess,
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and Linux's way to adopt orphans"),
]
REPOSITORY = Path(__file__).parents[2]


def test_the_counts_in_the_docs_are_those_of_the_last_long_form() -> None:
    page = (table.DOCS / "reliability.md").read_text()
    counts = json.loads((table.DOCS / "reliability-counts.json").read_text())["counts"]
    assert table.BEGIN in page and table.renewed(page) == page
    assert counts["all"]["injected"] >= 500 and counts["all"]["failures"] == 0 and set(counts) == {*KINDS, "all"}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What happened, by kind."""
    found = tmp_path_factory.mktemp("chaos") / "records.json"
    command = [sys.executable, "-m", "tests.chaos.chaos", "--each", "--seed", "0", "--records", str(found)]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert found.exists(), done.stdout + done.stderr
    return {record["kind"]: record for record in json.loads(found.read_text())}


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if not kind.slow])
def test_a_fault_costs_no_bit(records: dict[str, Any], kind: str) -> None:
    if kind not in records:
        pytest.skip("no file system can be mounted here")
    assert records[kind]["problems"] == []
    assert records[kind]["faults"]
