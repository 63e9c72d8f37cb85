"""Schedule-Free, Muon and width transfer in whole studies: sharing, workers, resume and replay change no bit."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest

import isoloss
from isoloss.execute.replay import audit
from isoloss.store import Store

pytestmark = pytest.mark.multiprocess
FREE = {"schedule": {"shape": "constant"}, "training": {"optimizer": {"name": "schedule_free_adamw", "lr": 0.02}}}


def study() -> dict[str, Any]:
    from tests.conftest import SMALL

    made = copy.deepcopy(SMALL) | {"grid": {"duration": ["20 updates", "40 updates"], "seed": [0]}}
    made["arms"] = {
        "cosine": {"schedule": {"shape": "cosine", "final": 0.1}},
        "free": FREE,
        "muon": {"training": {"optimizer": {"name": "muon", "lr": 0.02}}},
        "mup": {"model": {"width": 16, "parametrisation": "mup", "base_width": 8}},
        "free mup": {**FREE, "model": {"width": 16, "parametrisation": "mup", "base_width": 8}},
    }
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    store = tmp_path_factory.mktemp("later") / "store"
    return isoloss.run(study(), store, quiet=True, workers=1), store


def losses(results: Any) -> list[tuple[str, int, float, float]]:
    return [(r.arm, r.S, r.loss, r.loss_a) for r in results.results]


def test_sharing_and_workers_change_no_bit(whole: tuple[Any, Path], tmp_path: Path) -> None:
    results, _ = whole
    assert {r.status for r in results.results} == {"done"}
    alone = isoloss.run(study(), tmp_path / "alone", quiet=True, workers=3, share=False)
    assert losses(alone) == losses(results)


def test_every_stored_piece_trained_again_has_the_same_bits(whole: tuple[Any, Path]) -> None:
    store = Store(whole[1], create=False)
    done, problems = audit(store, 100)
    assert done > 25 and problems == []


def test_a_trunk_of_schedule_free_is_judged_at_x_along_the_way(whole: tuple[Any, Path]) -> None:
    """The curve of the longer run holds, to the bit, the loss that the shorter run ends with."""
    results, _ = whole
    free = {r.S: r for r in results.results if r.arm == "free"}
    assert dict(free[40].curve)[20] == free[20].loss
    assert [update for update, _ in free[40].curve] == [10, 20, 30, 40]
    assert free[40].steady == 4
    measured = results.store.measurements([free[40].key])[free[40].key]
    assert measured["schedule_free/loss@B:256"] == free[40].loss != measured["loss@B:256"]


def test_what_is_measured_later_comes_from_stored_states(whole: tuple[Any, Path], tmp_path: Path) -> None:
    """x is part of the state: more evaluation trains nothing where the state is kept."""
    made = study()
    made["evaluation"]["tokens"] = 128
    made["evaluation"].pop("every")
    again = isoloss.run(made, shutil.copytree(whole[1], tmp_path / "store"), quiet=True, workers=1)
    assert (again.trained, again.replayed) == (0, 0)
    assert {r.status for r in again.results} == {"done"}
    assert losses(again) != losses(whole[0])


def test_tuning_goes_by_the_loss_at_x(tmp_path: Path) -> None:
    made = study()
    made["arms"] = {"cosine": made["arms"]["cosine"], "free": copy.deepcopy(FREE)}
    made["training"]["optimizer"] = {"name": "adamw"}
    made["arms"]["free"]["training"]["optimizer"].pop("lr")
    made["tune"] = {"training.optimizer.lr": [0.003, 0.03], "at": {"duration": "20 updates"}}
    results = isoloss.run(made, tmp_path / "store", quiet=True, workers=1)
    trials = [trial for trial in results.stage.trials if trial.arm == "free"]
    keys = [trial.lowered.run.key(20) for trial in trials]
    read = results.store.measurements(keys)
    assert [trial.loss for trial in trials] == [read[key]["schedule_free/loss@A:256"] for key in keys]
