"""Time from the call to the first update of a cooldown that leaves a stored state of 10M parameters.

    python benchmarks/branch.py [--rounds 5]

Every round is a process of its own with a cold store: opening it, finding the key, checking the state's hash, building
model and optimizer, and the update itself. Imports are printed apart (isoloss, torch, and torch's compiler, which torch
imports where the first optimizer of a process is built); a session that branches has them behind it. The last line is a
second branch in the same process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

STUDY: dict[str, Any] = {
    "study": "ten-million",
    "data": {"source": "synthetic", "order": 1, "vocabulary": 256, "tokens": 200_000, "context": 64},
    "model": {"family": "gpt", "depth": 6, "head_size": 46, "width": 368},
    "training": {"optimizer": {"name": "adamw", "lr": 0.001}, "batch": "4 sequences", "warmup": "1 updates"},
    "evaluation": {"tokens": 256},
    "duration": "4 updates",
    "grid": {"seed": [0]},
    "baseline": {"arm": "flat", "extra": "none"},
    "arms": {"flat": {"schedule": {"shape": "constant"}}},
}

ROUND = """
import json, sys, time
begun = time.perf_counter()
import isoloss, torch._dynamo
isoloss.branch
imported = time.perf_counter() - begun
first, second = (isoloss.branch(sys.argv[2], sys.argv[1], length=length) for length in map(int, sys.argv[3:5]))
print(json.dumps([imported, first.first_update, first.seconds, second.first_update]))
"""


def main() -> None:
    import isoloss
    from isoloss import models
    from isoloss.store import Store

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        isoloss.run(STUDY, store, workers=1, quiet=True)
        key = Store(store).pieces()[-1].end_key
        seen = []
        for number in range(rounds):
            lengths = str(2 * number + 2), str(2 * number + 3)  # new keys every time
            done = subprocess.run(
                [sys.executable, "-c", ROUND, store, key, *lengths], capture_output=True, text=True, check=True
            )
            seen.append(json.loads(done.stdout))
    facts = models.describe(STUDY["model"], vocabulary=256, context=64)
    imported, first, whole, second = (statistics.median(column) for column in zip(*seen, strict=True))
    worst = max(row[1] for row in seen)
    print(
        f"{facts.total / 1e6:.1f}M parameters, AdamW, {12 * facts.total / 1e6:.0f} MB a state, {rounds} rounds, medians"
    )
    print(f"  imports                             {imported:6.2f} s")
    print(f"  call to end of first update         {first:6.2f} s   (worst {worst:.2f} s; asked: below 1 s)")
    print(f"  whole branch of 2 updates or more   {whole:6.2f} s")
    print(f"  second branch, to its first update  {second:6.2f} s")


if __name__ == "__main__":
    main()
