"""Random faults against a real study: ``python -m tests.chaos.chaos --faults 500 --seed 0``.

Every case trains a tiny study in processes of its own on a fresh store, injects faults at moments drawn from the seed,
runs it again until it is whole, and compares every bit with an undisturbed run. One line a case; a table of counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos.case import Case, Record, unmount
from tests.chaos.kinds import KINDS
from tests.chaos.nursery import adopt
from tests.chaos.studies import Undisturbed, undisturbed

DEADLINE = 400.0
"""Seconds that a case may take."""
RARELY = 4
"""Of so many rounds over all kinds, the slow ones are in one."""
TRIES = 4
"""How often a kind is tried until its fault does not come too late, where one case of each is wanted."""
COUNTS = ("cases", "injected", "healed", "harmless", "published twice", "failures")


def conduct(record: Record, seed: int, folder: Path, truth: Undisturbed) -> None:
    """One case from its beginning to its end, in a process of its own."""
    begun = time.monotonic()
    adopt()
    kind = KINDS[record.kind]
    case = Case(record, f"{seed} {record.number} {record.kind}", folder, truth, kind.layouts)
    try:
        kind.disturb(case)
        case.settle()
    finally:
        case.close()
        record.seconds = time.monotonic() - begun


def launch(record: Record, seed: int, folder: Path, truth: Undisturbed) -> int:
    """A process that conducts a case and writes its record beside its folder; its pid."""
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            conduct(record, seed, folder, truth)
        except BaseException:
            record.problems.append(traceback.format_exc())
        folder.with_suffix(".json").write_text(json.dumps(asdict(record)))
    finally:
        os._exit(0)


class Cases:
    """Cases one after the other, ``jobs`` at a time, numbered from ``first``."""

    def __init__(
        self, seed: int, kinds: Sequence[str], folder: Path, truth: Undisturbed, jobs: int, first: int
    ) -> None:
        self.seed, self.kinds, self.folder, self.truth, self.jobs, self.number = seed, kinds, folder, truth, jobs, first
        self.running: dict[int, tuple[Record, Path, float]] = {}

    def rounds(self) -> Iterator[str]:
        """Kinds without end, in an order that the seed decides."""
        chance, turn = Random(f"{self.seed} order"), 0
        quick = [kind for kind in self.kinds if not KINDS[kind].slow]
        while True:
            yield from (
                chance.sample(self.kinds, len(self.kinds))
                if turn % RARELY == 0 or not quick
                else chance.sample(quick, len(quick))
            )
            turn += 1

    def until(self, faults: int) -> Iterator[Record]:
        """Records as cases end, until so many faults were injected."""
        injected = 0
        for kind in self.rounds():
            while len(self.running) >= self.jobs:
                record = self._ended()
                injected += len(record.faults)
                yield record
            if injected >= faults:
                break
            self._begin(kind)
        while self.running:
            yield self._ended()

    def each(self) -> Iterator[Record]:
        """One case of each kind in which a fault was injected."""
        waiting, tries = list(self.kinds), dict.fromkeys(self.kinds, 0)
        while waiting or self.running:
            while waiting and len(self.running) < self.jobs:
                self._begin(waiting.pop(0))
            record = self._ended()
            tries[record.kind] += 1
            if not record.faults and not record.problems and tries[record.kind] < TRIES:
                waiting.append(record.kind)
            else:
                yield record

    def _begin(self, kind: str) -> None:
        place = self.folder / f"case-{self.number:04d}"
        record = Record(self.number, kind)
        self.running[launch(record, self.seed, place, self.truth)] = record, place, time.monotonic()
        self.number += 1

    def _ended(self) -> Record:
        """Wait for a case; one that takes too long is ended."""
        while True:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid in self.running:
                break
            for late, (record, _, begun) in self.running.items():
                if time.monotonic() - begun > DEADLINE and not record.problems:
                    record.problems.append(f"the case took longer than {DEADLINE:.0f} s")
                    os.killpg(late, signal.SIGKILL)
            time.sleep(0.01)
        record, place, _ = self.running.pop(pid)
        unmount(place)
        told = place.with_suffix(".json")
        if told.exists():
            return Record(**json.loads(told.read_text()))
        record.problems = record.problems or ["the case itself died"]
        return record


def mountable() -> bool:
    """Whether small file systems can be made here."""
    with tempfile.TemporaryDirectory() as folder:
        made = subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=False, capture_output=True)
        return made.returncode == 0 and subprocess.run(["umount", folder], check=False).returncode == 0


def count(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    """Counts by kind, with a row for all."""
    table = {kind: dict.fromkeys(COUNTS, 0) for kind in KINDS if any(record.kind == kind for record in records)}
    for record in records:
        row = table[record.kind]
        row["cases"] += 1
        row["injected"] += len(record.faults)
        row["published twice"] += record.twice
        row["failures"] += record.outcome == "failed"
        for outcome in ("healed", "harmless"):
            row[outcome] += record.outcome == outcome
    return table | {"all": {name: sum(row[name] for row in table.values()) for name in COUNTS}}


def main() -> int:
    """Exit code 0 where every case held."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--faults", type=int, default=500, help="stop once so many were injected")
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--kinds", nargs="+", choices=list(KINDS), metavar="KIND", help="only these")
    asked.add_argument("--each", action="store_true", help="instead: one case of each kind, without those on Ray")
    asked.add_argument("--first", type=int, default=0, help="number of the first case: a number has its own faults")
    asked.add_argument("--jobs", type=int, default=2, help="cases at a time")
    asked.add_argument("--out", type=Path, help="write the counts to this file")
    asked.add_argument("--records", type=Path, help="write what happened in every case to this file")
    given = asked.parse_args()
    kinds = given.kinds or [name for name, kind in KINDS.items() if not (given.each and kind.slow)]
    if "disk full" in kinds and not mountable():
        print("disk full: left out, since no file system can be mounted here")
        kinds.remove("disk full")
    begun = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    records: list[Record] = []
    try:
        cases = Cases(given.seed, kinds, folder, undisturbed(folder / "undisturbed"), given.jobs, given.first)
        for record in cases.each() if given.each else cases.until(given.faults):
            records.append(record)
            print(record.line(), flush=True)
    finally:
        if any(record.problems for record in records):
            print(f"what the failed cases left lies in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    counts, minutes = count(records), (time.monotonic() - begun) / 60
    print(f"\n{'':22}" + "".join(f"{name:>17}" for name in COUNTS))
    for kind, row in counts.items():
        print(f"{kind:22}" + "".join(f"{row[name]:>17}" for name in COUNTS))
    print(f"\nseed {given.seed}, {minutes:.1f} minutes")
    if given.out:
        given.out.write_text(json.dumps(summary(given.seed, minutes, counts), indent=2) + "\n")
    if given.records:
        given.records.write_text(json.dumps([asdict(r) | {"outcome": r.outcome} for r in records], indent=2) + "\n")
    return int(any(record.problems for record in records))


def summary(seed: int, minutes: float, counts: dict[str, dict[str, int]]) -> dict[str, Any]:
    """What is kept of a run of the suite."""
    import torch

    return {
        "seed": seed,
        "minutes": round(minutes, 1),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "counts": counts,
    }


if __name__ == "__main__":
    sys.exit(main())
