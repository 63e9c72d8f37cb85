"""The learning rate that is used: the vertex of a parabola, and candidates added beyond the ends of the list."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from tests.plan.test_tuning import DECAY, LR, Losses, Table, tuned

from isoloss.plan.demands import Stage, stage
from isoloss.plan.lower import Lowering
from isoloss.plan.needs import Nothing
from isoloss.plan.tuning import Trial
from isoloss.recipe.errors import StudyError
from isoloss.study import from_dict
from isoloss.worth.results import tuning_cost

HERE = {"model.width": [16, 64], "seed": [0, 1]}


def asked(raw: dict[str, Any], loss: Losses) -> list[Stage]:
    """The stages until nothing more is asked, where whatever is asked is answered by ``loss``."""
    made, lowering = from_dict(copy.deepcopy(raw)), Lowering()
    stages = [stage(made, Nothing(), lowering)]
    while len(stages) == 1 or len(stages[-1].trials) > len(stages[-2].trials):
        stages.append(stage(made, Table(stages[-1].trials, loss), lowering))
    return stages


def bowl(best: float, curvature: float = 0.3) -> Losses:
    """A parabola in the logarithm of the learning rate; its lowest point is ``best`` at width 16, twice that at 64."""

    def loss(trial: Trial) -> float:
        at = best * (2 if trial.point["model.width"] == 64 else 1)
        return 1.0 + curvature * math.log(trial.lr / at) ** 2 + 0.01 * trial.point["seed"]

    return loss


def test_a_parabola_gives_its_lowest_point_at_every_size() -> None:
    raw = tuned({LR: [1e-3, 2e-3, 4e-3, 8e-3, 16e-3], "optimum": "parabola", "at": HERE})
    found = asked(raw, bowl(2.7e-3))[-1]
    assert found.complete and {c.point["model.width"]: c.lr for c in found.choices} == {16: 2.7e-3, 64: 5.4e-3}
    assert {c.values[LR] for c in found.choices} == {2e-3, 4e-3}
    widths = {p.cell.coordinates["model.width"]: p.lr for p in found.planned}
    assert widths[16] == 2.7e-3 and widths[64] == 5.4e-3 and 2.7e-3 < widths[24] < 5.4e-3
    best = asked(tuned({LR: [1e-3, 2e-3, 4e-3, 8e-3, 16e-3], "at": HERE}), bowl(2.7e-3))[-1]
    assert {c.point["model.width"]: c.lr for c in best.choices} == {16: 2e-3, 64: 4e-3}


def test_a_vertex_beyond_the_neighbours_is_not_believed() -> None:
    # A cliff on one side drags the parabola's lowest point past the candidate on the other.
    losses = {1e-3: 2.002, 2e-3: 2.001, 4e-3: 2.0, 8e-3: 9.0}
    raw = tuned({LR: list(losses), "optimum": "parabola", "at": {"model.width": 16}})
    found = asked(raw, lambda trial: losses[trial.lr])[-1]
    assert {c.lr for c in found.choices} == {4e-3}


def test_a_winner_at_an_end_is_followed_until_it_lies_inside() -> None:
    raw = tuned({LR: [1e-3, 2e-3, 4e-3], "extend": 4, "at": HERE})
    stages = asked(raw, bowl(14e-3))
    found = stages[-1]
    rates = {(c.arm, c.point["model.width"]): sorted(c.losses) for c in found.choices}
    assert rates["a", 16] == [1e-3, 2e-3, 4e-3, 8e-3, 16e-3, 32e-3]
    assert rates["a", 64] == [1e-3, 2e-3, 4e-3, 8e-3, 16e-3, 32e-3, 64e-3]
    assert not any(c.edge for c in found.choices) and not any(p.edge for p in found.planned)
    assert [len(s.trials) for s in stages[:5]] == [24, 24 + 8, 24 + 16, 24 + 24, 24 + 28]
    assert not any(s.complete for s in stages[:-2]) and found.complete
    assert tuning_cost(found.trials)[0] == len(found.trials) * 10


def test_it_ends_at_the_limit_and_downwards_too() -> None:
    raw = tuned({LR: [1e-3, 2e-3, 4e-3], "extend": 2, "at": {"model.width": 16}})
    found = asked(raw, bowl(1e-5))[-1]
    assert [sorted(c.losses) for c in found.choices] == [[2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3]] * 2
    assert all(c.edge for c in found.choices) and found.complete


def test_other_paths_come_along_and_nothing_is_added_where_all_diverge() -> None:
    raw = tuned({LR: [1e-3, 2e-3], DECAY: [0.1, 0.3], "extend": 1, "at": {"model.width": 16}})
    found = asked(raw, lambda trial: 5.0 - 100 * trial.lr - trial.values[DECAY])[-1]
    assert {(t.lr, t.values[DECAY]) for t in found.trials} == {
        (lr, decay) for lr in (1e-3, 2e-3, 4e-3) for decay in (0.1, 0.3)
    }
    assert all(c.values == {LR: 4e-3, DECAY: 0.3} for c in found.choices)
    assert len(asked(raw, lambda trial: math.inf)[-1].trials) == 8


def test_arms_of_one_study_are_followed_each_on_its_own() -> None:
    raw = tuned({LR: [1e-3, 2e-3, 4e-3], "extend": 3, "at": {"model.width": 16}})
    found = asked(raw, lambda trial: bowl(2e-3 if trial.arm == "a" else 8e-3)(trial))[-1]
    assert {c.arm: len(c.losses) for c in found.choices} == {"a": 3, "b": 5}


@pytest.mark.parametrize("given", [{"optimum": "parabola"}, {"extend": 1}])
def test_only_learning_rates_have_an_optimum_between_and_a_beyond(given: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match=rf"tune.{next(iter(given))}: found .* for paths other than"):
        from_dict(tuned({DECAY: [0.1, 0.3], **given}))
    with pytest.raises(StudyError, match="one learning rate"):
        from_dict(tuned({LR: [1e-3], "extend": 1}))
