"""The whole way in two calls; the command line uses nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from isoloss.execute.run import Options, execute
from isoloss.plan.demands import folder_of, stage
from isoloss.plan.lower import Lowering
from isoloss.plan.memory import StoreMemory
from isoloss.plan.summary import as_study, on_path
from isoloss.store import Store
from isoloss.study import Study
from isoloss.worth.results import Results, collect


def run(
    study: Study | str | Path | Mapping[str, Any],
    store: Store | str | Path,
    *,
    under: Sequence[str | Path] = (),
    workers: int = 0,
    threads: int = 1,
    processes: int = 1,
    budget: float | None = None,
    share: bool = True,
    quiet: bool = False,
    console: Console | None = None,
) -> Results:
    """Train what ``store`` lacks for ``study`` and return its results; calling it again goes on where it stopped.

    ``workers``: processes that train runs side by side (0: one a core). ``processes``: how many share the
    micro-batches of one run. ``budget``: seconds after which nothing new begins. ``share=False`` trains every run
    from its own beginning, as a check. Raises ``StudyError`` before anything trains when the study is wrong;
    single runs that fail or diverge are in the results.
    """
    made = as_study(study)
    options = Options(workers, threads, processes, budget, share, quiet)
    with on_path(made):
        opened, layers = _open(store, under)
        done = execute(made, opened, options, console=console, under=layers)
        found = collect(made, done.stage, opened, done.failures)
    found.seconds, found.stopped, found.trained, found.replayed = (
        done.seconds,
        done.stopped,
        done.trained,
        done.replayed,
    )
    return found


def results(
    study: Study | str | Path | Mapping[str, Any],
    store: Store | str | Path,
    *,
    under: Sequence[str | Path] = (),
    threads: int = 1,
    share: bool = True,
) -> Results:
    """What ``store`` has of ``study``; trains nothing. Raises ``StoreError`` where there is no store."""
    made = as_study(study)
    with on_path(made):
        opened, _ = _open(store, under, create=False)
        lowering = Lowering(threads=threads, base=folder_of(made))
        now = stage(made, StoreMemory(opened), lowering, alone=not share)
        return collect(made, now, opened)


def _open(store: Store | str | Path, under: Sequence[str | Path], create: bool = True) -> tuple[Store, list[Path]]:
    if isinstance(store, Store):
        return store, [Path(layer) for layer in under]
    return Store(store, under=list(under), create=create), [Path(layer) for layer in under]
