"""Phases against closed forms: what the batch does to every number, and where methods are switched."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoloss.plan.demands import stage
from isoloss.plan.lower import Lowered, Lowering
from isoloss.plan.needs import Nothing
from isoloss.recipe.errors import StudyError
from isoloss.study import from_dict
from isoloss.train.loop import learning_rate

STUDY: dict[str, Any] = {
    "study": "phases",
    "data": {"source": "blobs", "classes": 4, "samples": 6_400},
    "model": {"family": "mlp", "width": 8, "depth": 1},
    "duration": "100 updates",
    "training": {
        "batch": "32 samples",
        "warmup": "10 updates",
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 0.01},
    },
    "schedule": {"shape": "steps", "drops": [{"at": "60 updates", "factor": 0.1}]},
    "evaluation": {"samples": 64},
}


def lowered(lr: float = 0.1, **changes: Any) -> Lowered:
    study = copy.deepcopy(STUDY)
    training = changes.pop("training", {})
    study["training"].update(training)
    study.update(changes)
    (cell,) = from_dict(study).cells
    return Lowering()(cell.config, lr, where="test")


def rates(made: Lowered) -> list[float]:
    return [learning_rate(rule.lr, offset) for _, rule, offset in made.run.updates()]


def borders(made: Lowered) -> list[int]:
    return [begun for _, _, begun in made.run.tracks]


def test_without_a_base_batch_nothing_is_adapted() -> None:
    plain = lowered()
    assert lowered(training={"base_batch": "32 samples", "lr_scaling": "linear", "regime": 1.0}).run == plain.run
    assert borders(plain) == [0, 10, 60]


@pytest.mark.parametrize("regime", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("scaling", "factor"), [("none", 1.0), ("sqrt", 2.0), ("linear", 4.0), ("legw", 2.0)])
def test_batch_ratio_of_four(regime: float, scaling: str, factor: float) -> None:
    """Updates are multiplied by 4^regime / 4, epochs by 4^regime; legw keeps the updates of the warm-up."""
    made = lowered(
        training={"batch": "128 samples", "base_batch": "32 samples", "lr_scaling": scaling, "regime": regime}
    )
    stretch = 4**regime / 4
    warm = 10 if scaling == "legw" else round(10 * stretch)
    assert made.run.length == round(100 * stretch)
    assert borders(made) == [0, warm, round(60 * stretch)]
    assert max(rates(made)) == pytest.approx(0.1 * factor, rel=1e-12)
    assert rates(made)[-1] == pytest.approx(0.01 * factor, rel=1e-12)
    assert made.run.length * made.facts.batch == pytest.approx(100 * 32 * 4**regime, rel=0.03)


def test_companions_of_the_batch() -> None:
    made = lowered(
        training={
            "batch": "128 samples",
            "base_batch": "32 samples",
            "lr_scaling": "sqrt",
            "momentum_rule": "samples",
            "decay_rule": "timescale",
        }
    )
    options = made.run.phases[0].rule.optimizer["options"]
    assert options["momentum"] == pytest.approx(0.9**4, rel=1e-12)
    # eta' lambda' = r eta lambda, with eta' = 2 eta
    assert options["weight_decay"] == pytest.approx(0.01 * 4 / 2, rel=1e-12)


def test_epochs_are_stretched_by_the_regime() -> None:
    training = {"batch": "128 samples", "base_batch": "32 samples", "warmup": "0 updates"}
    schedule = {"shape": "constant"}
    for regime, epochs in ((0.0, 2.0), (0.5, 4.0), (1.0, 8.0)):
        made = lowered(duration="2 epochs", schedule=schedule, training=training | {"regime": regime})
        assert made.run.length == pytest.approx(epochs * 6_400 / 128, rel=0.01)


SHAPES = st.sampled_from(["linear", "cosine", "one_minus_sqrt", "square", "power"])


def test_a_power_has_its_exponent_as_a_shape_and_as_a_cooldown() -> None:
    shape = rates(lowered(schedule={"shape": "power", "exponent": 0.3, "final": 0.1}, training={"warmup": "0 updates"}))
    peak = shape[0]
    assert shape == pytest.approx([peak * (0.1 + 0.9 * (1 - (u / 100) ** 0.3)) for u in range(100)])
    cooldown = {"shape": "power", "exponent": 2, "length": "40 updates"}
    made = lowered(schedule={"shape": "constant", "cooldown": cooldown}, training={"warmup": "0 updates"})
    assert rates(made)[60:] == pytest.approx([peak * (1 - (u / 40) ** 2) for u in range(40)])
    root = {"shape": "power", "length": "40 updates"}
    known = {"shape": "one_minus_sqrt", "length": "40 updates"}
    default, sqrt = (rates(lowered(schedule={"shape": "constant", "cooldown": c})) for c in (root, known))
    assert default == pytest.approx(sqrt)
    with pytest.raises(StudyError, match=r"cooldown\.exponent: found 0; allowed: a number above 0"):
        lowered(schedule={"shape": "constant", "cooldown": root | {"exponent": 0}})
    with pytest.raises(StudyError, match=r"cooldown\.exponent: found the unknown key 'exponent' of linear"):
        lowered(schedule={"shape": "constant", "cooldown": {"shape": "linear", "exponent": 2}})


@settings(max_examples=40, deadline=None)
@given(shape=SHAPES, begin=st.integers(1, 98), length=st.integers(1, 50), warmup=st.integers(0, 40))
def test_switching_a_method_leaves_the_learning_rate_alone(shape: str, begin: int, length: int, warmup: int) -> None:
    training: dict[str, Any] = {"warmup": f"{warmup} updates"}
    plain = lowered(schedule={"shape": shape}, training=training)
    switch = {"direction": "past", "begin": f"{begin} updates", "end": f"{begin + length} updates"}
    cut = lowered(schedule={"shape": shape}, training=training | {"extrapolate": switch})
    assert rates(cut) == rates(plain)
    on = [any(m["kind"] == "extrapolate" for m in rule.methods) for _, rule, _ in cut.run.updates()]
    assert on == [begin <= update < begin + length for update in range(100)]


def test_arms_share_what_comes_before_the_switch() -> None:
    study = copy.deepcopy(STUDY) | {
        "baseline": {"arm": "plain", "extra": "none"},
        "arms": {
            "plain": {},
            "post": {"training": {"local_sgd": {"every": 4, "begin": "60 updates"}}},
            "sam": {"training": {"sharpness": {"begin": "30 updates"}}},
        },
    }
    study["training"]["micro_batches"] = 4
    found = stage(from_dict(study), Nothing(), Lowering())
    (root,) = found.roots
    lengths = sorted((node.begun, node.length, node.fork) for node in root.walk())
    # warm-up; the constant part, which sam leaves at 30 (20 behind the warm-up); then one stretch behind the drop each
    assert lengths == [(0, 10, 0), (10, 50, 10), (30, 30, 20), (60, 40, 30), (60, 40, 50), (60, 40, 50)]


def test_extra_gradients_are_charged() -> None:
    plain = lowered()
    per = plain.flops / 100
    local = {"direction": "local", "share": 0.25}
    assert lowered(training={"extrapolate": local, "micro_batches": 2}).flops == pytest.approx(125 * per)
    early = {"direction": "gradient", "end": "20 updates"}
    assert lowered(training={"extrapolate": early}).flops == pytest.approx(120 * per)
    for free in ("past", "past-mean", "noise"):
        assert lowered(training={"extrapolate": {"direction": free}}).flops == plain.flops
    assert lowered(training={"sharpness": {"interval": 5}}).flops == pytest.approx(120 * per)
    assert lowered(training={"local_sgd": {"every": 4}, "micro_batches": 4}).flops == plain.flops


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"sharpness": {}, "extrapolate": {}}, "both on at update 0; allowed: one at a time"),
        ({"extrapolate": {"begin": "9 updates", "end": "5 updates"}}, "ends at update 5 and begins at 9"),
        ({"local_sgd": {"every": 4}}, "micro_batches is 1; allowed: 2 or more"),
        (
            {"local_sgd": {"every": 4}, "micro_batches": 2, "optimizer": {"name": "schedule_free_sgd", "lr": 0.1}},
            "local_sgd: found over schedule_free_sgd",
        ),
        ({"ghost_size": 8}, "the model has no BatchNorm"),
        ({"extrapolate": {"nesterov": True}, "optimizer": {"name": "adamw", "lr": 0.1}}, "optimizer sgd with momentum"),
    ],
)
def test_what_does_not_go_together(training: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        lowered(training=training)


def test_ghosts_above_the_micro_batch_and_plain_batchnorm_over_several() -> None:
    model = {"family": "f1", "width": 8, "depth": 1}
    with pytest.raises(StudyError, match="ghost_size: 32; allowed: at most the micro-batch of 16"):
        lowered(model=model, training={"ghost_size": 32, "micro_batches": 2})
    with pytest.raises(StudyError, match="allowed: 1, or a ghost_size"):
        lowered(model=model, training={"micro_batches": 2})
    made = lowered(model=model, training={"ghost_size": 8, "micro_batches": 2})
    (record,) = made.run.phases[0].rule.methods
    assert record["options"] == {"size": 8, "running": "sequential", "grouping": "consecutive"}


def test_the_root_is_the_same_with_and_without_ghosts() -> None:
    """Ghost BatchNorm decides updates, not the initialisation."""
    model = {"family": "f1", "width": 8, "depth": 1}
    plain, ghost = lowered(model=model), lowered(model=model, training={"ghost_size": 8})
    assert plain.run.root_key == ghost.run.root_key
    assert plain.run.key(1) != ghost.run.key(1)


def test_unknown_options_of_a_method_are_told_with_the_nearest() -> None:
    study = copy.deepcopy(STUDY)
    study["training"]["sharpness"] = {"method": "sam", "roh": 0.1}
    with pytest.raises(StudyError, match=r"training\.sharpness\.roh: .*did you mean 'rho'"):
        from_dict(study)
    study["training"]["sharpness"] = {"method": "sma"}
    with pytest.raises(StudyError, match=r"training\.sharpness\.method: .*sam, asam, gradient_norm_penalty"):
        from_dict(study)
