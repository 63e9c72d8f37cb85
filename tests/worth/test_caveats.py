"""What a careful reader would object is found in the data: one test a caveat, and none where there is no reason."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.conftest import SMALL
from tests.worth.test_compare import DURATIONS, SIZES, planted

import isoloss
from isoloss.worth import tuned
from isoloss.worth.answer import caveats
from isoloss.worth.answer_rows import diverged, few_seeds, of_comparison, short_ranges
from isoloss.worth.compare import Comparison, compare
from isoloss.worth.results import Results

NOISE = 0.002


def rows(**options: Any) -> Any:
    return planted(lambda N: 1.2, NOISE, **options)


def test_too_few_seeds() -> None:
    assert few_seeds(rows(seeds=3).results) == []
    assert few_seeds(rows(seeds=2).results) == ["2 seeds: no intervals; 3 are the fewest for one."]
    assert few_seeds(rows(seeds=1).results) == ["1 seed: no intervals; 3 are the fewest for one."]


def test_a_size_with_fewer_seeds_than_the_rest() -> None:
    found = rows(seeds=3)
    assert of_comparison(compare(found)) == []
    found.results = [r for r in found.results if (r.N, r.seed) != (SIZES[1], "2")]
    assert of_comparison(compare(found)) == ["arm at N = 20,000: 2 seeds only, so no interval."]


def test_cells_that_share_a_reason_share_a_sentence() -> None:
    found = rows(seeds=3)
    found.results += [replace(r, variant="twin", arm="twin") for r in found.results if r.arm == "arm"]
    found.results = [r for r in found.results if r.arm == "baseline" or DURATIONS[0] == r.D]
    sizes = " and ".join(f"{N:,}" for N in SIZES)
    assert of_comparison(compare(found)) == [
        f"arm, twin at N = {sizes}: it or the baseline has losses at fewer than two durations."
    ]
    found.results = [r for r in found.results if (r.arm, r.N) != ("twin", SIZES[0])]
    assert len(of_comparison(compare(found))) == 2


def test_a_range_of_less_than_a_decade() -> None:
    found = rows()
    comparison = compare(found)
    assert short_ranges(found.results, [], None) == []
    assert short_ranges(found.results, [], comparison) == [
        "N ranges over a factor of 4, less than a decade: a trend fitted here says little beyond it."
    ]
    factor = 2 * DURATIONS[-1] / DURATIONS[0]
    assert short_ranges(found.results, [{}], comparison) == [
        "N ranges over a factor of 4, less than a decade: a law or a trend fitted here says little beyond it.",
        f"D ranges over a factor of {factor:g}, less than a decade: a law fitted here says little beyond it.",
    ]
    wide = [replace(r, N=r.N * (100 if SIZES[0] == r.N else 1), D=r.D * (100 if DURATIONS[0] == r.D else 1))
            for r in found.results]  # fmt: skip
    assert short_ranges(wide, [{}], comparison) == []


def test_runs_that_diverged() -> None:
    found = rows().results
    assert diverged(found) == []
    assert diverged([replace(found[0], status="diverged"), *found[1:]]) == [
        "1 run diverged and count nowhere: see the list."
    ]


def test_losses_that_do_not_overlap() -> None:
    found = rows()
    found.results = [replace(r, loss=r.loss / 9) if r.arm == "arm" and SIZES[0] == r.N else r for r in found.results]
    (said,) = [s for s in of_comparison(compare(found)) if "no loss in common" in s]
    assert said.startswith("arm at N = 10,000: 3 of 3 seeds have no loss in common with the baseline")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A tuned study in which one arm follows another, and every winner lies at an edge: of two there is no middle."""
    study = copy.deepcopy(SMALL)
    del study["training"]["optimizer"]["lr"]
    study["tune"] = {
        "training.optimizer.lr": [1e-3, 1e-2],
        "at": {"duration": "20 updates", "seed": 0},
        "follow": {"averaged": "cooldown"},
    }
    return isoloss.run(study, tmp_path_factory.mktemp("caveats") / "store", workers=1, quiet=True)


@pytest.mark.slow
def test_a_learning_rate_at_the_edge_of_its_grid(trained: Results) -> None:
    said = caveats(trained, Comparison("cosine"), [])
    words = "lies at an edge of its candidates: widen the grid of tune."
    assert f"The best learning rate of averaged, cooldown, cosine {words}" in said


@pytest.mark.slow
def test_arms_that_were_tuned_unequally(trained: Results) -> None:
    said = tuned.unequal(trained)
    assert said == [
        "Tuned unequally: cosine, cooldown over 2 runs of 40 updates; averaged with the values of cooldown."
    ]
    assert set(said) <= set(caveats(trained, Comparison("cosine"), []))
    alike = replace(trained, results=[r for r in trained.results if r.arm != "averaged"])
    assert tuned.unequal(alike) == []
    given = replace(trained, results=[replace(r, tuned={}) if r.arm == "cosine" else r for r in alike.results])
    assert tuned.unequal(given) == ["Tuned unequally: cosine with given values; cooldown over 2 runs of 40 updates."]


@pytest.mark.slow
def test_nothing_tuned_at_all(trained: Results) -> None:
    study = replace(trained.study, tune=None)
    assert tuned.unequal(replace(trained, study=study)) == [
        "Nothing was tuned: an arm that other settings would suit better is judged too low."
    ]
    alone = [r for r in trained.results if r.arm == "cosine"]
    assert tuned.unequal(replace(trained, study=study, results=alone)) == []


def test_every_caveat_is_a_sentence() -> None:
    found = rows(seeds=2)
    found.results = [replace(found.results[0], status="diverged"), *found.results[1:]]
    said = few_seeds(found.results) + diverged(found.results) + short_ranges(found.results, [{}], compare(found))
    assert len(said) == 4 and all(sentence[0].isupper() or sentence[0].isdigit() for sentence in said)
    assert all(sentence.endswith(".") for sentence in said) and np.unique(said).size == len(said)
