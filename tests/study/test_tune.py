"""Several tuned paths: what is tried, what may be tuned, and what an earlier training takes instead."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import pytest

from isoloss.recipe.errors import StudyError
from isoloss.study import Study, from_dict
from isoloss.study.checks import disagreements, earlier

LR, DECAY, CLIP = "training.optimizer.lr", "training.optimizer.weight_decay", "training.clip"
CHAIN = {"source": "synthetic", "tokens": 20_000, "context": 8}
BASE: dict[str, Any] = {
    "study": "x",
    "data": CHAIN,
    "model": {"family": "gpt", "depth": 1, "head_size": 8},
    "training": {"optimizer": {"name": "adamw", "lr": 1e-3}, "batch": "4 sequences"},
    "evaluation": {"tokens": 1024},
    "grid": {"model.width": [16, 24, 32], "duration": ["10 updates", "20 updates"], "seed": [0, 1]},
    "arms": {"a": {}, "b": {"schedule": {"shape": "cosine"}}},
    "baseline": "a",
}
EARLIER = {"data": CHAIN | {"seed": 2}, "duration": "30 updates", "lr": 0.01}


def study(tune: Any, **rest: Any) -> Study:
    return from_dict(copy.deepcopy(BASE | rest | {"tune": tune}))


@pytest.mark.parametrize(
    "lists",
    [
        {LR: [1e-3, 2e-3, 4e-3], DECAY: [0.0, 0.1]},
        {DECAY: [0.0, 0.1], LR: [1e-3], CLIP: [None, 0.5, 1.0]},
        {"training.optimizer.betas": [[0.9, 0.95], [0.9, 0.99]], "training.warmup": ["1 update", "4 updates"]},
        {CLIP: [0.5]},
    ],
)
def test_every_combination_is_a_candidate_once(lists: dict[str, list[Any]]) -> None:
    tune = study(lists | {"at": {"model.width": [16, 32]}}).tune
    assert tune is not None and [p["model.width"] for p in tune.at] == [16, 32]
    found = [list(one.values()) for one in tune.candidates()]
    brute: list[list[Any]] = [[]]
    for values in tune.values.values():
        brute = [[*row, value] for row in brute for value in values]
    assert found == brute and len({repr(row) for row in found}) == len(brute)
    assert all(list(one) == list(lists) for one in tune.candidates())


def test_every_tuned_path_waits_for_its_value() -> None:
    made = study({LR: [1e-3, 2e-3], DECAY: [0.0, 0.1], CLIP: [None, 1.0]})
    for cell in made.cells:
        training = cell.config["training"]
        assert (training["optimizer"]["lr"], training["optimizer"]["weight_decay"]) == ("tuned", "tuned")
        assert training["clip"] == "tuned"
    config = made.config("b", {DECAY: 0.1})
    assert (config["training"]["optimizer"]["weight_decay"], config["training"]["clip"]) == (0.1, "tuned")


def test_the_line_between_sizes_is_for_the_learning_rate() -> None:
    for tune in ({LR: [1e-3, 2e-3]}, {LR: [1e-3, 2e-3], DECAY: [0.0, 0.1]}, {CLIP: [None, 1.0], LR: [1e-3]}):
        made = study(tune).tune
        assert made is not None and made.between == "loglinear"
    alone = study({CLIP: [0.5, 1.0]}).tune
    assert alone is not None and alone.between == "nearest"
    with pytest.raises(StudyError, match=r"tune\.between: found 'loglinear' for paths other than .*; allowed: nearest"):
        study({CLIP: [0.5, 1.0], "between": "loglinear"})


def test_where_nothing_is_allowed_beyond_there_is_no_edge_to_move() -> None:
    warmup, split, fraction = "training.warmup", "training.micro_batches", "schedule.cooldown.fraction"
    made = study({LR: [1e-3, 2e-3], DECAY: [0.0, 0.1], warmup: ["0 updates", "2 updates"], split: [1, 2]}).tune
    assert made is not None
    assert dict(made.bounds) == {LR: (), DECAY: (0.0,), warmup: ("0 updates",), split: (1,)}
    cooled = {"shape": "constant", "cooldown": {"final": 0.1}}
    made = study({fraction: [0.5, 1.0]}, schedule=cooled, arms={"a": {}, "b": {"training": {"clip": 2.0}}}).tune
    assert made is not None and dict(made.bounds) == {fraction: (1.0,)}


@pytest.mark.parametrize(
    "path",
    ["model.depth", "data.size", "data.seed", "evaluation.every", "pretrain.duration", "pretrain.data.size", "task",
     "checkpoint.every", "schedule.shape"],
)  # fmt: skip
def test_what_may_not_be_tuned_is_told_with_what_may(path: str) -> None:
    values = {"model.depth": [1, 2], "data.seed": [0, 1], "schedule.shape": ["constant", "cosine"]}
    given = {path: values.get(path, ["20 updates", "30 updates"])}
    earlier_one = {key: value for key, value in EARLIER.items() if f"pretrain.{key}" != path}
    with pytest.raises(StudyError) as told:
        study(given, arms={"a": {"pretrain": earlier_one}, "b": {"pretrain": earlier_one | {"head": "reset"}}})
    text = str(told.value)
    assert f"tune.{path}" in text
    if path not in ("task", "checkpoint.every"):
        assert "in training, schedule, average, data.crop, data.flip, data.cutout, pretrain.lr" in text


def test_seed_and_duration_are_not_tuned_either() -> None:
    for path, values in (("seed", [0, 1]), ("duration", ["10 updates"])):
        with pytest.raises(StudyError, match=rf"tune\.{path}: .*allowed: a value, not a name, in training"):
            study({path: values}, grid={"model.width": [16, 32]}, duration="10 updates")


def test_equal_budgets_need_the_path_in_every_arm() -> None:
    arms = {"a": {}, "b": {"pretrain": {k: v for k, v in EARLIER.items() if k != "lr"}}}
    with pytest.raises(StudyError, match=r"tune\.pretrain\.lr: .*in arm 'a'; every arm must have it"):
        study({"pretrain.lr": [0.01, 0.02]}, arms=arms)


def test_a_candidate_that_fits_no_other_run_is_told_before_tuning() -> None:
    words = r"tune\.training\.warmup: found 15 updates in a run of 10 updates; allowed: at most its length"
    with pytest.raises(StudyError, match=words):
        study({"training.warmup": ["1 update", "15 updates"], "at": {"duration": "20 updates"}})


def test_earlier_training_keeps_what_the_study_writes() -> None:
    arms = {"a": {}, "b": {"pretrain": EARLIER}}
    training = {"optimizer": {"name": "adamw", "weight_decay": 0.2}, "batch": "4 sequences"}
    tune = {LR: [1e-3, 2e-3], DECAY: [0.0, 0.1], CLIP: [0.5, 2.0], "training.warmup": ["1 update", "2 updates"]}
    made = study(tune, arms=arms, training=training)
    scratch, fine = (next(c.config for c in made.cells if c.arm == arm) for arm in ("a", "b"))
    assert scratch["pretrain"] is None and fine["pretrain"]["untuned"] == {DECAY: 0.2, CLIP: 1.0}
    without = from_dict(
        copy.deepcopy(BASE | {"arms": arms, "training": training | {"optimizer": training["optimizer"] | {"lr": 1.0}}})  # type: ignore[operator, dict-item]
    )
    plain = next(c.config for c in without.cells if c.arm == "b")
    assert earlier(fine) == earlier(plain) and not list(disagreements(fine))
    assert earlier(made.config("b", {})) == earlier(made.config("b", {DECAY: 0.1, CLIP: 2.0}))
    assert "untuned" not in study({LR: [1e-3, 2e-3]}, arms=arms).cells[-1].config["pretrain"]


def test_earlier_training_of_another_optimizer_has_its_defaults() -> None:
    arms = {"a": {"training": {"optimizer": {"name": "sgd"}}, "pretrain": EARLIER}, "b": {"pretrain": EARLIER}}
    training = {"optimizer": {"name": "adamw", "weight_decay": 0.2}, "batch": "4 sequences"}
    made = study({LR: [1e-3], DECAY: [0.3, 0.4]}, arms=arms, training=training)
    kept = {c.arm: c.config["pretrain"]["untuned"][DECAY] for c in made.cells}
    bare = from_dict(
        copy.deepcopy(BASE | {"training": {"optimizer": {"name": "sgd", "lr": 1}, "batch": "4 sequences"}})
    )
    assert kept == {"a": bare.cells[0].config["training"]["optimizer"]["weight_decay"], "b": 0.2}


def test_earlier_training_needs_a_batch_of_its_own() -> None:
    optimizer = {"optimizer": {"name": "adamw", "lr": 1e-3}}
    tune = {"training.batch": ["4 sequences", "8 sequences"]}
    with pytest.raises(
        StudyError, match=r"tune\.training\.batch: found candidates, .*its own value, at training\.batch"
    ):
        study(tune, arms={"a": {}, "b": {"pretrain": EARLIER}}, training=optimizer)
    own = study(tune, arms={"a": {}, "b": {"pretrain": EARLIER | {"batch": "16 sequences"}}}, training=optimizer)
    assert earlier(own.cells[-1].config)["training"]["batch"] == "16 sequences"
    written = study(tune, arms={"a": {}, "b": {"pretrain": EARLIER}})
    assert earlier(written.cells[-1].config)["training"]["batch"] == "4 sequences"


def test_number_format_holds_for_the_whole_run() -> None:
    tune = {"training.precision": ["fp32", "bf16-master"]}
    with pytest.raises(StudyError, match=r"tune\.training\.precision: .*which holds for pre-training too"):
        study(tune, arms={"a": {}, "b": {"pretrain": EARLIER}})
    assert study(tune).tune is not None


def test_too_many_combinations_are_told() -> None:
    tune = {LR: [i * 1e-4 for i in range(1, 101)], DECAY: [i * 1e-3 for i in range(100)]}
    with pytest.raises(StudyError, match="tune: found 60000 runs to tune with; allowed: at most 50000"):
        study(tune)
    assert len(list(product(*tune.values()))) * 3 * 2 == 60000
