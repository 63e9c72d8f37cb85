"""Schedule-Free in the update loop: against the paper's three sequences, warm-up by the loop, evaluation at x."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import update_bn

from isoloss import models
from isoloss.plan.lower import Lowered, Lowering, open_source
from isoloss.recipe.errors import StudyError
from isoloss.recipe.measure import SCHEDULE_FREE, Measure
from isoloss.study import from_dict
from isoloss.train.loop import Trainer
from isoloss.train.segment import Segment, State, Trained, train

BATCH, WARMUP, UPDATES, LR, DECAY = 32, 6, 20, 0.02, 0.1
ADAMW: dict[str, Any] = {"name": "schedule_free_adamw", "betas": [0.9, 0.99], "r": 0.5}
SGD: dict[str, Any] = {"name": "schedule_free_sgd", "momentum": 0.8, "weight_lr_power": 1.0}


def lowered(optimizer: dict[str, Any], **changes: Any) -> Lowered:
    study = {
        "study": "free",
        "data": {"source": "blobs", "classes": 4, "samples": 640},
        "model": {"family": "mlp", "width": 12, "depth": 1},
        "duration": f"{UPDATES} updates",
        "training": {
            "batch": f"{BATCH} samples",
            "warmup": f"{WARMUP} updates",
            "clip": None,
            "optimizer": {"lr": LR, "weight_decay": DECAY, **optimizer},
        },
        "evaluation": {"samples": 64, "metrics": [], "every": "7 updates"},
        **changes,
    }
    (cell,) = from_dict(study).cells
    return Lowering()(cell.config, float(cell.config["training"]["optimizer"]["lr"]), where="test")


def pieces(made: Lowered, saves: int = UPDATES, measured: bool = True) -> list[Trained]:
    """The whole run, a new trainer every ``saves`` updates."""
    found: list[Trained] = []
    source, start = open_source(made.data), None
    for index, (_, phase, begun) in enumerate(made.run.tracks):
        for begin in range(0, phase.length, saves):
            end = min(begin + saves, phase.length)
            points = {u - begun: m for u, m in made.points.items() if begun + begin < u <= begun + end and measured}
            train(Segment(made.run, index, begin, end, (end,), points), source, start, found.append)
            state = found[-1].state
            assert state is not None
            start = State({n: t.clone() for n, t in state.tensors.items()}, state.meta)
    return found


def values(found: list[Trained]) -> list[tuple[str, float]]:
    return [(measure.name, value) for piece in found for _, measure, value in piece.values]


def literal(made: Lowered) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(x, y) by the paper's lines in float64, with a learning rate that rises to LR over WARMUP updates."""
    options = made.run.phases[0].rule.optimizer["options"]
    adam = "betas" in options
    b = options["betas"][0] if adam else options["momentum"]
    source: Any = open_source(made.data)
    model = models.build(made.run.start.model["spec"], vocabulary=4, context=source.features, seed=0).double()
    x = {name: p.detach().clone() for name, p in model.named_parameters()}
    z = {name: p.clone() for name, p in x.items()}
    v = {name: torch.zeros_like(p) for name, p in x.items()}
    total = highest = 0.0
    for t in range(1, UPDATES + 1):
        lr = LR * min(1.0, t / WARMUP)
        highest = max(highest, lr)
        weight = t ** options["r"] * highest ** options["weight_lr_power"]
        total += weight
        y = {name: ((1 - b) * z[name] + b * x[name]).requires_grad_() for name in x}
        inputs, classes = (torch.from_numpy(np.asarray(part)) for part in source.batch(0, (t - 1) * BATCH, BATCH, 1))
        loss = F.cross_entropy(torch.func.functional_call(model, y, (inputs.double(),)), classes)
        for name, g in zip(y, torch.autograd.grad(loss, list(y.values())), strict=True):
            d = g
            if adam:
                b2 = options["betas"][1]
                v[name] = b2 * v[name] + (1 - b2) * g * g
                d = g / ((v[name] / (1 - b2**t)).sqrt() + options["eps"])
            decay = DECAY if g.ndim >= 2 else 0.0
            z[name] = z[name] - lr * (d + decay * y[name].detach())
            x[name] = (1 - weight / total) * x[name] + weight / total * z[name]
    return x, {name: (1 - b) * z[name] + b * x[name] for name in x}


