"""Text files by path: which are found, how they are split, and every way they can be wrong."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isoloss.data import files, open_source
from isoloss.recipe.errors import StudyError


@pytest.fixture
def many(tmp_path):
    """Eighty files in two folders; each line is in one file only."""
    folder = tmp_path / "corpus"
    for i in range(80):
        place = folder / ("even" if i % 2 == 0 else "odd")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"text{i}.txt").write_text("".join(f"file {i} line {j}\n" for j in range(30)))
    (folder / ".hidden").write_text("hidden")
    return folder


def opened(path, **options):
    return open_source({"source": "text", "path": path, "context": 8, **options})


def contents(source) -> tuple[bytes, bytes]:
    return source.train.tobytes(), source.held_out.tobytes()


def test_whole_files_are_held_out_by_the_hash_of_their_name(many):
    source = opened(str(many))
    sides = {True: [], False: []}
    for path in sorted(many.rglob("*.txt"), key=lambda p: p.relative_to(many).as_posix()):
        name = path.relative_to(many).as_posix()
        number = int(hashlib.sha256(f"v1:{name}".encode()).hexdigest()[:8], 16)
        sides[number < 0.1 * 2**32].append(path.read_bytes())
    assert contents(source) == (b"".join(sides[False]), b"".join(sides[True]))
    assert source.describe()["shared_8_line_windows"]["share"] == 0
    assert source.describe()["files"] == 80


def test_one_file_keeps_its_tail_for_validation(tmp_path):
    text = "".join(f"line {i}\n" for i in range(1000)).encode()
    (tmp_path / "one.txt").write_bytes(text)
    train, held_out = contents(opened(str(tmp_path / "one.txt")))
    assert train + held_out == text
    assert train.endswith(b"\n")
    assert len(held_out) == pytest.approx(0.1 * len(text), abs=20)
    assert len(contents(opened(str(tmp_path / "one.txt"), holdout=0.3))[1]) == pytest.approx(0.3 * len(text), abs=20)


def test_tail_of_every_file(many):
    source = opened(str(many), split="tail")
    held_out = contents(source)[1].decode().splitlines()
    assert len(held_out) == 80 * 2
    assert {line.split()[1] for line in held_out} == {str(i) for i in range(80)}
    assert len(source.documents) == 80


@pytest.mark.parametrize(("pack", "suffix"), [(gzip.compress, ".gz"), (bz2.compress, ".bz2"), (lzma.compress, ".xz")])
def test_compressed_files_are_the_same_corpus(many, tmp_path, pack, suffix):
    packed = tmp_path / "packed"
    for path in many.rglob("*.txt"):
        target = packed / path.relative_to(many)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.with_name(target.name + suffix).write_bytes(pack(path.read_bytes()))
    for split in ("files", "tail"):
        plain, other = opened(str(many), split=split), opened(str(packed), split=split)
        assert plain.digest == other.digest
        assert contents(plain) == contents(other)


def test_folder_glob_and_list_name_the_same_files(many):
    whole = opened(str(many), split="tail")
    assert opened(str(many / "**" / "*.txt"), split="tail").digest == whole.digest
    twice = opened([str(many), str(many / "even")], split="tail")
    assert twice.digest == whole.digest
    single = opened(str(many / "even" / "text0.txt"))
    assert single.describe()["files"] == 1


def test_digest_follows_content_and_split_not_place(many, tmp_path):
    before = opened(str(many)).digest
    moved = many.rename(tmp_path / "moved")
    assert opened(str(moved)).digest == before
    assert opened(str(moved), holdout=0.11).digest != before
    assert opened(str(moved), split="tail").digest != before
    (moved / "even" / "text0.txt").write_text("something else\n" * 40)
    assert opened(str(moved)).digest != before


def test_own_validation_files(many):
    source = opened(str(many / "even"), validation=str(many / "odd"))
    assert contents(source)[0].count(b"\n") == contents(source)[1].count(b"\n") == 40 * 30
    with pytest.raises(StudyError, match="belongs to one side"):
        opened(str(many), validation=str(many / "odd" / "text1.txt"))
    copied = many.parent / "copied"
    copied.mkdir()
    (copied / "a.txt").write_bytes((many / "even" / "text0.txt").read_bytes())
    with pytest.raises(StudyError, match="repeats training"):
        opened(str(many), validation=str(copied))
    (copied / "b.txt").write_text("new\n" * 50)
    assert opened(str(many), validation=str(copied)).describe()["dropped_from_validation"] == ["a.txt"]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(min_size=2, max_size=300), holdout=st.sampled_from([0.001, 0.1, 0.5]))
def test_no_byte_is_lost_whatever_the_content(tmp_path, content, holdout):
    (tmp_path / "any.bin").write_bytes(content)
    try:
        train, held_out = contents(opened(str(tmp_path / "any.bin"), holdout=holdout, context=1))
    except StudyError as error:
        # Two bytes of which one is held out leave nothing to predict.
        assert "longer than the data" in str(error) or "empty corpus" in str(error)
        return
    assert train + held_out == content


@given(text=st.text(min_size=40, max_size=200), holdout=st.floats(0.05, 0.5))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_cut_never_splits_a_character(tmp_path, text, holdout):
    (tmp_path / "t.txt").write_bytes(text.encode("utf-8", "replace"))
    for side in contents(opened(str(tmp_path / "t.txt"), holdout=holdout, context=1)):
        side.decode("utf-8")


def test_a_changed_large_file_is_hashed_again(tmp_path):
    path = tmp_path / "large.txt"
    line = b"0123456789abcdef\n"
    path.write_bytes(line * (9 * 2**20 // len(line)))
    past = time.time() - 100
    os.utime(path, (past, past))
    first = files.content_facts(path, tmp_path / "cache")
    assert len(list((tmp_path / "cache" / "fingerprints").iterdir())) == 1
    assert files.content_facts(path, tmp_path / "cache") == first
    assert first["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    with path.open("r+b") as file:
        file.write(b"X")
    os.utime(path, (past + 1, past + 1))
    assert files.content_facts(path, tmp_path / "cache") != first


def test_a_file_that_grows_while_it_is_read_is_refused(many, monkeypatch):
    real, reads = files.read, {"text7.txt": 0}

    def grows(path, start=0, stop=None):
        yield from real(path, start, stop)
        if path.name in reads:
            reads[path.name] += 1
            if reads[path.name] == 2:
                path.write_text("more\n" * 100)

    monkeypatch.setattr(files, "read", grows)
    with pytest.raises(StudyError, match=r"text7.txt changed while it was read"):
        opened(str(many), split="tail", holdout=0.17)
    assert opened(str(many), split="tail", holdout=0.17).train.tobytes().count(b"more") > 50


@pytest.mark.parametrize(
    ("prepare", "options", "message"),
    [
        (lambda f: f / "wikitxt", {}, "did you mean 'wikitext'"),
        (lambda f: f / "nothing" / "*.txt", {}, "no file matches"),
        (lambda f: f / "folder", {}, "holds no files"),
        (lambda f: f / "empty.txt", {}, "all files are empty"),
        (lambda f: f / "broken.gz", {}, "cannot read .*broken.gz"),
        (lambda f: f / "cut.gz", {}, "cannot read .*cut.gz"),
        (lambda f: f / "wikitext", {"context": 1000}, "at most 30"),
        (lambda f: f / "wikitext", {"size": "1 MB"}, "allowed for this source is 1 to 31"),
        (lambda f: f / "wikitext", {"split": "files"}, "leaves nothing for"),
        (lambda f: f / "wikitext", {"split": "file"}, "did you mean 'files'"),
        (lambda f: f / "wikitext", {"holdout": 0.9}, "0.001 to 0.5"),
        (lambda f: f / "wikitext", {"holdouts": 0.9}, "did you mean 'holdout'"),
        (lambda f: f / "wikitext", {"tokenizer": "byte"}, "'bytes' or the path"),
        (lambda f: f / ("x" * 400), {}, "cannot look at|no file"),
    ],
)
def test_every_mistake_has_its_message(tmp_path, prepare, options, message):
    (tmp_path / "wikitext").write_bytes(b"abcdefghij" * 3 + b"\n\n\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "broken.gz").write_bytes(b"this is not gzip")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(os.urandom(1000))[:500])
    with pytest.raises(StudyError, match=message):
        opened(str(prepare(tmp_path)), **options)


@pytest.mark.parametrize("path", [None, "", [], 5, ["a", 3], "~nobody-of-this-name/x", "a\0b"])
def test_a_path_that_is_none(path):
    with pytest.raises(StudyError, match="path"):
        opened(path)


def test_validation_that_is_too_small_says_what_it_holds(tmp_path):
    (tmp_path / "t.txt").write_bytes(b"0123456789" * 100)
    with pytest.raises(StudyError, match=r"holds 5\d; allowed is at most 48"):
        opened(str(tmp_path / "t.txt")).validation("A", 16384, 8)


def test_real_text(shared_data):
    source = opened(str(shared_data / "tinyshakespeare" / "input.txt"), context=256)
    assert sum(map(len, contents(source))) == 1_115_394
    assert source.validation("A", 16384, 256).shape == (64, 257)
    wiki = shared_data / "wikitext-2"
    pair = opened(str(wiki / "test.txt"), validation=str(wiki / "valid.txt"), context=64)
    assert contents(pair)[0] == (wiki / "test.txt").read_bytes()
    assert np.array_equal(pair.held_out, np.frombuffer((wiki / "valid.txt").read_bytes(), np.uint8))
