"""Old runs that `isoloss import` made into a folder: their points, curves, worth at equal loss and page.

runs = load("imported")
runs.points                       # laws.Points: fit, predict, backtest
runs.curves                       # a polars table: run, S, D, loss, train_loss
runs.worth("adam")                # every other arm against this one
isoloss.report(runs.answer("adam"), "page")
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoloss.bridges.importing import CURVES, POINTS, SCHEMA, sizes
from isoloss.bridges.recorded import listed
from isoloss.bridges.rows import DERIVED, Row
from isoloss.bridges.sources import RECORD
from isoloss.laws import Points
from isoloss.recipe.errors import StudyError, nearest

if TYPE_CHECKING:
    import polars

    from isoloss.worth.compare import Comparison
    from isoloss.worth.results import Result

BATCH = "training.batch"
"""The name of an axis that is the batch, as studies have it."""
CURVE_POINTS = 200
NOT_SHOWN = ("twin", "candidate")
"""Runs that count under another one."""


def is_imported(path: str | Path) -> bool:
    """Whether a path is a folder that `isoloss import` wrote."""
    return (Path(path) / RECORD).is_file()


def load(folder: str | Path) -> Imported:
    """An imported folder. Raises StudyError where it is none, is damaged, or was changed by hand."""
    path = Path(folder)
    if not is_imported(path):
        raise StudyError(f"{folder}: has no {RECORD}; allowed: a folder that isoloss import wrote")
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            raise StudyError(f"{folder}: was imported by another version of isoloss; import it again")
        if hashlib.sha256((path / POINTS).read_bytes()).hexdigest() != record["points"]:
            raise StudyError(f"{folder}: {POINTS} is not as it was imported; change the map and import again")
        rows = [Row(**row) for row in record["runs"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{folder}: the import is damaged ({error}); import it again") from None
    return Imported(path, record, rows)


@dataclass
class Imported:
    """Old runs: `record` is what `import.json` says, `rows` every run with its status."""

    folder: Path
    record: Mapping[str, Any]
    rows: Sequence[Row] = field(repr=False)

    @property
    def table(self) -> Path:
        """The file of points."""
        return self.folder / POINTS

    @property
    def arms(self) -> list[str]:
        """Arms of finished runs, in their order."""
        return list(dict.fromkeys(row.arm for row in self.rows if row.status == "done"))

    @cached_property
    def points(self) -> Points:
        """Finished runs as points for a law, as they stand in the table of points."""
        return Points.read(self.table)

    @cached_property
    def curves(self) -> polars.DataFrame:
        """Losses along the runs: run, S, D, loss, train_loss."""
        import polars

        try:
            return polars.read_parquet(self.folder / CURVES)
        except (OSError, polars.exceptions.PolarsError) as error:
            raise StudyError(f"{self.folder}: {CURVES} cannot be read ({error}); import it again") from None

    def baseline(self, name: str | None = None) -> str:
        """The arm that others are compared with: `name`, or the map's, or the only one. Raises StudyError."""
        chosen = name or self.record["baseline"] or (self.arms[0] if len(self.arms) == 1 else "")
        if not chosen:
            raise StudyError(f"--baseline is missing: which arm are the others compared with? {listed(self.arms, 20)}")
        if chosen not in self.arms:
            raise StudyError(
                f"--baseline: no arm {chosen!r}{nearest(chosen, self.arms)}; found: {listed(self.arms, 20)}"
            )
        return chosen

    def compared(self, baseline: str | None = None) -> Compared:
        """The runs as rows that `worth.compare` reads."""
        return Compared(self, self.baseline(baseline))

    def worth(self, baseline: str | None = None) -> Comparison:
        """What every other arm is worth against `baseline`, at equal loss. Raises StudyError for an unknown arm."""
        from isoloss.worth.compare import compare

        return compare(self.compared(baseline))

    def answer(self, baseline: str | None = None, command: str = "isoloss.bridges.imported") -> dict[str, Any]:
        """Everything there is to say as JSON types (schema 1): what the page shows. Raises StudyError."""
        return _answer(self, self.compared(baseline), command)

    def train(self, run: str) -> tuple[list[int], list[float]]:
        """(updates, training losses) along a run, means over at most 200 equal stretches."""
        found = self._along(run, "train_loss")
        stretch = max(1, -(-len(found) // CURVE_POINTS))
        parts = [found[i : i + stretch] for i in range(0, len(found) - len(found) % stretch, stretch)]
        return [part[-1][0] for part in parts], [sum(v for _, v in part) / len(part) for part in parts]

    def _along(self, run: str, column: str) -> list[tuple[int, float]]:
        return self._curves.get((run, column), [])

    @cached_property
    def _curves(self) -> dict[tuple[str, str], list[tuple[int, float]]]:
        found: dict[tuple[str, str], list[tuple[int, float]]] = {}
        for run, update, loss, train in self.curves.select("run", "S", "loss", "train_loss").iter_rows():
            for column, value in (("loss", loss), ("train_loss", train)):
                if update is not None and value is not None:
                    found.setdefault((run, column), []).append((round(update), value))
        return found


class Compared:
    """Imported runs as `worth.compare.Rows`: one result a run, a variant an arm at its place on the map's axes."""

    def __init__(self, runs: Imported, baseline: str) -> None:
        self.runs, self.baseline = runs, baseline
        self._compared = sizes(runs.rows)
        axes: list[str] = list(runs.record["axes"])
        self._axes = {name: list(dict.fromkeys(row.axes[name] for row in runs.rows)) for name in axes}
        self._batch = next((name for name in axes if self._is_batch(name)), "")
        self.results: list[Result] = [self._result(row) for row in runs.rows if row.status not in NOT_SHOWN]

    def variants(self) -> list[str]:
        """Arms by their places on the axes, the baseline's first."""
        names = {r.variant: r.arm for r in self.results}
        return sorted(names, key=lambda name: names[name] != self.baseline)

    def reference(self, variant: str) -> str | None:
        """The baseline at a variant's place; of the baseline itself, that at the first place."""
        own = next(r for r in self.results if r.variant == variant)
        first = {self._path(name): values[0] for name, values in self._axes.items()}
        place = {path: first[path] if own.arm == self.baseline else own.cell[path] for path in first}
        for r in self.results:
            if r.arm == self.baseline and all(r.cell[path] == value for path, value in place.items()):
                return None if r.variant == variant else r.variant
        return None

    def tuning(self, variant: str, N: int) -> float:
        """FLOPs of the candidates of a variant at one size that tuning did not choose."""
        return sum(row.C or 0.0 for row in self.candidates(variant) if self._size(row) == N)

    def candidates(self, variant: str) -> list[Row]:
        """Runs of a variant that tuning did not choose."""
        return [row for row in self.runs.rows if row.status == "candidate" and self._variant(row) == variant]

    def points(self, arm: str | None = None) -> Points:
        """Finished runs (of one variant) as points for a law, with the root as `cluster`."""
        done = [(row, r) for row, r in zip(self._shown(), self.results, strict=True) if row.status == "done"]
        return Points.from_rows(
            {"N": row.N, "D": row.D, "C": row.C, "loss": row.loss, "seed": row.seed, "run": row.run, "cluster": r.root}
            | ({"S": row.S} if row.S else {})
            for row, r in done
            if arm in (None, r.arm, r.variant)
        )

    def _shown(self) -> list[Row]:
        return [row for row in self.runs.rows if row.status not in NOT_SHOWN]

    def _size(self, row: Row) -> int:
        return round(self._compared.get(row.N or 0.0, row.N or 0.0))

    def _path(self, axis: str) -> str:
        return BATCH if axis == self._batch else axis

    def _is_batch(self, axis: str) -> bool:
        """Whether an axis is the batch: to each of its values belongs one, and they differ."""
        found: dict[str, set[float]] = {}
        for row in self.runs.rows:
            if row.status == "done" and row.B:
                found.setdefault(row.axes[axis], set()).add(round(row.B, 6))
        return len(found) > 1 and all(len(b) == 1 for b in found.values()) and len(set.union(*found.values())) > 1

    def _variant(self, row: Row) -> str:
        places = [
            f"{name.rpartition('.')[2]} {row.axes[name]}" for name, values in self._axes.items() if len(values) > 1
        ]
        return " · ".join([row.arm, *places])

    def _result(self, row: Row) -> Result:
        from isoloss.plan.lower import Facts
        from isoloss.worth.results import Result

        N, D, S, C = self._size(row), round(row.D or 0), round(row.S or 0), row.C or 0.0
        per = D // S if S else D
        warm = self.runs.record["steady"].get(row.arm)
        unit = self.runs.record["units"]["D"]
        return Result(
            name=row.run,
            arm=row.arm,
            variant=self._variant(row),
            cell={**{self._path(name): value for name, value in row.axes.items()}, "duration": f"{D} {unit}",
                  "seed": row.seed},
            seed=row.seed,
            extra=False,
            root=f"N={N} seed={row.seed}",
            N=N,
            N_total=N,
            D=D,
            S=S,
            C=C,
            lr=math.nan if row.lr is None else row.lr,
            lr_rule="tuned" if row.tuned else "given",
            lr_edge=bool(row.edge),
            status=row.status,
            loss=row.loss if row.status == "done" else None,
            loss_a=None,
            message=row.message,
            key=row.run,
            facts=Facts(
                N=N, N_total=N, batch=round(row.B or per), terms_per_update=per, flops_per_update=C / S if S else C,
                evaluation_flops=0.0, state_bytes=0, unit=unit,
            ),
            metrics=row.metrics if row.status == "done" else {},
            unique=D,
            best=S,
            curve=tuple(self.runs._along(row.run, "loss")),
            steady=None if warm is None else round(warm),
        )  # fmt: skip


def _answer(runs: Imported, rows: Compared, command: str) -> dict[str, Any]:
    """The answer of a study as far as rows alone give it."""
    from isoloss.worth.answer_rows import (
        law_records,
        of_comparison,
        of_laws,
        overall_record,
        run_record,
        short_ranges,
        summary,
        worth_record,
    )
    from isoloss.worth.batch_study import large_batch
    from isoloss.worth.compare import LEVEL, compare
    from isoloss.worth.planner import export
    from isoloss.worth.results import metric_rows

    record = runs.record
    done = [r for r in rows.results if r.status == "done"]
    comparison = compare(rows)
    usual = "chinchilla" if len({r.N for r in done}) > 1 else "m2"
    names = record["laws"] or ([usual] if len({r.D for r in done}) > 1 else [])
    laws = [law for name in names for law in law_records(rows, name)]
    # A batch that follows from D and S moves by their rounding; only one that is known by itself is asked about.
    known = record["taken"].get("B", DERIVED) != DERIVED
    batches, unanswered = large_batch(rows, record["units"]["D"]) if known else (None, [])
    charged = [row for row in runs.rows if row.status == "candidate"]
    tuning = {"updates": round(sum(row.S or 0 for row in charged)), "flops": sum(row.C or 0.0 for row in charged)}
    nothing = {"updates": {"shared": 0, "unshared": 0}, "tuning": tuning}
    sentences = summary(rows, comparison, nothing, batches["summary"] if batches else ())
    shown = {row.run: row for row in runs.rows}
    return {
        "schema": 1,
        "study": record["name"],
        "question": None,
        "imported": True,
        "command": command,
        "created": record["created"],
        "isoloss": record["isoloss"],
        "level": LEVEL,
        "provenance": {
            "numerics": {},
            "data": {"sources": [f"{s['source']} ({s['format']}, {s['runs']} runs)" for s in record["sources"]],
                     **record["taken"]},
            "versions": {"python": platform.python_version(), "isoloss": record["isoloss"]},
            "study_file": record["map"] or None,
            "store": str(runs.folder),
        },
        "units": {"D": record["units"]["D"], "loss": f"nats per {record['units']['D'].removesuffix('s')}",
                  "bits_per_byte": None},
        "arms": [_arm(rows, variant) for variant in rows.variants()],
        "runs": [
            {**run_record(r, runs.train(r.name)), "cell": {**r.cell, **shown[r.name].tuned, **shown[r.name].keep}}
            for r in rows.results
        ],
        "metrics": metric_rows(rows.results),
        "worth": [worth_record(w) for w in comparison.by_size],
        "worth_overall": [overall_record(o) for o in comparison.overall],
        "large_batch": batches,
        "laws": laws,
        "planner": export(rows, laws=names, comparison=comparison, batches=batches),
        "sharing": {},
        "tree": [],
        "summary": [*_equal_data(rows, comparison), *sentences] if not comparison.overall else sentences,
        "caveats": [
            *_caveats(runs, rows),
            *short_ranges(done, laws, comparison),
            *record["warnings"],
            *of_comparison(comparison),
            *unanswered,
            *of_laws(laws),
        ],
    }  # fmt: skip


def _arm(rows: Compared, variant: str) -> dict[str, Any]:
    """An arm; where it was tuned, with the learning rates that were chosen and what was tried."""
    mine = [row for row in rows.runs.rows if rows._variant(row) == variant]
    tried = rows.candidates(variant)
    chosen = sorted((row for row in mine if row.status == "done" and row.lr), key=lambda row: row.D or 0)
    rates = {rows._size(row): row for row in chosen} if tried else {}
    return {
        "name": variant,
        "baseline": variant == rows.variants()[0],
        "line": f"{sum(row.status == 'done' for row in mine)} imported runs",
        "lr": [
            {"N": N, "width": None, "lr": row.lr, "rule": "tuned" if row.tuned else "given", "edge": bool(row.edge)}
            for N, row in sorted(rates.items())
        ],
        "tuning": {
            "candidates": sorted({row.lr for row in mine if row.lr}),
            "runs": len(tried),
            "updates": round(sum(row.S or 0 for row in tried)),
            "flops": sum(row.C or 0.0 for row in tried),
            "choices": [],
        }
        if tried
        else None,
    }


def _equal_data(rows: Compared, comparison: Comparison) -> list[str]:
    """Differences of loss at equal N, D and seed, where there are too few lengths for a worth."""
    from isoloss.worth.differences import differences

    found = []
    for variant in rows.variants():
        reference = rows.reference(variant)
        if reference is None:
            continue
        over_all = next((d for d in differences(rows, variant, reference) if d.duration is None), None)
        if over_all is not None:
            found.append(f"At equal N and D, the loss of {variant} minus that of {reference} is {over_all.words}.")
    return found


def _caveats(runs: Imported, rows: Compared) -> list[str]:
    """What a careful reader would object to runs that were not planned as a comparison."""
    from isoloss.worth.answer_rows import diverged, few_seeds

    found = ["These runs were trained elsewhere: that arms differ in nothing but their names is not checked."]
    found += few_seeds([r for r in rows.results if r.status == "done"])
    lost = sum(r.status in ("failed", "missing") for r in rows.results)
    if lost:
        found.append(f"{lost} runs are not finished and count nowhere: see the list.")
    found += diverged(rows.results)
    edges = sorted({f"{name} of {row.arm}" for row in runs.rows for name in row.edge})
    if edges:
        found.append(f"The best {listed(edges)} lies at an edge of its candidates.")
    if runs.record["tuned"]:
        found.append(
            f"{', '.join(runs.record['tuned'])}: chosen by the loss that is compared, so arms look a little too good."
        )
    merged = [N for N, size in rows._compared.items() if size != N]
    if merged:
        found.append(f"{len(merged)} sizes within half a percent of another are compared as of that size.")
    if runs.record["steady"]:
        found.append(
            f"Losses along the runs of {listed(runs.record['steady'])} count as those of shorter runs: the map says "
            "that their learning rate was constant."
        )
    return found
