"""Paths of the grid that move together."""

from __future__ import annotations

from typing import Any

import pytest

from isoloss.recipe.errors import StudyError
from isoloss.study import from_dict

BASE: dict[str, Any] = {
    "study": "x",
    "data": {"source": "synthetic", "context": 8},
    "model": {"family": "gpt", "depth": 1, "width": 16},
    "training": {"batch": "4 sequences", "optimizer": {"lr": 1e-3}},
    "duration": "10 updates",
}
ROWS = [
    {"model.width": 16, "model.depth": 1, "duration": ["10 updates", "20 updates"]},
    {"model.width": 32, "model.depth": 3, "duration": ["15 updates", "20 updates"]},
]


def test_rows_are_crossed_with_the_rest_and_not_with_each_other() -> None:
    arms = {"a": {}, "b": {"training": {"clip": None}}}
    study = from_dict(BASE | {"grid": {"together": ROWS, "seed": [0, 1]}, "arms": arms, "baseline": "a"})
    assert study.linked == ("model.width", "model.depth", "duration")
    found = [
        (c.arm, c.config["model"]["width"], c.config["model"]["depth"], c.config["duration"], c.config["seed"])
        for c in study.cells
    ]
    wanted = [
        (arm, *shape, duration, seed)
        for arm in "ab"
        for *shape, durations in ((16, 1, ("10 updates", "20 updates")), (32, 3, ("15 updates", "20 updates")))
        for duration in durations
        for seed in (0, 1)
    ]
    assert sorted(map(repr, found)) == sorted(map(repr, wanted))
    assert not any(c.extra for c in study.cells)
    assert study.cells[0].coordinates == {"seed": 0, "model.width": 16, "model.depth": 1, "duration": "10 updates"}


def test_tuning_happens_where_runs_are() -> None:
    raw = BASE | {"grid": {"together": ROWS, "seed": [0, 1]}, "tune": {"training.optimizer.lr": [1e-3, 2e-3]}}
    raw["training"] = {"batch": "4 sequences"}
    study = from_dict(raw)
    assert study.tune is not None
    assert [(p["model.width"], p["duration"], p["seed"]) for p in study.tune.at] == [
        (16, "10 updates", 0), (16, "20 updates", 0), (32, "15 updates", 0), (32, "20 updates", 0),
    ]  # fmt: skip
    study = from_dict(raw | {"tune": raw["tune"] | {"at": {"model.width": 32, "duration": "20 updates"}}})
    assert study.tune is not None
    assert [(p["model.width"], p["model.depth"], p["duration"]) for p in study.tune.at] == [(32, 3, "20 updates")]


def test_names_may_move_together() -> None:
    rows = [
        {"training.optimizer.name": "adamw", "training.optimizer.lr": 1e-3},
        {"training.optimizer.name": "sgd", "training.optimizer.lr": 0.1},
    ]
    study = from_dict(BASE | {"grid": {"together": rows}})
    found = [(c.config["training"]["optimizer"]["name"], c.config["training"]["optimizer"]["lr"]) for c in study.cells]
    assert found == [("adamw", 1e-3), ("sgd", 0.1)]


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"together": {}}, "a list of mappings"),
        ({"together": []}, "a list of mappings"),
        ({"together": [{"model.width": 16}, {"model.depth": 2}]}, "same dotted paths"),
        ({"together": [{"model.width": []}]}, "found 0 runs"),
        ({"together": [{"model.widht": 16}]}, "model.width"),
        ({"together": [{"model.width": "wide"}]}, "wide"),
        ({"together": [{"model.width": 16}], "model.width": [32]}, "grid sweeps too"),
    ],
)
def test_mistakes_are_told(grid: dict[str, Any], words: str) -> None:
    with pytest.raises(StudyError, match=words):
        from_dict(BASE | {"grid": grid})


def test_the_baseline_gets_no_longer_run_of_its_own() -> None:
    with pytest.raises(StudyError, match=r"grid\.together sweeps duration"):
        from_dict(BASE | {"grid": {"together": ROWS}, "baseline": {"arm": "base", "extra": "40 updates"}})
