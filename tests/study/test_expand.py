"""From a file to cells: defaults, overrides, order, the extra duration, tuning points, speed, lightness."""

import copy
import json
import random
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from isoloss import study
from isoloss.recipe.errors import StudyError

LR = "training.optimizer.lr"


def frozen(made: study.Study) -> set[str]:
    return {json.dumps([c.arm, c.coordinates, c.config, c.extra], sort_keys=True) for c in made.cells}


def one(**changes: Any) -> study.Study:
    """A study of one run, with top-level keys changed."""
    raw: dict[str, Any] = {
        "study": "one",
        "data": {"source": "synthetic", "context": 8},
        "model": {"family": "gpt", "width": 16, "depth": 1},
        "training": {"optimizer": {"lr": 1}, "batch": "4 sequences"},
        "duration": "10 updates",
    }
    return study.from_dict(raw | changes)


def config(**changes: Any) -> dict[str, Any]:
    return one(**changes).cells[0].config


def test_every_default_is_in_the_config() -> None:
    made = one()
    assert [c.arm for c in made.cells] == ["base"] and made.baseline == "base" and made.tune is None
    assert made.cells[0].coordinates == {} and not made.cells[0].extra
    assert made.cells[0].config == {
        "data": {
            "source": "synthetic", "context": 8, "size": None, "tokenizer": None, "version": None,
            "order": 1, "vocabulary": 16, "pad_to": None, "tokens": 1_000_000, "seed": 0,
        },
        "model": {
            "family": "gpt", "width": 16, "depth": 1,
            "head_size": 16, "mlp": "swiglu", "mlp_ratio": None, "tied": False,
            "parametrisation": "standard", "base_width": None,
        },
        "task": "language-modelling",
        "training": {
            "optimizer": {
                "name": "adamw", "lr": 1.0, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1,
            },
            "batch": "4 sequences", "micro_batches": 1, "warmup": "0 updates", "clip": 1.0,
            "base_batch": None, "lr_scaling": "none", "regime": 0.0,
            "momentum_rule": "keep", "decay_rule": "keep", "eps_rule": "keep",
            "ghost_size": None, "ghost_running": "sequential", "ghost_grouping": "consecutive",
            "extrapolate": None, "sharpness": None, "local_sgd": None,
            "parallel": {"data": 1, "shard": 1, "checkpointing": False},
            "precision": "fp32",
            "compile": False, "decay_only_matrices": True,
        },
        "schedule": {"shape": "constant", "final": None, "horizon": None, "drops": [], "cooldown": None},
        "average": None,
        "init": None,
        "pretrain": None,
        "duration": "10 updates",
        "seed": 0,
        "evaluation": {"tokens": 16384, "samples": None, "every": None, "at": ["end"], "select": "end", "metrics": [],
                       "distance": None, "roughness": None},
        "checkpoint": {"every": "200 updates"},
    }  # fmt: skip


def test_metrics_are_those_of_the_task_unless_given() -> None:
    vectors = {"data": {"source": "blobs"}, "model": {"family": "mlp", "width": 8, "depth": 1}}
    vectors["training"] = {"optimizer": {"lr": 1}, "batch": "4 samples"}
    assert config(**vectors)["evaluation"]["metrics"] == ["accuracy"]
    assert config(**vectors, evaluation={"metrics": []})["evaluation"]["metrics"] == []
    assert config(evaluation={"metrics": ["ece", "auroc"]})["evaluation"]["metrics"] == ["ece", "auroc"]
    assert config(task="own.module:Task", evaluation={"metrics": ["f1"]})["evaluation"]["metrics"] == ["f1"]


def test_values_are_canonical() -> None:
    found = config(
        duration="1e1 update",
        training={"optimizer": {"lr": 1, "eps": 1}, "batch": "4 sequences", "micro_batches": 4.0},
        average={"kind": "window", "length": "4_0 tokens"},
        evaluation={"at": ["5 updates", "end"], "tokens": 1e3},
    )
    assert found["duration"] == "10 updates"
    assert found["training"]["micro_batches"] == 4 and type(found["training"]["micro_batches"]) is int
    assert type(found["training"]["optimizer"]["lr"]) is float
    assert found["average"] == {"kind": "window", "length": "40 tokens", "every": "1 update", "refresh": 32}
    assert found["evaluation"]["at"] == ["5 updates", "end"] and found["evaluation"]["tokens"] == 1000


