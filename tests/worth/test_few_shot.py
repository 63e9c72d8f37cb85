"""Worth in shots: the published CIFAR-10 table, interpolation by hand, and tables that cannot be read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoloss.worth.few_shot import answer, read

TABLE = Path(__file__).resolve().parents[2] / "docs" / "few-shot-cifar10.csv"
MEANS = {
    "imagenet1k R50x1": (48.9, 72.3, 79.2, 88.1, 88.8, 94.3),
    "imagenet21k R50x1": (50.7, 73.3, 80.7, 90.9, 92.3, 95.8),
    "imagenet1k R152x4": (55.1, 82.0, 86.5, 92.3, 93.5, 96.9),
    "imagenet21k R152x4": (66.2, 88.9, 91.5, 95.1, 96.1, 97.8),
}
SHOTS = (1, 5, 10, 100, 500, 5000)


def test_the_table_has_the_published_means() -> None:
    rows = read(TABLE)
    assert len(rows) == 4 * 6 * 5
    for source, means in MEANS.items():
        for shots, mean in zip(SHOTS, means, strict=True):
            own = [r["score"] for r in rows if (r["source"], r["shots"]) == (source, shots)]
            assert round(100 * float(np.mean(own)), 1) == mean


def test_worth_by_the_published_means_alone() -> None:
    """5 shots of the best source: error 11.13 %, between the baseline's 11.92 % at 100 and 11.15 % at 500 shots."""
    found = answer(read(TABLE))
    json.dumps(found, allow_nan=False)
    cells = {(c["source"], c["shots"]): c for c in found["cells"]}
    five = cells["imagenet21k R152x4", 5]["needed"]
    assert five["value"] == pytest.approx(510, rel=0.05) and five["low"] < 500 < five["high"]
    assert cells["imagenet21k R152x4", 5]["worth"] == pytest.approx(five["value"] - 5)
    # 66.2 % from one shot lies between the baseline's 48.9 % (1 shot) and 72.3 % (5 shots).
    assert 1 < cells["imagenet21k R152x4", 1]["needed"]["value"] < 5
    # 95.1 % from 100 shots is above the 94.3 % of the baseline's whole training set.
    beyond = cells["imagenet21k R152x4", 100]["needed"]
    assert (beyond["value"], beyond["side"], beyond["bound"], beyond["sure"]) == (None, "more", 5000, True)
    assert any("needs more than 5000" in sentence for sentence in found["text"])


def rows(**sources: dict[float, float]) -> list[dict[str, Any]]:
    return [
        {"source": name, "shots": shots, "seed": seed, "score": score}
        for name, scores in sources.items()
        for shots, score in scores.items()
        for seed in range(3)
    ]


def test_interpolation_by_hand() -> None:
    """Error 0.4 at 1 shot and 0.1 at 100: 0.2 is half-way in log error, so at 10 shots."""
    found = answer(rows(base={1: 0.6, 100: 0.9}, better={2: 0.8}))
    (cell,) = found["cells"]
    assert cell["needed"]["value"] == pytest.approx(10.0) and cell["worth"] == pytest.approx(8.0)
    lower = answer(rows(base={1: 0.4, 100: 0.1}, better={2: 0.2}), better="lower")
    assert lower["cells"][0]["needed"]["value"] == pytest.approx(10.0)
    swapped = answer(rows(better={2: 0.8}, base={1: 0.6, 100: 0.9}), baseline="base")
    assert swapped["cells"] == found["cells"]


def test_the_published_files_are_read_as_they_are(tmp_path: Path) -> None:
    """Every row stands twice in them; "full" needs its number of shots."""
    lines = ["metric_value,metric,path,seed,shot,pretrained_model,dataset,last_step"]
    for shot, value in (("5_shot", 0.73), ("full_shot", 0.94)):
        lines += [f"{value},test/acc,some/path,1,{shot},imagenet1k_bit50x1,cifar10,500"] * 2
    path = tmp_path / "published.csv"
    path.write_text("\n".join(lines) + "\n")
    expected = [(5.0, 0.73), (5000.0, 0.94)]
    assert [(r["shots"], r["score"]) for r in read(path, full=5000)] == expected
    with pytest.raises(ValueError, match="full set; allowed: full="):
        read(path)


def test_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="columns a, b; allowed: source, shots"):
        read(path)
    path.write_text("source,shots,seed0\nx,many,0.5\n")
    with pytest.raises(ValueError, match="shots 'many'; allowed: a number"):
        read(path)
    good = rows(base={1: 0.6, 100: 0.9}, better={2: 0.8})
    with pytest.raises(ValueError, match=r"no rows of 'bas'; found: base, better .did you mean 'base'"):
        answer(good, baseline="bas")
    with pytest.raises(ValueError, match="error -10; allowed: above 0"):
        answer([good[0] | {"score": 11.0}])
    with pytest.raises(ValueError, match="row 1 lacks seed"):
        answer([good[0], {"source": "x", "shots": 1, "score": 0.5}])
    with pytest.raises(ValueError, match="repeats"):
        answer([good[0], good[0]])
    with pytest.raises(ValueError, match="error nan"):
        answer([good[0] | {"score": math.nan}])
