"""What a design resolves: the interval that it will get, by the interval that it got."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.worth.test_compare import DURATIONS, SIZES, loss, planted, study

from isoloss.worth.compare import compare
from isoloss.worth.power import power


def test_judged_by_all_seeds_it_is_the_interval_of_the_answer() -> None:
    results = planted(lambda N: 1.3, noise=0.004, seeds=5)
    (row,) = power(results, pilot=5)
    assert (row.arm, row.reference, row.sizes, row.seeds) == ("arm", "base", SIZES, 5)
    for worth in compare(results).by_size:
        found = worth.ratios["data"]
        assert found.high is not None
        assert found.high / found.ratio == pytest.approx(row.smallest, rel=1e-12)


def test_two_pilot_seeds_foresee_the_interval_of_more() -> None:
    """Over many studies the pilot's variance is that of all seeds, and noise over slope is its order of magnitude."""
    ahead, after, noises = [], [], []
    for number in range(60):
        results = planted(lambda N: 1.0, noise=0.003, seeds=8, chance=np.random.default_rng(number))
        (row,) = power(results)
        assert row.pilot == ("0", "1") and row.freedom == len(SIZES)
        ahead.append(row.spread**2)
        noises.append(row.noise**2)
        after.append(power(results, pilot=8)[0].spread ** 2)
    assert np.mean(ahead) == pytest.approx(np.mean(after), rel=0.25)
    assert math.sqrt(np.mean(noises)) == pytest.approx(0.003 * math.sqrt(2), rel=0.1)  # of a difference
    ends = DURATIONS[0], DURATIONS[-1] * 2
    slope = np.mean([math.log(loss(N, ends[0]) / loss(N, ends[1])) / math.log(ends[1] / ends[0]) for N in SIZES])
    assert row.slope == pytest.approx(slope, rel=0.1)
    assert 0.3 < math.sqrt(np.mean(after)) / (math.sqrt(np.mean(noises)) / slope) < 1.0


def test_more_seeds_resolve_less_and_the_number_needed_is_the_first_that_does() -> None:
    (row,) = power(planted(lambda N: 1.0, noise=0.003, seeds=3), wanted=1.05)
    assert row.needed is not None
    reached = {n: power(planted(lambda N: 1.0, noise=0.003, seeds=n), wanted=1.05)[0].smallest for n in (3, 12)}
    assert reached[12] < reached[3]
    for seeds in range(3, row.needed + 1):
        again = planted(lambda N: 1.0, noise=0.003, seeds=3)
        more = [*again.results]
        for r in again.results:
            if r.seed == "2":
                more += [r.__class__(**{**r.__dict__, "seed": str(n), "status": "missing"}) for n in range(3, seeds)]
        (with_more,) = power(study(more), wanted=1.05)
        assert (with_more.smallest <= 1.05) == (seeds >= row.needed) and with_more.seeds == seeds


def test_bad_requests_are_told() -> None:
    for pilot, wanted in ((1, 1.1), (2, 1.0)):
        with pytest.raises(ValueError, match="allowed: 2 or more, and more than 1"):
            power(planted(lambda N: 1.0, noise=0.01), pilot, wanted)
    with pytest.raises(ValueError, match="1 seeds have finished runs"):
        power(planted(lambda N: 1.0, seeds=1))
