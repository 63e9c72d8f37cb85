"""Advice for a budget: from a study whose losses are planted, from tables and saved fits, and what has no answer."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoloss.laws import Outlook, Points, fit, load_fit
from isoloss.plan.demands import stage
from isoloss.plan.lower import Lowering
from isoloss.plan.memory import StoreMemory
from isoloss.plan.summary import as_study
from isoloss.recipe.errors import StudyError
from isoloss.store import Store
from isoloss.worth.advise_budget import advise
from isoloss.worth.advise_text import share_words, short
from isoloss.worth.compare import compare
from isoloss.worth.devices import DEVICES, MFU, PRECISIONS, budget
from isoloss.worth.planner import export, practice, recommended, schedule
from isoloss.worth.results import Results, collect

TRUTH = {"A": 40.0, "B": 300.0, "E": 1.2, "alpha": 0.35, "beta": 0.4}
WORTH = 1.3
"""What the cooldown is worth in data, as planted."""
RATE = (0.5, -0.4)
"""The planted learning rate: RATE[0] N^RATE[1]."""


def planted(values: dict[str, float], N: Any, D: Any) -> Any:
    """The law that the studies and tables here follow."""
    return values["E"] + values["A"] * N ** -values["alpha"] + values["B"] * D ** -values["beta"]


def table(noise: float = 0.004, seeds: int = 3) -> Points:
    """A table of the planted law over two decades of size and data."""
    N = np.repeat(np.array([1e6, 3e6, 1e7, 3e7, 1e8]), 4 * seeds)
    D = N * np.tile(np.repeat([5.0, 20.0, 80.0, 320.0], seeds), 5)
    wiggle = np.exp(noise * np.random.default_rng(0).normal(size=len(N)))
    return Points(N=N, D=D, C=6 * N * D, loss=planted(TRUTH, N, D) * wiggle)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A study that was planned but not trained: its losses and tuned rates are planted."""
    raw = {
        "study": "planned",
        "data": {"source": "synthetic", "order": 1, "vocabulary": 8, "tokens": 20_000, "context": 8},
        "model": {"family": "gpt", "depth": 1, "head_size": 4},
        "training": {"optimizer": {"name": "adamw", "lr": 0.01}, "batch": "4 sequences"},
        "evaluation": {"tokens": 256},
        "grid": {
            "model.width": [8, 16, 32, 64],
            "duration": ["100 updates", "400 updates", "1600 updates"],
            "seed": [0, 1, 2],
        },
        "baseline": {"arm": "cosine", "extra": "none"},
        "arms": {
            "cosine": {"schedule": {"shape": "cosine", "final": 0.1}},
            "cooldown": {"schedule": {"shape": "constant", "cooldown": {"shape": "one_minus_sqrt", "fraction": 0.2}}},
        },
        "laws": ["chinchilla"],
    }
    study, store = as_study(raw), Store(tmp_path_factory.mktemp("store") / "s", create=True)
    found = collect(study, stage(study, StoreMemory(store), Lowering(threads=1)), store)
    rng = np.random.default_rng(5)
    by_root: dict[str, float] = {}
    done = []
    for r in found.results:
        wiggle = by_root.setdefault(r.root, 0.003 * rng.normal()) + 0.001 * rng.normal()
        loss = float(planted(TRUTH, r.N, r.D * (WORTH if r.arm == "cooldown" else 1.0)) * math.exp(wiggle))
        tuned = "8" in str(r.cell["model.width"]) or "64" in str(r.cell["model.width"])
        rule = {"lr": RATE[0] * r.N ** RATE[1], "lr_rule": "tuned" if tuned else "between"}
        done.append(replace(r, status="done", loss=loss, **rule))
    found.results = done
    return found


