"""Extrapolation: games, closed forms, literal references, limits to the bit, shards, resume and bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import optimizer_cases as cases
import pytest
import torch
from torch import Tensor, nn

from isoloss.methods.extrapolation import Extrapolation, asam, frozen_statistics, gradient_norm_penalty, sam
from isoloss.methods.lamb import LAMB

SGD = torch.optim.SGD


def game(z: Tensor) -> Callable[[], Tensor]:
    """min over x, max over y of x y: the field is (y, -x)."""

    def run() -> Tensor:
        z.grad = torch.stack([z[1], -z[0]]).detach()
        return z.detach().prod()

    return run


def play(updates: int, make: Callable[[Tensor], torch.optim.Optimizer]) -> list[float]:
    z = torch.tensor([1.0, 1.0], dtype=torch.float64)
    optimizer, radii = make(z), []
    for _ in range(updates):
        optimizer.step(game(z))  # type: ignore[arg-type]
        radii.append(z.norm().item())
    return radii


def test_bilinear_game() -> None:
    lr = 0.3
    plain = play(100, lambda z: SGD([z], lr=lr))
    extra = play(100, lambda z: Extrapolation(SGD([z], lr=lr)))
    past = play(100, lambda z: Extrapolation(SGD([z], lr=lr), "past"))
    start = math.sqrt(2)
    assert plain[-1] == pytest.approx(start * (1 + lr**2) ** 50, rel=1e-9)
    # One extragradient update multiplies by 1 - lr^2 - i lr as a complex number.
    assert extra[-1] == pytest.approx(start * math.hypot(1 - lr**2, lr) ** 100, rel=1e-9)
    assert extra[-1] < 0.02
    assert past[-1] < 0.1


@pytest.mark.parametrize("direction", ["past", "past-mean"])
def test_past_follows_the_optimistic_closed_form(direction: str) -> None:
    """z_t, with Popov's rule on the game, is c1 r1^t + c2 r2^t of a two-term linear recursion."""
    lr, h = 0.2, 0.15
    z = torch.tensor([1.0, -0.5], dtype=torch.float64)
    optimizer = Extrapolation(SGD([z], lr=lr), direction, size=h, scale="fixed")
    seen = [complex(*z.tolist())]
    for _ in range(40):
        optimizer.step(game(z))
        seen.append(complex(*z.tolist()))
    # Field F(z) = -i z; y_t = z_t - h F(y_{t-1}), z_{t+1} = z_t - lr F(y_t); the pair (z, y_{t-1}) moves linearly:
    # w = F(y_{t-1}): w' = F(z - h w) = -i z + i h w, z' = z - lr w'.
    a, b, c, d = 1 + 1j * lr, -1j * lr * h, -1j, 1j * h
    trace, determinant = a + d, a * d - b * c
    root = (trace * trace - 4 * determinant) ** 0.5
    r1, r2 = (trace + root) / 2, (trace - root) / 2
    first, second = seen[0], a * seen[0]
    c1 = (second - first * r2) / (r1 - r2)
    c2 = first - c1
    for t, value in enumerate(seen):
        assert abs(value - (c1 * r1**t + c2 * r2**t)) < 1e-12


