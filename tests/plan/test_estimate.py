"""Time and memory in advance against what real updates take."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import isoloss
from isoloss.plan import speed
from isoloss.plan.demands import expected, stage
from isoloss.plan.estimate import Foreseen, estimate
from isoloss.plan.lower import Lowering, open_source
from isoloss.plan.memory import StoreMemory
from isoloss.plan.needs import Nothing, arrange
from isoloss.plan.speed import Kinds, Speeds, curve, in_turn
from isoloss.plan.tree import Node, grow
from isoloss.store import Store
from isoloss.study import from_dict
from isoloss.train.calibrate_speed import Job, calibrate, measure

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrations of this test alone."""
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path / "cache"))


def ladder(small: dict[str, Any], *widths: int) -> dict[str, Any]:
    """Sizes whose updates differ in time."""
    made = copy.deepcopy(small)
    made["data"] |= {"context": 32, "vocabulary": 64}
    made["model"] |= {"depth": 2}
    made["training"]["batch"] = "16 sequences"
    made["grid"] = {"model.width": list(widths), "duration": ["20 updates"], "seed": [0]}
    made["arms"] = {"cosine": made["arms"]["cosine"]}
    return made


def nodes(study: dict[str, Any]) -> list[Node]:
    return [n for root in stage(from_dict(study), Nothing(), Lowering()).roots for n in root.walk()]


def jobs(study: dict[str, Any]) -> list[Job]:
    """One for each kind, by FLOPs."""
    kinds = Kinds()
    found = {kind.id: kind for kind in map(kinds.of, nodes(study))}
    made = [Job(k.id, k.node.run, k.node.index, k.node.data, k.amount, k.flops) for k in found.values()]
    return sorted(made, key=lambda job: job.flops)


def test_a_third_model_lies_between_two_that_were_calibrated(small: dict[str, Any]) -> None:
    low, middle, high = jobs(ladder(small, 16, 40, 96))
    took: dict[str, float] = {}
    errors = []
    for _ in range(8):  # the machine may do other things at any moment: the shortest times count
        for job in (low, middle, high):
            found = measure(job, open_source(dict(job.data)), 0.1).update
            took[job.name] = min(found, took.get(job.name, found))
        predicted = curve([(job.flops, took[job.name]) for job in (low, high)], middle.flops)
        errors.append(abs(predicted / took[middle.name] - 1))
        if errors[-1] < 0.35:
            return
    raise AssertionError(errors)


def test_between_and_beyond_points_on_a_power_law() -> None:
    points = [(f, 3.0 * f**0.4) for f in (1e6, 1e8)]
    assert curve(points, 1e7) == pytest.approx(3.0 * 1e7**0.4)
    assert curve(points, 1e5) == pytest.approx(3.0 * 1e5**0.4)
    assert curve(points, 1e10) == pytest.approx(3.0 * 1e10**0.4)
    steep = [(1.0, 1.0), (10.0, 100.0)]  # slower for its FLOPs when larger: beyond, efficiency stays what it was
    assert curve(steep, 100.0) == pytest.approx(1000.0)
    assert curve([(2.0, 3.0)], 4.0) == pytest.approx(6.0)
    assert curve([], 1.0) == 0.0
    assert curve([(0.0, 3.0), (0.0, 3.0)], 0.0) == pytest.approx(3.0)  # a model without products of matrices


def test_kinds_are_told_apart_by_what_takes_time(small: dict[str, Any]) -> None:
    small["arms"]["other"] = {"schedule": {"shape": "cosine", "final": 0.3}, "training": {"optimizer": {"lr": 0.02}}}
    assert len(jobs(small)) == 1  # lengths, rates, seeds, schedules and averages
    small["arms"]["twice"] = {"training": {"batch": "8 sequences"}}
    small["arms"]["sgd"] = {"training": {"optimizer": {"name": "sgd", "momentum": 0.9, "lr": 0.1}}}
    kinds = Kinds()
    found = [kinds.of(node) for node in nodes(small)]
    assert len({kind.id for kind in found}) == 3
    assert len({kind.family for kind in found}) == 2  # another batch is another size of one family


def test_the_smallest_and_largest_come_first(small: dict[str, Any]) -> None:
    kinds = Kinds()
    found = {k.id: k for k in map(kinds.of, nodes(ladder(small, 8, 16, 24, 32, 64)))}
    widths = [k.node.run.start.model["spec"]["width"] for k in in_turn(list(found.values()))]
    assert widths[:2] == [8, 64]
    assert sorted(widths) == [8, 16, 24, 32, 64]
    assert widths[2] == 24  # the middle of the only gap that there is then


