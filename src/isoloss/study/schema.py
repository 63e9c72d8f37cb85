"""The shape of a study file: which mappings there are, and what each may hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from isoloss.methods.rules import DECAY_RULES, EPS_RULES, LR_SCALINGS, MOMENTUM_RULES
from isoloss.recipe import catalogue
from isoloss.recipe.references import is_reference
from isoloss.study.fields import (
    ABSENT,
    Batch,
    Duration,
    DurationFromZero,
    Free,
    Metrics,
    Moment,
    Open,
    Section,
    Seed,
    Size,
    TaskName,
    Whole,
    entry_model,
)


class Run(Section):
    """What a run has beside its mappings."""

    duration: Duration = Field(description="how long a run is")
    task: TaskName | None = Field(None, description="what is trained; null: what the data calls for")
    seed: Seed = Field(0, description="seed of initialisation, data order and noise")


class Seeds(Section):
    """Seeds told apart; written in place of the one number."""

    init: Seed = Field(0, description="seed of the initial weights")
    data: Seed = Field(0, description="seed of the data order")
    noise: Seed = Field(0, description="seed of what is random within an update")


class Data(Section):
    """What every data source takes."""

    context: Annotated[Whole, Field(ge=1, le=10_000_000)] | None = Field(
        None, description="tokens a sequence; needed by token sources, null for vectors"
    )
    size: Size | None = Field(None, description="limit on the unique training data; null: all of it")
    tokenizer: None = Field(None, json_schema_extra=ABSENT)
    version: str | int | None = Field(None, json_schema_extra=ABSENT)


class OwnData(Data, Free):
    """A data source of the user's own, with free options."""

    tokenizer: str | None = Field(None, description="passed on")  # type: ignore[assignment]
    version: str | int | None = Field(None, description="stands for the code in every key")


class Training(Section):
    """How updates are made."""

    batch: Batch = Field(description="what one update sees")
    micro_batches: Annotated[Whole, Field(ge=1, le=65_536)] = Field(
        1, description="virtual workers whose gradients are added in a fixed tree; divides the batch"
    )
    warmup: DurationFromZero = Field("0 updates", description="linear rise of the learning rate to its peak")
    clip: Annotated[float, Field(gt=0)] | None = Field(1.0, description="bound on the global gradient norm; null: none")
    precision: Literal["fp32", "bf16-autocast", "bf16-master", "fast"] = Field(
        "fp32", description="number format; fast: the quickest one that the machine has"
    )
    compile: bool = Field(False, description="use torch.compile")
    decay_only_matrices: bool = Field(True, description="no weight decay on embeddings, gains and biases")
    base_batch: Batch | None = Field(
        None, description="batch that the numbers of the study are for: they are adapted to `batch`; null: no change"
    )
    lr_scaling: Literal[LR_SCALINGS] = Field(  # type: ignore[valid-type]
        "none", description="learning rate at the batch ratio r = batch / base_batch: 1, sqrt(r) or r times; legw: sqrt"
    )
    regime: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="stretch of all durations by r^regime: 0 keeps the samples, 1 the updates"
    )
    momentum_rule: Literal[MOMENTUM_RULES] = Field(  # type: ignore[valid-type]
        "keep", description="momentum (betas) at the batch ratio"
    )
    decay_rule: Literal[DECAY_RULES] = Field(  # type: ignore[valid-type]
        "keep", description="weight decay at the batch ratio"
    )
    eps_rule: Literal[EPS_RULES] = Field("keep", description="Adam's eps at the batch ratio")  # type: ignore[valid-type]
    ghost_size: Annotated[Whole, Field(ge=1, le=2**31 - 1)] | None = Field(
        None, description="Ghost BatchNorm: samples whose statistics belong together; null: the micro-batch"
    )
    ghost_running: Literal["sequential", "averaged"] = Field(
        "sequential", description="running statistics: one update a ghost, or one with the mean over ghosts"
    )
    ghost_grouping: Literal["consecutive", "strided"] = Field(
        "consecutive", description="which samples make a ghost: neighbours, or every K-th (quicker)"
    )