@pytest.mark.parametrize("optimizer", [ADAMW, SGD])
def test_the_loop_takes_the_papers_steps_under_its_own_warmup_and_evaluates_x(optimizer: dict[str, Any]) -> None:
    made = lowered(optimizer)
    found = pieces(made)
    x, y = literal(made)
    state = found[-1].state
    assert state is not None
    for name in x:
        torch.testing.assert_close(state.tensors[f"model/{name}"].double(), y[name], rtol=0, atol=3e-5)
        torch.testing.assert_close(state.tensors[f"optimizer/x/{name}"].double(), x[name], rtol=0, atol=3e-5)
    source: Any = open_source(made.data)
    model = models.build(made.run.start.model["spec"], vocabulary=4, context=source.features, seed=0).double()
    inputs, classes = map(torch.from_numpy, source.validation("B", 64, 1))
    read = dict(values(found[-1:]))
    for name, weights in (("loss@B:64", y), ("schedule_free/loss@B:64", x)):
        expected = F.cross_entropy(torch.func.functional_call(model, weights, (inputs.double(),)), classes).item()
        assert read[name] == pytest.approx(expected, abs=2e-5)
    assert abs(read["loss@B:64"] - read["schedule_free/loss@B:64"]) > 1e-3


@pytest.mark.parametrize("optimizer", [ADAMW, SGD])
def test_pieces_and_evaluations_change_no_bit(optimizer: dict[str, Any]) -> None:
    made = lowered(optimizer)
    whole, cut, unwatched = pieces(made), pieces(made, saves=4), pieces(made, measured=False)
    assert values(whole) == values(cut) and not values(unwatched)
    for other in (cut, unwatched):
        a, b = whole[-1].state, other[-1].state
        assert a is not None and b is not None
        assert a.meta == b.meta and a.tensors.keys() == b.tensors.keys()
        assert all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)


def test_the_loss_at_x_is_the_judged_one_and_that_at_y_is_kept() -> None:
    made = lowered(ADAMW)
    assert made.final["A"] == Measure("loss", "A", 64, SCHEDULE_FREE)
    assert made.along == SCHEDULE_FREE
    assert {m.name for m in made.points[7]} == {"loss@B:64", "schedule_free/loss@B:64"}
    ends = {f"{weights}loss@{part}:64" for weights in ("", "schedule_free/") for part in "AB"}
    assert {m.name for m in made.points[UPDATES]} == ends
    assert "refresh" not in made.run.phases[0].rule.optimizer["options"]
    with pytest.raises(StudyError, match="average: found one over schedule_free_adamw"):
        lowered(ADAMW, average={"kind": "ema", "decay": 0.9})


def test_running_statistics_are_estimated_anew_for_x() -> None:
    made = lowered(ADAMW | {"refresh": 5}, model={"family": "f1", "width": 12, "depth": 1})
    found = pieces(made)
    name = "schedule_free/refresh=5/loss@B:64"
    assert made.final["B"].name == name
    state = found[-1].state
    assert state is not None
    source: Any = open_source(made.data)
    model = models.build(made.run.start.model["spec"], vocabulary=4, context=source.features, seed=0)
    entries = state.tensors
    own = {n.removeprefix("buffer/"): t for n, t in entries.items() if n.startswith("buffer/")}
    own |= {n.removeprefix("optimizer/x/"): t for n, t in entries.items() if n.startswith("optimizer/x/")}
    model.load_state_dict(own)
    batches = [list(map(torch.from_numpy, source.batch(0, BATCH * number, BATCH, 1))) for number in range(5)]
    update_bn(batches, model)
    inputs, classes = map(torch.from_numpy, source.validation("B", 64, 1))
    with torch.inference_mode():
        loss = F.cross_entropy(model.eval()(inputs), classes).item()
    assert dict(values(found))[name] == pytest.approx(loss, abs=1e-6)
    assert made.refresh == 5 and made.fixed_flops == 5 * made.facts.forward_flops


def test_a_wrapper_over_it_keeps_the_average() -> None:
    """Extrapolation moves y for a gradient; x is that of the base's own steps."""
    made = lowered(ADAMW)
    past = lowered(ADAMW, training={**_training(), "extrapolate": {"direction": "noise", "size": 1e-12}})
    a, b = (dict(values(pieces(each))) for each in (made, past))
    assert a["schedule_free/loss@B:64"] == pytest.approx(b["schedule_free/loss@B:64"], abs=1e-4)


def _training() -> dict[str, Any]:
    optimizer = {"lr": LR, "weight_decay": DECAY, **ADAMW}
    return {"batch": f"{BATCH} samples", "warmup": f"{WARMUP} updates", "clip": None, "optimizer": optimizer}


def test_average_before_the_first_update_is_where_training_begins() -> None:
    made = lowered(SGD)
    _, phase, _ = made.run.tracks[0]
    trainer = Trainer(made.run.start, phase, open_source(made.data), made.run.numerics)
    assert torch.equal(trainer.average(), trainer.weights)
    assert trainer.average().data_ptr() != trainer.weights.data_ptr()
