"""`isoloss import`: old runs as a folder with a table of points, their curves and a record of how they were read."""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from isoloss.bridges import sources
from isoloss.bridges.recorded import Recorded, listed
from isoloss.bridges.rows import Built, Curve, Row, build, unique
from isoloss.bridges.runmap import RunMap, guess
from isoloss.recipe.errors import StudyError, nearest

POINTS, CURVES = "points.csv", "curves.parquet"
SCHEMA = 1
SAME_SIZE = 5e-3
"""Sizes within half a percent of their neighbour are one size, as in `laws.Points`."""
SAME_RATE = 0.01
EDGE_FROM = 3
"""Candidates from which a winner at an end is worth a word."""


def gather(given: Sequence[str | Path], chart: RunMap, form: str = "") -> tuple[list[dict[str, Any]], list[Recorded]]:
    """(what each source was, all runs). Raises StudyError."""
    if not given:
        raise StudyError("import: found no source; allowed: files and folders of runs")
    records: list[dict[str, Any]] = []
    runs: list[Recorded] = []
    seen: set[Path] = set()
    for source in given:
        path = Path(source).resolve()
        if path in seen:
            raise StudyError(f"{source}: is given twice")
        seen.add(path)
        found, own = sources.read(source, form, chart.reading)
        records.append({"source": str(source), "format": found, "runs": len(own)})
        runs += own
    return records, runs


def make(given: Sequence[str | Path], chart: RunMap, form: str = "") -> tuple[list[dict[str, Any]], Built]:
    """(sources, the checked import), nothing written. Raises StudyError."""
    records, gathered = gather(given, chart, form)
    runs = unique(gathered)
    found = build(runs, chart)
    _tune(found, chart)
    _twins(found, chart)
    _steady(found, runs, chart)
    _baseline(found, chart)
    return records, found


