"""Optimizers against the batch: rules go each of three ways on planted updates, tables say hand-computed numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
from reproductions.optimizers import _matches, _predicts, _scales, _strong, details
from reproductions.verdicts import FAILS, HOLDS, OPEN, Verdict

from reproductions import optimizers

SEEDS = ("0", "1", "2")
STILL, NOISY = (1.0, 1.0, 1.0), (0.5, 1.0, 2.0)
LARGER, SMALLER, LIKE = (60.0, 90.0), (5.0, 9.0), (15.0, 40.0)
"""Critical batches of LAMB, against that of AdamW: 10 to 20."""


def cell(arm: str, batch: float, updates: float, noise: tuple[float, ...] = STILL) -> dict[str, Any]:
    """Updates to the target of three seeds; two units of data in one of batch."""
    by_seed = {seed: updates * factor for seed, factor in zip(SEEDS, noise, strict=True)}
    middle = math.prod(by_seed.values()) ** (1 / len(SEEDS))
    return {"arm": arm, "batch": batch, "by_seed": by_seed, "updates": middle, "samples": 2 * batch * middle}


def critical(arm: str, ends: tuple[float | None, float | None]) -> dict[str, Any]:
    return {"arm": arm, "B_crit": value(*ends)}


def value(low: float | None, high: float | None) -> dict[str, float | None]:
    return {"ratio": 20.0, "low": low, "high": high}


def planted(*cells: dict[str, Any], never: tuple[str, float] | None = None, **more: Any) -> dict[str, Any]:
    """One size; ``never``: the arm and batch that end above the target."""
    missed = [] if never is None else [{"arm": never[0], "batch": never[1], "best": 3.0, "updates": 50}]
    return {"target": 2.0, "cells": list(cells), "missed": missed, "critical": [], "leaves": [], **more}


@pytest.mark.parametrize(
    ("updates", "noise", "verdict"),
    [
        (100, STILL, HOLDS),
        (109, STILL, HOLDS),
        (111, STILL, FAILS),
        (109, (0.999, 1, 1.001), HOLDS),
        (109, (0.99, 1, 1.01), OPEN),  # above 1 by the whole interval, and around 1.1
        (111, (0.99, 1, 1.01), OPEN),
        (130, (0.99, 1, 1.01), FAILS),
        (100, NOISY, OPEN),
    ],
)
def test_a_match_is_refuted_only_wholly_beyond_its_margin(
    updates: float, noise: tuple[float, ...], verdict: Verdict
) -> None:
    smaller = (cell("adamw", 8, 900), cell("lamb", 8, 100))
    size = planted(*smaller, cell("adamw", 64, updates, noise), cell("lamb", 64, 100))
    assert _matches(size, "adamw", "lamb") == verdict


def test_two_seeds_say_nothing_of_a_match() -> None:
    size = planted(cell("adamw", 64, 100), cell("lamb", 64, 200))
    assert _matches(size, "adamw", "lamb") == HOLDS
    del size["cells"][0]["by_seed"]["2"]
    assert _matches(size, "adamw", "lamb") == OPEN


def test_an_arm_that_never_reaches_the_target_matches_nothing() -> None:
    small = (cell("adamw", 8, 100), cell("lamb", 8, 100))
    assert _matches(planted(*small, cell("lamb", 64, 50), never=("adamw", 64)), "adamw", "lamb") == FAILS
    assert _matches(planted(*small, cell("adamw", 64, 50), never=("lamb", 64)), "adamw", "lamb") == HOLDS
    assert _matches(planted(never=("lamb", 64)), "adamw", "lamb") == OPEN
    below = planted(*small, cell("lamb", 64, 50), never=("adamw", 64))
    below["missed"][0]["best"] = 1.0  # below the target before its first measurement
    assert _matches(below, "adamw", "lamb") == OPEN


def scaled(
    lamb: float, ends: tuple[float | None, float | None], noise: tuple[float, ...] = STILL, **more: Any
) -> dict[str, Any]:
    """AdamW's updates halve in the last step; LAMB's fall from 400 to those, shared luck left out."""
    return planted(
        cell("adamw", 8, 800), cell("adamw", 32, 200, (0.8, 1, 1.2)), cell("adamw", 64, 100, (0.8, 1, 1.2)),
        cell("lamb", 8, 900), cell("lamb", 32, 400), cell("lamb", 64, lamb, noise),
        critical=[critical("adamw", (10.0, 20.0)), critical("lamb", ends)], **more,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("lamb", "noise", "ends", "verdict"),
    [
        (150, STILL, LARGER, HOLDS),
        (250, STILL, LARGER, OPEN),  # they contradict each other
        (150, STILL, SMALLER, OPEN),
        (250, STILL, SMALLER, FAILS),
        (250, STILL, LIKE, FAILS),
        (150, NOISY, SMALLER, FAILS),
        (150, STILL, LIKE, OPEN),
        (150, NOISY, LARGER, OPEN),
        (250, NOISY, LIKE, OPEN),
        (150, STILL, (5.0, 15.0), OPEN),
        (150, STILL, (60.0, None), HOLDS),
        (150, STILL, (None, 90.0), OPEN),
        (250, STILL, (None, 9.0), FAILS),
        (150, STILL, (None, None), OPEN),
    ],
)
def test_lamb_scales_further_only_by_both_measures(
    lamb: float, noise: tuple[float, ...], ends: tuple[float | None, float | None], verdict: Verdict
) -> None:
    assert _scales(scaled(lamb, ends, noise)) == verdict


def test_the_saving_is_that_of_the_last_common_step() -> None:
    """Below it LAMB saves 2.25 times and AdamW four times, which decides nothing; its seeds are paired."""
    size = scaled(160, LARGER)
    said = optimizers._saved_words(size)
    assert "from batch 32 to 64: LAMB 2.50× [2.50, 2.50], AdamW 2.00× [2.00, 2.00]" in said
    assert said.endswith("1.25× [1.25, 1.25]")
    claim = next(claim for claim in optimizers._of(size, "text") if claim.says.startswith("LAMB scales"))
    assert claim.verdict == HOLDS
    assert claim.found == f"critical batch of LAMB 20 [60, 90], of AdamW 20 [10, 20]; {said}"


@pytest.mark.parametrize(
    ("never", "ends", "verdict"),
    [
        ("adamw", LARGER, HOLDS),
        ("adamw", LIKE, OPEN),
        ("adamw", SMALLER, OPEN),
        ("lamb", LARGER, OPEN),
        ("lamb", LIKE, FAILS),
        ("lamb", SMALLER, FAILS),
    ],
)
def test_one_that_never_reaches_the_target_has_stopped_scaling(
    never: str, ends: tuple[float, float], verdict: Verdict
) -> None:
    size = scaled(150, ends, never=(never, 64))
    size["cells"] = [c for c in size["cells"] if (c["arm"], c["batch"]) != (never, 64)]
    assert _scales(size) == verdict
    assert optimizers._saved_words(size) == f"the target at batch 64: {never} does not reach it"


def test_one_common_batch_saves_nothing() -> None:
    size = planted(
        cell("adamw", 8, 100), cell("lamb", 8, 100),
        critical=[critical("adamw", (10.0, 20.0)), critical("lamb", LARGER)],
    )  # fmt: skip
    assert _scales(size) == OPEN
    assert optimizers._saved_words(size) == "both reach the target at batch 8 only"


@pytest.mark.parametrize(
    ("small", "large", "noise", "verdict"),
    [
        (100, 200, STILL, HOLDS),  # AdamW over Muon: 1, then 2
        (300, 200, STILL, FAILS),  # still ahead at the largest, but by less than at the smallest
        (50, 80, STILL, FAILS),  # grows, and stays behind
        (100, 200, NOISY, OPEN),
        (190, 200, (0.9, 1, 1.1), OPEN),  # ahead there, hardly more than at the smallest
    ],
)
def test_muon_is_strong_where_its_lead_grows(
    small: float, large: float, noise: tuple[float, ...], verdict: Verdict
) -> None:
    size = planted(
        cell("adamw", 8, small), cell("adamw", 32, 10), cell("adamw", 64, large, noise),
        cell("muon", 8, 100), cell("muon", 32, 100), cell("muon", 64, 100),
    )  # fmt: skip
    assert _strong(size) == verdict


def test_muon_where_one_of_both_never_reaches_the_target() -> None:
    both = (cell("adamw", 8, 100), cell("muon", 8, 100), cell("adamw", 32, 200), cell("muon", 32, 100))
    assert _strong(planted(*both)) == HOLDS
    assert _strong(planted(*both, cell("adamw", 64, 100), never=("muon", 64))) == FAILS
    assert _strong(planted(*both, cell("muon", 64, 100), never=("adamw", 64))) == HOLDS
    assert _strong(planted(cell("muon", 64, 100), never=("adamw", 64))) == OPEN
    assert _strong(planted(*both[:2])) == OPEN


@pytest.mark.parametrize(
    ("fitted", "predicted", "verdict"),
    [
        ((90, 110), (80, 120), HOLDS),
        ((290, 310), (100, 101), OPEN),
        ((40, 250), (50, 100), OPEN),  # up to five times
        ((310, 400), (90, 100), FAILS),
        ((10, 20), (61, 70), FAILS),
        ((10, 20), (59, 70), OPEN),
        ((310, None), (90, 100), FAILS),
        ((50, None), (90, 100), OPEN),
        ((None, 20), (61, 70), FAILS),
        ((None, 90), (61, 70), OPEN),
        ((310, 400), (None, 100), FAILS),
        ((90, 110), (None, 100), OPEN),
        ((10, 20), (61, None), FAILS),
        ((90, 110), (61, None), OPEN),
        ((90, 110), (-5, 0), OPEN),
        ((90, 110), (None, None), OPEN),
        ((None, None), (90, 110), OPEN),
    ],
)
def test_the_noise_scale_predicts_within_a_factor_of_three(
    fitted: tuple[float | None, float | None], predicted: tuple[float | None, float | None], verdict: Verdict
) -> None:
    entry = {"arm": "sgd", "B_crit": value(*fitted), "predicted": value(*predicted)}
    assert _predicts(entry) == verdict


def test_nothing_fitted_or_predicted_is_open() -> None:
    assert _predicts(None) == OPEN
    assert _predicts({"arm": "sgd", "B_crit": value(90, 110), "predicted": None}) == OPEN
    assert _predicts({"arm": "sgd", "B_crit": value(90, 110)}) == OPEN


STUDY = "training: {warmup: 2000 samples}\nevaluation: {every: 400 samples}\n"


def answered(size: dict[str, Any]) -> dict[str, Any]:
    return {
        "large_batch": {"sizes": [size], "excess": 1.2},
        "units": {"D": "samples"},
        "provenance": {"study_file": STUDY},
    }


def rows(markdown: str) -> list[list[str]]:
    return [[part.strip() for part in line.strip("|").split("|")] for line in markdown.splitlines()]


def test_details_say_hand_computed_numbers() -> None:
    """Data to the target: adamw 960, 1024, 2560, 10,240; lamb 19,750, 19,840, 30,720 and none.

    400 samples are 25 updates at batch 8, 6 at 32, 3 at 64 and 1 at 256.
    """
    size = planted(
        cell("adamw", 8, 60, (0.5, 1, 2)), cell("adamw", 32, 16, (0.5, 1, 2)), cell("adamw", 64, 20, (0.5, 1, 2)),
        cell("adamw", 256, 20, (0.5, 1, 2)),
        cell("lamb", 8, 1234.4, (0.5, 1, 2)), cell("lamb", 32, 310, (0.5, 1, 2)), cell("lamb", 64, 240, (0.5, 1, 2)),
        never=("lamb", 256), seeds=3, reference={"arm": "adamw", "batch": 8},
        leaves=[
            {"arm": "lamb", "first": 64, "left": None, "kept": None, "largest": 64},
            {"arm": "adamw", "first": None, "left": None, "kept": 32, "largest": 256},
        ],
        critical=[
            {**critical("adamw", (1.0, 1234.0)), "misfit": 0.5, "predicted": value(None, 7.5)},
            {**critical("lamb", (15.55, None)), "misfit": 0.01, "predicted": None},
        ],
    )  # fmt: skip
    updates, table, scaling, points = details(answered(size))
    assert rows(table) == [
        ["updates", "batch 8", "batch 32", "batch 64", "batch 256"],
        ["---"] * 5,
        ["lamb", "1,234", "310", "240", "–"],
        ["adamw", "~60", "~16", "20", "20"],
    ]
    assert "Updates to loss 2, the one that most reach with every seed" in updates
    assert "every 25 updates at batch 8, every 1 at batch 256" in updates
    assert "fewer than 3 measurements" in updates
    assert updates.endswith("Met while the learning rate still rises: adamw at batch 8, adamw at batch 32.")
    head, _, *body = rows(points)
    assert head[2] == "leaves that of adamw from batch 8"
    assert body == [
        # Against the own batch 8: lamb 1.00 and 1.56 times the data, adamw 1.07 and 2.67 times.
        ["lamb", "64", "64, not resolved", "20 [15.6, ?]", "not bounded"],
        ["adamw", "64", "not up to 256", "20 [1, 1,230]", "20 [?, 7.5]"],
    ]
    assert "more than 1.2 times the data" in scaling
    assert scaling.endswith("The hyperbola misses the runs by more than their noise: lamb (so wider intervals).")


def test_own_scaling_is_resolved_only_by_the_whole_interval() -> None:
    """At batch 16: 1.5 times the data of batch 8, with noise that is not the seeds' own, and without."""
    for noise, ends in ((STILL, "16"), ((2, 0.5, 1), "16, not resolved")):
        size = planted(
            cell("adamw", 8, 100), cell("adamw", 16, 75, noise), seeds=3, reference={"arm": "adamw", "batch": 8}
        )
        assert rows(details(answered(size))[3])[2] == ["adamw", ends, "–", "not fitted", "not bounded"]
    kept = planted(cell("adamw", 8, 100), cell("adamw", 16, 59), seeds=3, reference={"arm": "adamw", "batch": 8})
    assert rows(details(answered(kept))[3])[2][1] == "not up to 16"


def test_fine_measurements_after_the_warm_up_carry_no_marks() -> None:
    size = planted(cell("adamw", 8, 500), cell("adamw", 64, 90), seeds=3, reference={"arm": "adamw", "batch": 8})
    updates, table, *_ = details(answered(size))
    assert "the lowest that every arm reaches at every batch" in updates
    assert not any(mark in updates + table for mark in ("~", "still rises"))
    assert rows(table)[2] == ["adamw", "500", "90"]


def test_no_common_target_has_no_details() -> None:
    assert details(answered(planted(never=("adamw", 8)))) == []
