"""Workers that are actors of a Ray cluster.

A worker is an actor (for several processes a run: a gang of actors in a placement group, packed) that lives as long as
the driver and takes one segment after the other, so that Python, torch and the data are loaded once, as with local
workers; a Ray task a segment would load them again and again. The driver asks every actor for its news with one call
that is always outstanding and comes back when something happened: bounded traffic, and a death is heard as the call's
error. Nothing is detached: actors end with their driver, and Ray's own retries are off, because a segment that is
tried again goes on from its newest stored piece, which only the driver knows.

Ray Train is not used. ``TorchTrainer.fit`` starts and ends its processes for every training, keeps checkpoints and
results in a storage of its own, needs pandas and pyarrow, and gives in return a rendezvous: here the gang's first
actor opens a ``TCPStore`` and the others join it.

A node is used only after an actor on it has found, at the store's address, the probe that the driver wrote, the same
isoloss, and the numerics of the plan. Others are refused, with one line each.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
import ray.util.scheduling_strategies
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from isoloss.execute import dispatch
from isoloss.execute.dispatch import Message
from isoloss.execute.job import Job
from isoloss.execute.ray_actor import PROBE, Actor, Expected, program
from isoloss.execute.worker import Setting
from isoloss.recipe.errors import StoreError, StudyError
from isoloss.store import Store
from isoloss.train.parallel.layout import ALONE, Parallel

CALL = 1.0
"""Seconds that a call for news stays with an actor when nothing happens."""
SILENCE = 120.0
"""Seconds without an answer after which an actor counts as lost."""
WARN = 30.0
"""Seconds after which a person is told that the cluster has no room."""
UNSTARTED = 3
"""How many workers in a row may die before they are up."""
RETURN = 60.0
"""Seconds that a cluster whose nodes are all gone has to get new ones."""
OBJECT_STORE = 100 * 2**20
"""Bytes of Ray's object store on a node that is started here: only messages pass through it."""


class Worker(dispatch.Worker):
    """A gang of actors (mostly of one), seen from the driver."""

    def __init__(self, actors: list[Any], group: Any) -> None:
        super().__init__(len(actors))
        self.actors, self.group = actors, group
        self.nodes: set[str] = set()
        self._calls: dict[int, Any] = {}
        self._asked: dict[int, float] = {}
        self._trains: dict[int, Any] = {}
        self._inbox: list[Message] = []
        self._died: str | None = None

    def deliver(self, job: Job) -> None:
        for rank, actor in enumerate(self.actors):
            self._trains[rank] = actor.train.remote(job)

    def halt(self) -> None:
        for actor in self.actors:
            actor.halt.remote()

    def calls(self) -> list[Any]:
        """The calls that are outstanding, one an actor."""
        for rank, actor in enumerate(self.actors):
            if self._died is None and rank not in self._calls:
                self._calls[rank], self._asked[rank] = actor.news.remote(CALL), time.monotonic()
        return list(self._calls.values())

    def listen(self, within: float = 0.0) -> bool:
        """Take in what has come back; whether that changes anything."""
        before = len(self._inbox), self._died
        if self.calls():
            ray.wait(self.calls(), num_returns=1, timeout=within)
        for rank, call in list(self._calls.items()):
            if not ray.wait([call], timeout=0)[0]:
                if time.monotonic() - self._asked[rank] > SILENCE:
                    self._died = f"no answer for {SILENCE:g} seconds"
                continue
            del self._calls[rank]
            try:
                self._inbox += [(rank, *news) for news in ray.get(call)]
            except RayError as error:
                self._died = self._died or _reason(error)
        for rank, train in list(self._trains.items()):
            if ray.wait([train], timeout=0)[0]:
                del self._trains[rank]
                try:
                    ray.get(train)
                except RayActorError as error:
                    self._died = self._died or _reason(error)
                except RayError as error:
                    number = self.job.id if self.job else -1
                    self._inbox.append((rank, "failed", number, (type(error).__name__, _reason(error))))
        return (len(self._inbox), self._died) != before

    def messages(self) -> Iterator[Message]:
        while self._inbox:
            yield self._inbox.pop(0)

    def death(self, within: float = 0.0) -> str | None:
        if within and self._died is None:
            # All who live answer; how long it takes to learn that a node is gone is up to Ray.
            answers = [actor.here.remote() for actor in self.actors]
            try:
                ray.get(answers, timeout=SILENCE)
            except GetTimeoutError:
                self._died = f"no answer for {SILENCE:g} seconds"
            except RayError as error:
                self._died = _reason(error)
        return self._died

    def kill(self) -> None:
        for actor in self.actors:
            with contextlib.suppress(RayError, ValueError):
                ray.kill(actor)
        if self.group is not None:
            with contextlib.suppress(RayError, ValueError):
                ray.util.remove_placement_group(self.group)


