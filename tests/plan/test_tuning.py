"""Winners of several tuned paths, against hand-made tables of losses."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import pytest

import isoloss
from isoloss.plan.demands import Stage, expected, stage
from isoloss.plan.lower import Lowering
from isoloss.plan.needs import Nothing, Stretch
from isoloss.plan.tuning import Trial
from isoloss.recipe.errors import StudyError
from isoloss.study import from_dict
from isoloss.worth.results import tuning_cost

LR, DECAY, CLIP = "training.optimizer.lr", "training.optimizer.weight_decay", "training.clip"
CHAIN = {"source": "synthetic", "tokens": 20_000, "context": 8}
BASE: dict[str, Any] = {
    "study": "x",
    "data": CHAIN,
    "model": {"family": "gpt", "depth": 1, "head_size": 8},
    "training": {"optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.2}, "batch": "4 sequences"},
    "evaluation": {"tokens": 256},
    "grid": {"model.width": [16, 24, 64], "duration": ["10 updates", "20 updates"], "seed": [0, 1]},
    "arms": {"a": {}, "b": {"schedule": {"shape": "cosine"}}},
    "baseline": {"arm": "a", "extra": "none"},
}
RATES, DECAYS = [1e-3, 2e-3, 4e-3], [0.0, 0.1, 0.3]
Losses = Callable[[Trial], float | None]


class Table(Nothing):
    """Knows the losses of trials, and where they diverged: where a loss is infinite."""

    def __init__(self, trials: Sequence[Trial], loss: Losses) -> None:
        self.losses: dict[str, dict[str, float]] = {}
        self.broken: dict[str, Stretch] = {}
        for trial in trials:
            value, run = loss(trial), trial.lowered.run
            if value is not None and math.isfinite(value):
                self.losses[run.key(run.length)] = {trial.lowered.final["A"].name: value}
            elif value is not None:
                self.broken[run.tracks[0][0].id] = Stretch(diverged=2)

    def measured(self, keys: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
        return {key: self.losses[key] for key in keys if key in self.losses}

    def stretches(self, tracks: Sequence[str]) -> Mapping[str, Stretch]:
        return {track: self.broken[track] for track in tracks if track in self.broken}


def decided(raw: dict[str, Any], loss: Losses) -> Stage:
    made, lowering = from_dict(copy.deepcopy(raw)), Lowering()
    return stage(made, Table(stage(made, Nothing(), lowering).trials, loss), lowering)


def tuned(tune: dict[str, Any], **rest: Any) -> dict[str, Any]:
    return BASE | rest | {"tune": tune}


def at(trial: Trial, *paths: str) -> tuple[Any, ...]:
    return tuple(trial.values[path] for path in paths)


def test_every_arm_tries_every_combination_at_every_point() -> None:
    raw = tuned({LR: RATES, DECAY: DECAYS, "at": {"model.width": [16, 64], "seed": [0, 1]}})
    trials = stage(from_dict(copy.deepcopy(raw)), Nothing(), Lowering()).trials
    brute = {
        (arm, width, seed, lr, decay)
        for arm, width, seed in product("ab", (16, 64), (0, 1))
        for lr in RATES
        for decay in DECAYS
    }
    found = [(t.arm, t.point["model.width"], t.point["seed"], *at(t, LR, DECAY)) for t in trials]
    assert set(found) == brute and len(found) == len(brute) == 72
    assert len({t.lowered.run.key(10) for t in trials}) == 72
    for trial in trials:
        rule = trial.lowered.run.phases[0].rule
        assert (rule.lr.peak, rule.optimizer["options"]["weight_decay"]) == at(trial, LR, DECAY)
        assert trial.lr == trial.values[LR]
    assert tuning_cost([t for t in trials if t.arm == "a"]) == tuning_cost([t for t in trials if t.arm == "b"])
    updates, flops = tuning_cost([t for t in trials if t.arm == "a"])
    assert updates == 36 * 10 and flops == pytest.approx(
        18 * 10 * sum({t.lowered.facts.flops_per_update for t in trials})
    )


def test_the_lowest_mean_over_seeds_wins_and_goes_to_the_other_sizes() -> None:
    # Width 16: (2e-3, 0.1) wins one seed, (1e-3, 0.0) the mean; width 64: (4e-3, 0.3).
    known = {
        (16, 2e-3, 0.1, 0): 1.0, (16, 2e-3, 0.1, 1): 2.0, (16, 1e-3, 0.0, 0): 1.4, (16, 1e-3, 0.0, 1): 1.5,
        (64, 4e-3, 0.3, 0): 1.2, (64, 4e-3, 0.3, 1): 1.3,
    }  # fmt: skip

    def loss(trial: Trial) -> float:
        return known.get((trial.point["model.width"], *at(trial, LR, DECAY), trial.point["seed"]), 3.0)

    found = decided(tuned({LR: RATES, DECAY: DECAYS, "at": {"model.width": [16, 64], "seed": [0, 1]}}), loss)
    assert found.complete
    for choice in found.choices:
        small = choice.point["model.width"] == 16
        assert dict(choice.values) == ({LR: 1e-3, DECAY: 0.0} if small else {LR: 4e-3, DECAY: 0.3})
        # No decay is no edge that could be moved; the largest decay is one.
        assert choice.edges == ((LR,) if small else (LR, DECAY)) and choice.edge
        assert len(choice.table) == 9 and min(loss for _, loss in choice.table) == pytest.approx(
            1.45 if small else 1.25
        )
        assert choice.losses == pytest.approx(
            {1e-3: 1.45, 2e-3: 1.5, 4e-3: 3.0} if small else {1e-3: 3.0, 2e-3: 3.0, 4e-3: 1.25}
        )
    sizes = {p.cell.coordinates["model.width"]: p.lowered.facts.N for p in found.planned}
    share = math.log(sizes[24] / sizes[16]) / math.log(sizes[64] / sizes[16])
    assert share < 0.5
    for planned in found.planned:
        width, optimizer = planned.cell.coordinates["model.width"], planned.lowered.run.phases[0].rule.optimizer
        lr, decay = planned.tuned[LR], planned.tuned[DECAY]
        assert (planned.lr, planned.rule, planned.edge) == (lr.value, lr.rule, lr.edge)
        assert optimizer["options"]["weight_decay"] == decay.value
        assert planned.cell.config["training"]["optimizer"]["weight_decay"] == decay.value
        if width == 24:
            assert lr.value == pytest.approx(1e-3 * 4**share, rel=1e-3) and lr.rule == "between"
            assert (decay.value, decay.rule, decay.edge) == (0.0, "nearest", True)
        else:
            assert (lr.value, decay.value) == ((1e-3, 0.0) if width == 16 else (4e-3, 0.3))
            assert {lr.rule, decay.rule} == {"tuned"} and decay.edge is (width == 64)


def test_nothing_is_decided_before_every_combination_is_measured() -> None:
    raw = tuned({LR: RATES, DECAY: DECAYS, "at": {"model.width": 16}})
    found = decided(raw, lambda t: None if at(t, LR, DECAY) == (4e-3, 0.3) and t.arm == "b" else 1.0)
    assert not found.complete and {c.arm for c in found.choices} == {p.cell.arm for p in found.planned} == {"a"}


def test_where_all_diverge_the_gentlest_combination_is_taken() -> None:
    raw = tuned({DECAY: [0.3, 0.1], LR: [4e-3, 1e-3], "at": {"model.width": 16}})
    found = decided(raw, lambda _: math.inf)
    assert found.complete and all(dict(c.values) == {DECAY: 0.1, LR: 1e-3} for c in found.choices)
    broken = decided(raw, lambda t: 2.0 if at(t, DECAY, LR) == (0.3, 4e-3) else math.inf)
    assert all(dict(c.values) == {DECAY: 0.3, LR: 4e-3} for c in broken.choices)


def test_words_and_null_have_no_edges() -> None:
    raw = tuned({CLIP: [None, 0.5, 1.0], "training.warmup": ["1 update", "2 updates", "4 updates"]})
    for clip, warmup, edges in ((None, "4 updates", ("training.warmup",)), (1.0, "2 updates", ())):
        found = decided(raw, lambda t, best=(clip, warmup): float(at(t, CLIP, "training.warmup") != best))
        assert {c.edges for c in found.choices} == {edges} and {c.edge for c in found.choices} == {False}
        assert {(p.lr, p.rule) for p in found.planned} == {(1e-3, "given")}
        assert {p.tuned[CLIP].value for p in found.planned} == {clip}


def test_several_points_for_one_run_share_the_combination_that_is_best_over_them() -> None:
    raw = tuned(
        {LR: [1e-3, 4e-3], DECAY: [0.1, 0.3], "at": {"model.width": 16, "duration": ["10 updates", "20 updates"]}}
    )
    raw["baseline"] = {"arm": "a", "extra": "40 updates"}
    table = {("10 updates", 1e-3, 0.1): 1.0, ("10 updates", 4e-3, 0.3): 1.1, ("20 updates", 4e-3, 0.3): 0.5}

    def loss(trial: Trial) -> float:
        return table.get((trial.point["duration"], *at(trial, LR, DECAY)), 2.0)

    found = decided(raw, loss)
    extra = next(p for p in found.planned if p.cell.extra and p.cell.coordinates["model.width"] == 16)
    assert extra.lr == pytest.approx(2e-3) and extra.tuned[DECAY].value == 0.3
    short = next(
        p for p in found.planned if p.cell.coordinates == {"model.width": 16, "duration": "10 updates", "seed": 1}
    )
    assert (short.lr, short.tuned[DECAY].value) == (1e-3, 0.1)


def test_a_candidate_that_no_run_can_have_is_told_before_anything_trains() -> None:
    raw = tuned(
        {"average.length": ["23 updates", "30 updates"], "at": {"duration": "46 updates"}},
        arms={"a": {"average": {"kind": "window"}}, "b": {"average": {"kind": "window", "refresh": 3}}},
        grid=BASE["grid"] | {"duration": ["46 updates", "60 updates"]},
    )
    with pytest.raises(StudyError, match=r"tune length=23 updates a .*=60 updates.*: average\.length: 23 updates"):
        expected(from_dict(copy.deepcopy(raw)), Lowering())


def test_an_earlier_training_is_one_for_all_candidates() -> None:
    earlier = {"data": CHAIN | {"seed": 2}, "duration": "30 updates", "lr": 0.01}
    raw = tuned({LR: RATES, DECAY: DECAYS, CLIP: [0.5, 1.0]}, arms={"a": {}, "b": {"pretrain": earlier}})
    trials = [
        t for t in stage(from_dict(copy.deepcopy(raw)), Nothing(), Lowering()).trials if t.point["model.width"] == 16
    ]
    fine = [t.lowered for t in trials if t.arm == "b"]
    assert len(fine) == 18 and len({low.run.key(31) for low in fine}) == 18
    (begun,) = {low.run.key(30) for low in fine}
    # The same one as in a study that does not tune.
    plain = from_dict(copy.deepcopy(BASE | {"arms": raw["arms"]}))
    cell = next(c for c in plain.cells if c.arm == "b" and c.coordinates["model.width"] == 16)
    assert Lowering()(cell.config, 1e-3, where="").run.key(30) == begun
    assert tuning_cost([t for t in trials if t.arm == "b"]) == tuning_cost([t for t in trials if t.arm == "a"])


def test_a_tuned_earlier_training_is_charged() -> None:
    rest = {"data": CHAIN | {"seed": 2}, "duration": "30 updates"}
    arms = {"a": {"pretrain": rest}, "b": {"pretrain": rest | {"optimizer": "keep"}}}
    raw = tuned({"pretrain.lr": [0.01, 0.02], LR: RATES, "at": {"model.width": 16}}, arms=arms)
    trials = [t for t in stage(from_dict(copy.deepcopy(raw)), Nothing(), Lowering()).trials if t.arm == "a"]
    assert len({t.lowered.run.key(30) for t in trials}) == 2
    updates, flops = tuning_cost(trials)
    assert updates == 6 * 10 + 2 * 30 and flops == pytest.approx(updates * trials[0].lowered.facts.flops_per_update)


def test_a_plan_shows_every_path() -> None:
    made = isoloss.plan(copy.deepcopy(tuned({LR: RATES, DECAY: [0.1, 0.3], "at": {"model.width": 16}})))
    text = " ".join(str(made).split())
    assert f"tuned: {LR} x {DECAY}, 3 x 2 = 6 candidates at each tuning point" in text and "12 tuning runs" in text
    assert made.to_dict()["tune"] == {LR: RATES, DECAY: [0.1, 0.3]}
    one = isoloss.plan(copy.deepcopy(tuned({LR: RATES})))
    assert "tune" not in one.to_dict() and "tuned:" not in str(one)
    assert all(name.startswith("tune lr=") for name in one.stage.names)
    assert made.stage.names[1].startswith("tune lr=0.001 weight_decay=0.3 a width=16")
