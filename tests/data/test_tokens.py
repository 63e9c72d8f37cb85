"""Memory maps of token ids."""

from __future__ import annotations

import numpy as np
import pytest

from isoloss.data import open_source
from isoloss.recipe.errors import StudyError


def opened(path, **options):
    return open_source({"source": "tokens", "path": str(path), "vocabulary": 1000, "context": 8, **options})


@pytest.fixture
def ids():
    return np.arange(5000) % 1000


def test_tail_is_held_out_and_nothing_is_copied(tmp_path, ids):
    np.save(tmp_path / "t.npy", ids.astype(np.uint16))
    source = opened(tmp_path / "t.npy")
    assert np.array_equal(source.train, ids[:4500])
    assert np.array_equal(source.held_out, ids[4500:])
    base = source.train
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    assert source.batch(0, 0, 4, 8).dtype == np.int64


def test_the_stored_type_does_not_matter(tmp_path, ids):
    digests = set()
    for dtype in ("uint16", "int32", "int64", ">u2"):
        np.save(tmp_path / "t.npy", ids.astype(dtype))
        source = opened(tmp_path / "t.npy")
        digests.add(source.digest)
        assert np.array_equal(source.batch(3, 5, 4, 8) % 1000, source.batch(3, 5, 4, 8))
    for dtype in ("uint16", "uint32"):
        ids.astype(f"<{np.dtype(dtype).str[1:]}").tofile(tmp_path / "t.bin")
        digests.add(opened(tmp_path / "t.bin", dtype=dtype).digest)
    assert len(digests) == 1
    np.save(tmp_path / "t.npy", ids[::-1])
    assert opened(tmp_path / "t.npy").digest not in digests


def test_own_validation_file(tmp_path, ids):
    np.save(tmp_path / "t.npy", ids)
    np.save(tmp_path / "v.npy", ids[:300])
    source = opened(tmp_path / "t.npy", validation=str(tmp_path / "v.npy"))
    assert len(source.train) == 5000
    assert np.array_equal(source.held_out, ids[:300])
    assert source.digest != opened(tmp_path / "t.npy").digest


@pytest.mark.parametrize(
    ("name", "array", "options", "message"),
    [
        ("t.npy", np.arange(1001), {}, "ids from 0 to 1000; with a vocabulary of 1000 allowed is 0 to 999"),
        ("t.npy", np.array([3, -1, 5]), {}, "ids from -1"),
        ("t.npy", np.zeros((4, 5), np.int64), {}, "one dimension"),
        ("t.npy", np.zeros(9), {}, "integers"),
        ("t.npy", np.array([None, 1], dtype=object), {}, "cannot read"),
        ("t.npy", np.zeros(0, np.int64), {}, "empty corpus"),
        ("t.npy", np.arange(9), {"vocabulary": None}, "whole number"),
        ("t.npy", np.arange(9), {"size": "9 tokens", "context": 4}, "1 to 8"),
        ("t.npy", np.arange(9), {"context": 64}, "longer than the data"),
        ("t.npy", np.arange(9), {"vocab": 3}, "did you mean 'vocabulary'"),
        ("t.npy", np.arange(9), {"dtype": "uint15"}, "did you mean 'uint16'"),
    ],
)
def test_every_mistake_has_its_message(tmp_path, name, array, options, message):
    np.save(tmp_path / name, array, allow_pickle=True)
    with pytest.raises(StudyError, match=message):
        opened(tmp_path / name, **options)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.bin", b"123", "no whole number of uint16"),
        ("t.bin", b"", "empty corpus"),
        ("t.npy", b"not numpy", "cannot read"),
        ("t.txt", b"text", "allowed: .npy, .bin"),
    ],
)
def test_files_that_are_no_tokens(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StudyError, match=message):
        opened(tmp_path / name)


def test_a_missing_file_names_its_neighbour(tmp_path):
    np.save(tmp_path / "train.npy", np.arange(9))
    with pytest.raises(StudyError, match=r"did you mean 'train.npy'"):
        opened(tmp_path / "trian.npy")
    with pytest.raises(StudyError, match="path of one"):
        open_source({"source": "tokens", "vocabulary": 9, "path": ["a", "b"]})
