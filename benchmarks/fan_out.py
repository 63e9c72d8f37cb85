"""Two local workers beside one, on the quickstart; and workers on Ray beside local workers.

    python benchmarks/fan_out.py --quickstart [--rounds 1] [--seeds 1]
    python benchmarks/fan_out.py [--rounds 2] [--seconds 5]

The first trains the shipped study (with so many of its seeds) by one worker and by two. The bound is what list
scheduling of the plan allows: the work of all segments over the time until the last of them ends on two workers, both
at speeds calibrated here.

The second trains segments of ``--seconds`` on local workers and on Ray. Every round trains the study once on each, in
alternating order, into stores of its own; both include the start of their workers. A Ray cluster of this machine is
started before and stays up, as it would on a cluster. The states of all stores must be equal.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

SEGMENTS, WORKERS = 8, 2


def study(updates: int) -> dict[str, Any]:
    """Independent runs, one segment each, with ten stored pieces."""
    return {
        "study": "ray",
        "data": {"source": "synthetic", "order": 1, "vocabulary": 64, "tokens": 200_000, "context": 64},
        "model": {"family": "gpt", "depth": 2, "head_size": 16, "width": 64},
        "training": {"optimizer": {"name": "adamw", "lr": 0.003}, "batch": "16 sequences", "warmup": "0 updates"},
        "evaluation": {"tokens": 1024},
        "checkpoint": {"every": f"{max(1, updates // 10)} updates"},
        "duration": f"{updates} updates",
        "grid": {"seed": list(range(SEGMENTS))},
        "baseline": {"arm": "cosine", "extra": "none"},
        "arms": {"cosine": {"schedule": {"shape": "cosine", "final": 0.1}}},
    }


def timed(updates: int, store: Path, on: str) -> tuple[float, list[float], dict[str, Any]]:
    """(seconds of the whole run, seconds of each segment's pieces, digests by key)."""
    import isoloss
    from isoloss.store import Store

    clock = time.perf_counter()
    isoloss.run(study(updates), store, workers=WORKERS, on=on, quiet=True)
    wall = time.perf_counter() - clock
    opened = Store(store)
    tracks: dict[str, float] = {}
    for row in opened.pieces():
        tracks[row.track] = tracks.get(row.track, 0.0) + row.seconds
    return wall, list(tracks.values()), {row.end_key: opened.digest(row.end_key) for row in opened.pieces()}


def quickstart(rounds: int, seeds: int, folder: Path) -> None:
    """One worker and two in turn, each into a store of its own; print the speed-up over its bound."""
    import isoloss
    from isoloss.store import Store

    text = (files("isoloss") / "studies" / "quickstart.yaml").read_text(encoding="utf-8")
    path = folder / "quickstart.yaml"
    path.write_text(text.replace("seed: [0, 1, 2]", f"seed: {list(range(seeds))}"), encoding="utf-8")
    planned = isoloss.plan(path, workers=WORKERS, calibrate=True)
    bound = planned.estimate.work / planned.seconds
    ratios, seen = [], []
    for number in range(rounds):
        walls = {}
        for workers in (1, WORKERS) if number % 2 == 0 else (WORKERS, 1):
            store = folder / f"{workers}-{number}"
            clock = time.perf_counter()
            isoloss.run(path, store, workers=workers, quiet=True)
            walls[workers] = time.perf_counter() - clock
            opened = Store(store)
            seen.append({row.end_key: opened.digest(row.end_key) for row in opened.pieces()})
        ratios.append(walls[1] / walls[WORKERS])
        print(
            f"  one worker {walls[1]:.1f} s, {WORKERS} workers {walls[WORKERS]:.1f} s: {ratios[-1]:.3f} times as fast"
        )
    # Who trains a stretch decides in which pieces; a piece that two stores have is the same.
    assert all(digests[key] == seen[0][key] for digests in seen for key in digests.keys() & seen[0].keys())
    median = statistics.median(ratios)
    print(
        f"quickstart, {seeds} seeds, {planned.segments} segments, {WORKERS} workers: {median:.3f} times as fast as one;"
    )
    print(f"list scheduling of the plan allows {bound:.3f}; share {median / bound:.3f}")


def measure(rounds: int, seconds: float, folder: Path) -> None:
    """Calibrate, run the rounds, print the table."""
    _, probe, _ = timed(40, folder / "probe", "local")
    updates = max(40, round(40 * seconds / statistics.median(probe)))
    walls: dict[str, list[float]] = {"local": [], "ray": []}
    inside: dict[str, list[float]] = {"local": [], "ray": []}
    seen: list[dict[str, Any]] = []
    for number in range(rounds):
        for on in ("local", "ray") if number % 2 == 0 else ("ray", "local"):
            wall, segments, digests = timed(updates, folder / f"{on}-{number}", on)
            walls[on].append(wall)
            inside[on] += segments
            seen.append(digests)
    assert all(digests == seen[0] for digests in seen)
    print(f"{SEGMENTS} segments of {updates} updates, {WORKERS} workers, {rounds} rounds; all states equal")
    for on, values in walls.items():
        print(f"  {on:5}  whole run {_row(values)} s   a segment {_row(inside[on])} s")
    ratios = [b / a for a, b in zip(walls["local"], walls["ray"], strict=True)]
    segment = statistics.median(inside["ray"]) / statistics.median(inside["local"])
    each = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    print(f"  ray / local: whole run {statistics.median(ratios):.3f} ({each}), a segment {segment:.3f}")


def _row(values: Sequence[float]) -> str:
    return f"{statistics.median(values):6.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a segment on local workers, by calibration")
    parser.add_argument("--quickstart", action="store_true", help="two local workers beside one")
    parser.add_argument("--seeds", type=int, default=1, help="of the quickstart")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if given.quickstart:
        with tempfile.TemporaryDirectory() as folder:
            quickstart(given.rounds, given.seeds, Path(folder))
        return
    from isoloss.execute.ray import connected

    with tempfile.TemporaryDirectory() as folder, connected("ray:local", WORKERS):
        measure(given.rounds, given.seconds, Path(folder))


if __name__ == "__main__":
    main()
