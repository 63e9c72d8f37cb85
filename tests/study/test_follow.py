"""Arms that take the learning rate tuned for another."""

from __future__ import annotations

from typing import Any

import pytest

import isoloss
from isoloss.recipe.errors import StudyError
from isoloss.study import from_dict

RATE = "training.optimizer.lr"
BASE: dict[str, Any] = {
    "study": "x",
    "data": {"source": "synthetic", "tokens": 20_000, "context": 8},
    "model": {"family": "gpt", "depth": 1, "width": 16},
    "training": {"batch": "4 sequences"},
    "evaluation": {"tokens": 1024},
    "duration": "10 updates",
    "arms": {"a": {}, "b": {"training": {"clip": None}}, "c": {"training": {"clip": 2.0}}},
    "baseline": "a",
}


def study(follow: Any) -> dict[str, Any]:
    return BASE | {"tune": {RATE: [1e-3, 1e-2, 1e-1], "follow": follow}}


def test_followers_are_not_tuned_and_take_the_winner(tmp_path: Any) -> None:
    planned = isoloss.plan(study({"b": "a"}))
    assert {t.arm for t in planned.stage.trials} == {"a", "c"}
    results = isoloss.run(study({"b": "a"}), tmp_path / "store", workers=1, quiet=True)
    rates = {r.arm: (r.lr, r.lr_rule) for r in results.results}
    own = {c.arm: c.lr for c in results.stage.choices}
    assert rates["a"] == rates["b"] == (own["a"], "tuned") and rates["c"] == (own["c"], "tuned")
    N = results.results[0].N
    assert results.tuning("b", N) == results.tuning("a", N) > 0


@pytest.mark.parametrize(
    ("follow", "words"),
    [
        ({"d": "a"}, "found 'd'; allowed: a, b, c"),
        ({"b": "d"}, "found 'd'; allowed: a, b, c"),
        ({"b": "c", "c": "a"}, "which follows another"),
        ({"b": "b"}, "which follows another"),
        (["b"], "arms with the arm they follow"),
    ],
)
def test_mistakes_are_told(follow: Any, words: str) -> None:
    with pytest.raises(StudyError, match=words):
        from_dict(study(follow))