@pytest.mark.parametrize("direction", ["gradient", "local", "past", "past-mean"])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("workers", [1, 3, 4])
def test_equals_the_four_lines_of_the_paper(direction: str, nesterov: bool, workers: int) -> None:
    model, literal = cases.net(dtype=torch.float64), cases.net(dtype=torch.float64)
    lr, h, u = 0.1, 0.05, 0.8
    optimizer = Extrapolation(
        SGD(model.parameters(), lr=lr, momentum=u), direction, size=h, scale="fixed", nesterov=nesterov
    )
    x = list(literal.parameters())
    v = [torch.zeros_like(p) for p in x]
    past: list[list[Tensor] | None] = [None] * workers

    def at(point: list[Tensor], update: int, worker: int) -> list[Tensor]:
        data, labels = cases.batch(update, worker, dtype=torch.float64)
        leaves = [p.detach().requires_grad_() for p in point]
        named = dict(zip(dict(literal.named_parameters()), leaves, strict=True))
        out = torch.func.functional_call(literal, named, (data,))
        return list(torch.autograd.grad(nn.functional.cross_entropy(out, labels), leaves))

    for update in range(6):
        optimizer.step(cases.closures(model, update, workers))
        here = [p.detach().clone() for p in x]
        own = [at(here, update, k) for k in range(workers)]
        mean = [torch.stack(parts).mean(0) for parts in zip(*own, strict=True)]
        found = []
        for k in range(workers):
            d = {"gradient": mean, "local": own[k], "past": past[k], "past-mean": past[0]}[direction]
            y = [p - (h * each if d is not None else 0) for p, each in zip(here, d or here, strict=True)]
            if nesterov:
                y = [p + u * each for p, each in zip(y, v, strict=True)]
            found.append(at(y, update, k))
        g = [torch.stack(parts).mean(0) for parts in zip(*found, strict=True)]
        past = list(found) if direction == "past" else [g] * workers
        v = [u * each - lr * slope for each, slope in zip(v, g, strict=True)]
        with torch.no_grad():
            for p, each in zip(x, v, strict=True):
                p.add_(each)
    torch.testing.assert_close(cases.weights(model), cases.weights(literal), rtol=1e-10, atol=1e-12)


def trained(make: cases.Make, updates: int = 6, workers: int = 1, closed: bool = True) -> Tensor:
    return cases.train(make, range(updates), workers=workers, closed=closed)[1]


BASES: dict[str, cases.Make] = {
    "sgd": lambda m: SGD(m.parameters(), lr=0.1, momentum=0.9),
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), lr=0.01),
    "lamb": lambda m: LAMB(m.parameters(), lr=0.01),
}


@pytest.mark.parametrize("base", BASES)
def test_limits_of_the_penalty_are_plain_and_sam_to_the_bit(base: str) -> None:
    plain = trained(BASES[base], closed=False)
    nothing = trained(lambda m: gradient_norm_penalty(BASES[base](m), r=0.1, a=0.0))
    whole = trained(lambda m: gradient_norm_penalty(BASES[base](m), r=0.1, a=1.0))
    sharp = trained(lambda m: sam(BASES[base](m), rho=0.1))
    half = trained(lambda m: gradient_norm_penalty(BASES[base](m), r=0.1, a=0.5))
    assert torch.equal(nothing, plain)
    assert torch.equal(whole, sharp)
    assert (sharp - plain).norm() > 1e-3
    assert (half - plain).norm() > 1e-3 and (half - sharp).norm() > 1e-3


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("direction", ["gradient", "local"])
def test_sam_and_penalty_against_the_formula(adaptive: bool, direction: str) -> None:
    model, literal = cases.net(dtype=torch.float64), cases.net(dtype=torch.float64)
    rho, eta, a, lr, workers = 0.1, 0.02, 0.7, 0.2, 2
    make: Any = asam if adaptive else sam
    options = {"eta": eta} if adaptive else {}
    optimizer = make(SGD(model.parameters(), lr=lr), rho, direction=direction, mix=a, **options)

    def slope(update: int, worker: int) -> list[Tensor]:
        cases.closure(literal, update, worker)()
        return [p.grad.clone() for p in literal.parameters() if p.grad is not None]

    for update in range(3):
        optimizer.step(cases.closures(model, update, workers))
        x = [p.detach().clone() for p in literal.parameters()]
        own = [slope(update, k) for k in range(workers)]
        mean = [(g + h) / 2 for g, h in zip(*own, strict=True)]
        ends = []
        for k in range(workers):
            g = mean if direction == "gradient" else own[k]
            T = [p.abs() + eta if adaptive else torch.ones_like(p) for p in x]
            norm = math.sqrt(sum(float(((t * s) ** 2).sum()) for t, s in zip(T, g, strict=True)))
            with torch.no_grad():
                for p, t, s in zip(literal.parameters(), T, g, strict=True):
                    p.add_(rho * t * t * s / norm)
            ends.append(slope(update, k))
            with torch.no_grad():
                for p, before in zip(literal.parameters(), x, strict=True):
                    p.copy_(before)
        with torch.no_grad():
            for p, g, h, k in zip(literal.parameters(), mean, *ends, strict=True):
                p.sub_(lr * ((1 - a) * g + a * (h + k) / 2))
    torch.testing.assert_close(cases.weights(model), cases.weights(literal), rtol=1e-10, atol=1e-12)


