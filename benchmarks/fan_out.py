"""Workers on Ray beside local workers: the same study, two workers each, segments of several seconds.

    python benchmarks/fan_out.py [--rounds 2] [--seconds 5]

Every round trains the study once on each, in alternating order, into stores of its own; both include the start of
their workers. A Ray cluster of this machine is started before and stays up, as it would on a cluster. ``--seconds``:
how long a segment should take, calibrated once on local workers. The states of all stores must be equal.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
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
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from isoloss.execute.ray import connected

    with tempfile.TemporaryDirectory() as folder, connected("ray:local", WORKERS):
        measure(given.rounds, given.seconds, Path(folder))


if __name__ == "__main__":
    main()
