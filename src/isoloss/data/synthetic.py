"""Sources with a known answer: a Markov chain with its entropy rate, Gaussian classes with their Bayes error.

The chain of order k over V symbols has integer transition weights c(s, x) >= 1 with sum 4096 in every context
s, made from the seed with integer arithmetic alone, so that every machine draws the same tokens. With pi the
stationary distribution of the contexts, the entropy rate is

    H = - sum_s pi(s) sum_x P(x | s) ln P(x | s),     P(x | s) = c(s, x) / 4096     (nats per token).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isoloss.data.cache import Writer, cache_folder, fetch
from isoloss.data.options import integer, number, refuse_unknown
from isoloss.data.size import sample_limit, token_limit
from isoloss.data.source import TokenSource, VectorSource
from isoloss.recipe.canonical import digest as canonical_digest
from isoloss.recipe.errors import StudyError

RESOLUTION = 4096
HELD_OUT_TOKENS = 1 << 18
HELD_OUT_SAMPLES = 8192
_LARGEST_TABLE = 1 << 20
_LARGEST_DRAW = 1 << 28
_SKIPPED = 1000
_STREAMED = 1 << 17


def uniform_bits(key: str, count: int, bits: int) -> np.ndarray:
    """``count`` independent uniform integers of ``bits`` <= 32 bits, int64, from SHAKE-256 of the key."""
    raw = hashlib.shake_256(f"isoloss.synthetic.1:{key}".encode()).digest(4 * count)
    return (np.frombuffer(raw, dtype="<u4") >> np.uint32(32 - bits)).astype(np.int64)


@dataclass(frozen=True)
class MarkovChain:
    """Chain of ``order`` k over ``vocabulary`` V symbols; ``weights``: int64 (V**k, V), rows sum to 4096.

    The context of row s is the base-V number of the last k symbols, the newest in the lowest digit.
    """

    order: int
    vocabulary: int
    weights: np.ndarray

    @classmethod
    def draw(cls, order: int, vocabulary: int, seed: int) -> MarkovChain:
        """Chain of ``seed``: cubes of uniform numbers, so that few symbols are likely in a context."""
        contexts = vocabulary**order
        key = f"chain:{order}:{vocabulary}:{seed}"
        drawn = (uniform_bits(key, contexts * vocabulary, 12) + 1).reshape(contexts, vocabulary) ** 3
        weights = 1 + drawn * (RESOLUTION - vocabulary) // drawn.sum(axis=1, keepdims=True)
        rest = RESOLUTION - weights.sum(axis=1)
        weights[np.arange(contexts), drawn.argmax(axis=1)] += rest
        return cls(order, vocabulary, weights)

    @property
    def probabilities(self) -> np.ndarray:
        """P(x | s), float64 (V**k, V)."""
        return self.weights / RESOLUTION

    def stationary(self) -> np.ndarray:
        """Stationary distribution of the contexts, float64 (V**k,), to 1e-15 by repeated steps."""
        probabilities = self.probabilities
        contexts, v = probabilities.shape
        pi = np.full(contexts, 1.0 / contexts)
        for _ in range(100_000):
            step = (pi[:, None] * probabilities).reshape(-1, contexts // v if self.order else 1, v).sum(axis=0)
            new = step.reshape(-1) if self.order else pi
            new = new / new.sum()
            if np.abs(new - pi).sum() < 1e-15 * contexts:
                return new
            pi = new
        raise ArithmeticError("the stationary distribution did not converge")

    def entropies(self) -> list[float]:
        """Entropy of the next symbol given the last j = 0 .. k symbols, nats; the last is the rate."""
        joint = self.stationary()[:, None] * self.probabilities
        return [self._entropy_given(joint, j) for j in range(self.order + 1)]

    def excess_loss(self, tokens: int) -> float:
        """Nats above the entropy of maximum likelihood from ``tokens`` symbols: V**k (V - 1) / (2 tokens).

        The leading term, good once every transition has been seen often. Source: the mean of the likelihood
        ratio, half a chi-squared with V**k (V - 1) degrees of freedom (Wilks 1938).
        """
        return self.vocabulary**self.order * (self.vocabulary - 1) / (2 * tokens)

    def _entropy_given(self, joint: np.ndarray, j: int) -> float:
        # The newest j symbols are the lowest digits of the context.
        pair = joint.reshape(-1, self.vocabulary**j, self.vocabulary).sum(axis=0)
        marginal = pair.sum(axis=1, keepdims=True)
        return float(-(pair * np.log(pair / marginal)).sum())

    def sample(self, count: int, key: str) -> np.ndarray:
        """``count`` symbols, uint16 (count,); the first 1000 after the start in context 0 are left out."""
        return np.concatenate(list(self.stream(count, key)))

    def stream(self, count: int, key: str) -> Iterator[np.ndarray]:
        """The same symbols in pieces."""
        contexts, v = self.weights.shape
        table = np.repeat(np.tile(np.arange(v), contexts), self.weights.reshape(-1)).tolist()
        context = 0
        for start in range(-_SKIPPED, count, _STREAMED):
            length = min(_STREAMED, count - start)
            out = []
            for draw in uniform_bits(f"{key}:{start + _SKIPPED}", length, 12).tolist():
                symbol = table[context * RESOLUTION + draw]
                context = (context * v + symbol) % contexts
                out.append(symbol)
            yield np.asarray(out[max(0, -start) :], dtype=np.uint16)


@dataclass(repr=False)
class MarkovSource(TokenSource):
    """Token source with the right answer: ``entropy`` in nats per token."""

    chain: MarkovChain | None = None

    @property
    def entropy(self) -> float:
        """Entropy rate: no predictor, however much it sees, does better on average."""
        return self._known().entropies()[-1]

    def attainable_loss(self, context: int) -> float:
        """Least expected mean loss over a block of ``context`` predictions (the first see little), nats."""
        known = self._known().entropies()
        return sum(known[min(position + 1, len(known) - 1)] for position in range(context)) / context

    def excess_loss(self, tokens: int) -> float:
        """What an order-k model estimated from ``tokens`` symbols loses above the entropy; see the chain."""
        return self._known().excess_loss(tokens)

    def _known(self) -> MarkovChain:
        if self.chain is None:
            raise ValueError("this source was made without its chain")
        return self.chain


def open_synthetic(spec: Mapping[str, Any], cache: Path | None = None) -> MarkovSource:
    """``synthetic``: options order (1), vocabulary (16), pad_to (the vocabulary), tokens (1000000), seed (0).

    ``pad_to``: size of the vocabulary that models see; ids from ``vocabulary`` on never occur.
    """
    refuse_unknown("synthetic", spec, ("order", "vocabulary", "pad_to", "tokens", "seed"))
    order = integer(spec, "order", 1, 0, 8)
    vocabulary = integer(spec, "vocabulary", 16, 2, 1024)
    tokens = integer(spec, "tokens", 1_000_000, 2, 10**9)
    seed = integer(spec, "seed", 0, -(2**63), 2**63 - 1)
    padded = integer(spec, "pad_to", vocabulary, 2, 10**7)
    if padded < vocabulary:
        raise StudyError(f"data.pad_to: found {padded}; allowed: at least the vocabulary of {vocabulary}")
    if vocabulary ** (order + 1) > _LARGEST_TABLE:
        raise StudyError(
            f"data.order: {order} with data.vocabulary {vocabulary} needs {vocabulary}**{order + 1} "
            f"probabilities; at most {_LARGEST_TABLE} are allowed"
        )
    chain = MarkovChain.draw(order, vocabulary, seed)
    options = {"order": order, "vocabulary": vocabulary, "tokens": tokens, "seed": seed}
    identity = {"source": "synthetic", "semantics": 1, "options": options}

    def build(writer: Writer) -> dict[str, Any]:
        for part, count in (("train", tokens), ("held_out", HELD_OUT_TOKENS)):
            for piece in chain.stream(count, f"{part}:{seed}"):
                writer.append(part, piece)
        return {}

    entry = fetch(cache_folder(cache), canonical_digest(identity), np.dtype(np.uint16), build)
    return MarkovSource(
        name="synthetic",
        train=entry.train,
        held_out=entry.held_out,
        documents=[len(entry.held_out)],
        vocabulary=padded,
        identity=identity,
        facts={"entropy_nats_per_token": chain.entropies()[-1], **options},
        bytes_per_token=math.nan,
        limit=token_limit(spec.get("size"), len(entry.train), context=spec.get("context")),
        context=spec.get("context"),
        chain=chain,
    )


def bayes_error(classes: int, separation: float) -> float:
    """Least error for equally likely unit Gaussians whose centres all lie ``separation`` apart.

    1 - E[Phi(Z + separation / sqrt(2)) ** (classes - 1)], Z standard normal: the symbol error of orthogonal
    signals (Proakis, Digital Communications, section on orthogonal signalling), by the trapezoid rule.
    """
    z = np.linspace(-12.0, 12.0, 4001)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    phi = np.array([0.5 * math.erfc(-(value + separation / math.sqrt(2)) / math.sqrt(2)) for value in z])
    # 1 - phi**(classes - 1), stable where phi is near one.
    wrong = density * -np.expm1((classes - 1) * np.log(np.maximum(phi, 1e-300)))
    return float(wrong.sum() * (z[1] - z[0]))


def open_blobs(spec: Mapping[str, Any], cache: Path | None = None) -> VectorSource:
    """``blobs``: unit Gaussians at orthogonal centres, all ``separation`` apart, classes of equal size.

    Options: classes (4), features (16, at least classes), samples (10000), separation (2.0), seed (0).
    """
    refuse_unknown("blobs", spec, ("classes", "features", "samples", "separation", "seed"))
    classes = integer(spec, "classes", 4, 2, 1024)
    features = integer(spec, "features", max(16, classes), 1, 65536)
    samples = integer(spec, "samples", 10_000, 1, 10**8)
    separation = number(spec, "separation", 2.0, 0.0, 100.0)
    seed = integer(spec, "seed", 0, 0, 2**63 - 1)
    if features < classes:
        raise StudyError(f"data.features: found {features}; {classes} equally distant centres need at least {classes}")
    if samples * features > _LARGEST_DRAW:
        raise StudyError(
            f"data.samples: {samples} of {features} features are {samples * features} numbers in memory; "
            f"at most {_LARGEST_DRAW} are allowed"
        )
    parts = {
        part: _draw_blobs(count, classes, features, separation, (seed, stream))
        for stream, (part, count) in enumerate((("train", samples), ("A", HELD_OUT_SAMPLES), ("B", HELD_OUT_SAMPLES)))
    }
    content = hashlib.sha256()
    for x, y in parts.values():
        content.update(np.ascontiguousarray(x, dtype="<f4").data)
        content.update(np.ascontiguousarray(y, dtype="<i8").data)
    options = {
        "classes": classes,
        "features": features,
        "samples": samples,
        "separation": separation,
        "seed": seed,
    }
    return VectorSource(
        name="blobs",
        train=parts.pop("train"),
        parts=parts,
        vocabulary=classes,
        identity={"source": "blobs", "content": content.hexdigest(), "options": options},
        facts={"bayes_error": bayes_error(classes, separation), "separation": separation, "seed": seed},
        limit=sample_limit(spec.get("size"), samples),
    )


def _draw_blobs(
    count: int, classes: int, features: int, separation: float, seed: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    y = np.arange(count, dtype=np.int64) % classes
    x = np.random.default_rng(seed).standard_normal((count, features), dtype=np.float32)
    x[np.arange(count), y] += np.float32(separation / math.sqrt(2))
    return x, y
