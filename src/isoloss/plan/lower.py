"""From a cell's resolved configuration to a run: every unit, default and fraction becomes a number here."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from isoloss import data, models
from isoloss.methods.rules import Rescaling, batch_ratio
from isoloss.plan import outside, pretraining, readings
from isoloss.plan.phases import stretches
from isoloss.plan.rules import Rules
from isoloss.recipe import catalogue
from isoloss.recipe.canonical import digest
from isoloss.recipe.errors import StudyError
from isoloss.recipe.measure import PARTS, SCHEDULE_FREE, Measure, Observer
from isoloss.recipe.references import code_of, forget_code, is_reference
from isoloss.recipe.run import Carry, Phase, Rule, Run, Start
from isoloss.recipe.units import BATCH, DURATION, Quantity
from isoloss.study.checks import earlier
from isoloss.train import numerics
from isoloss.train.evaluate import try_metrics
from isoloss.train.wrappers import passes


@dataclass(frozen=True)
class Facts:
    """What a lowered cell costs and is made of; D is counted in tokens (samples for vectors)."""

    N: int
    N_total: int
    batch: int
    terms_per_update: int
    flops_per_update: float
    """FLOPs of an update with one gradient evaluation."""
    evaluation_flops: float
    """FLOPs of one evaluation of one set of weights on one part."""
    state_bytes: int
    unit: str
    forward_flops: float = 0.0
    """FLOPs of a forward pass over the batch of one update."""

    @classmethod
    def of(cls, model: models.ModelFacts, source: data.Source, batch: int, context: int, amount: int) -> Facts:
        """Of a model at a batch of samples (``context`` tokens each), with ``amount`` in each validation part."""
        tokens = source.kind == "tokens"
        terms = batch * (context if tokens else 1)
        return cls(
            N=model.non_embedding,
            N_total=model.total,
            batch=batch,
            terms_per_update=terms,
            flops_per_update=model.training_flops_per_token * terms,
            evaluation_flops=model.forward_flops_per_token * amount,
            state_bytes=12 * model.total,
            unit="tokens" if tokens else "samples",
            forward_flops=model.forward_flops_per_token * terms,
        )


@dataclass(frozen=True)
class Lowered:
    """A run, what to read off it at which update, and the facts for accounting."""

    run: Run
    points: Mapping[int, tuple[Measure, ...]]
    facts: Facts
    data: Mapping[str, Any]
    observer: Observer | None
    amount: int
    piece: int
    metrics: tuple[str, ...] = ()
    """Measured beside the loss."""
    refresh: int = 0
    """Training batches that estimate the running statistics of averaged weights; 0: there are none."""
    select: str = "end"
    """What is judged: the run's end, or the best moment of evaluation by part A."""
    unique: int = 0
    """Unique training data, in tokens or samples."""
    before: Lowered | None = None
    """The earlier training that the run goes on from: its first phases."""
    weights: Path | None = None
    """The file with its initial weights; never part of a key."""

    @property
    def begun(self) -> int:
        """Updates of the run that lie before its own."""
        return self.before.run.length if self.before else 0

    @property
    def length(self) -> int:
        """Updates of its own."""
        return self.run.length - self.begun

    def part(self, track: int) -> Lowered:
        """Itself, or the earlier training, whichever a track belongs to."""
        return self.before if self.before and track < len(self.before.run.phases) else self

    @property
    def along(self) -> Observer | None:
        """What is judged before the end: averages of weights are read at the end alone."""
        return self.observer if self.observer == SCHEDULE_FREE else None

    @property
    def flops(self) -> float:
        """Training FLOPs of its own updates, with every gradient evaluation and the refresh of running statistics."""
        own = self.run.phases[len(self.before.run.phases) if self.before else 0 :]
        return sum(p.length * passes(p.rule.methods) for p in own) * self.facts.flops_per_update + self.fixed_flops

    @property
    def fixed_flops(self) -> float:
        """The part of ``flops`` that does not grow with the run."""
        return self.refresh * self.facts.forward_flops

    @property
    def final(self) -> dict[str, Measure]:
        """Measure at the end of the run by part, of the averaged weights where the arm averages."""
        return self.at_end("loss")

    @property
    def candidates(self) -> tuple[int, ...]:
        """The updates whose loss on part A decides which of them is judged."""
        if self.select == "end":
            return (self.run.length,)
        wanted = self.final["A"].name
        return tuple(at for at, measures in sorted(self.points.items()) if any(m.name == wanted for m in measures))

    def chosen(self, measured: Mapping[str, Mapping[str, float]]) -> tuple[int, float] | None:
        """(update, its loss on part A) of what is judged, by measurements of keys; None until all are there."""
        name = self.final["A"].name
        losses = {at: measured.get(self.run.key(at), {}).get(name) for at in self.candidates}
        known = {at: loss for at, loss in losses.items() if loss is not None}
        if len(known) < len(losses):
            return None
        best = min(known, key=lambda at: (known[at], at))
        return best, known[best]

    def at_end(self, metric: str) -> dict[str, Measure]:
        """As ``final``, of another metric."""
        return {part: Measure(metric, part, self.amount, self.observer, self.refresh) for part in PARTS}


