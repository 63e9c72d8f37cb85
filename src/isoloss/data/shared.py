"""What two sources have in common, by hashes of their content: whether target data was in the pre-training.

Tokens: the target is cut into windows of up to 64 tokens, and each is looked for at every position of the source's
training data, so that it does not matter where blocks begin. Images and vectors: whole samples, as stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from isoloss.data.contamination import Overlap
from isoloss.data.images import ImageSource
from isoloss.data.permutation import permute
from isoloss.data.source import Source, TokenSource, VectorSource

WINDOW = 64
SHORTEST = 32
"""Shorter windows agree by chance."""
PARTS = ("train", "A", "B")
_STRETCH = 1 << 20
_FACTOR = 0x9E3779B97F4A7C15
_SIEVE = 20


def shared(source: Source, target: Source, context: int) -> dict[str, Overlap] | None:
    """Windows (samples) of the target's unique training data and of validation parts A and B that ``source`` trains on.

    ``context``: of both, for tokens. None where this cannot be told: a source of the user's own, sources of different
    kinds, or a context below 32 tokens.
    """
    if isinstance(source, TokenSource) and isinstance(target, TokenSource):
        width = min(WINDOW, context)
        if width < SHORTEST:
            return None
        wanted = {part: _hashes(_windows(target, part, context, width), width)[:, 0] for part in PARTS}
        found = _met(np.unique(np.concatenate(list(wanted.values()))), source, context, width)
        return {part: Overlap(len(w), int(np.isin(w, found).sum())) for part, w in wanted.items()}
    if isinstance(source, ImageSource | VectorSource) and isinstance(target, ImageSource | VectorSource):
        known = set(_samples(source, "train"))
        return {
            part: Overlap(len(own), sum(one in known for one in own))
            for part, own in ((part, list(_samples(target, part))) for part in PARTS)
        }
    return None


def _windows(source: TokenSource, part: str, context: int, width: int) -> np.ndarray:
    """Windows (n, width) of a part that do not overlap."""
    if part == "train":
        blocks = _blocks(source, context)
        rows = blocks[:, : context // width * width]
    else:
        rows = source.held(part)
        rows = rows[: len(rows) // width * width]
    return rows.reshape(-1, width)


def _blocks(source: TokenSource, context: int) -> np.ndarray:
    """The unique training blocks (n, context + 1), in the order in which a larger size adds them."""
    n, available = source.blocks(context), (len(source.train) - 1) // context
    block = np.arange(n, dtype=np.int64)
    if n < available:
        block = permute("unique-samples", block, available)
    return source.train[block[:, None] * context + np.arange(context + 1)]


def _hashes(tokens: np.ndarray, width: int) -> np.ndarray:
    """Hash of every window of ``width`` along the last axis, uint64; a polynomial, put together by halves."""
    with np.errstate(over="ignore"):
        values = (tokens.astype(np.uint64) + np.uint64(1)) * np.uint64(_FACTOR)
        values ^= values >> np.uint64(29)
        return _powers(values, width)[0]


def _powers(values: np.ndarray, width: int) -> tuple[np.ndarray, np.uint64]:
    """(hash of every window, factor to that width)."""
    if width == 1:
        return values, np.uint64(_FACTOR)
    half, factor = _powers(values, width // 2)
    count = values.shape[-1] - width // 2 * 2 + 1
    both = half[..., :count] * factor + half[..., width // 2 : width // 2 + count]
    factor = factor * factor
    if width % 2:
        both = both[..., : count - 1] * np.uint64(_FACTOR) + values[..., width - 1 :]
        factor = factor * np.uint64(_FACTOR)
    return both, factor


def _met(wanted: np.ndarray, source: TokenSource, context: int, width: int) -> np.ndarray:
    """Those of ``wanted`` (sorted) that occur in the source's training data."""
    found = np.zeros(len(wanted), dtype=bool)
    sieve = np.zeros(1 << _SIEVE, dtype=bool)
    sieve[(wanted >> np.uint64(64 - _SIEVE)).astype(np.int64)] = True
    for stretch in _stretches(source, context, width):
        hashes = _hashes(stretch, width).reshape(-1)
        hashes = hashes[sieve[(hashes >> np.uint64(64 - _SIEVE)).astype(np.int64)]]
        place = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
        found[place[wanted[place] == hashes]] = True
    return wanted[found]


def _stretches(source: TokenSource, context: int, width: int) -> Iterator[np.ndarray]:
    """The training data in pieces that together hold every window."""
    if source.blocks(context) < (len(source.train) - 1) // context:
        blocks = _blocks(source, context)
        rows = max(1, _STRETCH // context)
        yield from (blocks[at : at + rows] for at in range(0, len(blocks), rows))
        return
    for at in range(0, len(source.train), _STRETCH):
        piece = source.train[at : at + _STRETCH + width - 1]
        if len(piece) >= width:
            yield piece


def _samples(source: ImageSource | VectorSource, part: str) -> Iterator[bytes]:
    """Digest of every sample of a part, as stored."""
    for x in source.stored(part):
        yield hashlib.blake2b(np.ascontiguousarray(x).tobytes(), digest_size=16).digest()
