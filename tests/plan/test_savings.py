"""Savings of trunks with cooldowns: the published figures, the closed form, and when there is nothing to say."""

from __future__ import annotations

from pathlib import Path

import pytest

import isoloss
from isoloss.plan.savings import COUNTS, ENDS, EVERY_TERM, MATRICES, RUNS_ON, Saving
from isoloss.study import Study, from_dict, load

STUDIES = Path(__file__).parents[2] / "studies"
BASE = {
    "study": "x",
    "data": {"source": "synthetic", "tokens": 20_000, "context": 8},
    "model": {"family": "gpt", "width": 16, "depth": 1},
    "training": {"batch": "4 sequences", "optimizer": {"lr": 1e-3}},
    "evaluation": {"tokens": 1024},
    "duration": "100 updates",
}
COOLDOWN = {"shape": "constant", "cooldown": {"fraction": 0.2}}

PUBLISHED = {
    384: 1.718e11, (512, 8): 2.549e11, (512, 10): 2.791e11, 640: 4.093e11, (768, 12): 5.274e11, (768, 16): 6.241e11,
    896: 6.829e11, (768, 24): 8.176e11, 1024: 1.341e12,
}  # fmt: skip
"""Training FLOPs a sequence as the published notebook prints them, by width (and depth)."""


def saving(study: Study | Path, count: str, arm: str = "cooldown") -> Saving:
    (found,) = [s for s in isoloss.plan(study).savings if (s.arm, s.count) == (arm, count)]
    return found


def test_nine_sizes_give_both_published_accountings() -> None:
    study = load(STUDIES / "savings-nine-sizes.yaml")
    found = saving(study, EVERY_TERM)
    assert (found.against, found.runs, found.trunks) == ("cosine", 27, 9)
    assert f"{found.ratios[ENDS]:.3f}" == "0.554"
    assert f"{found.ratios[RUNS_ON]:.3f}" == "0.643"
    assert f"{saving(study, MATRICES).ratios[ENDS]:.3f}" == "0.554"
    text = str(isoloss.plan(study))
    assert "0.554" in text and "0.643" in text and "those of cosine" in text


def test_the_count_with_all_terms_is_the_published_one() -> None:
    planned = isoloss.plan(load(STUDIES / "savings-nine-sizes.yaml"))
    for cell, lowered in zip(planned.study.cells, planned.stage.runs, strict=True):
        model = cell.config["model"]
        known = PUBLISHED.get(model["width"]) or PUBLISHED[model["width"], model["depth"]]
        sequences = lowered.facts.batch
        assert COUNTS[EVERY_TERM](lowered) / sequences == pytest.approx(known, rel=5e-4)


def test_four_ratios_of_tokens_to_parameters_give_the_published_saving() -> None:
    study = load(STUDIES / "savings-tokens-per-parameter.yaml")
    found = saving(study, EVERY_TERM)
    assert (found.runs, found.trunks) == (200, 50)
    assert f"{found.ratios[ENDS]:.3f}" == "0.421"
    assert found.ratios[ENDS] == pytest.approx(29.5 / 70, abs=1e-4)
    # The published totals have their own numbers of heads in six large models.
    assert found.separate == pytest.approx(5.59e23, rel=0.03)
    assert found.ends == pytest.approx(2.36e23, rel=0.03)


def test_one_size_is_the_closed_form_in_updates() -> None:
    grid = {"duration": ["100 updates", "200 updates", "400 updates"], "seed": [0, 1]}
    arms = {"cooldown": {"schedule": COOLDOWN}, "cosine": {"schedule": {"shape": "cosine"}}}
    study = from_dict(BASE | {"grid": grid, "arms": arms, "baseline": "cosine"})
    for count in COUNTS:
        found = saving(study, count)
        assert (found.runs, found.trunks, found.against) == (6, 2, "cosine")
        assert found.ratios[ENDS] == pytest.approx((400 + 0.2 * 300) / 700)
        assert found.ratios[RUNS_ON] == pytest.approx((400 + 0.2 * 700) / 700)
    alone = from_dict(BASE | {"grid": grid, "schedule": COOLDOWN, "baseline": {"arm": "base", "extra": "none"}})
    found = saving(alone, MATRICES, "base")
    assert found.against == "base" and found.ratios[ENDS] == pytest.approx(460 / 700)


def test_nothing_is_claimed_where_no_trunk_is_shared() -> None:
    arms = {"cooldown": {"schedule": COOLDOWN}, "cosine": {"schedule": {"shape": "cosine"}}}
    one = from_dict(BASE | {"arms": arms, "baseline": "cosine"})
    assert isoloss.plan(one).savings == ()
    constant = from_dict(BASE | {"grid": {"duration": ["100 updates", "200 updates"]}})
    assert isoloss.plan(constant).savings == ()