def test_the_penalty_is_the_gradient_of_the_penalised_loss() -> None:
    """On f = x A x / 2: grad(f + p ||grad f||) = A x + p A A x / ||A x||, exactly."""
    A = torch.diag(torch.tensor([3.0, 1.0, 0.2], dtype=torch.float64))
    x = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    before, r, a = x.clone(), 0.05, 0.6

    def run() -> Tensor:
        x.grad = A @ x
        return 0.5 * x @ A @ x

    gradient_norm_penalty(SGD([x], lr=1.0), r, a).step(run)
    g = A @ before
    torch.testing.assert_close(before - x, g + a * r * (A @ g) / g.norm(), rtol=1e-12, atol=0)


def test_up_at_a_stationary_point_stays_finite() -> None:
    x = torch.ones(3)
    x.grad = torch.zeros(3)
    sam(SGD([x], lr=1.0)).step(lambda: 0.0)
    assert torch.equal(x, torch.ones(3))


@pytest.mark.parametrize("scale", ["lr", "fixed"])
def test_size_follows_the_learning_rate_or_not(scale: str) -> None:
    x, seen = torch.zeros(1, dtype=torch.float64), []

    def run() -> float:
        seen.append(x.item())
        x.grad = torch.ones(1, dtype=torch.float64)
        return 0.0

    optimizer = Extrapolation(SGD([x], lr=1.0), size=0.5, scale=scale)
    for lr in (0.2, 0.1):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step(run)
    moved = [seen[0] - seen[1], seen[2] - seen[3]]
    assert moved == pytest.approx([0.1, 0.05] if scale == "lr" else [0.5, 0.5])


def test_interval_begin_and_end_decide_which_updates_are_plain() -> None:
    model, calls = cases.net(), [0]
    optimizer = sam(SGD(model.parameters(), lr=0.1), begin=2, end=7, interval=3)
    costs = []
    for update in range(9):
        inner = cases.closure(model, update)

        def counted(inner: Callable[[], Tensor] = inner) -> Tensor:
            calls[0] += 1
            return inner()

        before = calls[0]
        optimizer.step(counted)
        costs.append(calls[0] - before)
    assert costs == [1, 1, 2, 1, 1, 2, 1, 1, 1]
    assert costs == [optimizer.passes_at(update) for update in range(9)]
    assert optimizer.passes == pytest.approx(1 + 1 / 3)


def test_plain_updates_are_plain_to_the_bit() -> None:
    plain = trained(BASES["sgd"], closed=False)
    for options in ({"begin": 6}, {"end": 0}, {"size": 0.0}):
        assert torch.equal(plain, trained(lambda m, o=options: Extrapolation(BASES["sgd"](m), **o)))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        ({}, 2.0),
        ({"direction": "local", "share": 0.25}, 1.25),
        ({"direction": "past"}, 1.0),
        ({"direction": "noise"}, 1.0),
        ({"mix": 0.0}, 1.0),
        ({"share": 0.5, "interval": 5}, 1.1),
    ],
)
def test_passes(options: dict[str, Any], passes: float) -> None:
    assert Extrapolation(SGD([torch.ones(1)], lr=0.1), **options).passes == pytest.approx(passes)


