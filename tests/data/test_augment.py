"""Augmentation against literal loops, and its promise: a pure function of (seed, sample, epoch)."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoloss.data.augment import Augmentation


def literal_draws(seed: int, sample: int, epoch: int, ranges: list[int]) -> list[int]:
    """SplitMix64's finaliser in plain integers."""
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def finalise(z: int) -> int:
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & mask
        return z ^ z >> 31

    key = int.from_bytes(hashlib.blake2b(f"isoloss.augment.1:{seed}".encode(), digest_size=8).digest(), "little")
    state = finalise((finalise((key + golden * sample) & mask) + golden * epoch) & mask)
    return [(finalise((state + golden * (j + 1)) & mask) >> 32) * m >> 32 for j, m in enumerate(ranges)]


def literal(images: np.ndarray, kind: Augmentation, seed: int, sample: list[int], epoch: list[int]) -> np.ndarray:
    """Pixel by pixel; a blanked pixel is -1."""
    n, channels, height, width = images.shape
    out = np.empty(images.shape, dtype=np.float64)
    for i in range(n):
        ranges = [2 * kind.crop + 1, 2 * kind.crop + 1, 2, height, width]
        down, right, flip, row, column = literal_draws(seed, sample[i], epoch[i], ranges)
        for c in range(channels):
            for h in range(height):
                for w in range(width):
                    across = width - 1 - w if kind.flip and flip else w
                    y, x = h + down - kind.crop, across + right - kind.crop
                    inside = 0 <= y < height and 0 <= x < width
                    value = images[i, c, y, x] if inside else kind.fill
                    top, left = row - kind.cutout // 2, column - kind.cutout // 2
                    blank = top <= h < top + kind.cutout and left <= w < left + kind.cutout
                    out[i, c, h, w] = -1 if blank else value
    return out


def ours(images: np.ndarray, kind: Augmentation, seed: int, sample: list[int], epoch: list[int]) -> np.ndarray:
    moves = kind.draw(seed, np.array(sample), np.array(epoch), *images.shape[2:])
    x = kind.move(images, moves).astype(np.float64) + 1
    kind.cut(x, moves)
    return x - 1


@settings(max_examples=60, deadline=None)
@given(
    kind=st.builds(
        Augmentation,
        crop=st.integers(0, 3),
        flip=st.booleans(),
        cutout=st.integers(0, 9),
        fill=st.sampled_from([0, 127, 255]),
    ),
    size=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(3, 6), st.integers(3, 6)),
    seed=st.integers(0, 2**63 - 1),
    data=st.data(),
)
def test_equals_the_pixel_by_pixel_definition(kind, size, seed, data):
    images = np.random.default_rng(0).integers(0, 256, size).astype(np.uint8)
    sample = data.draw(st.lists(st.integers(0, 10**8), min_size=size[0], max_size=size[0]))
    epoch = data.draw(st.lists(st.integers(0, 10**5), min_size=size[0], max_size=size[0]))
    before = images.copy()
    assert np.array_equal(ours(images, kind, seed, sample, epoch), literal(images, kind, seed, sample, epoch))
    assert np.array_equal(images, before)


def test_a_sample_is_treated_alike_in_any_batch():
    kind = Augmentation(crop=2, flip=True, cutout=3)
    images = np.random.default_rng(1).integers(0, 256, (20, 3, 8, 8)).astype(np.uint8)
    sample, epoch = list(range(100, 120)), [k // 7 for k in range(20)]
    whole = ours(images, kind, 5, sample, epoch)
    order = np.random.default_rng(2).permutation(20)
    apart = ours(images[order], kind, 5, [sample[k] for k in order], [epoch[k] for k in order])
    assert np.array_equal(whole[order], apart)
    assert not np.array_equal(whole, ours(images, kind, 6, sample, epoch))
    assert not np.array_equal(whole, ours(images, kind, 5, sample, [e + 1 for e in epoch]))


def test_draws_are_uniform_and_independent():
    n = 60_000
    kind = Augmentation(crop=4, flip=True, cutout=8)
    moves = kind.draw(0, np.arange(n), np.zeros(n, dtype=np.int64), 28, 20)
    for drawn, places in ((moves.down, 9), (moves.right, 9), (moves.flip, 2), (moves.row, 28), (moves.column, 20)):
        counts = np.bincount(drawn, minlength=places)
        assert len(counts) == places
        chi_squared = ((counts - n / places) ** 2 / (n / places)).sum()
        assert chi_squared < places - 1 + 5 * np.sqrt(2 * places)
    columns = [moves.down, moves.right, moves.flip, moves.row, moves.column]
    later = kind.draw(0, np.arange(n), np.ones(n, dtype=np.int64), 28, 20)
    correlations = np.corrcoef([*columns, later.down, later.flip, np.roll(moves.down, 1)])
    assert np.abs(correlations - np.eye(8)).max() < 5 / np.sqrt(n)


def test_nothing_is_copied_where_nothing_moves():
    kind = Augmentation(cutout=2)
    images = np.zeros((2, 1, 4, 4), dtype=np.uint8)
    moves = kind.draw(0, np.arange(2), np.zeros(2, dtype=np.int64), 4, 4)
    assert kind.move(images, moves) is images
    assert not Augmentation(fill=3).active


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_type_of_the_images_is_kept(dtype):
    kind = Augmentation(crop=1, flip=True, fill=7)
    images = np.ones((4, 1, 5, 5), dtype=dtype)
    moves = kind.draw(0, np.arange(4), np.zeros(4, dtype=np.int64), 5, 5)
    moved = kind.move(images, moves)
    assert moved.dtype == dtype
    assert set(np.unique(moved)) == {1, 7}
