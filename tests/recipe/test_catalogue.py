"""The catalogue agrees with the code that its entries point at."""

import dataclasses
import importlib
import inspect

import pytest

from isoloss.recipe import catalogue
from isoloss.recipe.errors import StudyError

ALL = [catalogue.get(kind, name) for kind in catalogue.KINDS for name in catalogue.names(kind)]


def target(entry: catalogue.Entry) -> object:
    module, _, attribute = entry.target.partition(":")
    return getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("entry", ALL, ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_records_are_whole(entry: catalogue.Entry) -> None:
    assert entry.summary and entry.semantics >= 1
    assert callable(target(entry))
    assert len({option.name for option in entry.options}) == len(entry.options)
    for option in entry.options:
        assert option.kind in catalogue.OPTION_KINDS
        assert option.summary
        assert (option.kind == "word") == bool(option.choices)
        if option.kind in ("integer", "number") and option.default not in (None, catalogue.REQUIRED):
            assert option.low is not None and option.high is not None
            assert option.low <= option.default <= option.high  # type: ignore[operator]
        if option.kind == "word":
            assert option.default in option.choices


def test_unknown_name_has_the_nearest() -> None:
    with pytest.raises(
        StudyError, match=r"optimizer: found 'adamW'; allowed: adamw, sgd, lamb, lars, .*, muon \(did you mean 'adamw'"
    ):
        catalogue.get("optimizer", "adamW")


def test_gpt_and_mlp_options_are_those_of_the_models() -> None:
    from isoloss.models import PARAMETRISATION
    from isoloss.models.ladder import GPTConfig, MLPConfig

    for name, config in (("gpt", GPTConfig), ("mlp", MLPConfig)):
        fields = {f.name: f.default for f in dataclasses.fields(config) if f.name not in ("vocabulary", "context")}
        options = {
            option.name: dataclasses.MISSING if option.required else option.default
            for option in catalogue.get("model", name).options
        }
        assert [options.pop(name) for name in PARAMETRISATION] == ["standard", None]
        assert options == fields


def test_schedule_names_are_those_of_the_methods() -> None:
    from isoloss.methods import schedules

    assert schedules.form("power(0.5)") is not None
    assert set(catalogue.names("schedule")) == {*schedules.SHAPES, "power"}
    assert set(catalogue.names("schedule", "decay")) == {*schedules.DECAYS, "power"}


@pytest.mark.parametrize("name", catalogue.names("average"))
def test_average_options_are_those_of_the_observers(name: str) -> None:
    entry = catalogue.get("average", name)
    parameters = inspect.signature(target(entry)).parameters  # type: ignore[arg-type]
    assert {option.name for option in entry.options} <= set(parameters)


@pytest.mark.parametrize("name", catalogue.names("optimizer"))
def test_optimizer_options_are_those_of_torch(name: str) -> None:
    entry = catalogue.get("optimizer", name)
    parameters = inspect.signature(target(entry)).parameters  # type: ignore[arg-type]
    evaluation = {"refresh"} if "averaging" in entry.tags else set()
    assert {option.name for option in entry.options} - evaluation <= set(parameters)


def test_sources_are_those_of_the_data_room() -> None:
    from isoloss.data.registry import SOURCES

    assert set(catalogue.names("data")) == set(SOURCES)


def test_metrics_are_those_that_are_computed() -> None:
    import torch

    from isoloss.train import calibration

    found = calibration.judged(torch.tensor([0.9, 0.4]), torch.tensor([1.0, 0.0]))
    assert tuple(found) == catalogue.names("metric")


def test_every_task_and_law_can_be_made() -> None:
    from isoloss.laws import get_form
    from isoloss.train import tasks

    for name in catalogue.names("task"):
        assert type(tasks.build(name)) is target(catalogue.get("task", name))
    for name in catalogue.names("law"):
        assert type(get_form(name)) is target(catalogue.get("law", name))
