"""The whole way in two calls; the command line uses nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from isoloss.execute.averages import Averaged
from isoloss.execute.averages import averages as average_states
from isoloss.execute.branch import Branched, branch_key, branch_study
from isoloss.execute.cooldown import Cooldown
from isoloss.execute.dispatch import PATIENCE
from isoloss.execute.outside import Outside, branch_outside
from isoloss.execute.run import Options, execute
from isoloss.plan.demands import Stage, folder_of, stage
from isoloss.plan.lower import Lowering
from isoloss.plan.memory import StoreMemory
from isoloss.plan.summary import as_study, on_path
from isoloss.recipe.errors import StudyError
from isoloss.store import Store
from isoloss.study import Study
from isoloss.train.loop import Row
from isoloss.worth.results import Results, collect


def run(
    study: Study | str | Path | Mapping[str, Any],
    store: Store | str | Path,
    *,
    under: Sequence[str | Path] = (),
    workers: int = 0,
    threads: int = 1,
    processes: int = 0,
    shard: int = 0,
    budget: float | None = None,
    share: bool = True,
    quiet: bool = False,
    console: Console | None = None,
    on: str = "local",
    gpus: float = 0.0,
    patience: float | None = None,
    log: str | Sequence[str] = (),
) -> Results:
    """Train what ``store`` lacks for ``study`` and return its results; calling it again goes on where it stopped.

    ``workers``: processes that train runs side by side (0: one a core). ``processes``: how many train one run together,
    ``shard`` of them with one copy of its weights (0: as the study's ``training.parallel`` says). ``budget``: seconds
    after which nothing new begins. ``share=False`` trains every run from its own beginning, as a check. ``on``:
    ``local`` or a Ray cluster (``ray``, ``ray:HOST:PORT``, ``ray://HOST:PORT``; docs/cluster.md), where every process
    is given ``gpus``. ``patience``: seconds of silence after which a worker is taken to hang and is replaced.
    ``log``: where runs are logged as they go on, ``tensorboard:FOLDER``, ``mlflow:FOLDER-or-URI`` or ``wandb:FOLDER``
    (docs/bridges.md).

    Raises ``StudyError`` before anything trains when the study is wrong; single runs that fail or diverge are in the
    results.
    """
    made = as_study(study)
    options = Options(
        workers, threads, processes, budget, share, quiet, on, gpus, shard=shard, patience=patience or PATIENCE
    )
    with on_path(made):
        opened, layers = _open(store, under)
        with _logging(made, opened, [log] if isinstance(log, str) else log) as heard:
            done = execute(made, opened, options, console=console, under=layers, heard=heard)
        found = collect(made, done.stage, opened, done.failures)
    found.seconds, found.stopped, found.trained, found.replayed = (
        done.seconds,
        done.stopped,
        done.trained,
        done.replayed,
    )
    found.estimates = done.estimates
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


def branch(
    checkpoint: Study | str | Path | Mapping[str, Any],
    store: Store | str | Path | None = None,
    *,
    cooldown: str = "one_minus_sqrt",
    fraction: float | None = None,
    length: int | None = None,
    final: float | None = None,
    exponent: float | None = None,
    at: int | None = None,
    run: str | None = None,
    amount: int | None = None,
    adapter: str | Callable[[], Any] | None = None,
    out: str | Path | None = None,
    under: Sequence[str | Path] = (),
    threads: int = 1,
    progress: Callable[[int, int, float], None] | None = None,
) -> Branched | Outside:
    """Cool a checkpoint down: ``length`` updates, or ``fraction`` (default 0.2) of the whole run with its cooldown.

    ``checkpoint``: the key (or its beginning) of a state in ``store``, or a track's, for the newest state kept of it; a
    study with a ``run``'s name; or a folder or file of a training of your own, with its ``adapter``
    (``execute.outside`` says what that is). ``at``: the update the cooldown leaves from; where a store keeps no state
    of it, training goes on from the nearest one before. A branch in a store has the key that a study's run of that
    shape has; ``amount`` tokens (or samples) of both parts are measured at its end. The result of your own training is
    written beside its checkpoint, or to ``out``. ``progress`` hears (update, updates in all, training loss).

    Raises ``StudyError`` for what cannot be used, before anything is trained; ``RunFailed`` where it diverges.
    """
    wanted = Cooldown(cooldown, fraction, length, final, exponent)
    path = Path(checkpoint) if isinstance(checkpoint, str | Path) else None
    is_study = path is None or path.suffix in (".yaml", ".yml")
    if path is not None and path.exists() and not is_study:
        if adapter is None:
            raise StudyError(
                f"checkpoint {path}: a training of your own needs --adapter package.module:attribute (docs/branch.md)"
            )
        for name, value in (("run", run), ("store", store), ("amount", amount)):
            if value is not None:
                raise StudyError(f"--{name}: found with {path}; allowed: with a state of a store")
        return branch_outside(path, adapter, wanted, at=at, out=out, progress=progress)
    for name, given in (("adapter", adapter), ("out", out)):
        if given is not None:
            why = "" if is_study else ", and there is no such file"
            raise StudyError(
                f"--{name}: found with {path}; allowed: with a file or folder of a training of your own{why}"
            )
    if store is None:
        raise StudyError("--store is missing: the folder of the store that has the checkpoint")
    opened, _ = _open(store, under, create=False)

    def heard(update: int, total: int, row: Row) -> None:
        if progress:
            progress(update, total, row.loss)

    if is_study:
        study = as_study(checkpoint)
        return branch_study(opened, study, run, wanted, at=at, amount=amount, threads=threads, progress=heard)
    if run is not None:
        raise StudyError(f"--run: found with {path}; allowed: with a study file")
    return branch_key(opened, str(path), wanted, at=at, amount=amount, progress=heard)


def averages(
    store: Store | str | Path,
    key: str,
    kind: str = "window",
    *,
    every: int,
    measure: bool = True,
    amount: int | None = None,
    refresh: int = 0,
    under: Sequence[str | Path] = (),
    **options: Any,
) -> list[Averaged]:
    """Averages of the weights that lead to the state at ``key``, from the states kept every ``every`` updates.

    ``kind`` window (``length`` in updates), ema (``decay``) or lawa (``count``); a list of values gives an average
    each, all from one pass. Equal to the bit to a study's ``average``. See ``execute.averages``; raises ``StudyError``.
    """
    opened, _ = _open(store, under, create=False)
    return average_states(opened, key, kind, every=every, measure=measure, amount=amount, refresh=refresh, **options)


@contextmanager
def _logging(study: Study, store: Store, targets: Sequence[str]) -> Iterator[Callable[[Stage], None]]:
    """What hears of a study's progress for the loggers at ``targets``."""
    if not targets:
        yield lambda stage: None
        return
    from isoloss.bridges.loggers import Follower

    with Follower(study, store, targets) as follower:
        yield follower


def _open(
    store: Store | str | Path, under: Sequence[str | Path], create: bool = True
) -> tuple[Store, list[str | Path]]:
    if isinstance(store, Store):
        return store, list(under)
    return Store(store, under=list(under), create=create), list(under)
