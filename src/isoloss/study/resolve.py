"""From what was written to a config with every default in it: merging, checking, finding one leaf."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from isoloss.recipe import catalogue
from isoloss.recipe.errors import nearest
from isoloss.recipe.references import is_reference
from isoloss.study.fields import (
    REFERENCE,
    Free,
    Section,
    adapter,
    allowed,
    complaint,
    first_complaint,
    writable,
)
from isoloss.study.problems import Path, show
from isoloss.study.schema import CONFIG, Choice, Node

Report = Callable[[str, Path, str], None]
"""Takes "missing" or "wrong", the path in the config, and the message."""

EVALUATION_TOKENS = 16_384
EVALUATION_SAMPLES = 1_024
COOLDOWN_FRACTION = 0.2


def merge(node: Node | None, base: Any, override: Any) -> Any:
    """``override`` on top of ``base``: mappings key by key, the rest replaced.

    Where the override changes the name of a choice (an optimizer, a shape), the options of the old choice are
    dropped, so that none leaks into the new one.
    """
    if node is None or not isinstance(base, dict) or not isinstance(override, dict):
        return override
    merged = _kept(node, base, override)
    for key, value in override.items():
        child = node.children.get(key) or node.either.get(key)
        merged[key] = merge(child, merged.get(key), value)
    return merged


def _kept(node: Node, base: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    kept = dict(base)
    choice = node.choice
    if choice and any(key in override for key in choice.keys) and choice.chosen(override) != choice.chosen(base):
        model = choice.model(choice.chosen(override))
        known = choice.common if model is None else writable(model)
        kept = {key: value for key, value in base.items() if key in choice.common and key in known}
    if any(key in override for key in node.exclusive):
        kept = {key: value for key, value in kept.items() if key not in node.exclusive}
    return kept


def nested(path: str, value: Any) -> dict[str, Any]:
    """``a.b`` and 1 as ``{"a": {"b": 1}}``."""
    for part in reversed(path.split(".")):
        value = {part: value}
    return dict(value)


def resolve(node: Node, mapping: Any, path: Path, report: Report) -> dict[str, Any]:
    """Check one mapping and all in it, tell ``report`` of every mistake, and return it with its defaults."""
    if not isinstance(mapping, dict):
        report("wrong", path, f"found {show(mapping)}; allowed: a mapping with {', '.join(_keys(node, {}))}")
        return {}
    out: dict[str, Any] = {}
    model = None if node.choice and not _choose(node.choice, mapping, path, report, out) else node.model(mapping)
    if model is not None:
        out.update(_leaves(node, model, mapping, path, report))
    for name, child in node.children.items():
        value = mapping.get(name, None if child.optional else {})
        absent = value is None and child.optional
        out[name] = None if absent else resolve(child, value, (*path, name), report)
    return out


def _choose(choice: Choice, mapping: dict[str, Any], path: Path, report: Report, out: dict[str, Any]) -> bool:
    """Check the name that a mapping chooses; put it into ``out``."""
    name = choice.chosen(mapping)
    listed = ", ".join(choice.names)
    if choice.own_key and choice.own_key in mapping:
        key = choice.own_key
        if choice.key in mapping:
            message = f"found both {choice.key} and {key}; allowed: {choice.key} ({listed}) or {key} ({REFERENCE})"
            report("wrong", (*path, key), message)
            return False
        if not is_reference(name):
            hint = f" (did you mean '{choice.key}: {name}'?)" if name in choice.names else ""
            report("wrong", (*path, key), f"found {show(name)}; allowed: {REFERENCE}{hint}")
            return False
    else:
        key = choice.key
        permitted = f"{listed}, {REFERENCE}" if choice.own and not choice.own_key else listed
        if choice.own_key:
            permitted = f"{listed}; {choice.own_key}: {REFERENCE} for one's own"
        if name is None and key not in mapping:
            report("missing", (*path, key), f"missing; allowed: {permitted}")
            return False
        if choice.model(name) is None or (choice.own_key and is_reference(name)):
            hint = nearest(name, choice.names) if isinstance(name, str) else ""
            report("wrong", (*path, key), f"found {show(name)}; allowed: {permitted}{hint}")
            return False
    out[key] = name
    return True


def _leaves(node: Node, model: type[Section], mapping: dict[str, Any], path: Path, report: Report) -> dict[str, Any]:
    names = node.choice.keys if node.choice else ()
    given = {key: value for key, value in mapping.items() if key not in node.children and key not in names}
    free = issubclass(model, Free)
    permitted = writable(model)
    values: dict[str, Any] = {}
    mappings: dict[str, Any] = {}
    for key, value in given.items():
        if key in node.either and isinstance(value, dict):
            mappings[key] = resolve(node.either[key], value, (*path, key), report)
        elif free or key in permitted:
            values[key] = value
        elif key not in model.model_fields or value != model.model_fields[key].default:
            known = _keys(node, mapping)
            words = f"{', '.join(known) or 'none'}{nearest(key, known)}"
            of = f" of {node.choice.chosen(mapping)}" if node.choice else ""
            report("wrong", (*path, key), f"found the unknown key {show(key)}{of}; allowed: {words}")
    try:
        out = model.model_validate(values).model_dump()
    except ValidationError as problem:
        out = {}
        told: set[Path] = set()
        for error in problem.errors(include_url=False):
            field = str(error["loc"][0])
            place: Path = (*path, field)
            if len(error["loc"]) > 1 and isinstance(error["loc"][1], int) and isinstance(values[field], list):
                place = (*place, error["loc"][1])
            if place in told:
                continue
            told.add(place)
            words = allowed(model, field, item=len(place) > len(path) + 1)
            if error["type"] == "missing":
                report("missing", place, f"missing; allowed: {words}")
            else:
                found = values[field] if place[-1] == field else values[field][error["loc"][1]]
                report("wrong", place, complaint(error, found, words))
    return {**out, **mappings}


def _keys(node: Node, mapping: dict[str, Any]) -> tuple[str, ...]:
    """Keys that may stand in a mapping, as far as its choice is known."""
    names = node.choice.keys if node.choice else ()
    model = node.model(mapping)
    if node.choice and node.choice.own_key and model is not None:
        names = (node.choice.own_key,) if node.choice.own_key in mapping else (node.choice.key,)
    return (*names, *(writable(model) if model else ()), *node.children)


@dataclass(frozen=True)
class Leaf:
    """One value of a config: a field of a model, the name of a choice, or an option of a user's own code."""

    path: str
    model: type[Section] | None = None
    field: str = ""
    choice: Choice | None = None

    @property
    def decides(self) -> bool:
        """Whether other keys, or their defaults, depend on its value."""
        return self.choice is not None or self.path == "task"

    def check(self, value: Any) -> Any:
        """The canonical form of ``value``; ValueError with the message where it is not allowed."""
        if self.choice:
            told: list[str] = []
            key = self.path.rpartition(".")[2]
            if _choose(self.choice, {key: value}, (), lambda _kind, _path, message: told.append(message), {}):
                return value
            raise ValueError(told[0])
        if self.model is None:
            return value
        try:
            return adapter(self.model, self.field).validate_python(value)
        except ValidationError as problem:
            raise ValueError(first_complaint(problem, value, allowed(self.model, self.field))) from None


