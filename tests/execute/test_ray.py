"""Ray beside local execution: the same bits, whatever is killed, removed or refused on the way."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console
from tests.conftest import SMALL
from tests.execute.conftest import OBJECTS

import isoloss
from isoloss.execute.job import Job
from isoloss.execute.run import Options
from isoloss.recipe.errors import RunFailed, StudyError
from isoloss.store import Store

ray = pytest.importorskip("ray", reason="the extra isoloss[ray] is not installed")
pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]


def bits(store: Path) -> dict[str, Any]:
    """Digest of every state, and every measurement, by key."""
    with Store(store, create=False) as opened:
        assert opened.verify().clean
        keys = {row.end_key for row in opened.pieces()}
        return {key: opened.digest(key) for key in keys} | {"measured": opened.measurements(keys)}


def long_study() -> dict[str, Any]:
    """Long enough to be disturbed: four runs of 20 pieces."""
    study = copy.deepcopy(SMALL)
    study["arms"] = {"cosine": study["arms"]["cosine"]}
    study["grid"] = {"duration": ["400 updates"], "seed": [0, 1, 2, 3]}
    study["evaluation"]["every"] = "200 updates"
    study["checkpoint"]["every"] = "20 updates"
    return study


@pytest.fixture(scope="module")
def small_local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("small") / "store"
    isoloss.run(copy.deepcopy(SMALL), store, workers=2, quiet=True)
    return store


@pytest.fixture(scope="module")
def long_local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("long") / "store"
    isoloss.run(long_study(), store, workers=2, quiet=True)
    return store


def run(cluster: Any, study: dict[str, Any], store: Path, **options: Any) -> tuple[Any, str]:
    """(results, what was said)."""
    said = io.StringIO()
    console = Console(file=said, width=300)
    return isoloss.run(study, store, on=f"ray:{cluster.address}", console=console, **options), said.getvalue()


def pieces(store: Path) -> int:
    return sum(1 for _ in (store / "pieces").rglob("*.json")) if store.exists() else 0


def actors(ancestor: psutil.Process) -> list[psutil.Process]:
    """Processes of actors, those included that are still starting."""
    found = []
    for process in ancestor.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.name().startswith("ray::") and "Actor" in " ".join(process.cmdline()):
                found.append(process)
    return found


@contextlib.contextmanager
def meanwhile(store: Path, count: int, act: Callable[[], None]) -> Iterator[list[BaseException]]:
    """``act`` once the store has ``count`` pieces; yields what went wrong in it."""
    problems: list[BaseException] = []

    def wait() -> None:
        try:
            until = time.monotonic() + 60
            while pieces(store) < count and time.monotonic() < until:
                time.sleep(0.02)
            act()
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    yield problems
    thread.join()
    assert not problems, problems


def test_two_nodes_give_the_bits_of_this_machine(cluster: Any, tmp_path: Path, small_local: Path) -> None:
    """Branches begin when their fork is stored: nothing is trained twice, no state is missed."""
    results, said = run(cluster, copy.deepcopy(SMALL), tmp_path / "store")
    assert {r.status for r in results.results} == {"done"}
    assert (results.trained, results.replayed) == (2 * (20 + 40 - 4 + (40 - 4) + 4 + 8), 0)
    assert "planning again" not in said
    assert "refused" not in said
    assert bits(tmp_path / "store") == bits(small_local)
    assert not list((tmp_path / "store" / "leases" / "reach").iterdir())


def test_a_killed_worker_and_a_node_that_vanishes(
    cluster: Any, tmp_path: Path, long_local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their work goes on elsewhere, from the newest stored pieces."""
    from isoloss.execute.ray import Worker

    store = tmp_path / "store"
    node = cluster.add_node(num_cpus=1, object_store_memory=OBJECTS)
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    employed: list[Worker] = []
    deliver = Worker.deliver

    def noted(worker: Worker, job: Job) -> None:
        deliver(worker, job)
        employed.append(worker)

    monkeypatch.setattr(Worker, "deliver", noted)

    def disturb() -> None:
        until = time.monotonic() + 120
        # A process that is there may still be on its way to be a worker: its end would be no worker's death.
        while len({id(worker) for worker in employed if worker.job}) < 3:
            assert time.monotonic() < until, "three workers never trained at once"
            time.sleep(0.02)
        lost = actors(raylet)
        others = [actor for actor in actors(psutil.Process()) if actor not in lost]
        assert (len(lost), len(others)) == (1, 2)
        others[0].kill()
        time.sleep(0.2)
        cluster.remove_node(node, allow_graceful=False)

    with meanwhile(store, 8, disturb):
        results, said = run(cluster, long_study(), store, workers=3)
    assert {r.status for r in results.results} == {"done"}
    assert said.count("its worker died") == 2
    assert bits(store) == bits(long_local)


