"""Laws of one variable x (steps, tokens, size or compute): M1 to M4 and their relatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, product
from typing import Any, ClassVar

import numpy as np

from isoloss.laws.form import Form, Parameter, SumOfPowers, Term, coefficient, exponent
from isoloss.laws.jets import Jet, log, logaddexp, sigmoid, softplus, value_of, where
from isoloss.laws.kernel import Basis, Namespace

Array = np.ndarray
Values = Mapping[str, Any]


class M1(SumOfPowers):
    """A pure power law."""

    name = "m1"
    formula = "L = b x^-c"
    source = "Hestness et al. 2017 (1712.00409); M1 of Alabdulmohsin et al. 2022 (2209.06640)"
    parameters = (coefficient("b", {"x": "c"}), exponent("c", "exponent"))
    terms = (Term("b", {"x": "-c"}),)


class M2(SumOfPowers):
    """A power law above an irreducible loss."""

    name = "m2"
    formula = "L = E + b x^-c"
    source = "Hestness et al. 2017 (1712.00409); M2 of Alabdulmohsin et al. 2022 (2209.06640)"
    parameters = (coefficient("E", meaning="irreducible loss"), coefficient("b", {"x": "c"}), exponent("c"))
    terms = (Term("E"), Term("b", {"x": "-c"}))


class M3(Form):
    """A power law of the reciprocal with a finite-capacity floor g."""

    name = "m3"
    formula = "L = b (1/x + g)^c"
    source = "M3 of Alabdulmohsin et al. 2022 (2209.06640)"
    linear_in = "log"
    floor = "E"
    parameters = (
        coefficient("b", {"x": "c"}),
        Parameter("g", dimension={"x": -1}, role="scale", meaning="floor of 1/x"),
        exponent("c"),
    )
    grids: ClassVar[Mapping[str, Sequence[float]]] = {"g": tuple(np.geomspace(1e-9, 1e2, 45))}

    def log_prediction(self, p: Namespace, v: Namespace) -> Any:
        return p.log_b + p.c * logaddexp(p.log_g, -1.0 * v.log_x)

    def basis(self, p: Namespace, v: Namespace) -> Basis | None:
        return Basis({"b": np.ones_like(v.log_x), "c": np.logaddexp(np.log(p.g), -v.log_x)})

    def derived(self) -> dict[str, Callable[[Values], Any]]:
        return {"E": lambda p: p["b"] * p["g"] ** p["c"]}


class DataNmt(M3):
    """The data law of neural machine translation: finite capacity C is a floor of 1/D."""

    name = "nmt"
    formula = "L = a (1/D + C)^p"
    source = "Bansal et al. 2022 (2202.01994), equation 1"
    variables = ("D",)
    parameters = (
        coefficient("a", {"D": "p"}),
        Parameter("C", dimension={"D": -1}, role="scale", meaning="capacity floor of 1/D"),
        exponent("p"),
    )
    grids: ClassVar[Mapping[str, Sequence[float]]] = {"C": tuple(np.geomspace(1e-9, 1e2, 45))}

    def log_prediction(self, p: Namespace, v: Namespace) -> Any:
        return p.log_a + p.p * logaddexp(p.log_C, -1.0 * v.log_D)

    def basis(self, p: Namespace, v: Namespace) -> Basis | None:
        return Basis({"a": np.ones_like(v.log_D), "p": np.logaddexp(np.log(p.C), -v.log_D)})

    def derived(self) -> dict[str, Callable[[Values], Any]]:
        return {"E": lambda p: p["a"] * p["C"] ** p["p"]}


class M4(Form):
    """A sigmoid-like curve between a random-guessing level L0 and an irreducible loss E."""

    name = "m4"
    formula = "(L - E) / (L0 - L)^a = b x^-c"
    source = "M4 of Alabdulmohsin et al. 2022 (2209.06640), equation 3"
    floor = "E"
    parameters = (
        coefficient("E", meaning="irreducible loss"),
        coefficient("L0", meaning="loss at random guessing"),
        coefficient("b", {"x": "c"}),
        exponent("a", "sharpness of the upper bend: a corner at its lower bound", lower=0.05),
        exponent("c"),
    )

    def log_prediction(self, p: Namespace, v: Namespace) -> Any:
        # L = E + span * sigmoid(z) with log sigmoid(z) - a log(1 - sigmoid(z)) = right.
        log_span = log(p.L0 - p.E)
        right = p.log_b - p.c * v.log_x - (1.0 - p.a) * log_span
        z = bend(right, p.a)
        return logaddexp(p.log_E, log_span - softplus(-1.0 * z))

    def guesses(self, v: Namespace, y: Array) -> list[Values]:
        shares, rises, bends = (0.05, 0.5, 0.8, 0.95, 0.99), (1.01, 1.1, 1.5, 3.0), (0.05, 0.1, 0.3, 0.6, 1.0, 2.0)
        grid = np.array(list(product(shares, rises, bends)))
        E, L0, a = grid[:, :1] * y.min(), grid[:, 1:2] * y.max(), grid[:, 2:]
        left = np.log(y - E) - a * np.log(L0 - y)
        lx = v.log_x - v.log_x.mean()
        c = np.maximum(-(left @ lx) / (lx @ lx), 1e-3)[:, None]
        b = np.exp(left.mean(axis=1, keepdims=True) + c * v.log_x.mean())
        columns = {"E": E, "L0": L0, "b": b, "a": a, "c": c}
        error = np.log(self.predict(columns, {"x": np.exp(v.log_x)})) - np.log(y)
        best = np.argsort(np.mean(error**2, axis=1), kind="stable")[:6]
        return [{name: float(column[i, 0]) for name, column in columns.items()} for i in best]


def bend(right: Any, a: Any) -> Any:
    """Root z of a softplus(z) - softplus(-z) = right, with its derivatives by the implicit function theorem."""
    z = _solve_m4(value_of(right), value_of(a))
    if not (isinstance(right, Jet) and isinstance(a, Jet)):
        return z
    share = sigmoid(z)
    # Slope of the left side in z, which bends by (a - 1) share (1 - share); it vanishes where a does.
    slope = np.maximum(sigmoid(-z) + a.value * share, 1e-30)
    bend, mixed = (a.value - 1.0) * share * (1.0 - share), share
    by_right, by_a = 1.0 / slope, -softplus(z) / slope
    curvatures = {
        (0, 0): -bend * by_right**3,
        (0, 1): -(mixed + bend * by_a) * by_right**2,
        (1, 1): -(2.0 * mixed + bend * by_a) * by_a * by_right,
    }
    return Jet(z, (right, a), (by_right, by_a), curvatures)


def _solve_m4(right: Array, a: Array) -> Array:
    """Root z of a softplus(z) - softplus(-z) = right.

    The left side increases and bends one way only, so that Newton's method comes to the root from one side.
    """
    right, a = np.broadcast_arrays(np.clip(np.nan_to_num(right, nan=0.0), -1e3, 1e3), np.maximum(a, 1e-6))
    z = np.where(right > 0, right / a, right)
    for _ in range(60):
        small = np.exp(-np.abs(z))
        above = np.maximum(z, 0.0) + np.log1p(small)
        share = np.where(z > 0, 1.0, small) / (1.0 + small)
        slope = np.maximum(1.0 - share + a * share, 1e-12)
        step = (a * above - (above - z) - right) / slope
        z = z - step
        if np.max(np.abs(step) / (1.0 + np.abs(z)), initial=0.0) < 1e-13:
            break
    return z


class ShiftedPower(Form):
    """A power law of a shifted variable above a floor, as used for Pareto fronts of training curves."""

    name = "shifted-power"
    formula = "L = d + a (x + b)^-c"
    source = "Qiu et al. 2025, loss collapse (2507.02119); also used for Pareto fronts by marin"
    floor = "d"
    parameters = (
        coefficient("d", meaning="floor"),
        coefficient("a", {"x": "c"}),
        Parameter("b", dimension={"x": 1}, role="scale", meaning="shift of x"),
        exponent("c"),
    )
    grids: ClassVar[Mapping[str, Sequence[float]]] = {
        "b": tuple(np.geomspace(1e-4, 1e2, 13)),
        "c": tuple(np.geomspace(0.05, 4.0, 16)),
    }

    def log_prediction(self, p: Namespace, v: Namespace) -> Any:
        return logaddexp(p.log_d, p.log_a - p.c * logaddexp(p.log_b, v.log_x))

    def basis(self, p: Namespace, v: Namespace) -> Basis | None:
        shifted = np.logaddexp(np.log(p.b), v.log_x)
        return Basis({"d": np.ones_like(v.log_x), "a": np.exp(-p.c * shifted)})


class LogLinear(Form):
    """A straight line against the logarithm: the baseline with no asymptote."""

    name = "log-linear"
    formula = "L = a - b ln x"
    source = "baseline"
    mixed = ("a", "b")
    parameters = (Parameter("a", positive=False), Parameter("b", positive=False))

    def moved(self, values: Values, by: Mapping[str, Any]) -> dict[str, Any]:
        return {**values, "a": values["a"] - values["b"] * by["x"]}

    def log_prediction(self, p: Namespace, v: Namespace) -> Any:
        return log(p.a - p.b * v.log_x)

    def basis(self, p: Namespace, v: Namespace) -> Basis | None:
        return Basis({"a": np.ones_like(v.log_x), "b": -v.log_x})


class Envelope(M2):
    """The lower envelope of loss against compute; the floor is pinned by fit(..., fixed={'L_inf': value})."""

    name = "envelope"
    formula = "L = L_inf + A C^-p"
    source = "marin speed-run analysis: floor pinned, speed-up ((L1 - L_inf)/(L2 - L_inf))^(1/p)"
    variables = ("C",)
    pinned, default_loss = ("L_inf",), "lower-envelope"
    parameters = (coefficient("L_inf", meaning="pinned floor"), coefficient("A", {"C": "p"}), exponent("p"))
    terms = (Term("L_inf"), Term("A", {"C": "-p"}))


def speed_up(parameters: Values, slower: Any, faster: Any) -> Any:
    """Effective compute ratio between two losses on one envelope: ((slower - L_inf)/(faster -
    L_inf))^(1/p)."""
    floor = parameters["L_inf"]
    return ((np.asarray(slower) - floor) / (np.asarray(faster) - floor)) ** (1.0 / parameters["p"])


class PiecewisePower(Form):
    """Quadratic in log-log below a joining point, its tangent line beyond."""

    name = "ppl"
    formula = "ln L = t1 + t2 ln x + t3 (ln x)^2 for x <= X; the tangent line at X beyond"
    source = "Jain et al. 2023, PPL (2303.01598), section 3.2"
    linear_in = "log"
    mixed = ("t1", "t2", "t3")
    parameters = (
        Parameter("t1", positive=False),
        Parameter("t2", positive=False),
        Parameter("t3", positive=False),
        Parameter("X", dimension={"x": 1}, role="scale", meaning="joining point", within="x"),
    )

    def moved(self, values: Values, by: Mapping[str, Any]) -> dict[str, Any]:
        t1, t2, t3, m = values["t1"], values["t2"], values["t3"], by["x"]
        return {**values, "t1": t1 + t2 * m + t3 * m * m, "t2": t2 + 2.0 * t3 * m}

    def log_prediction(self, p: Namespace, v: Namespace) -> Any:
        # Beyond the join the square is replaced by its tangent: x^2 - (x - X)^2.
        beyond = log_ramp(v.log_x - p.log_X)
        return p.t1 + p.t2 * v.log_x + p.t3 * (v.log_x * v.log_x - beyond)

    def basis(self, p: Namespace, v: Namespace) -> Basis | None:
        beyond = np.maximum(v.log_x - np.log(p.X), 0.0) ** 2
        return Basis({"t1": np.ones_like(v.log_x), "t2": v.log_x, "t3": v.log_x**2 - beyond})

    def grid_of(self, name: str, v: Namespace) -> Any:
        lx = np.sort(v.log_x)
        return np.exp(np.linspace(lx[1], lx[-2] if len(lx) > 3 else lx[-1], 41))


def log_ramp(x: Any) -> Any:
    """max(x, 0)^2 with its one-sided second derivative."""
    return where(value_of(x) > 0, x * x, 0.0 * x)


class BrokenPower(Form):
    """A smoothly broken power law with n breaks."""

    source = "Caballero et al. 2023, broken neural scaling laws (2210.14891), equation 1"
    floor = "a"

    def __init__(self, breaks: int) -> None:
        self.breaks = breaks
        self.name = f"bnsl-{breaks}"
        self.formula = "L = a + b x^-c0 prod_i (1 + (x/d_i)^(1/f_i))^(-c_i f_i)"
        parameters = [
            coefficient("a", meaning="limit"),
            coefficient("b", {"x": "c0"}),
            Parameter("c0", positive=False, lower=-EXPONENT, upper=EXPONENT, role="exponent"),
        ]
        for i in range(1, breaks + 1):
            parameters += [
                Parameter(f"c{i}", positive=False, lower=-EXPONENT, upper=EXPONENT, role="exponent"),
                Parameter(f"d{i}", dimension={"x": 1}, role="scale", meaning="place of the break", within="x"),
                Parameter(f"f{i}", lower=0.05, upper=50.0, role="scale", meaning="width of the break"),
            ]
        self.parameters = tuple(parameters)

    def log_prediction(self, p: Namespace, v: Namespace) -> Any:
        total = p.log_b - p.c0 * v.log_x
        for i in range(1, self.breaks + 1):
            width = p[f"f{i}"]
            total = total - p[f"c{i}"] * width * softplus((v.log_x - p[f"log_d{i}"]) / width)
        return logaddexp(p.log_a, total)

    def guesses(self, v: Namespace, y: Array) -> list[Values]:
        found: list[tuple[float, Values]] = []
        places = np.quantile(v.log_x, np.linspace(0.1, 0.9, 9))
        for share in (1e-3, 0.5, 0.8, 0.95, 0.99):
            a = share * float(y.min())
            left = np.log(y - a)
            for chosen in combinations(places, self.breaks):
                for width in (0.05, 0.3, 1.0):
                    bends = [width * np.logaddexp(0.0, (v.log_x - d) / width) for d in chosen]
                    design = np.stack([np.ones_like(left), -v.log_x, *[-bend for bend in bends]], axis=1)
                    solved, *_ = np.linalg.lstsq(design, left, rcond=None)
                    fitted = np.log(a + np.exp(design @ solved))
                    values: dict[str, float] = {"a": a, "b": float(np.exp(solved[0])), "c0": float(solved[1])}
                    for i, d in enumerate(chosen, start=1):
                        values |= {f"c{i}": float(solved[1 + i]), f"d{i}": float(np.exp(d)), f"f{i}": width}
                    found.append((float(np.mean((fitted - np.log(y)) ** 2)), values))
        return [values for _, values in sorted(found, key=lambda item: item[0])[:8]]


EXPONENT = 8.0
