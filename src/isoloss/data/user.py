"""A user's own source: ``package.module:attribute``, called with the data options, and checked."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from isoloss.data.options import HOUSE
from isoloss.data.source import Batch, Source
from isoloss.recipe.errors import StudyError
from isoloss.recipe.references import load

_DIGEST = re.compile(r"[0-9a-f]{64}")
_ATTRIBUTES = ("digest", "vocabulary", "kind", "train_size", "bytes_per_token")
_METHODS = ("describe", "blocks", "batch", "validation")


class UserSource:
    """Passes everything on to the user's object, and checks shape, type and range of every batch."""

    def __init__(self, name: str, inner: Source) -> None:
        self._name = name
        self._inner = inner
        self.digest: str = inner.digest
        self.vocabulary: int = int(inner.vocabulary)
        self.kind: str = inner.kind
        self.train_size: int = int(inner.train_size)
        self.bytes_per_token: float = float(inner.bytes_per_token)

    def __getattr__(self, attribute: str) -> Any:
        # What a user's model or task wants to know of the user's data.
        return getattr(self._inner, attribute)

    def describe(self) -> dict[str, Any]:
        """The user's facts, with name and digest."""
        return {**self._inner.describe(), "source": self._name, "digest": self.digest}

    def blocks(self, context: int) -> int:
        """Training samples of one epoch; ``StudyError`` where there is none."""
        count = int(self._inner.blocks(context))
        if count < 1:
            raise StudyError(f"data.context: {self._name} has no sample of context {context}")
        return count

    def batch(self, seed: int, start: int, count: int, context: int) -> Batch:
        """As the user's object gives it, after a check of shape, type and range."""
        return self._checked(self._inner.batch(seed, start, count, context), "batch", count, context)

    def validation(self, part: str, tokens: int, context: int) -> Batch:
        """As the user's object gives it, after a check of shape, type and range."""
        return self._checked(self._inner.validation(part, tokens, context), "validation", None, context)

    def _checked(self, batch: Any, what: str, count: int | None, context: int) -> Batch:
        wanted: list[tuple[str, Any, str, int]]
        if self.kind == "tokens":
            found = [batch]
            wanted = [("tokens", np.int64, f"({count or 'n'}, {context + 1})", 2)]
        else:
            found = list(batch) if isinstance(batch, tuple) else [batch]
            wanted = [
                ("x", np.float32, f"({count or 'n'}, ...)", 0),
                ("y", np.int64, f"({count or 'n'},)", 1),
            ]
        good = len(found) == len(wanted)
        for array, (_, dtype, _, dimensions) in zip(found, wanted, strict=False):
            good = good and isinstance(array, np.ndarray) and array.dtype == dtype
            good = good and (array.ndim == dimensions or (dimensions == 0 and array.ndim > 1))
            good = good and len(array) == (len(found[0]) if count is None else count) > 0
        good = good and (self.kind != "tokens" or found[0].shape[1] == context + 1)
        if not good:
            shown = ", ".join(f"{a.dtype} {a.shape}" if isinstance(a, np.ndarray) else type(a).__name__ for a in found)
            allowed = ", ".join(f"{name} {np.dtype(dtype)} {shape}" for name, dtype, shape, _ in wanted)
            raise StudyError(f"data.source: {self._name}.{what} gave {shown}; allowed is {allowed} (numpy)")
        ids = found[-1]
        if ids.min() < 0 or ids.max() >= self.vocabulary:
            raise StudyError(
                f"data.source: {self._name}.{what} gave ids from {ids.min()} to {ids.max()}; "
                f"its vocabulary allows 0 to {self.vocabulary - 1}"
            )
        return batch


def open_user(name: str, spec: Mapping[str, Any], cache: Path | None = None) -> UserSource:
    """Import ``name``, call it with the options of ``spec``, and check what comes back.

    context, size and tokenizer are passed where the callable has a parameter of that name. Raises
    ``StudyError`` for a missing attribute, wrong options, a digest that is no SHA-256, a wrong batch, or a
    batch that is not a pure function of its arguments.
    """
    target = load(name)
    if not callable(target):
        raise StudyError(f"data.source: {name} is no function or class, but {type(target).__name__}")
    arguments = _arguments(name, target, spec, cache)
    try:
        inner = target(**arguments)
    except StudyError:
        raise
    except Exception as error:
        raise StudyError(f"data.source: {name} failed: {type(error).__name__}: {error}") from error
    missing = [attribute for attribute in (*_ATTRIBUTES, *_METHODS) if not hasattr(inner, attribute)]
    if missing:
        raise StudyError(f"data.source: what {name} returned lacks {', '.join(missing)}")
    if inner.kind not in ("tokens", "vectors"):
        raise StudyError(f"data.source: {name}.kind is {inner.kind!r}; allowed: tokens, vectors")
    if not isinstance(inner.digest, str) or not _DIGEST.fullmatch(inner.digest):
        raise StudyError(f"data.source: {name}.digest is {inner.digest!r}; allowed are 64 hexadecimal characters")
    source = UserSource(name, inner)
    _try(source, name, int(spec.get("context") or 1))
    return source


def _arguments(name: str, target: Callable[..., Any], spec: Mapping[str, Any], cache: Path | None) -> dict[str, Any]:
    given = {key: value for key, value in spec.items() if key not in HOUSE}
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return given
    house = {key: spec[key] for key in ("context", "size", "tokenizer") if spec.get(key) is not None}
    if cache is not None:
        house["cache"] = cache
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if "size" in house and not anything and "size" not in parameters:
        raise StudyError(f"data.size: {name} has no parameter 'size'; remove size from the study")
    given |= {key: value for key, value in house.items() if key in parameters}
    try:
        inspect.signature(target).bind(**given)
    except TypeError as error:
        has = ", ".join(parameters) or "no options"
        raise StudyError(f"data: {name}: {error}; its options are: {has}") from error
    return given


def _try(source: UserSource, name: str, context: int) -> None:
    count = min(2, source.blocks(context))
    once, again = (source.batch(0, 0, count, context) for _ in range(2))
    pairs = zip(once, again, strict=True) if isinstance(once, tuple) else [(once, again)]
    if not all(np.array_equal(a, b) for a, b in pairs):
        raise StudyError(
            f"data.source: {name}.batch(0, 0, {count}, {context}) gave two different answers; "
            "it must be a pure function of its arguments"
        )
