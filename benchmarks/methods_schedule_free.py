"""Time of one update: Schedule-Free and Muon, against torch's fused optimizers and the authors' package.

`python benchmarks/methods_schedule_free.py [--rounds 30] [--write]`: medians of interleaved rounds on one thread,
processor time. The peer is the PyPI package schedulefree, installed without dependencies into a temporary folder.
`--write` puts the tables into benchmarks/results/methods-schedule-free.md.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isoloss.methods.muon import MuonAdamW
from isoloss.methods.schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
from timing import Update, medians

RESULT = Path(__file__).parent / "results" / "methods-schedule-free.md"


def package() -> tuple[str, Any]:
    """(version, module) of the authors' package."""
    folder = tempfile.mkdtemp()
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, "schedulefree"]
    subprocess.run(command, check=True)
    sys.path.insert(0, folder)
    version = next(Path(folder).glob("schedulefree-*.dist-info")).name.split("-")[1].removesuffix(".dist")
    return version, importlib.import_module("schedulefree")


def parameters(width: int) -> list[Tensor]:
    """100 tensors with gradients: matrices (width, width) and (3 width, width), and vectors, 25 times."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(width, width), (width,), (3 * width, width), (width,)] * 25
    found = [torch.randn(shape, generator=generator) * 0.02 for shape in shapes]
    for p in found:
        p.grad = torch.randn(p.shape, generator=generator) * 1e-3
    return found


def flat(width: int) -> list[Tensor]:
    """The same numbers as one tensor, as the training loop has them."""
    each = parameters(width)
    whole = torch.cat([p.reshape(-1) for p in each])
    whole.grad = torch.cat([p.grad.reshape(-1) for p in each if p.grad is not None])
    return [whole]


def cases(peer: Any, made: Callable[[], list[Tensor]]) -> dict[str, Update]:
    """Steps by name, all with weight decay; the first is the unit."""
    momentum: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}
    theirs = {
        "schedulefree AdamW, foreach": peer.AdamWScheduleFree(made(), weight_decay=0.1),
        "schedulefree AdamW, loop": peer.AdamWScheduleFree(made(), weight_decay=0.1, foreach=False),
        "schedulefree SGD": peer.SGDScheduleFree(made(), weight_decay=0.1),
    }
    for each in theirs.values():
        each.train()
    every: dict[str, torch.optim.Optimizer] = {
        "torch AdamW, fused": torch.optim.AdamW(made(), weight_decay=0.1, fused=True),
        **theirs,
        "isoloss Schedule-Free AdamW": ScheduleFreeAdamW(made(), weight_decay=0.1),
        "torch SGD with momentum, fused": torch.optim.SGD(made(), fused=True, **momentum),
        "isoloss Schedule-Free SGD": ScheduleFreeSGD(made(), weight_decay=0.1),
    }
    return {name: each.step for name, each in every.items()}


def table(title: str, found: dict[str, float]) -> list[str]:
    """Rows with the ratio to the first."""
    first = next(iter(found))
    rows = [f"| {name} | {each:.2f} | {each / found[first]:.2f} |" for name, each in found.items()]
    return [f"## {title}", "", f"| | ms | {first} = 1 |", "| --- | --- | --- |", *rows, ""]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    version, peer = package()
    lines = [
        "# Schedule-Free and Muon: time of one update",
        "",
        f"One thread, processor time, medians of {given.rounds} interleaved rounds. {platform.machine()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}, schedulefree {version}.",
        "",
    ]
    for width in (100, 335):
        count = sum(p.numel() for p in parameters(width)) / 1e6
        some = medians(cases(peer, lambda width=width: parameters(width)), given.rounds)
        lines += table(f"{count:.2f}M parameters in 100 tensors", some)
        some = medians(cases(peer, lambda width=width: flat(width)), given.rounds)
        lines += table(f"{count:.2f}M parameters in one tensor", some)
    torch_muon = torch.optim.Muon([p for p in parameters(100) if p.ndim == 2], weight_decay=0.1)
    torch_rest = torch.optim.AdamW([p for p in parameters(100) if p.ndim < 2], weight_decay=0.1, fused=True)

    def two() -> None:
        torch_muon.step()
        torch_rest.step()

    muon: dict[str, Update] = {
        "torch Muon and torch AdamW": two,
        "isoloss MuonAdamW": MuonAdamW(parameters(100), weight_decay=0.1).step,
    }
    lines += table("Muon: 1M parameters in 100 tensors", medians(muon, given.rounds))
    text = "\n".join(lines).rstrip() + "\n"
    print(text)
    if given.write:
        RESULT.write_text(text)


if __name__ == "__main__":
    main()
