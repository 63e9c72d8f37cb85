"""Coordinate check of a study's model: how far its layers' outputs move in the first updates, against width.

The model is trained as the study says (data, batch, optimizer, clipping), at its peak learning rate from the first
update on, under both parametrisations. Where one learning rate is to serve all widths, no layer may move more or less
the wider it is (Yang et al. 2022, arXiv 2203.03466, appendix D.1). An untied readout begins at zero: what its random
initial values do dies out with width, and would be mistaken for shrinking.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from isoloss import models
from isoloss.methods import mup
from isoloss.plan.demands import folder_of
from isoloss.plan.lower import Lowered, Lowering, open_source
from isoloss.plan.tuning import middle
from isoloss.recipe.errors import StudyError
from isoloss.recipe.run import LR, Phase
from isoloss.study import Study
from isoloss.train import tasks
from isoloss.train.loop import Diverged, Trainer
from isoloss.train.segment import use_threads

PARAMETRISATIONS = ("standard", "mup")
FLAT = (-0.4, 0.2)
"""Slopes of log change against log width that are called flat; those of a wrong rule are +-1/2 and +-1. Below zero
there is more room, as finite widths bend towards it."""
TIED = "embedding"
"""Layer of a tied table: its look-up is scaled outside it, so it cannot be read there."""


@dataclass(frozen=True)
class Coordinates:
    """Rows and slopes of one parametrisation; a layer "" is the whole model."""

    parametrisation: str
    rows: tuple[mup.Coordinate, ...]
    growth: Mapping[str, float]
    """Slope of the log change at the last step against log width, by layer; empty with fewer than two widths."""
    diverged: tuple[int, ...] = ()
    """Widths whose training diverged; they have no rows."""

    @property
    def verdict(self) -> str:
        """flat, grows, shrinks or diverges."""
        if self.diverged:
            return "diverges"
        if self.growth[self.worst] > FLAT[1]:
            return "grows"
        return "shrinks" if self.growth[self.worst] < FLAT[0] else "flat"

    @property
    def worst(self) -> str:
        """The layer that grows most where one does, else the one that shrinks most. Raises ValueError without any."""
        most = max(self.growth, key=lambda layer: self.growth[layer])
        return most if self.growth[most] > FLAT[1] else min(self.growth, key=lambda layer: self.growth[layer])

    @property
    def sentence(self) -> str:
        """The verdict with the layer that decides it."""
        if self.diverged:
            return f"{self.parametrisation}: diverges at width {', '.join(map(str, self.diverged))}"
        words = {"flat": "flat", "grows": "grows with width", "shrinks": "shrinks with width"}[self.verdict]
        return f"{self.parametrisation}: {words} ({named(self.worst)}: width^{self.growth[self.worst]:.2f})"

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "parametrisation": self.parametrisation,
            "verdict": self.verdict,
            "worst": named(self.worst) if self.growth else None,
            "diverged": list(self.diverged),
            "growth": {named(layer): slope for layer, slope in self.growth.items()},
            "rows": [
                {"width": r.width, "step": r.step, "layer": named(r.layer), "size": r.size, "change": r.change}
                for r in self.rows
            ],
        }


def named(layer: str) -> str:
    """A layer's name for people."""
    return layer or "model"


def coordinates(
    study: Study,
    widths: Sequence[int],
    *,
    steps: int = 4,
    seeds: int = 1,
    arm: str | None = None,
    lr: float | None = None,
    base_width: int | None = None,
    threads: int = 1,
) -> tuple[Coordinates, ...]:
    """The check of one arm's model (default: the baseline's), first under its own parametrisation, then the other.

    What is tuned takes its middle candidate. ``lr`` at ``base_width``: by default the study's; ``base_width``: by
    default the study's, else the smallest of ``widths``. Raises ``StudyError`` for fewer than two widths, and for a
    model or an optimizer without width transfer.
    """
    widths = sorted(set(widths))
    if len(widths) < 2 or widths[0] < 1:
        raise StudyError(f"widths: found {', '.join(map(str, widths))}; allowed: two or more, each at least 1")
    if steps < 1 or seeds < 1:
        raise StudyError(f"steps and seeds: found {steps} and {seeds}; allowed: at least 1")
    use_threads(threads)
    lowering = Lowering(threads=threads, base=folder_of(study))
    usual = middle(study.tune)
    given = study.config(arm or study.baseline, usual)
    model = given["model"]
    own = model.get("parametrisation", "standard")
    base = base_width or model.get("base_width") or widths[0]
    rate = lr if lr is not None else float(given["training"]["optimizer"]["lr"])
    found = []
    for parametrisation in sorted(PARAMETRISATIONS, key=lambda name: name != own):
        rows: dict[tuple[int, int, str], tuple[float, float]] = {}
        diverged: dict[int, None] = {}
        for width in widths:
            for seed in range(seeds):
                values = usual | {
                    "model.width": width,
                    "model.parametrisation": parametrisation,
                    "model.base_width": base,
                }
                values |= {"training.precision": "fp32", "training.compile": False}
                config = {**study.config(arm or study.baseline, values), "seed": seed}
                where = f"{parametrisation} width={width}"
                try:
                    trained = list(_trained(lowering(config, rate, where=where), base, steps))
                except Diverged:
                    diverged[width] = None
                    break
                for step, layer, size, change in trained:
                    before = rows.get((width, step, layer), (0.0, 0.0))
                    rows[width, step, layer] = (before[0] + size / seeds, before[1] + change / seeds)
        table = tuple(mup.Coordinate(*at, *values) for at, values in rows.items() if at[0] not in diverged)
        slopes = mup.growth(table, steps) if len(widths) - len(diverged) > 1 else {}
        found.append(Coordinates(parametrisation, table, slopes, tuple(diverged)))
    return tuple(found)


def _trained(made: Lowered, base: int, steps: int) -> Iterator[tuple[int, str, float, float]]:
    """(step, layer, mean absolute output, mean absolute change since step 0), all on the batch of step 0."""
    spec = made.run.start.model["spec"]
    phase = made.run.phases[0]
    rule = replace(phase.rule, lr=LR("constant", phase.rule.lr.peak))
    source = open_source(made.data)
    trainer = Trainer(made.run.start, Phase(rule, steps), source, made.run.numerics)
    wider = {**spec, "parametrisation": "mup", "width": 2 * base, "base_width": base}
    known: dict[str, Any] = {"vocabulary": source.vocabulary, "context": trainer.context}
    known["shape"] = made.run.start.model.get("shape")
    for name, its in models.transfer(models.build(wider, seed=0, **known), wider, **known).items():
        if its.kind == "output":
            trainer.parameters.named(trainer.weights)[name].zero_()
    batch = tasks.tensors(source.batch(int(rule.seeds["data"]), 0, rule.batch, trainer.context))
    first: dict[str, torch.Tensor] = {}
    for step in range(steps + 1):
        with _by_layer(trainer.model):
            outputs = mup.layer_outputs(trainer.model, lambda: trainer.task.loss(trainer.model, batch))
        for layer, output in outputs.items():
            if spec.get("tied") and layer == TIED:
                continue
            change = (output - first.setdefault(layer, output)).abs().mean().item()
            yield step, layer, output.abs().mean().item(), change
        if step < steps:
            trainer.step(step)


@contextmanager
def _by_layer(model: torch.nn.Module) -> Iterator[None]:
    """Have a decoder call its layers one by one; its own fast branches do not."""
    kept = getattr(model, "attention", None)
    if kept is None:
        yield
        return
    model.attention = "sdpa"  # type: ignore[assignment]
    try:
        yield
    finally:
        model.attention = kept
