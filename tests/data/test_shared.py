"""What two sources share: the same answer as sets of whole windows, and none by chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoloss.data import TokenSource, open_source
from isoloss.data.shared import WINDOW, shared


def text(tokens: np.ndarray, held_out: np.ndarray, limit: int | None = None) -> TokenSource:
    return TokenSource("text", tokens, held_out, [len(held_out)], 256, {}, {}, limit=limit)


def drawn(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, count).astype(np.uint8)


def literal(source: TokenSource, target: TokenSource, part: str, context: int) -> tuple[int, int]:
    """(windows, shared) by sets of tuples."""
    width = min(WINDOW, context)

    def blocks(own: TokenSource) -> list[np.ndarray]:
        n = own.blocks(context)
        return list(own.batch(0, 0, n, context))

    whole = source.limit is None
    known = set()
    for stretch in [source.train] if whole else blocks(source):
        known |= {tuple(stretch[i : i + width].tolist()) for i in range(len(stretch) - width + 1)}
    rows = [row[:context] for row in blocks(target)] if part == "train" else [target.held(part)]
    own = [tuple(row[i : i + width].tolist()) for row in rows for i in range(0, len(row) - width + 1, width)]
    return len(own), sum(window in known for window in own)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 99),
    context=st.sampled_from([32, 45, 64, 100, 130]),
    limits=st.tuples(st.sampled_from([None, 900]), st.sampled_from([None, 700])),
    copies=st.lists(st.tuples(st.integers(0, 1800), st.integers(0, 1800), st.integers(1, 400)), max_size=4),
)
def test_equal_to_sets_of_windows(
    seed: int, context: int, limits: tuple[int | None, int | None], copies: list[tuple[int, int, int]]
) -> None:
    theirs, ours, held = drawn(seed, 2000), drawn(seed + 100, 2000), drawn(seed + 200, 2000)
    for at, to, length in copies:
        copy = theirs[at : at + length]
        for into in (ours, held):
            into[to : to + len(copy)] = copy[: len(into) - to]
    source, target = text(theirs, held, limits[0]), text(ours, held, limits[1])
    found = shared(source, target, context)
    assert found is not None
    assert {p: (o.windows, o.shared) for p, o in found.items()} == {
        p: literal(source, target, p, context) for p in ("train", "A", "B")
    }


def test_it_does_not_matter_where_blocks_begin() -> None:
    ours = drawn(1, 64 * 50 + 1)
    theirs = np.concatenate([drawn(2, 3_000_017), ours[: 64 * 20], drawn(3, 5)])
    found = shared(text(theirs, ours), text(ours, drawn(4, 2000)), 64)
    assert found is not None
    assert (found["train"].windows, found["train"].shared, found["A"].shared) == (50, 20, 0)


def test_short_windows_and_other_kinds_are_not_compared() -> None:
    chain = open_source({"source": "synthetic", "tokens": 1000, "context": 8})
    blobs = open_source({"source": "blobs", "samples": 100})
    assert shared(chain, chain, 8) is None
    assert shared(blobs, chain, 64) is None


def test_images_are_compared_whole_and_as_stored() -> None:
    pytest.importorskip("sklearn")
    low, high = (open_source({"source": "digits", "classes": c}) for c in ("0-4", "5-9"))
    apart = shared(low, high, 64)
    assert apart is not None and all(o.shared == 0 and o.windows > 0 for o in apart.values())
    # Augmentation and the numbering of classes change no stored image.
    met = shared(low, open_source({"source": "digits", "classes": "3-7", "crop": 1}), 64)
    assert met is not None
    assert 0.3 < met["train"].share < 0.5 and met["A"].shared == 0
    few = shared(open_source({"source": "digits", "classes": "0-4", "size": "10 samples"}), low, 64)
    assert few is not None and few["train"].shared == 10
