"""Processor time of calls in interleaved rounds, which share what else the machine does."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

Update = Callable[[], object]


def medians(cases: dict[str, Update], rounds: int) -> dict[str, float]:
    """Milliseconds of processor time, one call of each a round."""
    for update in cases.values():
        update()
        update()
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, update in cases.items():
            begun = time.process_time()
            update()
            found[name].append(1e3 * (time.process_time() - begun))
    return {name: statistics.median(times) for name, times in found.items()}
