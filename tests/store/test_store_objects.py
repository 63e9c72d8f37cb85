"""Object storage that misbehaves, simulated: every request may fail, and none of it makes a wrong answer."""

from __future__ import annotations

import itertools
import json

import pytest
from store_bucket import Client, MemoryBucket
from store_pieces import key, make_piece, same_state

from isoloss.recipe.errors import NotDeterministic, StoreError
from isoloss.store import Store, index, places
from isoloss.store.cache import BlobCache, cache_bytes, cache_folder
from isoloss.store.objects import ATTEMPTS, FRESH, LISTED_AT_ONCE, ObjectBackend, Unclear, parts

URL = "s3://bucket/run"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ISOLOSS_CACHE_GB", "0")
    # Every simulated machine has an index of its own.
    names = itertools.count()
    monkeypatch.setattr(index.platform, "node", lambda: f"host-{next(names)}")


def store_on(client: Client) -> Store:
    waits: list[float] = []
    return Store(URL, backend=lambda url: ObjectBackend(str(url), url.prefix, client, waits.append))


def backend_on(client: Client) -> ObjectBackend:
    return ObjectBackend(URL, "run", client, lambda seconds: None)


@pytest.fixture
def service() -> MemoryBucket:
    bucket = MemoryBucket()
    store_on(Client(bucket)).close()
    return bucket


@pytest.mark.parametrize("kind", ["lost", "refused", "late"])
@pytest.mark.parametrize("repeats", [1, 2, ATTEMPTS - 1])
def test_the_first_writer_is_told_so_whatever_happens_to_its_requests(service, kind, repeats):
    client = Client(service)
    backend = backend_on(client)
    assert backend.put_new("proof", (b"",))
    for number in range(1, repeats + 1):
        client.spoil("create", number, kind)
    assert backend.put_new("name", (b"mine",)) is True
    client.arrive()
    assert backend.get("name") == b"mine" and backend_on(Client(service)).put_new("name", (b"other",)) is False


def test_the_second_writer_is_told_so_whatever_happens_to_its_requests(service):
    assert backend_on(Client(service)).put_new("name", (b"theirs",))
    for kind in ("", "lost", "refused", "late", "twice"):
        client = Client(service)
        client.spoil("create", 2, kind)  # the first one proves that the service refuses
        assert backend_on(client).put_new("name", (b"mine",)) is False
        client.arrive()
        assert backend_on(client).get("name") == b"theirs"


def test_a_put_carried_out_twice_was_first(service):
    client = Client(service)
    backend = backend_on(client)
    backend.put_new("proof", (b"",))
    client.spoil("create", 1, "twice")
    assert backend.put_new("name", (b"mine",)) is True


def test_what_never_gets_through_is_one_error_and_may_arrive_later(service):
    client = Client(service)
    backend = backend_on(client)
    backend.put_new("proof", (b"",))
    for number in range(1, ATTEMPTS + 1):
        client.spoil("create", number, "late")
    with pytest.raises(Unclear, match="no reply"):
        backend.put_new("name", (b"mine",))
    assert not backend.exists("name")
    client.arrive()
    assert backend.get("name") == b"mine" and backend.put_new("name", (b"mine",)) is False


def test_an_object_removed_between_refusal_and_question_is_put_again(service):
    client, other = Client(service), Client(service)
    backend = backend_on(client)
    backend.put_new("name", (b"theirs",))

    def remove(operation, at):
        if operation == "head" and at == "run/name":
            client.before = lambda *_: None
            other.delete(at)

    client.before = remove
    assert backend.put_new("name", (b"mine",)) is True and backend.get("name") == b"mine"


def test_a_name_that_comes_and_goes_ends_in_an_error(service):
    client = Client(service)
    backend = backend_on(client)
    backend.put_new("proof", (b"",))

    def flicker(operation, at):
        if operation == "create":
            service.objects[at] = (b"theirs", "another writer", service.clock)
        else:
            service.objects.pop(at, None)

    client.before = flicker
    with pytest.raises(StoreError, match="comes and goes"):
        backend.put_new("name", (b"mine",))


def test_a_service_that_overwrites_is_refused(service):
    client = Client(service)
    client.bucket.create = lambda at, content, writer: service.objects.update({at: (content, writer, service.clock)})
    with pytest.raises(StoreError, match=r"overwrites where it was asked not to \(conditional put\)"):
        backend_on(client).put_new("name", (b"mine",))
    assert json.loads(service.objects["run/format.json"][0]) == {"isoloss_store": 1}