@pytest.mark.multiprocess
def test_calibrations_are_cached_and_planning_writes_nothing_to_the_store(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = ladder(small, 8, 24)
    shorter = copy.deepcopy(study)
    shorter["grid"]["model.width"] = [8]
    isoloss.run(shorter, tmp_path / "store", workers=1, quiet=True)

    def content() -> dict[str, bytes]:
        files = (p for p in (tmp_path / "store").rglob("*") if p.is_file() and "index" not in p.name)
        return {str(p): p.read_bytes() for p in files}

    before = content()
    monkeypatch.setattr(speed, "IDLE", 0.0)  # other tests may run beside this one
    first = isoloss.plan(study, tmp_path / "store", workers=2, calibrate=True)
    assert content() == before
    assert [row.source for row in first.estimate.rows] == ["calibration"]  # the other one is trained
    calls: list[object] = []
    monkeypatch.setattr(speed, "calibrate", lambda *a, **k: calls.append(a))
    again = isoloss.plan(study, workers=2)
    assert not calls
    assert [row.source for row in again.estimate.rows] == ["calibration", "calibration"]
    assert again.estimate.rows[1].update_seconds == first.estimate.rows[0].update_seconds
    # What the store has itself comes before the cache; another number of workers is another calibration.
    longer = copy.deepcopy(study)
    longer["grid"]["duration"] = ["40 updates"]
    known = isoloss.plan(longer, tmp_path / "store", workers=2)
    assert [row.source for row in known.estimate.rows] == ["store", "calibration"]
    assert {row.source for row in isoloss.plan(study, workers=1).estimate.rows} == {"rough"}


@pytest.mark.multiprocess
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs processes that can be bound to a processor")
def test_what_is_measured_on_a_busy_machine_is_said_and_not_kept(small: dict[str, Any], tmp_path: Path) -> None:
    study = ladder(small, 8)
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})  # three workers for one processor
    try:
        planned = isoloss.plan(study, workers=3, calibrate=True)
    finally:
        os.sched_setaffinity(0, allowed)
    assert planned.share < 0.5
    assert [row.source for row in planned.estimate.rows] == ["calibration"]
    assert "other work kept the processors busy" in str(planned)
    assert not list(tmp_path.glob("cache/speed/*"))
    assert [row.source for row in isoloss.plan(study, workers=3).estimate.rows] == ["rough"]


def test_seconds_of_stored_pieces_are_divided_among_updates_and_evaluations(
    small: dict[str, Any], tmp_path: Path
) -> None:
    study = ladder(small, 8)
    results = isoloss.run(study, tmp_path / "store", workers=1, quiet=True)
    store = Store(tmp_path / "store")
    (root,) = results.stage.roots
    whole = list(root.walk())
    speeds = Speeds(whole, store, workers=1)
    predicted = sum(sum(speeds.trained(n, n.length, [list(m.values()) for m in n.measures.values()])) for n in whole)
    # The median of pieces stands for all of them: the same order, not the same number.
    assert 0.2 < sum(row.seconds for row in store.pieces()) / predicted < 5


@pytest.mark.multiprocess
def test_calibration_leaves_out_what_fails_and_what_there_is_no_time_for(small: dict[str, Any]) -> None:
    good, large = jobs(ladder(small, 8, 64))
    huge = Job("huge", large.run, large.track, large.data, large.amount, 1e18)
    broken = Job("broken", good.run, good.track, {"source": "nowhere"}, good.amount, good.flops)
    found = calibrate([good, broken, huge], processes=2, threads=1, limit=2.0)
    assert set(found.timings) == {good.name}
    timing = found.timings[good.name]
    assert found.started > 0 and timing.update > 0 and timing.evaluation > 0 and 0 < found.share <= 1.05
    assert calibrate([], processes=1, threads=1, limit=1.0).timings == {}


def test_json_says_updates_seconds_and_memory_of_each_kind(small: dict[str, Any]) -> None:
    planned = isoloss.plan(ladder(small, 8, 16), workers=2).to_dict()
    json.dumps(planned, allow_nan=False)
    assert planned["speed"] == "rough" and planned["workers"] == 2
    assert len(planned["kinds"]) == 2
    for kind in planned["kinds"]:
        assert kind["seconds"] >= kind["updates"] * kind["seconds_per_update"] > 0
        assert kind["evaluation_seconds"] > 0 and kind["memory_bytes"] > 1e8 and kind["segments"] > 0
    assert sum(kind["updates"] for kind in planned["kinds"]) == planned["missing"]["updates"]
    assert sum(kind["seconds"] for kind in planned["kinds"]) == pytest.approx(planned["worker_seconds"])
    assert planned["worker_seconds"] / 2 <= planned["seconds"] <= planned["worker_seconds"]
    assert planned["critical_path_seconds"] <= planned["seconds"]
    assert planned["memory_bytes"] == max(kind["memory_bytes"] for kind in planned["kinds"])