def test_the_study_is_advised_by_its_best_arm(results: Results) -> None:
    assert recommended(results, compare(results)) == "cooldown"
    largest = max(r.C for r in results.results)
    found = advise(results, flops=5 * largest)
    answer = found["answer"]
    truth = planted(TRUTH, answer["N"], WORTH * answer["D"])
    assert found["arm"] == "cooldown" and found["law"] == "chinchilla" and found["unit"] == "tokens"
    assert answer["low"] < truth < answer["high"] and answer["loss"] == pytest.approx(truth, rel=0.03)
    timing = found["schedule"]
    assert timing["known"] and timing["arm"] == "cooldown"
    assert timing["worth"]["low"] < WORTH < timing["worth"]["high"]
    assert timing["worth"]["N"] == max(r.N for r in results.results)
    said = " ".join(found["text"])
    assert "constant, then one minus sqrt cooldown over 20% of the run (arm cooldown), worth 1.3" in said
    assert any(warning.startswith("extrapolated beyond what was measured") for warning in found["warnings"])
    json.dumps(found, allow_nan=False)


def test_an_arm_can_be_named(results: Results) -> None:
    largest = max(r.C for r in results.results)
    found = advise(results, flops=largest, arm="cosine")
    truth = planted(TRUTH, found["answer"]["N"], found["answer"]["D"])
    assert found["arm"] == "cosine" and found["answer"]["loss"] == pytest.approx(truth, rel=0.02)
    assert "the numbers above are those of arm cosine" in " ".join(found["text"])
    with pytest.raises(StudyError, match=r"--arm: found 'cosin'; allowed: cooldown, cosine \(did you mean 'cosine'"):
        advise(results, flops=largest, arm="cosin")


def test_the_learning_rate_follows_the_tuned_sizes(results: Results) -> None:
    found = advise(results, flops=1e9)
    assert found["lr"]["rule"] == "fitted" and len(found["lr"]["sizes"]) == 2
    assert found["lr"]["exponent"] == pytest.approx(RATE[1], rel=1e-9)
    assert found["lr"]["value"] == pytest.approx(RATE[0] * found["answer"]["N"] ** RATE[1], rel=1e-9)
    few = replace(results, results=[replace(r, lr_rule="given") for r in results.results])
    rates = practice(few, "cosine")["lr"]
    assert rates["rule"] == "not tuned" and rates["coefficient"] is None
    smallest = min(r.N for r in results.results)
    single = [replace(r, lr_rule="tuned" if smallest == r.N else "nearest") for r in results.results]
    found = advise(replace(results, results=single), flops=1e9)
    assert found["lr"]["rule"] == "one size" and found["lr"]["value"] is None
    assert "the rule over N is not known" in " ".join(found["text"])


def test_the_batch_is_the_studys_own_unless_a_critical_one_is_known(results: Results) -> None:
    batch = practice(results, "cosine")["batch"]
    assert batch["used"] == 4 and batch["value"] is None and batch["unit"] == "sequences"
    critical = {"arm": "cosine", "B_crit": {"ratio": 37.0, "low": 30.0, "high": None}, "note": ""}
    size = {"N": 900, "target": 2.0, "critical": [critical], "reference": {"arm": "cosine", "batch": 4}}
    known = practice(results, "cooldown", {"sizes": [size, {**size, "target": None}]})
    assert known["batch"]["value"] == 37.0 and known["batch"]["low"] == 30.0
    assert known["lr"]["batch"] == {"batch": 37.0, "rule": "sqrt", "factor": pytest.approx(math.sqrt(37 / 4))}
    unmeasured = {**critical, "B_crit": {"ratio": None, "low": None, "high": None}, "predicted": {"ratio": 50.0}}
    scale = practice(results, "cosine", {"sizes": [{**size, "critical": [unmeasured]}]})["batch"]
    assert scale["value"] == 50.0 and scale["source"].startswith("gradient noise scale")


def test_schedules_that_are_not_better_leave_the_baseline(results: Results) -> None:
    equal = [replace(r, loss=float(planted(TRUTH, r.N, r.D))) for r in results.results]
    same = replace(results, results=equal)
    assert recommended(same, compare(same)) == "cosine"
    timing = schedule(same, compare(same))
    assert timing["worth"] is None and timing["known"] and timing["words"] == "cosine to 0.1 of the peak"
    only = replace(results, results=[r for r in results.results if r.arm == "cosine"])
    planned = tuple(p for p in results.stage.planned if p.cell.arm == "cosine")
    only.stage = replace(results.stage, planned=planned)
    alone = schedule(only, compare(only))
    assert not alone["known"] and "which compares no schedules" in " ".join(advise(only, flops=1e9)["text"])


