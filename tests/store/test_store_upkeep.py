"""Retention, sweeping, layers and export: what may go goes, nothing that is needed does."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from store_pieces import diverged, key, make_piece, same_state

from isoloss.recipe.errors import NotDeterministic, StoreError
from isoloss.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def end(i: int, path: str = "trunk") -> str:
    return make_piece(i, path).end_key


def size(store: Store) -> int:
    return sum(path.stat().st_size for path in store.path.glob("blobs/*/*"))


def states(store: Store) -> set[str]:
    keys = [end(i, path) for i in range(12) for path in ("trunk", "left", "right")]
    return store.stored(keys)


def tree(store: Store) -> None:
    """A trunk of six pieces; `left` leaves after the third, `right` after the fifth, three pieces each."""
    for i in range(6):
        store.publish(make_piece(i))
    for path, fork in (("left", 3), ("right", 5)):
        for i in range(3):
            start = key(f"trunk-{10 * fork}") if i == 0 else key(f"{path}-{10 * (fork + i)}")
            store.publish(make_piece(fork + i, path, start_key=start))


def test_release_keeps_what_was_measured(store):
    store.publish(make_piece(0))
    store.publish(make_piece(1))
    before = size(store)
    freed = store.release(end(0))
    assert freed > 0 and size(store) == before - freed
    assert not store.has(end(0)) and store.known(end(0)) and store.has(end(1))
    assert store.measurement(end(0), "loss/A") == 1.5 and len(store.curve(end(0))["loss"]) == 10
    assert store.release(end(0)) == 0 and store.release(key("nowhere")) == 0
    assert store.verify().clean and store.verify().counts["states released"] == 1


def test_a_state_that_two_keys_share_goes_with_the_last(store):
    store.publish(make_piece(0, "trunk"))
    store.publish(make_piece(0, "twin"))
    assert store.digest(end(0)) == store.digest(end(0, "twin"))
    assert store.release(end(0)) == 0
    assert not store.has(end(0)) and same_state(store.load(end(0, "twin")).state, make_piece(0).state)
    assert store.release(end(0, "twin")) > 0 and not store.has(end(0, "twin")) and store.verify().clean


def test_retain_keeps_pinned_and_the_newest_of_every_path(store):
    tree(store)
    pinned = {end(2), end(4)}
    everything = {end(i) for i in range(6)}
    everything |= {end(i, "left") for i in (3, 4, 5)} | {end(i, "right") for i in (5, 6, 7)}
    planned = store.retain(pinned, dry_run=True)
    assert states(store) == everything
    given_up = store.retain(pinned)
    # The last two of the three paths: trunk 5 and 4, left 5 and 4, right 7 and 6; the rest only where pinned.
    assert given_up == planned and set(given_up) == {end(0), end(1), end(3), end(3, "left"), end(5, "right")}
    kept = {end(2), end(4), end(5), end(4, "left"), end(5, "left"), end(6, "right"), end(7, "right")}
    assert states(store) == kept and store.verify().clean
    assert store.retain(pinned) == [] and states(store) == kept


def test_retain_keeps_periodic_states_and_leaves_other_studies_alone(store):
    tree(store)
    given_up = store.retain([], newest=1, every=20, among={end(i) for i in range(6)})
    assert set(given_up) == {end(0), end(2), end(4)}
    assert {end(i, "left") for i in (3, 4, 5)} <= states(store)
    with pytest.raises(ValueError, match="at least 1"):
        store.retain([], newest=0)


def test_retain_counts_what_a_diverged_piece_left(store):
    for i in range(3):
        store.publish(make_piece(i))
    store.publish(diverged(3))
    assert store.retain([], newest=1) == [end(0), end(1)] and store.has(end(2))


def age(store: Store, seconds: float) -> None:
    for path in store.path.rglob("*"):
        if path.is_file() and path.parent.name != "index":
            os.utime(path, (time.time() - seconds,) * 2)


def test_gc_sweeps_only_what_is_old_and_not_referred_to(store):
    tree(store)
    before = {path for path in store.path.rglob("*") if path.is_file()}
    (store.path / "blobs" / "ab").mkdir(exist_ok=True)
    orphan = store.path / "blobs" / "ab" / f"{key('orphan')}.safetensors"
    orphan.write_bytes(b"x" * 1000)
    unfinished = store.path / "pieces" / ".tmp-7-0"
    unfinished.write_bytes(b"y" * 500)
    lease = store.lease("piece", "dead owner")
    lease.take()
    assert store.gc(grace=60).names == [] and orphan.exists()
    age(store, 120)
    listed = store.gc(dry_run=True, grace=60)
    assert listed.bytes > 1500 and len(listed.names) == 3 and orphan.exists() and unfinished.exists()
    swept = store.gc(grace=60)
    assert swept == listed and not orphan.exists() and not unfinished.exists() and lease.holder() is None
    assert before <= {path for path in store.path.rglob("*") if path.is_file()}
    assert store.gc(grace=60).names == [] and store.verify().clean


def test_gc_frees_what_retention_gives_up(store):
    tree(store)
    age(store, 120)
    before = size(store)
    listed = store.gc(dry_run=True, pinned={end(2), end(4)})
    assert size(store) == before and len(states(store)) == 12
    assert store.gc(pinned={end(2), end(4)}) == listed and listed.bytes > 0
    assert size(store) == before - listed.bytes
    assert len(states(store)) == 7 and store.verify().clean


def test_a_blob_that_a_publisher_counts_on_is_young_again(store):
    store.publish(make_piece(0))
    age(store, 7200)
    (manifest,) = store.path.glob("pieces/*/*/*.json")
    manifest.unlink()
    with Store(store.path) as other:
        listed = [name for name in other.gc(dry_run=True, grace=60).names if name.startswith("blobs")]
        assert len(listed) == 4
        # Another process publishes the piece anew: first its blobs are found there ...
        for name in listed:
            assert store.top.backend.put_new(name, (b"",)) is False
        # ... and while its manifest is still to come, nothing is swept.
        assert not [name for name in other.gc(grace=60).names if name.startswith("blobs")]
    assert store.publish(make_piece(0)) and store.verify().clean


def test_a_replaced_index_is_swept(store):
    store.publish(make_piece(0))
    store.top.index.rebuild()
    assert len(store.top.index.generations()) == 2
    assert len(store.gc().names) >= 1 and len(store.top.index.generations()) == 1
    assert store.has(end(0)) and Store(store.path).has(end(0))


def test_verify_counts_and_finds_disagreement(store):
    tree(store)
    report = store.verify()
    assert report.clean and report.counts["pieces"] == 12 and report.counts["measurements"] == 24
    # Three states of `left` and one of `right` have the bits of a trunk state at the same update.
    assert report.counts["states"] == 8
    other = Store(store.path.parent / "other")
    other.publish(make_piece(0, seed=1, value=9.0, side={}))
    target = store.path
    for path in other.path.glob("*/*/**/*"):
        if path.is_file() and path.parent.parent.parent.name in ("blobs", "pieces", "store", "other"):
            copy = target / path.relative_to(other.path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    problems = "\n".join(Store(store.path).verify().problems)
    assert f"key {end(0)} was reached with two different states" in problems
    assert f"measurement 'loss/A' at {end(0)} has two values" in problems


def test_verify_replays_pieces(store):
    tree(store)
    seen = []

    def honest(row):
        seen.append(row.end_key)
        return row.digest if len(seen) <= 2 else None

    report = store.verify(replay=honest)
    assert report.clean and report.counts["pieces replayed"] == 2 and len(seen) == 12
    liar = store.verify(replay=lambda row: "0" * 64 if row.end_key == end(4) else row.digest)
    assert len(liar.problems) == 1 and end(4) in liar.problems[0] and "not deterministic" in liar.problems[0]


def test_layers_answer_for_what_the_top_lacks(store, tmp_path):
    for i in range(3):
        store.publish(make_piece(i))
    store.release(end(0))
    store.close()
    before = {path: path.stat().st_mtime_ns for path in store.path.rglob("*")}
    top = Store(tmp_path / "top", under=[store.path])
    assert top.has(end(1)) and not top.has(end(0)) and top.known(end(0))
    assert same_state(top.load(end(1)).state, make_piece(1).state) and "ema" in top.load(end(1)).sides
    assert top.measurement(key("trunk-5"), "loss/A") == 2.0 and top.stored([end(i) for i in range(4)]) == {
        end(1),
        end(2),
    }
    assert top.publish(make_piece(1)) is False and len(top.trajectory(end(2))["update"]) == 30
    with pytest.raises(NotDeterministic):
        top.publish(make_piece(1, seed=1))
    assert top.publish(make_piece(0)) is True and top.has(end(0))
    assert top.publish(make_piece(3)) is True and len(top.pieces()) == 4
    assert top.release(end(1)) == 0 and top.has(end(1))
    top.gc(grace=0)
    top.close()
    assert {path: path.stat().st_mtime_ns for path in store.path.rglob("*")} == before
    assert Store(tmp_path / "top").verify().clean and Store(tmp_path / "top").known(end(1)) is False


def test_a_layer_must_exist(tmp_path):
    with pytest.raises(StoreError, match="no isoloss store"):
        Store(tmp_path / "top", under=[tmp_path / "missing"])


def test_damage_in_a_layer_is_remembered_and_made_good_on_top(store, tmp_path):
    store.publish(make_piece(0))
    digest = store.digest(end(0))
    blob = store.path / "blobs" / digest[:2] / f"{digest}.safetensors"
    blob.write_bytes(b"damaged")
    top = Store(tmp_path / "top", under=[store.path])
    assert top.has(end(0))
    with pytest.raises(StoreError, match="cannot be moved"):
        top.load(end(0))
    for reader in (top, Store(top.path, under=[store.path])):
        assert not reader.has(end(0)) and reader.stored([end(0)]) == set()
    assert blob.read_bytes() == b"damaged"
    assert top.publish(make_piece(0)) is True
    assert same_state(top.load(end(0)).state, make_piece(0).state)


@pytest.mark.parametrize("with_states", [False, True])
def test_export_makes_a_store_that_serves_as_a_base(store, tmp_path, with_states):
    tree(store)
    store.release(end(1))
    keys = {end(1), end(2), key("trunk-35")}
    assert store.export(tmp_path / "small", keys, states=with_states) == 3
    assert store.export(tmp_path / "small", keys, states=with_states) == 3
    small = Store(tmp_path / "small", create=False)
    assert small.verify().clean and len(small.pieces()) == 3
    assert small.verify().counts["blobs nothing refers to"] == 0
    assert small.measurement(end(1), "loss/A") == 1.0 and small.measurement(key("trunk-35"), "loss/A") == 3 / 4.5
    assert small.has(end(2)) is with_states and not small.has(end(1)) and small.known(end(2))
    assert small.digest(end(2)) == store.digest(end(2)) and len(small.curve(end(2))["loss"]) == 10
    study = Store(tmp_path / "study", under=[tmp_path / "small"])
    assert study.measurement(end(1), "loss/A") == 1.0
    assert study.publish(make_piece(1)) and study.has(end(1))


def test_export_of_everything_through_layers_and_states_added_later(store, tmp_path):
    store.publish(make_piece(0))
    top = Store(tmp_path / "top", under=[store.path])
    top.publish(make_piece(1))
    assert top.export(tmp_path / "all") == 2
    copy = Store(tmp_path / "all")
    assert copy.known(end(0)) and copy.known(end(1)) and not copy.has(end(0))
    assert top.export(tmp_path / "all", states=True) == 2
    assert copy.has(end(0)) and copy.has(end(1)) and copy.verify().clean
    other = Store(tmp_path / "other")
    other.publish(make_piece(0, seed=1))
    with pytest.raises(NotDeterministic, match=end(0)):
        other.export(tmp_path / "all")
