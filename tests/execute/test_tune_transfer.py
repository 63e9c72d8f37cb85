"""Learning rate and weight decay tuned alike from scratch and from pre-trained weights, for real."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import polars
import pytest

import isoloss
from isoloss.report.page import write
from isoloss.store import Store

pytestmark = pytest.mark.multiprocess

LR, DECAY = "training.optimizer.lr", "training.optimizer.weight_decay"
CHAIN: dict[str, Any] = {"source": "synthetic", "order": 1, "vocabulary": 8, "tokens": 20_000}
STUDY: dict[str, Any] = {
    "study": "equal care",
    "data": {**CHAIN, "seed": 1, "context": 8},
    "model": {"family": "gpt", "depth": 1, "head_size": 4, "width": 8},
    "training": {"optimizer": {"name": "adamw"}, "batch": "4 sequences"},
    "duration": "20 updates",
    "evaluation": {"tokens": 256},
    "grid": {"data.size": ["400 tokens", "1600 tokens"], "seed": [0, 1]},
    "tune": {LR: [0.003, 0.03], DECAY: [0.0, 0.3]},
    "baseline": "scratch",
    "arms": {
        "scratch": {},
        "fine": {"pretrain": {"data": {**CHAIN, "seed": 2}, "duration": "40 updates", "lr": 0.01}},
    },
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    store = tmp_path_factory.mktemp("tune") / "store"
    return isoloss.run(copy.deepcopy(STUDY), store, workers=1, quiet=True), store


def test_the_pre_training_is_trained_once_whatever_is_tried(whole: tuple[Any, Path]) -> None:
    results, store = whole
    assert {r.status for r in results.results} == {"done"} and len(results.results) == 2 * 2 * 2
    # Seed 0: its pre-training and every candidate of both arms at both sizes; seed 1: the winners alone.
    assert (results.trained, results.replayed) == ((40 + 2 * 2 * 4 * 20) + (40 + 2 * 2 * 20), 0)
    earlier = [row for row in Store(store, create=False).pieces() if row.end_update == row.offset == 40]
    assert len(earlier) == 2


def test_each_run_has_the_combination_that_won_on_part_a(whole: tuple[Any, Path]) -> None:
    results, _ = whole
    for result in results.results:
        tried = {
            (t.values[LR], t.values[DECAY]): t.loss
            for t in results.stage.trials
            if t.arm == result.arm and t.point["data.size"] == result.cell["data.size"]
        }
        assert len(tried) == 4
        best = min(tried, key=lambda one: tried[one])
        assert (result.lr, result.tuned[DECAY].value) == best
        if result.seed == "0":
            assert result.loss_a == tried[best]


def test_scratch_and_fine_tuned_are_charged_alike_and_every_path_is_shown(
    whole: tuple[Any, Path], tmp_path: Path
) -> None:
    results, _ = whole
    answer = results.answer()
    arms = {arm["name"]: arm for arm in answer["arms"]}
    budgets = {
        name: (arm["tuning"]["runs"], arm["tuning"]["updates"], arm["tuning"]["flops"]) for name, arm in arms.items()
    }
    assert len(set(budgets.values())) == 1
    for arm in arms.values():
        assert arm["tuning"]["paths"] == {LR: [0.003, 0.03], DECAY: [0.0, 0.3]}
        assert all(len(choice["table"]) == 4 and DECAY in choice["values"] for choice in arm["tuning"]["choices"])
        assert DECAY in arm["lr"][0]["tuned"]
    assert all(run["tuned"][DECAY]["value"] in (0.0, 0.3) for run in answer["runs"])
    flagged = [caveat for caveat in answer["caveats"] if caveat.startswith(f"The best {DECAY}")]
    assert bool(flagged) is any(r.tuned[DECAY].value == 0.3 for r in results.results)
    frame = results.frame()
    assert frame.schema[DECAY] == polars.Float64 and set(frame[DECAY]) <= {0.0, 0.3}
    page = write(answer, tmp_path, figures=False).read_text(encoding="utf-8")
    assert "Tuned values" in page and f'<th scope="col">{DECAY}</th>' in page
    assert page.count("weight_decay 0.3:") >= 2


def test_more_candidates_train_only_themselves(whole: tuple[Any, Path], tmp_path: Path) -> None:
    study = copy.deepcopy(STUDY)
    study["grid"] = {"data.size": ["400 tokens"], "seed": [0]}
    isoloss.run(study, tmp_path / "store", workers=1, quiet=True)
    study["tune"][DECAY].append(0.1)
    more = isoloss.run(study, tmp_path / "store", workers=1, quiet=True)
    assert (more.trained, more.replayed) == (2 * 2 * 20, 0)


def test_a_branch_leaves_a_tuned_run(whole: tuple[Any, Path]) -> None:
    results, store = whole
    planned = next(p for p in results.stage.planned if p.cell.arm == "fine")
    made = isoloss.branch(copy.deepcopy(STUDY), store, run=planned.name, at=60, length=6)
    assert made.fork == 60 and len(made.losses) > 0
