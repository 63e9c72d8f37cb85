"""Learning-rate schedules as pure functions of the update: no objects, no state, nothing to resume.

Everything returns a multiplier of the peak learning rate. Updates count from 0.

    warm-up    (u + 1) / W                       u = 0 .. W-1; the last one is 1
    decay      final + (1 - final) f(u / n)      u = 0 .. n-1; from f(0) = 1 to f((n-1)/n), not yet f(1)
    f(x)       1 - x, 1 - sqrt(x), (1 + cos(pi x)) / 2, 2 (1 - x) - (1 + cos(pi x)) / 2, 1 - x^2, 1 - x^a
    exponential decay                            final^x, so it needs final > 0

Forms and check values: Haegele et al. 2024 (arXiv 2405.18392), appendix B.1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from functools import partial

from isoloss.recipe.errors import nearest

Form = Callable[[float], float]


def linear(x: float) -> float:
    """1 - x."""
    return 1.0 - x


def one_minus_sqrt(x: float) -> float:
    """1 - sqrt(x): the best cooldown of Haegele et al. 2024."""
    return 1.0 - math.sqrt(x)


def cosine(x: float) -> float:
    """(1 + cos(pi x)) / 2 (Loshchilov and Hutter 2017, equation 5)."""
    return 0.5 * (1.0 + math.cos(math.pi * x))


def mirror_cosine(x: float) -> float:
    """2 (1 - x) - (1 + cos(pi x)) / 2: cosine reflected at the straight line."""
    return 2.0 * (1.0 - x) - cosine(x)


def square(x: float) -> float:
    """1 - x^2."""
    return 1.0 - x * x


def power(x: float, exponent: float) -> float:
    """1 - x^exponent; as a shape: "power(0.5)", or `functools.partial(power, exponent=0.5)`.

    Raises ValueError unless exponent > 0.
    """
    if not exponent > 0:
        raise ValueError(f"power: exponent is {exponent!r}; allowed: above 0")
    return 1.0 - x**exponent


def exponential(x: float, final: float) -> float:
    """final^x, from 1 down to `final`. Raises ValueError unless 0 < final <= 1."""
    if not 0 < final <= 1:
        raise ValueError(f"exponential: final is {final!r}; allowed: above 0, up to 1 (it is final^x)")
    return math.exp(x * math.log(final))


FORMS: dict[str, Form] = {
    "linear": linear,
    "one_minus_sqrt": one_minus_sqrt,
    "cosine": cosine,
    "mirror_cosine": mirror_cosine,
    "square": square,
}
DECAYS = (*FORMS, "exponential")
SHAPES = ("constant", *DECAYS, "inverse_sqrt", "steps")


def form(shape: str) -> Form | None:
    """The form of a name of FORMS or of "power(a)"; None for other names. Raises ValueError for a bad exponent."""
    if found := re.fullmatch(r"power\((.*)\)", shape):
        try:
            exponent = float(found[1])
        except ValueError:
            exponent = math.nan
        if not 0 < exponent < math.inf:
            raise ValueError(
                f"shape {shape!r}: the exponent is {found[1]!r}; allowed: a number above 0, as in power(0.5)"
            )
        return partial(power, exponent=exponent)
    return FORMS.get(shape)


def warmup(update: int, length: int) -> float:
    """Multiplier of a linear warm-up: (update + 1) / length, 1 from its last update on.

    Raises ValueError for a negative update or length.
    """
    _at_least("update", update, 0)
    _at_least("length of the warm-up", length, 0)
    return 1.0 if update >= length else (update + 1) / length


def decay(update: int, length: int, *, shape: str | Form = "linear", final: float = 0.0) -> float:
    """Multiplier of decay update `update` of `length`: final + (1 - final) f(update / length).

    `shape` is a name of DECAYS, "power(a)" or any f with f(0) = 1, f(1) = 0. At update = length and after it is
    `final`, approached without a jump. Raises ValueError for an unknown shape or `final` outside [0, 1]
    (exponential: (0, 1]).
    """
    _at_least("update", update, 0)
    _at_least("length of the decay", length, 1)
    x = min(update / length, 1.0)
    if shape == "exponential":
        return exponential(x, final)
    if not 0 <= final <= 1:
        raise ValueError(f"decay: final is {final!r}; allowed: 0 to 1, a fraction of the peak")
    f = form(shape) if isinstance(shape, str) else shape
    if f is None:
        names = (*DECAYS, "power(a)")
        raise ValueError(f"decay: unknown shape {shape!r}; allowed: {', '.join(names)}{nearest(str(shape), names)}")
    return final + (1.0 - final) * f(x)


def inverse_sqrt(update: int, warmup: int = 1) -> float:
    """sqrt(W / max(update + 1, W)): 1 until a warm-up of W updates ends (Vaswani et al. 2017, equation 3)."""
    _at_least("update", update, 0)
    reference = max(warmup, 1)
    return math.sqrt(reference / max(update + 1, reference))


def steps(update: int, drops: Iterable[tuple[int, float]]) -> float:
    """Product of the factors of all drops (at, factor) with at <= update.

    Raises ValueError for a factor that is not above 0.
    """
    _at_least("update", update, 0)
    product = 1.0
    for at, factor in sorted(drops):
        if not factor > 0:
            raise ValueError(f"steps: factor is {factor!r} at update {at}; allowed: above 0")
        if update >= at:
            product *= factor
    return product


def multiplier(
    update: int,
    *,
    total: int,
    warmup: int = 0,
    shape: str | Form = "constant",
    final: float = 0.0,
    horizon: int | None = None,
    drops: Iterable[tuple[int, float]] = (),
    cooldown: tuple[str | Form, int, float] | None = None,
) -> float:
    """Multiplier of the peak learning rate at `update` of a whole run of `total` updates.

    A decay runs from the end of the warm-up to `horizon` (default `total`; longer: stopped early). `drops`
    belong to shape "steps", as (update, factor). `cooldown` = (form, length, final) decays the last `length`
    updates from the value that the shape has where the cooldown begins; `final` is a fraction of that value.
    Raises ValueError for an update outside the run, an unknown shape, or lengths that do not fit in the run.
    """
    _at_least("total", total, 1)
    _at_least("warmup", warmup, 0)
    if not 0 <= update < total:
        raise ValueError(f"multiplier: update is {update}; allowed: 0 to {total - 1} in a run of {total}")
    length = cooldown[1] if cooldown else 0
    if cooldown:
        _at_least("length of the cooldown", length, 1)
        if shape in DECAYS or callable(shape) or form(shape) is not None:
            raise ValueError(
                f"multiplier: shape {shape!r} already decays; a cooldown follows constant, inverse_sqrt or steps"
            )
    if warmup + length > total:
        raise ValueError(
            f"multiplier: warm-up of {warmup} and cooldown of {length} updates do not fit in {total}; "
            f"allowed: at most {total} together"
        )
    end = total if horizon is None else horizon
    if end < total:
        raise ValueError(f"multiplier: horizon is {end}; allowed: at least the {total} updates of the run")
    drops = tuple(drops)
    if drops and shape != "steps":
        raise ValueError(f"multiplier: drops belong to shape 'steps', found shape {shape!r}")
    start = total - length
    if cooldown and update >= start:
        fall, _, floor = cooldown
        level = _body(start, warmup=warmup, shape=shape, final=final, end=end, drops=drops)
        return level * decay(update - start, length, shape=fall, final=floor)
    if update < warmup:
        return (update + 1) / warmup
    return _body(update, warmup=warmup, shape=shape, final=final, end=end, drops=drops)


def lr(update: int, *, peak: float, total: int, **options: object) -> float:
    """Learning rate at `update`: `peak` x `multiplier(update, total=total, **options)`."""
    return peak * multiplier(update, total=total, **options)  # type: ignore[arg-type]


def _body(
    update: int,
    *,
    warmup: int,
    shape: str | Form,
    final: float,
    end: int,
    drops: tuple[tuple[int, float], ...],
) -> float:
    if shape == "constant":
        return 1.0
    if shape == "inverse_sqrt":
        return inverse_sqrt(update, warmup)
    if shape == "steps":
        return steps(update, drops)
    if isinstance(shape, str) and shape not in SHAPES and form(shape) is None:
        names = (*SHAPES, "power(a)")
        raise ValueError(f"multiplier: unknown shape {shape!r}; allowed: {', '.join(names)}{nearest(shape, names)}")
    return decay(update - warmup, max(end - warmup, 1), shape=shape, final=final)


def _at_least(what: str, value: int, low: int) -> None:
    if value < low:
        raise ValueError(f"schedule: {what} is {value}; allowed: at least {low}")
