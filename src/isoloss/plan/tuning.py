"""What is tuned: candidates of one or several paths, their winners, and what follows from them for other runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from isoloss import models
from isoloss.plan.lower import Lowered
from isoloss.plan.optimum import vertex
from isoloss.recipe.units import Quantity
from isoloss.study import Cell, Tune
from isoloss.study.checks import LR, TUNED, put

TUNED_PATH = LR


@dataclass(frozen=True)
class Trial:
    """One candidate of one arm at one tuning point; ``loss`` is on part A, infinite where it diverged.

    ``values``: the candidate by path.
    """

    arm: str
    point: Mapping[str, Any]
    cell: Cell
    lowered: Lowered
    lr: float
    loss: float | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """The winner of one arm at one point.

    ``lr``: what is used, the winner's or the vertex of a parabola around it. ``edges``: the paths whose value lies at
    an end of the candidates. ``losses``: by learning rate, the lowest over the other paths; ``table``: of every
    candidate.
    """

    arm: str
    point: Mapping[str, Any]
    N: int
    lr: float
    losses: Mapping[float, float]
    values: Mapping[str, Any]
    edges: tuple[str, ...]
    table: tuple[tuple[Mapping[str, Any], float], ...]

    @property
    def edge(self) -> bool:
        """Whether its learning rate lies at an end of the candidates."""
        return TUNED_PATH in self.edges


@dataclass(frozen=True)
class Setting:
    """A value that tuning gave a run; ``rule``: tuned, between, nearest or transferred; ``edge``: of its winner."""

    value: Any
    rule: str
    edge: bool


def label(values: Mapping[str, Any]) -> str:
    """``lr=0.002 weight_decay=0.1``: each path by its last name, in full where two share one."""
    last = [path.rpartition(".")[2] for path in values]
    names = [name if last.count(name) == 1 else path for path, name in zip(values, last, strict=True)]
    return " ".join(f"{name}={short(value)}" for name, value in zip(names, values.values(), strict=True))


def short(value: Any) -> str:
    """A candidate as it is read."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def filled(cell: Cell, values: Mapping[str, Any]) -> Cell:
    """A cell with tuned values in its config; the learning rate goes by itself and stays the word "tuned"."""
    config: dict[str, Any] = cell.config
    for path, value in values.items():
        if path != TUNED_PATH:
            config = put(config, path.split("."), value)
    return cell if config is cell.config else replace(cell, config=config)


def rate(cell: Cell, values: Mapping[str, Any]) -> float:
    """The learning rate of a cell: the one it gives, or that of ``values`` where it is tuned."""
    given = cell.config["training"]["optimizer"]["lr"]
    return float(values[TUNED_PATH] if given == TUNED else given)


