"""The kinds of value a study may hold, as pydantic types that can also say what they allow."""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types as bounds
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    create_model,
)
from pydantic_core import PydanticCustomError

from isoloss.recipe import catalogue
from isoloss.recipe.errors import nearest
from isoloss.recipe.references import is_reference
from isoloss.recipe.units import BATCH, DURATION, SIZE, Quantity
from isoloss.study.problems import show

REFERENCE = "package.module:attribute"

_METRIC = re.compile(r"[A-Za-z]\w{0,59}")
_COLUMNS = ("arm", "N", "D", "S", "C", "lr", "loss", "bits_per_byte", "status", "root", "key", "message", "duration",
            "seed", "task", "distance")  # fmt: skip
"""Names that a table of results has already; those that end with _a are of part A."""

ABSENT: dict[str, Any] = {"absent": True}
"""Marks a field that is always there in the resolved config, but that a study may not write."""


class Section(BaseModel):
    """A mapping of the study file: exact types, no unknown keys, finite numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class Free(Section):
    """Options of a user's own code: anything goes, and ``version`` stands for the code in keys."""

    model_config = ConfigDict(extra="allow")
    version: str | int | None = Field(
        None, description="stands for the code in every key; null: the hash of its source file"
    )


class Open(Free):
    """Options that another library takes."""

    version: str | int | None = Field(
        None, description="stands for the library in every key; null: its installed version"
    )


@dataclass(frozen=True)
class Allowed:
    """What a type allows, in words, where its constraints do not say it."""

    text: str


def _quantity(units: tuple[str, ...], positive: bool) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        try:
            quantity = Quantity.parse(value, units)
        except ValueError as error:
            raise PydanticCustomError("told", "{message}", {"message": str(error)}) from None
        if positive and quantity.value == 0:
            message = f"found {show(value)}; allowed: more than 0 {quantity.unit}"
            raise PydanticCustomError("told", "{message}", {"message": message})
        return str(quantity)

    return check


def _whole(value: Any) -> Any:
    """1e4 is a float in YAML, and a whole number all the same."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _name(kind: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        known = catalogue.names(kind)
        if value in known or is_reference(value):
            return value
        message = f"found {show(value)}; allowed: {', '.join(known)}, {REFERENCE}{nearest(value, known)}"
        raise PydanticCustomError("told", "{message}", {"message": message})

    return check


def _metric(value: str) -> str:
    """A metric of the catalogue, or one that a task of the user's own measures: that is told where tasks are known."""
    if _METRIC.fullmatch(value) and not value.endswith("_a") and value not in _COLUMNS:
        return value
    known = catalogue.names("metric")
    why = ", which is always measured" if value == "loss" else ""
    message = f"found {show(value)}{why}; allowed: {', '.join(known)}, or a task's own{nearest(value, known)}"
    raise PydanticCustomError("told", "{message}", {"message": message})


def _each_once(values: list[str]) -> list[str]:
    twice = next((value for index, value in enumerate(values) if value in values[:index]), None)
    if twice is not None:
        message = f"found {show(twice)} twice; allowed: each once"
        raise PydanticCustomError("told", "{message}", {"message": message})
    return values


def _moment(value: Any) -> str:
    return value if value == "end" else _quantity(DURATION, positive=True)(value)


def _paths(value: Any) -> Any:
    given = [value] if isinstance(value, str) else value
    if isinstance(given, list) and given and all(isinstance(path, str) and path.strip() for path in given):
        return value
    message = f"found {show(value)}; allowed: a path or a list of paths"
    raise PydanticCustomError("told", "{message}", {"message": message})


def _drops(value: Any) -> Any:
    allowed = "a list of {at: duration, factor: number in (0, 1]}, each at a later moment"
    wrong = PydanticCustomError("told", "{message}", {"message": f"found {show(value)}; allowed: {allowed}"})
    if not (isinstance(value, list) and value):
        raise wrong
    drops: list[dict[str, Any]] = []
    for drop in value:
        if not (isinstance(drop, dict) and set(drop) == {"at", "factor"}):
            raise wrong
        factor = drop["factor"]
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor <= 1:
            raise wrong
        drops.append({"at": _quantity(DURATION, positive=True)(drop["at"]), "factor": float(factor)})
    moments = [Quantity.parse(drop["at"]) for drop in drops]
    if len({moment.unit for moment in moments}) > 1 or any(
        late.value <= early.value for early, late in pairwise(moments)
    ):
        raise wrong
    return drops


def _units(units: tuple[str, ...]) -> Allowed:
    return Allowed(f"a number and a unit ({', '.join(units)})")


Whole = Annotated[int, BeforeValidator(_whole)]
Duration = Annotated[Any, AfterValidator(_quantity(DURATION, positive=True)), _units(DURATION)]
DurationFromZero = Annotated[Any, AfterValidator(_quantity(DURATION, positive=False)), _units(DURATION)]
Batch = Annotated[Any, AfterValidator(_quantity(BATCH, positive=True)), _units(BATCH)]
Size = Annotated[Any, AfterValidator(_quantity(SIZE, positive=True)), _units(SIZE)]
Moment = Annotated[Any, AfterValidator(_moment), Allowed(f"end, or a number and a unit ({', '.join(DURATION)})")]
Paths = Annotated[Any, AfterValidator(_paths), Allowed("a path or a list of paths")]
Drops = Annotated[Any, AfterValidator(_drops), Allowed("a list of {at: duration, factor: number in (0, 1]}")]
TaskName = Annotated[str, AfterValidator(_name("task")), Allowed(f"{', '.join(catalogue.names('task'))}, {REFERENCE}")]
MetricName = Annotated[
    str, AfterValidator(_metric), Allowed(f"one of {', '.join(catalogue.names('metric'))}, or a task's own")
]
Metrics = Annotated[list[MetricName], AfterValidator(_each_once)]
Seed = Annotated[Whole, Field(ge=0, lt=2**63)]


