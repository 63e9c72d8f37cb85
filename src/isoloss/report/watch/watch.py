"""What there is to see of a study under way, look by look."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from isoloss.plan.demands import folder_of
from isoloss.plan.lower import Lowering
from isoloss.plan.speed import Speeds
from isoloss.recipe.errors import IsolossError
from isoloss.report.tidy import Json
from isoloss.report.watch.leases import Leases, began, named
from isoloss.report.watch.plan import Plan
from isoloss.report.watch.present import Curve, Present
from isoloss.report.watch.reading import Covered, Known, Reading, Seen, span_of
from isoloss.report.watch.records import Records
from isoloss.study import Study, load

RECENT = 32
"""Pieces that the rate is taken over."""
FEWEST = 4
"""Pieces that a rate needs."""
ESTIMATE = 5.0, 100.0
"""Seconds between estimates of the time left, at least, and times what one of them costs."""
MOST_NOTICES = 5


class Watch:
    """One study and its store; ``look`` from one thread, ``records`` from any.

    Raises StudyError where the study is wrong, StoreError where the place cannot be that of a store.
    """

    def __init__(
        self,
        path: str | Path,
        place: str | Path,
        *,
        under: Sequence[str | Path] = (),
        threads: int = 1,
        alone: bool = False,
    ) -> None:
        self.path = Path(path)
        self.records = Records()
        self._threads, self._alone = threads, alone
        self._reading = Reading(place, under)
        self._known = Known(self._reading)
        self._leases = Leases()
        self._read = self._read_study()
        self._edited = self._read[0]
        self._trouble: str | None = None
        self._curves: dict[str, Curve] = {}
        self._late: list[Seen] = []
        self._arrivals: list[tuple[float, int]] = []
        self._session = time.time()
        self._most = 0
        self._speeds: Speeds | None = None
        self._left: Json | None = None
        self._estimate_at, self._stale = 0.0, True
        self._counted: Json = {"runs": {}, "trials": {}, "updates": None}
        self._failed: tuple[int, dict[str, str]] = (0, {})
        self.plan = self._planned()
        self._reading.open()
        self.records.update(self._head(phase="reading"), self._sent())

    @property
    def study(self) -> Study:
        """The study as it was last read."""
        return self._read[1]

    @property
    def location(self) -> str:
        """Where the store is."""
        return self._reading.location

    def look(self) -> None:
        """Take in what the store gained and bring the records up to date; trouble with the store is one of them."""
        try:
            self._look()
        except (IsolossError, OSError) as error:
            self.records.update({**self.records.head, "problem": str(error)})

    def _look(self) -> None:
        anew = self._reload()
        self._reading.open()
        fresh, void = self._reading.look()
        if void:
            self._known.tracks, self._curves, self._arrivals, self._late = {}, {}, [], []
        for seen in fresh:
            added = self._known.tracks.setdefault(seen.row.track, Covered()).add(seen)
            if seen.written and added:
                self._arrivals.append((seen.written, added))
        self._arrivals = sorted(self._arrivals)[-RECENT:]
        held = self._leases.held
        if (store := self._reading.store) is not None:
            self._leases.look(store.top.backend)
        moved = self._restarted() | self._reported() | (held != self._leases.held)
        if anew or void or (fresh and self._decided()):
            self.plan, self._speeds, anew = self._planned(), None, True
        changed = self._draw(fresh) or bool(fresh) or anew or void or moved or self._counted["updates"] is None
        self._stale |= changed
        if self._stale and time.monotonic() >= self._estimate_at:
            self._estimate()
        if not changed:
            self.records.update(self._head())
            return
        present = self.present()
        runs = present.runs()
        trained, before = present.updates()
        planned, alone = self.plan.updates
        statuses: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
        for run, record in zip(self.plan.runs, runs.values(), strict=True):
            statuses[run.trial][record["status"]] += 1
        self._counted = {
            "runs": dict(statuses[False]),
            "trials": dict(statuses[True]),
            "updates": {"planned": planned, "alone": alone, "trained": trained, "before": before},
        }
        plan = self._sent() if anew or void else None
        self.records.update(self._head(), plan, runs, present.tracks())

    # The study and its plan

    def _read_study(self) -> tuple[int, Study, Lowering]:
        edited = self.path.stat().st_mtime_ns if self.path.exists() else 0
        study = load(self.path)
        return edited, study, Lowering(threads=self._threads, base=folder_of(study))

    def _reload(self) -> bool:
        """Whether the study file was edited into another study that can be used."""
        edited = self.path.stat().st_mtime_ns if self.path.exists() else self._edited
        if edited == self._edited:
            return False
        self._edited = edited
        before, plan = self._read, self.plan
        try:
            self._read = self._read_study()
            self.plan = self._planned()
        except (IsolossError, OSError) as error:
            self._read, self.plan = before, plan
            self._trouble = f"The study file was edited and cannot be used; shown is what it was before. {error}"
            return False
        self._trouble = None
        return self.study.text != before[1].text

    def _planned(self) -> Plan:
        _, study, lowering = self._read
        return Plan(study, self._known, lowering, alone=self._alone)

    def _decided(self) -> bool:
        """Whether the tuning of an arm has ended since the plan was made."""
        undecided = self.plan.undecided
        if not undecided:
            return False
        trials = [run for run in self.plan.runs if run.trial and run.cell.arm in undecided]
        measured = self._known.measured([t.lowered.run.key(at) for t in trials for at in t.lowered.candidates])
        present = self.present(measured)
        open_ = {t.cell.arm for t in trials if t.lowered.chosen(measured) is None and present.broke(t) is None}
        return open_ < undecided

    def _sent(self) -> Json:
        return {**self.plan.to_dict(), "store": self.location, "file": self.path.name}

    # What was read

    def present(self, measured: Mapping[str, Mapping[str, float]] | None = None) -> Present:
        """The plan beside what was read at the last look (``measured``: by key and name)."""
        return Present(
            self.plan,
            self._known.tracks,
            self._known.measured(self.plan.keys) if measured is None else measured,
            self._curves,
            set(self._leases.held),
            self._session,
            {} if self._leases.drivers else self._failed[1],
        )

    def _draw(self, fresh: Sequence[Seen]) -> bool:
        """Read the curves of new pieces, and of those that could not be read before; whether any of those could."""
        waiting, self._late = self._late, []
        drawn = False
        for seen in (*fresh, *waiting):
            columns = self._reading.curve(seen.row)
            if columns is None:
                self._late.append(seen)
                continue
            begin, end = span_of(seen.row)
            curve = self._curves.setdefault(seen.row.track, Curve())
            curve.add(seen.row.piece, seen.row.end_update - end, (begin, end), columns)
            drawn |= seen in waiting
        return drawn

    def _restarted(self) -> bool:
        """Whether another driver is at work: what was there before it is what it found."""
        moments = [moment for owner in self._leases.drivers if (moment := began(owner)) is not None]
        if not moments or min(moments) == self._session:
            return False
        self._session, self._most = min(moments), 0
        return True

    def _reported(self) -> bool:
        """Whether the last driver's page says of other runs that they failed; a store does not keep that."""
        result = self.path.with_suffix(".report") / "result.json"
        try:
            changed = result.stat().st_mtime_ns
            if changed == self._failed[0]:
                return False
            runs = json.loads(result.read_text(encoding="utf-8"))["runs"]
            failed = {str(run["id"]): str(run["message"]) for run in runs if run["status"] == "failed"}
        except (OSError, ValueError, KeyError, TypeError):
            return False
        self._failed = changed, failed
        return True

    # The time left

    def _estimate(self) -> None:
        """Play through what is left, with the workers that are seen at work."""
        clock, self._stale = time.thread_time(), False
        mine = [track for track in self._leases.held if track in self.plan.number]
        workers = max(self._most, len(mine))
        if workers != self._most or self._speeds is None:
            self._most, self._speeds = workers, None
            usual = max(1, (os.cpu_count() or 1) // self._threads)
            if (store := self._reading.store) is not None:
                self._speeds = self.plan.speeds(store, workers or usual, self._threads)
        if self._speeds is not None:
            seconds, source = self.plan.left(self._known, self._speeds)
            self._left = {"seconds": seconds, "at": time.time(), "speed": source, "workers": self._speeds.workers}
        least, times = ESTIMATE
        self._estimate_at = time.monotonic() + max(least, times * (time.thread_time() - clock))

    def _rate(self) -> float | None:
        """Updates a second over the last pieces of the present driver."""
        recent = [(at, updates) for at, updates in self._arrivals if at >= self._session]
        if not self._leases.held or len(recent) < FEWEST or recent[-1][0] <= recent[0][0]:
            return None
        return sum(updates for _, updates in recent[1:]) / (recent[-1][0] - recent[0][0])

    def _head(self, phase: str | None = None) -> Json:
        """What concerns the whole study."""
        number = self.plan.number
        held = self._leases.held
        if phase is None:
            counts = [*self._counted["runs"].items(), *self._counted["trials"].items()]
            finished = bool(counts) and not any(count for status, count in counts if status != "done")
            phase = "done" if finished else "study" if self.plan.complete else "tuning"
            if self._reading.store is None:
                phase = "waiting"
        drivers = [
            {"name": named(owner), "tracks": sorted(number[t] for t, o in held.items() if o == owner and t in number),
             "others": sum(o == owner and t not in number for t, o in held.items())}
            for owner in self._leases.drivers
        ]  # fmt: skip
        return {
            **self._counted,
            "phase": phase,
            "drivers": drivers,
            "rate": self._rate(),
            "left": self._left,
            "problem": self._trouble,
            "notices": self._reading.notices[-MOST_NOTICES:],
        }
