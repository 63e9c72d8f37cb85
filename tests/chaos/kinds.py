"""The kinds of faults: each disturbs a study on a fresh store; ``Case.settle`` then runs it again and looks."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import on_ray
from tests.chaos.case import Case
from tests.chaos.hooks import Spoil
from tests.chaos.nursery import Driver
from tests.chaos.studies import command

ENDS = (0, 1, 2)
SINGLE = ("one worker", "two workers")
GANGS = ("two processes a run", "sharded on two")
QUICK_BEAT = 0.25
"""Seconds between the heartbeats of leases where a stall is to outlast them: after four, a lease is stale."""
SILENCE = 4.0
"""Seconds after which a worker is taken to hang: more than it needs to begin on a busy machine."""
DAY = 86_400.0


@dataclass(frozen=True)
class Kind:
    """``disturb`` injects, and ends whatever it started; ``layouts`` that it makes sense for."""

    disturb: Callable[[Case], None]
    says: str
    layouts: tuple[str, ...] = SINGLE + GANGS
    slow: bool = False
    """Starts a Ray cluster: part of the long form only."""


def worker_killed(case: Case) -> None:
    driver = case.start()
    for _ in range(case.chance.choice((1, 1, 2, 4))):
        case.strike(driver, signal.SIGKILL, "worker", case.moment(driver))
    case.finish(driver, (0, 1), {1: "its worker died 3 times"})


def driver_killed(case: Case) -> None:
    for _ in range(case.chance.choice((1, 1, 2))):
        driver = case.start()
        if case.strike(driver, signal.SIGKILL, case.chance.choice(("driver", "all")), case.moment(driver)) is None:
            case.finish(driver)
            return
        case.finish(driver, (-signal.SIGKILL,))


def interrupted(case: Case) -> None:
    """Ctrl-C goes to the driver and its workers alike, also while those still import; twice is an emphatic wish."""
    driver = case.start(importing=case.chance.choice((0.0, case.chance.uniform(0, 1.0))))
    how = case.chance.choice(("once", "twice", "terminated"))
    number = signal.SIGTERM if how == "terminated" else signal.SIGINT
    if case.strike(driver, number, "driver" if how == "terminated" else "all", case.moment(driver)) is None:
        case.finish(driver)
        return
    if how == "twice":
        time.sleep(case.chance.uniform(0, 0.3))
        case.strike(driver, signal.SIGINT, "all", "again")
    case.killed |= how == "terminated"
    words = {130: "isoloss: stopped; what was published stays"}
    case.finish(driver, (-signal.SIGTERM, 0) if how == "terminated" else (0, 130), words)


def driver_paused(case: Case) -> None:
    """Beyond its leases' patience: a second driver takes over, ends, and then the first one comes back."""
    first = case.start(beat=QUICK_BEAT)
    whom = case.chance.choice(("driver", "all"))
    if case.strike(first, signal.SIGSTOP, whom, case.moment(first)) is None:
        case.finish(first)
        return
    case.finish(case.start(beat=QUICK_BEAT))
    first.signal_all(signal.SIGCONT)
    case.finish(first)


def worker_paused(case: Case) -> None:
    driver = case.start(beat=QUICK_BEAT)
    pid = case.strike(driver, signal.SIGSTOP, "worker", case.moment(driver))
    if pid is not None:
        time.sleep(case.chance.uniform(0.1, 1.5))
        _revive(pid)
    case.finish(driver)


def worker_hangs(case: Case) -> None:
    """For ever: it is replaced when it was silent for too long, or somebody presses Ctrl-C twice before."""
    waits = case.chance.random() < 0.7
    driver = case.start(*command(case.record.layout), *(["--patience", f"{SILENCE:g}s"] if waits else []))
    pid = case.strike(driver, signal.SIGSTOP, "worker", case.moment(driver))
    if pid is None or waits:
        case.finish(driver)
        return
    time.sleep(case.chance.uniform(0.2, 1.0))
    driver.signal(signal.SIGINT)
    time.sleep(0.5)
    driver.signal(signal.SIGINT)
    case.finish(driver, (0, 130), {130: "isoloss: stopped; what was published stays"})


