"""From documents to a token source: what a corpus is made of, its digest, its cached tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isoloss.data import contamination
from isoloss.data.cache import Writer, cache_folder, fetch
from isoloss.data.size import token_limit
from isoloss.data.source import TokenSource
from isoloss.data.tokenizer import open_tokenizer
from isoloss.recipe.canonical import digest as canonical_digest
from isoloss.recipe.errors import StudyError

SPLIT_VERSION = "v1"
SEMANTICS = 1
"""Raised by hand when the same files and options give other tokens."""


@dataclass(frozen=True)
class Document:
    """One text: ``chunks()`` yields its bytes from the start, as often as it is called."""

    name: str
    chunks: Callable[[], Iterator[bytes]]


@dataclass
class Split:
    """Documents of both sides in their final order, and facts about how they were chosen.

    ``separable``: validation documents are whole texts, so that one that repeats training can be dropped.
    """

    training: list[Document]
    validation: list[Document]
    facts: dict[str, Any] = field(default_factory=dict)
    separable: bool = True


@dataclass(frozen=True)
class Corpus:
    """A corpus before tokenising.

    ``inputs``: (stable name, SHA-256) of every file it is made from; with ``options`` (what else decides the
    content) they are its fingerprint. ``split`` is called only where no cached tokens exist, and
    ``check`` after it, to raise where a file changed meanwhile.
    """

    name: str
    inputs: Sequence[tuple[str, str]]
    options: Mapping[str, Any]
    split: Callable[[], Split]
    code: bool = False
    check: Callable[[], None] | None = None


def in_validation(group: str, share: float = 0.1) -> bool:
    """Whether the hash of ``group`` falls into the first ``share`` of its range, whoever else is there."""
    return int(hashlib.sha256(f"{SPLIT_VERSION}:{group}".encode()).hexdigest()[:8], 16) < share * 2**32


def open_corpus(corpus: Corpus, spec: Mapping[str, Any], cache: Path | None) -> TokenSource:
    """Tokenise ``corpus`` once, and open it as a source with the size and context of ``spec``.

    Raises ``StudyError`` for an empty corpus, for text the tokenizer cannot read, and for a size or context
    that the data do not allow.
    """
    if not corpus.inputs:
        raise StudyError(f"data.source: {corpus.name} has no files (empty corpus)")
    tokenizer = open_tokenizer(spec.get("tokenizer"))
    content = canonical_digest(sorted(list(pair) for pair in corpus.inputs))
    identity = {
        "source": corpus.name,
        "semantics": SEMANTICS,
        "content": content,
        "split": SPLIT_VERSION,
        "tokenizer": tokenizer.identity,
        "options": dict(corpus.options),
    }

    def build(writer: Writer) -> dict[str, Any]:
        split = _without_repeats(corpus, corpus.split())
        sizes = {}
        lengths: list[int] = []
        for part, documents in (("train", split.training), ("held_out", split.validation)):
            size = 0
            for document in documents:
                before = writer.count(part)
                counted = _Counted(document.chunks())
                for tokens in tokenizer.encode(document.name, counted):
                    writer.append(part, tokens)
                size += counted.size
                if part == "held_out":
                    lengths.append(writer.count(part) - before)
            sizes[part] = size
        if corpus.check:
            corpus.check()
        return {"documents": lengths, "bytes": sizes, "facts": split.facts}

    entry = fetch(cache_folder(cache), canonical_digest(identity), tokenizer.dtype, build)
    sizes = entry.meta["bytes"]
    held_out = len(entry.held_out)
    bytes_per_token = sizes["held_out"] / held_out if held_out else 1.0
    context = spec.get("context")
    return TokenSource(
        name=corpus.name,
        train=entry.train,
        held_out=entry.held_out,
        documents=entry.meta["documents"],
        vocabulary=tokenizer.vocabulary,
        identity=identity,
        facts={
            "content_digest": content,
            "tokenizer": tokenizer.identity,
            "files": len(corpus.inputs),
            "bytes": {"training": sizes["train"], "validation": sizes["held_out"]},
            "validation_share_of_bytes": sizes["held_out"] / max(1, sizes["train"] + sizes["held_out"]),
            **entry.meta["facts"],
        },
        bytes_per_token=bytes_per_token,
        limit=token_limit(spec.get("size"), len(entry.train), context=context, bytes_per_token=bytes_per_token),
        context=context,
    )


def _without_repeats(corpus: Corpus, split: Split) -> Split:
    """Measure shared windows, and drop the validation documents that repeat training."""
    overlaps = contamination.measure(_texts(split.training), _texts(split.validation), code=corpus.code)
    kept = list(zip(split.validation, overlaps, strict=True))
    dropped: list[str] = []
    if split.separable:
        dropped = [document.name for document, overlap in kept if overlap.share > contamination.LIMIT]
        kept = [pair for pair in kept if pair[1].share <= contamination.LIMIT]
        if dropped and not kept:
            raise StudyError(
                f"data.source: every validation file of {corpus.name} repeats training (over 10 % of its "
                f"8-line windows, first {dropped[0]}); remove the copies, or use split: tail"
            )
    before, after = contamination.total(overlaps), contamination.total([overlap for _, overlap in kept])
    facts = {
        **split.facts,
        "shared_8_line_windows": {
            "windows": after.windows,
            "shared": after.shared,
            "share": after.share,
            "share_before_dropping": before.share,
        },
        "dropped_from_validation": dropped,
    }
    return Split(split.training, [document for document, _ in kept], facts, split.separable)


def _texts(documents: Iterable[Document]) -> Iterator[Iterator[bytes]]:
    return (document.chunks() for document in documents)


class _Counted:
    """Passes chunks on and counts their bytes."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self.size = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.size += len(chunk)
            yield chunk
