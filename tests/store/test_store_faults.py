"""Every operation of a writer fails, is killed or loses power: a piece is there or not; a rerun ends well."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from store_pieces import key, make_piece, same_state

from isoloss.recipe.errors import StoreError
from isoloss.store import Piece, Store, upkeep
from isoloss.store.backend import Disk, PosixBackend


class Killed(BaseException):
    """The process is gone: no handler below may run anything any more."""


class QuickDisk(Disk):
    """Syncs nothing, which only a loss of power could tell."""

    def sync(self, file: int) -> None:
        pass

    def sync_folder(self, path: Path) -> None:
        pass


class FaultyDisk(QuickDisk):
    """Counts operations and spoils one: an error, no space from then on, death before or after it."""

    def __init__(self, at: int | None = None, kind: str = "") -> None:
        self.at, self.kind = at, kind
        self.done: list[str] = []
        self.dead = False

    def _step(self, name: str, work: Callable[[], object], torn: Callable[[], object] | None = None) -> object:
        if self.dead:
            raise Killed
        number = len(self.done)
        self.done.append(name)
        hit = number == self.at
        if self.kind == "error" and hit:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        takes_space = name in ("create", "write", "make_folder", "link")
        if self.kind == "full" and self.at is not None and number >= self.at and takes_space:
            if torn:
                torn()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if hit and self.kind == "kill":
            self.dead = True
            if torn:
                torn()
            raise Killed
        result = work()
        if hit and self.kind == "after":
            self.dead = True
            raise Killed
        return result

    def write(self, file: int, chunks: Iterable[bytes | bytearray | memoryview]) -> None:
        data = b"".join(bytes(chunk) for chunk in chunks)
        self._step("write", lambda: os.write(file, data), torn=lambda: os.write(file, data[: len(data) // 2]))


def _spoiled(name: str) -> Callable[..., object]:
    def operation(self: FaultyDisk, *args: object) -> object:
        return self._step(name, lambda: getattr(QuickDisk, name)(self, *args))

    return operation


OPERATIONS = ("make_folder", "create", "sync", "link", "unlink", "rename", "touch", "sync_folder")
for _name in OPERATIONS:
    setattr(FaultyDisk, _name, _spoiled(_name))


def open_with(folder: Path, disk: Disk = QuickDisk()) -> Store:  # noqa: B008
    return Store(folder, backend=lambda root: PosixBackend(root, disk))


def first(store: Store) -> None:
    store.publish(make_piece(1))


def digest_only(store: Store) -> None:
    store.publish(make_piece(1), keep_state=False)


def again_after_release(store: Store) -> None:
    store.publish(make_piece(2))


def give_up(store: Store) -> None:
    store.release(make_piece(0).end_key)


def sweep(store: Store) -> None:
    store.gc(grace=0, pinned=[make_piece(2).end_key], newest=1)


def copy_out(store: Store) -> None:
    with open_with(store.path.parent / "copy", store.top.backend.disk) as target:
        upkeep.export(store.layers, target.top, {make_piece(0).end_key}, states=True)


ACTIONS = (first, digest_only, again_after_release, give_up, sweep, copy_out)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A store with whole pieces, one whose state was released, a blob of no piece and an unfinished file."""
    folder = tmp_path_factory.mktemp("base") / "store"
    with Store(folder) as store:
        store.publish(make_piece(0))
        store.publish(make_piece(2))
        store.release(make_piece(2).end_key)
        for i in range(3):
            store.publish(make_piece(i, "branch", curve={}, measurements=[], side={}))
        store.top.backend.put_new(f"blobs/00/{key('orphan')}.parquet", (b"orphan",))
        (folder / "blobs" / "00" / ".tmp-1-abc").write_bytes(b"unfinished")
    return folder