class Lowering:
    """Lowers cells of one study; sources, numerics and rules are made once and shared."""

    def __init__(self, *, threads: int = 1, base: Path | None = None) -> None:
        """``base``: the folder that relative paths of data start from (the study file's)."""
        self.threads, self.base = threads, base
        forget_code()
        self._rules: dict[Any, Rule] = {}
        self._starts: dict[Any, tuple[dict[str, Any], models.ModelFacts, bool]] = {}
        self._numerics: dict[tuple[str, bool], dict[str, Any]] = {}
        self._validated: set[tuple[str, int, int]] = set()
        self._measurable: set[Any] = set()
        self._continued: set[Any] = set()
        self._outside: dict[Any, str] = {}

    def __call__(
        self,
        config: Mapping[str, Any],
        lr: float,
        *,
        where: str,
        alone: bool = False,
        path: Callable[[Run], Run] = lambda run: run,
    ) -> Lowered:
        """Lower one configuration with its learning rate; ``where`` names the cell in messages.

        ``path`` turns its run into the one that is meant, for instance one that leaves it for a cooldown.
        """
        try:
            return self._lower(config, lr, where if alone else None, path)
        except (ValueError, StudyError) as error:
            raise StudyError(f"{where}: {error}") from error

    def _lower(self, config: Mapping[str, Any], lr: float, alone: str | None, path: Callable[[Run], Run]) -> Lowered:
        training, spec = config["training"], self._placed(config["data"])
        source = open_source(spec)
        # What a model reads at once: a context of tokens, or the features of a vector.
        context = int(spec["context"] if source.kind == "tokens" else getattr(source, "features", 1))
        start_model, facts, over_batch = self._model(config["model"], source, context)
        per_sample = context if source.kind == "tokens" else 1
        batch = _batch(training["batch"], per_sample)
        micro = int(training["micro_batches"])
        if batch % micro:
            raise StudyError(f"training.micro_batches: {micro} does not divide the batch of {batch}")
        ghost = training["ghost_size"]
        if micro > 1 and over_batch and ghost is None:
            raise StudyError(
                f"training.micro_batches: {micro}, but the model has BatchNorm, whose statistics would be those of a "
                "micro-batch; allowed: 1, or a ghost_size"
            )
        if ghost is not None and not over_batch:
            raise StudyError(f"training.ghost_size: {ghost}, but the model has no BatchNorm; allowed: null")
        if ghost is not None and ghost > batch // micro:
            raise StudyError(f"training.ghost_size: {ghost}; allowed: at most the micro-batch of {batch // micro}")

        change = _change(training, per_sample)

        def counted(quantity: Quantity, name: str) -> int:
            return _updates(quantity, batch, per_sample, source.blocks(context), facts, name)

        def updates(text: str, name: str) -> int:
            return counted(change.amount(Quantity.parse(text, DURATION)), name)

        total = updates(config["duration"], "duration")
        if total < 1:
            raise StudyError(f"duration: {config['duration']} is less than one update of {batch} samples")
        seeds = _seeds(config["seed"])
        rules = Rules(self._rule, config, source.digest, context, batch, micro, seeds, change)
        warmup = counted(change.warmup(Quantity.parse(training["warmup"], DURATION)), "training.warmup")
        parts = stretches(config["schedule"], training, change.lr(lr), total, warmup, updates)
        phases = tuple(Phase(rules(part), part.length) for part in parts)
        weights = self._weights(config, source, context)
        start = Start(start_model, seeds["init"], alone, weights and weights[1])
        before = self._before(config, alone, start)
        if before is not None:
            given = config["pretrain"]
            carry = Carry(optimizer=given["optimizer"], data="reset", head=given["head"])
            phases = (*before.run.phases, replace(phases[0], carry=carry), *phases[1:])
        run = Run(start, phases, self._numerics_of(training["precision"], bool(training["compile"])))
        run = path(run)
        amount = readings.amount(config["evaluation"])
        self._check_validation(source, amount, context)
        averaging = training["optimizer"]["name"] in catalogue.names("optimizer", "averaging")
        observer = SCHEDULE_FREE if averaging else readings.observer(config["average"], updates, run)
        if config["evaluation"]["select"] == "best" and observer not in (None, SCHEDULE_FREE):
            raise StudyError("evaluation.select: best, but an average is read at the end alone; allowed: end")
        refresh = self._refresh(config, source, context)
        metrics = tuple(config["evaluation"]["metrics"])
        self._check_metrics(config["task"], metrics, start_model, source, context, amount)
        begun = before.run.length if before else 0
        points = readings.points(
            config["evaluation"],
            run.length - begun,
            amount,
            observer,
            refresh,
            updates,
            lambda: self._tensors(config["model"], source, context),
        )
        return Lowered(
            run=run,
            points={begun + at: measures for at, measures in points.items()},
            facts=Facts.of(facts, source, batch, context, amount),
            data=spec,
            observer=observer,
            amount=amount,
            piece=max(1, counted(Quantity.parse(config["checkpoint"]["every"], DURATION), "checkpoint.every")),
            metrics=metrics,
            refresh=refresh,
            before=before,
            weights=weights and weights[0],
            select=config["evaluation"]["select"],
            unique=source.train_size,
        )

    def _refresh(self, config: Mapping[str, Any], source: data.Source, context: int) -> int:
        """Batches that estimate the running statistics of the arm's average; 0 where there is nothing to estimate."""
        known: dict[str, Any] = {"vocabulary": source.vocabulary, "context": context}
        known["shape"] = getattr(source, "shape", None)
        refresh = (config["average"] or config["training"]["optimizer"]).get("refresh")
        return int(refresh) if refresh and models.keeps_statistics(config["model"], **known) else 0

    def _check_metrics(
        self,
        task: str,
        metrics: tuple[str, ...],
        model: Mapping[str, Any],
        source: data.Source,
        context: int,
        amount: int,
    ) -> None:
        """A user's own task says what it measures only when it does: it is asked once, before anything trains."""
        memo = (task, metrics, digest(model), source.digest, amount)
        if metrics and is_reference(task) and memo not in self._measurable:
            made = models.build(
                model["spec"], vocabulary=source.vocabulary, context=context, seed=0, shape=model.get("shape")
            )
            try_metrics(task, metrics, made, source.validation("B", amount, context))
            self._measurable.add(memo)

    def _before(self, config: Mapping[str, Any], alone: str | None, start: Start) -> Lowered | None:
        """The earlier training that a run goes on from; raise ``StudyError`` where its model would not be the same."""
        if config["pretrain"] is None:
            return None
        made = self._lower(earlier(dict(config)), float(config["pretrain"]["lr"]), alone, lambda run: run)
        own, source = (open_source(spec) for spec in (self._placed(config["data"]), made.data))
        memo = (digest(start.model), made.run.root_key, own.digest, source.digest, config["pretrain"]["head"])
        if memo not in self._continued:
            context = int(start.model["context"])
            pretraining.check(
                config["pretrain"], (made.run.start.model, start.model), (source, own),
                lambda: self._tensors(config["model"], own, context),
            )  # fmt: skip
            self._continued.add(memo)
        return replace(made, points={})

    def _weights(self, config: Mapping[str, Any], source: data.Source, context: int) -> tuple[Path, str] | None:
        """(file of the initial weights, what stands for it in the key); None for the model's own initialisation."""
        given = config["init"]
        if given is None:
            return None
        if config["evaluation"]["distance"]:
            raise StudyError("evaluation.distance: it is from the model's own initialisation; allowed with init: null")
        path = (self.base or Path()) / Path(given["weights"]).expanduser()
        shape = getattr(source, "shape", None)
        memo = (digest(dict(config["model"])), source.vocabulary, context, shape, str(path), given["head"])
        if memo not in self._outside:
            made = models.build(config["model"], vocabulary=source.vocabulary, context=context, seed=0, shape=shape)
            if not all(parameter.requires_grad for parameter in made.parameters()):
                raise StudyError("init.weights: the model has parameters that are not trained; allowed: all trained")
            if given["head"] == "reset" and not any(models.in_head(name) for name, _ in made.named_parameters()):
                raise StudyError("init.head: found reset, but the model has no output head of its own; allowed: keep")
            if path.is_dir():
                outside.check_saved(path, given["head"], config["model"], source, context)
                self._outside[memo] = outside.marked(models.saved_content(path), given["head"])
            else:
                shapes = {name: value.shape for name, value in made.state_dict().items()}
                self._outside[memo] = outside.address(path, given["head"], shapes)
        return path, self._outside[memo]

    def _check_validation(self, source: data.Source, amount: int, context: int) -> None:
        """Both validation parts must hold what is asked; told before anything trains."""
        memo = (source.digest, amount, context)
        if memo not in self._validated:
            for part in PARTS:
                source.validation(part, amount, context)
            self._validated.add(memo)

    def _placed(self, spec: Mapping[str, Any]) -> Mapping[str, Any]:
        """Relative paths of data (and of a tokenizer file) made absolute; paths never enter a key.

        They start from the study's folder, or else from ``ISOLOSS_DATA``.
        """
        base = self.base
        if base is None:
            return spec

        def place(value: Any) -> Any:
            if isinstance(value, list):
                return [place(item) for item in value]
            if not isinstance(value, str):
                return value
            here, there = base / Path(value).expanduser(), os.environ.get("ISOLOSS_DATA")
            if there and not glob.glob(str(here)) and glob.glob(str(Path(there) / value)):
                return str(Path(there).resolve() / value)
            return str(here)

        found = {**spec, **{name: place(spec[name]) for name in ("path", "validation") if spec.get(name)}}
        if spec.get("tokenizer") not in (None, "bytes"):
            found["tokenizer"] = place(spec["tokenizer"])
        return found

    def _model(
        self, spec: Mapping[str, Any], source: data.Source, context: int
    ) -> tuple[dict[str, Any], models.ModelFacts, bool]:
        """(record for the key, facts, whether it has statistics over the batch)."""
        shape = getattr(source, "shape", None)
        memo = (digest(dict(spec)), source.vocabulary, context, shape)
        if memo not in self._starts:
            name = spec.get("name")
            semantics = None if name else catalogue.get("model", spec["family"]).semantics
            library = models.library_version(name or spec["family"])
            version = spec.get("version") or library
            record = {
                "spec": _identity(spec),
                "code": code_of(name or "", version, semantics) | ({"version": str(version)} if library else {}),
                "vocabulary": source.vocabulary,
                "context": context,
                **({} if shape is None else {"shape": list(shape)}),
                **({"transfer": {"semantics": 1}} if models.transfers(spec) else {}),
            }
            known: dict[str, Any] = {"vocabulary": source.vocabulary, "context": context, "shape": shape}
            over_batch = models.needs_whole_batch(spec, **known)
            self._starts[memo] = (record, models.describe(spec, **known), over_batch)
        return self._starts[memo]

    def _tensors(self, spec: Mapping[str, Any], source: data.Source, context: int) -> list[str]:
        """Names of the trained tensors of a model."""
        shape = getattr(source, "shape", None)
        made = models.build(spec, vocabulary=source.vocabulary, context=context, seed=0, shape=shape)
        return [name for name, parameter in made.named_parameters() if parameter.requires_grad]

    def _numerics_of(self, precision: str, compiled: bool) -> dict[str, Any]:
        if (precision, compiled) not in self._numerics:
            self._numerics[precision, compiled] = numerics.detect(precision, compiled=compiled, threads=self.threads)
        return self._numerics[precision, compiled]

    def _rule(self, memo: Any, make: Callable[[], Rule]) -> Rule:
        """One object a rule, so that its digest is computed once."""
        if memo not in self._rules:
            self._rules[memo] = make()
        return self._rules[memo]


