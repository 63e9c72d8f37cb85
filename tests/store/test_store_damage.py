"""Damaged files, deleted indexes, foreign folders: one clear message, and a rerun heals."""

from __future__ import annotations

import itertools
import json
import os
import random
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from store_pieces import key, make_piece, same_state

from isoloss.recipe.errors import StoreError
from isoloss.store import Store
from isoloss.store.backend import Disk, PosixBackend
from isoloss.store.layer import LATE
from isoloss.store.pieces import decode_manifest


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    for i in range(3):
        store.publish(make_piece(i))
    return store


def files(store: Store, pattern: str) -> list[Path]:
    return sorted(path for path in store.path.glob(pattern) if path.is_file())


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position // 8 % len(data)] ^= 1 << position % 8
    path.write_bytes(data)


def state_file(store: Store, i: int) -> Path:
    digest = store.digest(make_piece(i).end_key)
    return store.path / "blobs" / digest[:2] / f"{digest}.safetensors"


@pytest.mark.parametrize("spoil", ["flip", "truncate", "empty"])
def test_a_damaged_state_is_reported_put_aside_and_made_again(store, spoil):
    piece, path = make_piece(1), state_file(store, 1)
    if spoil == "flip":
        flip(path, 12345)
    else:
        path.write_bytes(path.read_bytes()[:100] if spoil == "truncate" else b"")
    assert any(str(path) in problem for problem in store.verify().problems) and path.exists()
    with pytest.raises(StoreError, match=r"is damaged: .*quarantine.*run again") as error:
        store.load(piece.end_key)
    assert str(path) in str(error.value) and not path.exists()
    assert (store.path / "quarantine" / path.name).exists()
    for reader in (store, Store(store.path)):
        assert not reader.has(piece.end_key) and reader.known(piece.end_key)
        assert reader.verify().clean and reader.measurement(piece.end_key, "loss/A") == 1.0
    assert store.publish(piece) is True
    assert same_state(store.load(piece.end_key).state, piece.state) and store.verify().clean


def test_a_damaged_observer_state_spares_the_state(store):
    piece = make_piece(1)
    path = next(p for p in files(store, "blobs/*/*.safetensors") if b"average" in p.read_bytes()[:400] and
                b'\\"count\\":20' in p.read_bytes()[:200])  # fmt: skip
    flip(path, 7 * 8)
    with pytest.raises(StoreError, match="is damaged"):
        store.load(piece.end_key)
    assert same_state(store.load(piece.end_key).state, piece.state)
    assert store.load(piece.end_key).sides == {} and not store.has_side(piece.end_key, "ema")
    assert store.publish(piece) is True and store.has_side(piece.end_key, "ema")
    assert store.verify().clean


@pytest.mark.parametrize("seed", range(8))
def test_any_flipped_bit_is_found_and_a_rerun_heals(store, seed):
    chance = random.Random(seed)
    store.close()
    path = chance.choice([*files(store, "blobs/*/*"), *files(store, "pieces/*/*/*")])
    flip(path, chance.randrange(8 * path.stat().st_size))
    fresh = Store(store.path)
    assert not fresh.verify().clean
    assert not fresh.verify(repair=True).clean and fresh.verify().clean
    for i in range(3):
        fresh.publish(make_piece(i))
        assert same_state(fresh.load(make_piece(i).end_key).state, make_piece(i).state)
        assert fresh.curve(make_piece(i).end_key)["update"][0] == 10 * i + 1
        assert fresh.measurement(key(f"trunk-{10 * i + 5}"), "loss/A") == 3 / (i + 1.5)
    assert fresh.verify().clean


def test_a_damaged_manifest_makes_the_piece_unknown_until_it_is_made_again(store):
    store.close()
    damage_index(store.path / "index", "delete", opened=False)
    path = files(store, "pieces/*/*/*.json")[0]
    damaged = decode_manifest(path.read_bytes(), "here").end_key
    path.write_text(path.read_text().replace("trunk", "drunk"))
    fresh = Store(store.path)
    assert not fresh.known(damaged) and len(fresh.pieces()) == 2
    assert any("checksum" in notice and str(path) in notice for notice in fresh.notices)
    assert sum(fresh.publish(make_piece(i)) for i in range(3)) == 1 and fresh.verify().clean


def test_a_writer_makes_good_what_another_process_put_aside(store):
    writer = Store(store.path)
    assert writer.publish(make_piece(1)) is False
    curve = next(row.curve for row in store.pieces() if row.end_key == make_piece(1).end_key)
    flip(store.path / "blobs" / curve[:2] / f"{curve}.parquet", 100)
    with pytest.raises(StoreError, match="is damaged"):
        store.curve(make_piece(1).end_key)
    assert writer.publish(make_piece(1)) is True
    assert len(store.curve(make_piece(1).end_key)["update"]) == 10 and store.verify().clean


