"""Advice on transfer from a measured law: the multiplier to expect, more data or more parameters, what to run next.

    D_E(D_F, N) = D_F + k D_F^alpha N^beta

Intervals are Student's t on log D_T with the covariance over roots and the law's own scatter (a new cell has both);
what is not linear in (log k, alpha, beta) goes through its gradient. What further runs would bring is simulated on the
design: synthetic cells by the law with the measured noise, refitted with and without the candidate runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from isoloss.laws import LawError, Points, expected_intervals, fit
from isoloss.recipe.errors import nearest
from isoloss.worth.compare import LEVEL
from isoloss.worth.transfer import regime
from isoloss.worth.transfer_law import Model, restored
from isoloss.worth.transfer_text import amount

SHARES = (0.01, 0.1)
"""Shares of the target data at which runs are cheap and tell most (Hernandez et al. 2021, discussion)."""
STEP = 10.0
"""Factor by which more data and more parameters are compared."""
REPLICATES = 1000
LEAST_NOISE = 1e-3
CLOSE = 0.02
"""A planned size this near to a measured one is that size: printed sizes are rounded."""
BEYOND = "more than the curve from scratch"
VERDICTS = {
    "data": "more data helps more",
    "size": "a larger model helps more",
    "not resolved": "which of the two helps more is not resolved",
}


def advise(
    found: Mapping[str, Any],
    *,
    target_data: float,
    params: float,
    source: str | None = None,
    seeds: int = 3,
    step: float = STEP,
) -> dict[str, Any]:
    """Advice for one budget from the answer of `worth.transfer`, as JSON types: {"sources": [...], "text": [...]}.

    target_data: unique target data at hand, in the unit of the answer. params: N of the planned model. seeds: of each
    candidate run. source: one source only. Raises ValueError for numbers out of range, an unknown source, and where no
    source has a law (the message says which runs would give one).
    """
    if not (target_data > 0 and params > 0 and seeds >= 1 and step > 1):
        raise ValueError(
            f"advise transfer: target data {target_data:g}, params {params:g}, seeds {seeds}, step {step:g}; "
            "allowed: above 0, above 0, 1 or more, above 1"
        )
    laws = {law["source"]: law for law in found["laws"]}
    if source is not None and source not in laws:
        raise ValueError(
            f"advise transfer: no source {source!r}; found: {', '.join(laws) or 'none'}{nearest(source, laws)}"
        )
    chosen = [law for name, law in laws.items() if source in (None, name)]
    usable = [law for law in chosen if not law["reason"]]
    if not usable:
        told = "; ".join(f"{law['source']}: {law['reason']}" for law in chosen)
        data = " and ".join(amount(share * target_data) for share in SHARES)
        # Cells that lie beyond the curve count as soon as it is longer.
        beyond = max((law["left_out"].get(BEYOND, 0) for law in chosen), default=0)
        longer = f", which must be longer: {beyond} cells are worth {BEYOND} shows" if beyond else ""
        raise ValueError(
            f"advise transfer: no law of transfer to advise from ({told}); fine-tune on {data} {found['unit']} "
            f"at N = {amount(params / STEP)} and {amount(params)}, with the curves from scratch of both sizes{longer}"
        )
    advice = [_advice(found, law, target_data, params, seeds, step) for law in usable]
    record: dict[str, Any] = {"unit": found["unit"], "level": LEVEL, "target_data": target_data, "params": params}
    record |= {"step": step, "sources": advice}
    return record | {"text": [sentence for one in advice for sentence in _sentences(one, record)]}


def _advice(
    found: Mapping[str, Any], law: Mapping[str, Any], D: float, N: float, seeds: int, step: float
) -> dict[str, Any]:
    model = restored(law)
    log_T, low, high = model.interval(_x(D, N), new_cell=True)
    multiplier = {
        name: None if v is None else 1.0 + math.exp(v) / D
        for name, v in (("value", log_T), ("low", low), ("high", high))
    }
    data, size = (_gain(model, (D, N), place) for place in ((D * step, N), (D, N * step)))
    apart, helps = _compared(model, D, N, step)
    loss = _losses(found["sizes"], model, D, N, step)
    alpha, beta = law["alpha"]["estimate"], law["beta"]["estimate"]
    return {
        "source": law["source"],
        "multiplier": multiplier,
        "D_E": {name: None if v is None else v * D for name, v in multiplier.items()},
        "more_data": data,
        "more_params": size,
        "data_over_params": apart,
        "helps_more": helps,
        "size_in_target_data": step ** (beta / alpha) if alpha > 0 and beta / alpha < 30 else None,
        "loss": loss,
        "runs": _runs(law, D, N, seeds),
        "cautions": _cautions(found, law, D, N) + _disagreement(helps, loss),
    }


def helps_more(law: Mapping[str, Any], D: float, N: float, step: float = STEP) -> str:
    """Which gives more effective data by a law's record, `step` times the data or the parameters: a key of VERDICTS."""
    return _compared(restored(law), D, N, step)[1]


