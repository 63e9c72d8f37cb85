"""The requests to Google Cloud Storage, against a small stand-in for the service: no real one has been asked."""

from __future__ import annotations

import os
import secrets

import gcs_server
import pytest
from store_pieces import make_piece, same_state

from isoloss.recipe.errors import NotDeterministic, StoreError
from isoloss.store import Store, gcs, places

pytest.importorskip("gcsfs", reason="needs isoloss[gcs]")


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with gcs_server.running() as service, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", service.endpoint)
        patch.setenv("ISOLOSS_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("ISOLOSS_CACHE_GB", "0")
        import fsspec

        patch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
        yield service


@pytest.fixture
def url(service) -> str:
    service.requests.clear()
    return f"gs://bucket/{secrets.token_hex(4)}/store"


def test_a_store(url, service):
    store = Store(url)
    for i in range(2):
        assert store.publish(make_piece(i)) is True and store.publish(make_piece(i)) is False
    with pytest.raises(NotDeterministic):
        store.publish(make_piece(1, seed=1))
    reader = Store(url)
    assert same_state(reader.load(make_piece(1).end_key).state, make_piece(1).state) and len(reader.pieces()) == 2
    lease = store.lease("piece", "a")
    assert lease.take() and lease.beat() and reader.lease("piece", "b").holder() == "a"
    assert store.release(make_piece(0).end_key) > 0 and not reader.has(make_piece(0).end_key)
    blob = f"blobs/{store.digest(make_piece(1).end_key)[:2]}/{store.digest(make_piece(1).end_key)}.safetensors"
    name = f"{url.removeprefix('gs://bucket/')}/{blob}"
    service.objects[name] = (b"damaged", service.objects[name][1])
    with pytest.raises(StoreError, match="moved to quarantine"):
        reader.load(make_piece(1).end_key)
    assert reader.publish(make_piece(1)) and reader.verify().clean


def test_every_put_has_its_condition(url, service):
    Store(url).publish(make_piece(0))
    puts = [asked for method, path, asked in service.requests if path.startswith("/upload/")]
    assert len(puts) > 5 and all(asked["ifGenerationMatch"] == "0" for asked in puts)


def test_large_content_goes_in_parts_under_one_condition(url, service, monkeypatch):
    backend = places.object_backend(places.parse(url))
    monkeypatch.setattr(gcs, "PART", 1 << 18)
    content = os.urandom((1 << 19) + 5)
    assert backend.put_new("blobs/00/x", (content[:77], content[77:])) is True
    assert backend.get("blobs/00/x") == content and backend.put_new("blobs/00/x", (b"y" * len(content),)) is False
    assert [asked["ifGenerationMatch"] for _, path, asked in service.requests if path.startswith("/upload/")] == [
        "0"
    ] * 2
    assert backend.get("blobs/00/x") == content


def test_a_lost_reply(url, service):
    backend = places.object_backend(places.parse(url))
    service.lose.append("POST")
    assert backend.put_new("blobs/00/x", (b"mine",)) is True and service.lose == []
    assert backend.put_new("blobs/00/x", (b"mine",)) is False


def test_old_objects_become_young(url, service, monkeypatch):
    backend = places.object_backend(places.parse(url))
    backend.put_new("blobs/00/x", (b"x",))
    before = backend.stat("blobs/00/x").written
    monkeypatch.setattr("isoloss.store.objects.FRESH", -1e9)
    assert backend.put_new("blobs/00/x", (b"x",)) is False and backend.stat("blobs/00/x").written > before
    assert abs(backend.now() - before) < 5 and backend.get("blobs/00/x") == b"x"


def test_no_bucket(service):
    with pytest.raises(StoreError, match="there is no bucket"):
        Store("gs://missing/x")
