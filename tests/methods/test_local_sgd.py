"""Local SGD: literal workers, one process against several, batched against looped, slow momentum, resume, bad input."""

from __future__ import annotations

import copy
import io
from typing import Any

import optimizer_cases as cases
import pytest
import torch
from torch import Tensor, nn

from isoloss.methods.extrapolation import sam
from isoloss.methods.lamb import LAMB
from isoloss.methods.local_sgd import BatchedLocalSGD, LocalSGD

SGD = torch.optim.SGD
BASES: dict[str, cases.Make] = {
    "sgd": lambda m: SGD(m.parameters(), lr=0.1, momentum=0.9),
    "plain": lambda m: SGD(m.parameters(), lr=0.1),
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), lr=0.01),
    "lamb": lambda m: LAMB(m.parameters(), lr=0.01),
}


def trained(make: cases.Make, updates: int, workers: int, closed: bool = True) -> Tensor:
    return cases.train(make, range(updates), workers=workers, closed=closed)[1]


def mean_of(models: list[nn.Module]) -> list[Tensor]:
    return [
        torch.stack([p.detach() for p in each]).mean(0) for each in zip(*(m.parameters() for m in models), strict=True)
    ]


def literally(base: str, updates: int, workers: int, every: int, start: int, beta: float, alpha: float) -> Tensor:
    """K models, K optimizers, in float64, averaged by hand."""
    shared = cases.net(dtype=torch.float64)
    optimizer = BASES[base](shared)
    for update in range(min(start, updates)):
        found = []
        for k in range(workers):
            cases.closure(shared, update, k)()
            found.append([p.grad.clone() for p in shared.parameters() if p.grad is not None])
        for p, parts in zip(shared.parameters(), zip(*found, strict=True), strict=True):
            p.grad = torch.stack(parts).mean(0)
        optimizer.step()
    models = [copy.deepcopy(shared) for _ in range(workers)]
    optimizers = [BASES[base](m) for m in models]
    for each in optimizers:
        each.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    z = [p.detach().clone() for p in shared.parameters()]
    u = [torch.zeros_like(p) for p in z]
    for update in range(start, updates):
        for k, (m, each) in enumerate(zip(models, optimizers, strict=True)):
            cases.closure(m, update, k)()
            each.step()
        if (update - start + 1) % every == 0:
            lr = optimizer.param_groups[0]["lr"]
            y = mean_of(models)
            u = [beta * a + (b - c) / lr for a, b, c in zip(u, z, y, strict=True)]
            z = [a - alpha * lr * b for a, b in zip(z, u, strict=True)]
            for m in models:
                for p, value in zip(m.parameters(), z, strict=True):
                    p.data.copy_(value)
    return torch.cat([p.reshape(-1) for p in mean_of(models)])


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    ("every", "start", "beta", "alpha"), [(1, 0, 0.0, 1.0), (3, 0, 0.0, 1.0), (2, 4, 0.0, 1.0), (3, 1, 0.6, 0.9)]
)
def test_equals_literal_workers(base: str, every: int, start: int, beta: float, alpha: float) -> None:
    model = cases.net(dtype=torch.float64)
    optimizer = LocalSGD(BASES[base](model), 3, every, start, slow_momentum=beta, slow_lr=alpha)
    for update in range(10):
        optimizer.step(cases.closures(model, update, 3))
        mean = optimizer.mean()
        torch.testing.assert_close(torch.cat([y.reshape(-1) for y in mean]), cases.weights(model), rtol=0, atol=1e-15)
    expected = literally(base, 10, 3, every, start, beta, alpha)
    torch.testing.assert_close(cases.weights(model), expected, rtol=1e-9, atol=1e-12)


def test_one_local_step_of_sgd_is_the_mean_gradient() -> None:
    local = trained(lambda m: LocalSGD(BASES["plain"](m), 4, 1), 5, 4)
    whole = trained(lambda m: LocalSGD(BASES["plain"](m), 4, 1, start=100), 5, 4)
    torch.testing.assert_close(local, whole, rtol=1e-5, atol=1e-6)


def test_one_worker_is_the_base_to_the_bit() -> None:
    for name, base in BASES.items():
        alone = trained(lambda m, b=base: LocalSGD(b(m), 1, 3, start=2), 7, 1)  # type: ignore[misc]
        assert torch.equal(alone, trained(base, 7, 1, closed=False)), name


