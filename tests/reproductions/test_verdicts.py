"""Verdicts: pairs of runs against hand-made differences, and rules that go each of three ways."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from reproductions.verdicts import (
    FAILS,
    HOLDS,
    OPEN,
    above,
    agree,
    below,
    both,
    contains,
    durations,
    either,
    higher,
    lower,
    no_worse,
    paired,
    runs,
    turned,
)
from scipy import stats

LUCK = (0.3, -0.2, 0.1, 0.05)
GAPS = {"1 k": -0.4, "4 k": -0.1}


def planted(arm: str, worse: float = 0.0) -> list[dict[str, Any]]:
    """Runs of two batches, sizes of data and durations whose losses share a seed's luck."""
    return [
        {
            "arm": f"{arm} · batch {batch}", "status": "done", "extra": False, "seed": str(seed), "D": D, "N": 10,
            "cell": {"training.batch": f"{batch} samples", "data.size": size, "duration": f"{D} updates", "seed": seed},
            "loss": 2 + luck + (gap + worse * (1 + 0.1 * seed) if arm == "method" else 0.0) + batch / 1000 + D / 1e4,
        }
        for batch in (8, 64)
        for size, gap in GAPS.items()
        for D in (100, 20)
        for seed, luck in enumerate(LUCK)
    ]  # fmt: skip


ANSWER = {"runs": planted("method", 0.02) + planted("plain")}


def test_every_place_counts_once() -> None:
    """Sizes of data and durations, which both arms have, are averaged; of batches one was chosen."""
    found = paired(runs(ANSWER, "method", batch="64 samples"), runs(ANSWER, "plain", batch="64 samples"))
    assert found is not None and found["seeds"] == len(LUCK)
    by_seed = [np.mean(list(GAPS.values())) + 0.02 * (1 + 0.1 * seed) for seed in range(len(LUCK))]
    half = stats.t.ppf(0.95, len(LUCK) - 1) * np.std(by_seed, ddof=1) / np.sqrt(len(LUCK))
    assert found["value"] == pytest.approx(np.mean(by_seed))
    assert (found["low"], found["high"]) == pytest.approx((np.mean(by_seed) - half, np.mean(by_seed) + half))
    one = paired(
        runs(ANSWER, "method", batch="8 samples", size="4 k"), runs(ANSWER, "plain", batch="8 samples", size="4 k")
    )
    assert one is not None and one["value"] == pytest.approx(-0.1 + 0.02 * 1.15)


def test_batches_are_compared_with_each_other() -> None:
    found = paired(runs(ANSWER, "plain", batch="64 samples"), runs(ANSWER, "plain", batch="8 samples"))
    assert found is not None and found["value"] == pytest.approx(56 / 1000)


def test_a_share_of_another_difference_is_taken_off() -> None:
    pair = runs(ANSWER, "method", batch="8 samples"), runs(ANSWER, "plain", batch="8 samples")
    found, whole = paired(*pair, less=pair, share=0.25), paired(*pair)
    assert found is not None and whole is not None and found["value"] == pytest.approx(0.75 * whole["value"])


def test_runs_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="two runs at"):
        paired([*ANSWER["runs"], ANSWER["runs"][0]], ANSWER["runs"])


def test_nothing_in_common() -> None:
    assert paired(runs(ANSWER, "method", size="1 k"), runs(ANSWER, "nobody")) is None
    assert durations(ANSWER["runs"]) == ["20 updates", "100 updates"]


def test_rules_go_each_of_three_ways() -> None:
    def row(low: float | None, high: float | None) -> dict[str, Any]:
        return {"value": 0.0, "low": low, "high": high}

    assert [lower(row(*ends)) for ends in ((-2, -1), (-1, 1), (1, 2), (None, None))] == [HOLDS, OPEN, FAILS, OPEN]
    assert [higher(row(*ends)) for ends in ((1, 2), (-1, 1), (-2, -1))] == [HOLDS, OPEN, FAILS]
    assert [below(row(*ends), 1.0) for ends in ((0.1, 0.9), (0.9, 1.1), (1.1, 2))] == [HOLDS, OPEN, FAILS]
    assert [above(row(*ends)) for ends in ((1.1, 2), (0.9, 1.1), (0.1, 0.9))] == [HOLDS, OPEN, FAILS]
    assert [no_worse(row(*ends)) for ends in ((-1, 0.005), (0.001, 0.02), (0.011, 0.02))] == [HOLDS, OPEN, FAILS]
    near = ((1.6, 2.4), (2.1, 2.2), (1, 3), (2.1, 2.6), (2.6, 3), (1, 1.4))
    assert [contains(row(*ends), 2.0, 0.5) for ends in near] == [HOLDS, HOLDS, OPEN, OPEN, FAILS, FAILS]
    assert [both(*said) for said in ((HOLDS, HOLDS), (HOLDS, OPEN), (OPEN, FAILS))] == [HOLDS, OPEN, FAILS]
    assert [either(*said) for said in ((FAILS, HOLDS), (FAILS, OPEN), (FAILS, FAILS))] == [HOLDS, OPEN, FAILS]
    assert [agree(said) for said in ((HOLDS, HOLDS), (HOLDS, FAILS), (FAILS, FAILS))] == [HOLDS, OPEN, FAILS]
    assert turned(row(1, 2)) == {"value": -0.0, "low": -2, "high": -1} and turned(None) is None