def test_defaults_that_depend_on_others() -> None:
    found = config(data={"source": "blobs"}, model={"family": "mlp", "width": 4, "depth": 1})
    assert found["task"] == "classification"
    assert (found["evaluation"]["tokens"], found["evaluation"]["samples"]) == (None, 1024)
    assert config(schedule={"cooldown": {}})["schedule"]["cooldown"] == {
        "shape": "one_minus_sqrt", "fraction": 0.2, "length": None, "final": 0.0,
    }  # fmt: skip
    assert config(schedule={"cooldown": {"length": "3 updates"}})["schedule"]["cooldown"]["fraction"] is None
    assert config(schedule={"cooldown": {"shape": "exponential"}})["schedule"]["cooldown"]["final"] == 0.1
    assert config(schedule={"shape": "exponential"})["schedule"]["final"] == 0.1
    assert config(seed={"data": 3})["seed"] == {"init": 0, "data": 3, "noise": 0}


def test_built_in_sources_take_the_resolved_options() -> None:
    from isoloss.data import open_source

    for data, model in (
        ({"source": "synthetic", "context": 8, "tokens": 2000}, {"family": "gpt", "width": 16, "depth": 1}),
        ({"source": "blobs", "samples": 100}, {"family": "mlp", "width": 4, "depth": 1}),
    ):
        assert open_source(config(data=data, model=model)["data"]).train_size > 0


def test_models_take_the_resolved_options() -> None:
    from isoloss.models import describe

    assert describe(config()["model"], vocabulary=16, context=8).non_embedding > 0


def test_code_of_ones_own_has_free_options() -> None:
    found = config(
        model={"name": "mine.nets:Net", "anything": [1, {"x": None}], "version": 3},
        data={"source": "mine:Source", "context": 8, "tokenizer": "t", "k": 1},
        task="mine.tasks:Task",
        training={"optimizer": {"name": "mine:Opt", "lr": 0.5, "z": "w"}, "batch": "4 samples"},
        schedule={"shape": "mine:form", "cooldown": None, "final": 0.5},
    )
    assert found["model"] == {"name": "mine.nets:Net", "version": 3, "anything": [1, {"x": None}]}
    assert found["data"] == {
        "source": "mine:Source", "context": 8, "size": None, "tokenizer": "t", "version": None, "k": 1,
    }  # fmt: skip
    assert found["task"] == "mine.tasks:Task"
    assert found["training"]["optimizer"] == {"name": "mine:Opt", "version": None, "lr": 0.5, "z": "w"}
    assert found["schedule"]["shape"] == "mine:form" and found["schedule"]["final"] == 0.5


def test_quickstart_is_valid() -> None:
    import isoloss

    made = study.load(Path(isoloss.__file__).parent / "studies" / "quickstart.yaml")
    assert made.baseline == "cosine" and {arm.name for arm in made.arms} == {"cosine", "cooldown", "averaged"}
    assert made.tune is not None and made.path is not None
    assert len(made.grid["seed"]) == 3 and len(made.grid["model.width"]) == 4


def test_cells_are_arms_times_grid(text: str) -> None:
    made = study.loads(text)
    widths, durations, seeds = [16, 24, 32, 48], ["400 updates", "800 updates", "1600 updates"], [0, 1, 2]
    wanted = {(a, w, d, s) for a, w, d, s in product(["cosine", "cooldown", "averaged"], widths, durations, seeds)}
    extra = {("cosine", w, "3200 updates", s) for w, s in product(widths, seeds)}

    def places(which: bool) -> list[tuple[str, Any, Any, Any]]:
        found = []
        for cell in made.cells:
            if cell.extra is which:
                c = cell.config
                place = (cell.arm, c["model"]["width"], c["duration"], c["seed"])
                assert cell.coordinates == {"model.width": place[1], "duration": place[2], "seed": place[3]}
                found.append(place)
        return found

    assert sorted(places(False)) == sorted(wanted) and sorted(places(True)) == sorted(extra)
    for cell in made.cells:
        assert cell.config["training"]["optimizer"]["lr"] == "tuned"
        assert cell.config["schedule"]["shape"] == ("cosine" if cell.arm == "cosine" else "constant")
        assert (cell.config["average"] is not None) == (cell.arm == "averaged")
        json.dumps(cell.config, allow_nan=False)


