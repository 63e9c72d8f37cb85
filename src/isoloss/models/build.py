"""From a study's model options to a module and its facts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoloss.models import adapters, hugging_face
from isoloss.models.facts import ModelFacts
from isoloss.models.image_ladder import Shape
from isoloss.models.ladder import CONFIGS, Config, configure
from isoloss.recipe import catalogue
from isoloss.recipe.errors import StudyError, nearest
from isoloss.recipe.references import load

if TYPE_CHECKING:
    import torch

    from isoloss.methods.mup import Rule

EMBEDDING_NAMES = ("wte", "wpe")
HEAD_NAMES = ("head", "lm_head", "embed_out", "classifier", "fc")
"""Names of modules that are taken for the output head."""
PARAMETRISATION = ("parametrisation", "base_width")
"""Options of a built-in family that say how it is initialised and trained, not what it is."""
TIED_TABLE = r"^embedding\.weight$"


def build(
    spec: Mapping[str, Any], *, vocabulary: int, context: int, seed: int, shape: Sequence[int] | None = None
) -> torch.nn.Module:
    """Build the model of a study in float32 on the CPU; a pure function of its arguments.

    `spec`: {"family": a name of the catalogue, options}, {"name": "package.module:attribute", options} or {"name":
    "timm:NAME", options}; an option of value None and the key "version" are left out. The family "transformers" takes
    a type and the options of its config (`hugging_face.configure`). A user's attribute is called
    with the options, and with `vocabulary`, `context` and `shape` where its signature takes them. Under
    "parametrisation": "mup" a family has the initial values of `methods.mup`, relative to width "base_width".
    Language models map tokens (B, T) int64 to logits (B, T, V); classifiers map vectors (B, features) or images
    (B, C, H, W) to logits (B, classes), where `vocabulary` is the number of classes, `context` that of the features
    and `shape` (C, H, W), None for vectors and tokens. The global random state is left as it was.
    Raises ValueError for an unknown family or option, StudyError for a name that cannot be imported.
    """
    import torch

    shape = _shape(shape)
    if not _built_in(spec):
        target, options = _custom(spec, vocabulary, context, shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _module(_label(spec), target(**options))
    made = _family(spec, vocabulary, context, shape, seed)
    if transfers(spec):
        from isoloss.methods import mup

        base = _family(_at_base(spec), vocabulary, context, shape, seed)
        mup.initialise_(made, base, mup.model_rules(made, base, kinds=_kinds(spec)))
    return made


def transfers(spec: Mapping[str, Any]) -> bool:
    """Whether a spec asks for width transfer."""
    return _built_in(spec) and spec.get("parametrisation", "standard") == "mup"


def transfer(
    model: torch.nn.Module,
    spec: Mapping[str, Any],
    *,
    vocabulary: int,
    context: int,
    shape: Sequence[int] | None = None,
) -> dict[str, Rule]:
    """Rules of width transfer by parameter name of what `build` made; empty without transfer.

    The readout is "folded": nothing is multiplied in the forward pass. Raises ValueError as `build` does.
    """
    if not transfers(spec):
        return {}
    from isoloss.methods import mup

    base = _family(_at_base(spec), vocabulary, context, _shape(shape), 0)
    return mup.model_rules(model, base, kinds=_kinds(spec))


def _family(spec: Mapping[str, Any], vocabulary: int, context: int, shape: Shape | None, seed: int) -> torch.nn.Module:
    """A built-in model with the initial values of its family."""
    import torch

    config = _config(spec, vocabulary, context, shape)
    family = load(catalogue.get("model", spec["family"]).target)
    return _module(spec["family"], family(config, generator=torch.Generator().manual_seed(seed)))


def _at_base(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of the model that a transfer is relative to. Raises ValueError where its width is missing."""
    if spec.get("base_width") is None:
        raise ValueError("model: base_width is missing; parametrisation mup needs the width that lr is meant for")
    return {**spec, "width": spec["base_width"], "parametrisation": "standard"}


def _kinds(spec: Mapping[str, Any]) -> dict[str, str]:
    """Kinds of tensors that shapes do not tell: a tied table is multiplied by sqrt(width) on the way in."""
    return {TIED_TABLE: "tied"} if spec.get("tied") else {}


def describe(
    spec: Mapping[str, Any], *, vocabulary: int, context: int, shape: Sequence[int] | None = None
) -> ModelFacts:
    """Facts of the model that `build` would make: closed form for built-ins, counted on meta otherwise.

    Raises ValueError as `build` does.
    """
    shape = _shape(shape)
    if not _built_in(spec):
        return _count(_CountedSpec.of(spec), vocabulary, context, shape)[0]
    return _config(spec, vocabulary, context, shape).facts()


