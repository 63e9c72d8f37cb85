"""Width transfer (muP): initialisation and learning rates under which the optimum stays where it is as width grows.

With m the growth of a tensor's fan-in over the base model's and n that of its fan-out, relative to the base:

    kind        which sides grow      init std    lr, Adam    lr, SGD    forward multiplier
    input       fan-out               1           1           n          1
    vector      its only side         1           1           n          1
    hidden      both                  m^-1/2      1/m         n/m        1
    output      fan-in, folded        1/m         1/m         1/m        1
    output      fan-in, multiplier    1           1           m          1/m
    tied        a tied table          m^-1/2      m^-1/2      1          the model's own: sqrt(d) in, 1/sqrt(d) out
    fixed       none                  1           1           1          1

    attention logits   q k sqrt(d_base) / d      for heads of size d, instead of q k / sqrt(d)
    weight decay       1 / (the lr's factor)     where the optimizer multiplies decay by the learning rate

Source: Yang et al. 2022 (arXiv 2203.03466), tables 3 ("folded") and 8 ("multiplier"); the two train alike. Everything
is relative to a base model, at which nothing changes; standard parametrisation is leaving these factors out.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from isoloss.recipe.errors import nearest

__all__ = [
    "KINDS", "Coordinate", "Rule", "attention_scale", "coordinate_check", "growth", "initialise_", "layer_outputs",
    "model_rules", "parameter_groups", "rules",
]  # fmt: skip

KINDS = ("input", "vector", "hidden", "output", "tied", "fixed")
"""What a tensor may be: which factors it gets."""
READOUTS = ("folded", "multiplier")
TABLES = ("wte", "wpe")


@dataclass(frozen=True)
class Rule:
    """Factors of one tensor, relative to the same tensor of the base model."""

    kind: str
    init: float = 1.0
    """Of the standard deviation of its initial values."""
    adam: float = 1.0
    """Of the learning rate of Adam, AdamW, LAMB without its ratio: rules that do not see a gradient's size."""
    sgd: float = 1.0
    """Of the learning rate of SGD, with momentum or without."""
    multiplier: float = 1.0
    """Of its output in the forward pass."""

    def lr(self, optimizer: str) -> float:
        """`adam` or `sgd`. Raises ValueError for another name."""
        if optimizer not in ("adam", "sgd"):
            raise ValueError(f"mup: optimizer {optimizer!r}; allowed: adam, sgd")
        return self.adam if optimizer == "adam" else self.sgd


def rule(kind: str, fan_in: float = 1.0, fan_out: float = 1.0, readout: str = "folded") -> Rule:
    """The row of the table for growths `fan_in` = m and `fan_out` = n. Raises ValueError for unknown names."""
    m, n = fan_in, fan_out
    for what, value, allowed in (("kind", kind, KINDS), ("readout", readout, READOUTS)):
        if value not in allowed:
            raise ValueError(f"mup: {what} {value!r}; allowed: {', '.join(allowed)}{nearest(value, allowed)}")
    if kind in ("input", "vector"):
        return Rule(kind, sgd=n)
    if kind == "hidden":
        return Rule(kind, init=m**-0.5, adam=1 / m, sgd=n / m)
    if kind == "tied":
        return Rule(kind, init=m**-0.5, adam=m**-0.5)
    if kind == "output" and readout == "folded":
        return Rule(kind, init=1 / m, adam=1 / m, sgd=1 / m)
    if kind == "output":
        return Rule(kind, sgd=m, multiplier=1 / m)
    return Rule("fixed")


