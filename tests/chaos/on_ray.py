"""Faults of a Ray cluster of two nodes on this machine; only where Ray is installed."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from tests.chaos.case import Case
from tests.chaos.nursery import Driver, descendants
from tests.chaos.studies import command

PRESENT = find_spec("ray") is not None
OBJECTS = 80 * 2**20
QUICK = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
"""A lost node shows after seconds, not after half a minute."""
START = 120.0
"""Seconds that a cluster may need to be there."""


@contextmanager
def cluster() -> Iterator[tuple[str, int]]:
    """(address, process of the second node) of two nodes with a CPU each, kept by a process of its own."""
    folder = Path(tempfile.mkdtemp(prefix="iso-"))  # short: sockets lie under it
    os.environ |= {
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    (folder / "ray").mkdir()
    asking, until_told = os.pipe()
    telling, told = os.pipe()
    keeper = os.fork()
    if keeper == 0:
        os.close(until_told)
        os.close(telling)
        _keep(folder, told, asking)
    os.close(told)
    os.close(asking)
    try:
        with os.fdopen(telling) as news:
            address, node = json.loads(news.readline())
        yield address, node
    finally:
        os.close(until_told)
        os.waitpid(keeper, 0)
        shutil.rmtree(folder, ignore_errors=True)


def _keep(folder: Path, told: int, asking: int) -> None:
    """Never returns: this process keeps a cluster until its pipe closes."""
    try:
        quiet = os.open(os.devnull, os.O_RDWR)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": OBJECTS, "_system_config": QUICK}
        made = Cluster(initialize_head=True, head_node_args=head | {"temp_dir": str(folder / "ray")})
        node = made.add_node(num_cpus=1, object_store_memory=OBJECTS)
        os.write(told, json.dumps([made.address, node.all_processes["raylet"][0].process.pid]).encode() + b"\n")
        os.read(asking, 1)
        made.shutdown()
    finally:
        os._exit(0)


def actor_killed(case: Case) -> None:
    with cluster() as (address, _):
        driver = _start(case, address)
        moment = _moment(case, driver)
        actors = _actors(os.getpid())
        if moment is None or not actors:
            case.missed("SIGKILL of an actor")
        else:
            os.kill(case.chance.choice(actors), signal.SIGKILL)
            case.injected(f"SIGKILL of an actor {moment}")
        case.finish(driver)


def node_killed(case: Case) -> None:
    """With all that runs on it; its work goes on on the other node."""
    with cluster() as (address, node):
        driver = _start(case, address)
        moment = _moment(case, driver)
        if moment is None:
            case.missed("SIGKILL of a node")
        else:
            for pid in [node, *descendants(node)]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            case.injected(f"SIGKILL of a node {moment}")
        case.finish(driver)


def ray_driver_killed(case: Case) -> None:
    """The same cluster serves the next driver."""
    with cluster() as (address, _):
        driver = _start(case, address)
        if case.strike(driver, signal.SIGKILL, "driver", _moment(case, driver)) is None:
            case.finish(driver)
            return
        case.finish(driver, (-signal.SIGKILL,))
        case.finish(_start(case, address))


def _start(case: Case, address: str) -> Driver:
    return case.start(*command("two workers"), "--on", f"ray:{address}")


def _moment(case: Case, driver: Driver) -> str | None:
    """Wait until the store has a random number of pieces."""
    wanted = case.chance.randint(1, int(0.8 * case.truth.pieces))
    while sum(1 for _ in case.store.glob("pieces/*/*/*.json")) < wanted:
        if driver.ended():
            return None
        time.sleep(0.002)
    return None if driver.ended() else f"when {wanted} pieces were stored"


def _actors(ancestor: int) -> list[int]:
    """Processes that train at this moment."""
    found = []
    for pid in descendants(ancestor):
        try:
            name = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::") and b"Actor" in name:
            found.append(pid)
    return found
