"""What local workers and Ray have in common, on local workers."""

from __future__ import annotations

import contextlib
import copy
import io
import multiprocessing.forkserver
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

import isoloss
from isoloss.execute import local
from isoloss.execute import run as execution
from isoloss.execute.footprint import footprint
from isoloss.plan.demands import expected
from isoloss.plan.footprint import PROGRAM, activations
from isoloss.plan.lower import Lowering
from isoloss.recipe.errors import StoreError
from isoloss.store import Lease, Store, owners
from isoloss.study import from_dict


@pytest.mark.multiprocess
def test_a_gang_that_loses_a_process_goes_on(small: dict[str, Any], tmp_path: Path) -> None:
    """The other process fails because its partner is gone; the run is not to blame."""
    small["training"]["micro_batches"] = 2
    small["arms"] = {"cosine": small["arms"]["cosine"]}
    small["grid"] = {"duration": ["300 updates"], "seed": [0]}
    isoloss.run(small, tmp_path / "one", workers=1, quiet=True)
    store = tmp_path / "gang"
    killed: list[int] = []

    def kill() -> None:
        until = time.monotonic() + 60
        while sum(1 for _ in store.rglob("pieces/**/*.json")) < 5 and time.monotonic() < until:
            time.sleep(0.01)
        server = multiprocessing.forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
        with contextlib.suppress(psutil.NoSuchProcess):
            newest = max(psutil.Process(server).children(), key=lambda process: process.create_time())
            newest.kill()
            killed.append(newest.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    said = io.StringIO()
    results = isoloss.run(small, store, workers=1, processes=2, console=Console(file=said, width=300))
    thread.join()
    assert killed
    assert {r.status for r in results.results} == {"done"}, results.failures
    assert said.getvalue().count("its worker died (exit code -9)") == 1
    keys = [row.end_key for row in Store(tmp_path / "one").pieces()]
    one, gang = Store(tmp_path / "one"), Store(store)
    assert {k: one.digest(k) for k in keys} == {k: gang.digest(k) for k in keys}
    assert one.measurements(keys) == gang.measurements(keys)


def test_activations_are_what_the_backward_pass_needs(small: dict[str, Any], tmp_path: Path) -> None:
    """Closed form for two layers: input, what the second layer reads, log-probabilities, classes, one scalar."""
    small["data"] = {"source": "blobs", "samples": 2000, "features": 6, "classes": 3}
    small["evaluation"] = {"samples": 64}
    small["model"] = {"family": "mlp", "depth": 1, "width": 16}
    small["arms"] = {"cosine": small["arms"]["cosine"]}
    small["grid"] = {"duration": ["20 updates"], "seed": [0]}

    def of(batch: int, micro: int) -> Any:
        study = copy.deepcopy(small)
        study["training"] |= {"batch": f"{batch} samples", "micro_batches": micro}
        (cell,) = expected(from_dict(study), Lowering())
        return cell

    for size in (16, 32):
        assert activations(of(size, 1)) == size * (4 * 6 + 4 * 16 + 4 * 3 + 8) + 4
    assert activations(of(64, 4)) == activations(of(16, 1))
    one, four = of(64, 1), of(64, 4)
    assert footprint([one, four]) == max(footprint([one]), footprint([four])) > PROGRAM
    assert footprint([]) == PROGRAM


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_worker_that_hangs_is_replaced(small: dict[str, Any], tmp_path: Path) -> None:
    """Stopped, it neither dies nor answers: it is ended after the patience, and the run goes on to the same bits."""
    small["grid"] = {"duration": ["400 updates"], "seed": [0]}
    small["arms"] = {"cosine": small["arms"]["cosine"]}
    small["checkpoint"] = {"every": "20 updates"}
    undisturbed = isoloss.run(copy.deepcopy(small), tmp_path / "undisturbed", workers=1, quiet=True)
    store, said, stopped = tmp_path / "store", io.StringIO(), []

    def stop() -> None:
        while not stopped:
            time.sleep(0.02)
            if sum(1 for _ in (store / "pieces").rglob("*.json")) >= 2:
                for child in psutil.Process().children(recursive=True):
                    if child.cpu_percent(0.1) > 20 and child.status() != psutil.STATUS_ZOMBIE:
                        os.kill(child.pid, signal.SIGSTOP)
                        stopped.append(child.pid)

    watcher = threading.Thread(target=stop, daemon=True)
    watcher.start()
    results = isoloss.run(small, store, workers=1, patience=4.0, console=Console(file=said, width=300))
    watcher.join(10)
    assert stopped and "silent for 4 s" in said.getvalue()
    assert [r.loss for r in results.results] == [r.loss for r in undisturbed.results]


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_gang_whose_processes_all_fail_trains_the_next_run(
    small: dict[str, Any],
    breaking: Callable[[bool], dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody waits for anybody then; under torchrun there would be no other worker."""
    started: list[local.Worker] = []
    start = local.Pool.start

    def noted(pool: local.Pool) -> local.Worker:
        started.append(start(pool))
        return started[-1]

    monkeypatch.setattr(local.Pool, "start", noted)
    small["training"]["micro_batches"] = 2
    small["grid"] = {"duration": ["20 updates"], "seed": [0]}
    small["schedule"] = {"shape": "constant"}
    small["baseline"]["arm"] = "fine"
    small["arms"] = {
        "broken": {"model": breaking(True)},
        "fine": {"model": breaking(False)},
        "lamb": {"model": breaking(False), "training": {"optimizer": {"name": "lamb", "lr": 0.02}}},
    }
    results = isoloss.run(small, tmp_path / "store", workers=1, processes=2, quiet=True)
    assert {result.arm: result.status for result in results.results} == {
        "broken": "failed",
        "fine": "done",
        "lamb": "done",
    }
    assert "no such luck" in str(results.failures)
    assert len(started) == 1


def test_the_leases_outlive_a_store_that_fails_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "BEAT", 0.01)
    beats = []

    def beat(lease: Lease) -> bool:
        beats.append(lease)
        raise StoreError("no space left")

    monkeypatch.setattr(Lease, "beat", beat)
    with execution._Leases(Store(tmp_path / "store")) as leases:
        assert leases.claim("track")
        begun = time.monotonic()
        while len(beats) < 3 and time.monotonic() < begun + 30:
            time.sleep(0.01)
    assert len(beats) >= 3


def test_who_is_known_to_be_gone() -> None:
    """Only a process of this machine that ended; a lease may be damaged, or another program's."""
    here, me = socket.gethostname(), os.getpid()
    assert not owners.gone(f"{here} {me} {owners.born(me)}")
    assert owners.gone(f"{here} {me} 1")  # somebody else had the number before
    assert not owners.gone(f"elsewhere {me} 1")
    for damaged in ("", here, f"{here} {me}", f"{here} {me} ", f"{here}\0 {me} 1", "a b c d"):
        assert not owners.gone(damaged)
