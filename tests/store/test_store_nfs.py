"""Several NFS clients on one store, simulated: late answers and lost replies cost work, never a wrong answer."""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

import pytest
from store_nfs import REMEMBERED, NfsDisk
from store_pieces import make_piece, same_state

from isoloss.recipe.errors import NotDeterministic, StoreError
from isoloss.store import Store, index
from isoloss.store.backend import PosixBackend
from isoloss.store.layer import LATE


class Clock:
    def __init__(self) -> None:
        self.now = 1e6

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def hosts(monkeypatch):
    # Every client is a machine of its own, with its own index.
    numbers = itertools.count()
    monkeypatch.setattr(index.platform, "node", lambda: f"host-{next(numbers)}")


def client(folder: Path, clock: Clock) -> tuple[Store, NfsDisk]:
    disk = NfsDisk(clock)
    return Store(folder, backend=lambda root: PosixBackend(root, disk)), disk


@pytest.mark.parametrize("lost", ["link", "create", "unlink"])
def test_a_lost_reply_changes_nothing(tmp_path, clock, lost):
    store, disk = client(tmp_path, clock)
    backend = store.top.backend
    backend.put_new("blobs/00/w", (b"",))
    disk.lose = {lost}
    assert backend.put_new("blobs/00/x", (b"mine",)) is True and backend.get("blobs/00/x") == b"mine"
    assert backend.put_new("blobs/00/x", (b"mine",)) is False
    other, _ = client(tmp_path, clock)
    assert other.top.backend.put_new("blobs/00/x", (b"theirs",)) is False
    assert store.publish(make_piece(0)) is True and other.publish(make_piece(0)) is False
    backend.delete("blobs/00/x")
    backend.delete("blobs/00/x")
    left = set(backend.unfinished())
    # A file made by a call that was then repeated under another name is swept with what else is unfinished.
    assert (left == set()) is (lost != "create")
    for path in left:
        os.utime(tmp_path / path, (1e9, 1e9))
    store.gc()
    assert set(backend.unfinished()) == set() and store.verify().clean


def test_a_lost_reply_to_a_rename_is_no_failure(tmp_path, clock):
    store, disk = client(tmp_path, clock)
    store.publish(make_piece(0))
    digest = store.digest(make_piece(0).end_key)
    (tmp_path / "blobs" / digest[:2] / f"{digest}.safetensors").write_bytes(b"damaged")
    disk.lose = {"rename"}
    with pytest.raises(StoreError, match="moved to quarantine"):
        store.load(make_piece(0).end_key)
    assert store.publish(make_piece(0)) and same_state(store.load(make_piece(0).end_key).state, make_piece(0).state)
    with pytest.raises(StoreError):
        store.top.backend.move("blobs/00/nothing", "quarantine/nothing")


def test_a_link_refused_by_another_writers_is_not_taken_for_a_lost_reply(tmp_path, clock):
    """The second client remembers that the name is missing, so only the link itself can tell."""
    (a, _), (b, disk) = client(tmp_path, clock), client(tmp_path, clock)
    name = "blobs/00/x"
    b.top.backend.put_new("blobs/00/y", (b"",))
    assert not b.top.backend.exists(name) and a.top.backend.put_new(name, (b"theirs",))
    assert not b.top.backend.exists(name) and disk.late == 1
    assert b.top.backend.put_new(name, (b"mine",)) is False and b.top.backend.get(name) == b"theirs"


def test_a_publisher_with_a_late_view_still_compares(tmp_path, clock):
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        (a, _), (b, disk) = client(folder, clock), client(folder, clock)
        piece = make_piece(0, seed=seed)
        assert not b.has(piece.end_key) and b.measurements([piece.end_key]) == {}
        assert a.publish(make_piece(0))
        assert not b.has(piece.end_key) and disk.late > 0
        if seed:
            with pytest.raises(NotDeterministic):
                b.publish(piece)
        else:
            assert b.publish(piece) is False and b.has(piece.end_key)
            assert b.verify().counts["pieces a late listing lacks"] == 1
        assert a.verify().clean and b.verify().clean