def test_first_closures_give_the_direction_from_fewer_samples() -> None:
    model, literal = cases.net(dtype=torch.float64), cases.net(dtype=torch.float64)
    optimizer = Extrapolation(SGD(model.parameters(), lr=0.1), "local", size=0.3, scale="fixed", share=0.25)
    optimizer.step(cases.closure(model, 0, 0, 8), first=cases.closure(model, 5, 0, 2))
    x = [p.detach().clone() for p in literal.parameters()]
    cases.closure(literal, 5, 0, 2)()
    with torch.no_grad():
        for p in literal.parameters():
            p.sub_(0.3 * p.grad)  # type: ignore[operator]
    cases.closure(literal, 0, 0, 8)()
    with torch.no_grad():
        for p, before in zip(literal.parameters(), x, strict=True):
            p.copy_(before - 0.1 * p.grad)  # type: ignore[operator]
    torch.testing.assert_close(cases.weights(model), cases.weights(literal), rtol=1e-12, atol=1e-14)


class WithStatistics(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = cases.net()
        self.bn = nn.BatchNorm1d(cases.INPUTS)
        self.instance = nn.InstanceNorm1d(cases.INPUTS, track_running_stats=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.bn(x) + self.instance(x[:, :, None].expand(-1, -1, 4) * torch.arange(4.0)).mean(2))


@pytest.mark.parametrize("up", [False, True])
def test_statistics_are_touched_by_one_pass_only(up: bool) -> None:
    """The counted pass: down, the one at the moved point; up, the one at x. BN stands first: inputs decide it."""
    model, plain = WithStatistics(), WithStatistics()
    optimizer = Extrapolation(SGD(model.parameters(), lr=0.1), up=up, model=model)
    for update in range(3):
        optimizer.step(cases.closures(model, update, 2))
        for k in range(2):
            cases.closure(plain, update, k)()
    assert int(model.bn.num_batches_tracked) == 6
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, plain.get_buffer(name))


def test_statistics_are_restored_after_an_error() -> None:
    bn = nn.BatchNorm1d(3)
    with pytest.raises(RuntimeError, match="stop"), frozen_statistics(bn):
        bn(torch.randn(4, 3))
        raise RuntimeError("stop")
    assert torch.equal(bn.running_mean, torch.zeros(3))  # type: ignore[arg-type]
    assert int(bn.num_batches_tracked) == 0  # type: ignore[arg-type]


def test_parameters_are_restored_after_an_error() -> None:
    model = cases.net()
    before = cases.weights(model)
    optimizer, calls = sam(SGD(model.parameters(), lr=0.1)), [0]

    def run() -> Tensor:
        calls[0] += 1
        if calls[0] == 2:
            raise RuntimeError("stop")
        return cases.closure(model, 0)()

    with pytest.raises(RuntimeError, match="stop"):
        optimizer.step(run)
    assert torch.equal(cases.weights(model), before)


@pytest.mark.parametrize("noise", ["gaussian", "uniform"])
def test_noise_has_its_distribution_and_leaves_the_generator(noise: str) -> None:
    x, seen = torch.zeros(200_000), []

    def run() -> float:
        seen.append(x.clone())
        x.grad = torch.zeros_like(x)
        return 0.0

    before = torch.get_rng_state()
    optimizer = Extrapolation(SGD([x], lr=1.0), "noise", size=0.3, scale="fixed", noise=noise, seed=4)
    optimizer.step([run, run])
    optimizer.step([run, run])
    assert torch.equal(torch.get_rng_state(), before)
    variance = 0.09 if noise == "gaussian" else 0.03
    for n in seen:
        assert n.mean().abs() < 0.004
        assert n.var().item() == pytest.approx(variance, rel=0.02)
    for i in range(4):
        for j in range(i):
            assert abs((seen[i] * seen[j]).mean().item()) < 0.01 * variance**0.5
    assert torch.equal(x, torch.zeros(200_000))


