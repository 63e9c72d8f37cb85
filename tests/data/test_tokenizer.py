"""Tokenizers: bytes always, Hugging Face where its package is installed."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

from isoloss.data import open_source
from isoloss.data.tokenizer import Bytes, open_tokenizer
from isoloss.recipe.errors import StudyError


def test_bytes_take_anything():
    content = bytes(range(256))
    assert b"".join(part.tobytes() for part in Bytes().encode("n", [content[:9], content[9:]])) == content
    assert open_tokenizer(None).identity == open_tokenizer("bytes").identity == "bytes"


@pytest.mark.parametrize("value", ["byte", 5, "tokenizer.model", ["bytes"]])
def test_other_values(value):
    with pytest.raises(StudyError, match=r"tokenizer.json"):
        open_tokenizer(value)


def test_a_missing_package_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(StudyError, match=r"isoloss\[tokenizers\]"):
        open_tokenizer(str(tmp_path / "tokenizer.json"))


installed = pytest.mark.skipif(importlib.util.find_spec("tokenizers") is None, reason="install isoloss[tokenizers]")


@pytest.fixture
def trained(tmp_path):
    """A byte-level BPE of 300 ids, trained here and stored as tokenizer.json."""
    import tokenizers

    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(["the cat sat on the mat, the end\n"] * 50, trainer)
    made.enable_truncation(5)
    made.save(str(tmp_path / "tokenizer.json"))
    return made


@installed
def test_tokens_decode_to_the_text(trained, tmp_path):
    text = "".join(f"the cat sat on mat number {i}, caf\u00e9\n" for i in range(60_000))
    (tmp_path / "t.txt").write_text(text, encoding="utf-8")
    spec = {
        "source": "text",
        "path": str(tmp_path / "t.txt"),
        "context": 16,
        "tokenizer": str(tmp_path / "tokenizer.json"),
    }
    source = open_source(spec)
    joined = np.concatenate([source.train, source.held_out]).tolist()
    assert trained.decode(joined) == text
    assert source.vocabulary == trained.get_vocab_size() > 256
    assert source.train.dtype == np.uint16
    held_out_bytes = source.describe()["bytes"]["validation"]
    assert source.bytes_per_token == held_out_bytes / len(source.held_out)
    assert source.bytes_per_token > 1.2
    assert source.digest != open_source({**spec, "tokenizer": "bytes"}).digest


@installed
def test_what_is_no_tokenizer_or_no_text(trained, tmp_path):
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(StudyError, match=r"no tokenizer.json"):
        open_tokenizer(str(tmp_path / "bad.json"))
    with pytest.raises(StudyError, match="cannot read"):
        open_tokenizer(str(tmp_path / "missing.json"))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait\n" * 20)
    with pytest.raises(StudyError, match=r"not UTF-8 text \(byte 0xe9"):
        open_source(
            {
                "source": "text",
                "path": str(tmp_path / "latin.txt"),
                "tokenizer": str(tmp_path / "tokenizer.json"),
            }
        )
