"""Questions about fixed durations: planted differences, best learning rates, and the small study from end to end."""

from __future__ import annotations

import copy
import html
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import isoloss
from isoloss.study import load
from isoloss.worth.differences import differences
from isoloss.worth.fixed_durations import arms_of, fixed_durations, optima

SMALL = Path(__file__).parents[2] / "studies" / "small" / "fixed-durations.yaml"
DURATIONS = {"100 updates": 100, "200 updates": 200}


def planted(gap: dict[str, float], noise: float, *, seeds: int = 3, chance: np.random.Generator | None = None) -> Any:
    """Arms "a" and "b" whose losses differ by ``gap`` at each duration; seeds and sizes move both together."""
    chance = chance or np.random.default_rng(0)
    found = []
    for seed in range(seeds):
        luck = chance.normal(0, 0.1)
        for N in (1000, 2000):
            for duration, S in DURATIONS.items():
                base = 2.0 - N / 1e4 + luck + chance.normal(0, 0.05)
                for arm, more in (("b", 0.0), ("a", gap[duration] + chance.normal(0, noise))):
                    found.append(
                        SimpleNamespace(
                            variant=arm,
                            status="done",
                            loss=base + more,
                            N=N,
                            S=S,
                            seed=str(seed),
                            cell={"duration": duration, "seed": seed},
                        )
                    )
    return SimpleNamespace(results=found)


def test_planted_differences_are_found_in_spite_of_luck_that_is_shared() -> None:
    gap = {"100 updates": -0.03, "200 updates": 0.01}
    whole, short, long = differences(planted(gap, 0.0), "a", "b")
    assert (whole.duration, short.duration, long.duration) == (None, "100 updates", "200 updates")
    assert whole.difference == pytest.approx(-0.01) and short.difference == pytest.approx(-0.03)
    assert short.resolved and long.resolved and long.words.endswith("higher")
    assert differences(planted(gap, 0.0), "b", "a")[1].difference == pytest.approx(0.03)
    assert differences(planted(gap, 0.0), "a", "c") == []


def test_two_seeds_have_no_interval() -> None:
    whole, *_ = differences(planted(dict.fromkeys(DURATIONS, -0.5), 0.001, seeds=2), "a", "b")
    assert whole.low is None and not whole.resolved and "not resolved" in whole.words


def test_intervals_cover_as_often_as_they_say() -> None:
    chance = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        whole, *_ = differences(planted(dict.fromkeys(DURATIONS, 0.02), 0.02, chance=chance), "a", "b")
        assert whole.low is not None and whole.high is not None
        hits += whole.low <= 0.02 <= whole.high
    assert 0.86 <= hits / 400 <= 0.94


def tuned(losses: dict[float, float]) -> Any:
    trials = [
        SimpleNamespace(
            lr=lr, loss=loss, cell=SimpleNamespace(coordinates={"seed": 0, "duration": "100 updates"}),
            lowered=SimpleNamespace(facts=SimpleNamespace(N=1000)),
        )
        for lr, loss in losses.items()
    ]  # fmt: skip
    return SimpleNamespace(trials=lambda variant: trials)


def test_the_best_learning_rate_of_a_parabola_is_its_vertex() -> None:
    best = math.log(0.013)
    losses = {lr: 2 + 0.3 * (math.log(lr) - best) ** 2 for lr in (2e-3, 4e-3, 8e-3, 16e-3, 32e-3)}
    assert optima(tuned(losses), "a")[1000, "0", "100 updates"] == pytest.approx(best)
    ended = {lr: loss for lr, loss in losses.items() if lr < 0.01}
    assert math.isnan(optima(tuned(ended), "a")[1000, "0", "100 updates"])
    broken = losses | {32e-3: math.inf}
    assert optima(tuned(broken), "a")[1000, "0", "100 updates"] == pytest.approx(best)


