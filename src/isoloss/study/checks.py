"""What must agree between the values of one resolved config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from isoloss.recipe import catalogue
from isoloss.recipe.errors import nearest
from isoloss.recipe.units import Quantity

TUNED = "tuned"
"""Stands in a config for a value that tuning will choose."""

UNTUNED = "untuned"
"""Key of a resolved ``pretrain``: values of ``training``, by dotted path, that are tuned in the run but not in it."""

LR = "training.optimizer.lr"

NUMERICS = ("training.precision", "training.compile")
"""What a run has one value of, whatever it goes on from."""


def disagreements(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(dotted path, message) of all that does not fit together; quantities are compared where they can be.

    An item of a list goes by its index.
    """
    yield from _data_and_model(config)
    yield from _transfer(config)
    yield from _batch(config)
    yield from _schedule(config)
    yield from _average(config)
    yield from _metrics(config)
    yield from _pretrain(config)


def _data_and_model(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    data, model, evaluation = config["data"], config["model"], config["evaluation"]
    source = data["source"]
    kind = next((tag for tag in ("tokens", "vectors") if source in catalogue.names("data", tag)), None)
    if kind == "tokens" and data["context"] is None:
        yield "data.context", "missing; allowed: a whole number of tokens a sequence"
    if kind == "vectors" and data["context"] is not None:
        yield "data.context", f"found {data['context']}, but {source} has vectors; allowed: null"
    for path, where, name in (
        ("model.family", "model", model.get("family")),
        ("task", "task", config["task"]),
    ):
        if kind and name in catalogue.names(where) and kind not in catalogue.get(where, name).tags:
            fit = ", ".join(catalogue.names(where, kind))
            yield path, f"found {name!r}, but {source} gives {kind}; allowed with {kind}: {fit}"
    if evaluation["tokens"] is not None and evaluation["samples"] is not None:
        yield "evaluation.samples", "found both tokens and samples; allowed: one of them"
    unit = {"tokens": "samples", "vectors": "tokens"}.get(kind or "")
    if unit and evaluation[unit] is not None:
        yield (
            f"evaluation.{unit}",
            f"found {evaluation[unit]}, but {source} gives {kind}; allowed: {kind_unit(kind)}",
        )
    if model.get("family") == "gpt":
        head = model["head_size"]
        if isinstance(head, int) and head % 2:
            yield "model.head_size", f"found {head}; allowed: an even number (rotary positions turn pairs)"
            return
        for name in ("width", "base_width"):
            width = model[name]
            if isinstance(width, int) and isinstance(head, int) and width % head:
                low = max(width // head, 1) * head
                yield (
                    f"model.{name}",
                    f"found {width}; allowed: a multiple of head_size {head} (nearest: {low}, {low + head})",
                )


def _transfer(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Width transfer needs a base, and an optimizer whose learning rates are known under it."""
    model, name = config["model"], config["training"]["optimizer"]["name"]
    if "family" not in model or "base_width" not in model or model["parametrisation"] != "mup":
        return
    if model["base_width"] is None:
        yield "model.base_width", "missing; allowed: the width that the learning rate is meant for"
    known = [*catalogue.names("optimizer", "adam"), *catalogue.names("optimizer", "sgd")]
    if name not in known:
        yield "model.parametrisation", f"found 'mup' with {name}; allowed with mup: {', '.join(known)}"


def kind_unit(kind: str | None) -> str:
    """The unit that evaluation counts in."""
    return "samples" if kind == "vectors" else "tokens"


def _batch(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    training, context = config["training"], config["data"]["context"]
    if config["data"]["source"] in catalogue.names("data", "vectors"):
        for path, text in (("training.batch", training["batch"]), ("duration", config["duration"])):
            if text != TUNED and Quantity.parse(text).unit in ("tokens", "tokens/param"):
                yield (
                    path,
                    f"found {text}, but the data has no tokens; allowed: samples or updates",
                )
                return
    if TUNED in (training["batch"], training["micro_batches"], context):
        return
    batch = Quantity.parse(training["batch"])
    samples = batch.count
    if batch.unit == "tokens":
        if not isinstance(context, int):
            yield (
                "training.batch",
                f"found {batch}, but the data has no context; allowed: sequences or samples",
            )
            return
        if samples % context:
            yield "training.batch", f"found {batch}; allowed: a multiple of the context of {context} tokens"
            return
        samples //= context
    if samples % training["micro_batches"]:
        yield (
            "training.micro_batches",
            f"found {training['micro_batches']}; allowed: a divisor of the batch of {samples} sequences",
        )


def _schedule(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    schedule, warmup, duration = config["schedule"], config["training"]["warmup"], config["duration"]
    cooldown, shape = schedule["cooldown"], schedule["shape"]
    optimizer = config["training"]["optimizer"]
    if optimizer["name"] == "sgd" and optimizer["nesterov"] is True and optimizer["momentum"] == 0:
        yield "training.optimizer.nesterov", "found true with momentum 0; allowed: false, or momentum above 0"
    trunks = catalogue.names("schedule", "trunk")
    if cooldown and shape not in trunks:
        message = f"found one after {shape!r}, which decays already; allowed after: {', '.join(trunks)}"
        yield "schedule.cooldown", message
        return
    if shape == "inverse_sqrt" and warmup != TUNED and Quantity.parse(warmup).value == 0:
        yield (
            "training.warmup",
            f"found {warmup} with shape 'inverse_sqrt', which starts from it; allowed: more than 0",
        )
    if cooldown and cooldown["fraction"] is not None and cooldown["length"] is not None:
        yield "schedule.cooldown.length", "found both fraction and length; allowed: one of them"
        return
    run = amount(duration, config)
    if run is None:
        return
    horizon = amount(schedule["horizon"], config, run[1])
    if horizon and horizon[0] < run[0]:
        yield (
            "schedule.horizon",
            f"found {schedule['horizon']} in a run of {duration}; allowed: at least its length",
        )
    warm = amount(warmup, config, run[1]) or (0.0, run[1])
    if warm[0] > run[0]:
        yield (
            "training.warmup",
            f"found {warmup} in a run of {duration}; allowed: at most its length",
        )
        return
    if not cooldown or TUNED in (cooldown["fraction"], cooldown["length"]):
        return
    if cooldown["length"] is not None:
        end, path, text = amount(cooldown["length"], config, run[1]), "length", cooldown["length"]
    else:
        end, path = (cooldown["fraction"] * run[0], run[1]), "fraction"
        text = f"{cooldown['fraction']:g} of the run"
    if end and end[0] > run[0]:
        yield (
            f"schedule.cooldown.{path}",
            f"found {text} in a run of {duration}; allowed: at most its length",
        )
    elif end and warm[0] + end[0] > run[0] * (1 + 1e-12):
        yield (
            f"schedule.cooldown.{path}",
            f"found {text} after a warm-up of {warmup} in a run of {duration}; allowed: at most its length together",
        )


def _average(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    average, optimizer = config["average"], config["training"]["optimizer"]["name"]
    if average and optimizer in catalogue.names("optimizer", "averaging"):
        yield "average", f"found one over {optimizer}, which is evaluated at its own; allowed: null"
        return
    if average is None or average["kind"] != "window":
        return
    run = amount(config["duration"], config)
    length = amount(average["length"], config, run[1]) if run else None
    if run and length and length[0] > run[0]:
        yield (
            "average.length",
            f"found {average['length']} in a run of {config['duration']}; allowed: at most its length",
        )
    if TUNED in (average["length"], average["every"]):
        return
    whole, every = Quantity.parse(average["length"]), Quantity.parse(average["every"])
    parts = whole.value / every.value
    if whole.unit == every.unit and abs(parts - round(parts)) > 1e-9:
        yield (
            "average.every",
            f"found {average['every']}; allowed: a divisor of the length of {average['length']}",
        )


def replaced(path: str, given: Mapping[str, Any]) -> bool:
    """Whether an earlier training has its own value at ``path`` of a run, by its mapping ``pretrain``."""
    own = (LR, "training.warmup", "training.base_batch")
    return path in own or (path == "training.batch" and given["batch"] is not None)


def earlier(config: dict[str, Any]) -> dict[str, Any]:
    """The config of the training that a run goes on from, which is one like any other."""
    given = config["pretrain"]
    for path, value in given.get(UNTUNED, {}).items():
        config = put(config, path.split("."), value)
    own = {"batch": given["batch"] or config["training"]["batch"], "warmup": given["warmup"], "base_batch": None}
    own |= {"optimizer": {**config["training"]["optimizer"], "lr": given["lr"]}}
    return {
        **config,
        "data": given["data"],
        "duration": given["duration"],
        "schedule": given["schedule"],
        "training": {**config["training"], **own},
        "average": None,
        "pretrain": None,
    }


def put(config: Mapping[str, Any], parts: Sequence[str], value: Any) -> dict[str, Any]:
    """A config with ``value`` at a path; what lies beside it is shared with ``config``."""
    first, *rest = parts
    return {**config, first: put(config[first], rest, value) if rest else value}


def _pretrain(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What does not fit in the earlier training."""
    given = config["pretrain"]
    if given is None:
        return
    if given["head"] == "reset" and given["optimizer"] == "keep":
        yield (
            "pretrain.optimizer",
            "found keep with head: reset, but it has moments of the old head; allowed: reset",
        )
    before = earlier(config)
    for path, message in (*_data_and_model(before), *_schedule(before)):
        own = path.removeprefix("training.")
        if own.startswith(("data.", "schedule.", "warmup")):
            yield f"pretrain.{own}", message


def _metrics(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Metrics of the built-in tasks; those of a user's own are known once its code is loaded."""
    known = catalogue.names("metric")
    if config["task"] not in catalogue.names("task"):
        return
    for index, name in enumerate(config["evaluation"]["metrics"]):
        if name not in known:
            yield f"evaluation.metrics.{index}", f"found {name!r}; allowed: {', '.join(known)}{nearest(name, known)}"


def amount(text: str | None, config: dict[str, Any], unit: str | None = None) -> tuple[float, str] | None:
    """A duration as (value, unit), samples and tokens brought to updates where batch and context are known.

    None for no duration, for one that is tuned, and where the result is not in ``unit``.
    """
    if text is None or text == TUNED:
        return None
    quantity = Quantity.parse(text)
    value, found = quantity.value, quantity.unit
    if found in ("tokens", "samples"):
        scale = _per_update(found, config)
        if scale is not None:
            value, found = value / scale, "updates"
    return (value, found) if unit in (None, found) else None


def _per_update(unit: str, config: dict[str, Any]) -> float | None:
    """How many tokens or samples one update sees."""
    batch, context = config["training"]["batch"], config["data"]["context"]
    if batch == TUNED:
        return None
    quantity = Quantity.parse(batch)
    counted = "tokens" if quantity.unit == "tokens" else "samples"
    if counted == unit:
        return quantity.value
    if not isinstance(context, int):
        return None
    return quantity.value / context if unit == "samples" else quantity.value * context
