"""The transfer question of whole studies: which runs become rows, what is objected, and advice from them."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file
from tests.transfer_study import pretraining, transfer_study
from tests.worth.transfer_data import CLOSER, LAW, planted, transferred

import isoloss
from isoloss import models
from isoloss.recipe.errors import StudyError
from isoloss.worth.advise_study import target_amount, transfer_advice
from isoloss.worth.transfer import infinite_data, read_rows
from isoloss.worth.transfer_study import advice, answered, rows_of, study_transfer

STUDY = transfer_study(
    {"near": pretraining(seed=1), "far": pretraining(seed=2)},
    context=32,
    batch="2 sequences",
    duration="40 updates",
    evaluation={"tokens": 512, "every": "5 updates", "select": "best"},
    checkpoint={"every": "40 updates"},
    grid={
        "data.size": ["320 tokens", "1280 tokens", "5120 tokens"],
        "training.optimizer.lr": [0.003, 0.03],
        "seed": [0, 1, 2],
    },
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return isoloss.run(copy.deepcopy(STUDY), tmp_path_factory.mktemp("study") / "store", workers=2, quiet=True)


@pytest.mark.multiprocess
def test_one_row_a_place_and_it_is_the_best_by_part_a(finished: Any) -> None:
    given = rows_of(finished)
    assert given is not None and (given.scratch, given.others) == ("scratch", ())
    places = [(row.arm, row.N, row.D_F, row.seed) for row in given.rows]
    assert len(places) == len(set(places)) == 3 * 3 * 3
    assert {row.D_F for row in given.rows} == {320, 1280, 5120}
    for row in given.rows:
        runs = [r for r in finished.results if (r.arm, r.unique, r.seed) == (row.arm, row.D_F, row.seed)]
        assert len(runs) == 2
        best = min(runs, key=lambda r: r.loss_a)
        assert row.loss == best.loss
        assert row.C is not None and math.isclose(row.C, best.C * best.best / best.S)
        assert row.C_pretrain == (None if row.arm == "scratch" else pytest.approx(best.C))
        assert (row in given.still_falling) == (best.best == 40)


@pytest.mark.multiprocess
def test_the_answer_is_on_the_page_with_what_is_objected(finished: Any, tmp_path: Path) -> None:
    whole = finished.answer()
    found = whole["transfer"]
    assert (found["scratch"], found["sources"], found["unit"]) == ("scratch", ["near", "far"], "tokens")
    assert whole["summary"][0] == found["advice"] and not any("At equal loss" in s for s in whole["summary"])
    # The near source is the target itself: everything in it was seen, and nothing of the far one.
    met = {(entry["source"], entry["part"]): entry["shared"] / entry["windows"] for entry in found["contamination"]}
    assert met == {(s, p): float((s, p) == ("near", "train")) for s in ("near", "far") for p in ("train", "A", "B")}
    assert any("near holds target data too: 100 % of training data" in caveat for caveat in whole["caveats"])
    assert any("had not converged" in caveat for caveat in whole["caveats"])
    page = isoloss.report(whole, tmp_path).read_text()
    assert 'id="transfer"' in page
    near, far = (
        [c["over_scratch"]["ratio"] for c in found["cells"] if c["source"] == source] for source in ("near", "far")
    )
    assert max(near) < 1 and np.mean(near) < np.mean(far)


@pytest.mark.multiprocess
def test_what_a_study_must_have(finished: Any, tmp_path: Path) -> None:
    def made(**changes: Any) -> Any:
        study = copy.deepcopy(STUDY)
        study["grid"] = {"data.size": ["320 tokens", "1280 tokens"], "seed": [0]}
        study["arms"] = {name: study["arms"][name] for name in ("scratch", "near")}
        study["duration"] = "5 updates"
        for path, value in changes.items():
            study[path] = value
        return isoloss.run(study, tmp_path / "store", workers=1, quiet=True)

    assert study_transfer(made(), "tokens")[0] is not None
    one_size = made(grid={"seed": [0, 1]})
    (short,) = study_transfer(one_size, "tokens")[1]
    assert study_transfer(one_size, "tokens")[0] is None and "curve of scratch is too short to invert" in short
    with pytest.raises(StudyError, match=r"two or more in data\.size"):
        transfer_advice(one_size, target_data="300 tokens", params=1e3)
    without = made(arms={"scratch": {}, "other": {"training": {"clip": None}}})
    assert study_transfer(without, "tokens") == (None, [])
    with pytest.raises(StudyError, match=r"an arm with pretrain or init, an arm without, and two sizes of data"):
        transfer_advice(without, target_data="300 tokens", params=1e3)
    # A size that only the fine-tuned arm has is an answer in words, not an accident.
    odd = made(arms={**STUDY["arms"], "wide": {**STUDY["arms"]["near"], "model": {"width": 16}}})
    found, said = study_transfer(odd, "tokens")
    assert found is None and "no answer" in said[0] and "no run from scratch has" in said[0]
    ends = made(evaluation={"tokens": 512})
    assert any("judged at their end" in caveat for caveat in study_transfer(ends, "tokens")[1])


@pytest.mark.multiprocess
def test_weights_of_a_file_are_a_source_whose_cost_and_data_are_not_known(tmp_path: Path) -> None:
    study = copy.deepcopy(STUDY)
    made = models.build(study["model"], vocabulary=8, context=32, seed=77)
    save_file({name: value.contiguous() for name, value in made.state_dict().items()}, tmp_path / "w.safetensors")
    study["grid"] = {"data.size": ["320 tokens", "1280 tokens"], "seed": [0, 1, 2]}
    study["arms"] = {"scratch": {}, "given": {"init": {"weights": str(tmp_path / "w.safetensors")}}}
    results = isoloss.run(study, tmp_path / "store", workers=2, quiet=True)
    given = rows_of(results)
    assert given is not None and (given.scratch, given.others) == ("scratch", ())
    assert {row.arm for row in given.rows} == {"scratch", "given"} and all(r.C_pretrain is None for r in given.rows)
    found, said = study_transfer(results, "tokens")
    assert found is not None and found["sources"] == ["given"] and len(found["cells"]) == 2
    assert any("pre-training data of given holds target data could not be checked" in caveat for caveat in said)
    assert all(v["equal_loss"]["free"] and v["equal_loss"]["charged"] is None for v in found["compute"])
    assert 'id="transfer"' in isoloss.report(results.answer(), tmp_path / "page").read_text(encoding="utf-8")


def test_advice_is_one_sentence_that_follows_the_measurements() -> None:
    whole = answered(read_rows(planted(0.001)), "scratch", "tokens")
    sentence = whole["advice"]
    assert sentence.startswith("Fine-tune text at N = 1.6e+06: 10k tokens of target data are then worth ")
    assert sentence.count(". ") == 0 and sentence.endswith(".")
    assert "up to 160k it beats training from scratch" in sentence
    # By the planted law at the largest target and model.
    data, size = (D + transferred(LAW, D, N) for D, N in ((1.6e6, 1.6e6), (1.6e5, 1.6e7)))
    assert data > size and "10x the data would add more effective data than 10x the parameters" in sentence

    two = answered(read_rows(planted(0.001, laws={"text": LAW, "closer": CLOSER})), "scratch", "tokens")
    assert two["advice"].startswith("Fine-tune closer")

    rows = planted(0.001)
    for row in rows:
        if row["arm"] == "text" and row["D_F"] > 1e4:
            row["loss"] *= 3
    part = answered(read_rows(rows), "scratch", "tokens")["advice"]
    assert "from 40k on, no gain over training from scratch is resolved" in part
    for row in rows:
        row["loss"] *= 3 if row["arm"] == "text" else 1
    none = answered(read_rows(rows), "scratch", "tokens")["advice"]
    assert none.startswith("Train from scratch at N = 1.6e+06: on 10k to 160k tokens of target data no source")

    single = answered(read_rows(planted(0.001, 1)), "scratch", "tokens")["advice"]
    assert "(fewer than 3 seeds: not tested)" in single
    beyond = {**whole, "cells": [{**cell, "over_scratch": None} for cell in whole["cells"]]}
    assert "nothing to advise yet" in advice(beyond)


def test_other_laws_come_with_the_answer() -> None:
    forms = answered(read_rows(planted(0.001)), "scratch", "tokens")["forms"]
    assert forms["curves"][0]["laws"][0]["law"] == "m2"
    assert forms["combined"][0]["rmse"] < 0.2 and forms["note"] is None
    one = answered(read_rows(planted(0.001, sizes=(1e5,))), "scratch", "tokens")["forms"]
    assert one["combined"] == [] and "two sizes" in one["note"]


@pytest.mark.parametrize("losses", [[1.0] * 6, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1e-3, 1e3, 1, 1, 1, 1]])
def test_curves_without_a_floor_give_words(losses: list[float]) -> None:
    rows = [
        {"arm": "scratch", "N": 10, "D_F": 10.0 * 4**i, "seed": seed, "loss": loss}
        for i, loss in enumerate(losses)
        for seed in range(3)
    ]
    found = infinite_data(read_rows(rows))
    for name in ("value", "bound", "low", "high"):
        assert found[name] is None or np.isfinite(found[name])


@pytest.mark.multiprocess
def test_advice_for_a_study_takes_amounts_as_a_user_writes_them(finished: Any) -> None:
    for text, words in (
        ("3", "without a unit"),
        ("3 GB", "allowed: tokens, bytes, KB, MB"),
        ("0 tokens", "at least 1 token"),
        ("3 MB", "does not know its bytes"),
    ):
        with pytest.raises(StudyError, match=words):
            transfer_advice(finished, target_data=text, params=1e3)
    with pytest.raises(StudyError, match="--params: found nan"):
        transfer_advice(finished, target_data="300 tokens", params=float("nan"))
    with pytest.raises(StudyError, match="no law of transfer to advise from"):
        transfer_advice(finished, target_data="300 tokens", params=1e3)
    from isoloss.data import open_source

    code = open_source({"source": "stdlib-code", "context": 64})
    assert target_amount("3MB", code) == 3e6 == target_amount("3e6 tokens", code)
    blobs = open_source({"source": "blobs"})
    assert target_amount("200 samples", blobs) == 200