def rules(
    shapes: Mapping[str, Sequence[int]],
    base: Mapping[str, Sequence[int]],
    *,
    tables: Sequence[str] = (),
    kinds: Mapping[str, str] | None = None,
    readout: str = "folded",
) -> dict[str, Rule]:
    """The rule of every tensor, from its shape (outputs, inputs, ...) and that of the base model.

    `tables`: names of look-up tables, (entries, features), which are inputs; names with a part that contains "embed"
    or is wte or wpe are taken for tables too. `kinds`: {regular expression: kind} for names that shapes do not tell.
    Raises ValueError where the two models do not have the same tensors with as many dimensions.
    """
    if set(shapes) != set(base):
        odd = sorted(set(shapes) ^ set(base))
        raise ValueError(
            f"mup: {len(odd)} tensors are in one of the two models only, the first is {odd[0]!r}; "
            "allowed: models that differ in width alone"
        )
    kinds = kinds or {}
    found = {}
    for name, shape in shapes.items():
        if len(shape) != len(base[name]):
            raise ValueError(f"mup: {name} has shape {tuple(shape)} and in the base model {tuple(base[name])}")
        ratios = [a / b for a, b in zip(shape, base[name], strict=True)]
        kind = next((kind for pattern, kind in kinds.items() if re.search(pattern, name)), None)
        parts = name.lower().split(".")
        table = name in tables or any("embed" in part or part in TABLES for part in parts)
        if len(ratios) < 2:
            n, m = (ratios or [1.0])[0], 1.0
            kind = kind or ("vector" if n != 1 else "fixed")
        elif table or kind == "tied":
            n, m = math.prod(ratios), math.prod(ratios)
            kind = kind or ("input" if n != 1 else "fixed")
        else:
            n, m = ratios[0], ratios[1]
            kind = kind or {(0, 0): "fixed", (1, 0): "input", (0, 1): "output", (1, 1): "hidden"}[n != 1, m != 1]
        found[name] = rule(kind, m, n, readout)
    return found


def model_rules(
    model: nn.Module, base_model: nn.Module, *, kinds: Mapping[str, str] | None = None, readout: str = "folded"
) -> dict[str, Rule]:
    """`rules` of a module's parameters; `nn.Embedding` is known as a table. The base model may be on "meta".

    Raises ValueError for an `nn.Embedding` whose weight is a linear layer's too, unless `kinds` names it.
    """
    tables, linear = {}, set()
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            tables[id(module.weight)] = module
        elif isinstance(module, nn.Linear):
            linear.add(id(module.weight))
    named = dict(model.named_parameters())
    for name, p in named.items():
        if id(p) in tables and id(p) in linear and not any(re.search(pattern, name) for pattern in kinds or {}):
            raise ValueError(
                f"mup: {name} is embedding and head at once; allowed: an untied head, or kinds={{{name!r}: 'tied'}} "
                "for a model that multiplies by sqrt(width) after the look-up and by 1/sqrt(width) before the head"
            )
    return rules(
        {name: tuple(p.shape) for name, p in named.items()},
        {name: tuple(p.shape) for name, p in base_model.named_parameters()},
        tables=[name for name, p in named.items() if id(p) in tables],
        kinds=kinds,
        readout=readout,
    )


def attention_scale(head_size: int, base_head_size: int) -> float:
    """What multiplies q k: sqrt(base) / head_size, the usual 1 / sqrt(head_size) at the base."""
    return math.sqrt(base_head_size) / head_size


@torch.no_grad()
def initialise_(model: nn.Module, base_model: nn.Module, found: Mapping[str, Rule]) -> None:
    """Scale every initial matrix of `model` to the root mean square of the base model's times its rule's `init`.

    Both models as they were built; vectors, zeros, and kind "fixed" stay. Whatever the model's own initialisation
    does with width is replaced; the base model is not touched.
    """
    base = dict(base_model.named_parameters())
    for name, p in model.named_parameters():
        size = p.square().mean().sqrt()
        if p.ndim >= 2 and found[name].kind != "fixed" and size > 0:
            p.mul_(base[name].square().mean().sqrt() * found[name].init / size)