def test_noise_per_filter_has_the_norm_of_the_filter() -> None:
    x = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0)) * torch.arange(5.0)[:, None, None]
    bias, seen = torch.tensor([3.0, 4.0]), []
    x0, b0 = x.clone(), bias.clone()

    def run() -> float:
        seen.append((x - x0, bias - b0))
        x.grad, bias.grad = torch.zeros_like(x), torch.zeros_like(bias)
        return 0.0

    Extrapolation(SGD([x, bias], lr=1.0), "noise", size=0.1, scale="fixed", per_filter=True).step(run)
    torch.testing.assert_close(seen[0][0].flatten(1).norm(dim=1), 0.1 * x0.flatten(1).norm(dim=1), rtol=1e-4, atol=0)
    assert seen[0][1].norm().item() == pytest.approx(0.5, rel=1e-4)


def test_virtual_workers_give_the_bits_of_one_tree() -> None:
    """Four workers are added as ((0+1)+(2+3)), whoever computes them."""
    model, literal = cases.net(), cases.net()
    Extrapolation(SGD(model.parameters(), lr=0.1), end=0).step(cases.closures(model, 0, 4))
    parts = []
    for k in range(4):
        cases.closure(literal, 0, k)()
        parts.append([p.grad.clone() for p in literal.parameters() if p.grad is not None])
    for p, a, b, c, d in zip(literal.parameters(), *parts, strict=True):
        p.grad = ((a + b) + (c + d)) / 4
    SGD(literal.parameters(), lr=0.1).step()
    assert torch.equal(cases.weights(model), cases.weights(literal))


@pytest.mark.multiprocess
@pytest.mark.parametrize("direction", ["gradient", "local", "past"])
def test_workers_on_processes_equal_workers_in_one(direction: str) -> None:
    def work(rank: int, world: int) -> Any:
        def reduce(tensors: list[Tensor]) -> None:
            for each in tensors:
                torch.distributed.all_reduce(each)

        model = cases.net()
        base = SGD(model.parameters(), lr=0.1, momentum=0.9)
        optimizer = Extrapolation(base, direction, reduce=reduce, processes=world, rank=rank)
        for update in range(5):
            optimizer.step(cases.closure(model, update, rank))
        return cases.weights(model).numpy()

    one = trained(lambda m: Extrapolation(SGD(m.parameters(), lr=0.1, momentum=0.9), direction), 5, workers=2)
    for end in cases.in_processes(work):
        assert torch.equal(torch.from_numpy(end), one)


