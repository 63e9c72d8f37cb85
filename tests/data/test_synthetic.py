"""The right answers of the synthetic sources, each found in a second way."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from isoloss.data import open_source
from isoloss.data.synthetic import RESOLUTION, MarkovChain, bayes_error, uniform_bits
from isoloss.recipe.errors import StudyError


@pytest.mark.parametrize(("order", "vocabulary"), [(0, 5), (1, 2), (1, 16), (2, 5), (3, 4)])
def test_entropy_against_eigenvector_and_brute_force(order, vocabulary):
    chain = MarkovChain.draw(order, vocabulary, seed=3)
    contexts = vocabulary**order
    assert (chain.weights >= 1).all()
    assert (chain.weights.sum(axis=1) == RESOLUTION).all()
    # The chain of contexts as one matrix; its left eigenvector of eigenvalue 1.
    matrix = np.zeros((contexts, contexts))
    for s in range(contexts):
        for x in range(vocabulary):
            matrix[s, (s * vocabulary + x) % contexts] += chain.weights[s, x] / RESOLUTION
    values, vectors = np.linalg.eig(matrix.T)
    pi = np.real(vectors[:, np.argmin(abs(values - 1))])
    pi /= pi.sum()
    assert np.allclose(chain.stationary(), pi, atol=1e-12)
    p = chain.weights / RESOLUTION
    rate = -sum(pi[s] * p[s, x] * math.log(p[s, x]) for s in range(contexts) for x in range(vocabulary))
    known = chain.entropies()
    assert known[-1] == pytest.approx(rate, rel=1e-12)
    assert len(known) == order + 1
    assert all(more >= less - 1e-12 for more, less in zip([math.log(vocabulary), *known], known, strict=False))


@pytest.mark.parametrize(("order", "vocabulary"), [(0, 6), (1, 4), (2, 3)])
def test_drawn_tokens_follow_the_chain(order, vocabulary):
    chain = MarkovChain.draw(order, vocabulary, seed=1)
    tokens = chain.sample(100_000, "law").tolist()
    counts = np.zeros_like(chain.weights, dtype=float)
    context = 0
    for i, token in enumerate(tokens):
        if i >= order:
            counts[context, token] += 1
        context = (context * vocabulary + token) % vocabulary**order
    expected = counts.sum(axis=1, keepdims=True) * chain.probabilities
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    freedom = vocabulary**order * (vocabulary - 1)
    assert abs(chi_squared - freedom) < 5 * math.sqrt(2 * freedom)
    # Loss of the true model on the sample: the entropy rate, within its sampling error.
    loss = -(counts * np.log(chain.probabilities)).sum() / counts.sum()
    assert loss == pytest.approx(chain.entropies()[-1], abs=0.02)


def test_excess_of_an_estimated_model_is_the_known_learning_curve():
    """Maximum likelihood from n symbols, scored by the truth: V**k (V - 1) / (2 n) above the entropy."""
    weights = [[1096, 1000, 1200, 800], [600, 1800, 696, 1000], [2000, 596, 700, 800], [900, 900, 900, 1396]]
    chain = MarkovChain(1, 4, np.array(weights))
    n, excess = 4000, []
    for trial in range(100):
        tokens = chain.sample(n + 1, f"learn {trial}").astype(int)
        counts = np.zeros((4, 4))
        np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
        estimate = counts / counts.sum(axis=1, keepdims=True)
        joint = chain.stationary()[:, None] * chain.probabilities
        excess.append((joint * np.log(chain.probabilities / estimate)).sum())
    error = np.std(excess) / math.sqrt(len(excess))
    assert abs(np.mean(excess) - chain.excess_loss(n)) < 4 * error


def test_source_gives_its_answer():
    spec = {"source": "synthetic", "order": 2, "vocabulary": 5, "tokens": 20_000, "seed": 4, "context": 16}
    source = open_source(spec)
    chain = MarkovChain.draw(2, 5, 4)
    h0, h1, h2 = chain.entropies()
    assert source.entropy == h2 == source.describe()["entropy_nats_per_token"]
    assert source.vocabulary == 5
    assert len(source.train) == 20_000
    # In a block of 3 the first prediction sees one token, the others two.
    assert source.attainable_loss(3) == pytest.approx((h1 + 2 * h2) / 3)
    assert h0 > source.attainable_loss(1) > source.attainable_loss(100) > source.entropy
    assert source.excess_loss(1000) == 25 * 4 / 2000
    assert math.isnan(source.bytes_per_token)
    assert not np.array_equal(source.train[:100], source.held_out[:100])
    digests = {open_source({**spec, **change}).digest for change in ({}, {"seed": 5}, {"order": 1}, {"tokens": 30})}
    assert len(digests) == 4
    assert open_source({**spec, "context": 4}).digest == source.digest


def test_more_tokens_begin_with_the_same():
    chain = MarkovChain.draw(1, 6, 0)
    long = chain.sample(300_000, "x")
    assert len(long) == 300_000
    assert np.array_equal(long[:5000], chain.sample(5000, "x"))


def test_frozen_tokens():
    """Stored states rest on these tokens: other ones need another semantics number."""
    tokens = MarkovChain.draw(2, 7, 11).sample(10_000, "frozen").astype("<u2")
    found = hashlib.sha256(tokens.tobytes()).hexdigest()
    assert found == "3fc45ae80074143795cb810c58499029c1b9c385b34479cd1c2eba82ef64c310"


def test_uniform_bits_are_uniform():
    counts = np.bincount(uniform_bits("u", 1 << 16, 4), minlength=16)
    assert len(counts) == 16
    assert ((counts - 4096) ** 2 / 4096).sum() < 60
    assert np.array_equal(uniform_bits("u", 10, 12), uniform_bits("u", 99, 12)[:10])


@pytest.mark.parametrize("separation", [0.0, 0.5, 2.0, 5.0])
def test_bayes_error_of_two_classes_is_the_closed_form(separation):
    assert bayes_error(2, separation) == pytest.approx(0.5 * math.erfc(separation / 2 / math.sqrt(2)), abs=1e-12)


def test_bayes_error_of_indistinguishable_classes():
    assert bayes_error(10, 0.0) == pytest.approx(0.9, abs=1e-9)
    assert bayes_error(10, 30.0) < 1e-12


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_the_best_classifier_makes_the_known_error(classes):
    source = open_source({"source": "blobs", "classes": classes, "features": 8, "separation": 2.5, "seed": 2})
    wrong = []
    for part in "AB":
        x, y = source.validation(part, 8192, 1)
        # Unit noise at the unit axes: the nearest centre is the largest of the first coordinates.
        wrong.append(x[:, :classes].argmax(axis=1) != y)
    error = np.concatenate(wrong).mean()
    expected = source.describe()["bayes_error"]
    assert error == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 16384))


def test_blobs_batches():
    source = open_source({"source": "blobs", "samples": 100, "size": "20 samples"})
    x, y = source.batch(0, 0, 16, 1)
    assert (x.dtype, x.shape, y.dtype, y.shape) == (np.float32, (16, 16), np.int64, (16,))
    assert source.train_size == 20
    assert source.kind == "vectors"
    assert source.digest != open_source({"source": "blobs", "samples": 100}).digest


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"source": "synthetic", "order": 9}, "0 to 8"),
        ({"source": "synthetic", "order": 4, "vocabulary": 100}, "probabilities"),
        ({"source": "synthetic", "vocabulary": 1}, "2 to 1024"),
        ({"source": "synthetic", "token": 5}, "did you mean 'tokens'"),
        ({"source": "synthetic", "tokens": 100, "context": 100}, "longer than the data"),
        ({"source": "synthetic", "tokens": 100, "size": "101 tokens"}, "1 to 100"),
        ({"source": "synthetic", "size": "1 KB"}, "does not know its bytes"),
        ({"source": "blobs", "classes": 20, "features": 10}, "at least 20"),
        ({"source": "blobs", "samples": 10**8, "features": 1000}, "in memory"),
        ({"source": "blobs", "separation": -1}, "a number from"),
        ({"source": "blobs", "separation": float("nan")}, "a number from"),
        ({"source": "blobs", "samples": True}, "whole number"),
    ],
)
def test_every_mistake_has_its_message(spec, message):
    with pytest.raises(StudyError, match=message):
        open_source(spec)