def test_a_gang_that_loses_a_process_goes_on(cluster: Any, tmp_path: Path) -> None:
    """Two processes on two nodes share the micro-batches; when one is killed the other fails, but not the run.

    The end has the bits of one process.
    """
    study = long_study()
    study["training"]["micro_batches"] = 2
    study["grid"]["seed"] = [0]
    isoloss.run(study, tmp_path / "one", workers=1, quiet=True)
    store = tmp_path / "gang"

    def kill_last() -> None:
        actors(psutil.Process())[-1].kill()

    with meanwhile(store, 4, kill_last):
        results, said = run(cluster, study, store, processes=2)
    assert {r.status for r in results.results} == {"done"}
    assert said.count("its worker died") == 1
    assert bits(store) == bits(tmp_path / "one")


def test_a_node_with_other_numerics_is_refused(cluster: Any, tmp_path: Path, long_local: Path) -> None:
    """Four runs are ready and four CPUs there, so that the node is asked for."""
    node = cluster.add_node(num_cpus=2, object_store_memory=OBJECTS, env_vars={"ATEN_CPU_CAPABILITY": "default"})
    try:
        results, said = run(cluster, long_study(), tmp_path / "store")
        assert {r.status for r in results.results} == {"done"}
        (line,) = [line for line in said.splitlines() if "refused" in line]
        assert "its numbers would have other bits: capability 'DEFAULT' (planned: " in line
        assert bits(tmp_path / "store") == bits(long_local)
    finally:
        cluster.remove_node(node)


def test_a_run_that_fails_is_named(cluster: Any, tmp_path: Path, breaking: Callable[[bool], dict[str, Any]]) -> None:
    """The user's module lies beside the study: workers find it by its path."""
    study = copy.deepcopy(SMALL)
    study["model"] = breaking(False)
    study["arms"] = {"fine": {}, "broken": {"model": breaking(True)}}
    study["schedule"] = {"shape": "constant"}
    study["baseline"]["arm"] = "fine"
    study["grid"] = {"duration": ["20 updates"], "seed": [0]}
    results, _ = run(cluster, study, tmp_path / "store", quiet=True, workers=1)
    assert {(r.arm, r.status) for r in results.results} == {("fine", "done"), ("broken", "failed")}
    (name,) = results.failures
    assert name.startswith("broken")
    assert "no such luck" in results.failures[name]


def test_a_driver_that_dies_and_is_started_again_finds_its_work(cluster: Any, tmp_path: Path, long_local: Path) -> None:
    """SIGKILL, then Ctrl-C, then to the end; nobody trains on behind a dead driver."""
    (tmp_path / "study.yaml").write_text(json.dumps(long_study()))
    store = tmp_path / "store"
    call = f"isoloss.run('study.yaml', 'store', quiet=True, on='ray:{cluster.address}')"
    code = f"import isoloss\nresults = {call}\nprint(results.stopped)\n"

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        begun, until = pieces(store), time.monotonic() + 60
        while pieces(store) < begun + 6 and process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        return process

    killed = start()
    killed.kill()
    killed.communicate()
    until = time.monotonic() + 20
    while actors(psutil.Process()) and time.monotonic() < until:
        time.sleep(0.05)
    assert not actors(psutil.Process())
    stopped = start()
    stopped.send_signal(signal.SIGINT)
    out, errors = stopped.communicate(timeout=60)
    assert (stopped.returncode, out) == (0, "True\n"), errors
    assert "finished first" in errors
    left = isoloss.plan(long_study(), store).missing.updates
    assert 0 < left < 4 * 400
    results, _ = run(cluster, long_study(), store, quiet=True)
    assert results.trained == left
    assert bits(store) == bits(long_local)


