"""From a study's model options to a module and its facts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from isoloss.models import adapters
from isoloss.models.facts import ModelFacts
from isoloss.models.image_ladder import Shape
from isoloss.models.ladder import CONFIGS, Config, configure
from isoloss.recipe import catalogue
from isoloss.recipe.errors import nearest
from isoloss.recipe.references import load

if TYPE_CHECKING:
    import torch

EMBEDDING_NAMES = ("wte", "wpe")


def build(
    spec: Mapping[str, Any], *, vocabulary: int, context: int, seed: int, shape: Sequence[int] | None = None
) -> torch.nn.Module:
    """Build the model of a study in float32 on the CPU; a pure function of its arguments.

    `spec`: {"family": a name of the catalogue, options}, {"name": "package.module:attribute", options} or {"name":
    "timm:NAME", options}; an option of value None and the key "version" are left out. A user's attribute is called
    with the options, and with `vocabulary`, `context` and `shape` where its signature takes them.
    Language models map tokens (B, T) int64 to logits (B, T, V); classifiers map vectors (B, features) or images
    (B, C, H, W) to logits (B, classes), where `vocabulary` is the number of classes, `context` that of the features
    and `shape` (C, H, W), None for vectors and tokens. The global random state is left as it was.
    Raises ValueError for an unknown family or option, StudyError for a name that cannot be imported.
    """
    import torch

    shape = _shape(shape)
    if "name" in spec:
        target, options = _custom(spec, vocabulary, context, shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _module(spec["name"], target(**options))
    config = _config(spec, vocabulary, context, shape)
    family = load(catalogue.get("model", spec["family"]).target)
    return _module(spec["family"], family(config, generator=torch.Generator().manual_seed(seed)))


def describe(
    spec: Mapping[str, Any], *, vocabulary: int, context: int, shape: Sequence[int] | None = None
) -> ModelFacts:
    """Facts of the model that `build` would make: closed form for built-ins, counted on meta otherwise.

    Raises ValueError as `build` does.
    """
    shape = _shape(shape)
    if "name" in spec:
        return _count(_CountedSpec.of(spec), vocabulary, context, shape)[0]
    return _config(spec, vocabulary, context, shape).facts()


def needs_whole_batch(
    spec: Mapping[str, Any], *, vocabulary: int, context: int, shape: Sequence[int] | None = None
) -> bool:
    """`has_batch_statistics` of the model that `build` would make, for planning: built-ins without torch."""
    shape = _shape(shape)
    if "name" in spec:
        return _count(_CountedSpec.of(spec), vocabulary, context, shape)[1]
    return _config(spec, vocabulary, context, shape).batch_statistics


def has_batch_statistics(model: torch.nn.Module) -> bool:
    """Whether a sample's output in training depends on which others share its batch, through plain BatchNorm.

    Layers with a `ghost_size` and SyncBatchNorm are not plain: they say themselves which samples belong together.
    """
    from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm

    return any(
        isinstance(module, _BatchNorm)
        and not isinstance(module, SyncBatchNorm)
        and getattr(module, "ghost_size", None) is None
        for module in model.modules()
    )


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

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> _CountedSpec:
        return cls(tuple(sorted((name, repr(value)) for name, value in spec.items())), dict(spec))


@lru_cache(maxsize=4096)
def _count(counted: _CountedSpec, vocabulary: int, context: int, shape: Shape | None) -> tuple[ModelFacts, bool]:
    import torch

    from isoloss.models.count import count

    target, options = _custom(counted.spec, vocabulary, context, shape)
    with torch.device("meta"):
        # Evaluation mode: BatchNorm refuses to train on the one sample that is counted.
        model = _module(counted.spec["name"], target(**options)).eval()
        inputs = None if shape is None else torch.zeros(1, *shape)
    return count(model, vocabulary=vocabulary, context=context, inputs=inputs), has_batch_statistics(model)


def _shape(shape: Sequence[int] | None) -> Shape | None:
    if shape is None:
        return None
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"model: the shape of an image is {tuple(shape)!r}; allowed: (channels, height, width)")
    return int(shape[0]), int(shape[1]), int(shape[2])


def _config(spec: Mapping[str, Any], vocabulary: int, context: int, shape: Shape | None) -> Config:
    family = spec.get("family")
    if family not in CONFIGS:
        raise ValueError(
            f"model: family is {family!r}; allowed: {', '.join(CONFIGS)}, or name: package.module:attribute"
            f"{nearest(str(family), CONFIGS)}"
        )
    return configure(family, _options(spec), vocabulary=vocabulary, context=context, shape=shape)


def _options(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in spec.items() if k not in ("family", "name", "version") and v is not None}


def _custom(
    spec: Mapping[str, Any], vocabulary: int, context: int, shape: Shape | None
) -> tuple[Callable[..., Any], dict[str, Any]]:
    name, options = spec["name"], _options(spec)
    if adapters.is_timm(name):
        return adapters.timm_model(name, vocabulary, shape), options
    target = load(name)
    if not callable(target):
        raise ValueError(f"model: {name} is a {type(target).__name__}; a class or function is needed")
    parameters = inspect.signature(target).parameters
    for extra, value in (("vocabulary", vocabulary), ("context", context), ("shape", shape)):
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
