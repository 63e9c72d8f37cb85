"""What a study's runs say about larger batches without being asked: noise scale, distances, the answer itself."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import isoloss
from isoloss.methods.noise_scale import estimate, from_gradients, mean
from isoloss.plan.lower import open_source
from isoloss.train.loop import Trainer
from isoloss.worth.answer import answer
from isoloss.worth.batch import answer as of_rows
from isoloss.worth.batch_distance import distances_of, rough
from isoloss.worth.batch_noise import averages, noise_of
from isoloss.worth.batch_study import finished, large_batch, main_sentences
from isoloss.worth.results import Results

STUDY: dict[str, Any] = {
    "study": "noise",
    "data": {"source": "blobs", "classes": 4, "features": 8, "samples": 2_000},
    "model": {"family": "mlp", "width": 8, "depth": 1},
    "training": {
        "batch": "8 samples",
        "micro_batches": 4,
        "clip": 0.5,
        "optimizer": {"name": "sgd", "lr": 0.05, "weight_decay": 0.0},
    },
    "schedule": {"shape": "constant"},
    "duration": "1200 samples",
    "evaluation": {
        "samples": 200,
        "every": "120 samples",
        "distance": {"per_decade": 6},
        "roughness": {"distances": [0.5, 1.0, 2.0], "directions": 4},
    },
    "checkpoint": {"every": "600 samples"},
    "grid": {"training.batch": ["8 samples", "24 samples", "60 samples"], "seed": [0, 1, 2]},
    "baseline": {"arm": "plain", "extra": "none"},
    "arms": {
        "plain": {},
        "whole": {"training": {"micro_batches": 1}},
        "sharp": {"training": {"sharpness": {"method": "sam", "rho": 0.01}}},
    },
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    found = isoloss.run(copy.deepcopy(STUDY), tmp_path_factory.mktemp("noise") / "store", quiet=True, workers=1)
    assert {r.name: (r.status, r.message) for r in found.results if r.status != "done"} == {}
    return found


# -- noise scale -----------------------------------------------------------------------------------------------


@pytest.mark.multiprocess
def test_the_noise_of_a_trained_study_is_that_of_its_gradients(results: Results) -> None:
    found = noise_of(results)
    # One micro-batch says nothing, nor do workers that moved the weights themselves.
    assert set(found) == {"plain"} and set(found["plain"]) == {"0", "1", "2"}
    (planned,) = [
        p
        for p, r in zip(results.stage.planned, results.results, strict=True)
        if (r.arm, r.facts.batch, r.seed) == ("plain", 8, "1")
    ]
    assert found["plain"]["1"] == pytest.approx(measured_directly(planned.lowered, skipped=15), rel=1e-4)


def measured_directly(lowered: Any, skipped: int) -> tuple[float, float]:
    """(S, |G|^2) of a run that is trained again, from gradients that are taken here."""
    pairs, source = [], open_source(lowered.data)
    ((_, phase, _),) = lowered.run.tracks
    trainer = Trainer(lowered.run.start, phase, source, lowered.run.numerics)
    for offset in range(phase.length):
        x, y = (torch.from_numpy(a) for a in source.batch(phase.rule.seeds["data"], 8 * offset, 8, trainer.context))
        micro = [
            torch.autograd.grad(F.cross_entropy(trainer.model(x[i : i + 2]), y[i : i + 2]), trainer.body.leaves)
            for i in range(0, 8, 2)
        ]
        pairs.append(from_gradients(micro, 2))
        trainer.step(offset)
    assert len(pairs) == 10 * skipped
    whole = mean(pairs[skipped:])
    return whole.S, whole.G2


def scripted(updates: int, batch: int, count: int, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A training curve of gradients mu + noise over sqrt(batch size), and the squared norms of its micro-batches."""
    chance = np.random.default_rng(seed)
    micro = 1.0 + chance.normal(size=(updates, count, 5)) * 3 / math.sqrt(batch / count)
    squares = (micro**2).sum(-1)
    columns = {
        "update": np.arange(1, updates + 1),
        "micro_squared": squares.mean(1),
        "gradient_norm": np.sqrt((micro.mean(1) ** 2).sum(-1)),
    }
    return columns, squares


def test_averages_are_the_mean_of_the_estimates_of_single_updates() -> None:
    columns, squares = scripted(50, 12, 3)
    # The first tenth and updates without norms do not count, whatever they hold.
    columns["micro_squared"][:5] = 1e9
    columns["micro_squared"][20] = math.nan
    columns["gradient_norm"][30] = math.inf
    kept = [u for u in range(5, 50) if u not in (20, 30)]
    each = [estimate(list(squares[u]), float(columns["gradient_norm"][u] ** 2), 4) for u in kept]
    assert averages(columns, 12, 3) == pytest.approx((mean(each).S, mean(each).G2))
    assert averages({name: v for name, v in columns.items() if name != "micro_squared"}, 12, 3) is None
    columns["micro_squared"][:] = math.nan
    assert averages(columns, 12, 3) is None


