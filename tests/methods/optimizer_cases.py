"""Small problems, save-and-load in a fresh process, and two gloo processes, for the tests of optimizers."""

from __future__ import annotations

import io
import multiprocessing
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.queues import Queue
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

INPUTS, CLASSES = 6, 3


def net(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """A small classifier with a normalisation layer; odd sizes, so that shards are uneven."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Sequential(nn.Linear(INPUTS, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, CLASSES))
    return layers.to(dtype)


def batch(update: int, worker: int = 0, size: int = 8, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """A batch that is a function of where it stands."""
    generator = torch.Generator().manual_seed(1000 * update + worker)
    x = torch.randn(size, INPUTS, generator=generator, dtype=torch.float64)
    return x.to(dtype), torch.randint(CLASSES, (size,), generator=generator)


def sparse() -> tuple[nn.Embedding, Callable[[], Tensor]]:
    """A table and a closure that gives it a sparse gradient."""
    embedding = nn.Embedding(5, 2, sparse=True)

    def run() -> Tensor:
        loss: Tensor = embedding(torch.tensor([1])).sum()
        loss.backward()
        return loss

    return embedding, run


def closure(model: nn.Module, update: int, worker: int = 0, size: int = 8) -> Callable[[], Tensor]:
    """What a worker does: fill p.grad with its gradient and return its loss."""
    dtype = next(model.parameters()).dtype

    def run() -> Tensor:
        x, y = batch(update, worker, size, dtype)
        model.zero_grad(set_to_none=False)
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss.detach()

    return run


def closures(model: nn.Module, update: int, workers: int) -> list[Callable[[], Tensor]]:
    """One closure a worker."""
    return [closure(model, update, k) for k in range(workers)]


def weights(model: nn.Module) -> Tensor:
    """All parameters as one new vector."""
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).clone()


Make = Callable[[nn.Module], torch.optim.Optimizer]


def train(
    make: Make, updates: range, *, workers: int, closed: bool, state: bytes | None = None
) -> tuple[bytes, Tensor]:
    """(saved model and optimizer, weights) after ``updates``; ``closed``: step takes closures."""
    torch.set_num_threads(1)
    model = net()
    optimizer = make(model)
    if state is not None:
        saved = torch.load(io.BytesIO(state), weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    for update in updates:
        if closed:
            optimizer.step(closures(model, update, workers))  # type: ignore[arg-type]
        else:
            closure(model, update)()
            optimizer.step()
    kept = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, kept)
    return kept.getvalue(), weights(model)


def assert_resumes(make: Make, *, workers: int = 1, closed: bool = True, updates: int = 11, at: int = 5) -> Tensor:
    """Save in the middle, load into a fresh process, continue: the same bits. Returns the weights at the end."""
    _, whole = train(make, range(updates), workers=workers, closed=closed)
    state, _ = train(make, range(at), workers=workers, closed=closed)
    context = multiprocessing.get_context("fork")
    answers: Queue[Any] = context.Queue()

    def rest() -> None:
        try:
            _, end = train(make, range(at, updates), workers=workers, closed=closed, state=state)
            answers.put(end.numpy())
        except Exception as error:
            answers.put(repr(error))

    process = context.Process(target=rest)
    process.start()
    resumed = answers.get(timeout=60)
    process.join(60)
    assert not isinstance(resumed, str), resumed
    assert torch.equal(whole, torch.from_numpy(resumed))
    return whole


def in_processes(work: Callable[[int, int], Any], world: int = 2) -> list[Any]:
    """Results of ``work(rank, world)`` in processes joined by gloo."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    context = multiprocessing.get_context("fork")
    answers: Queue[Any] = context.Queue()

    def one(rank: int) -> None:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
        torch.set_num_threads(1)
        try:
            dist.init_process_group("gloo", rank=rank, world_size=world, timeout=timedelta(seconds=60))
            answers.put((rank, work(rank, world), None))
            dist.destroy_process_group()
        except Exception as error:
            answers.put((rank, None, repr(error)))

    processes = [context.Process(target=one, args=(rank,)) for rank in range(world)]
    for process in processes:
        process.start()
    found_answers = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(60)
    failed = [error for _, _, error in found_answers if error is not None]
    assert not failed, failed
    return [value for _, value, _ in sorted(found_answers, key=lambda each: each[0])]


def sharded(make: Make, *, closed: bool, updates: int = 5) -> float:
    """Largest distance of weights trained by FSDP2 on two processes from those of one process on the same batches."""

    def work(rank: int, world: int) -> list[Any]:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        model = net()
        mesh = init_device_mesh("cpu", (world,))
        for layer in model:
            if isinstance(layer, nn.Linear):
                fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        optimizer = make(model)
        for update in range(updates):
            mine = closure(model, update, rank)
            if closed:
                optimizer.step(mine)
            else:
                mine()
                optimizer.step()
        return [p.full_tensor().detach().reshape(-1).numpy() for p in model.parameters()]

    parts = in_processes(work)
    model = net()
    optimizer = make(model)

    for update in range(updates):

        def both(update: int = update) -> Tensor:
            model.zero_grad(set_to_none=False)
            losses = [nn.functional.cross_entropy(model(x), y) for x, y in (batch(update, 0), batch(update, 1))]
            loss = (losses[0] + losses[1]) / 2
            loss.backward()
            return loss.detach()

        if closed:
            optimizer.step(both)
        else:
            both()
            optimizer.step()
    whole = weights(model)
    return max((torch.cat([torch.from_numpy(t) for t in part]) - whole).abs().max().item() for part in parts)
