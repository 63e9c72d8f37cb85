"""What isoloss's layer over torch's distributed stack costs, on two processes of this machine.

    python benchmarks/parallel.py             updates against plain DDP and plain FSDP2 of the same model
    python benchmarks/parallel.py --saving    stall of the loop while a state is saved, against one copy of it in memory

Both sides train the built-in gpt with AdamW, clipping and the same batches, one thread a process, gloo on loopback.
The peers: ``DistributedDataParallel`` with one fused AdamW; ``fully_shard`` of every block and the whole, foreach
AdamW. Ours adds what makes the result independent of the number of processes: the fixed tree, float64 norms along
rows, squared norms of every micro-batch (the noise scale). Rounds are interleaved; medians of rounds, in
processor time.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing

WIDTH, DEPTH, CONTEXT, BATCH = 256, 4, 128, 16
VOCABULARY = 256
PARAMETERS = 50_000_000
Update = Callable[[], object]


def ours(layout: Any) -> Update:
    """One update of isoloss's loop."""
    from isoloss.plan.lower import Lowering, open_source
    from isoloss.recipe.run import Phase
    from isoloss.study import from_dict
    from isoloss.train.loop import Trainer

    study = {
        "study": "parallel",
        "data": {"source": "synthetic", "vocabulary": VOCABULARY, "tokens": 400_000, "context": CONTEXT},
        "model": {"family": "gpt", "width": WIDTH, "depth": DEPTH, "head_size": 32},
        "training": {
            "optimizer": {"name": "adamw", "lr": 1e-3}, "batch": f"{BATCH} sequences", "micro_batches": 2,
            "precision": "fp32", "warmup": "0 updates",
        },
        "schedule": {"shape": "constant"},
        "duration": "100000 updates",
        "evaluation": {"tokens": 1024},
    }  # fmt: skip
    (cell,) = from_dict(study).cells
    made = Lowering()(cell.config, 1e-3, where="benchmark")
    phase = Phase(made.run.phases[0].rule, 100_000)
    trainer = Trainer(made.run.start, phase, open_source(made.data), made.run.numerics, layout)
    return lambda: trainer.step(trainer.update)


def peer(kind: str, layout: Any) -> Update:
    """One update of a plain loop around DDP or FSDP2."""
    import torch.nn.functional as F
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    from isoloss import models

    spec = {"family": "gpt", "width": WIDTH, "depth": DEPTH, "head_size": 32, "mlp": "swiglu", "tied": False}
    model: Any = models.build(spec, vocabulary=VOCABULARY, context=CONTEXT, seed=0)
    if kind == "DDP":
        model = DistributedDataParallel(model)
    else:
        for block in model.blocks:
            fully_shard(block, mesh=layout.mesh["shard"])
        fully_shard(model, mesh=layout.mesh["shard"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=kind == "DDP", foreach=kind != "DDP")
    generator = torch.Generator().manual_seed(layout.rank)

    def update() -> object:
        tokens = torch.randint(VOCABULARY, (BATCH // layout.world, CONTEXT + 1), generator=generator)
        logits = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, VOCABULARY), tokens[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return update


def rank_of(rank: int, port: int, rounds: int, seconds: float) -> None:
    """Both pairs in this process; the first rank prints."""
    from isoloss.train.parallel.layout import Layout

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for kind, layout in (("DDP", Layout(2, rank, 1)), ("FSDP2", Layout(2, rank, 2))):
        sides = {"isoloss": ours(layout), f"plain {kind}": peer(kind, layout)}
        times: dict[str, list[float]] = {name: [] for name in sides}
        for update in sides.values():
            for _ in range(3):
                update()
        one = timed(next(iter(sides.values())), 3)
        count = torch.tensor([max(3, int(seconds / one))])
        dist.broadcast(count, 0)
        for _ in range(rounds):
            for name, update in sides.items():
                times[name].append(timed(update, int(count)))
        if rank == 0:
            a, b = (statistics.median(column) for column in times.values())
            ratio = statistics.median(x / y for x, y in zip(*times.values(), strict=True))
            print(f"{kind:6} isoloss {a * 1e3:6.1f} ms an update, plain {b * 1e3:6.1f} ms, ratio {ratio:.3f}")
    dist.destroy_process_group()


def timed(update: Update, count: int) -> float:
    """Processor seconds an update takes, mean of the processes: waiting for a busy machine is left out."""
    dist.barrier()
    begun = time.process_time()
    for _ in range(count):
        update()
    spent = torch.tensor([time.process_time() - begun])
    dist.all_reduce(spent)
    return spent.item() / dist.get_world_size() / count


def saving(rounds: int) -> None:
    """Stall of ``Saver.put`` against one copy of the same state in memory, and the time the disk takes meanwhile."""
    import tempfile
    from pathlib import Path

    import numpy as np

    from isoloss.execute.saving import Saver
    from isoloss.store import Piece, Store
    from isoloss.train.segment import State, Trained

    torch.set_num_threads(1)
    names = ("model/w", "optimizer/exp_avg/w", "optimizer/exp_avg_sq/w")
    state = State({name: torch.randn(PARAMETERS) for name in names}, {"update": 0})
    there = {name: torch.empty_like(tensor) for name, tensor in state.tensors.items()}
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "store") as store:

        def publish(piece: Trained) -> None:
            assert piece.state is not None
            keys = ["0" * 64, f"{piece.end:064x}"]
            facts = {"curve": {"update": np.arange(piece.begin + 1, piece.end + 1)}, "track": "0" * 64}
            store.publish(Piece(*keys, piece.begin, piece.end, piece.state.tensors, piece.state.meta, **facts))
            written.append(time.perf_counter() - begun)
            store.release(keys[1])

        stalls, copies, written = [], [], []
        begun = 0.0
        with Saver(publish, lambda piece: None) as saver:
            for turn in range(rounds + 1):
                clock = time.perf_counter()
                for name, tensor in state.tensors.items():
                    there[name].copy_(tensor)
                copies.append(time.perf_counter() - clock)
                begun = time.perf_counter()
                saver.put(Trained(turn, turn + 1, state, {}, (), None, 0.0))
                stalls.append(time.perf_counter() - begun)
                saver._finish()
    first, *later = stalls
    stall, copy = statistics.median(later), statistics.median(copies[1:])
    print(
        f"{PARAMETERS / 1e6:.0f}M parameters with Adam's state, {12 * PARAMETERS / 1e6:.0f} MB: the loop waits "
        f"{stall * 1e3:.0f} ms (first time {first * 1e3:.0f}), one copy in memory takes {copy * 1e3:.0f} ms, ratio "
        f"{statistics.median(s / c for s, c in zip(later, copies[1:], strict=True)):.2f}; hashed and on disk after "
        f"{statistics.median(written) * 1e3:.0f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--saving", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    if options.saving:
        saving(options.rounds)
        return
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    multiprocessing.spawn(rank_of, (port, options.rounds, options.seconds), nprocs=2)


if __name__ == "__main__":
    main()
