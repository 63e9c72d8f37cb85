"""One offline page for a fitted law: fit, residuals, profiles, forecast fan, isoFLOP view, checklist."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from isoloss.laws import Draws, Fit, Holdout, LawError, Outlook, Points, ensemble, optimum
from isoloss.laws.allocation import flops_ratio
from isoloss.laws.checklist import checklist
from isoloss.laws.validate import reach
from isoloss.report import planner

Array = np.ndarray
Plot = dict[str, Any]
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#7f7f7f"
BAND = "rgba(0,114,178,0.18)"
PROFILED = 3
_RIVALS = {("N", "D"): ("chinchilla", "chinchilla-tied"), ("x",): ("m2", "m3")}
FAN_REACH = 100.0  # how far beyond the largest scale the forecast fan is drawn


def write_law_page(
    fit: Fit,
    path: str | Path,
    draws: Draws | None = None,
    holdout: Holdout | None = None,
    level: float = 0.9,
    refused: str = "",
) -> Path:
    """Write the page of a fit to `path` (a file, or a folder that gets index.html); return the file's path.

    draws give intervals and bands, holdout the held-out section and the calibration of the fan; refused says why
    there are no draws. Raises OSError where the place cannot be written.
    """
    target = Path(path)
    if target.suffix != ".html":
        target = target / "index.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(render(fit, draws, holdout, level, refused), encoding="utf-8")
    return target


def render(
    fit: Fit, draws: Draws | None = None, holdout: Holdout | None = None, level: float = 0.9, refused: str = ""
) -> str:
    """The page as text; draws that give no interval are left out, and the page says why."""
    from importlib.metadata import version

    from jinja2 import Environment, PackageLoader, select_autoescape

    from isoloss.report.assets import embed_json, plotly_js, text

    if draws is not None:
        try:
            draws.refuse_unusable()
        except LawError as error:
            draws, refused = None, str(error)
    plots: dict[str, Plot] = {}
    figures = []
    for title, caption, group in _figures(fit, draws, holdout, level):
        names = []
        for plot in group:
            names.append(f"plot-{len(plots)}")
            plots[names[-1]] = plot
        figures.append({"title": title, "caption": caption, "plots": names})
    environment = Environment(
        loader=PackageLoader("isoloss.report", "templates"),
        autoescape=select_autoescape(["j2", "html"]),
        trim_blocks=False,
    )
    return environment.get_template("law.html.j2").render(
        fit=fit,
        rows=len(fit.points),
        residual_name={"log": "log residuals", "logit": "logit residuals"}.get(fit.form.space, "residuals"),
        level=f"{level:.0%}",
        quantities=list(_quantities(fit, draws, level)),
        interval_note=_interval_note(draws, level, refused),
        interval_warnings=draws.notes if draws is not None else [],
        figures=figures,
        held_out=_held_out(holdout),
        choices=_choices(fit, draws),
        sensitivity=_sensitivity(fit),
        checklist=checklist(fit, holdout, draws, level),
        plots=embed_json(_finite(plots)),
        planner=_planner(fit, draws, level),
        planner_style=text("planner.css"),
        planner_script=text("planner.js"),
        # A closing script tag inside the library would end the element early.
        plotly_js=plotly_js().replace("</script", "<\\/script"),
        version=version("isoloss"),
    )


def _planner(fit: Fit, draws: Draws | None, level: float) -> dict[str, Any] | None:
    """The planner of a law of size and data; None for other laws."""
    try:
        return planner.view({"planner": planner.of_fit(Outlook.of(fit, draws, resample=False, level=level))})
    except LawError:
        return None


def _quantities(fit: Fit, draws: Draws | None, level: float) -> Iterator[dict[str, str]]:
    for name, value in (fit.parameters | fit.derived).items():
        pinned = name in fit.problem.fixed
        between, cut = "", ""
        if draws is not None and not pinned:
            found = draws.interval(name, level)
            between, cut = f"{found.low:.5g} to {found.high:.5g}", found.note
        note = "pinned" if pinned else fit.diagnosis.active.get(name, "")
        meaning = fit.form.parameter(name).meaning if name in fit.form.names else "derived"
        yield {
            "name": name,
            "value": f"{value:.10g}",
            "interval": between,
            "note": "; ".join(filter(None, (note, meaning, cut))),
        }


def _interval_note(draws: Draws | None, level: float, refused: str) -> str:
    if draws is None:
        return f"{refused or 'No intervals: none were asked for'}.".replace("no interval:", "No intervals:")
    return (
        f"{len(draws)} {draws.method} resamples of {draws.clusters} clusters by {draws.unit}: {draws.failed} failed, "
        f"{draws.redrawn} drawn again, {draws.at_bound} put a parameter at a bound; {draws.identification(level)}."
    )


def _sensitivity(fit: Fit) -> dict[str, Any]:
    names = [*fit.form.names, *fit.form.derived()]
    rows = [{"label": label, "cells": [f"{row[n]:.6g}" for n in names]} for label, row in fit.sensitivity().items()]
    return {"names": names, "rows": rows}


def _choices(fit: Fit, draws: Draws | None) -> dict[str, Any]:
    """One forecast, ten times beyond the largest scale, under choices nobody can defend alone."""
    points, columns = fit.points, list(fit.problem.columns.values())
    if {"N", "D"} <= set(fit.form.variables):
        N, D = points.numbers("N"), points.numbers("D")
        ratio = flops_ratio(points)
        others = {name: float(points.numbers(name).max()) for name in columns if name not in ("N", "D")}
        budget = 10.0 * float(np.max(ratio * N * D))
        best = optimum(fit.form, fit.parameters, budget, ratio, **others)
        size = float(best["N"]) if _inside(best["N"]) else float(N.max())
        place: dict[str, Any] = {"N": size, "D": budget / (ratio * size), **others}
    else:
        place = {name: float(points.numbers(name).max()) for name in columns}
        place[columns[-1]] *= 10.0
    options: dict[str, Any] = {"x": fit.x, "y": fit.response, "loss": fit.loss.kind, "weighted": fit.weighted}
    options |= {"delta": fit.loss.delta, "tau": fit.loss.tau, "cluster": fit.cluster}
    pinned = {name: fit.parameters[name] for name in fit.problem.fixed}
    comparable = fit.form.response == "loss" and not pinned
    rivals = [name for name in _RIVALS.get(fit.form.variables, ()) if comparable and name != fit.form.name]
    found = ensemble(
        points,
        fit.form,
        lambda variant: float(np.squeeze(variant.predict(**place))),
        rivals,
        by="C" if "C" in points else columns[-1],
        n=200,
        draws=draws,
        fixed=pinned,
        **options,
    )
    low, high = found.range
    rows = [[label, f"{value:.5g}"] for label, value in found.answers.items()]
    rows += [[label, f"not fitted: {reason}"] for label, reason in found.failed.items()]
    sentence = f"From {low:.4g} to {high:.4g} over these choices."
    if found.statistical is not None:
        sentence += f" The 90% bootstrap interval of the first is {found.statistical.low:.4g} to "
        sentence += f"{found.statistical.high:.4g}."
    return {
        "place": ", ".join(f"{name} = {value:.3g}" for name, value in place.items()),
        "rows": rows,
        "sentence": sentence,
    }


def _held_out(holdout: Holdout | None) -> dict[str, Any] | None:
    if holdout is None:
        return None
    others = ", ".join(f"{name} {value:.4f}" for name, value in holdout.baselines.items())
    columns = list(holdout.rows[0])
    space = holdout.fit.form.to_space
    worst = sorted(holdout.rows, key=lambda row: -abs(float(space(row["predicted"]) - space(row["actual"]))))[:25]
    return {
        "sentence": f"Fitted below {holdout.by} = {holdout.threshold:.4g} and scored on {len(holdout.rows)} "
        "rows above: rmse "
        f"{holdout.rmse:.4f}, bias {holdout.bias:+.4f}, {holdout.coverage:.0%} inside the "
        f"{holdout.level:.0%} band "
        f"(median width {holdout.width:.3f}). Baselines: {others}. The rows with the largest errors:",
        "columns": columns,
        "rows": [[f"{row[name]:.5g}" for name in columns] for row in worst],
    }


def _figures(
    fit: Fit, draws: Draws | None, holdout: Holdout | None, level: float
) -> Iterator[tuple[str, str, list[Plot]]]:
    yield "Fit", "Every row against its prediction; the line is equality.", [_parity(fit)]
    names = [n for n in dict.fromkeys([*fit.problem.columns.values(), "C"]) if n in fit.points]
    yield (
        "Residuals",
        "Observed minus predicted. A trend or a bend along any of these says that the form is wrong there.",
        [_residuals(fit, name) for name in names],
    )
    profiles = [plot for plot in (_profile(fit, name, level) for name in _profiled(fit)) if plot]
    if profiles:
        yield (
            "Profiles",
            "Best objective with one parameter held, as a likelihood-ratio statistic; below the dashed "
            f"line is the {level:.0%} "
            "range if rows were independent. A flat side means that the rows set no limit there.",
            profiles,
        )
    yield (
        "Forecast fan",
        "The mean curve beyond the rows. " + _fan_caption(fit, draws, holdout),
        [_fan(fit, draws, holdout, level)],
    )
    view = _isoflop(fit)
    if view:
        yield (
            "IsoFLOP view",
            "Loss against size at equal compute, from the fitted surface; dots are rows within 0.05 decades "
            "of each "
            "compute, crosses the optima. A view: the surface is what was fitted.",
            [view],
        )


def _parity(fit: Fit) -> Plot:
    observed = fit.form.from_space(fit.problem.y)
    predicted = fit.form.from_space(fit.problem.y - fit.residuals)
    low, high = float(min(observed.min(), predicted.min())), float(max(observed.max(), predicted.max()))
    texts = [", ".join(f"{n} {fit.points.columns[n][i]:.4g}" for n in _columns(fit)) for i in range(len(observed))]
    colour = np.log10(fit.points.numbers(_columns(fit)[0]))
    return {
        "data": [
            {"x": predicted, "y": observed, "text": texts, "mode": "markers", "name": "rows",
             "marker": {"color": colour, "colorscale": "Viridis", "size": 7,
                        "colorbar": {"title": {"text": f"log10 {_columns(fit)[0]}"}}}},
            {"x": [low, high], "y": [low, high], "mode": "lines", "line": {"color": GREY}, "name": "equal"},
        ],
        "layout": {"xaxis": {"title": {"text": "predicted"}, "type": _axis(low)},
                   "yaxis": {"title": {"text": "observed"}, "type": _axis(low)}, "showlegend": False},
    }  # fmt: skip


def _columns(fit: Fit) -> list[str]:
    return [name for name in fit.problem.columns.values() if name in fit.points.columns] or ["row"]


def _axis(low: float) -> str:
    return "log" if low > 0 else "linear"


def _residuals(fit: Fit, name: str) -> Plot:
    width = fit.loss.delta
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": name}, "type": "log"},
        "yaxis": {"title": {"text": "residual"}},
        "showlegend": False,
        "shapes": [
            {
                "type": "rect",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": -width,
                "y1": width,
                "fillcolor": BAND,
                "line": {"width": 0},
            }
        ],
    }
    return {
        "data": [
            {
                "x": fit.points.numbers(name),
                "y": fit.residuals,
                "mode": "markers",
                "type": "scatter",
                "marker": {"color": BLUE, "size": 6},
            }
        ],
        "layout": layout,
    }


def _profiled(fit: Fit) -> list[str]:
    free = [name for name in fit.form.names if name not in fit.problem.fixed]
    order = sorted(
        free, key=lambda name: (fit.form.parameter(name).role != "exponent" and name != "E", free.index(name))
    )
    return order[:PROFILED]


def _profile(fit: Fit, name: str, level: float) -> Plot | None:
    from scipy.special import chdtri

    try:
        found = fit.profile(name, points=17)
    except LawError:
        return None
    limit = float(chdtri(1, 1.0 - level))
    return {
        "data": [
            {"x": found.values, "y": np.minimum(found.statistic, 6 * limit), "mode": "lines",
             "line": {"color": BLUE}, "name": name},
            {"x": [found.values.min(), found.values.max()], "y": [limit, limit], "mode": "lines",
             "line": {"color": GREY, "dash": "dash"}, "name": f"{level:.0%}"},
        ],
        "layout": {"xaxis": {"title": {"text": name}}, "showlegend": False,
                   "yaxis": {"title": {"text": "statistic"}, "range": [0, 5 * limit]}},
    }  # fmt: skip


def _along(fit: Fit) -> str:
    return "D" if fit.form.name == "data-constrained" else list(fit.problem.columns.values())[-1]


def _calibrated(fit: Fit, holdout: Holdout | None) -> bool:
    """Whether the past forecasts were scored along something that grows along the fan."""
    if holdout is None:
        return False
    along, columns = _along(fit), set(fit.problem.columns.values())
    return holdout.by == along or (holdout.by == "C" and along in ("N", "D") and {"N", "D"} <= columns)


def _fan_caption(fit: Fit, draws: Draws | None, holdout: Holdout | None) -> str:
    if draws is None:
        return "There is no band: the fit was not resampled."
    if holdout is None:
        return "The band is bootstrap spread only and too narrow for new rows; --holdout calibrates it."
    if not _calibrated(fit, holdout):
        return (
            f"The band is bootstrap spread only and too narrow for new rows: the hold-out scored forecasts along "
            f"{holdout.by}, which says nothing about {_along(fit)}."
        )
    return f"The band joins bootstrap spread and the errors of earlier forecasts along {holdout.by}."


def _fan(fit: Fit, draws: Draws | None, holdout: Holdout | None, level: float) -> Plot:
    """The law along its last variable (data, steps) at the largest well-measured value of the others."""
    columns = list(fit.problem.columns.values())
    along = _along(fit)
    start, end = float(fit.points.numbers(along).min()), float(fit.points.numbers(along).max())
    x = np.geomspace(start, end * FAN_REACH, 80)
    given: dict[str, Any] = {name: np.full_like(x, _well_measured(fit.points.numbers(name))) for name in columns}
    given[along] = x
    middle = np.asarray(fit.predict(**given))
    data: list[dict[str, Any]] = []
    if draws is not None:
        low, _, high = draws.predict_band(level, **given)
        if holdout is not None and _calibrated(fit, holdout):
            there = {name: values for name, values in given.items() if name != "C"}
            if {"N", "D"} <= set(there):
                there["C"] = flops_ratio(fit.points) * there["N"] * there["D"]
            wide = holdout.calibration.half_width(reach(fit.points, Points(**there), holdout.by), level)
            centre = fit.form.to_space(middle)
            low = fit.form.from_space(centre - np.hypot(centre - fit.form.to_space(low), wide))
            high = fit.form.from_space(centre + np.hypot(fit.form.to_space(high) - centre, wide))
        data += [
            {
                "x": x,
                "y": high,
                "mode": "lines",
                "line": {"width": 0},
                "showlegend": False,
                "hoverinfo": "skip",
            },
            {
                "x": x,
                "y": low,
                "mode": "lines",
                "line": {"width": 0},
                "fill": "tonexty",
                "fillcolor": BAND,
                "name": f"{level:.0%} band",
            },
        ]
    data.append({"x": x, "y": middle, "mode": "lines", "line": {"color": BLUE}, "name": "law"})
    rows = np.ones(len(fit.points), dtype=bool)
    for name in columns:
        if name != along:
            rows &= np.abs(np.log(fit.points.numbers(name) / given[name][0])) < 0.01
    observed = fit.form.from_space(fit.problem.y)
    data.append(
        {
            "x": fit.points.numbers(along)[rows],
            "y": observed[rows],
            "mode": "markers",
            "marker": {"color": ORANGE, "size": 7},
            "name": "rows",
        }
    )
    others = ", ".join(f"{name} = {given[name][0]:.4g}" for name in columns if name != along)
    title = f"{along}" + (f" at {others}" if others else "")
    layout = {
        "xaxis": {"title": {"text": title}, "type": "log"},
        "yaxis": {"title": {"text": "response"}, "type": _axis(float(np.nanmin(middle)))},
    }
    return {"data": data, "layout": layout}


def _well_measured(values: Array) -> float:
    """The most frequent of the larger values, to one percent."""
    larger = values[values >= np.median(values)]
    counts = [int(np.sum(np.abs(np.log(larger / value)) < 0.01)) for value in larger]
    return float(larger[int(np.argmax(counts))])


def _inside(size: Any) -> bool:
    """Whether an optimal size is one: a law without a slope in N or D puts it at zero or infinity."""
    return 1.0 <= float(size) <= 1e17


def _isoflop(fit: Fit) -> Plot | None:
    if fit.form.variables != ("N", "D"):
        return None
    N, D = fit.points.numbers("N"), fit.points.numbers("D")
    ratio = flops_ratio(fit.points)
    C = fit.points.numbers("C") if "C" in fit.points else ratio * N * D
    observed = fit.form.from_space(fit.problem.y)
    data: list[dict[str, Any]] = []
    colours = ["#440154", "#3b528b", "#21918c", "#5ec962", "#e0b000"]
    places = np.quantile(np.log(C), np.linspace(0.05, 0.95, len(colours)))
    for log_c, colour in zip(places, colours, strict=True):
        budget = float(np.exp(log_c))
        best = optimum(fit.form, fit.parameters, budget, ratio)
        if not _inside(best["N"]):
            return None
        size = np.geomspace(min(N.min(), float(best["N"]) / 4), max(N.max(), float(best["N"]) * 4), 60)
        loss = fit.predict(N=size, D=budget / (ratio * size))
        near = np.abs(np.log10(C) - log_c / np.log(10)) < 0.05
        name = f"C = {budget:.2g}"
        data += [
            {"x": size, "y": loss, "mode": "lines", "line": {"color": colour}, "name": name,
             "legendgroup": name},
            {"x": N[near], "y": observed[near], "mode": "markers", "marker": {"color": colour, "size": 6},
             "legendgroup": name, "showlegend": False},
            {"x": [float(best["N"])], "y": [float(best["loss"])], "mode": "markers",
             "marker": {"color": colour, "symbol": "x", "size": 10}, "legendgroup": name,
             "showlegend": False},
        ]  # fmt: skip
    top = float(np.quantile(observed, 0.995)) * 1.05
    bottom = float(min(observed.min(), *(np.min(trace["y"]) for trace in data if len(trace["y"])))) * 0.98
    layout = {
        "xaxis": {"title": {"text": "N"}, "type": "log"},
        "yaxis": {"title": {"text": "loss"}, "range": [bottom, top]},
    }
    return {"data": data, "layout": layout}


def _finite(value: Any) -> Any:
    """Plain lists for JSON; what is not finite becomes null."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        return [_finite(item) for item in value.tolist()]
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float):  # numpy's float64 is one
        return float(value) if np.isfinite(value) else None
    return value