def _identity(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What of a model's options decides its bits."""
    left_out = {"version"}
    if "family" in spec and not models.transfers(spec):
        left_out |= {*models.PARAMETRISATION}
    return {name: value for name, value in spec.items() if name not in left_out}


def _batch(text: str, per_sample: int) -> int:
    quantity = Quantity.parse(text, BATCH)
    count = quantity.count
    if quantity.unit != "tokens":
        return count
    if count % per_sample:
        raise StudyError(f"training.batch: {text} is no multiple of the context, {per_sample} tokens")
    return count // per_sample


def _updates(quantity: Quantity, batch: int, per_sample: int, blocks: int, facts: models.ModelFacts, name: str) -> int:
    """Updates in a duration; fractions are rounded to the nearest update."""
    if quantity.unit == "updates":
        return quantity.count
    terms = batch * per_sample
    samples = {"samples": 1.0, "epochs": float(blocks)}.get(quantity.unit)
    if samples is not None:
        return round(quantity.value * samples / batch)
    if quantity.unit == "tokens":
        return round(quantity.value / terms)
    if quantity.unit == "tokens/param":
        return round(quantity.value * facts.non_embedding / terms)
    raise StudyError(f"{name}: {quantity} is no duration")


def _change(training: Mapping[str, Any], per_sample: int) -> Rescaling:
    """What the batch does to the numbers of the study, which are for its base batch."""
    base = training["base_batch"]
    if base is None:
        return Rescaling(1.0)
    ratio = batch_ratio(Quantity.parse(training["batch"], BATCH), Quantity.parse(base, BATCH), per_sample)
    names = ("lr_scaling", "regime", "momentum_rule", "decay_rule", "eps_rule")
    return Rescaling(ratio, **{name: training[name] for name in names})


def _seeds(seed: Any) -> dict[str, int]:
    if isinstance(seed, Mapping):
        return {name: int(seed.get(name, 0)) for name in ("init", "data", "noise")}
    return {"init": int(seed), "data": int(seed), "noise": int(seed)}


_SOURCES: dict[str, data.Source] = {}


def open_source(spec: Mapping[str, Any]) -> data.Source:
    """The data source of a specification, opened once in a process."""
    name = digest(dict(spec))
    if name not in _SOURCES:
        _SOURCES[name] = data.open_source(spec)
    return _SOURCES[name]
