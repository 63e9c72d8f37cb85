"""How much of the validation text is also in training: shared windows of 8 consecutive lines.

A line counts without the white space at its ends; blank lines are left out, and for program code the lines
that hold only a comment (licence headers repeat and say nothing about the split).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

WINDOW = 8
LIMIT = 0.1
"""A validation document with a larger share of its windows in training is dropped."""

# A longer line is taken in pieces: text without line ends must not pile up.
_LONGEST_LINE = 1 << 22
_FACTOR = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Overlap:
    """Windows of one validation document, and those of them that also occur in training."""

    windows: int
    shared: int

    @property
    def share(self) -> float:
        """Part of the windows that is shared; 0 for a document shorter than one window."""
        return self.shared / self.windows if self.windows else 0.0


def measure(training: Iterable[Iterable[bytes]], validation: Iterable[Iterable[bytes]], *, code: bool) -> list[Overlap]:
    """Overlap of every validation document (chunks of bytes) with all training documents, streamed.

    Memory grows with the windows of the validation text (16 bytes each), not with the training text.
    """
    per_document = [np.concatenate([np.empty(0, np.uint64), *_windows(chunks, code)]) for chunks in validation]
    wanted = np.unique(np.concatenate([np.empty(0, np.uint64), *per_document]))
    found = np.zeros(len(wanted), dtype=bool)
    for chunks in training:
        for windows in _windows(chunks, code):
            if not len(wanted):
                break
            place = np.minimum(np.searchsorted(wanted, windows), len(wanted) - 1)
            found[place[wanted[place] == windows]] = True
    return [Overlap(len(windows), int(found[np.searchsorted(wanted, windows)].sum())) for windows in per_document]


def total(overlaps: Sequence[Overlap]) -> Overlap:
    """Sum over documents."""
    return Overlap(sum(o.windows for o in overlaps), sum(o.shared for o in overlaps))


def _windows(chunks: Iterable[bytes], code: bool) -> Iterator[np.ndarray]:
    kept = np.empty(0, np.uint64)
    for lines in _whole_lines(chunks):
        stripped = (line.strip() for line in lines)
        hashes = np.fromiter(
            (hash(line) for line in stripped if line and not (code and line.startswith(b"#"))), dtype=np.int64
        ).view(np.uint64)
        hashes = np.concatenate([kept, hashes])
        if len(hashes) >= WINDOW:
            count = len(hashes) - WINDOW + 1
            window = np.zeros(count, np.uint64)
            for j in range(WINDOW):
                window = window * np.uint64(_FACTOR) + hashes[j : j + count]
            yield window
            hashes = hashes[count:]
        kept = hashes


def _whole_lines(chunks: Iterable[bytes]) -> Iterator[list[bytes]]:
    rest = b""
    for chunk in chunks:
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        if len(rest) > _LONGEST_LINE:
            lines.append(rest)
            rest = b""
        yield lines
    yield [rest]