def test_a_late_look_up_does_not_put_a_good_piece_aside(tmp_path, clock):
    (a, _), (b, disk) = client(tmp_path, clock), client(tmp_path, clock)
    piece = make_piece(0)
    a.publish(piece)
    table = a.pieces()[0].measurements
    # The reader had looked for the table before it was there, and sees the manifest first.
    disk._names[str(tmp_path / "blobs" / table[:2] / f"{table}.parquet")] = (clock(), False)
    assert b.measurements([piece.end_key]) == {} and not b.known(piece.end_key)
    assert disk.late > 0 and a.top.backend.list("quarantine") == []
    clock.now += REMEMBERED + 1
    assert b.measurements([piece.end_key]) and b.known(piece.end_key)
    # A table that is truly gone counts as such once its manifest is no longer young.
    (tmp_path / "blobs" / table[:2] / f"{table}.parquet").unlink()
    manifest = next(tmp_path.glob("pieces/*/*/*.json"))
    os.utime(manifest, (manifest.stat().st_mtime - 2 * LATE,) * 2)
    clock.now += REMEMBERED + 1
    c, _ = client(tmp_path, clock)
    assert not c.known(piece.end_key) and len(c.notices) == 1 and not manifest.exists()
    assert c.publish(piece) and c.known(piece.end_key)


def test_a_name_remembered_after_its_removal_is_written_again(tmp_path, clock):
    (a, _), (b, disk) = client(tmp_path, clock), client(tmp_path, clock)
    a.publish(make_piece(0))
    assert b.has(make_piece(0).end_key)
    a.release(make_piece(0).end_key)
    digest = a.digest(make_piece(0).end_key)
    blob = f"blobs/{digest[:2]}/{digest}.safetensors"
    assert b.top.backend.exists(blob) and disk.late > 0
    with pytest.raises(StoreError, match="released"):
        b.load(make_piece(0).end_key)
    with pytest.raises(FileNotFoundError):
        b.top.backend.get(blob)
    assert b.top.backend.put_new(blob, (b"again",)) is True and b.top.backend.get(blob) == b"again"


def test_what_another_user_wrote_needs_no_touch(tmp_path, clock):
    class Foreign(NfsDisk):
        def touch(self, path: Path) -> None:
            raise PermissionError(1, "Operation not permitted")

    client(tmp_path, clock)[0].publish(make_piece(0))
    disk = Foreign(clock)
    store = Store(tmp_path, backend=lambda root: PosixBackend(root, disk))
    for name in list(store.top.backend.walk("blobs")):
        assert store.top.backend.put_new(name, (b"",)) is False


@pytest.mark.parametrize("seed", range(12))
def test_clients_at_work_in_any_order(tmp_path, clock, seed):
    """Publish, give up, sweep, measure from three machines with late views; all that is read is right."""
    chance = random.Random(seed)
    machines = [client(tmp_path / "store", clock) for _ in range(3)]
    published: set[int] = set()
    for _ in range(60):
        store, disk = chance.choice(machines)
        disk.lose = set(chance.sample(["link", "unlink", "rename", "create"], chance.randrange(3)))
        clock.now += chance.choice([0, 0, 1, 1, 3, 10, 70])
        i = chance.randrange(5)
        piece = make_piece(i)
        match chance.randrange(5):
            case 0 | 1:
                store.publish(piece)
                published.add(i)
                assert store.known(piece.end_key)
            case 2:
                if store.has(piece.end_key):
                    try:
                        assert same_state(store.load(piece.end_key).state, piece.state)
                    except StoreError as error:
                        assert "was released" in str(error)
            case 3:
                store.release(piece.end_key)
            case 4:
                found = store.measurements([piece.end_key])
                assert found in ({}, {piece.end_key: {"loss/A": 3 / (i + 2)}})
                assert found == {} or i in published
    assert sum(disk.late for _, disk in machines) > 0
    clock.now += REMEMBERED + 1
    for store, disk in machines:
        disk.lose = set()
        store.refresh()
        assert {row.end_key for row in store.pieces()} == {make_piece(i).end_key for i in published}
        assert store.verify().clean
        clock.now += REMEMBERED + 1
