"""Results of studies that never ran: losses follow a known law, answers and fits are computed from them.

The law is E + A/N^alpha + B/(gain D)^beta, where an arm's `gain` is its worth in data; a root adds noise that
all its runs share, a run adds its own. So an arm's worth, its interval and the fitted law have a known truth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy import stats
from synthetic_law import LAW, fitted_law

BATCH, WARMUP, SHARE = 1024, 20, 0.2
RATES = (2e-3, 4e-3, 8e-3)
Json = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """What is drawn: arms with their worth in data, sizes, lengths in updates, seeds."""

    gains: dict[str, float]
    widths: tuple[int, ...] = (32, 48, 64, 96)
    lengths: tuple[int, ...] = (200, 400, 800)
    extra: int = 1600
    seeds: int = 3
    noise: float = 0.012


QUICKSTART = Shape({"cosine": 1.0, "cooldown": 1.22, "averaged": 1.04})


ONE_SEED = Shape({"cosine": 1.0, "cooldown": 1.2}, widths=(32, 48), lengths=(200, 400), seeds=1)
ONE_SIZE = Shape({"cosine": 1.0, "cooldown": 1.2}, widths=(64,), lengths=(200, 400, 800))
ONE_ARM = Shape({"cosine": 1.0}, widths=(32, 48, 64), lengths=(200, 400), extra=0)
MANY_ARMS = Shape({f"arm{i}": 1 + 0.03 * i for i in range(12)}, widths=(32, 64, 96), lengths=(200, 400), extra=0)
LARGE = Shape(
    {f"arm{i}": 1 + 0.05 * i for i in range(9)},
    widths=(32, 48, 64, 96, 128, 192),
    lengths=(200, 400),
    extra=0,
    seeds=2,
)


def parameters(width: int) -> int:
    return 3 * (4 * width**2 + 8 * width**2) + 7 * width


def true_loss(n: float, d: float, gain: float) -> float:
    return LAW["E"] + LAW["A"] / n ** LAW["alpha"] + LAW["B"] / (gain * d) ** LAW["beta"]


def study(shape: Shape = QUICKSTART, name: str = "quickstart") -> Json:
    """A finished study of `shape`, as a result dict of schema 1."""
    rng = np.random.default_rng(7)
    runs = _runs(shape, rng)
    baseline, *others = shape.gains
    worth = [_worth(runs, shape, arm, width) for arm in others for width in shape.widths]
    tree = _tree(shape)
    shared = sum(edge["end"] - edge["start"] for edge in tree)
    unshared = sum(run["S"] for run in runs)
    roots = len(shape.widths) * shape.seeds
    per_update = sum(run["C"] for run in runs) / unshared
    overall = [_overall(worth, arm) for arm in others]
    best = max(overall, key=lambda entry: entry["data"]["ratio"] or 0) if overall else None
    return {
        "schema": 1,
        "study": name,
        "question": "Is a constant learning rate with a short cooldown worth more than cosine?",
        "command": f"isoloss run {name}.yaml",
        "created": "2026-01-15T12:30:00+00:00",
        "isoloss": "0.1.0",
        "summary": _summary(best, baseline),
        "provenance": {
            "numerics": {
                "torch": "2.13.0",
                "device": "cpu",
                "threads": 1,
                "precision": "bf16-master",
                "compiled": False,
            },
            "data": {
                "source": "synthetic law",
                "digest": "9f2c" * 16,
                "train tokens": 8_912_345,
                "validation bytes": 0.0903,
            },
            "versions": {"isoloss": "0.1.0", "python": "3.11.9", "torch": "2.13.0", "numpy": "2.4.6"},
            "study_file": f"study: {name}\ndata: {{source: synthetic}}\nbaseline: {baseline}\narms:\n"
            + "".join(f"  {arm}: {{}}\n" for arm in shape.gains),
            "store": f"{name}.store",
        },
        "units": {"D": "tokens", "loss": "nats per byte"},
        "arms": [_arm(arm, arm == baseline, shape) for arm in shape.gains],
        "runs": runs,
        "metrics": _metrics(runs, shape),
        "worth": worth,
        "worth_overall": overall,
        "laws": [law for arm in shape.gains if (law := fitted_law(runs, arm)) is not None],
        "sharing": {
            "updates": {"shared": shared, "unshared": unshared},
            "flops": {"shared": shared * per_update, "unshared": unshared * per_update},
            "replayed": 0,
            "evaluation_flops": 3.1e13,
            "tuning": {"updates": 3 * 2 * 3 * 200, "flops": 2.2e14},
            "closed_form": {
                "ratio": shared / unshared,
                "formula": f"({shared // max(1, roots)} updates a root) / sum of lengths",
            },
        },
        "tree": tree,
        "caveats": [
            "cooldown: the learning rate of the smallest size is at the edge of its grid.",
            "Sizes span less than two decades: a trend with size may bend outside this range.",
        ],
    }


def _metrics(runs: list[Json], shape: Shape) -> list[Json]:
    """Loss and an accuracy made from it at each arm's longest length; an AUROC that one arm does not have."""
    rows = []
    for arm, width in product(shape.gains, shape.widths):
        ends = [
            run["loss"]
            for run in runs
            if (run["arm"], run["N"], run["S"]) == (arm, parameters(width), shape.lengths[-1])
        ]
        readings = {"loss": ends, "accuracy": [1 / loss for loss in ends], "auroc": [0.5] if arm == "cosine" else []}
        for name, values in readings.items():
            rows.append(
                {
                    "arm": arm,
                    "N": parameters(width),
                    "D": shape.lengths[-1] * BATCH,
                    "cell": {"model.width": width},
                    "metric": name,
                    "mean": float(np.mean(values)) if values else None,
                    "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                    "seeds": len(values),
                }
            )
    return rows