def parameter_groups(
    model: nn.Module,
    base_model: nn.Module,
    lr: float,
    *,
    weight_decay: float = 0.0,
    optimizer: str = "adam",
    kinds: Mapping[str, str] | None = None,
    readout: str = "folded",
) -> list[dict[str, Any]]:
    """Parameter groups for any optimizer: `lr` is the base model's, each group has its own; frozen tensors left out.

    Weight decay is on tensors of two and more dimensions, divided by the learning rate's factor so that lr x decay is
    that of the base (for AdamW and SGD, which multiply the two).
    """
    found = model_rules(model, base_model, kinds=kinds, readout=readout)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            factor = found[name].lr(optimizer)
            groups.setdefault((factor, weight_decay / factor if p.ndim >= 2 else 0.0), []).append(p)
    return [{"params": each, "lr": lr * factor, "weight_decay": wd} for (factor, wd), each in groups.items()]


@dataclass(frozen=True)
class Coordinate:
    """One row of a coordinate check: a layer's output at one width before update `step`."""

    width: int
    step: int
    layer: str
    size: float
    """Mean absolute value."""
    change: float
    """Mean absolute difference from step 0, on the data of step 0."""


def coordinate_check(
    build: Callable[[int, int], tuple[nn.Module, torch.optim.Optimizer]],
    widths: Sequence[int],
    steps: int,
    data: Callable[[int], tuple[Tensor, Tensor]],
    *,
    seeds: int = 1,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> list[Coordinate]:
    """Sizes of all layers' outputs over the first `steps` updates, at every width, means over `seeds`.

    `build(width, seed)` gives a fresh model and its optimizer; `data(step)` a batch (inputs, targets); `loss(outputs,
    targets)` is cross-entropy over the last dimension by default. A layer is a module with parameters of its own,
    called in the forward pass, and "" the whole model. Flat against width is right; see `growth`. Layers are read on
    the batch of step 0, with the model in its own mode.
    """
    sums: dict[tuple[int, int, str], tuple[float, float]] = {}
    for width, seed in itertools.product(widths, range(seeds)):
        model, optimizer = build(width, seed)
        first: dict[str, Tensor] = {}
        for step in range(steps + 1):
            for name, output in layer_outputs(model, partial(model, data(0)[0])).items():
                start = first.setdefault(name, output)
                size, change = sums.get((width, step, name), (0.0, 0.0))
                size, change = size + output.abs().mean().item(), change + (output - start).abs().mean().item()
                sums[width, step, name] = size, change
            if step < steps:
                inputs, targets = data(step)
                optimizer.zero_grad()
                (loss or _cross_entropy)(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    return [Coordinate(*key, size / seeds, change / seeds) for key, (size, change) in sums.items()]


def growth(measured: Sequence[Coordinate], step: int, of: str = "change") -> dict[str, float]:
    """Slope of log `of` ("size" or "change") against log width for each layer at a step: 0 is flat, 1/2 and 1 blow up.

    Raises ValueError for fewer than two widths, and where a value is 0.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for row in measured:
        if row.step == step:
            value = row.change if of == "change" else row.size
            if value <= 0:
                raise ValueError(f"mup: {of} of layer {row.layer!r} at width {row.width}, step {step}, is {value}")
            found.setdefault(row.layer, []).append((math.log(row.width), math.log(value)))
    slopes = {}
    for layer, points in found.items():
        mean_x, mean_y = (sum(each) / len(points) for each in zip(*points, strict=True))
        spread = sum((x - mean_x) ** 2 for x, _ in points)
        if spread == 0:
            raise ValueError(f"mup: layer {layer!r} was measured at one width; allowed: at least two")
        slopes[layer] = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    return slopes


@torch.no_grad()
def layer_outputs(model: nn.Module, forward: Callable[[], object]) -> dict[str, Tensor]:
    """Float32 outputs by module name while `forward` calls `model`: modules with own parameters, and "" for all."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                found[name] = output.detach().float().clone()

        return hook

    handles = [
        module.register_forward_hook(keep(name))
        for name, module in model.named_modules()
        if name == "" or next(module.parameters(recurse=False), None) is not None
    ]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return found


def _cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())
