"""The band of worth against size: an independent computation, an identity, coverage of a planted trend."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from tests.worth.test_compare import SIZES, planted

from isoloss.worth.answer_rows import BEYOND, overall_record
from isoloss.worth.compare import CURRENCIES, LEVEL, compare

NOISE = 0.003


def noisy(seed: int, power: float = 0.15, seeds: int = 4) -> tuple:
    chance = np.random.default_rng(seed)
    (overall,) = compare(planted(lambda N: 1.3 * (N / 20_000) ** power, NOISE, seeds, chance)).overall
    return overall, overall.trends


def test_the_band_is_that_of_the_mean_line_over_seeds() -> None:
    """Lines fitted by lstsq on (1, log N); variance at x from the covariance of their coefficients."""
    overall, trends = noisy(3)
    x = np.log(np.array(SIZES, float))
    assert set(trends) == set(CURRENCIES) and overall.trend is trends["data"]
    for trend in trends.values():
        # The values the lines were fitted to are their own values at three sizes, up to what a line leaves.
        coefficients = np.array([[level - slope * x.mean(), slope] for level, slope in trend.lines])
        mean, covariance = coefficients.mean(0), np.cov(coefficients.T) / len(coefficients)
        t = stats.t.ppf(0.5 + LEVEL / 2, len(coefficients) - 1)
        for N in (5_000, 20_000, 90_000):
            at = np.array([1, math.log(N)])
            half = t * math.sqrt(at @ covariance @ at)
            found = trend.at(N)
            expected = np.exp([at @ mean, at @ mean - half, at @ mean + half])
            assert [found.ratio, found.low, found.high] == pytest.approx(expected.tolist(), rel=1e-9)
        low, high = np.array([-1, 1]) * t * math.sqrt(covariance[1, 1]) + mean[1]
        assert (trend.slope, trend.low, trend.high) == pytest.approx((mean[1], low, high), rel=1e-9)


def test_each_seed_has_the_least_squares_line_of_its_own_sizes() -> None:
    rows = planted(lambda N: 1.3 * (N / 20_000) ** 0.15, NOISE, 3, np.random.default_rng(5))
    trend = compare(rows).overall[0].trends["data"]
    x = np.log(np.array(SIZES, float))
    for seed, (level, slope) in zip(("0", "1", "2"), trend.lines, strict=True):
        rows.results, whole = [r for r in rows.results if r.seed == seed], rows.results
        alone = compare(rows)
        rows.results = whole
        y = [math.log(worth.ratios["data"].ratio) for worth in alone.by_size]
        expected = np.linalg.lstsq(np.stack([np.ones(3), x - x.mean()], 1), np.array(y), rcond=None)[0]
        assert (level, slope) == pytest.approx(tuple(expected), rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_at_the_mean_size_the_band_is_the_worth_over_all_sizes(seed: int) -> None:
    overall, trends = noisy(seed)
    for currency, trend in trends.items():
        ratio, there = overall.ratios[currency], trend.at(math.exp(np.log(SIZES).mean()))
        assert (there.ratio, there.low, there.high) == pytest.approx((ratio.ratio, ratio.low, ratio.high), rel=1e-9)


def test_too_few_sizes_or_seeds_give_no_band() -> None:
    rows = planted(lambda N: 1.3, NOISE)
    rows.results = [r for r in rows.results if SIZES[0] != r.N]
    assert compare(rows).overall[0].trends == {}
    two = compare(planted(lambda N: 1.3, NOISE, seeds=2)).overall[0].trends["data"]
    assert (
        two.verdict == "not resolved" and two.at(3e4).low is None and two.at(3e4).ratio == pytest.approx(1.3, rel=0.05)
    )


def test_the_result_holds_line_and_band_on_both_sides_of_the_sizes() -> None:
    overall, trends = noisy(1)
    record = overall_record(overall)
    assert record["trend"] == record["trends"]["data"] and set(record["trends"]) == set(CURRENCIES)
    for currency, found in record["trends"].items():
        band = found["band"]
        assert band["N"][0] < SIZES[0] and band["N"][-1] == pytest.approx(BEYOND * SIZES[-1])
        assert {float(SIZES[0]), float(SIZES[-1])} <= set(band["N"]) and band["N"] == sorted(band["N"])
        for i, N in enumerate(band["N"]):
            there = trends[currency].at(N)
            assert (band["ratio"][i], band["low"][i], band["high"][i]) == (there.ratio, there.low, there.high)


@pytest.mark.slow
def test_the_band_covers_what_it_says() -> None:
    """Nominal 90 %, four seeds: a planted trend lies in the band inside the sizes and at four times the largest."""
    places = (SIZES[0], 20_000, SIZES[-1] * 4)
    inside = [[(t := noisy(seed)[1]["data"].at(N)).low <= 1.3 * (N / 20_000) ** 0.15 <= t.high for N in places]
              for seed in range(100, 400)]  # fmt: skip
    for coverage in np.mean(inside, axis=0):
        assert 0.84 <= coverage <= 0.95