def test_a_study_without_finished_runs_is_refused(results: Results) -> None:
    nothing = replace(results, results=[replace(r, status="missing", loss=None) for r in results.results])
    with pytest.raises(StudyError, match="planned: no run is finished, so there is nothing to advise from"):
        advise(nothing, flops=1e9)
    assert export(nothing) is None
    part = replace(results, results=[r if r.D < 4000 and r.seed == "0" and r.arm == "cosine" else
                                     replace(r, status="missing", loss=None) for r in results.results])  # fmt: skip
    with pytest.raises(StudyError, match="no law of size and data for arm 'cosine'"):
        advise(part, flops=1e9)


def test_the_export_is_what_advice_computes_from(results: Results) -> None:
    planner = export(results)
    assert planner is not None
    assert [entry["arm"] for entry in planner["entries"]] == ["cooldown", "cosine"], "the best arm first"
    assert planner["devices"][-1]["name"] == max(DEVICES, key=lambda n: DEVICES[n].peaks.get("bf16", 0))
    entry = json.loads(json.dumps(planner["entries"][0], allow_nan=False))
    assert Outlook.from_dict(entry["outlook"]).answer(1e9) == advise(results, flops=1e9)["answer"]
    assert len(json.dumps(planner)) < 60_000


# ---- tables and saved fits


def test_tables_fits_and_saved_fits_give_one_answer(tmp_path: Path) -> None:
    points = table()
    found = fit(points, "chinchilla")
    found.save(tmp_path / "fit.json", found.bootstrap(200))
    answers = [advise(source, flops=1e19)["answer"] for source in (points, found, load_fit(tmp_path / "fit.json"))]
    assert answers[0] == answers[1] == answers[2]
    truth = planted(TRUTH, answers[0]["N"], answers[0]["D"])
    assert answers[0]["low"] < truth < answers[0]["high"]
    said = advise(points, flops=1e19)["text"]
    assert any("not known from this source" in sentence for sentence in said)


def test_budgets_in_hours_and_tokens() -> None:
    points = table()
    by_hours = advise(points, hours=2.0, device="H100", mfu=0.5, devices=4)
    assert by_hours["answer"]["C"] == pytest.approx(2 * 3600 * 4 * 989.4e12 * 0.5)
    assert by_hours["hours"] == pytest.approx(2.0)
    assert any("rests on MFU 0.5" in warning for warning in by_hours["warnings"])
    assert advise(points, flops=1e19, device="a100")["hours"] == pytest.approx(1e19 / (312e12 * MFU) / 3600)
    assert advise(points, hours=1.0, peak=1e13)["answer"]["C"] == pytest.approx(3600 * 1e13 * MFU)
    by_tokens = advise(points, tokens=3e9)
    assert by_tokens["answer"]["D"] == pytest.approx(3e9, rel=1e-9)
    both = advise(points, tokens=3e9, params=2e8)
    assert both["answer"]["C"] == pytest.approx(6 * 3e9 * 2e8)
    assert "The best split of these FLOPs is" in " ".join(both["text"])


