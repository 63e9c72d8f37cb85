"""A store on an S3 service (moto's, on loopback): races between processes, deaths, pauses, faults of the network."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import secrets
import signal
import socket
import time
from collections import Counter
from pathlib import Path

import pytest
import s3_server
from store_pieces import key, make_piece, same_state
from store_writers import publish_all, publish_then_die, publish_when_told, put_rounds, with_environment

from isoloss.recipe.errors import NotDeterministic, StoreError
from isoloss.store import Store, has_store, places, s3

pytest.importorskip("s3fs", reason="needs isoloss[s3]")
pytest.importorskip("moto", reason="needs moto[server]")

ROUNDS = 30


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with s3_server.running() as server, pytest.MonkeyPatch.context() as patch:
        s3_server.use(server, patch, tmp_path_factory.mktemp("cache"))
        yield server


@pytest.fixture
def url(server) -> str:
    server.faults()
    return f"s3://bucket/{secrets.token_hex(4)}/store"


@pytest.fixture
def store(url) -> Store:
    return Store(url)


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["store_writers", "s3fs"])
    return context


def backend(url: str) -> places.ObjectBackend:
    return places.object_backend(places.parse(url))


def child_of(processes, *work):
    variables = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "ISOLOSS_"))}
    return processes.Process(target=with_environment, args=(variables, *work))


def race(processes, work, url: str, *settings: int) -> Counter[int]:
    """Number of winners a round, of four processes."""
    barrier, results = processes.Barrier(4), processes.Queue()
    children = [child_of(processes, work, url, i, *settings, barrier, results) for i in range(4)]
    for child in children:
        child.start()
    won = Counter(number for _ in children for number in results.get(timeout=240)[1])
    for child in children:
        child.join()
        assert child.exitcode == 0
    return won


@pytest.mark.multiprocess
def test_four_way_races_have_one_winner_each(url, processes, server):
    Store(url).close()
    before = server.counts()
    won = race(processes, put_rounds, url, ROUNDS, 10)
    assert won == dict.fromkeys(range(ROUNDS), 1)
    assert (server.counts() - before)["PUT"] >= 4 * ROUNDS


@pytest.mark.multiprocess
@pytest.mark.slow
@pytest.mark.parametrize("rounds", [25])
def test_four_way_races_of_uploads_in_parts_have_one_winner_each(url, processes, rounds):
    Store(url).close()
    assert race(processes, put_rounds, url, rounds, (5 << 20) + 1) == dict.fromkeys(range(rounds), 1)
    assert list(backend(url).unfinished()) == []


@pytest.mark.multiprocess
def test_racing_processes_publish_each_piece_once(url, processes):
    Store(url).close()
    assert race(processes, publish_all, url, 10) == dict.fromkeys(range(10), 1)
    report = Store(url).verify()
    assert report.clean and report.counts["pieces"] == 10 and report.counts["blobs nothing refers to"] == 0


def test_everything_comes_back(url, store):
    pieces = [make_piece(i) for i in range(3)]
    for piece in pieces:
        assert store.publish(piece) is True and store.publish(piece) is False
    with pytest.raises(NotDeterministic, match="model/weight"):
        store.publish(make_piece(1, seed=1))
    for reader in (store, Store(url), Store(Path(url))):
        assert reader.location == url
        for i, piece in enumerate(pieces):
            loaded = reader.load(piece.end_key)
            assert same_state(loaded.state, piece.state) and loaded.meta == piece.meta and "ema" in loaded.sides
            assert reader.measurement(piece.end_key, "loss/A") == 3 / (i + 2)
        assert len(reader.trajectory(pieces[2].end_key)["loss"]) == 30 and len(reader.pieces()) == 3
        assert reader.stored([piece.end_key for piece in pieces]) == {piece.end_key for piece in pieces}
    assert store.verify().clean


def test_what_is_kept_lies_in_the_bucket_and_the_index_does_not(url, store):
    store.publish(make_piece(0))
    names = set(store.top.backend.walk("blobs")) | set(store.top.backend.walk("pieces"))
    assert len(names) == 5 and store.top.backend.list("") == ["blobs", "format.json", "pieces"]
    folder = store.top.index.generations()[-1].parent
    assert folder.is_relative_to(os.environ["ISOLOSS_CACHE"])
    store.close()
    for file in folder.iterdir():
        file.unlink()
    assert Store(url).measurement(key("trunk-5"), "loss/A") == 2.0


def test_give_up_sweep_retain_export(url, store, tmp_path):
    for i in range(4):
        store.publish(make_piece(i))
    assert store.release(make_piece(0).end_key) > 0 and not store.has(make_piece(0).end_key)
    assert store.retain([make_piece(3).end_key], newest=1) == [make_piece(i).end_key for i in (1, 2)]
    store.top.backend.put_new(f"blobs/00/{key('orphan')}.parquet", (b"orphan",))
    assert store.gc().names == []
    time.sleep(1.1)  # the service counts whole seconds
    assert store.gc(dry_run=True, grace=0).names == [f"blobs/00/{key('orphan')}.parquet"]
    assert store.gc(grace=0).bytes == 6 and store.verify().clean
    assert store.publish(make_piece(0)) and store.has(make_piece(0).end_key)
    # To a folder and back to a bucket.
    assert store.export(tmp_path / "copy", states=True) == 4
    assert Store(tmp_path / "copy").export(f"{url}-copy", states=True) == 4
    copy = Store(f"{url}-copy", create=False)
    assert copy.verify().clean and copy.has(make_piece(0).end_key) and not copy.has(make_piece(1).end_key)
    local = Store(tmp_path / "top", under=[url])
    assert local.under == [url] and local.has(make_piece(3).end_key)
    assert same_state(local.load(make_piece(3).end_key).state, make_piece(3).state)


def test_damage_is_put_aside_and_made_good(url, store, monkeypatch):
    piece = make_piece(0)
    store.publish(piece)
    digest = store.digest(piece.end_key)
    at = f"{url.removeprefix('s3://')}/blobs/{digest[:2]}/{digest}.safetensors"
    store.top.backend.bucket._files.pipe_file(at, b"damaged")
    monkeypatch.setenv("ISOLOSS_CACHE_GB", "0")
    reader = Store(url)
    assert reader.verify().problems == [f"s3://{at} is damaged"]
    with pytest.raises(StoreError, match=r"is damaged: .*moved to quarantine"):
        reader.load(piece.end_key)
    assert not reader.has(piece.end_key) and reader.top.backend.list("quarantine") == [f"{digest}.safetensors"]
    assert reader.publish(piece) and same_state(reader.load(piece.end_key).state, piece.state)
    time.sleep(1.1)
    assert reader.gc(grace=0).names == [f"quarantine/{digest}.safetensors"] and reader.verify().clean


def test_leases(url, store):
    a, b = store.lease("piece", "a"), Store(url).lease("piece", "b", patience=0.5)
    assert a.take() and not b.take() and b.holder() == "a" and a.beat() and not b.take()
    time.sleep(0.6)
    assert b.take() and not a.beat() and b.holder() == "b"
    b.release()
    assert a.holder() is None and len(store.top.backend.list("leases/piece")) == 1


@pytest.mark.multiprocess
@pytest.mark.parametrize("before", ["blobs/", "pieces/"])
def test_killed_before_the_manifest(url, processes, before):
    Store(url).close()
    ready = processes.Event()
    child = child_of(processes, publish_then_die, url, before, ready)
    child.start()
    assert ready.wait(60)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    store = Store(url)
    piece = make_piece(0)
    assert not store.known(piece.end_key) and store.pieces() == [] and store.verify().clean
    assert store.verify().counts["blobs nothing refers to"] == (0 if before == "blobs/" else 4)
    assert store.publish(piece) and same_state(store.load(piece.end_key).state, piece.state)
    time.sleep(1.1)
    assert store.gc(grace=0).names == [] and store.verify().clean


@pytest.mark.multiprocess
@pytest.mark.parametrize("seed", [0, 1])
def test_a_worker_that_was_paused_comes_back(url, processes, seed):
    """Meanwhile another one published the same piece: equal is a no-op, different the alarm, nothing is overwritten."""
    store = Store(url)
    ready, go, results = processes.Event(), processes.Event(), processes.Queue()
    child = child_of(processes, publish_when_told, url, ready, go, results)
    child.start()
    assert ready.wait(60)
    piece = make_piece(0, seed=seed)
    assert store.publish(piece) is True
    go.set()
    if seed == 0:
        assert results.get(timeout=60) is False
    child.join(60)
    assert child.exitcode == (0 if seed == 0 else 1)
    assert same_state(store.load(piece.end_key).state, piece.state) and store.verify().clean


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        pytest.param(method, kind, marks=() if method == "PUT" else pytest.mark.slow)
        for method in ("PUT", "DELETE", "HEAD", "GET")
        for kind in ("lost", "twice", "slow")
    ],
)
def test_faults_of_the_network(url, store, server, kind, method):
    """Each fault hits a request of its own kind, two times; the client library repeats, and nobody notices."""
    server.faults({"method": method, "contains": "", "kind": kind, "times": 2})
    before = server.counts()
    piece = make_piece(0)
    assert store.publish(piece) is True and store.publish(piece) is False
    lease = store.lease("piece", "a")
    assert lease.take() and lease.beat() and store.lease("piece", "b").holder() == "a"
    store.release(piece.end_key)
    assert store.publish(piece) is True and same_state(store.load(piece.end_key).state, piece.state)
    assert (server.counts() - before)[f"{kind} {method}"] == 2
    server.faults()
    assert store.verify().clean


def test_the_first_writer_of_an_upload_in_parts_is_told_so(url, store, server, monkeypatch):
    monkeypatch.setattr(s3, "PART", 5 << 20)
    content = os.urandom((11 << 20) + 3)
    assert store.top.backend.put_new("blobs/00/plain", (content,)) is True
    server.faults({"method": "POST", "contains": "uploadId", "kind": "lost", "times": 1})
    before = server.counts()
    assert store.top.backend.put_new("blobs/00/lost", (content[:100], content[100:])) is True
    assert (server.counts() - before)["lost POST"] == 1
    server.faults({"method": "PUT", "contains": "partNumber", "kind": "lost", "times": 2})
    assert store.top.backend.put_new("blobs/00/parts", (content,)) is True
    for name in ("plain", "lost", "parts"):
        assert store.top.backend.get(f"blobs/00/{name}") == content
        assert backend(url).put_new(f"blobs/00/{name}", (content,)) is False
    assert list(store.top.backend.unfinished()) == []


def test_an_upload_left_behind_is_swept(url, store):
    bucket = store.top.backend.bucket
    at = {"Key": f"{store.top.backend._prefix}blobs/00/{key('left')}.safetensors"}
    begun = bucket._call("create_multipart_upload", "", **at)
    bucket._call("upload_part", "", **at, UploadId=begun["UploadId"], PartNumber=1, Body=b"x" * 100)
    assert store.verify().clean and store.verify().counts["unfinished files"] == 1
    # moto says of every upload that it was begun in 2010.
    (upload,) = store.top.backend.unfinished()
    assert store.top.backend.stat(upload).written < time.time() - 3600
    assert len(store.gc().names) == 1 and list(store.top.backend.unfinished()) == []


@pytest.mark.slow
def test_an_upload_swept_while_it_ran_is_begun_again(url, store, monkeypatch):
    monkeypatch.setattr(s3, "PART", 5 << 20)
    content = os.urandom((5 << 20) + 1)
    bucket = store.top.backend.bucket
    send = bucket._send

    def swept(where, at, chunks):
        monkeypatch.setattr(bucket, "_send", send)
        tags = send(where, at, chunks)
        for upload in bucket.uploads(store.top.backend._prefix):
            bucket.abort(upload)
        return tags

    monkeypatch.setattr(bucket, "_send", swept)
    # moto answers 500 where S3 says that there is no such upload, and the library would try for long.
    monkeypatch.setattr(bucket._files, "retries", 1)
    assert store.top.backend.put_new("blobs/00/x", (content,)) is True
    assert store.top.backend.get("blobs/00/x") == content and bucket._send == send


def test_old_objects_become_young(url, store, monkeypatch):
    top = store.top.backend
    top.put_new("blobs/00/x", (b"x",))
    writer = top.bucket.head(f"{top._prefix}blobs/00/x").writer
    time.sleep(1.1)
    before = top.stat("blobs/00/x").written
    assert top.put_new("blobs/00/x", (b"x",)) is False and top.stat("blobs/00/x").written == before
    monkeypatch.setattr("isoloss.store.objects.FRESH", 0.5)
    assert top.put_new("blobs/00/x", (b"x",)) is False and top.stat("blobs/00/x").written > before
    assert top.get("blobs/00/x") == b"x" and top.bucket.head(f"{top._prefix}blobs/00/x").writer == writer
    assert abs(top.now() - time.time()) < 5


@pytest.mark.slow
def test_more_names_than_one_listing_holds(store):
    top = store.top.backend
    files = top.bucket._files
    for i in range(1005):
        files.call_s3("put_object", Bucket="bucket", Key=f"{top._prefix}released/{i:04d}", Body=b"")
    assert top.list("released") == [f"{i:04d}" for i in range(1005)]
    assert len(list(top.walk("released"))) == 1005


@pytest.mark.multiprocess
def test_a_forked_child_opens_its_own_connection(store):
    store.publish(make_piece(0))
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            found = store.has(make_piece(0).end_key) and store.measurement(key("trunk-5"), "loss/A") == 2.0
            status = 0 if found else 1
        os._exit(status)
    deadline = time.monotonic() + 30
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    if ended[0] == 0:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended == (child, 0)
    assert store.publish(make_piece(1))


def test_no_bucket_no_store_no_permission(url, monkeypatch):
    with pytest.raises(StoreError, match="there is no bucket 'missing-bucket': make it first"):
        Store("s3://missing-bucket/x")
    with pytest.raises(StoreError, match=f"no isoloss store at {url}"):
        Store(url, create=False)
    assert not has_store(url)
    Store(url).close()
    assert has_store(url)
    with pytest.raises(StoreError, match="no isoloss store at"):
        Store(f"{url}-top", under=[f"{url}-missing"])
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreError, match="AWS_ACCESS_KEY_ID") as error:
        Store(url)
    assert "\n" not in str(error.value)


def test_other_things_in_a_bucket_are_no_store(url, store):
    store.top.backend.bucket._files.pipe_file(f"{url.removeprefix('s3://')}-thesis/thesis.tex", b"precious")
    with pytest.raises(StoreError, match=r"holds other things \(thesis.tex\)"):
        Store(f"{url}-thesis")


@pytest.mark.slow
def test_a_service_that_is_down_is_one_line(url, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
    begun = time.monotonic()
    with pytest.raises(StoreError, match="check the network and AWS_ENDPOINT_URL") as error:
        Store(url)
    assert "\n" not in str(error.value) and time.monotonic() - begun < 60


def test_without_the_package_it_says_which_one(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(StoreError, match=r"pip install 'isoloss\[s3\]'"):
        Store("s3://bucket/x")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(StoreError, match=r"pip install 'isoloss\[gcs\]'"):
        Store("gs://bucket/x")
