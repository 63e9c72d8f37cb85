"""A plan as a person or a program reads it."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoloss.plan import cost
from isoloss.plan.demands import Stage, expected, folder_of, stage
from isoloss.plan.estimate import Estimate, Row, estimate
from isoloss.plan.lower import Lowered, Lowering
from isoloss.plan.memory import StoreMemory
from isoloss.plan.needs import Memory, Nothing, arrange
from isoloss.plan.savings import ENDS, RUNS_ON, Saving, savings
from isoloss.plan.speed import IDLE, LIMIT, ROUGH_FLOPS, Speeds
from isoloss.plan.tree import grow
from isoloss.plan.tuning import TUNED_PATH
from isoloss.recipe.errors import StudyError
from isoloss.store import Store
from isoloss.study import Study, from_dict, load

if TYPE_CHECKING:
    from rich.console import RenderableType

PATIENCE = 0.25
"""Seconds of calibration for each second of training that is roughly expected, at most."""
_SPEEDS = {
    "store": ("measured", "measured in this store"),
    "calibration": ("calibrated", "calibrated on this machine"),
    "interpolation": ("calibrated", "between speeds calibrated on this machine"),
    "rough": ("rough", "rough: nothing like it was timed yet"),
}


@dataclass(frozen=True)
class Summary:
    """What a study would train and what it costs; all runs of a tuned study with a stand-in learning rate."""

    study: Study
    stage: Stage
    runs: int
    trials: int
    tracks: int
    segments: int
    unshared: cost.Cost
    shared: cost.Cost
    missing: cost.Cost
    replayed: int
    disk: int
    estimate: Estimate
    share: float
    """Share of the time that the processes of the calibration had a processor; 1 without one."""
    sizes: tuple[tuple[int, int, int, float], ...]
    """(N, all parameters, runs, FLOPs of one update) by size."""
    savings: tuple[Saving, ...] = ()

    @property
    def seconds(self) -> float:
        """Until all is trained on the estimate's workers."""
        return self.estimate.seconds

    @property
    def several(self) -> Mapping[str, Sequence[Any]]:
        """Candidates by path where more is tuned than the learning rate."""
        found = self.study.tune.values if self.study.tune else {}
        return found if set(found) - {TUNED_PATH} else {}

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""

        def plain(c: cost.Cost) -> dict[str, float]:
            return {"updates": c.updates, "terms": c.terms, "flops": c.flops, "evaluation_flops": c.evaluation_flops}

        return {
            "study": self.study.name,
            "runs": self.runs,
            "tuning_runs": self.trials,
            "tracks": self.tracks,
            "segments_missing": self.segments,
            "unshared": plain(self.unshared),
            "shared": plain(self.shared),
            "missing": plain(self.missing),
            "replayed_updates": self.replayed,
            "disk_bytes": self.disk,
            "seconds": self.seconds,
            "worker_seconds": self.estimate.work,
            "critical_path_seconds": self.estimate.critical,
            "memory_bytes": self.estimate.memory,
            "speed": _SPEEDS[self.estimate.source][0],
            "calibration_share": self.share,
            "workers": self.estimate.workers,
            "kinds": [row.to_dict() for row in self.estimate.rows],
            "tuned": self.stage.complete,
            **({"tune": {path: list(values) for path, values in self.several.items()}} if self.several else {}),
            "sizes": [
                {"N": n, "N_total": total, "runs": runs, "flops_per_update": f} for n, total, runs, f in self.sizes
            ],
            "savings": [saving.to_dict() for saving in self.savings],
        }

    def table(self) -> RenderableType:
        """For a terminal."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        head = Text(
            f"{self.study.name}: {self.runs} runs{f' and {self.trials} tuning runs' if self.trials else ''}, "
            f"{len(self.study.arms)} arms, baseline {self.study.baseline}"
        )
        sizes = Table(title="sizes", title_justify="left", box=None, padding=(0, 2, 0, 0))
        for name in ("N (non-embedding)", "all parameters", "runs", "FLOPs an update"):
            sizes.add_column(name, justify="right")
        for n, total, runs, flops in self.sizes:
            sizes.add_row(f"{n:,}", f"{total:,}", str(runs), f"{flops:.3g}")
        costs = Table(title="cost", title_justify="left", box=None, padding=(0, 2, 0, 0))
        for name in ("", "updates", "tokens or samples", "training FLOPs", "evaluation FLOPs"):
            costs.add_column(name, justify="right" if name else "left")
        for name, c in (("every run alone", self.unshared), ("shared", self.shared), ("still to train", self.missing)):
            costs.add_row(name, f"{c.updates:,}", f"{c.terms:,}", f"{c.flops:.3g}", f"{c.evaluation_flops:.3g}")
        saved = 1 - self.shared.updates / self.unshared.updates if self.unshared.updates else 0.0
        lines = [f"sharing saves {saved:.0%} of the updates; {self.tracks} stretches, {self.segments} to train now"]
        if self.several:
            counts = [len(values) for values in self.several.values()]
            product = f"{' x '.join(map(str, counts))} = {math.prod(counts)}" if len(counts) > 1 else str(counts[0])
            lines.append(f"tuned: {' x '.join(self.several)}, {product} candidates at each tuning point of each arm")
        if self.replayed:
            lines.append(f"{self.replayed:,} of the updates to train are replay (a state between stored ones)")
        if not self.stage.complete:
            middle = "middle candidates" if len(self.several) > 1 else "middle candidate"
            lines.append(f"tuning comes first; costs of the rest are with its {middle}")
        made = self.estimate
        lines.append(
            f"about {_time(made.seconds)} on {made.workers} worker{'s' if made.workers > 1 else ''} "
            f"({_SPEEDS[made.source][1]}), at least {_time(made.critical)} on any number; "
            f"{_bytes(made.memory)} of memory a worker, about {self.disk / 1e6:.0f} MB of states"
        )
        if self.share < IDLE:
            lines.append(
                "other work kept the processors busy while speeds were measured (a worker had one for "
                f"{self.share:.0%} of the time): an idle machine is faster; these speeds were not kept"
            )
        parts: list[RenderableType] = [head, Text(), sizes, Text(), costs, Text()]
        if made.rows:
            parts += [_segments(made.rows), Text()]
        if self.savings:
            parts += [_saved(self.savings), Text()]
        return Group(*parts, *(Text(line) for line in lines))

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=100, file=open(os.devnull, "w"), record=True, force_jupyter=False)  # noqa: SIM115
        console.print(self.table())
        return console.export_text()


def plan(
    study: Study | str | Path | Mapping[str, Any],
    store: Store | str | Path | None = None,
    *,
    under: Sequence[str | Path] = (),
    threads: int = 1,
    share: bool = True,
    workers: int = 0,
    calibrate: bool | None = False,
) -> Summary:
    """What ``study`` would train, what is shared, and what it costs beyond what ``store`` has; trains nothing.

    ``calibrate``: whether to time a few updates where neither the store nor the cache knows the speed (None: where the
    study is long enough to be worth it; True: of everything, anew). Nothing is written but to the cache.
    Raises ``StudyError`` when the study is wrong.
    """
    made = as_study(study)
    with on_path(made):
        opened = Store(store, under=list(under), create=False) if isinstance(store, str | Path) else store
        memory: Memory = StoreMemory(opened) if opened else Nothing()
        lowering = Lowering(threads=threads, base=folder_of(made))
        now = stage(made, memory, lowering, alone=not share)
        runs = now.runs if now.complete else [t.lowered for t in now.trials] + expected(made, lowering, alone=not share)
        roots = grow(runs) if not now.complete else list(now.roots)
        work = arrange(roots, memory)
        missing, replayed = cost.missing(work)
        count = workers or max(1, (os.cpu_count() or 1) // threads)
        rough = (missing.flops + missing.evaluation_flops) / ROUGH_FLOPS / count
        speeds = Speeds(
            (node for root in roots for node in root.walk()),
            opened,
            workers=count,
            threads=threads,
            allowance=LIMIT if calibrate else 0.0 if calibrate is False else PATIENCE * rough,
            anew=calibrate is True,
            paths=sys.path,
        )
        cells = [t.cell for t in now.trials] + list(made.cells)
        predicted, _ = estimate(now, roots, cells, memory, speeds)
        return Summary(
            study=made,
            stage=now,
            runs=len(made.cells),
            trials=len(now.trials),
            tracks=sum(1 for root in roots for _ in root.walk()),
            segments=len(work),
            unshared=cost.unshared(runs),
            shared=cost.shared(roots),
            missing=missing,
            replayed=replayed,
            disk=cost.disk(roots),
            estimate=predicted,
            share=speeds.share,
            sizes=_sizes(runs),
            savings=tuple(savings(made.cells, runs[-len(made.cells) :], made.baseline)),
        )


def _saved(found: Sequence[Saving]) -> RenderableType:
    """Savings a row; of several arms only by the first count of FLOPs."""
    from rich.table import Table

    first = found[0]
    if len({saving.arm for saving in found}) > 1:
        found = [saving for saving in found if saving.count == first.count]
    whose = f"those of {first.against}" if first.against != first.arm else "each from its own beginning"
    title = f"FLOPs of runs on shared trunks, over as many separate runs ({whose})"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("", "runs", "trunks", "counted", "separate", ENDS, RUNS_ON):
        table.add_column(name, justify="left" if name in ("", "counted") else "right")
    for saving in found:
        ratios = (f"{saving.ratios[name]:.3f}" for name in (ENDS, RUNS_ON))
        row = (saving.arm, str(saving.runs), str(saving.trunks), saving.count, f"{saving.separate:.3g}")
        table.add_row(*row, *ratios)
    return table


def _sizes(runs: Sequence[Lowered]) -> tuple[tuple[int, int, int, float], ...]:
    counts: dict[tuple[int, int, float], int] = {}
    for lowered in runs:
        facts = lowered.facts
        key = (facts.N, facts.N_total, facts.flops_per_update)
        counts[key] = counts.get(key, 0) + 1
    return tuple((n, total, runs, flops) for (n, total, flops), runs in sorted(counts.items()))


def _segments(rows: Sequence[Row]) -> RenderableType:
    """What is still to train, a kind a row; columns that are the same throughout are left out."""
    from rich.table import Table

    columns: dict[str, list[str]] = {
        "N": [f"{row.N:,}" for row in rows],
        "batch": [str(row.batch) for row in rows],
        "context": [str(row.context) for row in rows],
        "optimizer": [row.optimizer for row in rows],
        "methods": [", ".join(row.methods) for row in rows],
        "precision": [row.precision for row in rows],
        "speed": [row.source for row in rows],
        "memory": [_bytes(row.memory) for row in rows],
    }
    columns = {name: values for name, values in columns.items() if name == "N" or len(set(values)) > 1}
    columns |= {
        "segments": [str(row.segments) for row in rows],
        "updates": [f"{row.updates:,}" for row in rows],
        "update": [_time(row.update_seconds) for row in rows],
        "evaluate": [_time(row.evaluation_seconds) for row in rows],
        "one worker": [_time(row.seconds) for row in rows],
    }
    table = Table(title="segments still to train", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in columns:
        words = name in ("optimizer", "methods", "precision", "speed")
        table.add_column(name, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    return table


def as_study(study: Study | str | Path | Mapping[str, Any]) -> Study:
    """A study from a file, a mapping, or itself."""
    if isinstance(study, Study):
        return study
    if isinstance(study, Mapping):
        return from_dict(study)
    if isinstance(study, str | Path):
        return load(study)
    raise StudyError(f"a study is a file, a mapping or a Study; found {type(study).__name__}")


def on_path(study: Study) -> AbstractContextManager[None]:
    """Modules beside the study file and in the working folder can be named in it."""
    return importable(folder_of(study))


@contextmanager
def importable(*folders: Path | None) -> Iterator[None]:
    """Modules in these folders and in the working folder can be imported by name."""
    added = [place for place in (*(str(f) for f in folders if f), os.getcwd()) if place not in sys.path]
    sys.path[:0] = added
    try:
        yield
    finally:
        for place in added:
            sys.path.remove(place)


def _bytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB"


def _time(seconds: float) -> str:
    for below, size, unit in ((1.0, 1e-3, "ms"), (90.0, 1.0, "s"), (5400.0, 60.0, "min"), (72 * 3600.0, 3600.0, "h")):
        if seconds < below:
            return f"{seconds / size:.{1 if seconds / size < 9.95 else 0}f} {unit}"
    return f"{seconds / 86400:,.0f} days"


__all__ = ["StudyError", "Summary", "as_study", "importable", "on_path", "plan"]
