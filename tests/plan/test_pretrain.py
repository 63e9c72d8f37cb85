"""Earlier training in a plan: shared like any stretch, extended at a constant rate, refused where it does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.transfer_study import CHAIN, pretraining, transfer_study

import isoloss
from isoloss.data import TokenSource
from isoloss.plan.lower import Lowered, Lowering
from isoloss.plan.pretraining import check
from isoloss.recipe.errors import StudyError
from isoloss.study import from_dict


def transfer(**options: Any) -> dict[str, Any]:
    """Two sizes of target data, two seeds, from scratch and fine-tuned."""
    return transfer_study({"tuned": pretraining(**options)})


def lowered(study: dict[str, Any], arm: str = "tuned", cell: int = 0) -> Lowered:
    made = [c for c in from_dict(study).cells if c.arm == arm][cell]
    return Lowering()(made.config, float(made.config["training"]["optimizer"]["lr"]), where=arm)


def refused(study: dict[str, Any]) -> str:
    with pytest.raises(StudyError) as told:
        isoloss.plan(study)
    return str(told.value)


def test_all_fine_tunes_of_a_seed_share_one_pre_training() -> None:
    planned = isoloss.plan(transfer())
    assert planned.shared.updates == 2 * (40 + 4 * 20)
    assert planned.unshared.updates == 2 * (2 * 40 + 4 * 20)


def test_another_learning_rate_of_fine_tuning_keeps_the_pre_training() -> None:
    study = transfer()
    study["grid"]["training.optimizer.lr"] = [0.003, 0.01]
    assert isoloss.plan(study).shared.updates == 2 * (40 + 8 * 20)


def test_a_longer_pre_training_at_a_constant_rate_extends_the_shorter_one() -> None:
    study = transfer()
    study["arms"]["longer"] = {"pretrain": pretraining(duration="70 updates")}
    assert isoloss.plan(study).shared.updates == 2 * (70 + 6 * 20)
    for arm in ("tuned", "longer"):
        study["arms"][arm]["pretrain"] |= {"schedule": {"shape": "constant", "cooldown": {"fraction": 0.1}}}
    # The shorter one leaves the trunk at 36 for its own cooldown of 4, the longer one at 63 for one of 7.
    assert isoloss.plan(study).shared.updates == 2 * (63 + 4 + 7 + 6 * 20)


def test_a_run_counts_what_is_its_own() -> None:
    tuned, scratch = lowered(transfer()), lowered(transfer(), "scratch")
    assert (tuned.begun, tuned.length, tuned.run.length) == (40, 20, 60)
    assert tuned.before is not None and tuned.before.flops == 2 * tuned.flops == 2 * scratch.flops
    assert tuned.unique == scratch.unique == 400
    assert sorted(tuned.points) == list(tuned.candidates) == [45, 50, 55, 60]
    assert [phase.rule.data["digest"] for phase in tuned.run.phases] == [
        tuned.before.run.phases[0].rule.data["digest"],
        scratch.run.phases[0].rule.data["digest"],
    ]


def test_what_is_carried_over_has_an_address_of_its_own() -> None:
    keys = {
        (optimizer, head): lowered(transfer(optimizer=optimizer, head=head)).run.key(60)
        for optimizer, head in (("reset", "keep"), ("keep", "keep"), ("reset", "reset"))
    }
    assert len(set(keys.values())) == 3
    assert len({lowered(transfer(optimizer=o, head=h)).run.key(40) for o, h in keys}) == 1


def test_no_pre_training_changes_no_address() -> None:
    study = transfer()
    before = lowered(study, "scratch").run.key(20)
    study["pretrain"] = None
    assert lowered(study, "scratch").run.key(20) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": {**CHAIN, "vocabulary": 16}}, ["pretrain.data", "vocabulary 16 against 8"]),
        ({"data": {**CHAIN, "context": 16}}, ["pretrain.data", "context 16 against 8"]),
        ({"data": {**CHAIN, "contxt": 8}}, ["pretrain.data.contxt", "context"]),
        ({"head": "reset", "optimizer": "keep"}, ["pretrain.optimizer", "moments of the old head", "allowed: reset"]),
        ({"head": "fresh"}, ["pretrain.head", "keep, reset"]),
        ({"lr": -1.0}, ["pretrain.lr"]),
        ({"duration": 40}, ["pretrain.duration", "updates"]),
        ({"duration": "0.1 updates"}, ["pretrain.duration"]),
    ],
)
def test_what_does_not_fit_is_told_before_anything_trains(change: dict[str, Any], words: list[str]) -> None:
    message = refused(transfer(**change))
    assert all(word in message for word in words), message


def test_classes_that_differ_in_number_are_told() -> None:
    study = transfer(data={"source": "blobs", "classes": 4})
    study["data"] = {"source": "blobs", "classes": 3}
    study["model"] = {"family": "mlp", "depth": 1, "width": 8}
    study["training"]["batch"] = "4 samples"
    study["evaluation"] = {"samples": 16}
    study["grid"]["data.size"] = ["100 samples", "200 samples"]
    assert "vocabulary 4 against 3" in refused(study)


def test_a_model_without_a_head_has_none_to_reset() -> None:
    study = transfer(head="reset")
    study["model"]["tied"] = True
    message = refused(study)
    assert "pretrain.head" in message and "no output head" in message and "allowed: keep" in message


def test_another_tokenizer_is_told_with_as_many_tokens_or_more() -> None:
    start = lowered(transfer()).run.start.model
    ids = np.arange(100, dtype=np.uint8) % 8

    def source(tokenizer: str) -> TokenSource:
        return TokenSource("text", ids, ids, [100], 8, {}, {"tokenizer": tokenizer})

    given = {"head": "keep"}
    check(given, (start, start), (source("tokenizer.json:aa"), source("tokenizer.json:aa")), list)
    with pytest.raises(StudyError, match=r"pretrain.data.tokenizer: .*tokenizer.json:aa against bytes.*same tokenizer"):
        check(given, (start, start), (source("tokenizer.json:aa"), source("bytes")), list)
    larger = {**start, "vocabulary": 16}
    with pytest.raises(StudyError, match="one token id would mean two things"):
        check(given, (larger, start), (source("tokenizer.json:aa"), source("bytes")), list)


def test_the_best_moment_of_an_average_is_not_known() -> None:
    study = transfer()
    study["average"] = {"kind": "window", "length": "5 updates"}
    message = refused(study)
    assert "evaluation.select" in message and "allowed: end" in message
