"""Metrics of a study, end to end: measured beside the loss, added later without training, shown on the page."""

from __future__ import annotations

import copy
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import update_bn

import isoloss
from isoloss import models
from isoloss.plan.lower import open_source
from isoloss.recipe.errors import StudyError
from isoloss.store import Store
from isoloss.train import observers
from isoloss.train.calibration import METRICS
from isoloss.train.flat import FlatLayout

pytestmark = pytest.mark.multiprocess

ALL = ["accuracy", *METRICS]
STUDY: dict[str, Any] = {
    "study": "digits",
    "data": {"source": "digits", "crop": 1},
    "model": {"family": "f1", "width": 16, "depth": 1},
    "training": {"optimizer": {"name": "sgd", "lr": 0.1}, "batch": "64 samples"},
    "schedule": {"shape": "constant"},
    "evaluation": {"samples": 256},
    "checkpoint": {"every": "8 updates"},
    "grid": {"duration": ["12 updates", "20 updates"], "seed": [0, 1]},
    "baseline": {"arm": "plain", "extra": "none"},
    "arms": {"plain": {}, "averaged": {"average": {"kind": "window", "length": "4 updates", "refresh": 6}}},
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the study was trained with its default metric."""
    pytest.importorskip("sklearn")
    store = tmp_path_factory.mktemp("metrics") / "store"
    results = isoloss.run(STUDY, store, quiet=True, workers=1)
    assert {r.status for r in results.results} == {"done"}
    assert all(list(r.metrics) == ["accuracy"] for r in results.results)
    return store


@pytest.fixture
def study() -> dict[str, Any]:
    return copy.deepcopy(STUDY)


def run(study: dict[str, Any], store: Path) -> Any:
    return isoloss.run(study, store, quiet=True, workers=1)


def test_metrics_added_later_are_read_off_stored_states(stored: Path, study: dict[str, Any], tmp_path: Path) -> None:
    stored = shutil.copytree(stored, tmp_path / "store")
    study["evaluation"]["metrics"] = ALL
    before = isoloss.results(study, stored)
    assert "8 finished runs" in " ".join(before.answer()["caveats"])
    planned = isoloss.plan(study, stored)
    assert (planned.missing.updates, planned.replayed) == (0, 0)
    assert planned.missing.evaluation_flops > 0
    results = run(study, stored)
    assert (results.trained, results.replayed) == (0, 0)
    assert [r.loss for r in results.results] == [r.loss for r in before.results]
    assert all(list(r.metrics) == ALL == list(r.metrics_a) for r in results.results)
    assert isoloss.plan(study, stored).missing.evaluation_flops == 0
    assert Store(stored, create=False).verify().clean
    assert not [c for c in results.answer()["caveats"] if "Metrics" in c]

    frame = results.frame()
    assert frame["auroc"].to_list() == [r.metrics["auroc"] for r in results.results]
    assert frame["brier_a"].to_list() == [r.metrics_a["brier"] for r in results.results]


def test_stored_metrics_are_those_that_scikit_learn_finds_in_the_stored_state(
    stored: Path, study: dict[str, Any]
) -> None:
    from sklearn.metrics import accuracy_score, brier_score_loss, roc_auc_score

    study["evaluation"]["metrics"] = ALL
    results = run(study, stored)
    planned, result = next((p, r) for p, r in zip(results.stage.planned, results.results, strict=True) if r.seed == "1")
    source: Any = open_source(planned.lowered.data)
    model = models.build(study["model"], vocabulary=10, context=64, seed=0, shape=source.shape)
    tensors, _, _ = Store(stored, create=False).load(result.key)
    found = {name.partition("/")[2]: value for name, value in tensors.items() if not name.startswith("optimizer/")}
    model.load_state_dict(found)
    x, y = source.validation("B", 256, 64)
    with torch.inference_mode():
        p = model.eval()(torch.from_numpy(x)).double().softmax(-1).numpy()
    sure, right = p.max(1), p.argmax(1) == y
    assert result.metrics["accuracy"] == pytest.approx(accuracy_score(y, p.argmax(1)), abs=1e-12)
    assert result.metrics["auroc"] == pytest.approx(roc_auc_score(right, sure), abs=1e-5)
    assert result.metrics["brier"] == pytest.approx(brier_score_loss(right, sure), abs=1e-6)
    assert result.loss == pytest.approx(-np.log(p[np.arange(256), y]).mean(), abs=1e-5)


def test_an_average_is_judged_with_running_statistics_of_its_own(stored: Path, study: dict[str, Any]) -> None:
    results = isoloss.results(study, stored)
    pairs = zip(results.stage.planned, results.results, strict=True)
    planned, result = next((p, r) for p, r in pairs if r.arm == "averaged" and r.S == 20)
    observer = planned.lowered.observer
    assert observer is not None and "refresh" not in observer.id
    source: Any = open_source(planned.lowered.data)
    _, _, sides = Store(stored, create=False).load(result.key)
    side = sides[observer.id]
    average = observers.unpack(observer, side.state, side.meta).average()[0]
    model = models.build(study["model"], vocabulary=10, context=64, seed=0, shape=source.shape)
    FlatLayout(model).adopt(model, average)
    batches = [list(map(torch.from_numpy, source.batch(0, 64 * number, 64, 64))) for number in range(6)]
    update_bn(batches, model)
    x, y = map(torch.from_numpy, source.validation("B", 256, 64))
    with torch.inference_mode():
        loss = torch.nn.functional.cross_entropy(model.eval()(x), y).item()
    assert result.loss == pytest.approx(loss, abs=1e-6)

    facts = planned.lowered.facts
    forward = 2.0 * (64 * 16 + 16 * 10) * 64
    assert facts.forward_flops == forward
    updates = 20 * facts.flops_per_update
    plain = next(r for r in results.results if r.arm == "plain" and r.S == 20)
    assert [r.C for r in (plain, result)] == [updates, updates + 6 * forward]
    # Two arms share every update; each of the four averaged runs pays for its refresh.
    assert isoloss.plan(study).shared.flops == 2 * updates + 4 * 6 * forward


def test_another_refresh_trains_nothing_and_gives_other_numbers(stored: Path, study: dict[str, Any]) -> None:
    before = {r.name: r.loss for r in isoloss.results(study, stored).results}
    study["arms"]["averaged"]["average"]["refresh"] = 3
    results = run(study, stored)
    assert results.trained == 0
    for r in results.results:
        assert (r.loss == before[r.name]) == (r.arm == "plain")


def test_along_the_way_the_plan_says_what_is_trained_again(study: dict[str, Any], tmp_path: Path) -> None:
    study["evaluation"]["every"] = "5 updates"
    study["grid"]["seed"] = [0]
    run(study, tmp_path / "store")
    study["evaluation"]["metrics"] = ALL
    planned = isoloss.plan(study, tmp_path / "store")
    assert 0 < planned.missing.updates == planned.replayed < planned.shared.updates
    results = run(study, tmp_path / "store")
    assert (results.trained, results.replayed) == (planned.missing.updates, planned.replayed)
    fresh = run(study, tmp_path / "fresh")
    assert results.frame().equals(fresh.frame())
    store = Store(tmp_path / "store", create=False)
    key = results.stage.planned[0].lowered.run.key(5)
    assert set(store.measurements([key])[key]) == {f"{name}@B:256" for name in ("loss", *ALL)}


def test_an_auroc_that_is_not_defined_is_no_divergence(study: dict[str, Any], tmp_path: Path) -> None:
    study["data"] = {"source": "blobs", "separation": 60, "samples": 2000}
    study["evaluation"] = {"samples": 64, "metrics": ["accuracy", "auroc"]}
    study["arms"] = {"plain": {}}
    results = run(study, tmp_path / "store")
    assert {r.status for r in results.results} == {"done"}
    assert all(r.metrics["accuracy"] == 1 and math.isnan(r.metrics["auroc"]) for r in results.results)
    answer = results.answer()
    assert answer["runs"][0]["metrics"] == {"accuracy": 1.0, "auroc": None}
    rows = {row["metric"]: row for row in answer["metrics"]}
    assert (rows["auroc"]["mean"], rows["auroc"]["seeds"]) == (None, 0)
    assert (rows["accuracy"]["mean"], rows["accuracy"]["sd"], rows["accuracy"]["seeds"]) == (1.0, 0.0, 2)
    assert run(study, tmp_path / "store").trained == 0


def test_the_table_has_each_arm_at_its_longest(stored: Path, study: dict[str, Any], tmp_path: Path) -> None:
    results = isoloss.results(study, stored)
    rows = results.metrics()
    assert [(row["arm"], row["metric"]) for row in rows] == [
        (arm, metric) for arm in ("plain", "averaged") for metric in ("loss", "accuracy")
    ]
    ends = [r for r in results.results if r.arm == "averaged" and r.S == 20]
    values = [r.metrics["accuracy"] for r in ends]
    row = rows[3]
    assert (row["N"], row["D"], row["cell"], row["seeds"]) == (ends[0].N, 20 * 64, {}, 2)
    assert row["mean"] == pytest.approx(np.mean(values))
    assert row["sd"] == pytest.approx(np.std(values, ddof=1))
    page = isoloss.report(results.answer(), tmp_path / "page").read_text(encoding="utf-8")
    text = f"{row['mean']:.4f}\u00a0±\u00a0{row['sd']:.4f}"
    assert page.count(text) == 1
    assert "Metrics beside the loss" in page


TASK = """
from isoloss.train.tasks import Classification


class Top2(Classification):
    def metrics(self, model, batch):
        inputs, classes = batch
        among = (model(inputs).topk(2).indices == classes[:, None]).any(1)
        return {**super().metrics(model, batch), "top2": (int(among.sum()), len(classes))}
"""


def test_a_users_own_task_gives_its_own_metrics(
    study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_metrics.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    study["task"] = "own_metrics:Top2"
    study["grid"] = {"duration": ["12 updates"], "seed": [0]}
    study["evaluation"]["metrics"] = ["top2", "accurracy"]
    with pytest.raises(
        StudyError, match=r"found 'accurracy'; allowed: accuracy, ece, .*, top2, .*did you mean 'accuracy'"
    ):
        run(study, tmp_path / "store")
    assert not (tmp_path / "store" / "pieces").exists() or not list((tmp_path / "store" / "pieces").rglob("*.json"))
    study["evaluation"]["metrics"] = ["top2", "accuracy", "ece"]
    results = run(study, tmp_path / "store")
    for r in results.results:
        assert list(r.metrics) == ["top2", "accuracy", "ece"]
        assert 1 >= r.metrics["top2"] >= r.metrics["accuracy"] > 0


def test_trials_of_a_tuned_study_are_judged_by_their_loss_alone(study: dict[str, Any]) -> None:
    study["training"]["optimizer"].pop("lr")
    study["tune"] = {"training.optimizer.lr": [0.05, 0.1], "at": {"duration": "12 updates", "seed": 0}}
    study["evaluation"]["metrics"] = ALL
    planned = isoloss.plan(study)
    measures = [m for t in planned.stage.trials for ms in t.lowered.points.values() for m in ms]
    assert {m.metric for m in measures} == {"loss"}