def locate(path: str, config: dict[str, Any]) -> Leaf:
    """The leaf at a dotted path of what was written (not resolved); ValueError saying why there is none."""
    node: Node = CONFIG
    mapping: Any = config
    parts = path.split(".")
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        mapping = mapping if isinstance(mapping, dict) else {}
        model = node.model(mapping)
        if part in node.children and last:
            raise ValueError(
                f"found {show(path)}, which is a mapping; allowed: a single value in it: "
                f"{', '.join(_keys(node.children[part], mapping.get(part) or {}))}"
            )
        if part in node.children:
            child = node.children[part]
            if child.optional and mapping.get(part) is None:
                above = ".".join(parts[: depth + 1])
                raise ValueError(f"found {show(path)}, but {above} is null; allowed: what is there")
            node, mapping = child, mapping.get(part)
        elif part in node.either and not last:
            node, mapping = node.either[part], mapping.get(part)
        elif last and node.choice and part in node.choice.keys:
            return Leaf(path, choice=node.choice)
        elif last and model is not None and part in writable(model):
            return Leaf(path, model, part)
        elif last and part and (model is None or issubclass(model, Free)):
            return Leaf(path)
        else:
            known = _keys(node, mapping)
            above = ".".join(parts[:depth])
            raise ValueError(
                f"found {show(path)}, which does not exist; allowed{f' in {above}' if above else ''}: "
                f"{', '.join(known)}{_nearest_path(path, config)}"
            )
    raise ValueError(f"found {show(path)}; allowed: the dotted path of a single value")


def _nearest_path(path: str, config: dict[str, Any]) -> str:
    """The leaf of that name elsewhere, or else the one whose path reads most like this."""
    known = list(leaf_paths(CONFIG, config))
    last = path.rpartition(".")[2]
    same = [other for other in known if other.rpartition(".")[2] == last]
    return f" (did you mean {same[0]!r}?)" if same else nearest(path, known)


def leaf_paths(node: Node, mapping: Any, above: str = "") -> Iterator[str]:
    """Dotted paths of all leaves that a config of these choices has."""
    mapping = mapping if isinstance(mapping, dict) else {}
    for key in _keys(node, mapping):
        if key in node.children:
            yield from leaf_paths(node.children[key], mapping.get(key), f"{above}{key}.")
        else:
            yield above + key


def complete(config: dict[str, Any]) -> None:
    """Fill in place the defaults that depend on other values: task, evaluation, length of the cooldown."""
    source = config["data"]["source"]
    vectors = source in catalogue.names("data", "vectors")
    if config["task"] is None:
        config["task"] = "classification" if vectors else "language-modelling"
    classes = config["task"] == "classification" or vectors
    evaluation = config["evaluation"]
    if evaluation["tokens"] is None and evaluation["samples"] is None:
        default = EVALUATION_SAMPLES if classes else EVALUATION_TOKENS
        evaluation["samples" if classes else "tokens"] = default
    if evaluation["metrics"] is None:
        evaluation["metrics"] = ["accuracy"] if config["task"] == "classification" else []
    earlier = config["pretrain"]
    if earlier and earlier["data"]["context"] is None:
        earlier["data"]["context"] = config["data"]["context"]
    for part in (config, earlier):
        cooldown = part["schedule"]["cooldown"] if part else None
        if cooldown and cooldown["fraction"] is None and cooldown["length"] is None:
            cooldown["fraction"] = COOLDOWN_FRACTION
