"""Ghost BatchNorm beside nn.BatchNorm2d and the chunk loop: forward, backward and running statistics on one thread.

    python benchmarks/methods_ghost.py                      table (median of interleaved rounds)
    python benchmarks/methods_ghost.py --rounds 51 --write  and into benchmarks/results/methods-ghost.md

The chunk loop is the lean one: `torch.cat([bn(piece) for piece in x.split(ghost_size)])`. Every round times every
column once, in turn; a ratio is the median over rounds of the ratio within a round. Processor time is reported,
which a busy machine disturbs least.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from isoloss.methods.ghost_batchnorm import GhostBatchNorm2d, Grouping
from isoloss.models import keep_freed_memory

RESULTS = Path(__file__).parent / "results" / "methods-ghost.md"
SHAPES: list[tuple[tuple[int, int, int, int], int]] = [
    ((64, 64, 56, 56), 32),
    ((64, 64, 56, 56), 8),
    ((128, 256, 14, 14), 32),
    ((128, 256, 14, 14), 8),
    ((256, 16, 32, 32), 32),
    ((256, 32, 16, 16), 32),
    ((256, 64, 8, 8), 32),
    ((256, 64, 8, 8), 8),
    ((1024, 64, 8, 8), 16),
]
PASS_MS = 15


def passes(shape: tuple[int, int, int, int], ghost_size: int, last: bool) -> dict[str, Callable[[], object]]:
    """One forward and backward pass by name; the peers first."""
    generator = torch.Generator().manual_seed(0)
    memory = torch.channels_last if last else torch.contiguous_format
    x, slope = (torch.randn(shape, generator=generator).contiguous(memory_format=memory) for _ in range(2))
    x.requires_grad_()
    plain = nn.BatchNorm2d(shape[1])

    def loop(x: Tensor) -> Tensor:
        return torch.cat([plain(piece) for piece in x.split(ghost_size)])

    def ghost(grouping: Grouping) -> Callable[[Tensor], Tensor]:
        return GhostBatchNorm2d(shape[1], ghost_size=ghost_size, grouping=grouping)

    layers: dict[str, Callable[[Tensor], Tensor]] = {
        "nn.BatchNorm2d": plain,
        "chunk loop": loop,
        "consecutive": ghost("consecutive"),
        "strided": ghost("strided"),
    }

    def both(layer: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        def run() -> None:
            x.grad = None
            layer(x).backward(slope)

        return run

    return {name: both(layer) for name, layer in layers.items()}


def measure(todo: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Processor seconds of one pass in every round; the order of the columns turns by one a round."""
    for run in todo.values():
        run()
    begun = time.process_time()
    next(iter(todo.values()))()
    repeats = max(1, int(PASS_MS * 1e-3 / (time.process_time() - begun)))
    times: dict[str, list[float]] = {name: [] for name in todo}
    names = list(todo)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            begun = time.process_time()
            for _ in range(repeats):
                todo[name]()
            times[name].append((time.process_time() - begun) / repeats)
    return times


def ratio(times: dict[str, list[float]], one: str, other: str) -> float:
    return statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))


def table(rounds: int = 31, last: bool = False) -> list[str]:
    """Lines of the table; `last`: channels_last tensors."""
    torch.set_num_threads(1)
    keep_freed_memory()
    lines = [
        "| shape | ghost | nn.BatchNorm2d, ms | chunk loop | consecutive | strided | consecutive / chunk loop |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for shape, ghost_size in SHAPES:
        times = measure(passes(shape, ghost_size, last), rounds)
        cells = ["x".join(map(str, shape)), str(ghost_size), f"{1e3 * statistics.median(times['nn.BatchNorm2d']):.2f}"]
        cells += [f"{ratio(times, name, 'nn.BatchNorm2d'):.2f}" for name in ("chunk loop", "consecutive", "strided")]
        cells.append(f"{ratio(times, 'consecutive', 'chunk loop'):.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def report(rounds: int = 31) -> str:
    """Both tables with what they were measured on, as Markdown."""
    head = [
        "# Ghost BatchNorm: speed",
        "",
        "Forward, backward and running statistics, float32, one thread, processor time; medians of "
        f"{rounds} interleaved rounds, nn.BatchNorm2d = 1.",
        f"{platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}. Made by "
        "`python benchmarks/methods_ghost.py --write`.",
    ]
    contiguous, last = table(rounds), table(rounds, last=True)
    return "\n".join([*head, "", "## Contiguous", "", *contiguous, "", "## channels_last", "", *last, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--write", action="store_true", help=f"also write {RESULTS.name}")
    options = parser.parse_args()
    text = report(options.rounds)
    print(text)
    if options.write:
        RESULTS.write_text(text)


if __name__ == "__main__":
    main()
