"""Every benchmark in turn, its table kept under benchmarks/results/ with what it ran on.

python benchmarks/run.py [training planning estimates store branch laws methods]
"""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent
COMMANDS = {
    "training": [["training.py", "--loop"], ["training.py"]],
    "planning": [["planning.py"]],
    "estimates": [["estimates.py"]],
    "store": [["store.py"]],
    "branch": [["branch.py"]],
    "parallel": [["parallel.py"], ["parallel.py", "--saving"]],
    "fan_out": [["fan_out.py", "--quickstart", "--rounds", "2"], ["fan_out.py"]],
    "laws": [["laws.py", "--write"]],
    "methods": [["methods.py", "--write"]],
}

WRITE_THEIR_OWN = ("laws", "methods")


def main() -> None:
    """Run what is named (all by default)."""
    for name in sys.argv[1:] or COMMANDS:
        parts = []
        for command in COMMANDS[name]:
            done = subprocess.run(
                [sys.executable, HERE / command[0], *command[1:]], capture_output=True, text=True, check=True
            )
            print(done.stdout)
            parts.append(f"`python benchmarks/{' '.join(command)}`\n\n{done.stdout}")
        if name not in WRITE_THEIR_OWN:
            capability = torch.backends.cpu.get_cpu_capability()
            head = f"{platform.machine()}, {capability}, Python {platform.python_version()}, torch {torch.__version__}"
            (HERE / "results" / f"{name}.md").write_text(f"# {name}\n\n{head}\n\n" + "\n".join(parts))


if __name__ == "__main__":
    main()
