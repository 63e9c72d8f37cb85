"""The rules that the phases of a cell train under, from its resolved configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from isoloss.methods.rules import Rescaling
from isoloss.plan.phases import Stretch, methods_digest
from isoloss.recipe import catalogue
from isoloss.recipe.canonical import digest
from isoloss.recipe.references import code_of, is_reference
from isoloss.recipe.run import Rule

ADDITION = 1
"""Raised by hand when sums, norms or running statistics over micro-batches change a bit."""


class Rules:
    """Rules of one cell: all alike but for the learning rate and the methods.

    ``shared``: gives the one object that there is of a rule, by what tells it from others and how to make it.
    """

    def __init__(
        self,
        shared: Callable[[Any, Callable[[], Rule]], Rule],
        config: Mapping[str, Any],
        data_digest: str,
        context: int,
        batch: int,
        micro: int,
        seeds: Mapping[str, int],
        change: Rescaling,
    ) -> None:
        training, task = config["training"], config["task"]
        optimizer = training["optimizer"]
        left_out = ("name", "lr", "version", *(("refresh",) if not is_reference(optimizer["name"]) else ()))
        options = _adapted({k: v for k, v in optimizer.items() if k not in left_out}, change)
        self._shared = shared
        self._fixed: dict[str, Any] = {
            "data": {"digest": data_digest, "context": context, **_data_code(config["data"])},
            "task": {"name": task, "code": _code("task", task, None)},
            "batch": batch,
            "micro_batches": micro,
            "optimizer": {
                "name": optimizer["name"],
                "options": options,
                "code": _code("optimizer", optimizer["name"], optimizer.get("version")),
                "decay": "matrices" if training["decay_only_matrices"] else "all",
            },
            "clip": None if training["clip"] is None else float(training["clip"]),
            "seeds": {"data": seeds["data"], "noise": seeds["noise"]},
            "addition": ADDITION if micro > 1 else 0,
        }
        self._memo = digest(self._fixed)

    def __call__(self, part: Stretch) -> Rule:
        memo = (self._memo, part.lr, methods_digest(part.methods))
        return self._shared(memo, lambda: Rule(lr=part.lr, methods=part.methods, **self._fixed))


def _adapted(options: dict[str, Any], change: Rescaling) -> dict[str, Any]:
    """An optimizer's options at the batch of the run."""
    rules = {"momentum": change.momentum, "weight_decay": change.weight_decay, "eps": change.eps}
    found: dict[str, Any] = {name: rules[name](value) if name in rules else value for name, value in options.items()}
    if "betas" in options:
        found["betas"] = [change.momentum(beta) for beta in options["betas"]]
    return found


def _data_code(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A user's own source: its code and options, since its digest is its own word; a built-in's digest has both."""
    if not is_reference(spec["source"]):
        return {}
    options = {k: v for k, v in spec.items() if k not in ("source", "version", "path")}
    return {"source": spec["source"], "code": code_of(spec["source"], spec.get("version"), None), "options": options}


def _code(kind: str, name: str, version: object) -> dict[str, Any]:
    return code_of(name, version, None if is_reference(name) else catalogue.get(kind, name).semantics)