def test_workers_differ_between_averagings_and_agree_after() -> None:
    model = cases.net()
    optimizer = LocalSGD(BASES["sgd"](model), 2, 2)
    p = model[0].weight
    optimizer.step(cases.closures(model, 0, 2))
    first, second = optimizer.state[p]["worker.0"], optimizer.state[p]["worker.1"]
    assert not torch.equal(first, second)
    torch.testing.assert_close(p.detach(), (first + second) / 2)
    optimizer.step(cases.closures(model, 1, 2))
    assert torch.equal(optimizer.state[p]["worker.0"], optimizer.state[p]["worker.1"])
    momenta = [optimizer.state[p][f"momentum_buffer.worker.{k}"] for k in range(2)]
    assert not torch.equal(*momenta)


@pytest.mark.multiprocess
@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("base", ["sgd", "adamw"])
@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_processes_give_the_bits_of_one_process(workers: int, base: str, beta: float) -> None:
    def work(rank: int, world: int) -> Any:
        model = cases.net()
        optimizer = LocalSGD(BASES[base](model), workers, 2, start=2, slow_momentum=beta, distributed=True)
        held = workers // world
        for update in range(7):
            optimizer.step([cases.closure(model, update, rank * held + k) for k in range(held)])
        return torch.cat([y.reshape(-1) for y in optimizer.mean()]).numpy()

    one = trained(lambda m: LocalSGD(BASES[base](m), workers, 2, start=2, slow_momentum=beta), 7, workers)
    for end in cases.in_processes(work):
        assert torch.equal(torch.from_numpy(end), one)


@pytest.mark.multiprocess
def test_resume_on_processes_is_bit_identical() -> None:
    def work(rank: int, world: int) -> Any:
        ends = []
        for stop in (None, 5):
            model = cases.net()
            optimizer = LocalSGD(BASES["sgd"](model), world, 2, start=2, slow_momentum=0.5, distributed=True)
            for update in range(9):
                if update == stop:
                    kept = io.BytesIO()
                    torch.save([model.state_dict(), optimizer.state_dict()], kept)
                    weights, state = torch.load(io.BytesIO(kept.getvalue()), weights_only=True)
                    model = cases.net(seed=1)
                    model.load_state_dict(weights)
                    optimizer = LocalSGD(BASES["sgd"](model), world, 2, start=2, slow_momentum=0.5, distributed=True)
                    optimizer.load_state_dict(state)
                optimizer.step(cases.closure(model, update, rank))
            ends.append(cases.weights(model))
        return torch.equal(*ends)

    assert all(cases.in_processes(work))


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("at", [2, 5, 6])
def test_resume_in_a_fresh_process_is_bit_identical(base: str, at: int) -> None:
    """Stopped before the start, between averagings and after one."""
    end = cases.assert_resumes(lambda m: LocalSGD(BASES[base](m), 2, 3, start=3, slow_momentum=0.4), workers=2, at=at)
    plain = trained(lambda m: LocalSGD(BASES[base](m), 2, 3, start=100), 11, 2)
    assert (end - plain).norm() > 1e-4


def test_step_counts_survive_parameters_of_low_precision() -> None:
    model = cases.net(dtype=torch.bfloat16)
    optimizer = LocalSGD(torch.optim.Adam(model.parameters()), 2, 2)
    optimizer.step(cases.closures(model, 0, 2))
    p = model[0].weight
    optimizer.state[p]["step.worker.1"].fill_(1001.0)
    fresh = cases.net(dtype=torch.bfloat16)
    other = LocalSGD(torch.optim.Adam(fresh.parameters()), 2, 2)
    other.load_state_dict(optimizer.state_dict())
    assert other.state[fresh[0].weight]["step.worker.1"].item() == 1001.0


def batched(kind: str, updates: int, workers: int, every: int, start: int, beta: float, stop: int | None) -> Tensor:
    made: dict[str, Any] = {
        "sgd": lambda x: SGD(x, lr=0.1, momentum=0.9),
        "adamw": lambda x: torch.optim.AdamW(x, lr=0.01),
    }

    def build(model: nn.Module) -> BatchedLocalSGD:
        def loss(call: Any, data: tuple[Tensor, Tensor]) -> Tensor:
            return nn.functional.cross_entropy(call(data[0]), data[1])

        return BatchedLocalSGD(model, loss, made[kind], workers, every, start, slow_momentum=beta)

    model = cases.net(dtype=torch.float64)
    trainer = build(model)
    for update in range(updates):
        if update == stop:
            kept = io.BytesIO()
            torch.save(trainer.state_dict(), kept)
            trainer = build(cases.net(seed=5, dtype=torch.float64))
            trainer.load_state_dict(torch.load(io.BytesIO(kept.getvalue()), weights_only=True))
            model = trainer.model  # type: ignore[assignment]
        parts = [cases.batch(update, k, dtype=torch.float64) for k in range(workers)]
        trainer.step(tuple(torch.stack(column) for column in zip(*parts, strict=True)))
    trainer.write_back()
    return cases.weights(model)