def test_what_is_old_becomes_young_when_a_writer_counts_on_it(service):
    client = Client(service)
    backend = backend_on(client)
    backend.put_new("name", (b"x",))
    service.clock += FRESH - 1
    assert backend.put_new("name", (b"x",)) is False and backend.stat("name").written < service.clock
    service.clock += 2
    assert backend.put_new("name", (b"x",)) is False and backend.stat("name").written == service.clock
    assert service.objects["run/name"][1] is not None


def test_large_content_is_not_sent_where_it_is_already(service, monkeypatch):
    monkeypatch.setattr("isoloss.store.objects.LARGE", 10)
    client = Client(service)
    backend = backend_on(client)
    assert backend.put_new("name", (b"x" * 10,)) is True
    sent = client.counts["create"]
    assert backend.put_new("name", (b"x" * 10,)) is False and client.counts["create"] == sent


def live(store: Store, bucket: MemoryBucket) -> None:
    """Publish, give up, publish again, damage, put aside, sweep."""
    for i in range(2):
        store.publish(make_piece(i))
    store.release(make_piece(0).end_key)
    store.publish(make_piece(0))
    digest = store.digest(make_piece(1).end_key)
    blob = f"run/blobs/{digest[:2]}/{digest}.safetensors"
    bucket.objects[blob] = (b"damaged", *bucket.objects[blob][1:])
    store.verify(repair=True)
    store.gc(grace=0)


@pytest.mark.parametrize(
    ("operation", "kind"),
    [(o, k) for o in ("create", "delete", "copy") for k in ("lost", "refused", "late", "twice")],
)
def test_every_request_of_a_writer_is_spoiled_once(operation, kind):
    for at in itertools.count(1):
        bucket = MemoryBucket()
        client = Client(bucket)
        store_on(client).close()
        client.spoil(operation, at, kind)
        before = client.counts.get(operation, 0)
        store = store_on(client)
        try:
            live(store, bucket)
        except StoreError as error:
            assert "\n" not in str(error)
        client.arrive()
        store.close()
        if client.counts.get(operation, 0) - before < at:
            assert at > (10 if operation == "create" else 1)
            break
        with store_on(Client(bucket)) as again:
            for i in range(2):
                if again.has(make_piece(i).end_key):
                    try:
                        assert same_state(again.load(make_piece(i).end_key).state, make_piece(i).state)
                    except StoreError as error:
                        assert "is damaged" in str(error)
            again.verify(repair=True)
            for i in range(2):
                again.publish(make_piece(i))
                assert same_state(again.load(make_piece(i).end_key).state, make_piece(i).state)
            again.gc(grace=0)
            report = again.verify()
            assert report.clean and report.counts["pieces"] == 2
            assert report.counts["blobs nothing refers to"] == 0


def test_a_late_listing_hides_nothing_that_is_asked_for_by_name(service):
    """A reader whose listings lack the newest manifests: it may train again, but never answers wrongly."""
    first, second = Client(service), Client(service)
    a, b = store_on(first), store_on(second)
    a.publish(make_piece(0))
    manifest = next(at for at in service.objects if at.startswith("run/pieces/"))
    second.blind = {manifest}
    assert not b.known(make_piece(0).end_key)
    assert b.publish(make_piece(0)) is False and b.has(make_piece(0).end_key)
    # What it knows by name is not forgotten because a listing lacks it.
    generation = b.top.index.generations()
    b.refresh()
    assert b.has(make_piece(0).end_key) and b.top.index.generations() == generation
    with pytest.raises(NotDeterministic):
        b.publish(make_piece(0, seed=1))
    assert a.verify().clean


def test_a_different_piece_behind_a_late_listing_raises_the_alarm(service):
    first, second = Client(service), Client(service)
    a, b = store_on(first), store_on(second)
    a.publish(make_piece(0))
    second.blind = {at for at in service.objects if at.startswith("run/pieces/")}
    with pytest.raises(NotDeterministic):
        b.publish(make_piece(0, seed=1))
    assert a.verify().clean


def test_leases_with_spoiled_requests_have_one_owner(service):
    for kind, operation in itertools.product(("lost", "refused", "twice"), ("create", "delete")):
        mine, theirs = Client(service), Client(service)
        a, b = store_on(mine), store_on(theirs)
        a.top.backend.put_new("proof", (b"",))
        name = f"{kind}-{operation}"
        one, two = a.lease(name, "a"), b.lease(name, "b")
        mine.spoil("create", 2 if operation == "create" else 99, kind)
        assert one.take() and not two.take() and two.holder() == "a"
        if operation == "delete":
            mine.spoil("delete", 1, kind)
            try:
                assert one.beat()
            except StoreError:
                assert kind in ("lost", "refused") and two.holder() == "a"
                continue
        assert one.beat() and not two.take()
        one.release()
        assert two.take() and not one.beat()