@pytest.mark.parametrize("gone", [True, False])
def test_a_damaged_or_missing_curve_makes_the_piece_unknown(store, gone):
    piece = make_piece(1)
    curve = next(row.curve for row in store.pieces() if row.end_key == piece.end_key)
    path = store.path / "blobs" / curve[:2] / f"{curve}.parquet"
    path.unlink() if gone else flip(path, 100)
    if gone:
        with pytest.raises(StoreError, match="may only be late"):
            store.curve(piece.end_key)
        assert store.known(piece.end_key)
        for manifest in files(store, "pieces/*/*/*"):
            os.utime(manifest, (time.time() - 2 * LATE,) * 2)
    with pytest.raises(StoreError, match="run again"):
        store.curve(piece.end_key)
    assert not store.known(piece.end_key) and store.known(make_piece(2).end_key)
    assert store.publish(piece) is True and len(store.curve(piece.end_key)["update"]) == 10


def test_a_missing_state_is_a_problem_until_repaired(store):
    state_file(store, 1).unlink()
    assert not store.has(make_piece(1).end_key)
    assert [problem for problem in store.verify().problems if make_piece(1).end_key in problem]
    assert len(store.verify(repair=True).problems) == 1
    assert store.verify().clean and store.publish(make_piece(1)) and store.has(make_piece(1).end_key)


def damage_index(path: Path, how: str, opened: bool) -> None:
    for file in sorted(path.iterdir()):
        if opened and how != "delete" and file.suffix != ".sqlite":
            # SQLite maps the -shm file into memory: cutting it short ends any process that has it open.
            continue
        if how == "delete":
            file.unlink()
        elif how == "garbage":
            file.write_bytes(b"no database " * 1000)
        elif how == "empty":
            file.write_bytes(b"")
        elif file.suffix == ".sqlite":
            data = bytearray(file.read_bytes())
            for start in range(4096, len(data), 512):
                data[start : start + 300] = bytes(300)
            file.write_bytes(data)


@pytest.mark.parametrize("how", ["delete", "garbage", "empty", "zeroed pages"])
@pytest.mark.parametrize("opened", [False, True])
def test_the_index_may_be_lost_at_any_time(store, how, opened, monkeypatch):
    monkeypatch.setattr("isoloss.store.index._PATIENCE", 0.5)
    if not opened:
        store.close()
    damage_index(store.path / "index", how, opened)
    for there, reader in ((3, store), (4, Store(store.path))):
        for i in range(3):
            assert reader.has(make_piece(i).end_key)
            assert reader.measurement(key(f"trunk-{10 * i + 5}"), "loss/A") == 3 / (i + 1.5)
        assert len(reader.measurements([key(f"trunk-{5 * i}") for i in range(20)])) == 2 * there
        assert len(reader.pieces()) == there and reader.verify().clean
        reader.publish(make_piece(3))
        assert reader.has(make_piece(3).end_key)


def spoil_index(store, change: str) -> Store:
    store.close()
    with sqlite3.connect(store.top.index.generations()[-1]) as db:
        db.execute(change)
    db.close()
    return Store(store.path)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE measurements SET value='0x1.0p+3' WHERE name='loss/A' AND at=15",
        "UPDATE pieces SET digest=replace(digest, 'a', 'b')",
        "UPDATE pieces SET curve=replace(curve, 'a', 'b')",
        "UPDATE sides SET digest=replace(digest, 'a', 'b')",
    ],
)
def test_an_index_with_other_values_is_not_believed(store, change):
    """As after a flipped bit, which SQLite does not notice; `gc` deletes what the index does not name."""
    truth = bits_of(store)
    fresh = spoil_index(store, change)
    assert fresh.measurement(key("trunk-15"), "loss/A") == 1.2
    fresh.gc(grace=0)
    assert bits_of(fresh) == truth and fresh.verify().clean
    assert fresh.top.index.generations()[-1].stem.endswith("-000002")


def bits_of(store: Store) -> dict:
    """Everything that a store can tell of its pieces."""
    keys = [row.end_key for row in store.pieces()]
    sides = {key: store.top.sides(key) for key in keys}
    return {"pieces": store.pieces(), "held": store.stored(keys), "measured": store.measurements(keys), "sides": sides}


def test_an_index_that_lacks_rows_is_found_by_verify(store):
    fresh = spoil_index(store, "DELETE FROM measurements WHERE name='loss/A' AND at=15")
    assert ["index" in problem for problem in fresh.verify().problems] == [True]
    assert fresh.verify().clean and fresh.measurement(key("trunk-15"), "loss/A") == 1.2