def check_piece(store: Store, piece: Piece) -> None:
    """A piece is there with all it has, or not at all."""
    measured = store.measurements([m.key for m in piece.measurements])
    if store.known(piece.end_key):
        assert measured == {m.key: {m.name: m.value} for m in piece.measurements}
        assert store.curve(piece.end_key).keys() == piece.curve.keys()
        if store.has(piece.end_key):
            assert same_state(store.load(piece.end_key).state, piece.state)
    else:
        assert not store.has(piece.end_key) and measured == {} and store.curve(piece.end_key) == {}


def clean(store: Store) -> None:
    assert store.verify().problems == []


# The other combinations take half a minute.
QUICK = {(first, "full"), *((action, "kill") for action in ACTIONS if action is not copy_out)}
FAULTS = [
    pytest.param(action, kind, marks=() if (action, kind) in QUICK else pytest.mark.slow)
    for action in ACTIONS
    for kind in ("kill", "after", "error", "full")
]


@pytest.mark.parametrize(("action", "kind"), FAULTS)
def test_a_fault_at_every_single_operation(tmp_path, base, action, kind):
    for at in itertools.count():
        folder = tmp_path / str(at) / "store"
        shutil.copytree(base, folder)
        disk = FaultyDisk(at, kind)
        store = open_with(folder, disk)
        fault: BaseException | None = None
        try:
            action(store)
        except (StoreError, Killed) as error:
            fault = error
        store.close()
        if len(disk.done) <= at:
            assert fault is None and at > 3
            break
        if kind == "full" and fault is not None:
            assert "no space left" in str(fault)

        with open_with(folder) as reopened:
            clean(reopened)
            for i in range(3):
                check_piece(reopened, make_piece(i))
            assert reopened.known(make_piece(0).end_key) and reopened.known(make_piece(2).end_key)
            action(reopened)
            for i in range(3):
                reopened.publish(make_piece(i))
            for i in range(3):
                assert same_state(reopened.load(make_piece(i).end_key).state, make_piece(i).state)
            reopened.gc(grace=0)
            report = reopened.verify()
            assert report.problems == [] and report.counts["pieces"] == 6
            assert report.counts["blobs nothing refers to"] == report.counts["unfinished files"] == 0
        copy = folder.parent / "copy"
        if copy.exists():
            with open_with(copy) as copied:
                clean(copied)
                check_piece(copied, make_piece(0))
        shutil.rmtree(folder.parent)


class ForgetfulDisk(Disk):
    """After a loss of power only what was synced is sure to be there."""

    def __init__(self) -> None:
        self.unsynced_names: dict[Path, set[Path]] = {}
        self.steps = 0
        self.stop_at: int | None = None

    def _step(self) -> None:
        self.steps += 1
        if self.stop_at is not None and self.steps > self.stop_at:
            raise Killed

    def make_folder(self, path: Path) -> None:
        self._step()
        super().make_folder(path)
        self.unsynced_names.setdefault(path.parent, set()).add(path)

    def create(self, path: Path) -> int:
        self._step()
        return super().create(path)

    def write(self, file: int, chunks: Iterable[bytes | bytearray | memoryview]) -> None:
        self._step()
        super().write(file, chunks)
        os.set_inheritable(file, True)
        self.unsynced_file = file

    def sync(self, file: int) -> None:
        self._step()
        assert file == self.unsynced_file
        self.unsynced_file = -1

    def link(self, source: Path, target: Path) -> None:
        self._step()
        assert self.unsynced_file == -1, "the content must be safe before the name appears"
        super().link(source, target)
        self.unsynced_names.setdefault(target.parent, set()).add(target)

    def unlink(self, path: Path) -> None:
        self._step()
        super().unlink(path)

    def sync_folder(self, path: Path) -> None:
        self._step()
        self.unsynced_names.pop(path, None)

    def lose_power(self, spare: str) -> None:
        """Remove names that were not synced, except those with `spare` in them."""
        for names in self.unsynced_names.values():
            for path in names:
                if not spare or spare not in path.parts:
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@pytest.mark.parametrize("spare", ["", "pieces"])
def test_power_lost_at_every_single_operation(tmp_path, base, spare):
    for at in itertools.count():
        folder = tmp_path / str(at)
        shutil.copytree(base, folder)
        disk = ForgetfulDisk()
        store = open_with(folder, disk)
        disk.stop_at = disk.steps + at
        finished = False
        try:
            finished = store.publish(make_piece(1))
        except Killed:
            store.close()
        disk.lose_power(spare)
        shutil.rmtree(folder / "index")
        with open_with(folder) as reopened:
            clean(reopened)
            check_piece(reopened, make_piece(1))
            assert not finished or reopened.has(make_piece(1).end_key)
            reopened.publish(make_piece(1))
            assert reopened.has(make_piece(1).end_key)
        if finished:
            assert at > 20
            break