def test_further_variables_of_a_law_are_given(tmp_path: Path) -> None:
    points = table()
    depth = np.tile([2.0, 4.0, 8.0], len(points) // 3)
    deep = fit(points.with_columns(depth=depth, loss=points.loss + 0.3 / depth), "additive:N,D,depth")
    deep.save(tmp_path / "deep.json", deep.bootstrap(200))
    for source in (deep, load_fit(tmp_path / "deep.json")):
        by_hand, usual = (advise(source, flops=1e18, others=others)["answer"] for others in ({"depth": 4.0}, None))
        assert usual == advise(source, flops=1e18, others={"depth": 8.0})["answer"], "the largest by default"
        assert by_hand["loss"] == pytest.approx(usual["loss"] + 0.3 / 8, abs=0.01)
        with pytest.raises(StudyError, match=r"--given: found width; allowed: depth"):
            advise(source, flops=1e18, others={"width": 4.0})
    with pytest.raises(StudyError, match=r"--given: found depth; allowed: none, law 'chinchilla' has no further"):
        advise(points, flops=1e18, others={"depth": 4.0})


# ---- what cannot be answered


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "budget: found none; allowed: exactly one of --flops, --hours and --tokens"),
        ({"flops": 1e18, "tokens": 1e9}, "budget: found --flops, --tokens; allowed: exactly one"),
        ({"flops": 0.0}, "--flops: found 0; allowed: a number above 0"),
        ({"flops": -1e18}, r"--flops: found -1e\+18; allowed: a number above 0"),
        ({"flops": math.nan}, "--flops: found nan; allowed"),
        ({"tokens": math.inf}, "--tokens: found inf; allowed"),
        ({"hours": 3.0}, "--hours: on which device"),
        ({"hours": 3.0, "device": "h10"}, r"--device: found 'h10'; allowed: .* \(did you mean 'h100'\?\)"),
        ({"hours": 3.0, "device": "h100", "mfu": 1.2}, "--mfu: found 1.2; allowed: above 0, at most 1"),
        ({"hours": 3.0, "device": "h100", "mfu": 0.0}, "--mfu: found 0; allowed"),
        ({"flops": 1e18, "mfu": 0.4}, "--mfu: found without --device or --peak"),
        ({"hours": 3.0, "device": "h100", "peak": 1e15}, "--device and --peak: found both"),
        ({"hours": 3.0, "device": "h100", "devices": 0}, "--devices: found 0; allowed: 1 or more"),
        ({"hours": 3.0, "device": "v100"}, "--precision: v100 has no figure for bf16; allowed: fp16, fp32"),
        ({"hours": 3.0, "device": "h100", "precision": "fp8"}, "--precision: found 'fp8'; allowed: bf16, fp16, fp32"),
        ({"hours": 3.0, "device": "here"}, "--device here: no run of this source was timed"),
        ({"flops": 1e18, "params": -3.0}, "--params: found -3; allowed: a number of parameters above 0"),
        ({"flops": 1e18, "level": 1.5}, "--level: found 1.5; allowed: a number between 0 and 1"),
        ({"flops": 1e18, "reach": 0.5}, "--reach: found 0.5; allowed: 1 or more"),
        ({"flops": 1e18, "arm": "cosine"}, "--arm: found 'cosine'; allowed: with a study, or"),
        ({"flops": 1e28}, r"advise: C would be .* above the measured .* allowed: .* FLOPs at the best split"),
        ({"flops": 1e9}, "advise: C would be .* below the measured"),
        ({"flops": 1e18, "law": "kaplan-d"}, "law 'kaplan-d' is a law of D alone"),
        ({"flops": 1e18, "law": "chinchila"}, "unknown law 'chinchila'"),
    ],
)
def test_what_cannot_be_answered_says_why(options: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        advise(table(), **options)


def test_a_saved_fit_keeps_its_law(tmp_path: Path) -> None:
    fit(table(), "chinchilla").save(tmp_path / "fit.json")
    with pytest.raises(StudyError, match="--law: found 'kaplan'; the saved fit is of law 'chinchilla'"):
        advise(load_fit(tmp_path / "fit.json"), flops=1e18, law="kaplan")


# ---- devices and words


def test_devices_have_plausible_peaks_and_a_source() -> None:
    for name, device in DEVICES.items():
        assert device.source and device.label and set(device.peaks) <= set(PRECISIONS)
        assert 1e12 < min(device.peaks.values()) <= max(device.peaks.values()) < 1e16, name
        if {"bf16", "fp32"} <= set(device.peaks):
            assert device.peaks["bf16"] > device.peaks["fp32"]
    # The H100's tensor cores: 132 SMs x 4 x 1,024 multiply-adds a cycle of dense fp16 at 1.83 GHz (its white paper).
    assert DEVICES["h100"].peaks["bf16"] == pytest.approx(132 * 4 * 512 * 2 * 1.83e9, rel=1e-3)
    # The A100: 108 SMs x 4 x 256 multiply-adds at 1.41 GHz.
    assert DEVICES["a100"].peaks["bf16"] == pytest.approx(108 * 4 * 256 * 2 * 1.41e9, rel=1e-3)
    assert budget(flops=1.0).speed is None


@pytest.mark.parametrize(
    ("value", "text"), [(None, "?"), (950.0, "950"), (999.6, "1k"), (1.234e6, "1.23M"), (2.5e12, "2.5T")]
)
def test_counts_are_short(value: float | None, text: str) -> None:
    assert short(value) == text
    assert share_words(0.00625) == "0.62%"
