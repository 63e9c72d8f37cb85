"""Batched models: log-predictions of many parameter vectors at once, with exact derivatives.

A model answers two questions for parameters of shape (problems, p): `forward` gives the log-prediction f of
shape (problems, rows) and a state; `pull` contracts derivatives with row weights,
    g = sum_i a_i grad f_i      and      H = sum_i (b_i grad f_i grad f_i' + a_i hess f_i),
which is all that Newton's method needs. Rows weigh differently per problem, so resamples share the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from isoloss.laws import jets
from isoloss.laws.jets import Jet, contract

Array = np.ndarray


class Namespace:
    """Parameter or variable values by name; `log_X` gives the logarithm of X."""

    def __init__(self, values: dict[str, Any], logs: dict[str, Any]) -> None:
        self._values, self._logs = values, logs

    def __getattr__(self, name: str) -> Any:
        if name in self._values:
            return self._values[name]
        if name in self._logs:
            self._values[name] = jets.exp(self._logs[name])
            return self._values[name]
        if name.startswith("log_"):
            base = name[4:]
            if base in self._logs:
                return self._logs[base]
            if base in self._values:
                self._logs[base] = jets.log(self._values[base])
                return self._logs[base]
        raise AttributeError(f"no parameter or variable {name!r}")

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


@dataclass(frozen=True)
class Basis:
    """Columns of a linear solve by coefficient name, and what is subtracted from the target first."""

    columns: Mapping[str, Any]
    offset: Any = 0.0


class Model(Protocol):
    """What the solver needs of a form on given rows."""

    size: int

    def forward(self, theta: Array) -> tuple[Array, Any]: ...
    def pull(self, state: Any, a: Array, b: Array, curved: bool = True) -> tuple[Array, Array]: ...
    def jacobian(self, state: Any) -> Array: ...
    def select(self, state: Any, index: Array) -> Any: ...
    def refresh(self, theta: Array, f: Array, state: Any, index: Array) -> tuple[Array, Any]: ...
    def subset(self, index: Array) -> Model: ...


class TermsModel:
    """The log-sum-exp kernel: f = log sum_j exp(z_j) with every z_j linear in the parameters.

    With shares q_j = exp(z_j - f) and constant designs d_j, grad f = sum_j q_j d_j and
    hess f = sum_j q_j d_j d_j' - grad f grad f'. All sums over rows become matrix products with products of
    design columns that all problems share.
    """

    def __init__(self, names: Sequence[str], terms: Sequence[Any], logs: Mapping[str, Array]) -> None:
        self.size = len(names)
        rows = next(iter(logs.values())).shape
        self.indices: list[Array] = []
        self.designs: list[Array] = []
        self.offsets: list[Any] = []
        for term in terms:
            columns: dict[int, Array] = {names.index(term.coefficient): np.ones(rows)}
            offset: Any = 0.0
            for variable, power in term.powers.items():
                if isinstance(power, str):
                    sign, name = (-1.0, power[1:]) if power.startswith("-") else (1.0, power)
                    index = names.index(name)
                    columns[index] = columns.get(index, 0.0) + sign * logs[variable]
                else:
                    offset = offset + power * logs[variable]
            order = sorted(columns)
            self.indices.append(np.array(order))
            self.designs.append(np.stack([np.broadcast_to(columns[i], rows) for i in order], axis=-1))
            self.offsets.append(offset)
        self._products()

    def _products(self) -> None:
        self.constant = [
            len(index) == 1 and bool(np.all(design == 1.0)) and np.ndim(offset) == 0
            for index, design, offset in zip(self.indices, self.designs, self.offsets, strict=True)
        ]
        self.pairs = []
        for j, left in enumerate(self.designs):
            for k in range(j, len(self.designs)):
                right = self.designs[k]
                product = left[..., :, None] * right[..., None, :]
                flat = np.ascontiguousarray(product.reshape(*left.shape[:-1], -1))
                where = (self.indices[j][:, None] * self.size + self.indices[k][None, :]).ravel()
                self.pairs.append((j, k, flat, where))

    def subset(self, index: Array) -> TermsModel:
        """The model of some problems (itself where all problems share the rows)."""
        if self.designs[0].ndim == 2:
            return self
        part = object.__new__(TermsModel)
        part.size, part.indices = self.size, self.indices
        part.designs = [design[index] for design in self.designs]
        part.offsets = [offset if np.ndim(offset) < 2 else offset[index] for offset in self.offsets]
        part._products()
        return part

    def forward(self, theta: Array) -> tuple[Array, Any]:
        """f and the exponentials of the terms."""
        exps = []
        for index, design, offset, constant in zip(
            self.indices, self.designs, self.offsets, self.constant, strict=True
        ):
            if constant:
                exps.append(np.exp(np.minimum(theta[:, index], 700.0)))
                continue
            z = _apply(theta[:, index], design)
            if np.ndim(offset):
                z += offset
            np.minimum(z, 700.0, out=z)
            exps.append(np.exp(z, out=z))
        total = exps[0]
        for more in exps[1:]:
            total = total + more
        if total.shape[1] == 1:
            total = np.broadcast_to(total, (len(theta), self.designs[0].shape[-2])).copy()
        return np.log(total), (exps, total)

    def refresh(self, theta: Array, f: Array, state: Any, index: Array) -> tuple[Array, Any]:
        """f and state with some problems evaluated anew (in place)."""
        exps, total = state
        f[index], (exps_part, total_part) = self.subset(index).forward(theta[index])
        for old, new in zip(exps, exps_part, strict=True):
            old[index] = new
        total[index] = total_part
        return f, state

    def select(self, state: Any, index: Array) -> Any:
        """The state of some problems."""
        exps, total = state
        return [e[index] for e in exps], total[index]

    def pull(self, state: Any, a: Array, b: Array, curved: bool = True) -> tuple[Array, Array]:
        """g and H; without `curved` only the Gauss-Newton part of H."""
        exps, total = state
        inverse = 1.0 / total
        shares = [e * inverse for e in exps]
        p, problems = self.size, len(a)
        gradient = np.zeros((problems, p))
        hessian = np.zeros((problems, p * p))
        outer = b - a if curved else b
        weighted = [a * q for q in shares]
        for term, (index, design) in enumerate(zip(self.indices, self.designs, strict=True)):
            if self.constant[term]:
                gradient[:, index] += weighted[term].sum(axis=1, keepdims=True)
            else:
                gradient[:, index] += _contract(weighted[term], design)
        scaled = [outer * q for q in shares]
        for j, k, flat, where in self.pairs:
            block = scaled[j] * shares[k]
            if j == k and curved:
                block += weighted[j]
            values = _contract(block, flat)
            # Entries of one block may land on the same parameter pair when exponents are tied.
            if len(set(where.tolist())) == len(where):
                hessian[:, where] += values
            else:
                for position, target in enumerate(where):
                    hessian[:, target] += values[:, position]
            if j != k:
                rows, columns = where // p, where % p
                for position, target in enumerate(columns * p + rows):
                    hessian[:, target] += values[:, position]
        return gradient, hessian.reshape(problems, p, p)

    def jacobian(self, state: Any) -> Array:
        """grad f of every row, of shape (problems, rows, p)."""
        exps, total = state
        result = np.zeros((*total.shape, self.size))
        for e, index, design in zip(exps, self.indices, self.designs, strict=True):
            result[:, :, index] += (e / total)[:, :, None] * design
        return result


def _apply(theta: Array, design: Array) -> Array:
    """(problems, c) parameters on a design (rows, c) or (problems, rows, c)."""
    return theta @ design.T if design.ndim == 2 else np.matmul(design, theta[:, :, None])[:, :, 0]


def _contract(weights: Array, design: Array) -> Array:
    """Row sums of weights (problems, rows) times design columns."""
    return weights @ design if design.ndim == 2 else np.matmul(weights[:, None, :], design)[:, 0, :]


class JetModel:
    """Any form, through the recorded derivatives of its log-prediction."""

    def __init__(self, form: Any, logs: Mapping[str, Array]) -> None:
        self.form, self.logs, self.size = form, dict(logs), len(form.parameters)
        self.rows = next(iter(logs.values())).shape[-1]

    def subset(self, index: Array) -> JetModel:
        """The model of some problems (itself where all problems share the rows)."""
        if next(iter(self.logs.values())).ndim == 1:
            return self
        return JetModel(self.form, {name: values[index] for name, values in self.logs.items()})

    def forward(self, theta: Array) -> tuple[Array, Any]:
        """f and a place for its jet, which is recorded only when derivatives are asked for."""
        f = self._evaluate([theta[:, i : i + 1] for i in range(self.size)])
        return np.broadcast_to(f, (len(theta), self.rows)).copy(), _Point(theta)

    def _evaluate(self, columns: Sequence[Any]) -> Any:
        plain: dict[str, Any] = {}
        logs: dict[str, Any] = {}
        for parameter, column in zip(self.form.parameters, columns, strict=True):
            (logs if parameter.positive else plain)[parameter.name] = column
        with np.errstate(all="ignore"):
            return self.form.log_prediction(Namespace(plain, logs), Namespace({}, dict(self.logs)))

    def refresh(self, theta: Array, f: Array, state: Any, index: Array) -> tuple[Array, Any]:
        """f and state with some problems evaluated anew (in place)."""
        f[index] = self.subset(index).forward(theta[index])[0]
        return f, _Point(theta)

    def select(self, state: Any, index: Array) -> Any:
        """The state of some problems."""
        return _Point(state.theta[index])

    def _jet(self, state: Any) -> Any:
        if state.jet is None:
            state.jet = self._evaluate([Jet.parameter(state.theta[:, i : i + 1], i) for i in range(self.size)])
        return state.jet

    def pull(self, state: Any, a: Array, b: Array, curved: bool = True) -> tuple[Array, Array]:
        """g and H; without `curved` only the Gauss-Newton part of H."""
        with np.errstate(all="ignore"):
            return contract(self._jet(state), a, b, self.size, curved)

    def jacobian(self, state: Any) -> Array:
        """grad f of every row, of shape (problems, rows, p)."""
        with np.errstate(all="ignore"):
            support, first = self._jet(state).gradient()
        result = np.zeros((len(state.theta), self.rows, self.size))
        result[:, :, list(support)] = first.transpose(0, 2, 1)
        return result


@dataclass
class _Point:
    """Parameters of some problems and, once asked for, the jet of their prediction."""

    theta: Array
    jet: Any = None
