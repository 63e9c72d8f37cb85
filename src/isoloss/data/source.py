"""What a data source offers to the training loop, and the two built-in forms: token streams and vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from isoloss.data.permutation import permute, sample_order
from isoloss.recipe.canonical import digest as canonical_digest
from isoloss.recipe.errors import StudyError

Batch = np.ndarray | tuple[np.ndarray, np.ndarray]

PIECE = 32768
"""Longest stretch of tokens that goes to one validation part."""


@runtime_checkable
class Source(Protocol):
    """A data source: everything is a pure function of the arguments, nothing remembers a position.

    ``kind`` "tokens": batches are int64 (count, context + 1), inputs ``[:, :-1]`` and targets ``[:, 1:]``.
    ``kind`` "vectors": batches are (float32 (count, features), int64 (count,)), or (float32 (count, C, H, W), int64
    (count,)) from a source of images, which also has ``shape`` (C, H, W) and ``features`` = C H W.
    ``digest`` is over content, split, tokenizer, size and options, and part of the recipe. ``train_size`` is at the
    context of the study.
    """

    @property
    def digest(self) -> str:
        """64 hexadecimal characters over everything that decides its data."""
        ...

    @property
    def vocabulary(self) -> int:
        """Number of token ids, or of classes."""
        ...

    @property
    def kind(self) -> str:
        """``tokens`` or ``vectors``."""
        ...

    @property
    def train_size(self) -> int:
        """Unique training tokens (samples for vectors) of one epoch."""
        ...

    @property
    def bytes_per_token(self) -> float:
        """Bytes that a validation token stands for; NaN where that has no meaning."""
        ...

    def describe(self) -> dict[str, Any]:
        """JSON facts that are printed with every result."""
        ...

    def blocks(self, context: int) -> int:
        """Training samples of one epoch."""
        ...

    def batch(self, seed: int, start: int, count: int, context: int) -> Batch:
        """Samples [start, start + count) of the endless stream of epochs in the order of ``seed``."""
        ...

    def validation(self, part: str, tokens: int, context: int) -> Batch:
        """Fixed samples of part "A" (selection) or "B" (claims)."""
        ...


def split_parts(lengths: Sequence[int], piece: int | None = None) -> dict[str, list[tuple[int, int]]]:
    """Give the validation documents of ``lengths`` tokens to parts A and B: lists of (start, stop) in tokens.

    Documents are cut into near-equal pieces of at most ``piece`` tokens (default 32768, or a sixteenth of
    everything if that is less), and each piece, in order, goes to the part that is shorter so far: both parts
    see every region, are equal up to one piece, and touch only where a document was cut.
    """
    total = sum(lengths)
    longest = piece or max(1, min(PIECE, -(-total // 16)))
    parts: dict[str, list[tuple[int, int]]] = {"A": [], "B": []}
    held = {"A": 0, "B": 0}
    position = 0
    for length in lengths:
        count = -(-length // longest)
        edges = [position + length * k // count for k in range(count + 1)] if count else []
        for start, stop in pairwise(edges):
            part = "A" if held["A"] <= held["B"] else "B"
            if parts[part] and parts[part][-1][1] == start:
                parts[part][-1] = (parts[part][-1][0], stop)
            else:
                parts[part].append((start, stop))
            held[part] += stop - start
        position += length
    return parts


class Spans:
    """Stretches of an array read as one: ``take(positions)`` without copying the stretches together."""

    def __init__(self, array: np.ndarray, spans: Sequence[tuple[int, int]]) -> None:
        self._array = array
        bounds = np.asarray(spans, dtype=np.int64).reshape(-1, 2)
        self._ends = np.cumsum(bounds[:, 1] - bounds[:, 0])
        self._shift = bounds[:, 1] - self._ends
        self.length = int(self._ends[-1]) if len(self._ends) else 0

    def take(self, positions: np.ndarray) -> np.ndarray:
        """Values at ``positions`` (int64, any shape) of the joined stretches, as int64."""
        span = np.searchsorted(self._ends, positions, side="right")
        return self._array[positions + self._shift[span]].astype(np.int64)


@dataclass(repr=False)
class TokenSource:
    """Training and validation tokens in (memory-mapped) arrays.

    ``train``, ``held_out``: one-dimensional integer arrays; ``documents``: lengths of the held-out documents
    in tokens, in order; ``limit``: unique training tokens asked for (``size:``), or None; ``context``: of the
    study, used for ``train_size`` alone; ``identity``: what the digest is taken over.
    Block k holds tokens [kT, kT + T], so that every training token but the first is predicted once an epoch.
    """

    name: str
    train: np.ndarray
    held_out: np.ndarray
    documents: Sequence[int]
    vocabulary: int
    identity: Mapping[str, Any]
    facts: Mapping[str, Any]
    bytes_per_token: float = 1.0
    limit: int | None = None
    context: int | None = None
    kind: Literal["tokens"] = "tokens"
    digest: str = field(init=False)
    train_size: int = field(init=False)

    def __post_init__(self) -> None:
        # A plain view: slicing an np.memmap object costs several times as much.
        self.train = np.asarray(self.train)
        self.held_out = np.asarray(self.held_out)
        if len(self.train) == 0:
            raise StudyError(f"data.source: {self.name} holds no training tokens (empty corpus)")
        if self.limit is not None and self.limit > len(self.train):
            raise StudyError(f"data.size: {self.limit} unique training tokens; {self.name} has only {len(self.train)}")
        self.digest = canonical_digest({"identity": self.identity, "limit": self.limit})
        self._spans = {part: Spans(self.held_out, spans) for part, spans in split_parts(self.documents).items()}
        unique = len(self.train) if self.limit is None else self.limit
        self.train_size = self.blocks(self.context) * self.context if self.context else unique

    def blocks(self, context: int) -> int:
        """Training samples of one epoch: whole blocks of ``context`` predictions, within ``size``.

        Raises ``StudyError`` where the data hold no such block.
        """
        available = self._available(context)
        if self.limit is None:
            return available
        if self.limit < context:
            raise StudyError(
                f"data.size: {self.limit} tokens do not fill one sample of context {context}; "
                f"allowed is {context} to {available * context} tokens"
            )
        return min(available, self.limit // context)

    def _available(self, context: int) -> int:
        if context < 1:
            raise StudyError(f"data.context: found {context}; allowed is a whole number from 1")
        available = (len(self.train) - 1) // context
        if available < 1:
            raise StudyError(
                f"data.context: a context of {context} is longer than the data: {self.name} has "
                f"{len(self.train)} training tokens, so at most {max(0, len(self.train) - 1)} is allowed"
            )
        return available

    def batch(self, seed: int, start: int, count: int, context: int) -> np.ndarray:
        """Samples [start, start + count) of the endless stream, int64 (count, context + 1).

        Sample i is block ``permute(seed, epoch = i // n, index = i % n)``. A limited source draws its n
        blocks as the first n of one fixed permutation of all blocks, so that a smaller size is a subset of a
        larger. A batch at an epoch's end is filled from the beginning of the next one: no sample is left out.
        """
        n = self.blocks(context)
        block = sample_order(seed, start, count, n)
        available = self._available(context)
        if n < available:
            block = permute("unique-samples", block, available)
        step = self.train.strides[0]
        view = np.lib.stride_tricks.as_strided(
            self.train, (available, context + 1), (context * step, step), writeable=False
        )
        return view[block].astype(np.int64)

    def validation(self, part: str, tokens: int, context: int) -> np.ndarray:
        """``tokens // context`` blocks, evenly spread over part "A" or "B", int64 (blocks, context + 1).

        Raises ``StudyError`` where the part is too small, or ``tokens`` below one block.
        """
        spans = self._part(part)
        wanted = tokens // context
        if wanted < 1:
            raise StudyError(
                f"evaluation.tokens: {tokens} tokens are less than one block of context {context}; "
                f"allowed is at least {context}"
            )
        n = max(0, (spans.length - 1) // context)
        if wanted > n:
            raise StudyError(
                f"evaluation.tokens: {tokens} tokens, but validation part {part} of {self.name} holds "
                f"{spans.length}; allowed is at most {n * context} at context {context}"
            )
        block = (2 * np.arange(wanted, dtype=np.int64) + 1) * n // (2 * wanted)
        return spans.take(block[:, None] * context + np.arange(context + 1, dtype=np.int64))

    def held(self, part: str) -> np.ndarray:
        """All tokens of validation part "A" or "B", in order."""
        spans = self._part(part)
        return spans.take(np.arange(spans.length, dtype=np.int64))

    def _part(self, part: str) -> Spans:
        if part not in self._spans:
            raise ValueError(f"validation part must be 'A' or 'B', found {part!r}")
        return self._spans[part]

    def describe(self) -> dict[str, Any]:
        """JSON facts: digest, sizes, split, measured contamination."""
        return {
            "source": self.name,
            "kind": self.kind,
            "digest": self.digest,
            "vocabulary": self.vocabulary,
            "bytes_per_token": None if math.isnan(self.bytes_per_token) else self.bytes_per_token,
            "training_tokens": len(self.train),
            "unique_training_tokens": self.train_size,
            "validation_tokens": {part: spans.length for part, spans in self._spans.items()},
            **self.facts,
        }


@dataclass(repr=False)
class VectorSource:
    """Labelled vectors: ``train`` and ``parts`` hold (x float32 (samples, features), y int64 (samples,))."""

    name: str
    train: tuple[np.ndarray, np.ndarray]
    parts: Mapping[str, tuple[np.ndarray, np.ndarray]]
    vocabulary: int
    identity: Mapping[str, Any]
    facts: Mapping[str, Any]
    limit: int | None = None
    bytes_per_token: float = math.nan
    kind: Literal["vectors"] = "vectors"
    digest: str = field(init=False)
    train_size: int = field(init=False)

    def __post_init__(self) -> None:
        available = len(self.train[1])
        if self.limit is not None and not 1 <= self.limit <= available:
            raise StudyError(f"data.size: found {self.limit} samples; {self.name} allows 1 to {available}")
        self.train_size = available if self.limit is None else self.limit
        self.digest = canonical_digest({"identity": self.identity, "limit": self.limit})

    @property
    def features(self) -> int:
        """Length of one vector."""
        return int(self.train[0].shape[1])

    def blocks(self, context: int = 1) -> int:
        """Training samples of one epoch; ``context`` has no meaning for vectors."""
        return self.train_size

    def batch(self, seed: int, start: int, count: int, context: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Samples [start, start + count) of the stream: x float32 (count, features), y int64 (count,)."""
        sample = sample_order(seed, start, count, self.train_size)
        if self.train_size < len(self.train[1]):
            sample = permute("unique-samples", sample, len(self.train[1]))
        return self.train[0][sample], self.train[1][sample]

    def stored(self, part: str) -> np.ndarray:
        """The unique training vectors ("train"), or those of a validation part: (samples, features)."""
        if part != "train":
            return self.parts[part][0]
        sample = np.arange(self.train_size, dtype=np.int64)
        if self.train_size < len(self.train[1]):
            sample = permute("unique-samples", sample, len(self.train[1]))
        return self.train[0][sample]

    def validation(self, part: str, tokens: int, context: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The first ``tokens`` samples of part "A" or "B"; raises ``StudyError`` where there are fewer."""
        if part not in self.parts:
            raise ValueError(f"validation part must be 'A' or 'B', found {part!r}")
        x, y = self.parts[part]
        if not 1 <= tokens <= len(y):
            raise StudyError(f"evaluation.tokens: {tokens} samples; part {part} of {self.name} allows 1 to {len(y)}")
        return x[:tokens], y[:tokens]

    def describe(self) -> dict[str, Any]:
        """JSON facts: digest, sizes, known error."""
        return {
            "source": self.name,
            "kind": self.kind,
            "digest": self.digest,
            "classes": self.vocabulary,
            "features": self.features,
            "training_samples": len(self.train[1]),
            "unique_training_samples": self.train_size,
            "validation_samples": {part: len(y) for part, (_, y) in self.parts.items()},
            **self.facts,
        }