WRAPPED: dict[str, cases.Make] = {
    "extragradient": lambda m: Extrapolation(BASES["sgd"](m), nesterov=True),
    "local": lambda m: Extrapolation(BASES["adamw"](m), "local", interval=2),
    "past": lambda m: Extrapolation(BASES["adamw"](m), "past"),
    "past-sgd": lambda m: Extrapolation(SGD(m.parameters(), lr=0.1), "past", begin=2),
    "past-mean": lambda m: Extrapolation(BASES["sgd"](m), "past-mean", nesterov=True),
    "noise": lambda m: Extrapolation(BASES["sgd"](m), "noise", size=0.05, scale="fixed", per_filter=True),
    "sam": lambda m: sam(BASES["adamw"](m), begin=3, interval=2),
    "asam": lambda m: asam(BASES["sgd"](m), rho=0.3),
    "penalty": lambda m: gradient_norm_penalty(BASES["lamb"](m)),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_resume_in_a_fresh_process_is_bit_identical(name: str) -> None:
    end = cases.assert_resumes(WRAPPED[name], workers=2)
    plain = trained(lambda m: Extrapolation(WRAPPED[name](m).base, end=0, direction="gradient"), 11, workers=2)  # type: ignore[attr-defined]
    assert (end - plain).norm() > 1e-4


@pytest.mark.multiprocess
@pytest.mark.parametrize("name", ["extragradient", "past", "noise", "sam", "asam", "penalty"])
def test_sharded_equals_one_process(name: str) -> None:
    assert cases.sharded(WRAPPED[name], closed=True) <= 1e-6


def test_clipping_in_prepare_sees_the_final_gradient_at_x() -> None:
    model = cases.net()
    before, seen = cases.weights(model), []
    optimizer = sam(SGD(model.parameters(), lr=1.0), rho=0.5)

    def prepare() -> None:
        assert torch.equal(cases.weights(model), before)
        seen.append(nn.utils.clip_grad_norm_(model.parameters(), 0.01))

    optimizer.step(cases.closure(model, 0), prepare=prepare)
    assert seen[0] > 0.01
    assert (cases.weights(model) - before).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_what_prepare_does_is_not_remembered() -> None:
    model = cases.net()
    optimizer = Extrapolation(SGD(model.parameters(), lr=1.0), "past")
    for update in range(2):
        optimizer.step(cases.closure(model, update), prepare=lambda: [p.grad.zero_() for p in model.parameters()])  # type: ignore[union-attr]
        assert all(optimizer.state[p]["past_gradient.0"].norm() > 0 for p in model.parameters())


def test_schedulers_and_new_groups_reach_the_base() -> None:
    model = cases.net()
    optimizer = sam(SGD(model[0].parameters(), lr=0.1))
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    optimizer.step(cases.closure(model, 0))
    schedule.step()
    assert optimizer.base.param_groups[0]["lr"] == 0.05
    optimizer.add_param_group({"params": list(model[3].parameters()), "lr": 0.3})
    before = model[3].weight.detach().clone()
    optimizer.step(cases.closure(model, 1))
    assert not torch.equal(model[3].weight, before)
    with pytest.raises(ValueError, match="real floats"):
        optimizer.add_param_group({"params": [torch.zeros(2, dtype=torch.int64)]})


def test_frozen_and_unused_parameters_stay() -> None:
    model = cases.net()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    optimizer = Extrapolation(torch.optim.AdamW(model.parameters(), lr=0.1), "past")
    for update in range(3):
        optimizer.step(cases.closures(model, update, 2))
    assert torch.equal(model[0].weight, before)


def test_a_bad_gradient_shows_and_x_was_restored() -> None:
    x = torch.ones(3)

    def run() -> float:
        x.grad = torch.full((3,), math.nan)
        return math.nan

    def prepare() -> None:
        assert torch.equal(x, torch.ones(3))

    sam(SGD([x], lr=0.1)).step(run, prepare=prepare)
    assert x.isnan().all()


def test_bad_input() -> None:
    x = torch.ones(3)
    base = SGD([x], lr=0.1)
    with pytest.raises(ValueError, match="a wrapper itself"):
        Extrapolation(sam(base))
    for closures in (None, [], [None]):
        with pytest.raises(ValueError, match="step without closures; allowed: a callable"):
            sam(base).step(closures)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2 first closures for 1 workers"):
        sam(base).step(lambda: 0.0, first=[lambda: 0.0, lambda: 0.0])
    with pytest.raises(ValueError, match=r"allowed: a torch\.optim\.Optimizer"):
        Extrapolation(x)  # type: ignore[arg-type]
    for wrong, message in (
        ({"direction": "gradients"}, r"did you mean 'gradient'"),
        ({"scale": "lrr"}, "allowed: lr, fixed"),
        ({"normalise": "adaptiv"}, r"did you mean 'adaptive'"),
        ({"noise": "gauss"}, "allowed: gaussian, uniform"),
        ({"mix": 1.5}, "mix is 1.5"),
        ({"share": -0.1}, "share"),
        ({"size": -1.0}, "size"),
        ({"interval": 0}, "interval is 0"),
        ({"begin": -1}, "begin"),
        ({"direction": "past", "mix": 0.5}, "allowed: gradient and local"),
        ({"share": 0.5, "mix": 0.5}, "mixed in"),
        ({"processes": 2}, "without reduce"),
        ({"nesterov": True}, "momentum above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Extrapolation(base, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="its own nesterov off"):
        Extrapolation(SGD([x], lr=0.1, momentum=0.9, nesterov=True), nesterov=True)
    with pytest.raises(ValueError, match="real floats"):
        Extrapolation(SGD([torch.zeros(2, dtype=torch.complex64)], lr=0.1))

    embedding, sparse = cases.sparse()
    with pytest.raises(ValueError, match="allowed: dense gradients"):
        sam(SGD(embedding.parameters(), lr=0.1)).step(sparse)
