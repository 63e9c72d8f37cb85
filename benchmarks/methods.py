"""The methods beside their peers: Ghost BatchNorm, layer-wise optimizers and wrappers, Schedule-Free.

python benchmarks/methods.py [--rounds N] [--write]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PARTS = ("methods_ghost.py", "methods_optimizers.py", "methods_schedule_free.py")


def main() -> None:
    """Each part in a process of its own, one after another."""
    for part in PARTS:
        print(f"## {part}\n", flush=True)
        subprocess.run([sys.executable, Path(__file__).with_name(part), *sys.argv[1:]], check=True)
        print(flush=True)


if __name__ == "__main__":
    main()