def test_without_a_place_for_an_index_it_lives_in_memory(store):
    store.close()
    for file in (store.path / "index").iterdir():
        file.unlink()
    (store.path / "index").rmdir()
    (store.path / "index").write_text("in the way")
    fresh = Store(store.path)
    assert fresh.has(make_piece(0).end_key) and fresh.publish(make_piece(3)) and fresh.top.index.in_memory
    assert fresh.verify().clean and len(Store(store.path).pieces()) == 4


def test_an_index_that_cannot_grow_gives_way_to_memory(store):
    pages = store.top.index._database.execute("PRAGMA page_count").fetchone()[0]
    store.top.index._database.execute(f"PRAGMA max_page_count={pages}")
    for i in range(3, 60):
        assert store.publish(make_piece(i))
    assert store.top.index.in_memory and len(store.pieces()) == 60
    assert store.measurement(key("trunk-595"), "loss/A") == 3 / 60.5 and store.verify().clean
    assert len(Store(store.path).pieces()) == 60


@pytest.mark.multiprocess
def test_a_forked_child_opens_its_own_index(store):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            found = store.has(make_piece(0).end_key) and store.measurement(key("trunk-15"), "loss/A") == 1.2
            status = 0 if found else 1
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert store.publish(make_piece(3)) and store.verify().clean


def test_a_store_of_a_newer_version_is_refused(store):
    (store.path / "format.json").write_text('{"isoloss_store":2}')
    with pytest.raises(StoreError, match=r"newer version of isoloss \(store format 2"):
        Store(store.path)


def test_a_manifest_of_a_newer_version_is_refused_and_left_alone(store):
    store.close()
    damage_index(store.path / "index", "delete", opened=False)
    path = files(store, "pieces/*/*/*.json")[0]
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"manifest": 2}))
    for use in (Store.refresh, Store.gc, Store.verify, lambda s: s.measurements([key(1)])):
        with pytest.raises(StoreError, match="newer version of isoloss"):
            use(Store(store.path))
    assert path.exists() and len(files(store, "blobs/*/*")) == 12


@pytest.mark.parametrize("text", ["", "[]", '{"other":1}', '{"isoloss_store":"x"}'])
def test_a_strange_format_file_is_no_store(tmp_path, text):
    (tmp_path / "format.json").write_text(text)
    with pytest.raises(StoreError, match="does not describe an isoloss store"):
        Store(tmp_path)


def test_a_folder_of_other_things_is_no_store(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(StoreError, match=r"holds other things \(thesis.tex\)"):
        Store(tmp_path)
    with pytest.raises(StoreError, match="no isoloss store at"):
        Store(tmp_path / "new", create=False)
    assert not (tmp_path / "new").exists()
    with pytest.raises(StoreError, match=r"thesis\.tex"):
        Store(tmp_path / "thesis.tex")


class ReadOnlyDisk(Disk):
    def create(self, path: Path) -> int:
        raise PermissionError(13, "Permission denied")

    def rename(self, source: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")


def test_a_store_that_cannot_be_written_can_still_be_read(store):
    flip(state_file(store, 1), 12345)
    reader = Store(store.path, backend=lambda root: PosixBackend(root, ReadOnlyDisk()))
    assert same_state(reader.load(make_piece(0).end_key).state, make_piece(0).state)
    with pytest.raises(StoreError, match="cannot be written"):
        reader.publish(make_piece(5))
    with pytest.raises(StoreError, match="is damaged"):
        reader.load(make_piece(1).end_key)
    assert not reader.has(make_piece(1).end_key)


def test_threads_share_a_store(store):
    errors = []

    def work(path: str) -> None:
        try:
            for i in range(5):
                store.publish(make_piece(i, path))
                assert store.measurement(make_piece(i, path).end_key, "loss/A") == 3 / (i + 2)
                assert same_state(store.load(make_piece(i, path).end_key).state, make_piece(i).state)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(path,)) for path in ("trunk", "a", "b", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len(store.pieces()) == 15 and store.verify().clean


def test_unfinished_files_are_invisible(store):
    for folder in ("blobs/00", f"pieces/{key('x')[:2]}/{key('x')}", "pieces/zz", "released", "."):
        (store.path / folder).mkdir(parents=True, exist_ok=True)
        (store.path / folder / ".tmp-99-abc").write_bytes(b"half")
    fresh = Store(store.path)
    assert len(fresh.pieces()) == 3 and fresh.verify().clean
    assert fresh.verify().counts["unfinished files"] == 5
    assert list(itertools.chain(fresh.stored([key("x")]))) == []
