"""The study that is disturbed, and what it gives when it is not: every bit of it."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.chaos.hooks import Hooks
from tests.chaos.nursery import Driver, warm

CHAIN = {"source": "synthetic", "order": 1, "vocabulary": 8, "tokens": 20_000}


def study(every: str = "4 updates") -> dict[str, Any]:
    """A trunk with two branches, an average of it, a fine-tune and a run alone; ``every``: between checkpoints."""
    constant = {"shape": "constant"}
    return {
        "study": "chaos",
        "data": CHAIN | {"context": 8},
        "model": {"family": "gpt", "depth": 1, "head_size": 4, "width": 8},
        "training": {
            "optimizer": {"name": "adamw", "lr": 0.01},
            "batch": "4 sequences",
            "micro_batches": 2,
            "warmup": "4 updates",
        },
        "evaluation": {"tokens": 128, "every": "12 updates"},
        "checkpoint": {"every": every},
        "grid": {"duration": ["24 updates", "40 updates"], "seed": [0]},
        "baseline": {"arm": "cosine", "extra": "none"},
        "arms": {
            "cosine": {"schedule": {"shape": "cosine", "final": 0.1}},
            "cooldown": {"schedule": constant | {"cooldown": {"shape": "one_minus_sqrt", "fraction": 0.2}}},
            "averaged": {"schedule": constant, "average": {"kind": "window", "length": "10 updates"}},
            "tuned": {
                "schedule": constant,
                "pretrain": {"data": CHAIN | {"seed": 2}, "duration": "16 updates", "lr": 0.01},
            },
        },
    }


LAYOUTS: dict[str, list[str]] = {
    "two workers": ["--workers", "2"],
    "one worker": ["--workers", "1"],
    "two processes a run": ["--workers", "1", "--processes", "2"],
    "sharded on two": ["--workers", "1", "--shard", "2"],
}
"""How to execute it; the bits are the same."""


def command(layout: str, store: Path | str = "disk/store") -> list[str]:
    """``isoloss run`` of the study in the current folder."""
    return ["run", "study.yaml", "--store", str(store), "--out", "report", *LAYOUTS[layout]]


def written(folder: Path, every: str = "4 updates") -> Path:
    """A fresh folder with the study in it."""
    (folder / "disk").mkdir(parents=True)
    (folder / "temporary").mkdir()
    (folder / "study.yaml").write_text(json.dumps(study(every)))
    return folder


def bits(folder: Path, store: str = "disk/store") -> dict[str, Any]:
    """All that a store holds of the study and beyond: results, digests, measurements and curves, to the bit."""
    import isoloss
    from isoloss.store import Store

    found = isoloss.results(folder / "study.yaml", folder / store)
    curves = {}
    with Store(folder / store, create=False) as opened:
        keys = {row.end_key for row in opened.pieces()}
        digests = {key: digest for key in keys if (digest := opened.digest(key))}
        measured = {f"{name} at {key}": value for key, name, value in opened.top.index.all_measurements()}
        for planned, result in zip(found.stage.planned, found.results, strict=True):
            columns = opened.trajectory(planned.lowered.run.key(planned.lowered.run.length))
            updates, losses = map(str, columns["update"]), map(float.hex, columns["loss"].tolist())
            curves[result.name] = dict(zip(updates, losses, strict=True))
    rows = {}
    for result in found.results:
        losses = (float.hex(loss) if loss is not None else None for loss in (result.loss, result.loss_a))
        rows[result.name] = [result.status, *losses]
    return {"results": rows, "digests": digests, "measurements": measured, "curves": curves}


@dataclass(frozen=True)
class Undisturbed:
    """What the study gives when nothing happens.

    ``whole``: with its own checkpoints; ``dense``: with one at every update, so that it knows every key; ``seconds``
    and ``operations`` of the disk: how long it takes; ``pieces`` and ``bytes``: how large its store is.
    """

    whole: dict[str, Any]
    dense: dict[str, Any]
    seconds: float
    operations: int
    pieces: int
    bytes: int

    def differences(self, found: dict[str, Any], holes: bool = False) -> list[str]:
        """How a store that was disturbed, and whose study was run to its end, differs from it.

        ``holes``: curves may lack updates, since files were damaged: only what measurements need is trained again.
        """
        problems = []
        for name, value in self.whole["results"].items():
            if found["results"].get(name) != value:
                problems.append(f"{name}: found {found['results'].get(name)}, undisturbed {value}")
        for name, rows in self.whole["curves"].items():
            there = found["curves"][name]
            if not (there.items() <= rows.items() if holes else there == rows):
                other = sorted(set(there.items()) ^ set(rows.items()))
                problems.append(f"the curve of {name} differs in {len(other)} rows, first {other[0]}")
        missing = self.whole["measurements"].keys() - found["measurements"].keys()
        problems += [f"{name} is missing" for name in sorted(missing)]
        for part in ("digests", "measurements"):
            for name, value in found[part].items():
                if self.dense[part].get(name) != value:
                    problems.append(f"{part}, {name}: found {value}, undisturbed {self.dense[part].get(name)}")
        return problems


def undisturbed(folder: Path) -> Undisturbed:
    """Run the study without faults; what commands import is imported here too, from then on."""
    for name, every in (("dense", "1 updates"), ("whole", "4 updates")):
        place = written(folder / name, every)
        hooks = Hooks(place / "log", modules=place / "modules")
        driver = Driver(command("two processes a run" if name == "dense" else "two workers"), place, hooks)
        if driver.wait() != 0:
            raise RuntimeError(f"the study does not even run undisturbed:\n{driver.said()}")
        warm(hooks.modules.read_text().split())
    found = {name: asked(partial(bits, folder / name)) for name in ("dense", "whole")}
    for part in found.values():
        if "error" in part:
            raise RuntimeError(part["trace"])
    store = folder / "whole" / "disk" / "store"
    made = Undisturbed(
        found["whole"],
        found["dense"],
        driver.seconds,
        len(hooks.log.read_text().splitlines()),
        sum(1 for _ in store.glob("pieces/*/*/*.json")),
        sum(-(-path.stat().st_size // 4096) * 4096 for path in store.rglob("*") if path.is_file()),
    )
    if problems := made.differences(found["whole"]):
        raise RuntimeError(f"checkpoints at every update change what is found: {problems}")
    return made


def asked(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``work`` returns, found by a process of its own: this one stays fit to be forked."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            found = work()
        except BaseException as error:
            found = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        with os.fdopen(writer, "w") as tell:
            tell.write(json.dumps(found))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        text = told.read()
    os.waitpid(pid, 0)
    return json.loads(text) if text else {"error": "it died"}