@pytest.mark.parametrize("base", ["sgd", "adamw"])
@pytest.mark.parametrize(("every", "start", "beta"), [(1, 0, 0.0), (3, 0, 0.0), (2, 4, 0.7)])
def test_batched_workers_equal_literal_workers(base: str, every: int, start: int, beta: float) -> None:
    end = batched(base, 9, 3, every, start, beta, None)
    torch.testing.assert_close(end, literally(base, 9, 3, every, start, beta, 1.0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("at", [2, 5, 6])
def test_batched_workers_resume_to_the_bit(at: int) -> None:
    whole = batched("sgd", 9, 4, 3, 3, 0.5, None)
    assert torch.equal(whole, batched("sgd", 9, 4, 3, 3, 0.5, at))


class Counting(torch.optim.Optimizer):
    """Steps by the number of its updates, and makes a new state every time."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 1.0})

    def step(self, closure: Any = None) -> None:
        for p in self.param_groups[0]["params"]:
            count = self.state[p].get("count", 0) + 1
            self.state[p] = {"count": count}
            p.add_(count)


def test_a_base_may_replace_its_state() -> None:
    x = torch.zeros(1)
    optimizer = LocalSGD(Counting([x]), 2, 2)
    for _ in range(3):
        optimizer.step([lambda: 0.0, lambda: 0.0])
    assert x.item() == 1 + 2 + 3


def test_a_bad_gradient_shows() -> None:
    x = torch.ones(2)

    def run() -> float:
        x.grad = torch.full((2,), float("nan"))
        return 0.0

    LocalSGD(SGD([x], lr=0.1), 2, 1).step([run, run])
    assert x.isnan().all()


def test_bad_input() -> None:
    model = cases.net()
    base = BASES["sgd"](model)
    for wrong, message in (
        ((0, 1), "workers is 0"),
        ((2, 0), "every is 0"),
        ((2, 1, -1), "start is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            LocalSGD(base, *wrong)
    with pytest.raises(ValueError, match=r"slow_momentum is 1\.0"):
        LocalSGD(base, 2, 1, slow_momentum=1.0)
    with pytest.raises(ValueError, match="a wrapper itself"):
        LocalSGD(sam(base), 2, 1)
    with pytest.raises(ValueError, match="step without closures"):
        LocalSGD(base, 2, 1).step()
    with pytest.raises(ValueError, match="3 closures; allowed: 2"):
        LocalSGD(base, 2, 1).step(cases.closures(model, 0, 3))
    with pytest.raises(ValueError, match="real floats"):
        LocalSGD(SGD([torch.zeros(2, dtype=torch.complex64)], lr=0.1), 2, 1)
    embedding, sparse = cases.sparse()
    with pytest.raises(ValueError, match="allowed: dense gradients"):
        LocalSGD(SGD(embedding.parameters(), lr=0.1), 1, 1).step(sparse)

    def loss(call: Any, data: Tensor) -> Tensor:
        return call(data).sum()

    with pytest.raises(ValueError, match="base is LAMB; allowed: SGD, Adam"):
        BatchedLocalSGD(model, loss, LAMB, 2, 1)
    trainer = BatchedLocalSGD(model, loss, lambda x: SGD(x, lr=0.1), 2, 1)
    state = trainer.state_dict()
    with pytest.raises(ValueError, match=r"allowed: \(3, 7, 6\)"):
        BatchedLocalSGD(model, loss, lambda x: SGD(x, lr=0.1), 3, 1).load_state_dict(state)
    dropped = nn.Sequential(nn.Linear(6, 2), nn.Dropout())
    with pytest.raises(RuntimeError, match="random"):
        BatchedLocalSGD(dropped, loss, lambda x: SGD(x, lr=0.1), 2, 1).step(torch.ones(2, 4, 6))
