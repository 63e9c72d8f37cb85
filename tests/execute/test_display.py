"""What a run says while it trains."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from isoloss.execute import display
from isoloss.execute.run import Options, execute
from isoloss.store import Store
from isoloss.study import from_dict

pytestmark = pytest.mark.multiprocess


def test_tuning_and_its_extensions_are_shares_of_the_whole(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small["arms"] = {"cosine": small["arms"]["cosine"]}
    small["grid"] |= {"duration": ["120 updates"], "seed": [0, 1]}
    # Far too small: the best candidate lies at an edge, twice.
    small["tune"] = {"training.optimizer.lr": [1e-6, 1e-5], "at": {"seed": 0}, "optimum": "parabola", "extend": 2}
    monkeypatch.setattr(display, "PLAIN_EVERY", 0.0)
    said = io.StringIO()
    execute(from_dict(small), Store(tmp_path / "store"), Options(workers=1), console=Console(file=said, width=200))
    rounds = re.split(r"^(?:tuning|study): .*$", said.getvalue(), flags=re.MULTILINE)[1:]
    assert len(rounds) == 4
    # 2 trials, 1 more, 1 more and 2 runs: the shares before the last round were of as many trials as were known of.
    ends = [max(int(share) for share in re.findall(r"(\d+)% of the work", part)) for part in rounds]
    assert ends[0] == pytest.approx(100 * 2 / 4, abs=12)
    assert ends[1] == pytest.approx(100 * 3 / 5, abs=12)
    assert ends[2] == pytest.approx(100 * 4 / 6, abs=12)
    assert ends[3] > 90