def test_a_store_that_nodes_do_not_reach(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a folder looks like that is not shared: at its path is nothing, or another store."""
    from isoloss.execute import ray as on_ray
    from isoloss.execute.ray_actor import PROBE, Expected, program, unfit
    from isoloss.execute.worker import Setting

    elsewhere = str(tmp_path / "elsewhere")

    class Elsewhere(on_ray.Pool):
        def __init__(self, store: Store, address: str, **options: Any) -> None:
            super().__init__(store, address, **options)
            self.setting = replace(self.setting, store=elsewhere)

    monkeypatch.setattr(on_ray, "Pool", Elsewhere)
    with pytest.raises(
        RunFailed, match=r"no node of the cluster can serve: node .* does not reach the store"
    ) as raised:
        run(cluster, copy.deepcopy(SMALL), tmp_path / "store", quiet=True)
    assert f"{elsewhere}: there is no isoloss store" in str(raised.value)
    setting = Setting(elsewhere, (), 1, ())
    expected = Expected((), program(), f"{PROBE}/somebody")
    other = Store(elsewhere)
    assert "what the driver wrote there is missing" in unfit(setting, expected)
    other.top.backend.put_new(expected.probe, (b"",))
    assert unfit(setting, expected) == ""
    assert "its isoloss is another one" in unfit(setting, replace(expected, code="older"))


def test_what_no_node_has_is_said_at_once(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"no room for a worker of 1 CPUs, 1 GPUs, .* its nodes: 1 CPUs, 0 GPUs, "):
        run(cluster, copy.deepcopy(SMALL), tmp_path / "store", quiet=True, gpus=1)


def test_the_environment_that_chooses_kernels_goes_along(cluster: Any, tmp_path: Path) -> None:
    """It is part of the plan's numerics: workers get the driver's."""
    study = copy.deepcopy(SMALL) | {"grid": {"duration": ["20 updates"], "seed": [0]}}
    code = (
        "import isoloss, json\n"
        f"results = isoloss.run(json.loads('''{json.dumps(study)}'''), 'store', quiet=True, "
        f"on='ray:{cluster.address}')\n"
        "print({r.status for r in results.results}, results.stage.planned[0].lowered.run.numerics['capability'])\n"
    )
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "{'done'} DEFAULT", done.stderr


def test_addresses(tmp_path: Path) -> None:
    for wrong in ("spark", "ray:", "ray:host", "ray://host", "rayy"):
        with pytest.raises(StudyError, match=r"--on: found .* allowed: local, ray"):
            Options(on=wrong)
    with pytest.raises(StudyError, match="--gpus: found 1 with --on local"):
        Options(gpus=1)
    for right in ("local", "ray", "ray:auto", "ray:local", "ray:10.0.0.1:6379", "ray://head.example:10001"):
        Options(on=right)


def test_ray_is_not_imported_before_it_is_asked_for() -> None:
    code = "import sys, isoloss, isoloss.facade, isoloss.cli.run; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_ray_one_line_says_what_to_install(
    small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("isoloss.execute.ray")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("isoloss.execute.ray", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(StudyError, match=r"--on ray: Ray is not installed; pip install 'isoloss\[ray\]'"):
        isoloss.run(small, tmp_path / "store", on="ray", quiet=True)
