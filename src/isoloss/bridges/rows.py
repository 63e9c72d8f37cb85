"""From recorded runs and a map to checked rows: what a run is, what it cost, what it reached."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from isoloss.bridges.recorded import Recorded, Series, listed
from isoloss.bridges.runmap import QUANTITIES, TRAINER, USUAL, RunMap, guess
from isoloss.bridges.values import STEP, Context, Lacking, Value
from isoloss.laws.flops import flops_per_token
from isoloss.recipe.errors import StudyError, nearest

NEEDED = ("N", "D", "loss")
DERIVED = "D over S"
COUNTERS = ("D", "S", "C")
WHOLE = 1e-6
"""How far, relatively, an amount may be from a whole number."""
CUT_SHORT = 0.99
LATE = 0.98
"""Below this share of a run, its last loss is not that of its end."""
MOST = 5
CONVERT: dict[str, Callable[[Any], Any]] = {
    "nats": lambda loss: loss,
    "bits": lambda loss: loss * math.log(2),
    "perplexity": np.log,
}
NOT_NATS = re.compile(r"ppl|perplexity|bpb|bpc|bits|accuracy|(^|[/_.])acc($|[/_.])", re.IGNORECASE)


@dataclass
class Row:
    """One run. `status`: done, diverged, failed (its logger says so, or it stopped early), missing (no loss), twin
    (counts under another run) or candidate (tuning chose another one). N, D, S, B, C, loss are None where unknown.
    """

    run: str
    source: str
    arm: str = ""
    seed: str = "0"
    N: float | None = None
    D: float | None = None
    S: float | None = None
    B: float | None = None
    C: float | None = None
    loss: float | None = None
    train_loss: float | None = None
    lr: float | None = None
    status: str = "done"
    message: str = ""
    axes: dict[str, str] = field(default_factory=dict)
    keep: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tuned: dict[str, str] = field(default_factory=dict)
    edge: list[str] = field(default_factory=list)
    """Tuned settings whose chosen value lies at an end of what was tried."""


@dataclass
class Curve:
    """Losses along one run: S, D, loss and train_loss at every step at which either was logged; NaN where not."""

    S: np.ndarray
    D: np.ndarray
    loss: np.ndarray
    train_loss: np.ndarray


@dataclass
class Built:
    """Rows, their curves by run, where each quantity came from, and what a reader must know."""

    rows: list[Row]
    curves: dict[str, Curve]
    taken: dict[str, str]
    notes: list[str]
    warnings: list[str]


def build(runs: Sequence[Recorded], chart: RunMap) -> Built:
    """Every run (of `unique` names) as a row. Raises StudyError, one message for everything that is missing."""
    runs = [run for run in runs if _wanted(run, chart)]
    if not runs:
        raise StudyError("include and exclude leave no run")
    made = _Build(runs, chart)
    made.all()
    return Built(made.rows, made.curves, made.taken, made.notes, made.warnings)


def unique(runs: Sequence[Recorded]) -> list[Recorded]:
    """Runs by name; parts of one run that came from several sources become one. Raises StudyError where they differ."""
    found: dict[str, Recorded] = {}
    for run in runs:
        known = found.setdefault(run.name, run)
        if known is run:
            continue
        for name, setting in run.settings.items():
            if name in known.settings and str(known.settings[name]) != str(setting):
                raise _twice(run, known, f"{name} is {known.settings[name]!r} and {setting!r}")
        for name, series in run.series.items():
            other = known.series.get(name)
            if other is not None and not (_equal(series.steps, other.steps) and _equal(series.values, other.values)):
                raise _twice(run, known, f"{name} has other values")
        known.settings |= run.settings
        known.series |= run.series
        known.notes.append(f"made of {known.source} and {run.source}")
        known.state = run.state if known.state == "unknown" else known.state
    return list(found.values())


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.array_equal(one, other, equal_nan=True))


def _twice(run: Recorded, known: Recorded, why: str) -> StudyError:
    return StudyError(
        f"two runs are called {run.name!r}, in {known.source} and in {run.source}, and {why}; import their common "
        "folder, where their paths tell them apart, or name other columns with run: [COLUMN, COLUMN]"
    )


def _wanted(run: Recorded, chart: RunMap) -> bool:
    excluded = bool(chart.exclude) and re.search(chart.exclude, run.name) is not None
    return re.search(chart.include, run.name) is not None and not excluded


class _Build:
    """One pass over the runs, collecting what is wrong."""

    def __init__(self, runs: Sequence[Recorded], chart: RunMap) -> None:
        self.runs, self.map = runs, chart
        self.known = frozenset(name for run in runs for name in run.names)
        self.values: dict[str, Value] = dict(chart.values)
        self.rows: list[Row] = []
        self.curves: dict[str, Curve] = {}
        self.taken: dict[str, str] = {}
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self._lacking: dict[tuple[str, str], list[str]] = {}
        self._letters: dict[str, set[bool]] = {}
        self._apart: dict[str, list[tuple[str, float]]] = {}
        self._late: list[tuple[str, float, float]] = []
        self._filled = 0

    def all(self) -> None:
        self._guess()
        for run in self.runs:
            self._one(run)
        self._raise_lacking()
        mixed = sorted(name for name, kinds in self._letters.items() if len(kinds) > 1)
        if mixed:
            raise StudyError(
                f"{mixed[0]}: some values have a K, M, B or T and others are small and have none, so units are mixed; "
                "write them alike, or map a formula"
            )
        self._check_scales()

    def _guess(self) -> None:
        """Quantities that the map leaves open, by their usual names; what is needed and not there is an error."""
        for quantity in QUANTITIES:
            if quantity in self.values:
                self.taken[quantity] = self.values[quantity].words
                continue
            found = guess(quantity, self.runs)
            if found.several and quantity in (*NEEDED, "arm", "seed"):
                raise StudyError(
                    f"{quantity}: {listed(found.several)} could all be it; say which, in the map ({quantity}: "
                    f"{found.several[0]}) or with --set {quantity}={found.several[0]}"
                )
            if found.several:
                self.notes.append(f"{quantity}: {listed(found.several)} could all be it, so none is used; map one")
            faulty = quantity not in NEEDED and self._faulty(found.name)
            if faulty:
                self.warnings.append(f"{quantity}: {found.name} is left out: {faulty}")
            elif found.name:
                self.values[quantity] = Value(found.name)
                self.taken[quantity] = f"{found.name} (by its usual name)"
        missing = [quantity for quantity in NEEDED if quantity not in self.values]
        if missing:
            raise StudyError(
                f"{', '.join(missing)}: nothing has a usual name for it; say where it is found, in the map or with "
                f"--set {missing[0]}=NAME; found: {listed(self.runs[0].names, 40)}"
            )
        self._defaults()

    def _faulty(self, name: str) -> str:
        """Why a series cannot be used, of the first run of which that is so."""
        for run in self.runs:
            if name in run.series and run.series[name].fault:
                return f"run {run.name!r}: {run.series[name].fault}"
        return ""

    def _defaults(self) -> None:
        loss = self.values["loss"].names(self.known)
        if loss and not any(name in self.known for name in loss):
            found = sorted(self.known)
            raise StudyError(f"loss: no {loss[0]!r} in any run{nearest(loss[0], found)}; found: {listed(found, 30)}")
        same = "train_loss" in self.values and self.values["train_loss"].given == self.values["loss"].given
        if same:
            del self.values["train_loss"], self.taken["train_loss"]
        if any(name.lower() in USUAL["train_loss"] for name in loss) or (TRAINER in self.known and "loss" in loss):
            self.warnings.append(
                f"loss is {self.taken['loss']}, a loss of training: of single batches, and not held out"
            )
        unit = self.map.units["loss"]
        if unit == "nats" and any(NOT_NATS.search(name) for name in loss):
            self.warnings.append(f"loss is {self.taken['loss']}: is it in nats? Else say units: {{loss: bits}} or so")
        if unit != "nats":
            self.notes.append(f"loss is in {unit} and was converted to nats")
        by_step = any(name in run.series for name in loss for run in self.runs)
        if "S" not in self.map.values and by_step:
            self.values.pop("S", None)
            self.taken.pop("S", None)
            if not self._by_data():
                self.values["S"] = Value(STEP)
                self.taken["S"] = "the step at which the loss was measured"
        if "C" not in self.values:
            self.taken["C"] = f"{self.map.flops or '6ND'}, from N and D" + ("" if self.map.flops else " (by default)")
        if "arm" not in self.values:
            self.values["arm"] = Value({"text": "all"})
            self.taken["arm"] = "one arm for all runs"

    def _by_data(self) -> bool:
        """Whether the steps count data, not updates."""
        return self.values["D"].given in (STEP, self.map.reading.step)

    def _one(self, run: Recorded) -> None:
        here = Context(run, self.known)
        row = Row(run.name, run.source)
        self._final(run, here, row)
        self._ended(run, row)
        for quantity in ("arm", "seed"):
            if quantity in self.values:
                found = self._ask(quantity, row, lambda value: value.label(here))
                setattr(row, quantity, found if found is not None else getattr(row, quantity))
        row.axes = {name: self._label(name, here, row) for name in self.map.axes}
        row.tuned = {name: self._label(name, here, row) for name in self.map.tuned}
        for quantity in ("N", "D", "S", "B", "C", "train_loss", "lr"):
            if quantity in self.values:
                setattr(row, quantity, self._number(quantity, here, row))
        for name, value in self.map.keep.items():
            row.keep[name] = self._kept(value, here)
        self._complete(row, here)
        self._length(row, here)
        for name, value in self.map.metrics.items():
            number = self._ask(name, row, lambda v: float(v.numbers(here)[-1]), value)
            if number is not None and math.isfinite(number):
                row.metrics[name] = number
        self._curve(run, row, here)
        for name in sorted(here.used):
            self.notes += [f"{run.name}: {name}: {note}" for note in run.series[name].notes]
        self.notes += [f"{run.name}: {note}" for note in run.notes]
        for name, kinds in here.letters.items():
            self._letters.setdefault(name, set()).update(kinds)
        self.rows.append(row)

    def _final(self, run: Recorded, here: Context, row: Row) -> None:
        """Set the step at which the run is judged, and its loss."""
        value = self.values["loss"]
        names = value.names(self.known)
        series = next((run.series[name] for name in names if name in run.series), None)
        if series is not None and len(series):
            losses = self._losses("loss", Context(run, self.known, series.steps))
            last = len(losses) - 1
            if self.map.at == "best" and np.isfinite(losses).any():
                last = int(np.nanargmin(np.where(np.isfinite(losses), losses, np.nan)))
            here.steps = series.steps[[last]]
            row.loss = float(losses[last])
            if (end := run.last_step) is not None and series.steps[-1] < LATE * end:
                self._late.append((run.name, float(series.steps[-1]), end))
            return
        if run.last_step is not None:
            here.steps = np.array([run.last_step])
        try:
            row.loss = float(CONVERT[self.map.units["loss"]](value.numbers(here)[-1]))
        except Lacking as error:
            row.status, row.message = "missing", f"no loss: {str(error).partition(';')[0]}"

    def _losses(self, quantity: str, here: Context) -> np.ndarray:
        """Losses at a context's steps, in nats."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(CONVERT[self.map.units["loss"]](self.values[quantity].numbers(here)), float)

    def _ended(self, run: Recorded, row: Row) -> None:
        """Whether the run may count."""
        if row.status != "done":
            return
        ends = [row.loss]
        for name in self.values["train_loss"].names(self.known) if "train_loss" in self.values else ():
            if name in run.series and len(run.series[name]):
                ends.append(float(run.series[name].values[-1]))
        broken = [end for end in ends if end is not None and not math.isfinite(end)]
        if broken:
            row.status, row.message, row.loss = "diverged", f"the loss is {broken[0]} at its end", None
        elif run.state not in self.map.finished:
            row.status = "failed"
            row.message = f"{run.state}; where it counts all the same, say finished: [{run.state}]"
        elif row.loss is not None and row.loss <= 0:
            raise StudyError(f"loss of run {run.name!r} ({run.source}): found {row.loss:g}; allowed: above 0")

    def _length(self, row: Row, here: Context) -> None:
        if "length" not in self.values or row.status != "done" or row.S is None:
            return
        try:
            wanted = float(self.values["length"].numbers(here)[-1])
        except Lacking:
            return
        reached = max(row.S, here.run.last_step or 0)
        if math.isfinite(wanted) and reached < CUT_SHORT * wanted:
            row.status, row.message = "failed", f"stopped at update {reached:g} of {wanted:g}"

    def _number(self, quantity: str, here: Context, row: Row) -> float | None:
        """One quantity at the run's end; missing ones are collected where the run counts."""
        value = self.values[quantity]
        given = quantity in self.map.values
        try:
            found = float(value.numbers(here, quantity in COUNTERS)[-1])
            if quantity == "lr" and value.given in here.run.series:
                found = float(here.run.series[value.given].values.max())  # the peak of its schedule
        except Lacking as error:
            if row.status == "done" and (quantity in NEEDED or given):
                self._lack(quantity, str(error), here.run.name)
            return None
        if not math.isfinite(found):
            if row.status == "done" and quantity in (*NEEDED, "S", "C", "B"):
                self._lack(quantity, f"{value.words} is {found}", here.run.name)
            return None
        if quantity in ("N", "D", "S", "B", "C"):
            if found <= 0 and not given and quantity not in NEEDED:
                return None  # a counter that nobody switched on
            return self._amount(quantity, found, here.run)
        return float(CONVERT[self.map.units["loss"]](found)) if quantity == "train_loss" else found

    def _amount(self, quantity: str, found: float, run: Recorded) -> float:
        where = f"{quantity} of run {run.name!r} ({run.source})"
        if quantity in ("N", "D", "S") and (found < 1 or abs(found - round(found)) > WHOLE * found):
            raise StudyError(
                f"{where}: found {found:.6g}, from {self.values[quantity].words}; allowed: a whole number from 1; of "
                f"millions or billions map a formula, as {quantity}: {_formula(self.values[quantity])} * 1e9"
            )
        if found <= 0:
            raise StudyError(f"{where}: found {found:g}, from {self.values[quantity].words}; allowed: above 0")
        return found

    def _complete(self, row: Row, here: Context) -> None:
        """B from D and S, S from D and B, C from N and D; what is given twice is held against the other."""
        if row.S is None and row.B and row.D and "S" not in self.values:
            row.S = float(round(row.D / row.B))
            self.taken["S"] = "D over B"
        if row.D and row.S:
            if row.B is None:
                row.B = row.D / row.S
                self.taken.setdefault("B", DERIVED)
            else:
                self._apart.setdefault("B", []).append((row.run, row.D / (row.S * row.B)))
        if row.N and row.D:
            columns = {"N": np.array([row.N])} | {
                name: np.array([found]) for name, value in row.keep.items() if isinstance(found := value, int | float)
            }
            if row.C is None and "C" not in self.map.values:
                self._filled += "C" in self.values
                row.C = float(flops_per_token(self.map.flops or "6ND", self._model(here, columns))[0] * row.D)
            elif row.C is not None:
                self._apart.setdefault("C", []).append((row.run, row.C / (6 * row.N * row.D)))

    def _model(self, here: Context, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What a FLOP convention may read beside N, where the run has settings of those names."""
        found = dict(columns)
        for name in ("n_layer", "n_ctx", "d_model", "vocab", "n_head", "d_ff"):
            if name in here.run.settings:
                found[name] = here.numbers(name)[-1:]
        return found

    def _label(self, name: str, here: Context, row: Row) -> str:
        return str(self._ask(name, row, lambda _: here.text(name), Value(name)) or "")

    def _kept(self, value: Value, here: Context) -> Any:
        """A further column: a number where it is one, else a label, None where the run has none."""
        try:
            number = float(value.numbers(here)[-1])
            if not math.isfinite(number):
                return None
            return int(number) if number.is_integer() and abs(number) < 2**53 else number
        except (Lacking, StudyError):
            pass
        try:
            return value.label(here)
        except Lacking as error:
            if not any(name in self.known for name in value.names(self.known)):
                self._lack("keep", str(error), here.run.name)
            return None

    def _ask(self, what: str, row: Row, read: Callable[[Value], Any], value: Value | None = None) -> Any:
        """What `read` finds; None, and a note of it where the run counts, where it finds nothing."""
        try:
            return read(value or self.values[what])
        except Lacking as error:
            if row.status == "done":
                self._lack(what, str(error), row.run)
            return None

    def _lack(self, what: str, why: str, run: str) -> None:
        self._lacking.setdefault((what, why), []).append(run)

    def _raise_lacking(self) -> None:
        if not self._lacking:
            return
        said = []
        for (what, why), runs in self._lacking.items():
            said.append(f"{what}: {why} (in {len(runs)} of {len(self.runs)} runs, first {runs[0]!r})")
        more = f"\nand {len(said) - MOST} more of the kind" if len(said) > MOST else ""
        raise StudyError("\n".join(said[:MOST]) + more)

    def _curve(self, run: Recorded, row: Row, here: Context) -> None:
        """Losses along the run, where they were logged by step."""
        found: dict[str, Series] = {}
        for quantity in ("loss", "train_loss"):
            names = self.values[quantity].names(self.known) if quantity in self.values else []
            series = next((run.series[name] for name in names if name in run.series), None)
            if series is not None and len(series):
                found[quantity] = series
        if not found:
            return
        steps = np.unique(np.concatenate([series.steps for series in found.values()]))
        steps = steps[steps > 0]
        along = Context(run, self.known, steps)
        curve = {name: np.full(len(steps), math.nan) for name in ("S", "D", "loss", "train_loss")}
        for quantity in ("S", "D"):
            if quantity in self.values and len(steps):
                try:
                    curve[quantity] = self.values[quantity].numbers(along, counter=True)
                except Lacking:
                    continue
        for quantity, series in found.items():
            inside = series.steps > 0
            at = np.searchsorted(steps, series.steps[inside])
            curve[quantity][at] = self._losses(quantity, Context(run, self.known, series.steps))[inside]
        here.used |= along.used
        self.curves[row.run] = Curve(**curve)

    def _check_scales(self) -> None:
        """Quantities that contradict one another, or look as if units were mixed."""
        done = [row for row in self.rows if row.status == "done"]
        if self._filled:
            self.notes.append(f"C of {self._filled} runs, which have no {self.values['C'].words}, is 6ND")
        off = [(run, ratio) for run, ratio in self._apart.get("C", []) if not 0.5 <= ratio <= 2]
        if off:
            self.warnings.append(
                f"C is {_between(ratio for _, ratio in off)} times 6ND in {len(off)} of {len(self.rows)} runs, first "
                f"{off[0][0]!r}: is C in FLOPs, does it count evaluation, is N without embeddings?"
            )
        off = [(run, ratio) for run, ratio in self._apart.get("B", []) if abs(ratio - 1) > 0.02]
        if off:
            self.warnings.append(
                f"D over S times B is {_between(ratio for _, ratio in off)} in {len(off)} of {len(self.rows)} runs, "
                f"first {off[0][0]!r}: B is in the unit of D ({self.map.units['D']}), so is the context left out?"
            )
        for quantity, widest in (("N", 1e5), ("D", 1e7)):
            found = sorted((getattr(row, quantity), row.run) for row in done if getattr(row, quantity))
            if found and found[-1][0] > widest * found[0][0]:
                (low, first), (high, last) = found[0], found[-1]
                self.warnings.append(
                    f"{quantity} goes from {low:g} (run {first!r}) to {high:g} (run {last!r}): are all in one unit?"
                )
        late = [one for one in self._late if one[0] in {row.run for row in done}]
        if late:
            run, step, end = late[0]
            self.warnings.append(
                f"{len(late)} of {len(self.rows)} runs went on after their last loss, first {run!r} from step "
                f"{step:g} to {end:g}: a schedule that had not ended makes such a loss worse"
            )
        odd = [row for row in done if row.N and row.D and not 1e-3 <= row.D / row.N <= 1e6]
        if odd:
            self.warnings.append(
                f"D is {_between((row.D or 0) / (row.N or 1) for row in odd)} times N in {len(odd)} of {len(done)} "
                f"runs, first {odd[0].run!r}: are both counted in ones, not in thousands or millions?"
            )
        states = Counter(row.status for row in self.rows)
        if not states["done"]:
            why = listed(dict.fromkeys(f"{row.run}: {row.status}, {row.message}" for row in self.rows), 3)
            raise StudyError(f"none of {len(self.rows)} runs is finished with a loss: {why}")


def _between(ratios: Iterable[float]) -> str:
    found = sorted(ratios)
    low, high = f"{found[0]:.3g}", f"{found[-1]:.3g}"
    return low if low == high else f"{low} to {high}"


def _formula(value: Value) -> str:
    return str(value.given) if isinstance(value.given, str) and value.given.isidentifier() else "NAME"