class Pretrain(Section):
    """Earlier training on other data that a run goes on from; runs with the same one share it."""

    duration: Duration = Field(description="how long it is")
    lr: Annotated[float, Field(gt=0, le=100)] = Field(description="its peak learning rate")
    batch: Batch | None = Field(None, description="what one update sees; null: as training.batch")
    warmup: DurationFromZero = Field("0 updates", description="linear rise of its learning rate")
    optimizer: Literal["reset", "keep"] = Field("reset", description="the optimizer's state, when the run goes on")
    head: Literal["keep", "reset"] = Field(
        "keep", description="the output head, when the run goes on; reset: as at first"
    )


class Init(Section):
    """Initial weights from a file in place of the model's own. Its content is part of every key, its path is not."""

    weights: Annotated[str, Field(min_length=1)] = Field(
        description="a safetensors file with the names and shapes of the model's state_dict, or a folder that "
        "transformers has saved"
    )
    head: Literal["keep", "reset"] = Field("keep", description="its output head; reset: as the model makes it")


class LocalSGD(Section):
    """Every micro-batch is a worker that takes its own steps; their parameters are averaged now and then."""

    every: Annotated[Whole, Field(ge=1, le=10**9)] = Field(description="updates from one averaging to the next")
    begin: Duration | None = Field(None, description="where it is switched on; null: at the run's start")
    slow_momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="momentum of the averages")
    slow_lr: Annotated[float, Field(gt=0, le=100)] = Field(1.0, description="step of the averages")


class Distance(Section):
    """How far the weights are from where they began, at log-spaced updates."""

    per_decade: Annotated[Whole, Field(ge=1, le=100)] = Field(8, description="moments in a decade of updates")
    tensors: bool = Field(False, description="also for each tensor by itself")


class Roughness(Section):
    """Spread of the loss at given distances from the final weights, along random directions."""

    distances: list[Annotated[float, Field(gt=0)]] = Field(
        [0.5, 1.0, 2.0, 4.0, 8.0], min_length=1, description="distances, in the norm of all weights together"
    )
    directions: Annotated[Whole, Field(ge=1, le=10_000)] = Field(16, description="number of directions")


class Shape(Section):
    """What every schedule has; the options that belong to other shapes stay at these values."""

    final: None = Field(None, json_schema_extra=ABSENT)
    horizon: None = Field(None, json_schema_extra=ABSENT)
    drops: list[Any] = Field([], json_schema_extra=ABSENT)


class OwnShape(Section):
    """A decay form f of the user's own, with f(0) = 1 and f(1) = 0."""

    final: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="fraction of the peak at the end")
    horizon: Duration | None = Field(None, description="where the form would end; null: at the run's end")
    drops: list[Any] = Field([], json_schema_extra=ABSENT)
    version: str | int | None = Field(None, description="stands for the code in every key")


class Cooldown(Section):
    """The end of a run, where the learning rate goes down."""

    fraction: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="length as a fraction of the run; 0.2 if length is not given either"
    )
    length: Duration | None = Field(None, description="length, in place of the fraction")
    final: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="fraction of where it began")


class ExponentialCooldown(Cooldown):
    """final^x needs a final value above 0."""

    final: Annotated[float, Field(gt=0, le=1)] = Field(0.1, description="fraction of where it began")


class PowerCooldown(Cooldown):
    """1 - x^a has its a."""

    exponent: Annotated[float, Field(gt=0, le=100)] = Field(0.5, description="a of 1 - x^a, for power alone")


class OwnCooldown(Cooldown):
    """A cooldown whose form is the user's own."""

    version: str | int | None = Field(None, description="stands for the code in every key")


class Average(Section):
    """What every average takes."""

    refresh: Annotated[Whole, Field(ge=1, le=1_000_000)] = Field(
        32, description="training batches that estimate running statistics (BatchNorm) anew; no others are read"
    )


