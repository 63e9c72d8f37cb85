"""From a study's model options to a module and its facts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from isoloss.models.facts import ModelFacts
from isoloss.models.ladder import GPTConfig, MLPConfig, configure
from isoloss.recipe.errors import nearest
from isoloss.recipe.references import load

if TYPE_CHECKING:
    import torch

FAMILIES: dict[str, type[GPTConfig] | type[MLPConfig]] = {"gpt": GPTConfig, "mlp": MLPConfig}
EMBEDDING_NAMES = ("wte", "wpe")


def build(spec: Mapping[str, Any], *, vocabulary: int, context: int, seed: int) -> torch.nn.Module:
    """Build the model of a study in float32 on the CPU; a pure function of its arguments.

    `spec`: {"family": "gpt" | "mlp", options} or {"name": "package.module:attribute", options}; an option
    of value None and the key "version" are left out. The attribute is called with the options, and with
    `vocabulary` and `context` where its signature takes them. Language models map tokens (B, T) int64 to
    logits (B, T, V); the global random state is left as it was.
    Raises ValueError for an unknown family or option, StudyError for a name that cannot be imported.
    """
    import torch

    if "name" in spec:
        target, options = _custom(spec, vocabulary, context)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _module(spec["name"], target(**options))
    config = _config(spec, vocabulary, context)
    generator = torch.Generator().manual_seed(seed)
    if isinstance(config, GPTConfig):
        from isoloss.models.gpt import GPT

        return GPT(config, generator=generator)
    from isoloss.models.mlp import MLP

    return MLP(config, generator=generator)


def describe(spec: Mapping[str, Any], *, vocabulary: int, context: int) -> ModelFacts:
    """Facts of the model that `build` would make: closed form for built-ins, counted on meta otherwise.

    Raises ValueError as `build` does.
    """
    if "name" in spec:
        key = tuple(sorted((name, repr(value)) for name, value in spec.items()))
        return _CountedSpec(key, dict(spec)).facts(vocabulary, context)
    return _config(spec, vocabulary, context).facts()


def decayed(name: str, parameter: torch.Tensor) -> bool:
    """Whether weight decay belongs on a parameter: matrices and untied heads, no gain, bias or embedding.

    A table is an embedding if a part of its dotted name contains "embed" or is wte or wpe.
    """
    parts = name.lower().split(".")
    embedding = any("embed" in part or part in EMBEDDING_NAMES for part in parts)
    return parameter.ndim >= 2 and not embedding


class _CountedSpec:
    """A hashable spec, so that counting a user's model happens once a process."""

    def __init__(self, key: tuple[tuple[str, str], ...], spec: dict[str, Any]) -> None:
        self.key, self.spec = key, spec

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _CountedSpec) and self.key == other.key

    def facts(self, vocabulary: int, context: int) -> ModelFacts:
        return _count(self, vocabulary, context)


@lru_cache(maxsize=4096)
def _count(counted: _CountedSpec, vocabulary: int, context: int) -> ModelFacts:
    import torch

    from isoloss.models.count import count

    target, options = _custom(counted.spec, vocabulary, context)
    with torch.device("meta"):
        model = _module(counted.spec["name"], target(**options))
    return count(model, vocabulary=vocabulary, context=context)


def _config(spec: Mapping[str, Any], vocabulary: int, context: int) -> GPTConfig | MLPConfig:
    family = spec.get("family")
    if family not in FAMILIES:
        raise ValueError(
            f"model: family is {family!r}; allowed: {', '.join(FAMILIES)}, or name: package.module:attribute"
            f"{nearest(str(family), FAMILIES)}"
        )
    config: type[Any] = FAMILIES[family]
    made: GPTConfig | MLPConfig = configure(config, family, _options(spec), vocabulary=vocabulary, context=context)
    return made


def _options(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in spec.items() if k not in ("family", "name", "version") and v is not None}


def _custom(spec: Mapping[str, Any], vocabulary: int, context: int) -> tuple[Callable[..., Any], dict[str, Any]]:
    name = spec["name"]
    target = load(name)
    if not callable(target):
        raise ValueError(f"model: {name} is a {type(target).__name__}; a class or function is needed")
    options = _options(spec)
    parameters = inspect.signature(target).parameters
    for extra, value in (("vocabulary", vocabulary), ("context", context)):
        if extra in parameters:
            options.setdefault(extra, value)
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for option in options:
        if not anything and option not in parameters:
            raise ValueError(
                f"model: {name} takes no option {option!r}; it takes: {', '.join(parameters)}"
                f"{nearest(option, parameters)}"
            )
    return target, options


def _module(name: str, made: object) -> torch.nn.Module:
    import torch

    if not isinstance(made, torch.nn.Module):
        raise ValueError(f"model: {name} returned {type(made).__name__}; a torch.nn.Module is needed")
    return made