def test_arms_are_known_by_what_they_do(tmp_path: Path) -> None:
    raw = load(SMALL).raw
    raw = {**raw, "training": {**raw["training"], "optimizer": {"name": "adamw", "lr": 1e-2}}}
    del raw["tune"]
    raw["arms"] = copy.deepcopy(raw["arms"])
    for arm in raw["arms"].values():
        if "optimizer" in arm.get("training", {}):
            arm["training"]["optimizer"]["lr"] = 1e-2
    isoloss.Store(tmp_path / "store")
    results = isoloss.results(raw, tmp_path / "store")
    arms = arms_of(results)
    assert arms.cosine == ["cosine"] and arms.stopped == ["stopped early"]
    assert arms.cooldown[0] == "cooldown" and len(arms.cooldown) == 9
    assert (arms.constant, arms.averaged) == (["constant"], ["averaged"])
    assert arms.free == ["schedule-free 0.9 0.95", "schedule-free 0.95 0.99"]
    # Nothing is trained: every question is asked all the same, and says so.
    asked = fixed_durations(results)
    assert len(asked) == 8
    assert all("not resolved" in entry["answer"] and not entry["resolved"] for entry in asked)


def test_arms_that_differ_in_more_than_the_schedule_are_not_asked_about(small: dict[str, Any], tmp_path: Path) -> None:
    cooldown = small["arms"]["cooldown"]["schedule"]
    small["arms"] |= {
        "large batch": {"training": {"batch": "8 sequences"}, "schedule": cooldown},
        "other rate": {"training": {"optimizer": {"lr": 0.02}}, "schedule": cooldown},
        "large cosine": {"training": {"batch": "8 sequences"}, "schedule": {"shape": "cosine", "final": 0.1}},
        "sgd averaged": {**small["arms"]["averaged"], "training": {"optimizer": {"name": "sgd", "lr": 0.1}}},
    }

    def pairs() -> dict[str, set[str]]:
        asked = fixed_durations(isoloss.results(small, isoloss.Store(tmp_path / "store")))
        return {entry["id"]: set(re.findall(r"([\w ]+) against", entry["answer"])) for entry in asked}

    assert pairs() == {"cosine": {"cooldown"}, "rates": set(), "average": {"averaged"}}
    linear = {"shape": "constant", "cooldown": {"shape": "linear", "fraction": 0.2}}
    small["arms"] |= {
        "linear": {"schedule": linear},
        "large linear": {"training": {"batch": "8 sequences"}, "schedule": linear},
    }
    assert pairs()["forms"] == {"linear"}


@pytest.mark.slow
def test_the_small_study_answers_every_question(tmp_path: Path) -> None:
    results = isoloss.run(SMALL, tmp_path / "store", workers=2, quiet=True)
    answer = json.loads(json.dumps(results.answer(), allow_nan=False))
    asked = {entry["id"]: entry for entry in answer["fixed_durations"]}
    assert list(asked) == ["cosine", "rates", "forms", "lengths", "average", "free", "stopped", "law"]
    for entry in asked.values():
        assert entry["rows"], entry
        for row in entry["rows"]:
            assert math.isfinite(row["value"])
            assert (row["low"] is not None) or "no interval" in entry["answer"]
            assert row["low"] is None or row["low"] <= row["value"] <= row["high"]
    pairs = {(row["arm"], row["against"]) for row in asked["forms"]["rows"]}
    forms = ("linear", "cooldown by cosine", "mirror cosine", "square", "power 0.3")
    assert pairs == {(name, "cooldown") for name in forms}
    assert {row["arm"] for row in asked["free"]["rows"]} == {"schedule-free 0.9 0.95", "schedule-free 0.95 0.99"}
    assert [row["place"] for row in asked["cosine"]["rows"]] == [
        "all durations", "150 updates", "300 updates", "600 updates",
    ]  # fmt: skip
    assert "took 0.657 of the separate" in asked["law"]["answer"]
    # Branches of one trunk share its learning rate, and the trunk's tuning is charged to each.
    rates = {arm["name"]: arm["lr"][0]["lr"] for arm in answer["arms"]}
    assert len({rates[name] for name in ("cooldown", *forms, "short cooldown", "constant")}) == 1
    N = results.results[0].N
    assert results.tuning("linear", N) == results.tuning("cooldown", N) > 0
    # An average of the trunk gets most of the way from the raw trunk to the cooldown (section 4 of the paper).
    averaged = {row["against"]: row for row in asked["average"]["rows"] if row["place"] == "all durations"}
    assert averaged["constant"]["value"] < -0.01 and averaged["constant"]["resolved"]
    assert {record["arm"] for record in answer["anytime"]} >= {"cooldown", "linear", "short cooldown"}
    page = isoloss.report(answer, tmp_path / "page").read_text()
    for entry in asked.values():
        assert entry["question"] in html.unescape(page)