class Evaluation(Section):
    """What is measured, on how much, and when."""

    tokens: Annotated[Whole, Field(ge=1, le=10**12)] | None = Field(
        None, description="tokens of each validation part; 16384 for token data"
    )
    samples: Annotated[Whole, Field(ge=1, le=10**12)] | None = Field(
        None, description="samples of each validation part; 1024 for classification"
    )
    every: Duration | None = Field(None, description="further evaluations along the run; null: none")
    at: list[Moment] = Field(["end"], min_length=1, description="moments of evaluation")
    select: Literal["end", "best"] = Field(
        "end", description="what is judged: the end, or the evaluation with the lowest loss on part A (early stopping)"
    )
    metrics: Metrics | None = Field(
        None, description="measured beside the loss; null: [accuracy] for classification, else none"
    )


class Checkpoint(Section):
    """Execution only: never part of a key."""

    every: Duration = Field("200 updates", description="length of a piece: updates between two stored states")


class Parallel(Section):
    """Processes that train one run together. Execution only: never part of a key, and the same for all arms.

    The processes, `data` x `shard`, share the micro-batches; `--processes` and `--shard` of the command line go first.
    """

    data: Annotated[Whole, Field(ge=1, le=65_536)] = Field(1, description="copies of the weights")
    shard: Annotated[Whole, Field(ge=1, le=65_536)] = Field(
        1, description="processes over which one copy is sharded: a power of two"
    )
    checkpointing: bool = Field(
        False, description="keep no activations inside blocks: compute them again in the backward pass"
    )


class Tuning(Section):
    """The keys of `tune` that are not dotted paths."""

    between: Literal["nearest", "loglinear"] | None = Field(
        None,
        description="learning rate at sizes that were not tuned; loglinear in N by default",
    )
    optimum: Literal["candidate", "parabola"] = Field(
        "candidate",
        description="the learning rate that is used: the best candidate, or the lowest point of a parabola in its "
        "logarithm through the best candidate and up to two on either side",
    )
    extend: int = Field(
        0,
        ge=0,
        le=8,
        description="at most so many candidates are added beyond an end of the learning rates, one after the other, "
        "while the best one lies there; an arm that needs them is charged for them",
    )


class Baseline(Section):
    """The arm that others are compared with."""

    arm: str = Field(description="its name")
    extra: Duration | Literal["none"] | None = Field(
        None,
        description="longer duration that it alone gets; default: longest x (longest / second longest)",
    )


class Head(Section):
    """What belongs to the study as a whole."""

    study: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")] = Field(
        description="name of the study"
    )
    laws: list[Literal[catalogue.names("law")]] = Field([], description="scaling laws to fit")  # type: ignore[valid-type]
    holdout: Literal["N", "D", "C"] | None = Field(
        None, description="hold out the largest scale of this variable when a law is judged"
    )


@dataclass(frozen=True)
class Choice:
    """A mapping whose other keys depend on a name in it, of the catalogue or ``package.module:attribute``."""

    kind: str
    key: str
    default: str | None
    base: type[Section] = Section
    own: type[Section] | None = None
    own_key: str | None = None  # where the user's own name has a key of its own
    tag: str | None = None
    common: tuple[str, ...] = ()  # keys that stay when an arm changes the name

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that name the choice."""
        return (self.key, self.own_key) if self.own_key else (self.key,)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the catalogue that may stand here."""
        return catalogue.names(self.kind, self.tag)

    def chosen(self, mapping: Mapping[str, Any]) -> Any:
        """The name that ``mapping`` chooses, whatever its type, or the default."""
        if self.own_key and self.own_key in mapping:
            return mapping[self.own_key]
        return mapping.get(self.key, self.default)

    def model(self, name: Any) -> type[Section] | None:
        """The model of the other keys, or None where the name is not valid."""
        if self.own is not None and is_reference(name):
            return self.own
        if isinstance(name, str) and name in self.names:
            base = Open if "open" in catalogue.get(self.kind, name).tags else self.base
            return cooldown_model(name) if self.tag else entry_model(self.kind, name, base)
        return None


