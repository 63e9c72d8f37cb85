"""Leases: one owner at a time as long as nobody stalls, and stale ones only by the reader's own clock."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from isoloss.recipe.errors import StoreError
from isoloss.store import Store


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_take_beat_release(store):
    a, b = store.lease("piece", "a"), store.lease("piece", "b")
    assert a.holder() is None and a.take() and a.held and b.holder() == "a"
    assert not b.take() and not b.held
    assert a.beat() and a.take()
    a.release()
    assert not a.held and b.holder() is None and b.take() and b.holder() == "b"
    assert len(list((store.path / "leases" / "piece").iterdir())) == 1


def test_a_beat_that_cannot_be_written_is_not_the_last(store, monkeypatch):
    a, b = store.lease("piece", "a"), store.lease("piece", "b")
    a.take()

    def full(*_: object, **__: object) -> bool:
        raise StoreError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(a._backend, "put_new", full)
        with pytest.raises(StoreError):
            a.beat()
        assert a.held
    assert a.beat() and not b.take()


@pytest.mark.parametrize("record", [b"", b'{"owner":"a', b"\xff\xfe", b"[]", b'{"other":"a"}', b'{"owner":7}'])
def test_a_damaged_record_names_nobody(store, record):
    """Records are not synced, so a loss of power may leave anything; work must go on all the same."""
    a, b = store.lease("piece", "a"), store.lease("piece", "b")
    a.take()
    (file,) = (store.path / "leases" / "piece").iterdir()
    file.write_bytes(record)
    assert b.holder() is None and b.take() and b.holder() == "b"
    assert not a.beat()


def test_leases_of_different_names_are_independent(store):
    assert store.lease("x", "a").take() and store.lease("y", "b").take()


def test_stale_only_if_it_stood_still_while_the_reader_waited(store):
    mine, theirs = Clock(5e9), Clock(17.0)
    a = store.lease("piece", "a", patience=10, clock=mine)
    b = store.lease("piece", "b", patience=10, clock=theirs)
    a.take()
    theirs.now = 1e6
    assert not b.take()  # the reader has only just begun to watch, whatever its clock says
    theirs.now += 9.9
    assert not b.take()
    a.beat()
    theirs.now += 0.2
    assert not b.take()
    theirs.now += 9.9
    assert not b.take()
    theirs.now += 0.1
    assert b.take() and b.holder() == "b"


def test_a_paused_owner_learns_that_it_lost_and_cannot_harm(store):
    clock = Clock(0.0)
    a, b = store.lease("piece", "a"), store.lease("piece", "b", patience=1, clock=clock)
    a.take()
    b.take()
    clock.now = 2
    assert b.take()
    assert not a.beat() and not a.held
    a.release()
    assert b.beat() and b.holder() == "b"
    b.release()
    c = store.lease("piece", "c")
    assert c.take() and not a.beat() and c.beat()


def test_many_takers_one_winner(store):
    for round_ in range(10):
        leases = [store.lease(f"race-{round_}", f"owner-{i}") for i in range(8)]
        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(lambda lease: lease.take(), leases)) == 1


def test_an_old_view_wins_nothing(store):
    a, b = store.lease("piece", "a"), store.lease("piece", "b")
    a.take()
    a.release()
    number, owner = b._newest()
    assert owner is None and a.take() and a.beat() and a.beat()
    assert not b._advance(number, "b") and not b.held and a.beat() and b.holder() == "a"


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden"])
def test_a_name_must_fit_a_file(store, name):
    with pytest.raises(ValueError, match="name of a lease"):
        store.lease(name, "a")