def test_cells_share_nothing(text: str) -> None:
    made = study.loads(text)
    before = copy.deepcopy(made.cells)
    made.cells[0].config["training"]["optimizer"]["betas"][0] = 7
    made.cells[0].config["evaluation"]["at"].append("x")
    assert made.cells[1:] == before[1:]


@pytest.mark.parametrize("seed", range(10))
def test_order_changes_nothing(text: str, seed: int) -> None:
    draw = random.Random(seed)

    def shuffled(value: Any, path: tuple[str, ...] = ()) -> Any:
        if isinstance(value, dict):
            items = [(key, shuffled(item, (*path, key))) for key, item in value.items()]
            draw.shuffle(items)
            return dict(items)
        if isinstance(value, list) and path[:1] in (("grid",), ("tune",)):
            return draw.sample(value, len(value))
        return value

    made = study.loads(text)
    other = study.from_dict(shuffled(made.raw))
    assert frozen(made) == frozen(other)
    assert other.baseline == made.baseline and made.tune is not None and other.tune is not None
    assert {json.dumps(point, sort_keys=True) for point in made.tune.at} == {
        json.dumps(point, sort_keys=True) for point in other.tune.at
    }


def test_text_and_dict_are_one_study(text: str, tmp_path: Path) -> None:
    made = study.loads(text)
    (tmp_path / "s.yaml").write_text(text, encoding="utf-8")
    for other in (
        study.load(tmp_path / "s.yaml"),
        study.from_dict(made.raw),
        study.loads(study.from_dict(made.raw).text),
    ):
        assert (other.cells, other.tune, other.grid, other.arms) == (
            made.cells,
            made.tune,
            made.grid,
            made.arms,
        )
        assert study.loads(other.text).cells == made.cells
    odd = study.from_dict({**made.raw, "study": "é\x85 \u2028 😀"})
    assert study.loads(odd.text).name == odd.name


@pytest.mark.parametrize(
    ("base", "override", "merged"),
    [
        ({"name": "adamw", "betas": [0, 0.5]}, {"lr": 2}, {"name": "adamw", "lr": 2.0, "betas": [0.0, 0.5]}),
        ({"lr": 3, "betas": [0, 0.5]}, {"name": "adamw", "lr": 2}, {"lr": 2.0, "betas": [0.0, 0.5]}),
        ({"lr": 3, "betas": [0, 0.5]}, {"name": "sgd", "lr": 2}, {"name": "sgd", "lr": 2.0, "momentum": 0.9}),
        ({"lr": 3, "weight_decay": 0.5}, {"name": "sgd", "lr": 2}, {"weight_decay": 0.0}),
        ({"lr": 3}, {"name": "own:Opt", "lr": 2}, {"name": "own:Opt", "lr": 2}),
    ],
)  # fmt: skip
def test_an_override_is_merged_and_old_options_do_not_leak(
    base: dict[str, Any], override: dict[str, Any], merged: dict[str, Any]
) -> None:
    training = {"optimizer": base, "batch": "4 sequences"}
    made = one(training=training, arms={"a": {"training": {"optimizer": override}}})
    assert merged.items() <= made.cells[0].config["training"]["optimizer"].items()


def test_a_new_shape_starts_afresh() -> None:
    base = {"shape": "constant", "cooldown": {"fraction": 0.5, "final": 0.25}}
    arms = {
        "cosine": {"schedule": {"shape": "cosine"}},
        "length": {"schedule": {"cooldown": {"length": "3 updates"}}},
        "form": {"schedule": {"cooldown": {"shape": "linear"}}},
        "none": {"schedule": {"cooldown": None}},
    }
    found = {c.arm: c.config["schedule"] for c in one(schedule=base, arms=arms, baseline="none").cells}
    assert found["cosine"]["cooldown"] is None
    assert found["length"]["cooldown"] == {
        "shape": "one_minus_sqrt", "fraction": None, "length": "3 updates", "final": 0.25,
    }  # fmt: skip
    assert found["form"]["cooldown"] == {"shape": "linear", "fraction": 0.5, "length": None, "final": 0.0}
    assert found["none"]["cooldown"] is None