@dataclass
class _Coming:
    """A worker on its way: asked for, then checked, then (a gang) joined."""

    worker: Worker
    answers: list[Any]
    joins: list[Any] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)


class Pool(dispatch.Pool):
    """Workers on the nodes of a Ray cluster; use as a context.

    ``workers`` 0: as many as the cluster has room for. ``memory``: bytes a process needs. ``expected``: the
    numerics records that the plan has in its keys. ``say`` tells a person one line.
    """

    def __init__(
        self,
        store: Store,
        address: str,
        *,
        under: Sequence[Path | str] = (),
        workers: int = 0,
        parallel: Parallel = ALONE,
        threads: int = 1,
        gpus: float = 0.0,
        memory: int = 0,
        numerics: Sequence[Mapping[str, Any]] = (),
        paths: Sequence[str] = (),
        say: Callable[[str], None] = print,
    ) -> None:
        super().__init__()
        self.setting = Setting(store.location, tuple(map(str, under)), threads, tuple(paths), parallel)
        self.need = {"CPU": float(threads), "GPU": gpus, "memory": float(memory)}
        self.asked_for = workers
        self.store, self.address, self.say = store, address, say
        self.expected = Expected(tuple(numerics), program(), f"{PROBE}/{secrets.token_hex(8)}")
        self._environment = {k: v for record in numerics for k, v in record.get("environment", {}).items()}
        self._coming: list[_Coming] = []
        self._up: list[Worker] = []
        self._refused: dict[str, str] = {}
        self._unstarted = 0
        self._halted = self._warned = False
        self._room = (0.0, 0)
        self._ever = False
        self._empty_since: float | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Pool:
        strength = self.setting.world * self.setting.threads
        self._stack.enter_context(connected(self.address, self.asked_for * strength or strength))
        # Ray's remarks go where messages go: standard output is for the answer.
        self._stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        self._stack.callback(self._end)
        return self

    def __exit__(self, *problem: Any) -> None:
        self._stack.__exit__(*problem)

    def _end(self) -> None:
        for worker in [*self.workers, *self._up, *(coming.worker for coming in self._coming)]:
            worker.kill()
        with contextlib.suppress(StoreError):
            self.store.top.backend.delete(self.expected.probe)

    # Workers and how they come

    def order(self, ready: int) -> None:
        if self.halting.is_set() and not self._halted:
            self._halted = True
            for worker in self.workers:
                assert isinstance(worker, Worker)
                worker.halt()
        self._welcome()
        busy = sum(worker.job is not None for worker in self.workers)
        size = self.asked_for or self.room()
        wanted = min(size, busy + ready)
        there = len(self.workers) + len(self._up)
        while there + len(self._coming) < wanted and self.trouble is None:
            try:
                self._coming.append(self._ask())
            except (ValueError, TypeError) as error:
                if not self._refused:
                    raise
                # Ray before 2.49 cannot be told to avoid a node.
                self.trouble = f"{'; '.join(self._refused.values())}; and this Ray cannot avoid a node ({error})"
        while self._coming and there + len(self._coming) > size:
            self._coming.pop().worker.kill()
        self._judge_room(ready > 0 and there == 0, size)
        if self._coming and not there and not self._warned and time.monotonic() - self._coming[0].since > WARN:
            self._warned = True
            self.say(f"waiting for room on the cluster: {len(self._coming)} workers of {self._wish()} are asked for")

    def vacant(self) -> bool:
        return bool(self._up)

    def start(self) -> Worker:
        worker = self._up.pop(0)
        self.workers.append(worker)
        return worker

    @property
    def expecting(self) -> bool:
        return bool(self._coming or self._up or self._empty_since)

    def heard(self, busy: Sequence[dispatch.Worker]) -> list[dispatch.Worker]:
        mine = [worker for worker in busy if isinstance(worker, Worker)]
        waited = [call for worker in mine for call in worker.calls()]
        waited += [answer for coming in self._coming for answer in coming.joins or coming.answers]
        if waited:
            ray.wait(waited, num_returns=1, timeout=0.2)
        else:
            time.sleep(0.05)
        return [worker for worker in mine if worker.listen()]

    def idle(self) -> list[dispatch.Worker]:
        for worker in self.workers:
            if isinstance(worker, Worker) and worker.job is None:
                worker.listen()
        return super().idle()

    def discard(self, worker: dispatch.Worker) -> None:
        super().discard(worker)
        # Those who wait on the same node may be gone with it: better to start others than to try each of them.
        if worker.death() and isinstance(worker, Worker):
            for other in [w for w in self.workers if isinstance(w, Worker)]:
                if other.job is None and other.nodes & worker.nodes:
                    super().discard(other)

    def _ask(self) -> _Coming:
        """Ask the cluster for one more worker."""
        self.store.top.backend.put_new(self.expected.probe, (b"reached",), durable=False)
        world = self.setting.world
        options: dict[str, Any] = {
            "num_cpus": self.need["CPU"],
            "num_gpus": self.need["GPU"],
            "memory": int(self.need["memory"]),
            "max_restarts": 0,
            "max_task_retries": 0,
        }
        if self._environment:
            options["runtime_env"] = {"env_vars": self._environment}
        avoid = {"ray.io/node-id": f"!in({','.join(sorted(self._refused))})"} if self._refused else None
        group = None
        if world > 1:
            share = {name: amount for name, amount in self.need.items() if amount}
            selectors = {"bundle_label_selector": [avoid] * world} if avoid else {}
            group = ray.util.placement_group([share] * world, strategy="PACK", **selectors)
        elif avoid:
            options["label_selector"] = avoid
        make: Any = ray.remote
        remote = make(concurrency_groups={"train": 1, "talk": 1})(Actor)
        actors: list[Any] = []
        for rank in range(world):
            place: Any = "SPREAD"
            if group is not None:
                place = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(group, rank)
            made = remote.options(**options, scheduling_strategy=place)
            actors.append(made.remote(replace(self.setting, rank=rank)))
        worker = Worker(actors, group)
        return _Coming(worker, [actor.check.remote(self.expected) for actor in actors])

    def _welcome(self) -> None:
        """See who has arrived."""
        refused: list[tuple[str, str, str]] = []
        for coming in list(self._coming):
            waited = coming.joins or coming.answers
            if len(ray.wait(waited, num_returns=len(waited), timeout=0)[0]) < len(waited):
                continue
            try:
                answers = ray.get(waited)
            except RayError as error:
                self._coming.remove(coming)
                coming.worker.kill()
                self._unstarted += 1
                if self._unstarted >= UNSTARTED:
                    self.trouble = f"workers on the cluster die before they are up: {_reason(error)}"
                continue
            unfit = [] if coming.joins else [answer for answer in answers if answer[2]]
            if unfit:
                self._coming.remove(coming)
                coming.worker.kill()
                refused += unfit
            elif coming.joins or coming.worker.strength == 1:
                self._coming.remove(coming)
                self._unstarted = 0
                self._up.append(coming.worker)
            else:
                meeting = coming.worker.actors[0].meet.remote()
                coming.joins = [actor.join.remote(meeting) for actor in coming.worker.actors]
            if not coming.joins:
                coming.worker.nodes = {answer[0] for answer in answers}
        if refused:
            self._refuse(refused)

    def _refuse(self, nodes: Sequence[tuple[str, str, str]]) -> None:
        for node, name, why in nodes:
            if node not in self._refused:
                self._refused[node] = f"node {name} is refused: {why}"
                self.say(self._refused[node])
        self._room = (0.0, 0)
        # Others may be on their way to the same nodes: they are asked for anew.
        while self._coming:
            self._coming.pop().worker.kill()

    # Room

    def room(self) -> int:
        """How many workers the nodes that serve could hold, whoever uses them now; asked every other second."""
        asked, size = self._room
        if time.monotonic() - asked > 2:
            size = sum(self._fits(node["Resources"]) for node in self._nodes()) // self.setting.world
            self._room = (time.monotonic(), size)
        return size

    def _judge_room(self, needed: bool, size: int) -> None:
        """Give up where no node will do; one that had workers may get nodes again."""
        self._ever = self._ever or bool(self.workers)
        if self._refused and not self._nodes() and not self.workers:
            self.trouble = "no node of the cluster can serve: " + "; ".join(self._refused.values())
        elif not needed or size > 0:
            self._empty_since = None
        elif self._empty_since is None and self._ever:
            self._empty_since = time.monotonic()
        elif self._empty_since is None or time.monotonic() - self._empty_since > RETURN:
            self.trouble = self._no_room()

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in self._refused]

    def _fits(self, resources: Mapping[str, float]) -> int:
        return min(int(resources.get(name, 0.0) / amount) for name, amount in self.need.items() if amount)

    def _wish(self) -> str:
        many = f"{self.setting.world} x " if self.setting.world > 1 else ""
        gpus = f", {self.need['GPU']:g} GPUs" if self.need["GPU"] else ""
        return f"{many}{self.need['CPU']:g} CPUs{gpus}, {self.need['memory'] / 2**30:.1f} GiB"

    def _no_room(self) -> str:
        found = [
            ", ".join(f"{node['Resources'].get(name, 0):g} {name}s" for name in ("CPU", "GPU"))
            + f", {node['Resources'].get('memory', 0) / 2**30:.1f} GiB"
            for node in self._nodes()
        ]
        return f"the cluster has no room for a worker of {self._wish()}; its nodes: {'; '.join(found) or 'none'}"


