"""Arithmetic of names: `12 * n_layer * n_embd ** 2`, `step * "batch size"`; numbers, + - * / **, parentheses."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from isoloss.recipe.errors import StudyError

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
LONGEST = 500
ALLOWED = 'allowed: names, numbers, + - * / ** and parentheses; a name that is no plain word in quotes ("batch size")'


class Expression:
    """A formula over names. Raises StudyError for anything that is no arithmetic."""

    def __init__(self, text: str) -> None:
        try:
            if len(text) > LONGEST:
                raise ValueError
            self._root = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise StudyError(f"found {text[:80]!r}; {ALLOWED}") from None
        self.text = text
        self.names = tuple(dict.fromkeys(self._named(self._root)))

    def _named(self, node: ast.AST) -> list[str]:
        if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            return self._named(node.left) + self._named(node.right)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            return self._named(node.operand)
        name = _name(node)
        if name is not None:
            return [name]
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return []
        raise StudyError(f"found {self.text!r}; {ALLOWED}")

    def __call__(self, lookup: Callable[[str], np.ndarray]) -> np.ndarray:
        """The value, `lookup` giving that of every name as numbers. What is not finite stays so."""
        with np.errstate(all="ignore"):
            return self._value(self._root, lookup)

    def _value(self, node: ast.AST, lookup: Callable[[str], np.ndarray]) -> np.ndarray:
        if isinstance(node, ast.BinOp):
            return np.asarray(
                _BINARY[type(node.op)](self._value(node.left, lookup), self._value(node.right, lookup)), float
            )
        if isinstance(node, ast.UnaryOp):
            value = self._value(node.operand, lookup)
            return -value if isinstance(node.op, ast.USub) else value
        name = _name(node)
        if name is not None:
            return np.asarray(lookup(name), float)
        assert isinstance(node, ast.Constant)
        return np.asarray(float(node.value))  # type: ignore[arg-type]


def _name(node: ast.AST) -> str | None:
    """`a`, `a.b` or a text in quotes."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Attribute):
        before = _name(node.value)
        return None if before is None else f"{before}.{node.attr}"
    return None