def test_what_comes_after_tuning_is_what_the_first_round_leaves(small: dict[str, Any], tmp_path: Path) -> None:
    small["tune"] = {"training.optimizer.lr": [0.01, 0.02], "at": {"duration": "20 updates"}}
    study, lowering = from_dict(small), Lowering()
    now = stage(study, Nothing(), lowering)
    runs = [t.lowered for t in now.trials] + expected(study, lowering)
    roots = grow(runs)
    cells = [t.cell for t in now.trials] + list(study.cells)
    speeds = Speeds([n for r in roots for n in r.walk()], None, workers=2)
    made, works = estimate(now, roots, cells, Nothing(), speeds)
    assert sum(w.updates for w in works) >= sum(w.updates for w in arrange(roots, Nothing()))
    assert not arrange(list(now.roots), Foreseen(Nothing(), now.work))
    # The second round as it is, once the first one is trained: tuning may choose another rate, of equal cost.
    results = isoloss.run(small, tmp_path / "store", workers=1, quiet=True)
    assert results.trained == sum(w.updates for w in works)
    assert arrange(list(results.stage.roots), StoreMemory(Store(tmp_path / "store"))) == []
    assert made.seconds >= made.critical


@pytest.mark.multiprocess
def test_a_run_says_what_was_predicted_and_what_it_took(small: dict[str, Any], tmp_path: Path) -> None:
    results = isoloss.run(small, tmp_path / "store", workers=2, quiet=True)
    found = results.answer()["estimates"]
    assert found["complete"] and found["source"] == "rough" and found["workers"] == 2
    assert sum(row["updates"] for row in found["sizes"]) == results.trained
    assert found["ratio"] == pytest.approx(found["actual"] / found["predicted"])
    spent = sum(row.seconds for row in Store(tmp_path / "store").pieces())
    assert found["training"]["actual"] == pytest.approx(spent)
    page = isoloss.report(results.answer(), tmp_path / "page").read_text()
    assert 'id="estimates"' in page
    # A run that trains nothing, and a report, show those of the run that did.
    again = isoloss.run(small, tmp_path / "store", workers=2, quiet=True)
    assert again.answer()["estimates"] is None
    isoloss.report(again.answer(), tmp_path / "page")
    assert json.loads((tmp_path / "page" / "result.json").read_text())["estimates"] == found
    small["study"] = "another"
    other = isoloss.results(small, tmp_path / "store").answer()
    assert 'id="estimates"' not in isoloss.report(other, tmp_path / "page").read_text()


def test_a_plan_of_a_model_that_fits_into_no_memory(small: dict[str, Any]) -> None:
    small["model"] = {"family": "gpt", "depth": 60, "head_size": 128, "width": 12288}
    small["grid"] = {"duration": ["20 updates"], "seed": [0]}
    planned = isoloss.plan(small, workers=1, calibrate=True)
    assert planned.estimate.source == "rough"
    total = planned.sizes[0][1]
    assert total > 1e11
    assert 8 * 4 * total < planned.estimate.memory < 20 * 4 * total


MANY_WEIGHTS = ({"family": "gpt", "depth": 4, "head_size": 32, "width": 512}, "2 sequences", "sgd")
MANY_ACTIVATIONS = ({"family": "gpt", "depth": 4, "head_size": 32, "width": 128}, "128 sequences", "adamw")


@pytest.mark.parametrize("shape", [MANY_WEIGHTS, MANY_ACTIVATIONS], ids=["weights", "activations"])
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process's memory is read from /proc")
def test_memory_is_what_a_process_grows_by(shape: tuple[Any, str, str], small: dict[str, Any], tmp_path: Path) -> None:
    small["data"] |= {"context": 64, "vocabulary": 64, "tokens": 400_000}
    small["model"] = shape[0]
    small["training"] = {"optimizer": {"name": shape[2], "lr": 0.001}, "batch": shape[1], "warmup": "0 updates"}
    small["evaluation"] = {"tokens": 8192}
    small["checkpoint"] = {"every": "2 updates"}
    small["grid"] = {"duration": ["4 updates"], "seed": [0]}
    small["arms"] = {"cosine": {"schedule": {"shape": "constant"}}}
    done = subprocess.run(
        [sys.executable, HERE / "peak_memory.py", json.dumps(small), tmp_path / "store"],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["predicted"] == pytest.approx(found["peak"] - found["before"], rel=0.4)
    assert found["before"] < found["program"]


def test_a_stored_state_that_is_only_measured_takes_no_updates() -> None:
    """Trials ask for no accuracy, so the runs that they became are measured again where they ended."""
    study = {
        "study": "x",
        "data": {"source": "blobs", "samples": 6000, "features": 6, "classes": 3},
        "model": {"family": "mlp", "depth": 1, "width": 8},
        "training": {"warmup": "200 samples", "optimizer": {"name": "adamw", "weight_decay": 0.0}},
        "schedule": {"shape": "constant"},
        "duration": "3600 samples",
        "evaluation": {"samples": 100, "metrics": ["accuracy"], "every": "300 samples"},
        "grid": {"training.batch": ["32 samples", "128 samples", "512 samples", "1024 samples"], "seed": [0, 1, 2]},
        "tune": {"training.optimizer.lr": [1e-3, 3e-3, 1e-2], "at": {"seed": 0}},
    }
    planned = isoloss.plan(study)
    assert planned.estimate.work >= planned.seconds / planned.estimate.workers > 0