def test_averages_are_unbiased() -> None:
    """tr(Sigma) = 5 x 9 and |G|^2 = 5, in samples, for any batch and number of micro-batches."""
    for batch, count in ((12, 3), (64, 2), (64, 16)):
        pair = averages(scripted(4000, batch, count, seed=count)[0], batch, count)
        assert pair is not None
        assert pair[0] == pytest.approx(45, rel=0.05)
        assert pair[1] == pytest.approx(5, rel=0.1)


def study_of(runs: list[dict[str, Any]], curves: dict[str, dict[str, np.ndarray]]) -> Any:
    """Results with these runs: arm, batch, seed, N, S, micro-batches (one number a phase) and key."""
    results, planned = [], []
    for run in runs:
        cell = {"training.batch": f"{run['batch']} samples", "seed": run["seed"], "model.width": run["N"]}
        results.append(
            SimpleNamespace(
                arm=run["arm"], cell=cell | run.get("cell", {}), seed=str(run["seed"]), N=run["N"], S=run["S"],
                D=run["S"] * run["batch"], loss=1.0, status="done", key=run["key"], curve=(),
                facts=SimpleNamespace(batch=run["batch"]), distance=run.get("distance", ()),
                roughness=run.get("roughness", ()),
            )
        )  # fmt: skip
        phases = [SimpleNamespace(rule=SimpleNamespace(batch=run["batch"], micro_batches=m)) for m in run["micro"]]
        planned.append(SimpleNamespace(lowered=SimpleNamespace(run=SimpleNamespace(phases=phases))))
    store = SimpleNamespace(trajectory=lambda key: curves.get(key, {}))
    return SimpleNamespace(results=results, stage=SimpleNamespace(planned=planned), store=store, baseline="a")


def test_the_smallest_batch_with_micro_batches_and_the_longest_run_are_taken() -> None:
    base = {"arm": "a", "seed": 0, "N": 8, "S": 40}
    runs = [
        base | {"batch": 4, "micro": [1], "key": "one"},
        base | {"batch": 8, "micro": [2, 4], "key": "mixed"},
        base | {"batch": 12, "micro": [3], "key": "bare"},
        base | {"batch": 24, "micro": [3, 3], "key": "chosen"},
        base | {"batch": 24, "micro": [3], "S": 20, "key": "short"},
        base | {"batch": 48, "micro": [3], "key": "larger"},
        base | {"batch": 24, "micro": [3], "N": 16, "key": "wide"},
        base | {"batch": 24, "micro": [3], "cell": {"training.ghost_size": 4}, "key": "ghost"},
        base | {"batch": 24, "micro": [3], "cell": {"training.ghost_size": 8}, "seed": 1, "key": "ghosts"},
    ]
    keys = ("one", "mixed", "chosen", "short", "larger", "wide", "ghost", "ghosts")
    curves = {key: scripted(40, 24, 3, seed)[0] for seed, key in enumerate(keys)}
    found = noise_of(study_of(runs, curves), 8)
    assert found == {
        "a": {"0": averages(curves["chosen"], 24, 3)},
        "a · ghost_size=4": {"0": averages(curves["ghost"], 24, 3)},
        "a · ghost_size=8": {"1": averages(curves["ghosts"], 24, 3)},
    }
    assert noise_of(study_of(runs, curves), 16) == {"a": {"0": averages(curves["wide"], 24, 3)}}


# -- distances -------------------------------------------------------------------------------------------------


def test_both_laws_of_distance_are_recovered_at_the_peak_rate() -> None:
    updates = [1, 2, 4, 8, 16, 32, 64, 128, 256, 400]
    lr = np.where(np.arange(1, 401) <= 3, 0.01, np.where(np.arange(1, 401) <= 256, 0.1, 0.05))
    curves = {"k": {"update": np.arange(1, 401), "lr": lr}}

    def runs(path: Any, **more: Any) -> Any:
        made = []
        for seed, factor in enumerate((0.5, 1.0, 2.0)):
            # Outside of the constant rate anything may stand: it does not enter.
            way = tuple((t, factor * path(t) if 3 < t <= 256 else 77.0) for t in updates)
            made.append(
                {"arm": "a", "seed": seed, "N": 8, "S": 400, "batch": 4, "micro": [1], "key": "k", "distance": way}
                | more
            )
        return study_of(made, curves)

    (record,) = distances_of(runs(lambda t: 1.5 * math.log(t) + 0.2))
    assert record["growth"]["better"] == "log-growth" and record["growth"]["points"] == 7
    assert record["growth"]["laws"]["log-growth"]["a"] == pytest.approx(1.5, rel=1e-4)
    assert (record["seeds"], record["batch"], record["update"]) == (3, 4, updates)
    at = updates.index(16)
    assert (record["low"][at], record["high"][at]) == pytest.approx(
        (record["distance"][at] / 2, record["distance"][at] * 2)
    )
    evidence = record["growth"]["evidence"]
    assert all(evidence[error]["low"] > 1 for error in ("rmse", "ahead")), evidence
    (record,) = distances_of(runs(lambda t: 0.3 * t**0.4))
    assert record["growth"]["evidence"]["ahead"]["high"] < 1
    assert record["growth"]["better"] == "power-growth"
    assert record["growth"]["laws"]["power-growth"]["p"] == pytest.approx(0.4, rel=1e-4)
    (record,) = distances_of(runs(lambda t: t, key="absent"))
    assert record["growth"] is None and record["note"] == "0 distances at one learning rate are too few for a law"
    assert distances_of(runs(lambda t: t, distance=())) == []