def option_type(option: catalogue.Option) -> Any:
    """The pydantic type of a catalogue option."""
    limits: dict[str, Any] = {}
    if option.low is not None:
        limits["gt" if option.open_low else "ge"] = option.low
    if option.high is not None:
        limits["lt" if option.open_high else "le"] = option.high
    made: Any
    match option.kind:
        case "integer":
            whole: dict[str, Any] = {name: int(limit) for name, limit in limits.items()}
            made = Annotated[Whole, Field(**whole)]
        case "number":
            made = Annotated[float, Field(**limits)]
        case "pair":
            made = Annotated[list[Annotated[float, Field(**limits)]], Field(min_length=2, max_length=2)]
        case "boolean":
            made = bool
        case "word":
            made = Literal[option.choices]
        case "text":
            made = Annotated[str, Field(min_length=1)]
        case "duration":
            made = Duration
        case "paths":
            made = Paths
        case "drops":
            made = Drops
        case _:
            raise ValueError(f"option kind {option.kind!r}; allowed: {', '.join(catalogue.OPTION_KINDS)}")
    return made | None if option.default is None else made


@lru_cache(maxsize=256)
def entry_model(kind: str, name: str, base: type[Section] = Section) -> type[Section]:
    """The model of a catalogue entry's options, on top of the fields of ``base``."""
    fields: dict[str, Any] = {}
    for option in catalogue.get(kind, name).options:
        default = list(option.default) if isinstance(option.default, tuple) else option.default
        info: Any = Field(description=option.summary) if option.required else Field(default, description=option.summary)
        fields[option.name] = (option_type(option), info)
    return create_model(f"{kind} {name}", __base__=base, **fields)


def writable(model: type[Section]) -> tuple[str, ...]:
    """Fields of a model that a study may write."""
    return tuple(name for name, info in model.model_fields.items() if info.json_schema_extra != ABSENT)


@lru_cache(maxsize=4096)
def adapter(model: type[Section], name: str) -> TypeAdapter[Any]:
    """Checks one field of a model alone."""
    field = model.model_fields[name]
    kind: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation  # type: ignore[valid-type]
    return TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))


@lru_cache(maxsize=4096)
def allowed(model: type[Section], name: str, *, item: bool = False) -> str:
    """What a field allows, in words; with ``item``, what each item of its list does."""
    field = model.model_fields[name]
    if item and get_origin(field.annotation) is list:
        return _worded(get_args(field.annotation)[0], [])
    return _worded(field.annotation, list(field.metadata))


def complaint(error: Any, found: Any, permitted: str) -> str:
    """The message of one pydantic error: what was found, what is allowed, the nearest valid word."""
    if error["type"] == "told":
        return str(error["msg"])
    hint = ""
    if error["type"] == "literal_error" and isinstance(found, str):
        hint = nearest(found, permitted.removeprefix("one of ").removesuffix(", or null").split(", "))
    return f"found {show(found)}; allowed: {permitted}{hint}"


def first_complaint(problem: ValidationError, found: Any, permitted: str) -> str:
    """The message of the first of pydantic's errors about one value."""
    return complaint(problem.errors(include_url=False)[0], found, permitted)


def _worded(kind: Any, metadata: list[Any]) -> str:
    while get_origin(kind) is Annotated:
        kind, *inner = get_args(kind)
        metadata = [*inner, *metadata]
    metadata = [item for entry in metadata for item in getattr(entry, "metadata", [entry])]
    for item in metadata:
        if isinstance(item, Allowed):
            return item.text
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        parts = [arg for arg in get_args(kind) if arg is not type(None)]
        words = " or ".join(_worded(part, metadata) for part in parts)
        return f"{words}, or null" if len(parts) < len(get_args(kind)) else words
    if origin is Literal:
        choices = list(map(str, get_args(kind)))
        return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    if origin is list:
        length = next((item.min_length for item in metadata if isinstance(item, bounds.MinLen)), None)
        item = _worded(get_args(kind)[0], [])
        pair = any(isinstance(entry, bounds.MaxLen) for entry in metadata)
        return f"a list of {length} values, each {item}" if pair else f"a list, each {item}"
    nouns = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return (nouns.get(kind, "any value") + _range(metadata)).rstrip()


def _range(metadata: list[Any]) -> str:
    low = high = ""
    for item in metadata:
        match item:
            case bounds.Gt(gt=limit):
                low = f" above {_number(limit)}"
            case bounds.Ge(ge=limit):
                low = f" from {_number(limit)}"
            case bounds.Lt(lt=limit):
                high = f" below {_number(limit)}"
            case bounds.Le(le=limit):
                high = f" to {_number(limit)}"
            case _:
                pass
    if high.startswith(" to") and not low.startswith(" from"):
        high = f" up{high}"
    return f"{low} and{high}" if low and high and not high.startswith(" to") else low + high


def _number(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return {2**63: "2^63", 2**63 - 1: "2^63 - 1", 2**31 - 1: "2^31 - 1"}.get(value, str(value))
