"""Rules of the claims on planted answers: each goes every way that it may."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from reproductions.verdicts import FAILS, HOLDS, OPEN, Verdict

from reproductions import extrapolation, fixed_durations, train_longer

SEEDS = 5
LUCK = (0.03, -0.02, 0.01, 0.005, -0.025)
NOISE = 5e-4


def run(arm: str, seed: int, loss: float, **cell: Any) -> dict[str, Any]:
    """A finished run whose loss shares its seed's luck, and is off by a little of its own."""
    own = NOISE * ((1 + sum(map(ord, arm)) % 4) * seed % 5 - 2)
    loss = loss + LUCK[seed] + own
    return {
        "arm": arm,
        "seed": str(seed),
        "status": "done",
        "extra": False,
        "N": 100,
        "D": 1000,
        "loss": loss,
        "metrics": {"accuracy": 1 - loss / 100},
        "cell": {"seed": seed, **cell},
    }


def steps(losses: Mapping[str, float], study: str) -> dict[str, Any]:
    """An answer whose arms end at these losses at every batch; arms that are not named end at 2."""
    arms = {
        *("sgd", "adamw", "plain momentum", *extrapolation.STEPS, *extrapolation.NOISE, "past gradient"),
        *(extrapolation.LOCAL, extrapolation.EARLY, extrapolation.BOTH, extrapolation.POST),
    }
    cells = [(arm, batch, seed) for arm in arms for batch in extrapolation.BATCHES[study] for seed in range(SEEDS)]
    return {"runs": [run(arm, seed, losses.get(arm, 2.0), **{"training.batch": batch}) for arm, batch, seed in cells]}


IMAGES, TEXT = extrapolation.IMAGES, extrapolation.TEXT


@pytest.mark.parametrize(
    ("name", "study", "losses", "verdict"),
    [
        ("_improves", TEXT, {"local extragradient": 1.9}, HOLDS),
        ("_improves", TEXT, {"local extragradient": 2.1}, FAILS),
        ("_improves", TEXT, {}, OPEN),
        ("_past", IMAGES, {"past gradient": 1.9}, HOLDS),
        ("_past", IMAGES, {"past gradient": 2.1}, FAILS),
        ("_noise", TEXT, {"noise": 2.1, "noise x10": 1.9}, HOLDS),
        ("_noise", TEXT, {"noise": 2.1, "noise x10": 2.1}, FAILS),
        ("_noise", TEXT, {"noise": 2.1}, OPEN),
        ("_how_far", TEXT, {"local half as far": 2.1}, HOLDS),
        ("_how_far", TEXT, {}, FAILS),
        ("_how_far", TEXT, {"local half as far": 2.01}, OPEN),
        ("_initial_phase", TEXT, {"local extragradient": 1.9, "local early only": 1.905}, HOLDS),
        ("_initial_phase", TEXT, {"local extragradient": 1.9, "local early only": 1.95}, FAILS),
        ("_initial_phase", TEXT, {"local extragradient": 1.9, "local early only": 1.91}, OPEN),
        # On images early only loses the look-ahead too: both with and without what that is worth must agree.
        ("_initial_phase", IMAGES, {"local extragradient": 1.9, "local early only": 1.9}, HOLDS),
        (
            "_initial_phase",
            IMAGES,
            {"local extragradient": 1.9, "local early only": 1.95, "plain momentum": 2.1},
            OPEN,
        ),
        ("_complement", TEXT, {"local then post-local": 1.9}, HOLDS),
        ("_complement", TEXT, {"local then post-local": 2.1}, FAILS),
        ("_complement", IMAGES, {"local then post-local": 2.05, "plain momentum": 2.1}, OPEN),
    ],
)
def test_extrapolation(name: str, study: str, losses: Mapping[str, float], verdict: Verdict) -> None:
    claim = getattr(extrapolation, name)(steps(losses, study), study)
    assert claim.verdict == verdict, claim.found


def errors(points: Mapping[tuple[str, int], float]) -> dict[str, Any]:
    """An answer whose arms have these errors (percent) at batches of 64 and 1024; the longest training counts."""
    found = []
    for (arm, batch), error in points.items():
        for duration, D, more in (("2 epochs", 200, 30.0), ("11 epochs", 1100, 0.0)):
            for seed in range(SEEDS):
                made = run(arm, seed, error + more, **{"training.batch": f"{batch} samples", "duration": duration})
                found.append(made | {"D": D})
    return {"runs": found}


@pytest.mark.parametrize(("closed", "verdict"), [(9.0, HOLDS), (10.4, HOLDS), (10.6, FAILS), (10.5, OPEN)])
def test_train_longer(closed: float, verdict: Verdict) -> None:
    answer = errors(
        {
            ("plain", 64): 10.0,
            ("plain", 1024): 17.0,
            ("lr", 1024): 14.0,
            ("lr + ghost", 1024): 14.5,
            ("ghost", 1024): 17.0,
            ("regime", 1024): 12.0,
            ("lr + ghost + regime", 1024): closed,
        }
    )
    loses, scaled, ghosts, closes, ghost, regime = train_longer._main(answer)
    assert [c.verdict for c in (loses, scaled, ghosts, ghost, regime)] == [HOLDS, HOLDS, FAILS, OPEN, HOLDS]
    assert closes.verdict == verdict
    assert "2 epochs +7.00" in loses.found and "11 epochs +7.00" in loses.found