def _compared(model: Model, D: float, N: float, step: float) -> tuple[dict[str, float | None], str]:
    """(D_E with more data over D_E with more parameters, verdict)."""
    apart = _interval(model, *_difference(model, (D, N * step), (D * step, N)))
    if apart["low"] is not None and apart["low"] > 1:
        return apart, "data"
    if apart["high"] is not None and apart["high"] < 1:
        return apart, "size"
    return apart, "not resolved"


def _x(D: float, N: float) -> np.ndarray:
    return np.array([1.0, math.log(D), math.log(N)])


def _log_D_E(model: Model, place: tuple[float, float]) -> tuple[float, np.ndarray]:
    """(log D_E, its gradient in theta)."""
    x = _x(*place)
    T = math.exp(float(x @ model.theta))
    return math.log(place[0] + T), T / (place[0] + T) * x


def _difference(model: Model, base: tuple[float, float], other: tuple[float, float]) -> tuple[float, np.ndarray]:
    (a, slope_a), (b, slope_b) = _log_D_E(model, base), _log_D_E(model, other)
    return b - a, slope_b - slope_a


def _gain(model: Model, base: tuple[float, float], other: tuple[float, float]) -> dict[str, float | None]:
    """D_E at `other` over D_E at `base`."""
    return _interval(model, *_difference(model, base, other))


def _interval(model: Model, value: float, gradient: np.ndarray) -> dict[str, float | None]:
    """exp of a smooth function of theta with its interval."""
    middle, low, high = model.interval(gradient)
    ends = [None if v is None else math.exp(value + v - middle) for v in (low, high)]
    return {"value": math.exp(value), "low": ends[0], "high": ends[1]}


def _losses(sizes: Sequence[Mapping[str, Any]], model: Model, D: float, N: float, step: float) -> dict[str, Any] | None:
    """Losses L(N, D_E) by a law of the curves from scratch; tentative, None where three sizes do not determine one."""
    rows = [(s["N"], point["D"], point["loss"]) for s in sizes for point in s["curve"]]
    if len(sizes) < 3 or len(rows) < 9:
        return None
    columns = np.array(rows).T
    try:
        scratch = fit(Points(N=columns[0], D=columns[1], loss=columns[2]), "chinchilla", loss="squared")
    except LawError:
        return None
    places = {"now": (D, N), "more_data": (D * step, N), "more_params": (D, N * step)}
    told = {name: scratch.predict(N=at[1], D=math.exp(_log_D_E(model, at)[0])) for name, at in places.items()}
    # Closer than the law of the curves describes its own points is no difference.
    apart = math.log(told["more_params"] / told["more_data"])
    better = "not resolved" if abs(apart) <= scratch.rmse else "data" if apart > 0 else "size"
    return {**told, "rmse": scratch.rmse, "helps_more": better}


def _runs(law: Mapping[str, Any], D: float, N: float, seeds: int) -> list[dict[str, Any]]:
    """Candidate runs, best first: the expected interval of the multiplier before and after, by simulation."""
    measured = [tuple(cell) for cell in law["design"]]
    sizes = {cell[0] for cell in measured}
    near = min(sizes, key=lambda size: abs(math.log(size / N)))
    N = near if abs(math.log(near / N)) < CLOSE else N
    # A smaller size is cheap; one that is measured has its curve from scratch already.
    other = max(N / STEP, min(sizes)) if min(sizes) < N else min(size for size in sizes if size > N)
    candidates = [(size, share * D) for size in sorted({other, N}) for share in SHARES]
    noise = max(law["scatter"] if law["noise"] is None else law["noise"], LEAST_NOISE)
    # The logit form is the same law with the same noise, and its alpha may have any sign.
    parameters = {
        "k": law["k"]["estimate"],
        "transfer": 1.0 - law["alpha"]["estimate"],
        "beta": law["beta"]["estimate"],
    }

    def worth(p: Mapping[str, Any]) -> Any:
        return np.log1p(np.exp(np.log(p["k"]) - p["transfer"] * math.log(D) + p["beta"] * math.log(N)))

    def width(added: Sequence[tuple[float, float]]) -> float:
        cells = [(n, d, law["roots"]) for n, d in measured] + [(n, d, seeds) for n, d in added]
        rows = [(n, d, i) for i, (n, d, repeats) in enumerate(cells) for _ in range(repeats)]
        points = Points(N=[r[0] for r in rows], D_F=[r[1] for r in rows], cluster=[r[2] for r in rows])
        spread = expected_intervals(
            points,
            "transfer-fraction",
            parameters,
            {"worth": worth},
            noise=noise,
            cluster_noise=law["scatter"],
            cluster="cluster",
            replicates=REPLICATES,
            level=LEVEL,
        )["worth"]
        return math.exp(spread.width)

    before = width([])
    options = [[one] for one in candidates] + [candidates]
    found: list[dict[str, Any]] = [
        {
            "runs": [{"N": n, "D_F": d} for n, d in added],
            "seeds": seeds,
            "before": before,
            "after": width(added),
            "needs_curves_at": sorted({n for n, _ in added} - sizes),
        }
        for added in options
    ]
    alone = sorted(found[:-1], key=lambda run: float(run["after"]))
    return [*alone, found[-1]]


