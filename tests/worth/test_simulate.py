"""The transfer simulator: exact recursion against sampling, closed forms and tabled risks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from isoloss.worth.simulate import (
    Problem,
    Stage,
    effective_points,
    exact_risk,
    sampled_risk,
    study,
    unreachable,
)

PROBLEM = Problem.powers()
SMALL = Problem.powers(24)


def source(points: int) -> Stage:
    return Stage(points, 0.25, "source")


def target(points: int) -> Stage:
    return Stage(points, 0.15)


@pytest.mark.parametrize(
    ("stages", "tabled", "digits"),
    [
        ([source(256)], 0.0307, 4),
        ([source(1024)], 0.0149, 4),
        ([source(4096)], 0.0074, 4),
        ([target(64)], 0.068, 3),
        ([target(256)], 0.024, 3),
        ([target(1024)], 0.009, 3),
        ([target(4096)], 0.004, 3),
        ([source(256), Stage(256, 0.05)], 0.022, 3),
        ([source(4096), Stage(256, 0.05)], 0.0083, 4),
    ],
)
def test_tabled_risks(stages: list[Stage], tabled: float, digits: int) -> None:
    """Means of 200 sampled trainings, made before this code: their error is about 2 %, beside the rounding."""
    assert exact_risk(PROBLEM, stages) == pytest.approx(tabled, abs=0.03 * tabled + 0.5 * 10**-digits)


@pytest.mark.parametrize(
    ("stages", "size"),
    [
        ([target(100)], None),
        ([source(128), Stage(50, 0.05)], None),
        ([source(128), Stage(50, 0.2, pull=0.7)], None),
        ([source(128), Stage(50, 0.2, pull=0.7), Stage(30, 0.1, "source", pull=0.2)], 9),
        ([target(60)], 5),
    ],
)
def test_the_recursion_is_the_mean_of_sampled_trainings(stages: list[Stage], size: int | None) -> None:
    risks = sampled_risk(SMALL, stages, 4000, size, seed=3)
    assert abs(risks.mean() - exact_risk(SMALL, stages, size)) < 4 * risks.std() / math.sqrt(len(risks))


def test_one_coordinate_in_closed_form() -> None:
    """E x^4 = 3 g^2: a point multiplies the squared error by 1 - 2 r g + 3 r^2 g^2 and adds r^2 g noise^2."""
    g, noise = 0.8, 0.3
    problem = Problem(np.array([1.0]), np.array([g]), np.array([2.0]), noise)
    s = 4.0
    for r in (0.2, 0.2, 0.1):  # three points: halved after 3 / log2(3) = 1.9 of them
        s = s * (1 - 2 * r * g + 3 * r * r * g * g) + r * r * g * noise**2
    assert exact_risk(problem, [Stage(3, 0.2)]) == pytest.approx(0.5 * g * s, rel=1e-12)


def test_a_model_that_is_too_small_keeps_what_it_cannot_see() -> None:
    assert unreachable(SMALL, 24) == 0
    floor = unreachable(SMALL, 6)
    assert floor == pytest.approx(0.5 * sum(k**-1.5 / k for k in range(7, 25)))
    risks = [exact_risk(SMALL, [target(n)], 6) for n in (64, 512, 4096, 32768)]
    assert all(a > b > floor for a, b in itertools.pairwise(risks))
    assert risks[-1] < 1.1 * floor


@pytest.mark.parametrize("points", [3, 64, 777])
def test_effective_points_inverts_the_exact_curve(points: int) -> None:
    assert effective_points(SMALL, exact_risk(SMALL, [target(points)]), 0.15) == pytest.approx(points, rel=1e-9)


def test_what_pretraining_is_worth_here() -> None:
    """256 source points are worth about 200 target points."""
    assert effective_points(PROBLEM, exact_risk(PROBLEM, [source(256)]), 0.15) == pytest.approx(200, rel=0.15)


def test_a_careless_finetune_makes_it_worse_and_a_gentle_one_does_not() -> None:
    before = exact_risk(PROBLEM, [source(4096)])
    careless, gentle = (exact_risk(PROBLEM, [source(4096), Stage(256, lr)]) for lr in (0.05, 0.005))
    held = exact_risk(PROBLEM, [source(4096), Stage(256, 0.05, pull=0.3)])
    assert gentle < before < held < careless
    assert exact_risk(PROBLEM, [source(4096), Stage(0, 0.05)]) == before


def test_runs_of_one_seed_share_their_points() -> None:
    """Nested data: the correlation of risks over repeats comes from shared points only."""
    whole = sampled_risk(SMALL, [target(64)], 500, seed=1)
    smaller = sampled_risk(SMALL, [target(64)], 500, 12, seed=1)
    other = sampled_risk(SMALL, [target(64)], 500, 12, seed=2)
    assert np.corrcoef(whole, smaller)[0, 1] > 0.9
    assert abs(np.corrcoef(whole, other)[0, 1]) < 0.2


def test_a_study_has_every_cell_once() -> None:
    rows = study(SMALL, sizes=[4, 8], scratch=[8, 16], finetune=[0, 8], pretrain=32, seeds=3, studies=2)
    assert len(rows) == 2
    assert len({(r["arm"], r["N"], r["D_F"], r["seed"]) for r in rows[0]}) == len(rows[0]) == 2 * 4 * 3
    assert rows[0][0]["loss"] != rows[1][0]["loss"]


def test_what_cannot_be_simulated() -> None:
    with pytest.raises(ValueError, match="lr > 0"):
        Stage(4, 0.0)
    with pytest.raises(ValueError, match="1 to 24"):
        exact_risk(SMALL, [target(4)], 25)
    with pytest.raises(ValueError, match="one shape"):
        Problem(np.ones(3), np.ones(4), np.ones(3))
    with pytest.raises(ValueError, match="above that of one point"):
        effective_points(SMALL, 100.0, 0.15)
    with pytest.raises(ValueError, match="allowed: a risk above"):
        effective_points(SMALL, 1e-3, 0.15, 6, most=64)
