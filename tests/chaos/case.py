"""One case: a study on a fresh store, faults at moments drawn from a seed, and what must hold afterwards."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos.hooks import Hooks
from tests.chaos.nursery import Driver, descendants
from tests.chaos.studies import Undisturbed, asked, bits, command, written

RERUNS = 4
"""How often a study is run again at most before it ends well."""
SIGNS = ("its worker died", "planning again", "failed ")
"""What a command says where it noticed something."""


@dataclass
class Record:
    """How a case went: what is counted."""

    number: int
    kind: str
    layout: str = ""
    faults: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    noticed: bool = False
    twice: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def outcome(self) -> str:
        """``failed``; ``healed``: something was seen and is whole again; ``harmless``: nobody saw anything."""
        if self.problems:
            return "failed"
        if not self.faults:
            return "nothing injected"
        return "healed" if self.noticed else "harmless"

    def line(self) -> str:
        """The case in one line."""
        faults = "; ".join(self.faults) or "nothing injected"
        missed = f" (came too late: {'; '.join(self.missed)})" if self.missed else ""
        ends = ", ".join(self.ends)
        twice = f"; {self.twice} pieces published twice" if self.twice else ""
        problems = "".join(f"\n    PROBLEM {problem}" for problem in self.problems)
        return (
            f"#{self.number:03d} {self.kind} [{self.layout}]: {faults}{missed} -> {ends}{twice}: {self.outcome} "
            f"({self.seconds:.1f} s){problems}"
        )


class Case:
    """Starts commands, waits for moments, injects, and checks in the end."""

    def __init__(self, record: Record, seed: str, folder: Path, truth: Undisturbed, layouts: Collection[str]) -> None:
        self.record, self.truth = record, truth
        self.chance = Random(seed)
        self.folder = written(folder)
        self.store = folder / "disk" / "store"
        self.record.layout = self.chance.choice(sorted(layouts))
        self.drivers: list[Driver] = []
        self.damaged: list[str] = []
        self.killed = self.moved = False
        os.environ["TMPDIR"] = str(folder / "temporary")
        os.environ["ISOLOSS_CACHE"] = str(folder / "cache")

    def start(self, *given: str, **hooks: Any) -> Driver:
        """``isoloss`` with the command given, or ``isoloss run`` of the study."""
        log = self.folder / f"log-{len(self.drivers)}"
        log.touch()
        self.drivers.append(Driver(given or command(self.record.layout), self.folder, Hooks(log, **hooks)))
        return self.drivers[-1]

    def moment(self, driver: Driver) -> str | None:
        """Wait for a random moment of a run; which one it was, or None if the command had ended before."""
        if self.chance.random() < 0.3:
            delay = self.chance.uniform(0, 1.2 * self.truth.seconds)
            until = driver.begun + delay
            while time.monotonic() < until and not driver.ended():
                time.sleep(0.001)
            return None if driver.ended() else f"{delay:.2f} s after its start"
        at = self.chance.randint(1, self.truth.operations)
        with driver.hooks.log.open("rb") as log:
            count = 0
            while count < at:
                count += log.read().count(b"\n")
                if driver.ended():
                    return None
                time.sleep(0.0005)
        time.sleep(self.chance.uniform(0, 0.002))
        return None if driver.ended() else f"at operation {at} of the disk"

    def injected(self, what: str) -> None:
        """A fault has struck."""
        self.record.faults.append(what)

    def missed(self, what: str) -> None:
        """A fault came too late."""
        self.record.missed.append(what)

    def strike(self, driver: Driver, number: int, whom: str, moment: str | None) -> int | None:
        """A signal to the ``driver``, ``all`` of it, or a random ``worker``; whose pid is returned."""
        name = f"{signal.Signals(number).name} of {'the driver and its workers' if whom == 'all' else 'a ' + whom}"
        workers = driver.workers() if whom == "worker" else [driver.pid]
        if moment is None or not workers or driver.ended():
            self.missed(name)
            return None
        pid = self.chance.choice(workers)
        try:
            os.killpg(pid, number) if whom == "all" else os.kill(pid, number)
        except ProcessLookupError:
            self.missed(name)
            return None
        if number == signal.SIGKILL and whom != "worker":
            if driver.wait() != -number:  # it was leaving at that moment
                self.missed(name)
                return None
            self.killed = True
        self.injected(f"{name} {moment}")
        return pid

    def finish(self, driver: Driver, allowed: Collection[int] = (0,), words: Mapping[int, str] | None = None) -> int:
        """Wait for the end of a command, and judge its exit code and what it said.

        ``words``: what it must have said (a pattern), by exit code.
        """
        name = " ".join(driver.command[:2] if driver.command[0] == "store" else driver.command[:1])
        code = driver.wait()
        said = re.sub(r"\s+", " ", driver.said())
        if code is None:
            self.record.problems.append(f"`isoloss {name}` hung; it had said: {said[-400:]}")
            self.killed = True
            return -signal.SIGKILL
        self.record.ends.append(f"{name} {code}")
        if code not in allowed:
            self.record.problems.append(f"`isoloss {name}` ended with {code}, allowed {sorted(allowed)}: {said[-600:]}")
        if "Traceback" in said:
            self.record.problems.append(f"`isoloss {name}` printed a traceback: {said[-1500:]}")
        if not driver.cut():
            self._listen(name, code, driver.said(), (words or {}).get(code))
        if name == "run" and (code != 0 or any(sign in said for sign in SIGNS)):
            self.record.noticed = True
        return code

    def _listen(self, name: str, code: int, said: str, wanted: str | None) -> None:
        """One line says why it failed, in the words that are wanted."""
        lines = [line for line in said.splitlines() if line.startswith("isoloss: ")]
        said = re.sub(r"\s+", " ", said)
        if len(lines) > 1 or (code > 0 and name == "run" and not lines and "failed " not in said):
            self.record.problems.append(
                f"`isoloss {name}` ended with {code} and {len(lines)} lines that say why: {said[-400:]}"
            )
        if wanted and not re.search(wanted, said):
            self.record.problems.append(
                f"`isoloss {name}` ended with {code} and does not say {wanted!r}: {said[-400:]}"
            )

    def ask(self, *given: str, allowed: Collection[int] = (0,)) -> tuple[int, dict[str, Any]]:
        """Exit code and JSON of a command about the store."""
        driver = self.start(*given, "--json")
        code = self.finish(driver, allowed)
        try:
            return code, json.loads(driver.said())
        except ValueError:
            self.record.problems.append(f"`isoloss {' '.join(given)}` printed no JSON: {driver.said()[-400:]}")
            return code, {}

    def settle(self) -> None:
        """The store is whole before anybody mends it; run the study until it is done too; then look at everything."""
        if (self.store / "format.json").exists() and not self.damaged:
            self.ask("store", "verify", str(self.store))
        for _ in range(RERUNS):
            allowed = (0, 1, 2) if self.damaged else (0,)
            if self.finish(self.start(), allowed) == 0 or self.record.problems:
                break
        else:
            self.record.problems.append(f"the study was not whole after {RERUNS} runs")
        if self.damaged:
            # What no run had to read still lies there damaged, named by verify.
            code, _ = self.ask("store", "verify", str(self.store), "--repair", allowed=(0, 1))
            self.record.noticed |= code == 1
            self.finish(self.start())
        self.ask("store", "verify", str(self.store))
        if self.moved:
            # The clock is put right again: what was stamped in the future could not be swept before.
            self.stamp(lambda written: min(written, time.time() - 1))
        self.ask("store", "gc", str(self.store), "--grace", "0")
        _, verified = self.ask("store", "verify", str(self.store))
        left = {what: count for what, count in verified.get("counts", {}).items() if count and what in ORPHANS}
        if left:
            self.record.problems.append(f"gc left orphans: {left}")
        found = asked(partial(bits, self.folder))
        if "error" in found:
            self.record.problems.append(found["trace"])
        else:
            self.record.problems += self.truth.differences(found, holes=bool(self.damaged))[:5]
        self._processes()
        self._temporary()
        self.record.twice = self.published_twice()

    def published_twice(self) -> int:
        """How many publications were of a piece that had been published before."""
        found = Counter(
            tuple(line.split()[2:4])
            for log in self.folder.glob("log-*")
            for line in log.read_text().splitlines()
            if line.split()[1:2] == ["published"]
        )
        return sum(count - 1 for count in found.values())

    def _processes(self) -> None:
        """Nothing is left of any driver."""
        until = time.monotonic() + 10
        while left := descendants(os.getpid()):
            if time.monotonic() > until:
                self.record.problems.append(f"left behind: {', '.join(map(_named, left))}")
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                return
            time.sleep(0.01)

    def _temporary(self) -> None:
        """Nothing is left of folders for temporary files, where nobody was killed who could have removed them."""
        left = [path.name for path in (self.folder / "temporary").iterdir()]
        if left and not self.killed:
            self.record.problems.append(f"temporary files were left behind: {left}")

    def stamp(self, moved: Callable[[float], float]) -> None:
        """Give all files of the store other times of writing."""
        self.moved = True
        for path in [path for path in self.store.rglob("*") if path.is_file()]:
            at = moved(path.stat().st_mtime)
            os.utime(path, (at, at))

    def mounted(self, size: int) -> None:
        """A small file system of its own for the store, or the same one with another size."""
        disk = self.folder / "disk"
        again = ["-o", f"remount,size={size}"] if disk.is_mount() else ["-t", "tmpfs", "-o", f"size={size}"]
        subprocess.run(["mount", *again, "none", str(disk)], check=True, capture_output=True)

    def close(self) -> None:
        """End and remove everything."""
        for pid in descendants(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        unmount(self.folder)
        if not self.record.problems:
            shutil.rmtree(self.folder, ignore_errors=True)


ORPHANS = ("blobs nothing refers to", "unfinished files", "files in quarantine")


def unmount(folder: Path) -> None:
    """Give up the small file system of a case, if it has one."""
    if (folder / "disk").is_mount():
        subprocess.run(["umount", "-l", str(folder / "disk")], check=True, capture_output=True)


def _named(pid: int) -> str:
    """A process in a few words: its state and command line."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return f"{pid} ({state}) {Path(f'/proc/{pid}/cmdline').read_text()[:100]!r}"
    except OSError:
        return str(pid)