def needs_whole_batch(
    spec: Mapping[str, Any], *, vocabulary: int, context: int, shape: Sequence[int] | None = None
) -> bool:
    """`has_batch_statistics` of the model that `build` would make, for planning: built-ins without torch."""
    shape = _shape(shape)
    if not _built_in(spec):
        return _count(_CountedSpec.of(spec), vocabulary, context, shape)[1]
    return _config(spec, vocabulary, context, shape).batch_statistics


def keeps_statistics(
    spec: Mapping[str, Any], *, vocabulary: int, context: int, shape: Sequence[int] | None = None
) -> bool:
    """Whether the model that `build` would make gathers running statistics in BatchNorm layers of any kind."""
    shape = _shape(shape)
    if not _built_in(spec):
        return _count(_CountedSpec.of(spec), vocabulary, context, shape)[2]
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

    A table is an embedding if a part of its dotted name contains "embed" or is wte or wpe, unless it is a head.
    """
    parts = name.lower().split(".")
    embedding = any("embed" in part or part in EMBEDDING_NAMES for part in parts) and not in_head(name)
    return parameter.ndim >= 2 and not embedding


def in_head(name: str) -> bool:
    """Whether a parameter belongs to the output head, by its dotted name."""
    return any(part in HEAD_NAMES for part in name.lower().split("."))


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
def _count(counted: _CountedSpec, vocabulary: int, context: int, shape: Shape | None) -> tuple[ModelFacts, bool, bool]:
    """(facts, `has_batch_statistics`, whether BatchNorm layers gather running statistics)."""
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    from isoloss.models.count import count

    target, options = _custom(counted.spec, vocabulary, context, shape)
    if counted.spec.get("family") == hugging_face.FAMILY:
        return hugging_face.facts(**options, vocabulary=vocabulary, context=context), False, False
    with torch.device("meta"):
        # Evaluation mode: BatchNorm refuses to train on the one sample that is counted.
        model = _module(counted.spec["name"], target(**options)).eval()
        inputs = None if shape is None else torch.zeros(1, *shape)
    gathers = any(isinstance(module, _BatchNorm) and module.track_running_stats for module in model.modules())
    facts = count(model, vocabulary=vocabulary, context=context, inputs=inputs)
    return facts, has_batch_statistics(model), gathers


def _shape(shape: Sequence[int] | None) -> Shape | None:
    if shape is None:
        return None
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"model: the shape of an image is {tuple(shape)!r}; allowed: (channels, height, width)")
    return int(shape[0]), int(shape[1]), int(shape[2])


def saved_weights(
    folder: Path, spec: Mapping[str, Any], *, vocabulary: int, context: int, head: str = "keep"
) -> dict[str, torch.Tensor]:
    """Weights of a folder that `transformers` has saved, by the names of the model that `build` makes, in float32.

    With ``head`` "reset" the output head need not fit, and is not meant to be used. Raises StudyError for a model of
    another kind, and lists what does not fit.
    """
    if spec.get("family") != hugging_face.FAMILY:
        raise StudyError(
            f"init.weights: {folder} is a folder, which only a model of family transformers can begin with; allowed: a "
            "safetensors file"
        )
    ignored = in_head if head == "reset" else lambda name: False
    return hugging_face.read(folder, _options(spec), vocabulary=vocabulary, context=context, ignored=ignored)


def _built_in(spec: Mapping[str, Any]) -> bool:
    return "family" in spec and spec["family"] != hugging_face.FAMILY


def _label(spec: Mapping[str, Any]) -> str:
    return str(spec.get("name") or spec["family"])


def _config(spec: Mapping[str, Any], vocabulary: int, context: int, shape: Shape | None) -> Config:
    family = spec.get("family")
    if family not in CONFIGS:
        allowed = catalogue.names("model")
        raise ValueError(
            f"model: family is {family!r}; allowed: {', '.join(allowed)}, or name: package.module:attribute"
            f"{nearest(str(family), allowed)}"
        )
    if transfers(spec):
        _config(_at_base(spec), vocabulary, context, shape)
    return configure(family, _options(spec), vocabulary=vocabulary, context=context, shape=shape)


def _options(spec: Mapping[str, Any]) -> dict[str, Any]:
    left_out = {"family", "name", "version", *(PARAMETRISATION if _built_in(spec) else ())}
    return {k: v for k, v in spec.items() if k not in left_out and v is not None}


def _custom(
    spec: Mapping[str, Any], vocabulary: int, context: int, shape: Shape | None
) -> tuple[Callable[..., Any], dict[str, Any]]:
    options = _options(spec)
    if spec.get("family") == hugging_face.FAMILY:
        return partial(hugging_face.build, vocabulary=vocabulary, context=context), options
    name = spec["name"]
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
