"""What a person sees while runs are trained: one bar, one dense line an active segment, what was reused.

Where output is no terminal, plain lines at most every few seconds.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from isoloss.execute.job import Job
from isoloss.plan.needs import Work

PLAIN_EVERY = 10.0
"""Seconds between plain progress lines."""


@dataclass
class _Active:
    job: Job
    work: Work
    offset: int
    loss: float | None = None
    seen: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=20))

    def rate(self) -> float | None:
        """Updates a second over the last few messages."""
        if len(self.seen) < 2 or self.seen[-1][0] <= self.seen[0][0]:
            return None
        return (self.seen[-1][1] - self.seen[0][1]) / (self.seen[-1][0] - self.seen[0][0])


class Display:
    """Shows rounds of work as shares of the whole; use as a context.

    ``peak``: FLOP/s of one worker's matrix products, 0 if unknown.
    """

    def __init__(self, console: Console, *, peak: float = 0.0, quiet: bool = False) -> None:
        self.console, self.peak, self.quiet = console, peak, quiet
        self._active: dict[int, _Active] = {}
        self._spent = self._total = 0.0
        self._begun = self._said = time.monotonic()
        self._title = ""
        self.arrived: Callable[[], None] = lambda: None
        """Called when a piece has been published."""
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[eta]}"),
            console=console,
        )
        self._task = self._bar.add_task("", total=1.0, eta="")
        self._live: Live | None = None

    def __enter__(self) -> Display:
        if self.console.is_terminal and not self.quiet:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True, get_renderable=self._render)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def round(self, title: str, works: list[Work], reused: int, later: float = 0.0) -> None:
        """A new list of work begins; ``reused`` updates of its runs are stored, ``later`` FLOPs will follow it."""
        self._title = title
        if not self._total:
            self._begun = time.monotonic()
        self._total = self._spent + sum(w.updates * w.node.flops_per_update for w in works) + later
        if not self.quiet:
            updates = sum(w.updates for w in works)
            known = f", {reused:,} already stored" if reused else ""
            self.console.print(f"{title}: {updates:,} updates to train in {len(works)} segments{known}")

    def started(self, job: Job, work: Work) -> None:
        self._active[job.id] = _Active(job, work, job.segment.begin)

    def progress(self, job: Job, offset: int, loss: float, at: float) -> None:
        active = self._active[job.id]
        self._advance(active, offset)
        active.loss = loss
        active.seen.append((at, offset))

    def piece(self, job: Job, begin: int, end: int) -> None:
        self._advance(self._active[job.id], end)
        self.arrived()

    def ended(self, job: Job, failure: str | None) -> None:
        self._active.pop(job.id, None)
        if failure and not self.quiet:
            self.console.print(f"[red]failed[/red] {job.label}: ", Text(failure), sep="")

    def tick(self) -> None:
        """Called a few times a second: says a plain line when it is time for one."""
        now = time.monotonic()
        if self._live or self.quiet or now - self._said < PLAIN_EVERY:
            return
        self._said = now
        lines = "; ".join(self._line(a) for a in self._active.values())
        self.console.print(f"{self._share():4.0%} of the work, {self._eta()}: {lines}", highlight=False, soft_wrap=True)

    def _advance(self, active: _Active, offset: int) -> None:
        done = max(0, offset - active.offset)
        active.offset = max(active.offset, offset)
        self._spent += done * active.work.node.flops_per_update

    def _share(self) -> float:
        return self._spent / self._total if self._total else 1.0

    def _eta(self) -> str:
        elapsed, share = time.monotonic() - self._begun, self._share()
        if share <= 0.01 or elapsed < 2:
            return "estimating the time left"
        left = elapsed * (1 - share) / share
        return f"{int(left // 60)}:{int(left % 60):02d} left"

    def _line(self, active: _Active) -> str:
        track = active.job.segment.run.tracks[active.job.segment.track]
        at, until = track[2] + active.offset, track[2] + active.job.segment.end
        parts = [active.job.label, f"update {at}/{until}"]
        if active.loss is not None:
            parts.append(f"loss {active.loss:.3f}")
        rate = active.rate()
        if rate is not None:
            facts = active.work.node.facts
            parts.append(f"{_short(rate * facts.terms_per_update)} {facts.unit}/s")
            if self.peak:
                parts.append(f"{rate * active.work.node.flops_per_update / self.peak:.0%} of matmul peak")
        return "  ".join(parts)

    def _render(self) -> Group:
        self._bar.update(self._task, completed=self._share(), description=self._title, eta=self._eta())
        table = Table.grid(padding=(0, 2))
        for active in list(self._active.values()):
            table.add_row(Text(self._line(active), no_wrap=True, overflow="ellipsis"))
        return Group(self._bar, table)


def matmul_peak() -> float:
    """FLOP/s of a large fp32 product on one thread: the scale for a segment's speed."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        a = torch.randn(384, 384)
        best = float("inf")
        for _ in range(6):
            clock = time.perf_counter()
            for _ in range(4):
                a @ a
            best = min(best, time.perf_counter() - clock)
    finally:
        torch.set_num_threads(threads)
    return 4 * 2 * 384**3 / best


def _short(rate: float) -> str:
    """``640``, ``12.3k``, ``1.2M``: three digits."""
    unit, word = next(((u, w) for u, w in ((1e6, "M"), (1e3, "k")) if rate >= u), (1.0, ""))
    return f"{rate / unit:.3g}{word}"