def _runs(shape: Shape, rng: np.random.Generator) -> list[Json]:
    baseline = next(iter(shape.gains))
    runs = []
    for width, seed in product(shape.widths, range(shape.seeds)):
        n, root_noise = parameters(width), rng.normal(0, shape.noise)
        for arm, gain in shape.gains.items():
            for length in (*shape.lengths, *((shape.extra,) if arm == baseline and shape.extra else ())):
                final = true_loss(n, length * BATCH, gain) + root_noise + rng.normal(0, shape.noise / 4)
                runs.append(_run(arm, width, seed, length, gain=gain, final=final, extra=length == shape.extra))
    return runs


def _run(arm: str, width: int, seed: int, length: int, *, gain: float, final: float, extra: bool) -> Json:
    n = parameters(width)
    every = [u for u in (1, 10, 25, 50, 100, 150, 200, 300, 400, 600, 800, 1200, 1600, 2400, 3200) if u < length]
    offset = final - true_loss(n, length * BATCH, gain)

    def during(update: int) -> float:
        # Annealing gains its last 6 % in the final fifth, as a cooldown does.
        left = min(1.0, (length - update) / (SHARE * length))
        settled = (true_loss(n, update * BATCH, gain) + offset) * (1 + 0.06 * left)
        return math.log(256) if update <= 8 else max(math.log(256) * math.exp(-update / 30), settled)

    points = [*every, length]
    losses = [min(during(u), math.log(256)) for u in points[:-1]] + [final]
    flops = 6.0 * n * length * BATCH
    thin = list(range(5, length + 1, max(5, length // 80)))
    wave = [min(during(u), math.log(256)) + 0.02 * math.sin(u * 1.7) for u in thin]
    return {
        "id": f"{arm}-{width}-{length}-{seed}", "arm": arm,
        "cell": {"model.width": width, "duration": f"{length} updates", "seed": seed},
        "seed": seed, "root": f"{width}-{seed}", "N": n, "N_total": n + 512 * width,
        "D": length * BATCH, "S": length,
        "C": flops, "loss": final, "loss_a": final + 0.003, "status": "done", "message": None, "extra": extra,
        "curve": {"update": points, "loss": losses}, "train": {"update": thin, "loss": wave},
    }  # fmt: skip


def _worth(runs: list[Json], shape: Shape, arm: str, width: int) -> Json:
    """Equal-loss ratios a seed by log-log interpolation inside the overlap, and a t interval over seeds."""
    baseline, n = next(iter(shape.gains)), parameters(width)
    logs, targets = [], []
    for seed in range(shape.seeds):
        mine, theirs = (
            sorted((r["D"], r["loss"]) for r in runs if (r["arm"], r["N"], r["seed"]) == (who, n, seed))
            for who in (arm, baseline)
        )
        low = max(mine[-1][1], theirs[-1][1])
        high = min(mine[0][1], theirs[0][1])
        if low >= high:
            continue
        targets = [float(t) for t in np.geomspace(low, high, 5)]
        logs.append(float(np.mean([_needed(theirs, t) - _needed(mine, t) for t in targets])))
    return {
        "arm": arm, "N": n, **_measures(logs), "inverse": _measures([-v for v in logs]), "roots": len(logs),
        "targets": targets, "resolved": bool(logs), "note": None if logs else "ranges of loss do not overlap",
    }  # fmt: skip


def _needed(rows: list[tuple[float, float]], target: float) -> float:
    return float(np.interp(-math.log(target), [-math.log(loss) for _, loss in rows], [math.log(d) for d, _ in rows]))


def _interval(logs: list[float]) -> Json:
    if not logs:
        return {"ratio": None, "low": None, "high": None}
    middle = float(np.mean(logs))
    if len(logs) < 3:
        return {"ratio": math.exp(middle), "low": None, "high": None}
    half = float(stats.t.ppf(0.975, len(logs) - 1) * np.std(logs, ddof=1) / math.sqrt(len(logs)))
    return {"ratio": math.exp(middle), "low": math.exp(middle - half), "high": math.exp(middle + half)}


def _measures(logs: list[float]) -> Json:
    # One batch size: data and updates agree. Tuning is charged to compute, for every arm the same.
    return {measure: _interval(logs) for measure in ("data", "updates", "compute")}


def _overall(worth: list[Json], arm: str) -> Json:
    entries = [e for e in worth if e["arm"] == arm and e["data"]["ratio"]]
    logs = [math.log(e["data"]["ratio"]) for e in entries]
    if len(entries) >= 3:
        fit = stats.linregress([math.log(e["N"]) for e in entries], logs)
        half = float(stats.t.ppf(0.975, len(entries) - 2) * fit.stderr)
        low, high = fit.slope - half, fit.slope + half
        verdict = "growing" if low > 0 else "fading" if high < 0 else "steady" if half < 0.1 else "not resolved"
        trend = {"slope": float(fit.slope), "low": float(low), "high": float(high), "verdict": verdict}
        trend["band"] = _band([e["N"] for e in entries], logs)
    else:
        trend = {"slope": None, "low": None, "high": None, "verdict": "not resolved"}
    bounded = all(e["data"]["low"] is not None for e in entries)
    logs = logs if bounded else [float(np.mean(logs))] if logs else []  # too few seeds: a ratio without an interval
    trends = {measure: trend for measure in ("data", "updates", "compute")} if "band" in trend else {}
    found = {"arm": arm, **_measures(logs), "inverse": _measures([-v for v in logs]), "trend": trend, "trends": trends}
    return found | {"compute with tuning": _interval([0.5 * v for v in logs])}


def _band(sizes: list[float], logs: list[float]) -> Json:
    """The regression line of log worth in log N with the interval of its mean (Student's t), as far as four times N."""
    x, at = np.log(sizes), np.log(np.geomspace(sizes[0] / 1.5, 4 * sizes[-1], 20))
    fit = stats.linregress(x, logs)
    middle = fit.intercept + fit.slope * at
    left = np.asarray(logs) - fit.intercept - fit.slope * x
    freedom = len(x) - 2
    error = math.sqrt(float(left @ left) / freedom) * np.sqrt(
        1 / len(x) + (at - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()
    )
    half = float(stats.t.ppf(0.975, freedom)) * error
    ends = {"ratio": middle, "low": middle - half, "high": middle + half}
    return {"N": np.exp(at).tolist(), **{name: np.exp(values).tolist() for name, values in ends.items()}}


def _summary(best: Json | None, baseline: str) -> list[str]:
    if best is None or best["data"]["ratio"] is None:
        return []
    found = best["data"]
    bounds = f" [{found['low']:.2f}, {found['high']:.2f}]" if found["low"] is not None else ""
    return [
        f"At equal loss, {best['arm']} is worth {found['ratio']:.2f}×{bounds} the data of {baseline}.",
        f"Trend with size: {best['trend']['verdict']}.",
    ]


def _arm(name: str, baseline: bool, shape: Shape) -> Json:
    tuned = (shape.widths[0], shape.widths[-1])
    edge = name == "cooldown"
    return {
        "name": name,
        "baseline": baseline,
        "line": {
            "cosine": "cosine to 10 % over the whole run",
            "cooldown": "constant, then 1-sqrt over the last 20 %",
            "averaged": "constant, mean of the last 100 updates",
        }.get(name, "synthetic arm"),
        "lr": [
            {
                "N": parameters(w),
                "width": w,
                "lr": _lr(name, w),
                "rule": "tuned" if w in tuned else "between",
                "edge": edge and w == tuned[0],
            }
            for w in shape.widths
        ],
        "tuning": {
            "candidates": list(RATES),
            "runs": 6,
            "updates": 1200,
            "flops": 7.3e13,
            "choices": [
                {"N": parameters(w), "losses": [[lr, _tuning_loss(lr, _lr(name, w), w)] for lr in RATES]}
                for w in tuned
            ],
        },
    }  # fmt: skip


def _tuning_loss(lr: float, best: float, width: int) -> float:
    """A rate off the best wastes data: a ninth of it for every factor of e."""
    return true_loss(parameters(width), 200 * BATCH, 1 - abs(math.log(lr / best)) / 9)


def _lr(name: str, width: int) -> float:
    return 8e-3 if name == "cooldown" and width == 32 else 4e-3


def _tree(shape: Shape) -> list[Json]:
    """Per width, seed and peak LR: a shared warm-up, one trunk, cooldowns off it, and every cosine."""
    baseline = next(iter(shape.gains))
    edges: list[Json] = []

    def add(parent: str | None, span: tuple[int, int], arms: list[str], cells: int, kind: str, **more: Any) -> str:
        edge = {"id": f"e{len(edges)}", "parent": parent, "start": span[0], "end": span[1], "arms": arms}
        n = parameters(more["cell"]["model.width"])
        edge |= {"N": n, "flops": 6.0 * n * BATCH * (span[1] - span[0])}
        edges.append({**edge, "cells": cells, "label": kind, "kind": kind, "reused": cells > 1, **more})
        return edge["id"]

    for width, seed in product(shape.widths, range(shape.seeds)):
        rates: dict[float, list[str]] = {}
        for arm in shape.gains:
            rates.setdefault(_lr(arm, width), []).append(arm)
        for lr, arms in rates.items():
            more = {"lr": lr, "cell": {"model.width": width, "seed": seed}}
            cosines = [*shape.lengths, *([shape.extra] if shape.extra else [])] if baseline in arms else []
            riders = [arm for arm in arms if arm != baseline]
            cooled = [arm for arm in riders if arm != "averaged"]
            passing = len(cosines) + len(riders) * len(shape.lengths)
            node = add(None, (0, WARMUP), arms, passing, "warmup", **more)
            for length in cosines:
                add(node, (WARMUP, length), [baseline], 1, "branch", **more)
            at = WARMUP
            for index, length in enumerate(shape.lengths if riders else ()):
                left = len(shape.lengths) - index
                fork = round(length * (1 - SHARE))
                if cooled:
                    node = add(node, (at, fork), riders, left * len(riders), "trunk", **more)
                    for arm in cooled:
                        add(node, (fork, length), [arm], 1, "branch", **more)
                    at = fork
                if "averaged" in riders:
                    rest = [arm for arm in riders if arm == "averaged" or index < len(shape.lengths) - 1]
                    node = add(node, (at, length), rest, left, "trunk", **more)
                    at = length
    return edges


def nothing() -> Json:
    """A study whose tuning has not ended: no run is planned yet."""
    result = study(ONE_SEED)
    gone = {key: [] for key in ("runs", "metrics", "worth", "worth_overall", "laws", "tree", "arms")}
    return {**result, **gone, "summary": ["No run is finished: tuning comes first."], "sharing": {}}


def empty() -> Json:
    """A study in which no run has finished: some diverged, some failed, the rest never started."""
    result = study(Shape({"cosine": 1.0, "cooldown": 1.2}, widths=(32,), lengths=(200,), extra=0, seeds=2))
    for run, (status, message) in zip(
        result["runs"],
        [("diverged", "loss is nan at update 37"), ("failed", "no space left on device"), ("missing", None)] * 2,
        strict=False,
    ):
        run.update(status=status, message=message, loss=math.nan if status == "diverged" else None, loss_a=None)
        run.update(curve={"update": [], "loss": []}, train={"update": [], "loss": []})
    return {
        **result,
        "summary": [],
        "worth": [],
        "worth_overall": [],
        "laws": [],
        "caveats": [],
        "sharing": {},
    }


def one_variable() -> Json:
    """Laws that know D only, without intervals, at another confidence level."""
    result = study(ONE_SIZE)
    mine = [run for run in result["runs"] if run["arm"] == "cosine"]
    x = np.geomspace(min(run["D"] for run in mine), 2 * max(run["D"] for run in mine), 30)
    floor = LAW["E"] + LAW["A"] / mine[0]["N"] ** LAW["alpha"]
    curve = {"N": None, "x": x.tolist(), "loss": (floor + LAW["B"] / x ** LAW["beta"]).tolist()}
    longest = max(mine, key=lambda run: run["D"])
    held = {"N": None, "D": longest["D"], "actual": longest["loss"], "predicted": curve["loss"][-1]}
    law = {
        "arm": "cosine", "law": "power", "formula": "E + B/D^beta", "rows": len(mine), "warnings": [],
        "parameters": [{"name": "E", "value": floor, "low": None, "high": None}],
        "curves": [{**curve, "low": None, "high": None}],
        "holdout": {"by": "D", "rmse": 0.01, "rows": [{**held, "low": None, "high": None}]},
    }  # fmt: skip
    return {**result, "laws": [law, {**law, "arm": "cooldown", "curves": [], "parameters": []}], "level": 0.9}


HOSTILE = (
    """<img src=x onerror="document.title='owned'"></script><script>document.title='owned'</script>"""
    """<b>b</b>{{ 7*7 }} $x_1$ [bold] & '"""
)


def hostile() -> Json:
    """Markup, a script end, template syntax and TeX in every text that a user or a message may bring in."""
    result = study(Shape({"_base": 1.0, HOSTILE: 1.2}, widths=(32, 64, 96), lengths=(200, 400)), name=HOSTILE)
    for key in ("question", "command"):
        result[key] = HOSTILE
    result["summary"] = [HOSTILE, HOSTILE]
    result["caveats"] = [HOSTILE]
    result["runs"][0].update(status="failed", message=HOSTILE, loss=None)
    result["arms"][1]["line"] = HOSTILE
    result["worth"][0]["note"] = HOSTILE
    result["metrics"][1].update(metric=HOSTILE, cell={HOSTILE: HOSTILE})
    result["provenance"]["study_file"] = HOSTILE
    result["provenance"]["versions"][HOSTILE] = HOSTILE
    result["units"] = {"D": HOSTILE, "loss": HOSTILE}
    for law in result["laws"]:
        law.update(formula=HOSTILE, warnings=[HOSTILE])
    for edge in result["tree"]:
        edge.update(label=HOSTILE, tuning=edge["kind"] == "branch")
        edge["cell"][HOSTILE] = HOSTILE
    return result
