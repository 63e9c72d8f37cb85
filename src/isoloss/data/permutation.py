"""Keyed permutation of 0..n-1 without a table: the order of samples as a pure function of (seed, epoch).

An alternating Feistel network over Z_a x Z_b with a = ceil(sqrt(n)), b = ceil(n / a):

    even rounds: L <- (L + F_r(R)) mod a        odd rounds: R <- (R + F_r(L)) mod b

Each round is a bijection whatever F_r is, so the whole is one; a result at or above n walks on along its
cycle until it falls below n. As a b < n + 2 sqrt(n), few walk.
Source: Black and Rogaway, "Ciphers with arbitrary finite domains" (CT-RSA 2002), the generalised Feistel
method with cycle walking; F_r is a keyed 64-bit finaliser.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

import numpy as np

ROUNDS = 8
LARGEST = 1 << 62
_FIRST = 0xFF51AFD7ED558CCD
_SECOND = 0xC4CEB9FE1A85EC53
_MASK = (1 << 64) - 1


@lru_cache(maxsize=256)
def _round_keys(key: str) -> tuple[int, ...]:
    block = hashlib.blake2b(b"isoloss.order.1:" + key.encode(), digest_size=8 * ROUNDS).digest()
    return tuple(int.from_bytes(block[8 * r : 8 * r + 8], "little") for r in range(ROUNDS))


def _sides(n: int) -> tuple[int, int]:
    a = math.isqrt(n - 1) + 1
    return a, -(-n // a)


def _check(n: int) -> None:
    if not 1 <= n <= LARGEST:
        raise ValueError(f"a permutation needs 1 <= n <= 2**62, found n = {n}")


def permute(key: str, index: np.ndarray, n: int) -> np.ndarray:
    """Images of ``index`` under the permutation of 0..n-1 that ``key`` names.

    ``index``: integers in [0, n), any shape; the result is int64 of the same shape. Raises ``ValueError`` for
    n outside [1, 2**62] or an index outside [0, n).
    """
    _check(n)
    index = np.asarray(index, dtype=np.int64)
    if index.size and (index.min() < 0 or index.max() >= n):
        raise ValueError(f"indices must lie in [0, {n}), found {index.min()} .. {index.max()}")
    a, b = _sides(n)
    keys = _round_keys(key)
    value = _pass(index.astype(np.uint64).reshape(-1), a, b, keys)
    outside = np.flatnonzero(value >= n)
    while outside.size:
        value[outside] = _pass(value[outside], a, b, keys)
        outside = outside[value[outside] >= n]
    return value.astype(np.int64).reshape(index.shape)


def _pass(value: np.ndarray, a: int, b: int, keys: tuple[int, ...]) -> np.ndarray:
    side_a, side_b = np.uint64(a), np.uint64(b)
    left, right = np.divmod(value, side_b)
    for r, key in enumerate(keys):
        if r % 2 == 0:
            left = (left + _mix(right, key) % side_a) % side_a
        else:
            right = (right + _mix(left, key) % side_b) % side_b
    return left * side_b + right


def _mix(value: np.ndarray, key: int) -> np.ndarray:
    """64-bit finaliser of MurmurHash3 (Appleby, public domain) after adding the round key."""
    z = value + np.uint64(key)
    z ^= z >> np.uint64(33)
    z *= np.uint64(_FIRST)
    z ^= z >> np.uint64(33)
    z *= np.uint64(_SECOND)
    z ^= z >> np.uint64(33)
    return z


def permute_scalar(key: str, index: int, n: int) -> int:
    """The same permutation for one index, in plain integers: the literal form of it."""
    _check(n)
    a, b = _sides(n)
    value = index
    while True:
        left, right = divmod(value, b)
        for r, round_key in enumerate(_round_keys(key)):
            if r % 2 == 0:
                left = (left + _mix_scalar(right, round_key)) % a
            else:
                right = (right + _mix_scalar(left, round_key)) % b
        value = left * b + right
        if value < n:
            return value


def _mix_scalar(value: int, key: int) -> int:
    z = (value + key) & _MASK
    z = ((z ^ z >> 33) * _FIRST) & _MASK
    z = ((z ^ z >> 33) * _SECOND) & _MASK
    return z ^ z >> 33


def sample_order(seed: int, start: int, count: int, n: int) -> np.ndarray:
    """Samples [start, start + count) of the endless stream of epochs, each in its own order.

    Returns int64 (count,) in [0, n). A pure function of its arguments. Raises ``ValueError`` for a negative
    start or count.
    """
    if start < 0 or count < 0:
        raise ValueError(f"start and count must be at least 0, found start = {start}, count = {count}")
    _check(n)
    out = np.empty(count, dtype=np.int64)
    done = 0
    while done < count:
        epoch, first = divmod(start + done, n)
        take = min(count - done, n - first)
        out[done : done + take] = permute(f"{seed}:{epoch}", np.arange(first, first + take), n)
        done += take
    return out
