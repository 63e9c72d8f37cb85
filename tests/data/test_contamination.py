"""Shared windows of lines, against sets of tuples of lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoloss.data.contamination import WINDOW, Overlap, measure, total

LINES = st.lists(st.sampled_from([b"a", b"b", b"  a ", b"", b"# c", b" # d"]), max_size=40)
DOCUMENTS = st.lists(LINES, max_size=4)


def windows(text: bytes, code: bool) -> list[tuple[bytes, ...]]:
    """The definition, literally."""
    lines = [line.strip() for line in text.split(b"\n")]
    lines = [line for line in lines if line and not (code and line[:1] == b"#")]
    return [tuple(lines[i : i + WINDOW]) for i in range(len(lines) - WINDOW + 1)]


@given(DOCUMENTS, DOCUMENTS, st.booleans(), st.integers(1, 9))
def test_equals_sets_of_windows(training, validation, code, chunk):
    training, validation = ([b"\n".join(lines) for lines in side] for side in (training, validation))
    known = {window for text in training for window in windows(text, code)}
    expected = [
        Overlap(len(windows(text, code)), sum(window in known for window in windows(text, code))) for text in validation
    ]

    def cut(texts):
        return ((text[i : i + chunk] for i in range(0, len(text), chunk)) for text in texts)

    assert measure(cut(training), cut(validation), code=code) == expected


def test_a_copy_is_seen_and_a_short_text_has_no_windows():
    text = b"\n".join(b"line %d" % i for i in range(20))
    found = measure([[text]], [[text], [b"line 1\nline 2"], [b"x" + text[:-1] + b"y"]], code=False)
    assert found[0] == Overlap(13, 13)
    assert found[1] == Overlap(0, 0)
    assert found[1].share == 0.0
    assert found[2] == Overlap(13, 11)
    assert total(found) == Overlap(26, 24)


def test_text_without_line_ends_does_not_pile_up():
    chunks = [b"x" * (1 << 20)] * 40
    found = measure([chunks], [chunks], code=False)
    assert found[0].share == pytest.approx(1.0)