def evidence(rmse: tuple[float, float], ahead: tuple[float, float]) -> dict[str, Any]:
    ends = {"rmse": rmse, "ahead": ahead}
    return {"growth": {"evidence": {name: {"low": low, "high": high} for name, (low, high) in ends.items()}}}


def test_the_logarithm_and_one_function_of_updates() -> None:
    log, power, mixed = evidence((1.1, 2), (1.5, 3)), evidence((0.5, 0.9), (0.2, 0.4)), evidence((0.5, 0.9), (1.5, 3))
    said = [train_longer._logarithm(all_) for all_ in ((log, log), (power, power, log), (mixed, mixed), (log, power))]
    assert said == [HOLDS, FAILS, OPEN, OPEN]
    rows = ((1.0, 1.05), (1.2, 1.4), (1.05, 1.2))
    assert [train_longer._together({"low": low, "high": high}) for low, high in rows] == [HOLDS, FAILS, OPEN]


@pytest.mark.parametrize(("alpha", "verdict"), [((1.9, 2.1), HOLDS), ((3.0, 4.0), FAILS), ((2.2, 2.8), OPEN)])
def test_the_spread_around_the_weights(alpha: tuple[float, float], verdict: Verdict) -> None:
    ratio = {"ratio": sum(alpha) / 2, "low": alpha[0], "high": alpha[1]}
    record = {"roughness": {"distance": [0.5, 1.0], "std": [0.01, 0.02], "alpha": ratio}}
    claim = train_longer._spreads("asked", {"net": record})
    assert claim.verdict == verdict and "spread 0.01, 0.02 nats" in claim.found


def branches(shares: Mapping[tuple[int, str], int]) -> dict[str, Any]:
    """An answer in which, of ten branches of a trunk (N, seed), so many lie in their band; between and beyond alike."""

    def held(seed: str, inside: int) -> list[dict[str, Any]]:
        kinds = [(beyond, at) for beyond in (False, True) for at in range(10)]
        return [{"seed": seed, "extrapolated": beyond, "inside": at < inside} for beyond, at in kinds]

    return {"anytime": [{"N": N, "held_out": held(seed, inside)} for (N, seed), inside in shares.items()]}


def test_anytime_bands_are_judged_by_seeds() -> None:
    good = {(N, str(seed)): 9 + (N + seed) % 2 for N in (1, 2) for seed in range(4)}
    words, verdict = fixed_durations._anytime({"a": branches(good)})
    assert verdict == HOLDS and "of 80 real branches of 8 trunks" in words
    poor = {trunk: inside - 5 for trunk, inside in good.items()}
    assert fixed_durations._anytime({"a": branches(poor)})[1] == FAILS
    # One bad seed of four: its two trunks are one unit, so that nothing is resolved.
    assert fixed_durations._anytime({"a": branches(good | {(1, "0"): 5, (2, "0"): 5})})[1] == OPEN
    # A fifth seed with one trunk is no unit.
    words, _ = fixed_durations._anytime({"a": branches(good), "b": branches({(1, s): 10 for s in "01234"})})
    assert "of 120 real branches of 12 trunks" in words


def lengths(losses: Mapping[str, float]) -> dict[str, Any]:
    made = [run(arm, seed, loss, duration="100 updates") for arm, loss in losses.items() for seed in range(SEEDS)]
    return {"runs": made}


@pytest.mark.parametrize(
    ("long", "short", "verdict"), [(1.98, 2.2, HOLDS), (1.90, 2.2, FAILS), (1.95, 2.2, OPEN), (1.98, 1.9, FAILS)]
)
def test_the_gain_of_a_longer_cooldown_flattens(long: float, short: float, verdict: Verdict) -> None:
    answer = lengths({"5 percent": short, fixed_durations.TRUNK: 2.0, "30 percent": long})
    assert fixed_durations._flattens(answer, "100 updates") == verdict


def test_the_best_exponent_of_a_cooldown() -> None:
    def answer(nearly: tuple[float, float], worse: tuple[float, float]) -> dict[str, Any]:
        place = {"against": fixed_durations.TRUNK, "place": "all durations", "value": 0.0}
        ends = {"power 0.3": nearly, "power 0.7": worse}
        rows = [place | {"arm": arm, "low": low, "high": high} for arm, (low, high) in ends.items()]
        return {"fixed_durations": [{"id": "forms", "rows": rows}]}

    cases = (
        ((0.001, 0.003), (0.001, 0.002), HOLDS),
        ((-0.003, -0.001), (0.001, 0.002), FAILS),
        ((0.02, 0.03), (0.001, 0.002), FAILS),
        ((0.001, 0.003), (-0.001, 0.002), OPEN),
    )
    for nearly, worse, verdict in cases:
        assert fixed_durations._best(answer(nearly, worse)) == verdict