def middle(tune: Tune | None) -> dict[str, Any]:
    """The middle candidate of each path, for costs in advance."""
    if tune is None:
        return {}
    ordered = {path: _ordered(values) or list(values) for path, values in tune.values.items()}
    return {path: values[len(values) // 2] for path, values in ordered.items()}


def choose(trials: Sequence[Trial], tune: Tune) -> list[Choice]:
    """The candidate of lowest mean loss over the seeds of a point; of equals, as where all diverged, the smallest."""
    return [_choice(group, tune) for group in _groups(trials) if all(t.loss is not None for t in group)]


def _groups(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Trials of one arm at one point, all its seeds."""
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        place = sorted((k, str(v)) for k, v in trial.point.items() if k != "seed")
        groups.setdefault((trial.arm, repr(place)), []).append(trial)
    return list(groups.values())


def beyond(trials: Sequence[Trial], tune: Tune) -> list[tuple[str, Mapping[str, Any], dict[str, Any]]]:
    """(arm, point, candidate) of what is to be tried next where a learning rate at an end of its list is the best.

    The next one beyond that end, in the ratio of the last two, with every combination of the other paths.
    """
    found = []
    for group in _groups(trials):
        rates = sorted({t.lr for t in group})
        added = len(rates) - len(set(tune.values.get(TUNED_PATH, ())))
        if added >= tune.extend or any(t.loss is None for t in group):
            continue
        choice = _choice(group, tune)
        if not choice.edge or math.isinf(min(choice.losses.values())):
            continue
        best = choice.values[TUNED_PATH]
        following = rates[0] ** 2 / rates[1] if best == rates[0] else rates[-1] ** 2 / rates[-2]
        others = {repr([v for path, v in t.values.items() if path != TUNED_PATH]): t.values for t in group}
        points = {repr(sorted((k, str(v)) for k, v in t.point.items())): t.point for t in group}
        found += [
            (choice.arm, point, {**values, TUNED_PATH: _rounded(following)})
            for point in points.values()
            for values in others.values()
        ]
    return found


def _choice(group: Sequence[Trial], tune: Tune) -> Choice:
    losses: dict[str, list[float]] = {}
    first: dict[str, Trial] = {}
    for trial in group:
        name = repr(list(trial.values.values()))
        first.setdefault(name, trial)
        losses.setdefault(name, []).append(math.inf if trial.loss is None else trial.loss)
    known = {name: sum(each) / len(each) for name, each in losses.items()}
    tried = {path: list(dict.fromkeys(t.values[path] for t in group)) for path in tune.values}
    ranked = {path: _ordered(values) or values for path, values in tried.items()}

    def rank(name: str) -> tuple[float, list[int]]:
        return known[name], [ranked[path].index(value) for path, value in first[name].values.items()]

    best = first[min(known, key=rank)]
    by_rate: dict[float, float] = {}
    for name, loss in known.items():
        lr = first[name].lr
        by_rate[lr] = min(loss, by_rate.get(lr, math.inf))
    edges = tuple(
        path for path, value in best.values.items() if _at_edge(value, tried[path], tune.bounds.get(path, ()))
    )
    return Choice(
        arm=best.arm,
        point={k: v for k, v in best.point.items() if k != "seed"},
        N=best.lowered.facts.N,
        lr=_lowest(by_rate, best.lr) if tune.optimum == "parabola" else best.lr,
        losses=by_rate,
        values=best.values,
        edges=tuple(edges),
        table=tuple((first[name].values, loss) for name, loss in known.items()),
    )


def _lowest(losses: Mapping[float, float], best: float) -> float:
    """The vertex of a parabola where it lies between the best candidate's neighbours, else the best candidate."""
    rates = sorted(losses)
    place = rates.index(best)
    found = vertex(losses)
    if found is None or not rates[place - 1] < found < rates[place + 1]:
        return best
    return _rounded(found)


def _at_edge(value: Any, tried: Sequence[Any], bounds: Sequence[Any]) -> bool:
    """Whether a better value may lie beyond: only among numbers in an order, and where more is allowed."""
    ordered = _ordered(tried)
    if ordered is None or len(ordered) < 2 or value in bounds:
        return False
    return value in (ordered[0], ordered[-1])


def _ordered(values: Sequence[Any]) -> list[Any] | None:
    """Numbers, or quantities of one unit, by size; None for anything else."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return sorted(values)
    try:
        sizes = {value: Quantity.parse(value) for value in values if isinstance(value, str)}
    except ValueError:
        return None
    if len(sizes) < len(values) or len({size.unit for size in sizes.values()}) > 1:
        return None
    return sorted(values, key=lambda value: sizes[value].value)


def settings(cell: Cell, size: Callable[[], int], choices: Sequence[Choice], tune: Tune) -> dict[str, Setting]:
    """A run's tuned values by path, from the choices of its arm.

    Those of its own place or size; else the learning rate by the rule between the tuned sizes, log-linear in N or the
    nearest one in log N, and other paths of the nearest. What width transfer makes the one tuned learning rate serve
    is called transferred. ``size`` gives the run's N.
    """
    mine = list(choices)
    durations = {c.point.get("duration") for c in mine}
    if len(durations) > 1:
        mine = [c for c in mine if c.point.get("duration") == cell.coordinates.get("duration")] or mine
    own = [c for c in mine if all(cell.coordinates[k] == v for k, v in c.point.items() if k != "duration")]
    if own:
        return _from(own, own, "tuned")
    by_size: dict[int, list[Choice]] = {}
    for choice in mine:
        by_size.setdefault(choice.N, []).append(choice)
    N = size()
    if N in by_size:
        return _from(by_size[N], mine, "tuned")
    sizes = sorted(by_size)
    near = min(sizes, key=lambda n: abs(math.log(N / n)))
    found = _from(by_size[near], mine, "nearest")
    if TUNED_PATH not in found:
        return found
    lr = found[TUNED_PATH]
    if tune.between == "nearest" or sizes[0] >= N or sizes[-1] <= N:
        if len(sizes) == 1 and models.transfers(cell.config["model"]):
            found[TUNED_PATH] = replace(lr, rule="transferred")
        return found
    above = next(i for i, n in enumerate(sizes) if n > N)
    low, high = (_mean(by_size[sizes[i]]) for i in (above - 1, above))
    share = math.log(N / sizes[above - 1]) / math.log(sizes[above] / sizes[above - 1])
    found[TUNED_PATH] = replace(lr, value=_rounded(low * (high / low) ** share), rule="between")
    return found


def _from(choices: Sequence[Choice], judged: Sequence[Choice], rule: str) -> dict[str, Setting]:
    """Values of the winners at ``choices``; edges of any at ``judged``.

    Where several differ: the geometric mean of learning rates, of the rest the combination that is best over them all.
    """
    values = _best_of_all(choices)
    if TUNED_PATH in values:
        values[TUNED_PATH] = _mean(choices)
    return {path: Setting(value, rule, any(path in c.edges for c in judged)) for path, value in values.items()}


def _best_of_all(choices: Sequence[Choice]) -> dict[str, Any]:
    if all(c.values == choices[0].values for c in choices):
        return dict(choices[0].values)
    tables = [{repr([*values.values()]): loss for values, loss in c.table} for c in choices]
    everywhere = {name: sum(table[name] for table in tables) for name in tables[0] if all(name in t for t in tables)}
    best = min(everywhere, key=lambda name: everywhere[name])
    return next(dict(values) for values, _ in choices[0].table if repr([*values.values()]) == best)


def _mean(choices: Sequence[Choice]) -> float:
    """Geometric mean of the winners; one winner is itself."""
    if len({c.lr for c in choices}) == 1:
        return choices[0].lr
    return _rounded(math.exp(sum(math.log(c.lr) for c in choices) / len(choices)))


def _rounded(lr: float) -> float:
    """Four significant digits: the value that is printed is the value that is used."""
    return float(f"{lr:.4g}")