def publish_forever(folder: str, done: str) -> None:
    """Child: publish pieces one after another, noting each that is done."""
    with Store(folder) as store, open(done, "a") as note:
        for i in itertools.count():
            if store.known(make_piece(i).end_key):
                continue
            if store.publish(make_piece(i)):
                print(i, file=note, flush=True)
            if i % 3 == 2:
                store.release(make_piece(i - 1).end_key)


def publish_all(folder: str, worker: int, count: int, barrier, results) -> None:
    """Child: race for the same pieces."""
    barrier.wait()
    with Store(folder) as store:
        won = [i for i in range(count) if store.publish(make_piece(i))]
    results.put((worker, won))


@pytest.fixture(scope="module")
def processes():
    """Children fork from a server that has imported everything, so that a start takes milliseconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["isoloss.store", "store_pieces"])
    return context


@pytest.mark.slow
@pytest.mark.multiprocess
def test_sigkill_at_random_moments(tmp_path, processes):
    folder, done = tmp_path / "store", tmp_path / "done"
    done.touch()
    chance = random.Random(20)
    published: set[int] = set()
    for round_ in range(20):
        enough = len(done.read_text().split()) + round_ % 4
        child = processes.Process(target=publish_forever, args=(str(folder), str(done)))
        child.start()
        deadline = time.monotonic() + 60
        while len(done.read_text().split()) < enough and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.05))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode == -signal.SIGKILL
        if not (folder / "format.json").exists():
            continue
        published = {int(line) for line in done.read_text().split()}
        with Store(folder) as store:
            clean(store)
            for i in published:
                assert store.known(make_piece(i).end_key)
                check_piece(store, make_piece(i))
    assert len(published) >= 30
    with Store(folder) as store, Store(tmp_path / "undisturbed") as twin:
        for i in range(max(published) + 2):
            store.publish(make_piece(i))
            twin.publish(make_piece(i))
            assert store.digest(make_piece(i).end_key) == twin.digest(make_piece(i).end_key)
            assert store.has(make_piece(i).end_key)
        store.gc(grace=0)
        report = store.verify()
        assert report.clean and report.counts["blobs nothing refers to"] == report.counts["unfinished files"] == 0


@pytest.mark.multiprocess
def test_racing_processes_make_each_piece_once(tmp_path, processes):
    workers, count = 4, 25
    barrier, results = processes.Barrier(workers), processes.Queue()
    children = [
        processes.Process(target=publish_all, args=(str(tmp_path / "store"), worker, count, barrier, results))
        for worker in range(workers)
    ]
    for child in children:
        child.start()
    won = sorted(i for _ in children for i in results.get(timeout=60)[1])
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert won == list(range(count))
    with Store(tmp_path / "store", create=False) as store:
        report = store.verify()
        assert report.clean and report.counts["pieces"] == count and report.counts["unfinished files"] == 0
        assert store.stored([key(f"trunk-{10 * i}") for i in range(1, count + 1)]).__len__() == count
        assert len(store.top.index.generations()) == 1 and not store.top.index.in_memory
