"""Fine-tuning for real: the earlier training is trained once, and what crosses the border is what was asked for."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.transfer_study import pretraining, transfer_study

import isoloss
from isoloss import models
from isoloss.execute.replay import audit
from isoloss.plan.demands import Planned
from isoloss.plan.lower import open_source
from isoloss.store import Store
from isoloss.train.loop import Trainer

pytestmark = pytest.mark.multiprocess

CARRIES: dict[str, dict[str, str]] = {
    "tuned": {},
    "kept": {"optimizer": "keep"},
    "headless": {"head": "reset"},
}
TRANSFER = transfer_study({name: pretraining(**carry) for name, carry in CARRIES.items()})


@pytest.fixture
def study() -> dict[str, Any]:
    return copy.deepcopy(TRANSFER)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    store = tmp_path_factory.mktemp("whole") / "store"
    return isoloss.run(copy.deepcopy(TRANSFER), store, workers=1, quiet=True), store


def losses(results: Any) -> dict[str, tuple[float, float]]:
    return {r.name: (r.loss, r.loss_a) for r in results.results}


def of(results: Any, arm: str) -> Planned:
    return next(p for p in results.stage.planned if p.cell.arm == arm)


def test_three_ways_to_go_on_share_one_pre_training(whole: tuple[Any, Path]) -> None:
    results, store = whole
    assert {r.status for r in results.results} == {"done"}
    assert (results.trained, results.replayed) == (2 * (40 + 2 * 4 * 20), 0)
    earlier = [row for row in Store(store, create=False).pieces() if row.end_update == 40 and row.offset == 40]
    assert len(earlier) == 2


def test_a_new_target_size_trains_only_itself(whole: tuple[Any, Path], study: dict[str, Any], tmp_path: Path) -> None:
    study["arms"] = {name: study["arms"][name] for name in ("scratch", "tuned")}
    isoloss.run(study, tmp_path / "store", workers=1, quiet=True)
    study["grid"]["data.size"].append("800 tokens")
    more = isoloss.run(study, tmp_path / "store", workers=1, quiet=True)
    assert (more.trained, more.replayed) == (2 * 2 * 20, 0)
    before = losses(whole[0])
    assert {name: value for name, value in losses(more).items() if name in before}.items() <= before.items()


def test_training_each_run_from_its_own_beginning_changes_no_bit(
    whole: tuple[Any, Path], study: dict[str, Any], tmp_path: Path
) -> None:
    alone = isoloss.run(study, tmp_path / "store", workers=2, share=False, quiet=True)
    assert losses(alone) == losses(whole[0])
    assert alone.trained == 2 * 2 * (4 * 20 + 3 * 40)


def test_a_run_that_was_stopped_at_the_border_goes_on_to_the_same_bits(
    whole: tuple[Any, Path], study: dict[str, Any], tmp_path: Path
) -> None:
    # A first study ends in the middle of the pre-training, a second one 3 updates behind the border.
    for earlier, own in (("24 updates", "1 updates"), ("40 updates", "3 updates")):
        part = copy.deepcopy(study)
        part["duration"] = own
        part["evaluation"] = {"tokens": 256}
        for name in CARRIES:
            part["arms"][name]["pretrain"] = part["arms"][name]["pretrain"] | {"duration": earlier}
        isoloss.run(part, tmp_path / "store", workers=1, quiet=True)
    again = isoloss.run(study, tmp_path / "store", workers=1, quiet=True)
    assert losses(again) == losses(whole[0])
    # The second study has the whole pre-training and 3 of every 20 updates.
    assert again.trained - again.replayed == 2 * 2 * 4 * (20 - 3)
    store, first = Store(tmp_path / "store", create=False), Store(whole[1], create=False)
    keys = [p.lowered.run.key(60) for p in again.stage.planned if p.lowered.before]
    assert len(keys) == 12 and all(store.digest(key) == first.digest(key) for key in keys)


def test_stored_pieces_replay_to_the_same_bits(whole: tuple[Any, Path]) -> None:
    done, problems = audit(Store(whole[1], create=False), 30)
    assert (done, problems) == (30, [])


@pytest.mark.parametrize("arm", list(CARRIES))
def test_the_state_is_that_of_a_literal_loop(whole: tuple[Any, Path], arm: str) -> None:
    """Two trainers by hand, and between them the carry by hand."""
    results, store = whole
    lowered = of(results, arm).lowered
    run, before = lowered.run, lowered.before
    assert before is not None
    first = Trainer(run.start, run.phases[0], open_source(before.data), run.numerics)
    for offset in range(40):
        first.step(offset)
    second = Trainer(run.start, run.phases[1], open_source(lowered.data), run.numerics)
    fresh = {name: value.clone() for name, value in second.parameters.named(second.weights).items()}
    pretrained = first.parameters.named(first.weights)
    for name, value in second.parameters.named(second.weights).items():
        value.copy_(fresh[name] if arm == "headless" and models.in_head(name) else pretrained[name])
    if arm == "kept":
        tensors, meta = first.state()
        moments = {name[10:]: value for name, value in tensors.items() if name.startswith("optimizer/")}
        from isoloss.train import optimizers

        optimizers.load_state(
            second.optimizer, second.parameters, moments, meta["optimizer"], second.rule.optimizer, True
        )
    for offset in range(20):
        second.step(offset)
    stored, _, _ = Store(store, create=False).load(run.key(60))
    for name, value in second.parameters.named(second.weights).items():
        assert torch.equal(stored[f"model/{name}"], value), name


def test_a_head_that_is_reset_begins_as_at_first_and_nothing_else_does(whole: tuple[Any, Path]) -> None:
    results, store = whole
    run = of(results, "headless").lowered.run
    stored = Store(store, create=False).load(run.key(40))
    trainer = Trainer(run.start, run.phases[1], open_source(of(results, "headless").lowered.data), run.numerics)
    fresh = {name: value.clone() for name, value in trainer.parameters.named(trainer.weights).items()}
    trainer.load(stored.state, stored.meta, entering=True, phase=run.phases[1])
    found = trainer.parameters.named(trainer.weights)
    assert [name for name in found if torch.equal(found[name], fresh[name])] == ["head.weight"]
    assert all(torch.equal(found[n], stored.state[f"model/{n}"]) for n in found if n != "head.weight")
    assert (trainer.update, trainer.samples) == (40, 0)
    assert not any(name.startswith("optimizer/") and value.any() for name, value in trainer.state()[0].items())


def test_the_target_data_is_read_from_its_first_sample(whole: tuple[Any, Path]) -> None:
    results, store = whole
    for arm in ("scratch", "tuned"):
        lowered = of(results, arm).lowered
        _, meta, _ = Store(store, create=False).load(lowered.run.key(lowered.run.length))
        assert meta["samples"] == 20 * 4
    rate = Store(store, create=False).trajectory(of(results, "tuned").lowered.run.key(60))
    assert len(rate["loss"]) == 60


def test_the_best_moment_by_part_a_is_judged_on_part_b(study: dict[str, Any], tmp_path: Path) -> None:
    study["data"]["size"] = "64 tokens"
    study["grid"] = {"seed": [0, 1]}
    study["training"]["optimizer"]["lr"] = 0.03
    study["duration"] = "200 updates"
    study["evaluation"]["every"] = "10 updates"
    best = isoloss.run(study, tmp_path / "store", workers=1, quiet=True)
    study["evaluation"]["select"] = "end"
    end = isoloss.run(study, tmp_path / "store", workers=1, quiet=True)
    assert end.trained == 0
    store = Store(tmp_path / "store", create=False)
    for planned, stopped, last in zip(best.stage.planned, best.results, end.results, strict=True):
        lowered = planned.lowered
        seen = {
            at - lowered.begun: {
                part: store.measurement(lowered.run.key(at), lowered.final[part].name) for part in ("A", "B")
            }
            for at in lowered.candidates
        }
        assert list(seen) == list(range(10, 201, 10))
        wanted = min(seen, key=lambda at: seen[at]["A"])
        assert stopped.best == wanted < 200 == last.best
        assert (stopped.loss_a, stopped.loss) == (seen[wanted]["A"], seen[wanted]["B"])
        assert (last.loss_a, last.loss) == (seen[200]["A"], seen[200]["B"])
        assert stopped.loss_a < last.loss_a


def test_a_longer_pre_training_goes_on_from_the_shorter_one(study: dict[str, Any], tmp_path: Path) -> None:
    study["arms"] = {name: study["arms"][name] for name in ("scratch", "tuned")}
    isoloss.run(study, tmp_path / "store", workers=1, quiet=True)
    study["arms"]["longer"] = {"pretrain": pretraining(duration="70 updates")}
    more = isoloss.run(study, tmp_path / "store", workers=1, quiet=True)
    assert (more.trained, more.replayed) == (2 * (30 + 2 * 20), 0)
    charged = {r.arm: r.C_pretrain / r.C for r in more.results}
    assert charged == pytest.approx({"scratch": 0, "tuned": 40 / 20, "longer": 70 / 20})
