"""Methods inside the update loop against literal loops written with nothing but autograd."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from isoloss import models
from isoloss.methods.noise_scale import estimate
from isoloss.plan.lower import Lowered, Lowering, open_source
from isoloss.study import from_dict
from isoloss.train.loop import Trainer

BATCH, WORKERS, LR = 32, 4, 0.05
Weights = dict[str, torch.Tensor]


def lowered(**training: Any) -> Lowered:
    study = {
        "study": "methods",
        "data": {"source": "blobs", "classes": 4, "samples": 640},
        "model": {"family": "mlp", "width": 12, "depth": 1},
        "duration": "20 updates",
        "training": {
            "batch": f"{BATCH} samples",
            "micro_batches": WORKERS,
            "clip": None,
            "optimizer": {"name": "sgd", "lr": LR, "momentum": 0.9, "nesterov": False},
            **training,
        },
        "evaluation": {"samples": 64},
    }
    (cell,) = from_dict(study).cells
    return Lowering()(cell.config, float(cell.config["training"]["optimizer"]["lr"]), where="test")


class Literal:
    """The same model and data, with gradients of single workers at any weights."""

    def __init__(self, made: Lowered) -> None:
        self.source = open_source(made.data)
        self.model = models.build(
            made.run.start.model["spec"], vocabulary=4, context=self.source.features, seed=made.run.start.seed
        )
        self.weights: Weights = {n: p.detach().clone() for n, p in self.model.named_parameters()}

    def gradient(self, weights: Weights, update: int, worker: int, samples: int = BATCH // WORKERS) -> Weights:
        x, y = self.source.batch(0, update * BATCH, BATCH, 1)
        begin = worker * (BATCH // WORKERS)
        leaves = {n: w.clone().requires_grad_() for n, w in weights.items()}
        inputs = torch.from_numpy(np.asarray(x))[begin : begin + samples]
        output = torch.func.functional_call(self.model, leaves, (inputs,))
        loss = F.cross_entropy(output, torch.from_numpy(np.asarray(y))[begin : begin + samples])
        return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def mean(gradients: list[Weights]) -> Weights:
    return {n: torch.stack([g[n] for g in gradients]).mean(0) for n in gradients[0]}


def plus(weights: Weights, direction: Weights, factor: float) -> Weights:
    return {n: w + factor * direction[n] for n, w in weights.items()}


def norm(direction: Weights) -> float:
    return math.sqrt(sum(float(d.square().sum()) for d in direction.values()))


def run(made: Lowered, updates: int = 6) -> tuple[Trainer, list[Any]]:
    _, phase, _ = made.run.tracks[0]
    trainer = Trainer(made.run.start, phase, open_source(made.data), made.run.numerics)
    return trainer, [trainer.step(update) for update in range(updates)]


def same(trainer: Trainer, weights: Weights) -> None:
    found = trainer.state()[0]
    for name, value in weights.items():
        torch.testing.assert_close(found[f"model/{name}"], value, rtol=1e-4, atol=1e-6)


class Momentum:
    def __init__(self) -> None:
        self.b: Weights = {}

    def step(self, weights: Weights, g: Weights) -> Weights:
        self.b = {n: 0.9 * self.b[n] + g[n] for n in g} if self.b else g
        return plus(weights, self.b, -LR)


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_local_extragradient(share: float) -> None:
    made = lowered(extrapolate={"direction": "local", "size": 2.0, "share": share})
    trainer, _ = run(made)
    literal, base = Literal(made), Momentum()
    w = literal.weights
    for update in range(6):
        found = []
        for k in range(WORKERS):
            first = literal.gradient(w, update, k, round(share * BATCH // WORKERS))
            found.append(literal.gradient(plus(w, first, -2.0 * LR), update, k))
        w = base.step(w, mean(found))
    same(trainer, w)


def test_past_gradient_of_each_worker() -> None:
    made = lowered(extrapolate={"direction": "past", "size": 2.0})
    trainer, _ = run(made)
    literal, base = Literal(made), Momentum()
    w = literal.weights
    past: list[Weights] | None = None
    for update in range(6):
        at = [w if past is None else plus(w, past[k], -2.0 * LR) for k in range(WORKERS)]
        past = [literal.gradient(at[k], update, k) for k in range(WORKERS)]
        w = base.step(w, mean(past))
    same(trainer, w)


def test_sharpness_aware_minimisation_and_clipping() -> None:
    made = lowered(sharpness={"method": "sam", "rho": 0.3}, clip=0.2)
    trainer, rows = run(made)
    literal, base = Literal(made), Momentum()
    w = literal.weights
    for update in range(6):
        g = mean([literal.gradient(w, update, k) for k in range(WORKERS)])
        up = mean([literal.gradient(plus(w, g, 0.3 / norm(g)), update, k) for k in range(WORKERS)])
        assert rows[update].gradient_norm == pytest.approx(norm(up), rel=1e-4)
        w = base.step(w, {n: u * min(1.0, 0.2 / norm(up)) for n, u in up.items()})
    same(trainer, w)


def test_local_sgd_averages_workers_and_shows_their_mean() -> None:
    made = lowered(local_sgd={"every": 4})
    trainer, _ = run(made)
    literal = Literal(made)
    workers = [dict(literal.weights) for _ in range(WORKERS)]
    bases = [Momentum() for _ in range(WORKERS)]
    for update in range(6):
        workers = [bases[k].step(workers[k], literal.gradient(workers[k], update, k)) for k in range(WORKERS)]
        if (update + 1) % 4 == 0:
            workers = [mean(workers)] * WORKERS
    same(trainer, mean(workers))


@pytest.mark.parametrize("precision", ["fp32", "bf16-master"])
def test_the_gradient_is_taken_where_the_method_says(precision: str) -> None:
    """With bf16 copies of the weights too: extrapolation by a whole learning rate changes the loss that is seen."""
    plain = run(lowered(precision=precision), 3)[1]
    moved = run(lowered(precision=precision, extrapolate={"direction": "past", "size": 20.0}), 3)[1]
    assert moved[0].loss == plain[0].loss  # there is no past gradient yet
    assert abs(moved[1].loss - plain[1].loss) > 1e-3


def test_micro_batch_norms_give_the_noise_scale() -> None:
    made = lowered()
    _, rows = run(made, 1)
    literal = Literal(made)
    parts = [literal.gradient(literal.weights, 0, k) for k in range(WORKERS)]
    squares = [norm(g) ** 2 for g in parts]
    assert rows[0].micro_squared == pytest.approx(sum(squares) / WORKERS, rel=1e-5)
    found = estimate([rows[0].micro_squared] * WORKERS, rows[0].gradient_norm ** 2, BATCH // WORKERS)
    wanted = estimate(squares, norm(mean(parts)) ** 2, BATCH // WORKERS)
    assert pytest.approx(wanted.S, rel=1e-4) == found.S
    assert run(lowered(micro_batches=1), 1)[1][0].micro_squared is None


def test_layer_wise_optimizers_spare_what_is_not_decayed() -> None:
    """A trust ratio belongs on matrices: biases get the plain step of the same optimizer."""
    made = lowered(optimizer={"name": "lars", "lr": LR, "coefficient": 1e-3}, micro_batches=1)
    trainer, _ = run(made, 1)
    literal = Literal(made)
    g = mean([literal.gradient(literal.weights, 0, k) for k in range(WORKERS)])
    for name, w in literal.weights.items():
        ratio = 1e-3 * float(w.norm() / (g[name].norm() + 1e-8)) if w.ndim > 1 else 1.0
        torch.testing.assert_close(trainer.state()[0][f"model/{name}"], w - LR * ratio * g[name], rtol=1e-4, atol=1e-7)