def test_a_new_source_keeps_what_both_have() -> None:
    base = {"source": "text", "path": "x", "context": 16, "size": "10 %", "tokenizer": "t.json"}
    arms = {"code": {"data": {"source": "stdlib-code"}}, "chain": {"data": {"source": "synthetic"}}}
    found = {c.arm: c.config["data"] for c in one(data=base, arms=arms, baseline="code").cells}
    assert (found["code"]["context"], found["code"]["size"], found["code"]["tokenizer"]) == (
        16,
        "10 %",
        "t.json",
    )
    assert "path" not in found["code"] and found["chain"]["tokenizer"] is None and found["chain"]["order"] == 1


def test_names_can_be_swept() -> None:
    made = one(
        grid={
            "training.optimizer.name": ["adamw", "sgd"],
            LR: [1],
            "schedule.shape": ["linear", "constant"],
            "seed": [0, 1],
        }
    )
    assert len(made.cells) == 8
    for cell in made.cells:
        optimizer = cell.config["training"]["optimizer"]
        assert ("betas" in optimizer) == (cell.coordinates["training.optimizer.name"] == "adamw" == optimizer["name"])
        assert cell.config["schedule"]["shape"] == cell.coordinates["schedule.shape"]
        assert (cell.config["schedule"]["final"] is None) == (cell.coordinates["schedule.shape"] == "constant")


def test_a_swept_value_replaces_that_of_the_base() -> None:
    made = one(
        grid={"duration": ["5 updates"], "training.optimizer.betas": [[0, 0], [0.5, 0.5]]},
        baseline={"arm": "base", "extra": "none"},
    )
    assert [c.config["training"]["optimizer"]["betas"] for c in made.cells] == [[0.0, 0.0], [0.5, 0.5]]
    made = one(schedule={"cooldown": {"fraction": 0.5}}, grid={"schedule.cooldown.length": ["1 update", "2 updates"]})
    assert [c.config["schedule"]["cooldown"]["fraction"] for c in made.cells] == [None, None]


def test_one_of_the_seeds_can_be_swept() -> None:
    made = one(seed=5, grid={"seed.init": [0, 1]})
    assert [c.config["seed"] for c in made.cells] == [{"init": i, "data": 5, "noise": 5} for i in (0, 1)]


@pytest.mark.parametrize(
    ("durations", "baseline", "extra"),
    [
        (["400 updates", "800 updates"], "base", "1600 updates"),
        (["800 updates", "300 updates"], "base", "2133 updates"),
        (["10 epochs", "4 epochs"], "base", "25 epochs"),
        (["400 updates"], "base", "800 updates"),
        (["400 updates"], {"arm": "base", "extra": "9e2 updates"}, "900 updates"),
        (["400 updates"], {"arm": "base", "extra": "none"}, None),
        (["400 updates"], {"arm": "base", "extra": None}, None),
        (["400 updates"], {"arm": "base"}, "800 updates"),
    ],
)
def test_the_baseline_alone_gets_a_longer_duration(durations: list[str], baseline: Any, extra: str | None) -> None:
    arms = {"base": {}, "other": {"training": {"clip": None}}}
    made = one(grid={"duration": durations}, arms=arms, baseline=baseline)
    found = [(c.arm, c.config["duration"]) for c in made.cells if c.extra]
    assert found == ([("base", extra)] if extra else [])
    assert sum(not c.extra for c in made.cells) == 2 * len(durations)