def disk_full(case: Case) -> None:
    """A file system that is too small for the store; then a larger one."""
    size = int(case.chance.uniform(0.02, 1.0) * case.truth.bytes)
    case.mounted(size)
    code = case.finish(case.start(), ENDS, dict.fromkeys((1, 2), "no space left"))
    (case.injected if code else case.missed)(f"a disk of {size / 1e3:.0f} kB")
    case.mounted(10 * case.truth.bytes)


def files_limited(case: Case) -> None:
    """No file may grow beyond a limit (RLIMIT_FSIZE): states, curves, or the index."""
    limit = int(2 ** case.chance.uniform(8, 19))
    code = case.finish(case.start(file_limit=limit), ENDS, dict.fromkeys((1, 2), "File too large|cannot"))
    case.injected(f"files limited to {limit} bytes")
    case.record.noticed |= code != 0


def disk_fails(case: Case) -> None:
    """One operation of the disk fails, or none that takes space succeeds any more."""
    role = case.chance.choice(("driver", "worker-0", "worker-0"))
    at = case.chance.randint(1, case.truth.operations // (30 if role == "driver" else 3))
    _spoilt(case, Spoil(role, at, case.chance.choice(("error", "full"))), ENDS)


def rank_dies(case: Case) -> None:
    """While rank 0 saves: it dies in the middle of what it writes, or its partner does."""
    at = case.chance.randint(1, int(0.8 * case.truth.operations))
    _spoilt(case, Spoil("worker-0", at, case.chance.choice(("kill", "kill-partner"))), (0,))


def worker_dies_writing(case: Case) -> None:
    """In the middle of what it writes, or between any two operations of the disk."""
    at = case.chance.randint(1, case.truth.operations // 2)
    _spoilt(case, Spoil("worker-0", at, "kill"), (0,))


def _spoilt(case: Case, spoil: Spoil, ends: tuple[int, ...]) -> None:
    driver = case.start(spoil=spoil)
    case.finish(driver, ends)
    struck = re.search(r"^\d+ spoilt (.*)$", driver.hooks.log.read_text(), re.MULTILINE)
    if struck:
        case.injected(f"{struck[1]}, operation {spoil.at} of {spoil.role}")
    else:
        case.missed(f"{spoil.action} at operation {spoil.at} of {spoil.role}")


def damaged_at_rest(case: Case) -> None:
    """Files of a store that is whole, or half trained."""
    driver = case.start()
    if case.chance.random() < 0.5:
        moment = case.moment(driver)
        driver.signal_all(signal.SIGKILL)
        case.killed = True
        case.finish(driver, (0, -signal.SIGKILL))
        _wait_for_workers(driver)
        case.record.ends[-1] += f" (ended {moment})" if moment else ""
    else:
        case.finish(driver)
    for _ in range(case.chance.choice((1, 1, 2, 3))):
        damage(case, case.chance.choice(("state", "table", "manifest", "index", "lease", "any")))
    if case.damaged and case.chance.random() < 0.5:
        code, found = case.ask("store", "verify", str(case.store), allowed=(0, 1))
        told = json.dumps(found.get("problems", []))
        for name in case.damaged:
            if must_be_named(case.store, name) and Path(name).name.partition(".")[0] not in told:
                case.record.problems.append(f"verify does not name {name}: {told[:600]}")
        case.record.noticed |= code == 1


def damaged_at_work(case: Case) -> None:
    driver = case.start()
    if case.moment(driver) is None:
        case.missed("damage")
    else:
        damage(case, case.chance.choice(("state", "table", "manifest", "any")))
    case.finish(driver, ENDS)


def damage(case: Case, sort: str) -> None:
    """Truncate a random file of the store or flip one of its bits."""
    files = sorted(path for path in case.store.rglob("*") if path.is_file() and path.stat().st_size)
    among = {
        "state": [path for path in files if path.suffix == ".safetensors"],
        "table": [path for path in files if path.suffix == ".parquet"],
        "manifest": [path for path in files if "pieces" in path.parts],
        "index": [path for path in files if path.parent.name == "index"],
        "lease": [path for path in files if "leases" in path.parts],
        "any": [path for path in files if path.name != "format.json"],
    }[sort]
    if not among:
        case.missed(f"damage of a {sort}")
        return
    path = case.chance.choice(among)
    size = path.stat().st_size
    stamp = path.stat()
    if case.chance.random() < 0.5:
        length = case.chance.choice((0, case.chance.randrange(size)))
        os.truncate(path, length)
        how = f"truncated to {length} of {size} bytes"
    else:
        at, bit = case.chance.randrange(size), case.chance.randrange(8)
        with path.open("r+b") as file:
            file.seek(at)
            (byte,) = file.read(1)
            file.seek(at)
            file.write(bytes([byte ^ (1 << bit)]))
        how = f"bit {bit} of byte {at} flipped"
    os.utime(path, (stamp.st_atime, stamp.st_mtime))
    name = path.relative_to(case.store).as_posix()
    case.damaged.append(name)
    case.injected(f"{_kind_of(path)} {name if len(name) < 40 else name[:22] + '...'} {how}")


def _kind_of(path: Path) -> str:
    if path.parent.name == "index":
        return "index"
    return {".safetensors": "state", ".parquet": "table", ".json": "manifest"}.get(path.suffix, "lease")


def must_be_named(store: Path, name: str) -> bool:
    """Whether ``verify`` has to speak of a damaged file: manifests, and what manifests of kept states refer to."""
    if name.startswith("pieces/"):
        return True
    if not name.startswith("blobs/"):
        return False
    released = {path.name for path in (store / "released").glob("*")}
    blob = Path(name).name.partition(".")[0]
    for manifest in (store / "pieces").rglob("*.json"):
        if blob.encode() in manifest.read_bytes():
            return name.endswith(".parquet") or manifest.parent.name not in released
    return False


def clock_jumps(case: Case) -> None:
    """In the middle of a run, for the driver, its workers and the times they stamp on files; and between runs."""
    for _ in range(case.chance.choice((1, 2))):
        seconds = case.chance.choice((-1, 1)) * DAY * 10 ** case.chance.uniform(-3, 3.5)
        at = case.chance.randint(1, 60)
        driver = case.start(clock=(at, seconds))
        moment = case.moment(driver) if case.chance.random() < 0.7 else None
        if moment:
            driver.signal_all(signal.SIGKILL)
            case.killed = True
        case.finish(driver, (0, -signal.SIGKILL))
        _wait_for_workers(driver)
        case.injected(f"the clock jumped by {seconds / DAY:+.3g} days at its reading {at}")
        move_times(case)


def move_times(case: Case) -> None:
    """All files of the store seem to be written at another time."""
    days = case.chance.choice((-1, 1)) * 10 ** case.chance.uniform(-3, 3)
    case.stamp(lambda written: max(0.0, written + days * DAY))
    case.injected(f"all files written {days:+.3g} days later")


def two_drivers(case: Case) -> None:
    """At once, on one store: while nobody stalls, every piece is trained once."""
    first = case.start()
    delay = case.chance.choice((0.0, case.chance.uniform(0, case.truth.seconds)))
    time.sleep(delay)
    second = case.start()
    case.injected(f"a second driver {delay:.2f} s after the first")
    for driver in (first, second):
        case.finish(driver)
    if twice := case.published_twice():
        case.record.problems.append(f"{twice} pieces were trained by both drivers")


def one_of_two_killed(case: Case) -> None:
    """Its partner takes over at once: on one machine a dead owner is known to be gone."""
    first, second = case.start(), case.start()
    struck = case.strike(first, signal.SIGKILL, case.chance.choice(("driver", "all")), case.moment(first))
    case.finish(first, (0,) if struck is None else (-signal.SIGKILL,))
    case.finish(second)


def upkeep_meanwhile(case: Case) -> None:
    """``gc`` and ``verify`` while others train."""
    driver = case.start()
    for _ in range(case.chance.choice((1, 2, 3))):
        moment = case.moment(driver)
        if moment is None or not (case.store / "format.json").exists():
            case.missed("upkeep")
            continue
        what = case.chance.choice((["gc"], ["verify"], ["verify", "--repair"]))
        case.ask("store", what[0], str(case.store), *what[1:])
        case.injected(f"store {' '.join(what)} {moment}")
    case.finish(driver)


def several(case: Case) -> None:
    """A few faults in a row, run after run."""
    steps = (worker_killed, driver_killed, files_limited, disk_fails, worker_paused, _rest, _rest)
    for _ in range(case.chance.choice((2, 3, 4))):
        case.chance.choice(steps)(case)


def _rest(case: Case) -> None:
    """Between two runs."""
    if case.store.exists():
        case.chance.choice((lambda: damage(case, "any"), lambda: move_times(case)))()


def _revive(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def _wait_for_workers(driver: Driver) -> None:
    """What is written to a store that nobody works on is damage at rest."""
    until = time.monotonic() + 10
    while driver.workers() and time.monotonic() < until:
        time.sleep(0.005)


KINDS: dict[str, Kind] = {
    "worker killed": Kind(worker_killed, "SIGKILL of workers"),
    "worker dies writing": Kind(worker_dies_writing, "SIGKILL of a worker between or in the middle of writes", SINGLE),
    "driver killed": Kind(driver_killed, "SIGKILL of the driver, or of it and its workers"),
    "interrupted": Kind(interrupted, "Ctrl-C once or twice, or SIGTERM"),
    "driver paused": Kind(driver_paused, "SIGSTOP beyond its leases, a second driver takes over, SIGCONT"),
    "worker paused": Kind(worker_paused, "SIGSTOP of a worker, then SIGCONT"),
    "worker hangs": Kind(worker_hangs, "SIGSTOP of a worker for ever"),
    "disk full": Kind(disk_full, "a small file system runs full"),
    "files limited": Kind(files_limited, "no file may grow beyond a limit"),
    "disk fails": Kind(disk_fails, "an operation of the disk fails, or there is no space from then on", SINGLE),
    "damaged at rest": Kind(damaged_at_rest, "files truncated or bits flipped between runs", SINGLE),
    "damaged at work": Kind(damaged_at_work, "a file truncated or a bit flipped under a run", SINGLE),
    "clock jumps": Kind(clock_jumps, "the clock jumps, and the times of files move"),
    "two drivers": Kind(two_drivers, "two drivers at once on one store"),
    "one of two killed": Kind(one_of_two_killed, "two drivers, of which one is killed"),
    "rank dies": Kind(rank_dies, "a process of a gang dies in the middle of a checkpoint", GANGS),
    "upkeep meanwhile": Kind(upkeep_meanwhile, "gc and verify while others train", SINGLE),
    "several": Kind(several, "two to four of these faults in a row", SINGLE),
}
if on_ray.PRESENT:
    KINDS |= {
        "Ray actor killed": Kind(on_ray.actor_killed, "SIGKILL of a Ray actor", SINGLE[1:], slow=True),
        "Ray node killed": Kind(on_ray.node_killed, "SIGKILL of a Ray node", SINGLE[1:], slow=True),
        "Ray driver killed": Kind(on_ray.ray_driver_killed, "SIGKILL of a driver on Ray", SINGLE[1:], slow=True),
    }
