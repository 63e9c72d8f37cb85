"""Anytime curves against trajectories whose truth is known, and against the real branches of a trained study."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import isoloss
from isoloss.worth.anytime import Point, anytime, anytime_of, anytimes

EVERY, FRACTION = 40, 0.2
FORKS = (240, 480, 960)


def trunk_loss(update: np.ndarray | float) -> np.ndarray | float:
    return 1.3 + 14 / np.asarray(update, float) ** 0.55


def straight(fork: float) -> float:
    return 0.02 + 0.05 * math.log(fork / 100)


def bent(fork: float) -> float:
    """A gap that flattens: 0.05 at 100 updates, 0.2 far out."""
    return 0.2 - 0.15 * (100 / fork) ** 0.7


def trajectories(
    gap: Callable[[float], float],
    chance: np.random.Generator,
    *,
    seeds: int = 3,
    forks: tuple[int, ...] = FORKS,
    until: int = 960,
    wobble: float = 0.004,
    scatter: float = 0.004,
    apart: float = 0.02,
) -> tuple[list[Point], dict[str, float]]:
    """(points, offset of each seed): trunks wobble, branches scatter, seeds move both together."""  # fmt: skip
    points, offsets = [], {}
    for seed in map(str, range(seeds)):
        offsets[seed] = chance.normal(0, apart)
        for update in range(EVERY, until + 1, EVERY):
            loss = float(trunk_loss(update)) + offsets[seed] + chance.normal(0, wobble)
            points.append(Point(seed, update, loss))
        for fork in forks:
            loss = float(trunk_loss(fork)) + offsets[seed] - gap(fork) + chance.normal(0, scatter)
            points.append(Point(seed, round(fork / (1 - FRACTION)), loss, fork))
    return points, offsets


def share_covered(
    gap: Callable[[float], float], at: tuple[int, ...], *, rounds: int = 150, scatter: float = 0.004, **options: object
) -> dict[int, float]:
    """How often a further real branch lies in the band, by where it leaves."""
    chance = np.random.default_rng(5)
    hits = dict.fromkeys(at, 0)
    for _ in range(rounds):
        points, offsets = trajectories(gap, chance, scatter=scatter, **options)  # type: ignore[arg-type]
        made = anytime(points)
        for update in at:
            real = float(trunk_loss(update)) + offsets["0"] - gap(update) + chance.normal(0, scatter)
            found = made.at(update, "0")
            assert found.low is not None and found.high is not None
            hits[update] += found.low <= real <= found.high
    return {update: count / rounds for update, count in hits.items()}


def test_without_noise_the_cooled_loss_is_found_between_branches() -> None:
    points, _ = trajectories(straight, np.random.default_rng(0), wobble=0, scatter=0, apart=0)
    made = anytime(points)
    for update in (240, 300, 480, 700, 960):
        found = made.at(update)
        assert found.loss == pytest.approx(float(trunk_loss(update)) - straight(update), abs=2e-3)
        assert found.end == pytest.approx(update / 0.8, rel=1e-3)
        assert not found.extrapolated


@pytest.mark.parametrize(("gap", "least"), [(straight, 0.86), (bent, 0.80)])
def test_the_band_covers_a_further_branch(gap: Callable[[float], float], least: float) -> None:
    for update, share in share_covered(gap, (240, 320, 480, 700, 960)).items():
        assert least <= share <= 0.99, (update, share)


def test_the_band_covers_with_one_seed_and_five_branches() -> None:
    options = {"seeds": 1, "forks": (160, 240, 400, 640, 960)}
    for update, share in share_covered(bent, (200, 500, 800), **options).items():
        assert share >= 0.85, (update, share)


def test_beyond_the_branches_it_is_flagged_and_the_band_grows_and_covers() -> None:
    points, _ = trajectories(bent, np.random.default_rng(1), until=2400)
    made = anytime(points)
    inside, edge, further, furthest = (made.at(u) for u in (500, 960, 1400, 2400))
    assert not inside.extrapolated and not edge.extrapolated and further.extrapolated and furthest.extrapolated
    widths = [(p.high or 0) - (p.low or 0) for p in (inside, further, furthest)]
    assert widths[0] < widths[1] < widths[2] and widths[2] > 2 * widths[0]
    assert made.at(120).extrapolated
    for update, share in share_covered(bent, (1300, 2000), until=2400).items():
        assert share >= 0.85, (update, share)
    with pytest.raises(ValueError, match="evaluated from update 40 to 2400"):
        made.at(3000)


def test_a_branch_that_is_left_out_is_predicted_without_itself() -> None:
    points, _ = trajectories(straight, np.random.default_rng(2), forks=(160, 320, 640, 960))
    held = anytime(points).held_out()
    assert len(held) == 12
    assert [h.predicted.extrapolated for h in held] == [True] * 3 + [False] * 6 + [True] * 3
    without = anytime([p for p in points if p.fork != 320]).at(320, "1")
    assert next(h.predicted for h in held if h.seed == "1" and h.predicted.fork == 320) == without
    spoilt = [Point(p.seed, p.update, p.loss + 0.5 * (p.fork == 320), p.fork) for p in points]
    assert [h.inside for h in anytime(spoilt).held_out() if h.predicted.fork == 320] == [False] * 3


def test_one_seed_with_three_branches_has_a_band_with_one_degree_of_freedom() -> None:
    points, _ = trajectories(straight, np.random.default_rng(3), seeds=1)
    found = anytime(points).at(500)
    assert found.low is not None and found.high is not None
    few = anytime(points).held_out()
    assert [h.inside for h in few] == [None] * 3  # two branches are a line: nothing is left to judge by


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda ps: [p for p in ps if p.fork != 480], "left at 2 updates"),
        (lambda ps: [p for p in ps if p.fork or p.update <= 160], "has 4 evaluations"),
        (lambda ps: [p for p in ps if p.fork or p.update <= 400], "was evaluated from 40 to 400"),
        (lambda ps: [*ps, Point("0", 50, math.nan)], "finite losses"),
    ],
)
def test_too_little_to_go_by_is_told(change: Callable[[list[Point]], list[Point]], words: str) -> None:
    points, _ = trajectories(straight, np.random.default_rng(4), seeds=1)
    with pytest.raises(ValueError, match=words):
        anytime(change(points))
    with pytest.raises(ValueError, match="seed 'x'"):
        anytime(points).at(100, "x")


def small(durations: list[int]) -> dict[str, object]:
    return {
        "study": "anytime",
        "data": {"source": "stdlib-code", "context": 32, "size": "200 KB"},
        "model": {"family": "gpt", "width": 16, "depth": 1, "head_size": 8},
        "training": {"batch": "8 sequences", "optimizer": {"lr": 2e-2}, "warmup": "10 updates"},
        "evaluation": {"tokens": 8192, "every": "20 updates"},
        "schedule": {"shape": "constant", "cooldown": {"fraction": 0.2}},
        "baseline": {"arm": "cooldown", "extra": "none"},
        "arms": {"cooldown": {}, "constant": {"schedule": {"cooldown": None}}},
        "grid": {"duration": [f"{d} updates" for d in durations], "seed": [0, 1, 2]},
    }


@pytest.mark.slow
def test_a_trained_trunk_foretells_its_own_further_branches(tmp_path: Path) -> None:
    isoloss.run(small([150, 300, 600]), tmp_path / "store", workers=1, quiet=True)
    few = isoloss.results(small([150, 300, 600]), tmp_path / "store")
    (made,) = anytime_of(few, "cooldown").values()
    assert made.range == (120, 480) and made.seeds == ("0", "1", "2")
    assert made.span("0")[1] == pytest.approx(600)  # the constant arm walks on
    real = isoloss.run(small([200, 250, 400, 500]), tmp_path / "store", workers=1, quiet=True)
    inside = []
    for r in real.results:
        if r.arm == "cooldown":
            assert r.loss is not None
            found = made.at(round(0.8 * r.S), r.seed)
            assert found.low is not None and found.high is not None and not found.extrapolated
            assert found.loss == pytest.approx(r.loss, abs=0.1) and found.trunk > r.loss
            inside.append(found.low <= r.loss <= found.high)
    assert sum(inside) >= 9 and len(inside) == 12
    (record,) = anytimes(few)
    assert record["arm"] == "cooldown" and len(record["curves"]) == 3 and len(record["held_out"]) == 9
    assert "a cooldown begun at any update from 120 to 480" in record["text"]
    assert few.answer()["anytime"] == [record]
