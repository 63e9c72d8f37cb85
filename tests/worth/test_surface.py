"""The map of a law: lines of equal loss lie on it, the frontier is the best split, pieces know what was measured."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from isoloss.laws import Points, fit
from isoloss.worth.compare import LEVEL
from isoloss.worth.surface import BEYOND, surface

PLANTED = {"chinchilla": {"E": 1.2, "A": 40.0, "alpha": 0.4, "B": 300.0, "beta": 0.42},
           "kaplan": {"N_c": 1e9, "D_c": 1e10, "alpha_N": 0.2, "alpha_D": 0.25}}  # fmt: skip
NAMES = ("chinchilla", "kaplan")


def points(law: str, noise: float = 0.003) -> Points:
    from isoloss.laws import get_form

    N, D = (g.ravel() for g in np.meshgrid(np.geomspace(1e4, 1e6, 5), np.geomspace(1e6, 1e8, 5), indexing="ij"))
    N, D = np.tile(N, 3), np.tile(D, 3)
    seed = np.repeat(np.arange(3), 25)
    chance = np.random.default_rng(2)
    clean = get_form(law).predict(PLANTED[law], {"N": N, "D": D})
    loss = clean * np.exp(noise * chance.normal(size=len(N)))
    return Points(N=N, D=D, C=7.0 * N * D, loss=loss, cluster=[f"{n:g} {s}" for n, s in zip(N, seed, strict=True)])


@pytest.mark.parametrize("law", NAMES)
def test_lines_lie_on_the_law_and_know_what_was_measured(law: str) -> None:
    fitted = fit(points(law), law, cluster="cluster")
    found = surface(fitted, None, LEVEL)
    assert found is not None
    json.dumps(found, allow_nan=False)
    (small, large), (short, long) = found["measured"]["N"], found["measured"]["D"]
    assert (small, large, short, long) == (1e4, 1e6, 1e6, 1e8)
    assert found["extent"]["N"] == [5e3, 1e6 * BEYOND] and found["flops_per_nd"] == pytest.approx(7.0)
    losses = sorted({line["loss"] for line in found["lines"]})
    assert 4 <= len(losses) <= 11 and np.ptp(np.diff(losses)) < 1e-9, "round losses in even steps"
    kinds = set()
    for line in found["lines"]:
        N, D = np.array(line["N"]), np.array(line["D"])
        assert np.asarray(fitted.predict(N=N, D=D)) == pytest.approx(line["loss"], rel=1e-9)
        assert found["extent"]["N"][0] * (1 - 1e-9) <= N.min() and N.max() <= found["extent"]["N"][1] * (1 + 1e-9)
        assert found["extent"]["D"][0] * (1 - 1e-6) <= D.min() and D.max() <= found["extent"]["D"][1] * (1 + 1e-6)
        middle = slice(1, -1)  # the ends lie on a border
        seen = (N[middle] >= small) & (N[middle] <= large) & (D[middle] >= short) & (D[middle] <= long)
        assert set(seen.tolist()) == {line["measured"]}
        kinds.add(line["measured"])
    assert kinds == {True, False}


@pytest.mark.parametrize("law", NAMES)
def test_lines_of_one_loss_are_whole(law: str) -> None:
    """From border to border of the map, without a gap between pieces."""
    found = surface(fit(points(law), law), None, LEVEL)
    assert found is not None
    (n0, n1), (d0, d1) = found["extent"]["N"], found["extent"]["D"]
    for loss in {line["loss"] for line in found["lines"]}:
        pieces = sorted((line for line in found["lines"] if line["loss"] == loss), key=lambda line: line["N"][0])
        for one, other in pairwise(pieces):
            assert other["N"][0] == pytest.approx(one["N"][-1]) and other["D"][0] == pytest.approx(one["D"][-1])
        first, last = (pieces[0]["N"][0], pieces[0]["D"][0]), (pieces[-1]["N"][-1], pieces[-1]["D"][-1])
        assert math.isclose(first[0], n0, rel_tol=1e-6) or math.isclose(first[1], d1, rel_tol=1e-6)
        assert math.isclose(last[0], n1, rel_tol=1e-6) or math.isclose(last[1], d0, rel_tol=1e-6)


@pytest.mark.parametrize("law", NAMES)
def test_the_frontier_is_the_best_split_and_its_interval_is_that_of_the_draws(law: str) -> None:
    fitted = fit(points(law), law, cluster="cluster")
    draws = fitted.bootstrap(200)
    found = surface(fitted, draws, LEVEL)
    assert found is not None
    best = found["frontier"]
    for i in (0, len(best["C"]) // 2, len(best["C"]) - 1):
        C, k = best["C"][i], found["flops_per_nd"]
        assert k * best["N"][i] * best["D"][i] == pytest.approx(C, rel=1e-9)

        def loss(x: float, budget: float = C / k) -> float:
            return float(np.asarray(fitted.predict(N=math.exp(x), D=budget / math.exp(x))))

        middle = math.log(best["N"][i])
        assert minimize_scalar(loss, bounds=(middle - 4, middle + 4), method="bounded").x == pytest.approx(
            middle, abs=2e-3
        )
        assert best["loss"][i] == pytest.approx(loss(middle), rel=1e-9)
        assert best["N_low"][i] < best["N"][i] < best["N_high"][i]
    assert any(best["measured"]) and not all(best["measured"])


def test_laws_of_anything_else_have_no_map() -> None:
    table = points("chinchilla")
    assert surface(fit(table, "m2", x="D"), None, LEVEL) is None