def test_many_look_ups_become_one_listing(service):
    client = Client(service)
    backend = backend_on(client)
    names = [f"blobs/{i:02x}/{i}" for i in range(2 * LISTED_AT_ONCE)]
    for name in names[::2]:
        backend.put_new(name, (b"",))
    asked = []
    client.before = lambda operation, at: asked.append(operation)
    assert backend.present("blobs", names) == set(names[::2]) and asked == []
    assert backend.present("blobs", names[:10]) == set(names[:10:2]) and len(asked) == 10


def test_parts_are_the_same_bytes():
    chunks = (b"abc", b"", memoryview(b"defghij"), bytearray(b"k"))
    for size in range(1, 13):
        pieces = list(parts(chunks, size))
        assert b"".join(pieces) == b"abcdefghijk" and all(len(piece) == size for piece in pieces[:-1])
        assert 0 < len(pieces[-1]) <= size


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("s3://bucket", ("s3", "bucket", "")),
        ("s3://bucket/a/b/", ("s3", "bucket", "a/b")),
        ("gs://bucket/a", ("gs", "bucket", "a")),
    ],
)
def test_urls_are_places(given, expected):
    from pathlib import Path

    assert places.parse(given) == expected and places.parse(Path(given)) == expected
    assert places.parse(str(places.parse(given))) == expected


@pytest.mark.parametrize("given", ["http://host/x", "s3://", "s3://bucket//x", "gs://b/../c", "file:///tmp/x"])
def test_other_urls_are_refused(given):
    with pytest.raises(StoreError, match="allowed: "):
        Store(given)


def test_a_store_of_objects_has_a_location_and_no_path(service):
    store = store_on(Client(service))
    assert store.location == URL and store.name == "run"
    with pytest.raises(StoreError, match="no folder"):
        store.path  # noqa: B018


def test_copies_are_checked_bounded_and_never_needed(service, tmp_path, monkeypatch):
    monkeypatch.setenv("ISOLOSS_CACHE_GB", "1")
    client = Client(service)
    store = store_on(client)
    piece = make_piece(0)
    store.publish(piece)
    copies = [path for path in (tmp_path / "cache" / "blobs").glob("*/*") if path.suffix == ".safetensors"]
    assert len(copies) == 2
    reads = []
    monkeypatch.setattr(client, "get", lambda at, get=client.get: reads.append(at) or get(at))
    assert same_state(store.load(piece.end_key).state, piece.state) and reads == []
    copies[0].write_bytes(b"spoiled")
    copies[1].unlink()
    assert same_state(store.load(piece.end_key).state, piece.state) and len(reads) == 2
    assert same_state(store.load(piece.end_key).state, piece.state) and len(reads) == 2
    # A copy answers for content only: what was given up stays given up.
    store.release(piece.end_key)
    assert not store.has(piece.end_key)


def test_copies_make_room_for_new_ones(tmp_path):
    import hashlib
    import os

    cache = BlobCache(tmp_path / "full", limit=1000)
    names = []
    for i in range(30):
        content = bytes([i]) * 90
        names.append(f"blobs/xx/{hashlib.sha256(content).hexdigest()}.safetensors")
        cache.put(names[-1], (content,))
        os.utime(cache._path(names[-1]), (1e6 + i, 1e6 + i))
        assert sum(path.stat().st_size for path in (tmp_path / "full").rglob("*") if path.is_file()) <= 1000
    kept = [name for name in names if cache.get(name)]
    assert kept == names[-len(kept) :] and len(kept) >= 8
    cache.put(f"blobs/xx/{key('large')}.safetensors", (b"x" * 1001,))
    assert cache.get(names[-1]) is not None
    (tmp_path / "file").write_text("in the way")
    BlobCache(tmp_path / "file", 1000).put(names[0], (b"x",))


def test_where_copies_lie_and_how_large_they_grow(tmp_path, monkeypatch):
    assert cache_folder() == tmp_path / "cache" and cache_bytes() == 0
    monkeypatch.delenv("ISOLOSS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "isoloss"
    for text in ("much", "-1", "inf", "nan"):
        monkeypatch.setenv("ISOLOSS_CACHE_GB", text)
        with pytest.raises(StoreError, match="ISOLOSS_CACHE_GB: found"):
            cache_bytes()
