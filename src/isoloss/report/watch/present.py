"""What is known of every track and run of a plan at one moment, as records for a page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from isoloss.report.tidy import BINS_A_DECADE, Json
from isoloss.report.watch.expected import Course, Others
from isoloss.report.watch.plan import Plan, Watched
from isoloss.report.watch.reading import Covered, Span, total


class Curve:
    """Training loss of a track, as means over neighbouring updates: the bins of the page of the results."""

    def __init__(self) -> None:
        self._bins: dict[int, tuple[float, int, int]] = {}  # sum, count, last update
        self._taken: set[str] = set()
        self._had: list[Span] = []

    def add(self, piece: str, begun: int, span: Span, columns: Mapping[str, np.ndarray]) -> None:
        """Take in a piece over the offsets ``span`` of a track that began at update ``begun``; what is there stays."""
        if piece in self._taken:
            return
        self._taken.add(piece)
        if not {"update", "loss"} <= columns.keys():
            return
        updates, losses = columns["update"], columns["loss"]
        new = np.isfinite(losses)
        for begin, end in self._had:
            new &= (updates <= begun + begin) | (updates > begun + end)
        self._had.append(span)
        updates, losses = updates[new], losses[new]
        places = np.floor(np.log10(np.maximum(updates, 1)) * BINS_A_DECADE).astype(int)
        for place in np.unique(places):
            mine = places == place
            sum_, count, last = self._bins.get(int(place), (0.0, 0, 0))
            last = max(last, int(updates[mine].max()))
            self._bins[int(place)] = sum_ + float(losses[mine].sum()), count + int(mine.sum()), last

    def points(self, until: float = math.inf) -> tuple[list[int], list[float]]:
        """(last update of each bin, mean loss there), ascending, as far as ``until``."""
        bins = [self._bins[place] for place in sorted(self._bins) if self._bins[place][2] <= until]
        return [last for _, _, last in bins], [sum_ / count for sum_, count, _ in bins]


class Broke(NamedTuple):
    """Where a run diverged, and why."""

    update: int
    why: str


class Present:
    """A plan beside what the store has of it. ``held``: tracks at work; ``began``: when the present driver began."""

    def __init__(
        self,
        plan: Plan,
        tracks: Mapping[str, Covered],
        measured: Mapping[str, Mapping[str, float]],
        curves: Mapping[str, Curve],
        held: set[str],
        began: float,
        failed: Mapping[str, str],
    ) -> None:
        self._plan, self._tracks, self._measured, self._curves = plan, tracks, measured, curves
        self._held, self._began, self._failed = held, began, failed

    def tracks(self) -> dict[str, Json]:
        """A record a track that anything is known of."""
        found: dict[str, Json] = {}
        for number, node in enumerate(self._plan.nodes):
            covered = self._tracks.get(node.track.id)
            live = node.track.id in self._held
            if covered is None and not live:
                continue
            spans = covered.spans if covered else ()
            updates, losses = self._curves.get(node.track.id, Curve()).points()
            found[str(number)] = {
                "live": live,
                "spans": [list(span) for span in spans],
                "before": total(covered.before(self._began), node.length) if covered else 0,
                "update": updates,
                "loss": [float(f"{loss:.5g}") for loss in losses],
            }
        return found

    def runs(self) -> dict[str, Json]:
        """A record a run."""
        plan = self._plan
        ends = [self._end(run) for run in plan.runs]
        courses = [self._course(run, end["loss"]) for run, end in zip(plan.runs, ends, strict=True)]
        others = Others([c for c, run in zip(courses, plan.runs, strict=True) if run.settled and not run.trial])
        found = {}
        for index, (run, end, course) in enumerate(zip(plan.runs, ends, courses, strict=True)):
            record = {**end, "losses": [list(course.losses), list(course.losses.values())], "expected": None}
            if end["status"] == "training" and not run.trial:
                expected = others.expect(course, self.training(run))
                record["expected"] = expected and expected.to_dict()
            found[str(index)] = record
        return found

    def courses(self) -> list[Course]:
        """What is known of each run of the plan."""
        return [self._course(run, self._end(run)["loss"]) for run in self._plan.runs]

    def updates(self) -> tuple[int, int]:
        """Updates of the plan that are trained, and those of them that were before the present driver began."""
        trained = before = 0
        for node in self._plan.nodes:
            if (covered := self._tracks.get(node.track.id)) is not None:
                trained += total(covered.spans, node.length)
                before += total(covered.before(self._began), node.length)
        return trained, before

    def _end(self, run: Watched) -> Json:
        """How far a run has come: its status, updates trained, losses at its end, and when it last gained anything."""
        lowered = run.lowered
        parts = [(track.id, phase.length, self._tracks.get(track.id)) for track, phase, _ in lowered.run.tracks]
        if not run.settled:
            return _record("waiting", 0, why="its learning rate is not chosen yet")
        trained = sum(total(covered.spans, length) for _, length, covered in parts if covered)
        written = max((seen.written for _, length, covered in parts if covered for seen in covered.seen
                       if seen.row.offset <= length), default=0.0)  # fmt: skip
        chosen = lowered.chosen(self._measured)
        if chosen is not None:
            at_end = self._measured.get(lowered.run.key(chosen[0]), {})
            losses = {part: at_end.get(measure.name) for part, measure in lowered.final.items()}
            if losses["B"] is not None:
                return _record("done", trained, losses["B"], losses["A"], written)
        if (broke := self.broke(run)) is not None:
            return _record("diverged", trained, written=written, why=broke.why)
        for place, (track, length, covered) in enumerate(parts, 1):
            if track in self._held and (
                place == len(parts) or total(covered.spans if covered else (), length) < length
            ):
                return _record("training", trained, written=written)
        if run.name in self._failed:
            return _record("failed", trained, written=written, why=self._failed[run.name])
        return _record("waiting", trained, written=written)

    def broke(self, run: Watched) -> Broke | None:
        """Where a run diverged."""
        for track, phase, begun in run.lowered.run.tracks:
            covered = self._tracks.get(track.id)
            if covered and covered.broke and covered.broke.offset <= phase.length:
                return Broke(begun + covered.broke.offset, covered.broke.detail)
        return None

    def _course(self, run: Watched, end: float | None) -> Course:
        lowered = run.lowered
        begun = lowered.begun
        losses: dict[int, float] = {}
        walked: dict[int, dict[int, float]] = {}
        for update, key, name in run.moments if run.settled else ():
            value = self._measured.get(key, {}).get(name)
            if value is None:
                continue
            losses[update - begun] = value
            track, phase, _ = lowered.run.locate(update)
            if phase.rule.lr.stationary:
                walked.setdefault(self._plan.number[track.id], {})[update - begun] = value
        return Course(
            group=(run.variant, lowered.facts.N),
            place=run.place,
            seed=run.seed,
            length=lowered.length,
            losses=losses,
            end=end,
            trunk=self._left(run),
            walked=walked,
            falls=run.falls,
            averaged=lowered.observer is not None,
        )

    def _left(self, run: Watched) -> tuple[int, int] | None:
        """(trunk, update at which the run leaves it for its cooldown), where it does."""
        tracks = run.lowered.run.tracks
        if len(tracks) < 2 or run.lowered.observer is not None:
            return None
        (trunk, before, _), (_, last, begun) = tracks[-2:]
        if not before.rule.lr.stationary or last.rule.lr.stationary:
            return None
        return self._plan.number[trunk.id], begun - run.lowered.begun

    def training(self, run: Watched) -> tuple[list[float], list[float]]:
        """(updates of its own, mean training losses) along a run, its warm-up left out: that falls in another way."""
        x: list[float] = []
        y: list[float] = []
        begun = run.lowered.begun
        for track, phase, at in run.lowered.run.tracks:
            curve = self._curves.get(track.id)
            if curve is not None and at >= begun and phase.rule.lr.shape != "warmup":
                updates, losses = curve.points(at + phase.length)
                x += [float(update - begun) for update in updates]
                y += losses
        return x, y


def _record(
    status: str,
    trained: int,
    loss: float | None = None,
    loss_a: float | None = None,
    written: float = 0.0,
    why: str | None = None,
) -> Json:
    return {"status": status, "trained": trained, "loss": loss, "loss_a": loss_a, "written": written, "why": why}