def _cautions(found: Mapping[str, Any], law: Mapping[str, Any], D: float, N: float) -> list[str]:
    said = []
    for name, value in (("D_F", D), ("N", N)):
        low, high = law["range"][name]
        if not low * (1 - CLOSE) <= value <= high * (1 + CLOSE):
            far = value / high if value > high else low / value
            said.append(
                f"{name} = {amount(value)} is {far:.3g}x outside of the measured {amount(low)} to {amount(high)}: "
                "extrapolated"
            )
    nearby = min(found["sizes"], key=lambda s: abs(math.log(s["N"] / N)))
    where = regime(D, nearby["D_infinite"])
    if where == "beyond":
        said.append(
            f"{amount(D)} is more than 10 % of D(N) at N = {amount(nearby['N'])}: the law may overstate transfer there"
        )
    ossified = [c for c in found["cells"] if c["source"] == law["source"] and c["ossified"]]
    if ossified:
        first = min(c["D_F"] for c in ossified)
        said.append(f"ossification was found from D_F = {amount(first)} on: compare with training from scratch")
    if law["left_out"].get(BEYOND):
        said.append("cells beyond the curve from scratch are left out of the law, so it is a low estimate")
    return said


def _disagreement(helps: str, loss: Mapping[str, Any] | None) -> list[str]:
    """Effective data is counted on each size's own curve, so it leaves out that a larger model has a lower curve."""
    if loss is None or {helps, loss["helps_more"]} != {"data", "size"}:
        return []
    return [
        "effective data and loss disagree on what helps more: a larger model also needs less data for the same loss; "
        "go by the loss if the curves from scratch cover the plan"
    ]


def _sentences(one: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    step, unit = record["step"], record["unit"]
    said = [
        f"{one['source']}: {amount(record['target_data'], unit)} with N = {amount(record['params'])} should be worth "
        f"{_value(one['multiplier'])}x as much from scratch."
    ]
    gains = (
        f"{step:g}x the data gives {_value(one['more_data'])}x, {step:g}x the parameters {_value(one['more_params'])}x"
    )
    said.append(f"{one['source']}: in effective data, {gains}: {VERDICTS[one['helps_more']]}.")
    loss = one["loss"]
    if loss:
        said.append(
            f"{one['source']}: in loss (tentative), {loss['now']:.4g} now, {loss['more_data']:.4g} with more data, "
            f"{loss['more_params']:.4g} with more parameters: {VERDICTS[loss['helps_more']]}."
        )
    best, everything = one["runs"][0], one["runs"][-1]
    run = best["runs"][0]
    said.append(
        f"{one['source']}: to sharpen this most, fine-tune N = {amount(run['N'])} on {amount(run['D_F'], unit)} with "
        f"{best['seeds']} seeds: by simulation, the ends of the law's own interval (without the scatter of single "
        f"cells) come from {best['before']:.3g}x to {best['after']:.3g}x apart; all {len(everything['runs'])} "
        f"suggested runs give {everything['after']:.3g}x."
    )
    if best["needs_curves_at"]:
        said.append(
            f"{one['source']}: that needs the curve from scratch at N = {amount(best['needs_curves_at'][0])} too."
        )
    return said + [f"{one['source']}: {caution}." for caution in one["cautions"]]


def _value(value: Mapping[str, float | None]) -> str:
    band = "" if value["low"] is None or value["high"] is None else f" [{value['low']:.3g}, {value['high']:.3g}]"
    return f"{value['value']:.3g}{band}"