def _reason(error: BaseException) -> str:
    """The first line of what Ray says that tells something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("class_name:", "actor_id:", "pid:", "namespace:", "ip:"))]
    return (telling or [type(error).__name__])[0].rstrip(".")


@contextlib.contextmanager
def connected(address: str, cpus: int) -> Iterator[None]:
    """A connection to the cluster that ``--on`` names; one that was there before stays.

    ``ray``: a cluster that runs on this machine (or at ``RAY_ADDRESS``), else one is started for as long as this
    lasts, with ``cpus`` or this machine's cores; ``ray:local``: one is started in any case; ``ray:auto``: it must run;
    ``ray:HOST:PORT``: a cluster that this machine is a node of; ``ray://HOST:PORT``: a cluster elsewhere, through Ray
    Client. Raises ``StudyError`` where there is none.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address == "ray":
            try:
                ray.init(address="auto", **quiet)
            except ConnectionError:
                _start(cpus, quiet)
        elif address == "ray:local":
            _start(cpus, quiet)
        else:
            ray.init(address=address if address.startswith("ray://") else address.removeprefix("ray:"), **quiet)
    except (ConnectionError, RuntimeError, ValueError, ImportError, RayError) as error:
        raise StudyError(f"--on {address}: {_reason(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _start(cpus: int, quiet: Mapping[str, Any]) -> None:
    """A cluster of this machine alone, with ``cpus`` or as many as there are cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ray.init(
        address="local",
        num_cpus=max(cores, cpus),
        include_dashboard=False,
        object_store_memory=OBJECT_STORE,
        **quiet,
    )
