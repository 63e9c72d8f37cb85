"""Planning and start-up: a study of 10,000 runs, sharing against the closed form, `isoloss --help`.

python benchmarks/planning.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import isoloss
from isoloss.plan import cost
from isoloss.plan.demands import expected
from isoloss.plan.lower import Lowering
from isoloss.plan.tree import grow
from isoloss.study import loads


def plan_10_000() -> tuple[int, float]:
    """(runs, seconds) to plan a study of 10,000 runs from its text, nothing stored."""
    text = (files("isoloss") / "studies" / "quickstart.yaml").read_text()
    study = loads(text).with_grid("seed", list(range(250)))
    isoloss.plan(loads(text))  # imports and the data source are not planning
    clock = time.perf_counter()
    planned = isoloss.plan(study.replaced(study.raw))
    return planned.runs, time.perf_counter() - clock


def quickstart_sharing() -> tuple[int, int, int, int]:
    """(shared, closed form, unshared, closed form) updates of the quickstart at one learning rate an arm.

    With warm-up w, durations T_1 < ... < T_m, the baseline's longer T_x and cooldown fraction c: the baseline
    trains every duration behind one warm-up; trunk and cooldowns cost T_m + c sum_{i<m} T_i (Haegele et al. 2024),
    where the trunk goes on to T_m for the averages, so that c T_m is added and one warm-up is shared.
    """
    study = loads((files("isoloss") / "studies" / "quickstart.yaml").read_text())
    runs = expected(study, Lowering())
    shared, unshared = cost.shared(grow(runs)).updates, cost.unshared(runs).updates
    T = sorted({c.config["duration"] for c in study.cells if not c.extra}, key=lambda text: int(text.split()[0]))
    extra = {c.config["duration"] for c in study.cells if c.extra}
    lengths, longest = [int(t.split()[0]) for t in T], int(extra.pop().split()[0])
    w, c = int(study.cells[0].config["training"]["warmup"].split()[0]), 0.2
    groups = len({(k.coordinates["model.width"], k.coordinates["seed"]) for k in study.cells})
    cosine = w + sum(t - w for t in [*lengths, longest])
    trunk = (lengths[-1] - w) + round(c * sum(lengths))
    return shared, groups * (cosine + trunk), unshared, groups * (len(study.arms) * sum(lengths) + longest)


def help_seconds(rounds: int = 9) -> float:
    """Median seconds of `isoloss --help`."""
    command = [str(Path(sys.executable).with_name("isoloss")), "--help"]
    times = []
    for _ in range(rounds):
        clock = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - clock)
    return statistics.median(times)


def main() -> None:
    """Print the table."""
    runs, seconds = plan_10_000()
    print(f"planning {runs:,} runs          {seconds:6.2f} s   (at most 5)")
    shared, form, unshared, plain = quickstart_sharing()
    print(f"quickstart, shared updates    {shared:,}   closed form {form:,}")
    print(f"quickstart, unshared updates  {unshared:,}   closed form {plain:,}")
    print(f"shared over unshared          {shared / unshared:.4f}")
    print(f"isoloss --help                {help_seconds():6.2f} s   (at most 0.4)")


if __name__ == "__main__":
    main()
