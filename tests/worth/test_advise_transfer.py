"""Advice on transfer against planted laws: the multiplier to expect, its coverage, and what runs would bring."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from transfer_data import CLOSER, DATA, LAW, SIZES, TARGET, loss, planted, transferred

from isoloss.laws.forms.transfer import TEXT
from isoloss.worth.advise_transfer import advise
from isoloss.worth.transfer import answer

PLACE: dict[str, Any] = {"target_data": 8e4, "params": 8e5}


def one(found: dict[str, Any], **options: Any) -> dict[str, Any]:
    record = advise(found, **(PLACE | options))
    json.dumps(record, allow_nan=False)
    (advice,) = record["sources"]
    return dict(advice)


def test_the_planted_multiplier_is_expected() -> None:
    advice = one(answer(planted()))
    D, N = PLACE["target_data"], PLACE["params"]
    now = D + transferred(LAW, D, N)
    assert advice["multiplier"]["value"] == pytest.approx(now / D, rel=0.01)
    assert advice["D_E"]["value"] == pytest.approx(now, rel=0.01)
    more_data = 10 * D + transferred(LAW, 10 * D, N)
    more_params = D + transferred(LAW, D, 10 * N)
    assert advice["more_data"]["value"] == pytest.approx(more_data / now, rel=0.01)
    assert advice["more_params"]["value"] == pytest.approx(more_params / now, rel=0.01)
    assert advice["data_over_params"]["value"] == pytest.approx(more_data / more_params, rel=0.01)
    # In D_T alone, 10x the size is worth 10^(beta / alpha) times the target data.
    assert advice["size_in_target_data"] == pytest.approx(10 ** (0.4 / 0.18), rel=0.1)
    assert advice["loss"]["now"] == pytest.approx(loss(now, N), rel=0.01)
    assert advice["loss"]["more_data"] == pytest.approx(loss(more_data, N), rel=0.02)
    assert advice["loss"]["more_params"] == pytest.approx(loss(more_params, 10 * N), rel=0.02)


def test_intervals_of_the_expected_multiplier_cover() -> None:
    chance = np.random.default_rng(5)
    D, N = PLACE["target_data"], PLACE["params"]
    now, larger = D + transferred(LAW, D, N), D + transferred(LAW, D, 10 * N)
    hits = []
    for _ in range(25):
        advice = one(answer(planted(0.006, 4, chance)))
        hits.append(advice["multiplier"]["low"] <= now / D <= advice["multiplier"]["high"])
        hits.append(advice["more_params"]["low"] <= larger / now <= advice["more_params"]["high"])
    assert 0.83 <= np.mean(hits) <= 0.98


def test_published_advice() -> None:
    """Text to Python: 1e7 characters at 1e9 parameters are multiplied by 91.9 (equation 1.1)."""
    rows = planted(
        laws={"text": TEXT},
        sizes=(1e7, 1e8, 1e10),
        data=[10.0**i for i in range(5, 13)],
        target=(1e5, 1e6, 1e8),
        curve=lambda D, N: (1e13 / D) ** 0.1,
        seeds=3,
    )
    advice = one(answer(rows, unit="characters"), target_data=1e7, params=1e9)
    assert f"{advice['multiplier']['value']:.1f}" == "91.9"
    assert advice["size_in_target_data"] == pytest.approx(10 ** (0.38 / 0.18), rel=1e-3)


@pytest.mark.parametrize(("data", "verdict"), [(2e6, "data"), (1e4, "size")])
def test_what_helps_more(data: float, verdict: str) -> None:
    """Far above the transferred data more data helps, far below it a larger model does."""
    law = {"text": {"k": 4000.0, "alpha": 0.1, "beta": 0.4}} if verdict == "size" else {"text": LAW}
    rows = planted(0.002, laws=law, data=[1e4 * 4.0**i for i in range(11)])
    assert one(answer(rows), target_data=data)["helps_more"] == verdict


def test_disagreement_with_the_loss_is_told() -> None:
    """At 2e6 tokens 10x the data gives more effective data, and the larger model the lower loss."""
    advice = one(answer(planted(0.002)), target_data=2e6)
    assert (advice["helps_more"], advice["loss"]["helps_more"]) == ("data", "size")
    assert any("disagree" in caution for caution in advice["cautions"])


def test_expected_widths_match_the_closed_form() -> None:
    """Least squares on the design: sd of x theta is noise sqrt(x (X'X)^-1 x), times D_T / D_E for the multiplier."""
    found = answer(planted(0.006))
    (law,) = found["laws"]
    law["scatter"] = 0.0
    advice = one(found, seeds=5)
    D, N = PLACE["target_data"], PLACE["params"]
    x = np.array([1.0, math.log(D), math.log(N)])
    T = math.exp(float(x @ law["theta"]))

    def width(added: list[dict[str, float]]) -> float:
        cells = [tuple(cell) for cell in law["design"]] + [(r["N"], r["D_F"]) for r in added]
        X = np.array([[1.0, math.log(d), math.log(n)] for n, d in cells])
        deviation = law["noise"] * math.sqrt(x @ np.linalg.inv(5 * X.T @ X) @ x) * T / (D + T)
        return math.exp(2 * 1.645 * deviation)

    assert len(advice["runs"]) == 5
    for run in advice["runs"]:
        assert math.log(run["before"]) == pytest.approx(math.log(width([])), rel=0.12)
        assert math.log(run["after"]) == pytest.approx(math.log(width(run["runs"])), rel=0.12)
    alone = [run["after"] for run in advice["runs"][:-1]]
    assert alone == sorted(alone)
    assert advice["runs"][-1]["after"] <= min(alone) * 1.01
    assert {(r["N"], r["D_F"]) for r in advice["runs"][-1]["runs"]} == {(n, d) for n in (1e5, 8e5) for d in (8e2, 8e3)}
    assert advice["runs"][-1]["needs_curves_at"] == [8e5]


def test_cautions() -> None:
    found = answer(planted(0.002))
    inside = one(found, target_data=TARGET[1], params=SIZES[1])
    assert not any("extrapolated" in caution for caution in inside["cautions"])
    outside = one(found, target_data=1.6e6, params=SIZES[1])
    assert any("D_F = 1.6M is 10x outside of the measured 10k to 160k" in c for c in outside["cautions"])


def test_two_sources_and_one_of_them() -> None:
    found = answer(planted(0.002, laws={"text": LAW, "code": CLOSER}))
    assert [a["source"] for a in advise(found, **PLACE)["sources"]] == ["text", "code"]
    assert one(found, source="code")["source"] == "code"
    with pytest.raises(ValueError, match=r"no source 'cod'; found: text, code .did you mean 'code'"):
        advise(found, **PLACE, source="cod")


def test_without_a_law_the_message_names_the_runs() -> None:
    found = answer(planted(0.002, sizes=SIZES[:1]))
    with pytest.raises(ValueError, match="fine-tune on 800 and 8k tokens at N = 80k and 800k") as caught:
        advise(found, **PLACE)
    assert "2 sizes N" in str(caught.value) and "\n" not in str(caught.value)


def test_without_a_law_for_a_short_curve_the_message_says_to_lengthen_it() -> None:
    found = answer(planted(0.002, data=DATA[:2], target=TARGET[:2]))
    with pytest.raises(ValueError, match="must be longer: 6 cells are worth more than the curve from scratch shows"):
        advise(found, **PLACE)


@pytest.mark.parametrize(("params", "sizes"), [(1.004e5, {1e5, 4e5}), (1.59e6, {1.6e5, 1.6e6}), (5e4, {5e4, 1e5})])
def test_runs_are_suggested_at_two_sizes_and_a_rounded_one_is_the_measured_one(
    params: float, sizes: set[float]
) -> None:
    advice = one(answer(planted(0.002)), params=params)
    assert {r["N"] for r in advice["runs"][-1]["runs"]} == sizes and len(advice["runs"]) == 5
    assert set(advice["runs"][-1]["needs_curves_at"]) == sizes - set(SIZES)
    assert any("N = " in caution for caution in advice["cautions"]) == (params == 5e4)


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_give_a_number_without_an_interval(seeds: int) -> None:
    advice = one(answer(planted(0.002, seeds=seeds)))
    assert advice["multiplier"]["value"] > 1 and advice["multiplier"]["low"] is None
    assert advice["helps_more"] == "not resolved"


@pytest.mark.parametrize("wrong", [{"target_data": 0.0}, {"params": -1.0}, {"seeds": 0}, {"step": 1.0}])
def test_numbers_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="allowed: above 0"):
        advise(answer(planted(seeds=2)), **(PLACE | wrong))
