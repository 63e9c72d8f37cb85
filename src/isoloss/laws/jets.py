"""Second-order forward differentiation: exact gradients and Hessians of a log-prediction over a batch.

A `Jet` carries a value of shape (problems, rows) with its sparse first and second derivatives in the
parameters. Forms write their log-prediction with the functions of this module; given plain arrays the same
functions evaluate numbers. Rules: for u = h(a), u_i = h' a_i and u_ij = h' a_ij + h'' a_i a_j.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

Array = np.ndarray
T = TypeVar("T")


class Jet:
    """Value, gradient {i: array} and Hessian {(i, j), i <= j: array}; an absent entry is zero."""

    __array_priority__ = 100
    __slots__ = ("first", "second", "value")

    def __init__(self, value: Array, first: dict[int, Array], second: dict[tuple[int, int], Array]) -> None:
        self.value, self.first, self.second = value, first, second

    def chain(self, value: Array, slope: Array, curvature: Array) -> Jet:
        """The jet of h(self) from h, h' and h'' at the value."""
        first = {i: slope * d for i, d in self.first.items()}
        second = {key: slope * d for key, d in self.second.items()}
        indices = sorted(self.first)
        for position, i in enumerate(indices):
            scaled = curvature * self.first[i]
            for j in indices[position:]:
                _accumulate(second, (i, j), scaled * self.first[j])
        return Jet(value, first, second)

    def __add__(self, other: Any) -> Jet:
        if not isinstance(other, Jet):
            return Jet(self.value + other, self.first, self.second)
        first, second = dict(self.first), dict(self.second)
        for i, d in other.first.items():
            _accumulate(first, i, d)
        for key, d in other.second.items():
            _accumulate(second, key, d)
        return Jet(self.value + other.value, first, second)

    __radd__ = __add__

    def __neg__(self) -> Jet:
        first = {i: -d for i, d in self.first.items()}
        return Jet(-self.value, first, {key: -d for key, d in self.second.items()})

    def __sub__(self, other: Any) -> Jet:
        return self + (-other)

    def __rsub__(self, other: Any) -> Jet:
        return (-self) + other

    def __mul__(self, other: Any) -> Jet:
        if not isinstance(other, Jet):
            first = {i: d * other for i, d in self.first.items()}
            return Jet(self.value * other, first, {key: d * other for key, d in self.second.items()})
        a, b = self, other
        first = {i: d * b.value for i, d in a.first.items()}
        for i, d in b.first.items():
            _accumulate(first, i, d * a.value)
        second = {key: d * b.value for key, d in a.second.items()}
        for key, d in b.second.items():
            _accumulate(second, key, d * a.value)
        for i, left in a.first.items():
            for j, right in b.first.items():
                # The mixed term appears once for i != j and twice on the diagonal.
                product = left * right
                _accumulate(second, (min(i, j), max(i, j)), 2.0 * product if i == j else product)
        return Jet(a.value * b.value, first, second)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Jet:
        return self * (reciprocal(other) if isinstance(other, Jet) else 1.0 / other)

    def __rtruediv__(self, other: Any) -> Jet:
        return reciprocal(self) * other

    def __pow__(self, exponent: Any) -> Jet:
        if isinstance(exponent, Jet):
            return exp(exponent * log(self))
        value = self.value**exponent
        slope = exponent * self.value ** (exponent - 1)
        return self.chain(value, slope, exponent * (exponent - 1) * self.value ** (exponent - 2))


def _accumulate(store: dict[Any, Array], key: Any, value: Array) -> None:
    store[key] = store[key] + value if key in store else value


def _unary(argument: T, value: Callable[[Array], Array], jet: Callable[[Jet], Jet]) -> T:
    if isinstance(argument, Jet):
        return cast(T, jet(argument))
    return cast(T, value(cast(Array, argument)))


def exp(x: T) -> T:
    """e**x."""

    def of_jet(jet: Jet) -> Jet:
        value = np.exp(jet.value)
        return jet.chain(value, value, value)

    return _unary(x, np.exp, of_jet)


def log(x: T) -> T:
    """Natural logarithm; negative arguments give NaN, which the solver steps back from."""

    def of_jet(jet: Jet) -> Jet:
        inverse = 1.0 / jet.value
        return jet.chain(np.log(jet.value), inverse, -inverse * inverse)

    return _unary(x, np.log, of_jet)


def reciprocal(x: T) -> T:
    """1/x."""

    def of_jet(jet: Jet) -> Jet:
        inverse = 1.0 / jet.value
        return jet.chain(inverse, -(inverse**2), 2.0 * inverse**3)

    return _unary(x, lambda a: 1.0 / a, of_jet)


def sigmoid(x: T) -> T:
    """1 / (1 + e**-x), without overflow."""

    def number(a: Array) -> Array:
        return 0.5 * (1.0 + np.tanh(0.5 * a))

    def of_jet(jet: Jet) -> Jet:
        value = number(jet.value)
        slope = value * (1.0 - value)
        return jet.chain(value, slope, slope * (1.0 - 2.0 * value))

    return _unary(x, number, of_jet)


def softplus(x: T) -> T:
    """log(1 + e**x), without overflow."""

    def of_jet(jet: Jet) -> Jet:
        share = sigmoid(jet.value)
        return jet.chain(np.logaddexp(0.0, jet.value), share, share * (1.0 - share))

    return _unary(x, lambda a: np.logaddexp(0.0, a), of_jet)


def logaddexp(first: Any, *others: Any) -> Any:
    """log of the sum of exponentials of two or more terms (jets or arrays)."""
    total = first
    for term in others:
        base, more = (term, total) if isinstance(term, Jet) and not isinstance(total, Jet) else (total, term)
        total = more + softplus(base - more) if isinstance(base, Jet) else np.logaddexp(base, more)
    return total


def where(condition: Array, yes: Any, no: Any) -> Any:
    """Rowwise choice between two jets or arrays; the condition carries no derivative."""
    if not isinstance(yes, Jet) and not isinstance(no, Jet):
        return np.where(condition, yes, no)
    chosen = np.asarray(condition, dtype=float)
    return _choose(yes, chosen) + _choose(no, 1.0 - chosen)


def _choose(branch: Any, mask: Array) -> Any:
    """The branch where mask is 1, exactly zero elsewhere even if the branch is not finite there."""
    if not isinstance(branch, Jet):
        return np.where(mask > 0, branch, 0.0)
    shape = np.broadcast_shapes(mask.shape, branch.value.shape)

    def pick(values: Array) -> Array:
        return np.where(np.broadcast_to(mask, shape) > 0, np.broadcast_to(values, shape), 0.0)

    first = {i: pick(d) for i, d in branch.first.items()}
    return Jet(pick(branch.value), first, {key: pick(d) for key, d in branch.second.items()})


def value_of(x: Any) -> Array:
    """The numbers of a jet or array."""
    return x.value if isinstance(x, Jet) else np.asarray(x)
