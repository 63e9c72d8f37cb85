"""The keyed permutation: a bijection, equal to its scalar twin, and without visible structure."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoloss.data.permutation import permute, permute_scalar, sample_order


def test_bijection_for_every_small_n():
    for n in range(1, 400):
        image = permute(f"key {n}", np.arange(n), n)
        assert np.array_equal(np.sort(image), np.arange(n)), n


@pytest.mark.parametrize("n", [1024, 4095, 4097, 50_000])
def test_bijection_for_larger_n(n):
    assert np.array_equal(np.sort(permute("k", np.arange(n), n)), np.arange(n))


@given(st.text(max_size=8), st.integers(1, 2**62), st.data())
def test_equals_scalar_twin(key, n, data):
    index = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=5))
    assert permute(key, np.array(index), n).tolist() == [permute_scalar(key, i, n) for i in index]


def test_twin_for_every_index_of_small_domains():
    for n in (1, 2, 3, 5, 17, 64, 101):
        assert permute("twin", np.arange(n), n).tolist() == [permute_scalar("twin", i, n) for i in range(n)]


def test_shape_is_kept_and_bad_arguments_are_refused():
    assert permute("k", np.arange(6).reshape(2, 3), 6).shape == (2, 3)
    assert permute("k", np.empty(0, np.int64), 6).shape == (0,)
    for index, n in (([6], 6), ([-1], 6), ([0], 0), ([0], 2**62 + 1)):
        with pytest.raises(ValueError, match=r"found|permutation"):
            permute("k", np.array(index), n)
    with pytest.raises(ValueError, match="at least 0"):
        sample_order(0, -1, 4, 10)


def test_every_index_lands_everywhere_equally_often():
    n, keys = 13, 2600
    images = np.array([permute(f"uniform:{k}", np.arange(n), n) for k in range(keys)])
    for index in range(n):
        counts = np.bincount(images[:, index], minlength=n)
        chi_squared = ((counts - keys / n) ** 2 / (keys / n)).sum()
        # 12 degrees of freedom: above 45 in one of 100,000 cases.
        assert chi_squared < 45


def test_neighbours_are_not_kept_together():
    n = 10_000
    image = permute("neighbours", np.arange(n), n)
    correlation = np.corrcoef(image[:-1], image[1:])[0, 1]
    assert abs(correlation) < 5 / np.sqrt(n)
    # A random permutation has about one pair of kept neighbours and one fixed point each.
    assert (np.diff(image) == 1).sum() < 10
    assert (image == np.arange(n)).sum() < 10


def test_epochs_and_seeds_are_independent_orders():
    n = 1000
    orders = [sample_order(seed, epoch * n, n, n) for seed in (0, 1, -7) for epoch in range(3)]
    for i, one in enumerate(orders):
        assert np.array_equal(np.sort(one), np.arange(n))
        for other in orders[:i]:
            assert (one == other).sum() < 12


@given(
    seed=st.integers(-(2**70), 2**70),
    n=st.integers(1, 40),
    start=st.integers(0, 200),
    cuts=st.lists(st.integers(1, 30), max_size=5),
)
def test_batches_of_any_size_walk_the_same_order(seed, n, start, cuts):
    total = sum(cuts)
    pieces = []
    position = start
    for count in cuts:
        pieces.append(sample_order(seed, position, count, n))
        position += count
    joined = np.concatenate([np.empty(0, np.int64), *pieces])
    assert np.array_equal(joined, sample_order(seed, start, total, n))


def test_frozen_order():
    """Stored states rest on this order: another one needs another semantics number of every data source."""
    assert sample_order(0, 0, 8, 8).tolist() == [7, 6, 2, 1, 5, 0, 3, 4]
    assert sample_order(3, 1_000_003, 6, 1000).tolist() == [468, 697, 457, 857, 105, 280]
    large = permute("frozen", np.array([0, 1, 2**40]), 2**41)
    assert large.tolist() == [1049288780397, 1659237546150, 1754584790457]
