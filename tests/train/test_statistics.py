"""Running statistics of averaged weights: against torch's own update, and as a pure function."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from isoloss.methods import ghost_batchnorm
from isoloss.train import tasks
from isoloss.train.statistics import refresh


def net(dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Linear(6, 8), nn.BatchNorm1d(8, momentum=0.3), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 8)
    model = nn.Sequential(*layers, nn.BatchNorm1d(8, momentum=None), nn.Linear(8, 3))
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm1d):
            norm.running_mean.fill_(7.0)  # type: ignore[union-attr]
    return model.eval()


def batches(count: int = 5, size: int = 32) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 6, generator=generator) * 2 + 1, torch.randint(3, (size,), generator=generator))
        for _ in range(count)
    ]


def buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.named_buffers()}


def run(model: nn.Module, seed: int = 0, **options: Any) -> dict[str, Tensor]:
    refresh(model, tasks.Classification(), batches(**options), seed)
    return buffers(model)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_it_is_the_update_of_stochastic_weight_averaging() -> None:
    mine, torchs = net(), net()
    found = run(mine)
    update_bn([list(batch) for batch in batches()], torchs)
    assert same(found, buffers(torchs))
    assert not mine.training
    assert [m.momentum for m in mine.modules() if isinstance(m, nn.BatchNorm1d)] == [0.3, None]
    assert all(not parameter.grad_fn for parameter in mine.parameters())


def test_the_first_layer_has_the_means_of_the_batches() -> None:
    model = net()
    run(model)
    with torch.no_grad():
        outputs = [model[0](x).double() for x, _ in batches()]
    means, variances = (torch.stack([f(o, 0) for o in outputs]).mean(0) for f in (torch.mean, torch.var))
    torch.testing.assert_close(model[1].running_mean.double(), means, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(model[1].running_var.double(), variances, atol=1e-6, rtol=1e-5)


def test_it_forgets_what_was_there_and_draws_only_from_its_seed() -> None:
    fresh, used = net(0.5), net(0.5)
    run(used, seed=3, count=2)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = run(used, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    assert same(run(fresh, seed=4), again)
    assert not same(run(fresh, seed=5), again)


@pytest.mark.parametrize("running", ["sequential", "averaged"])
def test_ghost_batchnorm_is_refreshed_from_its_ghosts(running: Any) -> None:
    model = ghost_batchnorm.convert(net(), 8, running=running)
    run(model, count=4, size=32)
    with torch.no_grad():
        outputs = torch.cat([model[0](x) for x, _ in batches(4, 32)]).double().view(16, 8, 8)
    torch.testing.assert_close(model[1].running_mean.double(), outputs.mean((0, 1)), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(model[1].running_var.double(), outputs.var(1).mean(0), atol=1e-5, rtol=1e-5)
    assert not model.training
