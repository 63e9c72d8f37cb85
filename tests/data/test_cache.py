"""The cache: whole entries or none, whoever writes, whatever breaks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from isoloss.data.cache import cache_folder, fetch
from isoloss.recipe.errors import StudyError

BYTES = np.dtype(np.uint8)


def build(writer):
    writer.append("train", np.arange(100) % 256)
    writer.append("train", np.arange(50))
    writer.append("held_out", np.arange(7))
    return {"note": "facts"}


def never(writer):
    raise AssertionError("built a second time")


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "data").iterdir())


def test_an_entry_is_built_once_and_mapped(tmp_path):
    first = fetch(tmp_path, "k" * 64, BYTES, build)
    again = fetch(tmp_path, "k" * 64, BYTES, never)
    for entry in (first, again):
        assert entry.train.tolist() == [*range(100), *range(50)]
        assert entry.held_out.tolist() == list(range(7))
        assert entry.meta == {"note": "facts"}
        assert isinstance(entry.train, np.memmap)
        assert not entry.train.flags.writeable
    assert entries(tmp_path) == ["k" * 64]


@pytest.mark.parametrize(
    "damage",
    [
        lambda place: (place / "meta.json").write_text("{"),
        lambda place: (place / "meta.json").write_text('{"schema": 99}'),
        lambda place: (place / "meta.json").unlink(),
        lambda place: (place / "train.bin").write_bytes(b"short"),
        lambda place: (place / "train.bin").write_bytes(bytes(150)),
        lambda place: (place / "held_out.bin").unlink(),
    ],
)
def test_a_damaged_entry_is_built_again(tmp_path, damage):
    fetch(tmp_path, "k" * 64, BYTES, build)
    damage(tmp_path / "data" / ("k" * 64))
    assert fetch(tmp_path, "k" * 64, BYTES, build).train.tolist() == [*range(100), *range(50)]
    assert entries(tmp_path) == ["k" * 64]


def test_a_failed_build_leaves_nothing(tmp_path):
    def fails(writer):
        writer.append("train", np.arange(9))
        raise StudyError("unreadable")

    with pytest.raises(StudyError, match="unreadable"):
        fetch(tmp_path, "k" * 64, BYTES, fails)
    assert entries(tmp_path) == []


def _fetch_in_process(folder, barrier, results):
    def slow(writer):
        barrier.wait()
        return build(writer)

    results.put(fetch(folder, "k" * 64, BYTES, slow).train.tolist())


@pytest.mark.multiprocess
def test_two_writers_at_once_agree(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()
    workers = [context.Process(target=_fetch_in_process, args=(tmp_path, barrier, results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=30) for _ in workers] == [[*range(100), *range(50)]] * 3
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert entries(tmp_path) == ["k" * 64]


WRITER = """
    import signal, sys, time
    from pathlib import Path
    import numpy as np
    from isoloss.data.cache import fetch
    from isoloss.recipe.errors import StudyError

    def build(writer):
        writer.append("train", np.zeros(1 << 20))
        print("begun", flush=True)
        time.sleep(float(sys.argv[2]))
        writer.append("train", np.zeros(1 << 20))
        return {}

    try:
        fetch(Path(sys.argv[1]), "k" * 64, np.dtype(np.uint8), build)
    except StudyError as error:
        print(error)
"""


@pytest.mark.multiprocess
def test_a_killed_writer_leaves_no_entry(tmp_path):
    script = [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path), "60"]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "begun\n"
        writer.send_signal(signal.SIGKILL)
    assert all(name.endswith(".tmp") for name in entries(tmp_path))
    fetch(tmp_path, "k" * 64, BYTES, build)
    left = [name for name in entries(tmp_path) if name.endswith(".tmp")]
    assert len(left) == 1
    old = time.time() - 2 * 24 * 3600
    os.utime(tmp_path / "data" / left[0], (old, old))
    fetch(tmp_path, "l" * 64, BYTES, build)
    assert entries(tmp_path) == ["k" * 64, "l" * 64]


@pytest.mark.multiprocess
@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_no_room_is_one_message_and_leaves_nothing(tmp_path):
    limited = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))\n"
    )
    script = [sys.executable, "-c", limited + textwrap.dedent(WRITER), str(tmp_path), "0"]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    assert "cannot be written" in done.stdout
    assert "ISOLOSS_CACHE" in done.stdout
    assert done.stderr == ""
    assert entries(tmp_path) == []


def test_a_folder_that_cannot_exist(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="ISOLOSS_CACHE"):
        fetch(tmp_path / "file", "k" * 64, BYTES, build)


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("ISOLOSS_CACHE", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "isoloss"
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    assert cache_folder(tmp_path / "given") == tmp_path / "given"