def test_alpha_is_twice_the_slope_over_seeds() -> None:
    spread = [tuple((z, c * z**slope) for z in (0.5, 1.0, 2.0)) for c, slope in ((1, 0.9), (2, 1.0), (3, 1.1))]
    found = rough(spread)
    assert found is not None
    half = 2.919986 * 0.2 / math.sqrt(3)  # Student's t for 90 % at 2 degrees of freedom
    assert list(found["alpha"].values()) == pytest.approx([2.0, 2 - half, 2 + half], rel=1e-6)
    assert found["std"][1] == pytest.approx(math.sqrt(14 / 3))
    single = rough(spread[:1])
    assert single is not None and single["alpha"] == {"ratio": pytest.approx(1.8), "low": None, "high": None}
    assert rough([]) is None


# -- the answer of a study -------------------------------------------------------------------------------------


@pytest.mark.multiprocess
def test_a_trained_study_answers_without_being_asked(results: Results) -> None:
    whole = json.loads(json.dumps(answer(results, command="test"), allow_nan=False))
    (size,) = whole["large_batch"]["sizes"]
    assert {c["batch"] for c in size["cells"]} >= {8, 24}
    plain = next(c for c in size["critical"] if c["arm"] == "plain")
    S, G2 = np.array(list(noise_of(results)["plain"].values())).mean(0)
    assert plain["predicted"]["ratio"] == pytest.approx(S / G2)
    assert 1 <= len(whole["large_batch"]["summary"]) <= 3
    assert set(whole["large_batch"]["summary"]) <= set(whole["summary"])
    assert set(whole["large_batch"]["summary"]) <= set(whole["large_batch"]["text"])
    assert len(whole["distances"]) == 9
    ends = [dict(r.distance)[r.S] for r in results.results if (r.arm, r.facts.batch) == ("plain", 8)]
    record = next(d for d in whole["distances"] if (d["arm"], d["batch"]) == ("plain", 8))
    assert record["distance"][-1] == pytest.approx(math.exp(np.mean(np.log(ends))))
    assert record["growth"]["points"] >= 6 and 0.5 < record["roughness"]["alpha"]["ratio"] < 6


def test_one_batch_asks_nothing_and_no_answer_is_a_caveat() -> None:
    base = {"arm": "a", "N": 8, "S": 40, "micro": [1], "key": "k"}
    one = study_of([base | {"seed": seed, "batch": 8} for seed in (0, 1)], {})
    assert large_batch(one, "samples") == (None, [])
    wide = study_of([base | {"seed": 0, "batch": 8}, base | {"seed": 0, "batch": 16, "N": 9}], {})
    assert large_batch(wide, "samples") == (None, [])
    uneven = study_of([base | {"seed": 0, "batch": 8}, base | {"seed": 0, "batch": 16}], {})
    uneven.results[0].D *= 3
    found, caveats = large_batch(uneven, "samples")
    assert found is None
    assert len(caveats) == 1 and caveats[0].startswith("The large-batch question has no answer: batch: D / (S batch)")


def test_main_sentences_are_those_of_the_reference_and_the_best_method() -> None:
    rows = [
        {"arm": arm, "batch": B, "seed": seed, "D": B * S, "S": S, "loss": 2 * p**-0.3, "duration": f"{doubled}"}
        for arm, critical, gain in (("base", 100, 1.0), ("b", 300, 2.0), ("c", 300, 2.6))
        for B in (16, 64, 256)
        for seed in range(3)
        for doubled in range(8)
        for S in [3200 * 2**doubled / B]
        for p in [gain * S / (1 + critical / B) * math.exp(0.01 * seed * (1 + 100 / B))]
    ]
    found = of_rows(rows, baseline="base")
    said = main_sentences(found)
    assert [s.split(" ")[0] for s in said] == ["base:", "base:", "c"]
    assert "needs" in said[0] and "critical batch" in said[1] and "closes" in said[2]
    assert set(said) <= set(found["text"])
    assert finished("to loss 2, batch 4", {"t"}) == "To loss 2, batch 4."
    assert finished("base: to loss 2", {"base"}) == "base: to loss 2."
    assert finished("c closes 3 %", {"c"}) == "c closes 3 %."


@pytest.mark.multiprocess
def test_a_study_of_one_batch_has_no_such_key(small: dict[str, Any], tmp_path: Path) -> None:
    small["grid"] = {"seed": [0]}
    small["duration"] = "20 updates"
    small["arms"] = {"cosine": small["arms"]["cosine"]}
    whole = isoloss.run(small, tmp_path / "store", quiet=True, workers=1).answer()
    assert whole["large_batch"] is None and whole["distances"] == []
