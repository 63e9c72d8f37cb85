"""Every method of the registry on other layouts of processes: the bits of one process, or a refusal that says why."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from isoloss.execute.job import execute
from isoloss.recipe.errors import StudyError
from isoloss.store import Store
from isoloss.train.parallel.layout import Layout, Parallel
from tests.train.test_registry_resume import CASES, END, MIDDLE, jobs, lowered

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]

LAYOUTS = {"data 2": Parallel(2, 1), "shard 2": Parallel(1, 2), "data 2 shard 2": Parallel(2, 2, checkpointing=True)}


def train(folder: Path, begin: int, end: int, parallel: Parallel, rank: int, meeting: str) -> None:
    """Train that part of every case on this rank; note what is refused."""
    torch.set_num_threads(1)
    if parallel.world > 1:
        dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=parallel.world)
    layout = parallel.layout(rank)
    for name, case in CASES.items():
        made = lowered(case)
        with Store(folder / name.replace(" ", "-")) as store:
            try:
                for job in jobs(made, begin, end):
                    execute(job, store, layout=layout, halt=lambda: True)
                    if parallel.world > 1:
                        dist.barrier()  # what the first rank has stored the others begin from
            except StudyError as error:
                (folder / f"{name.replace(' ', '-')}.refused").write_text(str(error))


def on(parallel: Parallel, folder: Path, begin: int = 0, end: int = END) -> None:
    fresh = multiprocessing.get_context("spawn")
    meeting = folder.parent / f"meeting-{folder.name}-{begin}-{parallel}".replace(" ", "")
    ranks = [
        fresh.Process(target=train, args=(folder, begin, end, parallel, rank, str(meeting)))
        for rank in range(parallel.world)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
        assert process.exitcode == 0


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    on(Parallel(), folder)
    return folder


@pytest.fixture(scope="module", params=LAYOUTS)
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Parallel, Path]:
    parallel = LAYOUTS[request.param]
    folder = tmp_path_factory.mktemp("other")
    on(parallel, folder)
    return parallel, folder


def refused(name: str, parallel: Parallel) -> bool:
    """Whether a layout is not offered: for lack of whole matrices, or as each micro-batch has a memory of its own."""
    training = CASES[name]["training"]
    direction = training.get("extrapolate", {}).get("direction")
    whole = training["optimizer"]["name"] == "muon" or direction == "noise"
    memory = "local_sgd" in training or direction == "past"
    return (parallel.shard > 1 and whole) or (parallel.data > 1 and memory)


def seen(folder: Path, name: str) -> dict[str, Any]:
    """Digest of the last state, all measurements, and the curves."""
    made = lowered(CASES[name])
    with Store(folder / name.replace(" ", "-")) as store:
        keys = [made.run.key(u) for u in range(END + 1)]
        curves = {row.end_key: {n: c.tobytes() for n, c in store.curve(row.end_key).items()} for row in store.pieces()}
        return {
            "digest": store.digest(made.run.key(END)),
            "measurements": store.measurements(keys),
            "curves": curves,
        }


@pytest.mark.parametrize("name", CASES)
def test_a_layout_changes_no_bit(name: str, one: Path, other: tuple[Parallel, Path]) -> None:
    parallel, folder = other
    note = folder / f"{name.replace(' ', '-')}.refused"
    if refused(name, parallel):
        assert "allowed: --" in note.read_text()
        return
    assert not note.exists(), note.read_text()
    alone, shared = seen(one, name), seen(folder, name)
    assert shared["curves"] == alone["curves"]
    assert shared["measurements"] == alone["measurements"]
    assert shared["digest"] == alone["digest"] is not None


def test_other_layouts_go_on_from_each_others_states(one: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    on(Parallel(), folder, 0, MIDDLE)
    on(Parallel(1, 2), folder, MIDDLE, END)
    for name in CASES:
        if not refused(name, Parallel(1, 2)):
            assert seen(folder, name)["digest"] == seen(one, name)["digest"], name


def test_what_cannot_be_shared_exactly_is_refused() -> None:
    for world, shard, micro in ((3, 3, 6), (4, 4, 6), (2, 2, 3)):
        with pytest.raises(StudyError, match="power"):
            Layout(world, 0, shard).share(micro)


def test_compiled_shards_are_refused_before_anything_trains(tmp_path: Path) -> None:
    import isoloss

    study = {
        "study": "compiled",
        "data": {"source": "blobs", "classes": 4, "samples": 640},
        "model": {"family": "f1", "width": 12, "depth": 2},
        "training": {
            "optimizer": {"lr": 0.01},
            "batch": "16 samples",
            "micro_batches": 2,
            "ghost_size": 2,
            "compile": True,
        },
        "duration": "4 updates",
        "evaluation": {"samples": 64},
    }
    with pytest.raises(StudyError, match=r"training.compile.*allowed: --shard 1"):
        isoloss.run(study, tmp_path / "store", processes=2, shard=2, quiet=True)
