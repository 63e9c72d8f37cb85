"""The map of an import: a small YAML file, or options, that says how a run's N, D, arm, seed and loss are found."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isoloss.bridges.recorded import FINISHED, RESTARTS, UNKNOWN, Recorded
from isoloss.bridges.table import Reading
from isoloss.bridges.values import Value
from isoloss.laws.flops import CONVENTIONS
from isoloss.laws.readers import ALIASES
from isoloss.recipe.errors import StudyError, nearest
from isoloss.study.problems import Problems, show
from isoloss.study.reader import decode
from isoloss.study.reader import read as read_yaml

QUANTITIES = ("N", "D", "S", "B", "C", "loss", "train_loss", "lr", "length", "arm", "seed")
UNITS = {"D": ("tokens", "samples"), "loss": ("nats", "bits", "perplexity")}
CHOICES = {
    "rows": ("runs", "steps"),
    "restarts": RESTARTS,
    "at": ("last", "best"),
    "duplicates": ("refuse", "first", "last", "seeds"),
}
NAMES = ("run", "axes", "tuned", "finished", "laws")
"""Keys that hold one name or a list of them."""
WORDS = ("step", "flops", "baseline", "include", "exclude")
KEYS = (*QUANTITIES, *CHOICES, *NAMES, *WORDS, "keep", "metrics", "units", "steady")
VALIDATION = (
    "val_loss", "val/loss", "eval_loss", "eval/loss", "valid_loss", "valid/loss", "validation_loss", "validation/loss",
    "validation loss", "val.loss", "eval.loss", "final_loss",
)  # fmt: skip
TEST = ("test_loss", "test/loss", "test.loss")
TRAINER = "train_runtime"
"""What the Hugging Face Trainer logs at its end, where `train_loss` is a mean over the whole training."""
USUAL = {
    "N": (*ALIASES["N"], "non_embedding_parameters", "non_embedding_params", "num_parameters", "n_parameters"),
    "D": (*ALIASES["D"], "tokens_seen", "n_tokens", "total_tokens", "train_tokens", "num_input_tokens_seen"),
    "S": (*ALIASES["S"], "_step", "global_step", "trainer/global_step"),
    "C": (*ALIASES["C"], "total_flos", "total_flops"),
    "train_loss": ("train_loss", "train/loss", "training_loss", "train.loss", "training loss", "train/train_loss"),
    "lr": ("lr", "learning_rate", "learning rate", "train/learning_rate", "train/lr"),
    "length": ("max_steps", "args.max_steps"),
    "arm": ("arm", "method", "treatment"),
    "seed": ("seed", "random_seed"),
}


@dataclass(frozen=True)
class RunMap:
    """A checked map. Quantities that it does not name are sought under their usual names."""

    values: Mapping[str, Value] = field(default_factory=dict)
    keep: Mapping[str, Value] = field(default_factory=dict)
    metrics: Mapping[str, Value] = field(default_factory=dict)
    reading: Reading = field(default_factory=Reading)
    units: Mapping[str, str] = field(default_factory=lambda: {"D": "tokens", "loss": "nats"})
    at: str = "last"
    duplicates: str = "refuse"
    axes: tuple[str, ...] = ()
    tuned: tuple[str, ...] = ()
    finished: tuple[str, ...] = (FINISHED, UNKNOWN)
    steady: Mapping[str, float] | bool = False
    """Arms trained at a constant learning rate, with the updates of their warm-up; True: all, without one."""
    flops: str = ""
    baseline: str = ""
    laws: tuple[str, ...] = ()
    include: str = ""
    exclude: str = ""
    text: str = ""


def load(path: str | Path | None, options: Sequence[str] = ()) -> RunMap:
    """The map of a YAML file with options KEY=VALUE laid over it. Raises StudyError, every mistake with its line."""
    raw: dict[str, Any] = {}
    lines: dict[tuple[str | int, ...], int] = {}
    name = "map"
    if path is not None:
        file = Path(path)
        name = str(path)
        try:
            text = decode(file.read_bytes(), name)
        except OSError as error:
            raise StudyError(f"--map: cannot read {path}: {error.strerror or error}") from None
        content, lines = read_yaml(text, name)
        if not isinstance(content, dict):
            raise StudyError(f"{name}: found {show(content)}; allowed: a mapping, such as `loss: eval/loss`")
        raw = dict(content)
    for option in options:
        key, equals, value = option.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise StudyError(f"--set: found {option!r}; allowed: KEY=VALUE, for instance --set loss=eval/loss")
        # A value as it would stand in the file; what YAML cannot read is a formula or a name.
        try:
            raw[key.strip()] = read_yaml(value.strip(), "--set")[0]
        except StudyError:
            raw[key.strip()] = value.strip()
    return check(raw, name, lines)


def check(raw: Mapping[str, Any], name: str = "map", lines: dict[tuple[str | int, ...], int] | None = None) -> RunMap:
    """The map that plain values describe. Raises StudyError that lists every mistake."""
    problems = Problems(name, lines or {})
    for key in raw:
        if key not in KEYS:
            problems.add((key,), f"no such key{nearest(key, KEYS)}; allowed: {', '.join(KEYS)}")

    def values(key: str, given: Any) -> dict[str, Value]:
        if isinstance(given, list):
            given = {item: item for item in given if isinstance(item, str)} if given else {}
        if not isinstance(given, dict):
            problems.add((key,), f"found {show(given)}; allowed: a list of names, or NAME: where it is found")
            return {}
        found = {}
        for own, entry in given.items():
            if key == "keep" and own in (*QUANTITIES, "run"):
                problems.add((key, own), "is a column of every import; allowed: another name for it")
            if (made := value((key, own), entry)) is not None:
                found[own] = made
        return found

    def value(path: tuple[str | int, ...], given: Any) -> Value | None:
        try:
            return Value(given)
        except StudyError as error:
            problems.add(path, str(error))
            return None

    found = {key: made for key in QUANTITIES if key in raw and (made := value((key,), raw[key])) is not None}
    for key, allowed in CHOICES.items():
        if key in raw and raw[key] not in allowed:
            problems.add(
                (key,), f"found {show(raw[key])}; allowed: {', '.join(allowed)}{nearest(str(raw[key]), allowed)}"
            )
    names: dict[str, tuple[str, ...]] = {}
    for key in NAMES:
        given = [raw[key]] if isinstance(raw.get(key), str) else raw.get(key, [])
        if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
            problems.add((key,), f"found {show(given)}; allowed: a name or a list of names")
            given = []
        names[key] = tuple(given)
    for key in WORDS:
        if key in raw and not isinstance(raw[key], str):
            problems.add((key,), f"found {show(raw[key])}; allowed: a text")
    for key in ("include", "exclude"):
        try:
            re.compile(str(raw.get(key, "")))
        except re.error as error:
            problems.add((key,), f"{raw[key]!r} is no regular expression: {error}")
    if "flops" in raw and raw["flops"] not in CONVENTIONS:
        near = nearest(str(raw["flops"]), CONVENTIONS)
        problems.add((("flops"),), f"found {show(raw['flops'])}; allowed: {', '.join(CONVENTIONS)}{near}")
    units = {"D": "tokens", "loss": "nats"}
    given_units = raw.get("units", {})
    if not isinstance(given_units, dict):
        problems.add(("units",), f"found {show(given_units)}; allowed: D and loss with their units")
        given_units = {}
    for key, unit in given_units.items():
        if key not in UNITS:
            problems.add(("units", key), f"no such quantity; allowed: {', '.join(UNITS)}")
        elif unit not in UNITS[key]:
            problems.add(
                ("units", key), f"found {show(unit)}; allowed: {', '.join(UNITS[key])}{nearest(str(unit), UNITS[key])}"
            )
        else:
            units[key] = unit
    steady = raw.get("steady", False)
    if isinstance(steady, list) and all(isinstance(arm, str) for arm in steady):
        steady = dict.fromkeys(steady, 0)
    if not isinstance(steady, bool | dict) or (
        isinstance(steady, dict)
        and not all(isinstance(n, int | float) and not isinstance(n, bool) and n >= 0 for n in steady.values())
    ):
        problems.add(("steady",), f"found {show(steady)}; allowed: true, [arms], or ARM: updates of its warm-up")
        steady = False
    keep, metrics = values("keep", raw.get("keep", {})), values("metrics", raw.get("metrics", {}))
    problems.raise_if_any()
    return RunMap(
        values=found,
        keep=keep,
        metrics=metrics,
        reading=Reading(names["run"], raw.get("step", ""), raw.get("rows", ""), raw.get("restarts", RESTARTS[0])),
        units=units,
        at=raw.get("at", "last"),
        duplicates=raw.get("duplicates", "refuse"),
        axes=names["axes"],
        tuned=names["tuned"],
        finished=(FINISHED, UNKNOWN, *names["finished"]),
        steady=steady,
        flops=raw.get("flops", ""),
        baseline=raw.get("baseline", ""),
        laws=names["laws"],
        include=raw.get("include", ""),
        exclude=raw.get("exclude", ""),
        text="\n".join(f"{key}: {show(value)}" for key, value in raw.items()),
    )


@dataclass(frozen=True)
class Guess:
    """Where a quantity that the map does not name is found; `several`: usual names of which none stands out."""

    name: str = ""
    several: tuple[str, ...] = ()


def guess(quantity: str, runs: Sequence[Recorded]) -> Guess:
    """The name under which a quantity usually stands, of those that any run has."""
    names = list(dict.fromkeys(name for run in runs for name in run.names))
    lower: dict[str, str] = {}
    for name in names:
        lower.setdefault(name.strip().lower(), name)
    if quantity == "loss":
        return _loss(lower)
    if quantity == "train_loss" and "loss" in lower and (TRAINER in lower or not {*USUAL[quantity]} & {*lower}):
        return Guess(lower["loss"])
    own = [name for name in (quantity,) if name in names]
    found = tuple(dict.fromkeys([*own, *(lower[name] for name in USUAL.get(quantity, ()) if name in lower)]))
    if own or len(found) == 1:
        return Guess(found[0])
    return Guess(several=found)


def _loss(lower: Mapping[str, str]) -> Guess:
    """A validation loss before a test loss before any other; several of a kind, or others unheard of, are asked for."""
    for usual in (VALIDATION, TEST):
        found = tuple(lower[name] for name in usual if name in lower)
        if found:
            return Guess(found[0]) if len(found) == 1 else Guess(several=found)
    training = ("loss", *USUAL["train_loss"])
    others = tuple(name for short, name in lower.items() if "loss" in short and short not in training)
    found = tuple(lower[name] for name in training if name in lower)[:1]
    return Guess(several=found + others) if others else Guess(found[0] if found else "")
