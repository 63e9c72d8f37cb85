"""Train a few updates of a study's first cell as a worker does; print bytes: before, at the peak, predicted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from isoloss.execute.job import Job, execute
from isoloss.execute.worker import Setting, prepare
from isoloss.plan.demands import stage
from isoloss.plan.footprint import PROGRAM, memory
from isoloss.plan.lower import Lowering, open_source
from isoloss.plan.needs import Nothing
from isoloss.store import Store
from isoloss.study import from_dict


def resident(name: str) -> int:
    """Bytes of a line of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def main() -> None:
    """Reads a study (JSON) and a folder for the store from the command line."""
    prepare(Setting(sys.argv[2], (), 1, ()))
    now = stage(from_dict(json.loads(sys.argv[1])), Nothing(), Lowering())
    (work,) = now.work
    node = work.node
    asked = tuple(m for measures in node.measures.values() for m in measures.values())
    predicted = memory(node.run, node.index, node.data, node.facts.N_total, asked)
    open_source(node.data)
    before = resident("VmRSS")
    execute(Job.of(0, work, ""), Store(sys.argv[2]))
    print(json.dumps({"before": before, "peak": resident("VmHWM"), "predicted": predicted.total - PROGRAM,
                      "program": PROGRAM, "parts": vars(predicted)}))  # fmt: skip


if __name__ == "__main__":
    main()
