"""Exact derivatives of a log-prediction over a batch: a recorded expression and its contracted Hessian.

A `Jet` is a value of shape (problems, rows) that remembers how it was made. Gradients in the parameters go
forward along the record; the Hessian, contracted with row weights, goes backward: every step u = h(a, b, ..)
with adjoint w adds w h_ab (grad a)(grad b)'. So second derivatives are matrix products of gradients and are
never stored by row. Forms write their log-prediction with the functions of this module; given plain arrays the
same functions evaluate numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, TypeVar, cast

import numpy as np

Array = np.ndarray
T = TypeVar("T")
UFUNCS = {
    "add", "subtract", "multiply", "divide", "negative", "power", "exp", "log", "log1p", "tanh", "absolute",
    "minimum", "maximum", "less",
}  # fmt: skip
Gradient = tuple[tuple[int, ...], Array]
_serial = count()


class Jet:
    """A value with the jets it was made of and its partial derivatives in them; `parameter` makes a leaf.

    slopes: first partials, one per input. curvatures: second partials by pair of inputs (i <= j); an absent
    pair is zero.
    """

    __array_priority__ = 100
    __slots__ = ("_gradient", "curvatures", "inputs", "serial", "slopes", "value")

    def __init__(
        self,
        value: Array,
        inputs: Sequence[Jet] = (),
        slopes: Sequence[Any] = (),
        curvatures: Mapping[tuple[int, int], Any] | None = None,
    ) -> None:
        self.value, self.inputs, self.slopes, self.curvatures = value, inputs, slopes, curvatures or {}
        self.serial = next(_serial)
        self._gradient: Gradient | None = None

    @classmethod
    def parameter(cls, value: Array, index: int) -> Jet:
        """The jet of parameter number `index`, with values of shape (problems, 1)."""
        leaf = cls(value)
        leaf._gradient = ((index,), np.ones((1, 1, 1)))
        return leaf

    def gradient(self) -> Gradient:
        """Parameters that matter and the derivatives in them, of a shape that broadcasts to (problems, m, rows)."""
        if self._gradient is None:
            parts = [jet.gradient() for jet in self.inputs]
            scaled = [_times(_spread(slope), g) for slope, (_, g) in zip(self.slopes, parts, strict=True)]
            support = tuple(sorted({i for indices, _ in parts for i in indices}))
            if all(indices == support for indices, _ in parts):
                total = scaled[0]
                for more in scaled[1:]:
                    total = total + more
            else:
                shapes = [(g.shape[0], len(support), g.shape[2]) for g in scaled]
                total = np.zeros(np.broadcast_shapes(*shapes))
                for (indices, _), g in zip(parts, scaled, strict=True):
                    total[:, [support.index(i) for i in indices]] += g
            self._gradient = (support, total)
        return self._gradient

    def __add__(self, other: Any) -> Jet:
        if isinstance(other, Jet):
            return Jet(self.value + other.value, (self, other), (1.0, 1.0))
        return Jet(self.value + other, (self,), (1.0,))

    __radd__ = __add__

    def __neg__(self) -> Jet:
        return Jet(-self.value, (self,), (-1.0,))

    def __sub__(self, other: Any) -> Jet:
        if isinstance(other, Jet):
            return Jet(self.value - other.value, (self, other), (1.0, -1.0))
        return Jet(self.value - other, (self,), (1.0,))

    def __rsub__(self, other: Any) -> Jet:
        return Jet(other - self.value, (self,), (-1.0,))

    def __mul__(self, other: Any) -> Jet:
        if isinstance(other, Jet):
            return Jet(self.value * other.value, (self, other), (other.value, self.value), {(0, 1): 1.0})
        return Jet(self.value * other, (self,), (other,))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Jet:
        return self * (reciprocal(other) if isinstance(other, Jet) else 1.0 / other)

    def __rtruediv__(self, other: Any) -> Jet:
        return reciprocal(self) * other

    def __pow__(self, exponent: Any) -> Jet:
        if isinstance(exponent, Jet):
            return exp(exponent * log(self))
        value, k = self.value, exponent
        return Jet(value**k, (self,), (k * value ** (k - 1),), {(0, 0): k * (k - 1) * value ** (k - 2)})


class Symbol:
    """A value without numbers: whoever makes it learns of every function applied to it (`laws.program`).

    `apply` gets the name of a function of this module or of a NumPy function in UFUNCS, and what it is applied to.
    """

    def apply(self, name: str, *arguments: Any) -> Any:
        """The symbol of a function's result."""
        raise NotImplementedError

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or options or ufunc.__name__ not in UFUNCS:
            raise TypeError(f"numpy.{ufunc.__name__} cannot be written down")
        return self.apply(ufunc.__name__, *inputs)

    def __add__(self, other: Any) -> Any:
        return self.apply("add", self, other)

    def __radd__(self, other: Any) -> Any:
        return self.apply("add", other, self)

    def __sub__(self, other: Any) -> Any:
        return self.apply("subtract", self, other)

    def __rsub__(self, other: Any) -> Any:
        return self.apply("subtract", other, self)

    def __mul__(self, other: Any) -> Any:
        return self.apply("multiply", self, other)

    def __rmul__(self, other: Any) -> Any:
        return self.apply("multiply", other, self)

    def __truediv__(self, other: Any) -> Any:
        return self.apply("divide", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self.apply("divide", other, self)

    def __pow__(self, other: Any) -> Any:
        return self.apply("power", self, other)

    def __neg__(self) -> Any:
        return self.apply("negative", self)

    def __lt__(self, other: Any) -> Any:
        return self.apply("less", self, other)

    def __gt__(self, other: Any) -> Any:
        return self.apply("less", other, self)


def _symbol(*values: Any) -> Symbol | None:
    return next((value for value in values if isinstance(value, Symbol)), None)


def contract(jet: Jet, a: Array, b: Array, size: int, curved: bool = True) -> tuple[Array, Array]:
    """sum_i a_i grad f_i and sum_i (b_i grad f_i grad f_i' + a_i hess f_i) over rows, for `size` parameters.

    a and b have shape (problems, rows); without `curved` the second derivatives of f are left out.
    """
    problems, rows = a.shape
    gradient, hessian = np.zeros((problems, size)), np.zeros((problems, size, size))
    support, first = jet.gradient()
    first = np.broadcast_to(first, (problems, len(support), rows))
    at = np.array(support)
    gradient[:, at] = np.matmul(first, a[:, :, None])[:, :, 0]
    hessian[:, at[:, None], at] = np.matmul(first * b[:, None, :], first.transpose(0, 2, 1))
    if curved:
        adjoint = {jet.serial: a}
        for node in _record(jet):
            weight = adjoint.pop(node.serial)
            for (i, j), curvature in node.curvatures.items():
                (left, g), (right, h) = node.inputs[i].gradient(), node.inputs[j].gradient()
                block = _weighted(g, h, np.broadcast_to(_scaled(weight, curvature), a.shape))
                hessian[:, np.array(left)[:, None], np.array(right)] += block
                if i != j:
                    hessian[:, np.array(right)[:, None], np.array(left)] += block.transpose(0, 2, 1)
            for jet_in, slope in zip(node.inputs, node.slopes, strict=True):
                if jet_in.inputs:
                    passed = _scaled(weight, slope)
                    known = adjoint.get(jet_in.serial)
                    adjoint[jet_in.serial] = passed if known is None else known + passed
    return gradient, hessian


def _record(jet: Jet) -> list[Jet]:
    """All steps below a jet without the leaves, the latest first."""
    found, todo = {jet.serial: jet}, [jet]
    while todo:
        for made_of in todo.pop().inputs:
            if made_of.inputs and made_of.serial not in found:
                found[made_of.serial] = made_of
                todo.append(made_of)
    return [found[serial] for serial in sorted(found, reverse=True)]


def _spread(slope: Any) -> Array:
    """A slope of shape (problems, rows), (rows,) or () beside gradients of shape (problems, m, rows)."""
    return np.atleast_1d(slope)[..., None, :]


def _times(slope: Array, gradient: Array) -> Array:
    if slope.size == 1 and slope.flat[0] == 1.0:
        return gradient
    return _scaled(slope, gradient)


def _scaled(weight: Array, factor: Any) -> Array:
    """weight * factor, and zero where the weight is zero even if the factor is not finite."""
    with np.errstate(invalid="ignore"):
        product = weight * factor
    return np.where(weight == 0, 0.0, product) if not np.isfinite(product).all() else product


def _weighted(g: Array, h: Array, weight: Array) -> Array:
    """sum over rows of weight g h' for gradients (problems or 1, m, rows or 1)."""
    if g.shape[2] == 1 and h.shape[2] == 1:
        return weight.sum(axis=1)[:, None, None] * g * h.transpose(0, 2, 1)
    scaled = weight[:, None, :] * g
    if h.shape[2] == 1:
        return scaled.sum(axis=2, keepdims=True) * h.transpose(0, 2, 1)
    return np.matmul(scaled, h.transpose(0, 2, 1))


def _unary(name: str, argument: T, value: Callable[[Array], Array], jet: Callable[[Jet], Jet]) -> T:
    if isinstance(argument, Jet):
        return cast(T, jet(argument))
    if isinstance(argument, Symbol):
        return cast(T, argument.apply(name, argument))
    return cast(T, value(cast(Array, argument)))


def exp(x: T) -> T:
    """e**x."""

    def of_jet(jet: Jet) -> Jet:
        value = np.exp(jet.value)
        return Jet(value, (jet,), (value,), {(0, 0): value})

    return _unary("exp", x, np.exp, of_jet)


def log(x: T) -> T:
    """Natural logarithm; negative arguments give NaN, which the solver steps back from."""

    def of_jet(jet: Jet) -> Jet:
        inverse = 1.0 / jet.value
        return Jet(np.log(jet.value), (jet,), (inverse,), {(0, 0): -inverse * inverse})

    return _unary("log", x, np.log, of_jet)


def reciprocal(x: T) -> T:
    """1/x."""

    def of_jet(jet: Jet) -> Jet:
        inverse = 1.0 / jet.value
        return Jet(inverse, (jet,), (-(inverse**2),), {(0, 0): 2.0 * inverse**3})

    return _unary("reciprocal", x, lambda a: 1.0 / a, of_jet)


def sigmoid(x: T) -> T:
    """1 / (1 + e**-x), without overflow."""

    def number(a: Array) -> Array:
        return 0.5 * (1.0 + np.tanh(0.5 * a))

    def of_jet(jet: Jet) -> Jet:
        value = number(jet.value)
        slope = value * (1.0 - value)
        return Jet(value, (jet,), (slope,), {(0, 0): slope * (1.0 - 2.0 * value)})

    return _unary("sigmoid", x, number, of_jet)


def softplus(x: T) -> T:
    """log(1 + e**x), without overflow."""

    def number(a: Array) -> Array:
        return np.maximum(a, 0.0) + np.log1p(np.exp(-np.abs(a)))

    def of_jet(jet: Jet) -> Jet:
        share = sigmoid(jet.value)
        return Jet(number(jet.value), (jet,), (share,), {(0, 0): share * (1.0 - share)})

    return _unary("softplus", x, number, of_jet)


def logaddexp(first: Any, *others: Any) -> Any:
    """log of the sum of exponentials of two or more terms (jets or arrays)."""
    terms = (first, *others)
    if symbol := _symbol(*terms):
        return symbol.apply("logaddexp", *terms)
    values = [value_of(term) for term in terms]
    top = values[0]
    for value in values[1:]:
        top = np.maximum(top, value)
    # Terms that all vanish have no largest one to divide by.
    top = np.where(np.isfinite(top), top, 0.0)
    exps = [np.exp(value - top) for value in values]
    total = exps[0]
    for more in exps[1:]:
        total = total + more
    result = top + np.log(total)
    places = [i for i, term in enumerate(terms) if isinstance(term, Jet)]
    if not places:
        return result
    shares = [exps[i] / total for i in places]
    curvatures = {
        (i, j): left * (1.0 - left) if i == j else -left * shares[j]
        for i, left in enumerate(shares)
        for j in range(i, len(shares))
    }
    return Jet(result, [terms[i] for i in places], shares, curvatures)


def where(condition: Array, yes: Any, no: Any) -> Any:
    """Rowwise choice between two jets or arrays; the condition carries no derivative."""
    if symbol := _symbol(condition, yes, no):
        return symbol.apply("where", condition, yes, no)
    value = np.where(condition, value_of(yes), value_of(no))
    chosen = np.asarray(condition, dtype=float)
    branches = [(branch, mask) for branch, mask in ((yes, chosen), (no, 1.0 - chosen)) if isinstance(branch, Jet)]
    return Jet(value, *zip(*branches, strict=True)) if branches else value


def value_of(x: Any) -> Any:
    """The numbers of a jet or array; a symbol stays one."""
    if isinstance(x, Symbol):
        return x
    return x.value if isinstance(x, Jet) else np.asarray(x)
