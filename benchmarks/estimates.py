"""Predicted against actual time of a small study like the quickstart, calibrated just before.

    python benchmarks/estimates.py [--rounds 3] [--updates 200] [--workers 2]

Every round begins with an empty cache, so that it makes its own calibration, and with an empty store. The last table is
the same update measured by one process alone and by as many at once as there are workers; ``hidden``: what the other
sizes predict for it, over that.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import isoloss
from isoloss.plan.demands import stage
from isoloss.plan.lower import Lowering
from isoloss.plan.needs import Nothing
from isoloss.plan.speed import ROUGH_FLOPS, Kinds, curve, in_turn
from isoloss.study import Study, from_dict
from isoloss.train.calibrate_speed import Job, Timing, calibrate

WIDTHS = (16, 24, 32, 48)


def study(updates: int) -> dict[str, Any]:
    """The quickstart without tuning, one seed."""
    return {
        "study": "estimates",
        "data": {"source": "stdlib-code", "context": 64},
        "model": {"family": "gpt", "depth": 2, "head_size": 8},
        "training": {"optimizer": {"name": "adamw", "lr": 0.008}, "batch": "16 sequences", "warmup": "20 updates"},
        "evaluation": {"tokens": 16384, "every": "100 updates"},
        "checkpoint": {"every": "100 updates"},
        "grid": {
            "model.width": list(WIDTHS),
            "duration": [f"{updates} updates", f"{2 * updates} updates"],
            "seed": [0],
        },
        "baseline": {"arm": "cosine", "extra": "none"},
        "arms": {
            "cosine": {"schedule": {"shape": "cosine", "final": 0.1}},
            "cooldown": {"schedule": {"shape": "constant", "cooldown": {"shape": "one_minus_sqrt", "fraction": 0.2}}},
        },
    }


def timings(made: Study, processes: int) -> dict[int, tuple[float, Timing]]:
    """(FLOPs of an update, timing) by N, measured by that many processes at once."""
    kinds = Kinds()
    nodes = [node for root in stage(made, Nothing(), Lowering()).roots for node in root.walk()]
    known = {kind.id: kind for kind in map(kinds.of, nodes)}
    jobs = [Job(k.id, k.node.run, k.node.index, k.node.data, k.amount, k.flops) for k in in_turn(list(known.values()))]
    found = calibrate(jobs, processes=processes, threads=1, limit=8.0).timings
    return {known[name].node.facts.N: (known[name].flops, timing) for name, timing in sorted(found.items())}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    made = from_dict(study(given.updates))
    found: list[dict[str, Any]] = []
    for _ in range(given.rounds):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["ISOLOSS_CACHE"] = folder
            planned = isoloss.plan(made, workers=given.workers, calibrate=True)
            estimates = isoloss.run(made, Path(folder) / "store", workers=given.workers, quiet=True).estimates
            assert estimates is not None
            found.append(estimates)
    rough = (planned.missing.flops + planned.missing.evaluation_flops) / ROUGH_FLOPS / given.workers
    print(f"{planned.missing.updates:,} updates in {planned.segments} segments, {given.workers} workers")
    print(f"{'':>12} predicted      actual   ratio")
    for one in found:
        print(f"{'calibrated':>12} {one['predicted']:7.1f} s {one['actual']:9.1f} s {one['ratio']:7.2f}")
    actual = statistics.median(one["actual"] for one in found)
    print(f"{'without':>12} {rough:7.1f} s {actual:9.1f} s {actual / rough:7.2f}")
    print("        N   ratio by round")
    for N in sorted(row["N"] for row in found[0]["sizes"]):
        ratios = [row["ratio"] for one in found for row in one["sizes"] if row["N"] == N]
        print(f"{N:9,}   {'  '.join(f'{ratio:.2f}' for ratio in ratios)}")
    alone, together = timings(made, 1), timings(made, given.workers)
    print(f"        N    alone  {given.workers} at once   ratio   hidden")
    for N, (flops, timing) in sorted(together.items()):
        others = [(f, t.update) for other, (f, t) in together.items() if other != N]
        hidden = curve(others, flops) / timing.update
        one = alone[N][1].update
        print(f"{N:9,} {1e3 * one:5.2f} ms {1e3 * timing.update:8.2f} ms {timing.update / one:7.2f} {hidden:8.2f}")


if __name__ == "__main__":
    main()
