"""Models that are cut unevenly, share weights between blocks or count batches: the bits of one plain process."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from isoloss.plan.lower import Lowering, open_source
from isoloss.recipe.errors import RunFailed
from isoloss.recipe.run import Phase
from isoloss.study import from_dict
from isoloss.train.loop import Trainer
from isoloss.train.parallel.layout import Layout, Parallel


def trainer(study: dict[str, Any], layout: Layout) -> Trainer:
    (cell, *_) = from_dict(study).cells
    made = Lowering()(cell.config, 0.01, where="test")
    return Trainer(
        made.run.start, Phase(made.run.phases[0].rule, 100), open_source(made.data), made.run.numerics, layout
    )


def train(study: dict[str, Any], parallel: Parallel, rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    if parallel.world > 1:
        dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=parallel.world)
    made = trainer(study, parallel.layout(rank))
    rows = [made.step(update) for update in range(3)]
    tensors, _ = made.state()
    if rank == 0:
        torch.save((tensors, [(row.loss, row.gradient_norm, row.micro_squared) for row in rows]), f"{folder}/found")


def found(study: dict[str, Any], parallel: Parallel, folder: Path) -> Any:
    folder.mkdir()
    fresh = multiprocessing.get_context("spawn")
    ranks = [
        fresh.Process(target=train, args=(study, parallel, rank, str(folder)), daemon=True)
        for rank in range(parallel.world)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0
    return torch.load(folder / "found")


@pytest.mark.slow
@pytest.mark.multiprocess
def test_an_irregular_model_sharded(small: dict[str, Any], tmp_path: Path) -> None:
    small["model"] = {"name": "tests.train.train_models:Irregular", "width": 6}
    small["training"] |= {"micro_batches": 4, "clip": 0.5, "optimizer": {"name": "lamb", "lr": 0.01}}
    one = found(small, Parallel(), tmp_path / "one")
    for parallel in (Parallel(1, 2), Parallel(1, 4, checkpointing=True)):
        tensors, rows = found(small, parallel, tmp_path / f"{parallel.shard}")
        assert rows == one[1]
        assert tensors.keys() == one[0].keys()
        assert all(torch.equal(tensors[name], one[0][name]) for name in tensors)


def test_a_second_forward_pass_counts_no_batch_twice(small: dict[str, Any]) -> None:
    small["data"] = {"source": "blobs", "classes": 4, "samples": 640}
    small["model"] = {"name": "tests.train.train_models:NormedBlocks"}
    small["training"]["batch"] = "16 samples"
    small["evaluation"] = {"samples": 64}
    plain, again = (trainer(small, Layout(checkpointing=checkpointing)) for checkpointing in (False, True))
    for update in range(3):
        plain.step(update)
        again.step(update)
    assert plain.buffers()["blocks.0.1.num_batches_tracked"] == 3
    for name, buffer in plain.buffers().items():
        assert torch.equal(again.buffers()[name], buffer), name


def test_out_of_memory_of_one_shard_asks_nothing_of_the_others(small: dict[str, Any]) -> None:
    made = trainer(small, Layout())
    calls: list[int] = []

    def full(tokens: torch.Tensor) -> torch.Tensor:
        calls.append(len(tokens))
        raise torch.OutOfMemoryError("out of memory")

    made.model.forward = full  # type: ignore[method-assign]
    made.layout = Layout(2, 0, 2)
    with pytest.raises(RunFailed, match=r"out of memory.* larger --shard"):
        made.step(0)
    assert calls == [4]