def write(
    given: Sequence[str | Path], folder: str | Path, chart: RunMap, form: str = "", command: str = ""
) -> dict[str, Any]:
    """Import `given` into `folder`, in place of an import that was there; its record. Raises StudyError."""
    out = Path(folder)
    if out.exists() and not out.is_dir():
        raise StudyError(f"--out {out}: is a file; allowed: a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / sources.RECORD).is_file():
        raise StudyError(f"--out {out}: holds other files; allowed: a new or empty folder, or an earlier import")
    records, found = make(given, chart, form)
    table = points_text(found.rows)
    record = {
        "schema": SCHEMA,
        "name": out.resolve().name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "isoloss": importlib.metadata.version("isoloss"),
        "command": command,
        "sources": records,
        "map": chart.text,
        "baseline": chart.baseline,
        "laws": list(chart.laws),
        "units": dict(chart.units),
        "axes": list(chart.axes),
        "tuned": list(chart.tuned),
        "steady": _plain_steady(found, chart),
        "taken": found.taken,
        "notes": found.notes,
        "warnings": found.warnings,
        "points": hashlib.sha256(table.encode()).hexdigest(),
        "runs": [asdict(row) for row in found.rows],
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        _replace(out / POINTS, table.encode())
        _replace(out / CURVES, _frame(found.curves))
        _replace(out / sources.RECORD, json.dumps(record, indent=1, allow_nan=False).encode() + b"\n")
    except OSError as error:
        raise StudyError(f"--out {out}: cannot write ({error.strerror or error})") from None
    return record


def _replace(path: Path, content: bytes) -> None:
    """A whole file or none."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def points_text(rows: Sequence[Row]) -> str:
    """The table of points as CSV: finished runs, numbers to their last digit."""
    done = [row for row in rows if row.status == "done"]
    extra = list(dict.fromkeys(name for row in done for name in (*row.axes, *row.keep, *row.metrics)))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ["run", "arm", "seed", "N", "D", "S", "B", "C", "loss", "train_loss"]
    names = [name for name in names if any(getattr(row, name) is not None for row in done)]
    writer.writerow([*names, *extra])
    for row in done:
        further: dict[str, Any] = {**row.axes, **row.keep, **row.metrics}
        writer.writerow([_cell(value) for value in (*(getattr(row, n) for n in names), *map(further.get, extra))])
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    return str(value)


def _frame(curves: Mapping[str, Curve]) -> bytes:
    """Curves as a Parquet table: run, S, D, loss, train_loss; null where nothing (or nothing finite) was logged."""
    import polars

    columns = ("S", "D", "loss", "train_loss")
    named = [name for name, curve in curves.items() for _ in curve.S]
    data = {c: np.concatenate([getattr(curve, c) for curve in curves.values()] or [np.empty(0)]) for c in columns}
    frame = polars.DataFrame({"run": polars.Series(named, dtype=polars.String), **data})
    written = io.BytesIO()
    frame.with_columns(polars.col(columns).fill_nan(None)).write_parquet(written)
    return written.getvalue()


def _done(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.status == "done"]


def sizes(rows: Sequence[Row]) -> dict[float, float]:
    """The size as which each N is compared: the commonest of those within half a percent of one another."""
    counts = Counter(row.N for row in rows if row.N)
    groups: list[list[float]] = []
    for N in sorted(counts):
        if groups and math.log(N / groups[-1][-1]) <= SAME_SIZE:
            groups[-1].append(N)
        else:
            groups.append([N])
    return {N: max(group, key=lambda n: counts[n]) for group in groups for N in group}


def _place(row: Row, compared: Mapping[float, float]) -> tuple[Any, ...]:
    return (row.arm, tuple(row.axes.values()), compared.get(row.N or 0.0), row.D)


def _tune(found: Built, chart: RunMap) -> None:
    """Of runs that differ in tuned settings only, the setting with the lowest mean loss over seeds counts."""
    if not chart.tuned:
        return
    places: dict[tuple[Any, ...], dict[tuple[str, ...], list[Row]]] = {}
    compared = sizes(found.rows)
    for row in found.rows:
        if row.status in ("done", "diverged"):
            candidates = places.setdefault(_place(row, compared), {})
            candidates.setdefault(tuple(row.tuned.values()), []).append(row)
    for candidates in places.values():
        finished = {c: rows for c, rows in candidates.items() if all(row.status == "done" for row in rows)}
        if not finished:
            continue
        most = max(len({row.seed for row in rows}) for rows in finished.values())
        full = {c: rows for c, rows in finished.items() if len({row.seed for row in rows}) == most}
        best = min(full, key=lambda c: sum(row.loss or 0.0 for row in full[c]) / len(full[c]))
        for row in full[best]:
            row.edge = [name for i, name in enumerate(chart.tuned) if _at_edge(best[i], [c[i] for c in candidates])]
        for candidate, rows in candidates.items():
            for row in rows if candidate != best else ():
                if row.status == "done":
                    row.status, row.message = "candidate", "tuning chose " + _words(chart.tuned, best)
    found.notes.append(
        f"{', '.join(chart.tuned)}: of the candidates at one arm, N and D that with the lowest mean loss counts, and "
        "the others are charged to the arm; chosen and judged by one loss, so a little too good"
    )


def _words(names: Sequence[str], values: Sequence[str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))


def _at_edge(value: str, candidates: Sequence[str]) -> bool:
    try:
        numbers = sorted({float(candidate) for candidate in candidates})
    except ValueError:
        return False
    return len(numbers) >= EDGE_FROM and float(value) in (numbers[0], numbers[-1])


def _twins(found: Built, chart: RunMap) -> None:
    """Runs of one arm, size, length and seed: one of them counts, or they are seeds of their own, as the map says."""
    places: dict[tuple[Any, ...], list[Row]] = {}
    compared = sizes(found.rows)
    for row in _done(found.rows):
        places.setdefault((*_place(row, compared), row.seed), []).append(row)
    several = [rows for rows in places.values() if len(rows) > 1]
    if not several:
        return
    first = several[0]
    if chart.duplicates == "refuse":
        differ = [
            name
            for name in ("S", "B", "C", "lr", *first[0].keep)
            if len({repr(_field(row, name)) for row in first}) > 1
        ]
        differs = f"; they differ in {listed(differ)}" if differ else ""
        unseeded = "seed" not in found.taken
        hint = "map a seed, or " if unseeded else ""
        raise StudyError(
            f"{sum(map(len, several))} runs share arm, N, D and seed with another, first "
            f"{listed((repr(row.run) for row in first), 4)} (arm {first[0].arm}, N {first[0].N:g}, D {first[0].D:g}, "
            f"seed {first[0].seed}){differs}; {hint}name what sets them apart in arm, axes or tuned, or say "
            "duplicates: first, last or seeds (each a seed of its own)"
        )
    for rows in several:
        if chart.duplicates == "seeds":
            for number, row in enumerate(rows):
                row.seed = f"{row.seed}.{number}" if "seed" in found.taken else str(number)
            continue
        kept = rows[0] if chart.duplicates == "first" else rows[-1]
        for row in rows:
            if row is not kept:
                row.status, row.message = "twin", f"{kept.run} counts ({chart.duplicates} of its kind)"
    what = "are seeds of their own" if chart.duplicates == "seeds" else f"count once, the {chart.duplicates} of them"
    found.notes.append(f"{sum(map(len, several))} runs share arm, N, D and seed with another and {what}")


def _field(row: Row, name: str) -> Any:
    return getattr(row, name) if hasattr(row, name) else row.keep.get(name)


def _plain_steady(found: Built, chart: RunMap) -> dict[str, float]:
    if isinstance(chart.steady, Mapping):
        return {arm: float(updates) for arm, updates in chart.steady.items()}
    return dict.fromkeys(sorted({row.arm for row in found.rows}), 0.0) if chart.steady else {}


def _steady(found: Built, runs: Sequence[Recorded], chart: RunMap) -> None:
    """Refuse arms that are said to have a constant learning rate, where what was logged says otherwise."""
    steady = _plain_steady(found, chart)
    arms = {row.arm for row in found.rows}
    for arm in steady:
        if arm not in arms:
            raise StudyError(f"steady: no arm {arm!r}{nearest(arm, arms)}; found: {listed(sorted(arms), 20)}")
    by_name = {run.name: run for run in runs}
    rate = chart.values["lr"].given if "lr" in chart.values else guess("lr", runs).name
    for row in _done(found.rows):
        if row.arm not in steady or row.run not in found.curves:
            continue
        begin = steady[row.arm]
        series = by_name[row.run].series.get(str(rate))
        if series is not None:
            after = series.values[(series.steps > begin) & np.isfinite(series.values)]
            if len(after) and float(np.ptp(after)) > SAME_RATE * float(np.abs(after).max()):
                raise StudyError(
                    f"steady: {rate} of run {row.run!r} (arm {row.arm}) goes from {after[0]:g} to {after[-1]:g} after "
                    f"update {begin:g}; allowed: arms whose learning rate is constant from there on ("
                    f"steady: {{{row.arm}: updates of the warm-up}}), as only their losses along the way are "
                    "those of shorter runs"
                )
        curve = found.curves[row.run]
        known = np.isfinite(curve.D) & np.isfinite(curve.S) & (curve.S > 0)
        per = curve.D[known] / curve.S[known]
        if row.D and row.S and len(per) and float(np.abs(per * row.S / row.D - 1).max()) > SAME_RATE:
            raise StudyError(
                f"steady: D of run {row.run!r} does not grow evenly with its updates; allowed: one batch along the run"
            )


def _baseline(found: Built, chart: RunMap) -> None:
    arms = list(dict.fromkeys(row.arm for row in _done(found.rows)))
    if chart.baseline and chart.baseline not in arms:
        raise StudyError(
            f"baseline: no arm {chart.baseline!r}{nearest(chart.baseline, arms)}; found: {listed(arms, 20)}"
        )