def cooldown_model(name: str) -> type[Section]:
    """The model of a built-in cooldown form."""
    own: dict[str, type[Section]] = {"exponential": ExponentialCooldown, "power": PowerCooldown}
    return own.get(name, Cooldown)


@dataclass(frozen=True)
class Node:
    """A mapping: its leaves, the mappings in it, and the choice it makes, if any."""

    leaves: type[Section] | None = None
    choice: Choice | None = None
    children: Mapping[str, Node] = field(default_factory=dict)
    optional: bool = False  # null, and null by default
    exclusive: tuple[str, ...] = ()  # keys that replace each other
    either: Mapping[str, Node] = field(default_factory=dict)  # leaves that may be written as a mapping

    def model(self, mapping: Mapping[str, Any]) -> type[Section] | None:
        """The pydantic model of the leaves, or None where the choice is not valid."""
        return self.leaves if self.choice is None else self.choice.model(self.choice.chosen(mapping))


SEEDS = Node(Seeds)

DATA = Node(choice=Choice("data", "source", None, Data, OwnData, common=("context", "size", "tokenizer")))

SCHEDULE = Node(
    choice=Choice("schedule", "shape", "constant", Shape, OwnShape),
    children={
        "cooldown": Node(
            choice=Choice(
                "schedule",
                "shape",
                "one_minus_sqrt",
                Cooldown,
                OwnCooldown,
                tag="decay",
                common=("fraction", "length"),
            ),
            optional=True,
            exclusive=("fraction", "length"),
        )
    },
)

CONFIG = Node(
    Run,
    either={"seed": SEEDS},
    children={
        "data": DATA,
        "model": Node(choice=Choice("model", "family", "gpt", Section, Free, own_key="name")),
        "training": Node(
            Training,
            children={
                "optimizer": Node(choice=Choice("optimizer", "name", "adamw", Section, Free)),
                "extrapolate": Node(
                    choice=Choice(
                        "extrapolate", "direction", "local", common=("size", "scale", "nesterov", "begin", "end")
                    ),
                    optional=True,
                ),
                "sharpness": Node(
                    choice=Choice("sharpness", "method", "sam", common=("direction", "interval", "begin", "end")),
                    optional=True,
                ),
                "local_sgd": Node(LocalSGD, optional=True),
                "parallel": Node(Parallel),
            },
        ),
        "init": Node(Init, optional=True),
        "pretrain": Node(Pretrain, children={"data": DATA, "schedule": SCHEDULE}, optional=True),
        "schedule": SCHEDULE,
        "average": Node(choice=Choice("average", "kind", None, Average, common=("refresh",)), optional=True),
        "evaluation": Node(
            Evaluation,
            children={"distance": Node(Distance, optional=True), "roughness": Node(Roughness, optional=True)},
        ),
        "checkpoint": Node(Checkpoint),
    },
)
"""What decides a run; an arm overrides a part of it."""

CONFIG_KEYS = (*CONFIG.children, *Run.model_fields)
"""Top-level keys that an arm may override and a grid may sweep."""

AUGMENTATION = ("crop", "flip", "cutout")
"""What a data source changes in its training samples alone."""

TUNABLE = (
    "training",
    "schedule",
    "average",
    *(f"data.{name}" for name in AUGMENTATION),
    *(f"pretrain.{name}" for name in ("lr", "batch", "warmup", "optimizer", "head", "schedule")),
    *(f"pretrain.data.{name}" for name in AUGMENTATION),
)
"""Values, and mappings whose values, may be tuned: how to train, not what, on what, how long, or with which luck."""

TOP_LEVEL = ("study", *CONFIG_KEYS, "grid", "tune", "baseline", "arms", "laws", "holdout")
"""All top-level keys of a study file."""
