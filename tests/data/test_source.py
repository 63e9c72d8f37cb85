"""Token and vector sources against brute force; positions serve as tokens."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoloss.data.permutation import permute_scalar
from isoloss.data.size import sample_limit, token_limit
from isoloss.data.source import Source, Spans, TokenSource, VectorSource, split_parts
from isoloss.recipe.errors import StudyError


def positions(train: int, held_out: int = 100, *, documents=None, **more) -> TokenSource:
    """A source whose tokens are their own positions."""
    return TokenSource(
        name="positions",
        train=np.arange(train, dtype=np.int32),
        held_out=np.arange(held_out, dtype=np.int32),
        documents=documents or [held_out],
        vocabulary=max(train, held_out),
        identity={"train": train, "held_out": held_out},
        facts={},
        **more,
    )


@given(train=st.integers(2, 300), context=st.integers(1, 40), seed=st.integers(0, 3))
def test_an_epoch_predicts_every_token_once(train, context, seed):
    source = positions(train)
    if train - 1 < context:
        with pytest.raises(StudyError, match="longer than the data"):
            source.blocks(context)
        return
    n = source.blocks(context)
    batch = source.batch(seed, 5 * n, n, context)
    assert batch.shape == (n, context + 1)
    assert batch.dtype == np.int64
    assert np.array_equal(batch, batch[:, :1] + np.arange(context + 1))
    assert np.array_equal(np.sort(batch[:, 1:].reshape(-1)), np.arange(1, n * context + 1))
    assert train - 1 - n * context < context


def test_batch_equals_literal_definition():
    source = positions(1000, limit=300)
    context, n, available = 7, 300 // 7, 999 // 7
    for sample, row in enumerate(source.batch(4, 0, 3 * n, context)):
        epoch, index = divmod(sample, n)
        block = permute_scalar("unique-samples", permute_scalar(f"4:{epoch}", index, n), available)
        assert row.tolist() == list(range(block * context, block * context + context + 1))


@given(
    train=st.integers(50, 400),
    context=st.integers(1, 12),
    sizes=st.tuples(st.integers(12, 49), st.integers(12, 49)),
)
def test_smaller_size_is_a_subset_of_a_larger(train, context, sizes):
    small, large = sorted(sizes)
    chosen = []
    for limit in (small, large):
        source = positions(train, limit=limit)
        n = source.blocks(context)
        assert n == min(limit // context, (train - 1) // context)
        chosen.append({row[0] for row in source.batch(1, 0, n, context)})
        assert len(chosen[-1]) == n
    assert chosen[0] <= chosen[1]


def test_the_digest_tells_sizes_apart_and_nothing_else():
    plain = positions(1000)
    assert plain.digest == positions(1000, context=8).digest
    assert plain.digest != positions(1000, limit=500).digest
    assert plain.digest != positions(1001).digest
    assert len(plain.digest) == 64
    assert isinstance(plain, Source)


@given(st.lists(st.integers(0, 60), max_size=12), st.integers(1, 20))
def test_parts_are_a_partition(lengths, piece):
    parts = split_parts(lengths, piece)
    taken = np.zeros(sum(lengths), dtype=int)
    for spans in parts.values():
        for start, stop in spans:
            assert start < stop
            taken[start:stop] += 1
    assert (taken == 1).all()
    held = [sum(stop - start for start, stop in spans) for spans in parts.values()]
    assert abs(held[0] - held[1]) <= piece


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30))
def test_small_documents_stay_whole(lengths):
    longest = max(lengths)
    edges = np.cumsum([0, *lengths])
    for spans in split_parts(lengths, longest).values():
        for start, stop in spans:
            assert start in edges
            assert stop in edges


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=8))
def test_spans_read_as_the_joined_stretches(gaps):
    spans, position = [], 0
    for gap, length in gaps:
        spans.append((position + gap, position + gap + length))
        position += gap + length
    array = np.arange(1000) * 3
    joined = np.concatenate([array[start:stop] for start, stop in spans])
    view = Spans(array, spans)
    assert view.length == len(joined)
    assert np.array_equal(view.take(np.arange(len(joined))), joined)


@given(held_out=st.integers(40, 3000), context=st.integers(1, 6), blocks=st.integers(1, 12))
def test_validation_parts_are_disjoint_fixed_and_spread(held_out, context, blocks):
    source = positions(100, held_out)
    seen = []
    for part in "AB":
        room = (source._spans[part].length - 1) // context
        if blocks > room:
            with pytest.raises(StudyError, match="at most"):
                source.validation(part, blocks * context, context)
            return
        found = source.validation(part, blocks * context, context)
        assert found.shape == (blocks, context + 1)
        assert found.dtype == np.int64
        assert np.array_equal(found, source.validation(part, blocks * context, context))
        own = source._spans[part].take(np.arange(source._spans[part].length))
        rank = np.searchsorted(own, found[:, 0])
        assert np.array_equal(own[rank[:, None] + np.arange(context + 1)], found)
        # Evenly spread: the gaps between blocks, and around them, are equal up to one block.
        gaps = np.diff(rank // context)
        assert gaps.size == 0 or gaps.max() - gaps.min() <= 1
        assert abs(int(rank[0]) // context - (room - 1 - int(rank[-1]) // context)) <= 1
        seen.append(set(found.reshape(-1).tolist()))
    assert not seen[0] & seen[1]


def test_parts_do_not_depend_on_amount_or_context():
    source = positions(100, 5000)
    for part, other in ("AB", "BA"):
        everything = set(source._spans[other].take(np.arange(source._spans[other].length)).tolist())
        for tokens, context in ((64, 64), (2048, 16), (1000, 3)):
            assert not everything & set(source.validation(part, tokens, context).reshape(-1).tolist())


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: positions(0), "empty corpus"),
        (lambda: positions(10, limit=11), "has only 10"),
        (lambda: positions(10).blocks(10), "at most 9 is allowed"),
        (lambda: positions(10).blocks(0), "from 1"),
        (lambda: positions(10, context=50), "longer than the data"),
        (lambda: positions(100, limit=5).blocks(8), "do not fill one sample"),
        (lambda: positions(100).validation("A", 7, 8), "less than one block"),
        (lambda: positions(100, 20).validation("B", 64, 8), "at most 8"),
        (lambda: positions(100, 0).validation("A", 8, 8), "holds 0"),
        (lambda: token_limit("12 token", 11), "1 to 11"),
        (lambda: token_limit("12", 11), "without a unit"),
        (lambda: token_limit("12 tokns", 11), "did you mean 'tokens'"),
        (lambda: token_limit("3 updates", 11), "allowed"),
        (lambda: token_limit("3 samples", 11), "needs data.context"),
        (lambda: token_limit("3 bytes", 11), "does not know its bytes"),
        (lambda: token_limit("1 %", 11), "1 to 11"),
        (lambda: sample_limit("3 tokens", 11), "samples"),
    ],
)
def test_every_mistake_has_its_message(action, message):
    with pytest.raises(StudyError, match=message):
        action()


def test_an_unknown_part_is_a_programming_error():
    with pytest.raises(ValueError, match="'A' or 'B'"):
        positions(100).validation("C", 8, 8)


@pytest.mark.parametrize(
    ("size", "tokens"),
    [(None, None), ("300 tokens", 300), ("50 %", 500), ("2 samples", 128), ("1 KB", 250), ("0.4 KB", 100)],
)
def test_units_of_size(size, tokens):
    assert token_limit(size, 1000, context=64, bytes_per_token=4.0) == tokens


def test_train_size_is_what_an_epoch_predicts():
    assert positions(1000).train_size == 1000
    assert positions(1000, context=64).train_size == 15 * 64
    assert positions(1000, context=64, limit=200).train_size == 3 * 64
    assert positions(1000, context=64, limit=1000).train_size == 15 * 64


def test_facts_are_json():
    facts = json.loads(json.dumps(positions(1000, bytes_per_token=float("nan")).describe(), allow_nan=False))
    assert facts["training_tokens"] == 1000
    assert facts["bytes_per_token"] is None


def test_vectors_walk_their_samples_once_an_epoch():
    x = np.arange(40, dtype=np.float32).reshape(20, 2)
    y = np.arange(20, dtype=np.int64)
    held = (x[:4], y[:4])
    source = VectorSource("v", (x, y), {"A": held, "B": held}, 20, {}, {}, limit=8)
    smaller = VectorSource("v", (x, y), {"A": held, "B": held}, 20, {}, {}, limit=5)
    found_x, found_y = source.batch(0, 16, 8, 1)
    assert len(set(found_y.tolist())) == 8
    assert np.array_equal(found_x, x[found_y])
    assert set(smaller.batch(3, 0, 5, 1)[1].tolist()) <= set(found_y.tolist())
    assert source.features == 2
    assert source.blocks(1) == source.train_size == 8
    with pytest.raises(StudyError, match="allows 1 to 4"):
        source.validation("A", 5, 1)
    with pytest.raises(StudyError, match="allows 1 to 20"):
        VectorSource("v", (x, y), {"A": held, "B": held}, 20, {}, {}, limit=21)