def test_tuning_points(text: str) -> None:
    made = study.loads(text)
    assert made.tune is not None
    assert made.tune.values == {LR: (0.004, 0.008, 0.016)} and made.tune.between == "loglinear"
    assert sorted(point["model.width"] for point in made.tune.at) == [16, 48]
    assert all(point["duration"] == "400 updates" and point["seed"] == 0 for point in made.tune.at)
    named = study.loads(text.replace("  at: {model.width: [16, 48], duration: 400 updates}\n", "  between: nearest\n"))
    assert named.tune is not None and named.tune.between == "nearest"
    assert [p["model.width"] for p in named.tune.at] == [16, 24, 32, 48]
    assert {(p["duration"], p["seed"]) for p in named.tune.at} == {("400 updates", 0)}


def test_a_tuned_word_has_no_line_between() -> None:
    made = one(tune={"training.precision": ["fp32", "bf16-master"]})
    assert made.tune is not None and made.tune.between == "nearest" and made.tune.at == ({},)
    assert made.cells[0].config["training"]["precision"] == "tuned"
    with pytest.raises(StudyError, match=r"tune\.between: found 'loglinear' for values that are not positive numbers"):
        one(tune={"training.precision": ["fp32", "bf16-master"], "between": "loglinear"})


def test_a_tuning_run_that_cannot_be_is_told() -> None:
    with pytest.raises(StudyError, match=r"tune\.training\.warmup: found 11 updates in a run of 10 updates"):
        one(tune={"training.warmup": ["1 update", "11 updates"]})


def test_config_of_any_values(text: str) -> None:
    made = study.loads(text)
    for cell in made.cells[:40]:
        assert made.config(cell.arm, cell.coordinates) == cell.config
    found = made.config("cooldown", {"model.width": 40, LR: 0.01, "duration": "1e3 updates"})
    assert (found["model"]["width"], found["training"]["optimizer"]["lr"], found["duration"]) == (
        40,
        0.01,
        "1000 updates",
    )
    with pytest.raises(StudyError, match="multiple of head_size"):
        made.config("cooldown", {"model.width": 41})
    with pytest.raises(StudyError, match="did you mean 'cosine'"):
        made.config("cosin", {})
    assert made.config("cosine", {"training.optimizer.name": "sgd"})["training"]["optimizer"]["momentum"] == 0.9


def test_a_study_is_extended_in_code(text: str) -> None:
    made = study.loads(text)
    longer = made.with_grid("duration", [*made.grid["duration"], "3200 updates"])
    ours = {s for s in frozen(made) if json.loads(s)[3] is False}
    assert ours < frozen(longer) and made.raw["grid"]["duration"][-1] == "1600 updates"
    assert made.with_grid("seed", [0]).grid["seed"] == (0,)
    with_arm = made.with_arm("sgd", {"training": {"optimizer": {"name": "sgd"}}})
    assert frozen(made) < frozen(with_arm) and with_arm.arm("sgd").overrides
    assert made.with_value("data.context", 32).cells[0].config["data"]["context"] == 32
    with pytest.raises(StudyError, match=r"grid\.seed\[0\]: found -1"):
        made.with_grid("seed", [-1])
    with pytest.raises(StudyError, match="did you mean 'cosine'"):
        made.arm("cosin")


def test_ten_thousand_cells_take_less_than_two_seconds(text: str) -> None:
    begun = time.process_time()  # other tests run beside this one
    made = study.loads(text.replace("[0, 1, 2]", str(list(range(278)))))
    assert len(made.cells) > 10_000
    assert time.process_time() - begun < 2


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from isoloss import study; from importlib.resources import files; "
        "study.loads((files('isoloss') / 'studies' / 'quickstart.yaml').read_text()); "
        "import isoloss.study.reference; "
        "print([m for m in ('torch', 'scipy', 'numpy', 'polars', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_how_processes_share_a_run_is_the_studys_and_no_arms() -> None:
    training = {"optimizer": {"lr": 1}, "batch": "4 sequences", "parallel": {"shard": 2}}
    assert config(training=training)["training"]["parallel"] == {"data": 1, "shard": 2, "checkpointing": False}
    with pytest.raises(StudyError, match=r"decides no result.*the same for all arms"):
        one(arms={"a": {}, "b": {"training": {"parallel": {"data": 2}}}}, baseline="a")
    with pytest.raises(StudyError, match="decides no result"):
        one(grid={"training.parallel.data": [1, 2]})
