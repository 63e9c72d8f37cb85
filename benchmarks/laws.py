"""The law library beside its peers, in one run and on one thread: full fit, bootstrap, cost against size.

Peers: scipy L-BFGS-B from the 4,500 starts of Hoffmann et al. (finite differences, as in the published
notebook), scipy BFGS per resample, and the package `chinchilla` from PyPI in its own environment (--peer
PYTHON), made by `python -m venv peer && peer/bin/pip install chinchilla` and named by --peer peer/bin/python.
Times are CPU seconds of this process, so that other work on the machine does not count; the data are
the 240 Chinchilla points where they lie beside the checkout, else a synthetic twin of the same size.
Run: python benchmarks/laws.py [--peer PYTHON] [--every 1] [--coverage] [--write]
"""

# ruff: noqa: E402 - thread counts must be set before NumPy loads
from __future__ import annotations

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import argparse
import itertools
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from scipy.optimize import minimize

from isoloss.laws import Points, coverage, extrapolate, fit, fit_many, get_form, optimum

REPOSITORY = Path(__file__).resolve().parents[1]
TABLE = REPOSITORY.parent / "shared/data/laws/epoch-chinchilla/svg_extracted_data.csv"
TRUTH = {"A": 477.8, "B": 2143.0, "E": 1.817, "alpha": 0.3473, "beta": 0.3672}
CHINCHILLA = get_form("chinchilla")
DELTA = 1e-3
PEER_CODE = """
import json, sys, tempfile, time
import numpy as np
from chinchilla import Chinchilla
from chinchilla._metrics import log_huber
rows, points = json.loads(sys.stdin.read()), int(sys.argv[1])
axes = {"E": (1.0, 2.0), "a": (1, 10), "b": (1, 10), "alpha": (0.1, 0.7), "beta": (0.1, 0.7)}
grid = {name: np.linspace(*ends, points) for name, ends in axes.items()}
grid["e"] = np.log(grid.pop("E"))
order = ["e", "a", "b", "alpha", "beta"]
def loss(y_true, y_pred):
    return log_huber(y_true, y_pred, delta=1e-3)
with tempfile.TemporaryDirectory() as folder:
    cc = Chinchilla(folder, param_grid={name: grid[name] for name in order}, loss_fn=loss, log_level=50)
    for n, d, y in rows:
        cc.append(N=n, D=d, C=6 * n * d, loss=y)
    begin = time.process_time()
    cc.fit(parallel=False)
    seconds = time.process_time() - begin
    found = {name: float(getattr(cc, name)) for name in ("E", "A", "B", "alpha", "beta")}
    print(json.dumps({"seconds": seconds, **found}))
"""


def points() -> tuple[Points, str]:
    """The 240 rows and what they are."""
    if TABLE.is_file():
        return Points.read(TABLE).with_tokens("6ND").drop_largest_loss(5), "Epoch's 240 Chinchilla points"
    return synthetic(240), "240 synthetic points (the Chinchilla table is absent)"


def synthetic(rows: int, seed: int = 0) -> Points:
    """Rows scattered over 2.5 decades of N and D with 0.75 % noise."""
    rng = np.random.default_rng(seed)
    N, D = 10 ** rng.uniform(7.7, 10.2, rows), 10 ** rng.uniform(8.5, 11.5, rows)
    loss = CHINCHILLA.predict(TRUTH, {"N": N, "D": D}) * np.exp(0.0075 * rng.normal(size=rows))
    return Points(N=N, D=D, loss=loss)


def cpu(work: Callable[[], Any], repeats: int = 7) -> float:
    """Median CPU seconds of some calls, after one to warm up."""
    work()
    found = []
    for _ in range(repeats):
        begin = time.process_time()
        work()
        found.append(time.process_time() - begin)
    return statistics.median(found)


def objective(table: Points, weight: np.ndarray | None = None) -> Callable[[np.ndarray], float]:
    """Sum of Huber losses of log residuals for scipy, over (a, b, e, alpha, beta)."""
    log_n, log_d, y = np.log(table.N), np.log(table.D), np.log(table.loss)
    count = np.ones(len(y)) if weight is None else weight

    def value(q: np.ndarray) -> float:
        a, b, e, alpha, beta = q
        with np.errstate(all="ignore"):
            f = np.log(np.exp(a - alpha * log_n) + np.exp(b - beta * log_d) + np.exp(e))
        size = np.abs(y - f)
        inside = np.minimum(size, DELTA)
        total = float(np.sum(count * inside * (size - 0.5 * inside)))
        return total if np.isfinite(total) else 1e6

    return value


def scipy_starts(table: Points, every: int) -> tuple[float, float, int]:
    """L-BFGS-B from every k-th of the 4,500 starts: CPU seconds (scaled to all), best objective, starts
    run."""
    grid = list(
        itertools.product(
            range(0, 30, 5), range(0, 30, 5), (-1, -0.5, 0, 0.5, 1), (0, 0.5, 1, 1.5, 2), (0, 0.5, 1, 1.5, 2)
        )
    )
    chosen = grid[::every]
    function = objective(table)
    best = np.inf
    begin = time.process_time()
    for start in chosen:
        best = min(best, float(minimize(function, start, method="L-BFGS-B").fun))
    return (time.process_time() - begin) * len(grid) / len(chosen), best, len(chosen)


def scipy_resamples(table: Points, start: np.ndarray, count: int) -> tuple[float, float]:
    """BFGS with finite differences from the full fit: CPU seconds a resample, median excess over our
    optimum."""
    rng = np.random.default_rng(0)
    fitted = fit(table, "chinchilla")
    indices = rng.integers(0, len(table), size=(count, len(table)))
    draws = fitted.bootstrap(indices=indices)
    excess = []
    begin = time.process_time()
    found = []
    for row in indices:
        weight = np.bincount(row, minlength=len(table)).astype(float)
        found.append((weight, minimize(objective(table, weight), start, method="BFGS").fun))
    seconds = (time.process_time() - begin) / count
    for k, (weight, value) in enumerate(found):
        mine = objective(table, weight)(logs_of({name: float(v[k]) for name, v in draws.parameters.items()}))
        excess.append(value / mine - 1)
    return seconds, float(np.median(excess))


def logs_of(p: dict[str, float]) -> np.ndarray:
    return np.array([np.log(p["A"]), np.log(p["B"]), np.log(p["E"]), p["alpha"], p["beta"]])


def peer(python: str, table: Points, grid_points: int) -> dict[str, float] | str:
    """The package `chinchilla` in its own interpreter, or the reason why it did not run."""
    rows = json.dumps([[float(n), float(d), float(y)] for n, d, y in zip(table.N, table.D, table.loss, strict=True)])
    try:
        done = subprocess.run(
            [python, "-c", PEER_CODE, str(grid_points)],
            input=rows,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"did not run: {error}"
    if done.returncode:
        return f"did not run: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", help="Python interpreter in whose environment the package `chinchilla` is installed")
    parser.add_argument("--peer-grid", type=int, default=3, help="points a parameter in the peer's grid")
    parser.add_argument("--every", type=int, default=1, help="run every k-th scipy start and scale the time")
    parser.add_argument("--coverage", action="store_true", help="also the coverage table (a minute or two)")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/laws.md")
    options = parser.parse_args()
    lines: list[str] = []

    def say(text: str = "") -> None:
        print(text, flush=True)
        lines.append(text)

    table, name = points()
    say("# Law library: speed and accuracy\n")
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}, SciPy {scipy.__version__}"
    say(f"{name}; Huber of log loss, delta {DELTA:g}, sum. One thread, CPU seconds, medians.")
    say(f"{platform.machine()}, {versions}.\n")

    fitted = fit(table, "chinchilla")
    mine = cpu(lambda: fit(table, "chinchilla"), 15)
    reference, reached, run = scipy_starts(table, options.every)
    start = logs_of(fitted.parameters)
    note = "" if run == 4500 else f" (timed on {run} of 4,500 starts, scaled)"
    say("## Full fit\n")
    say("| method | CPU | ratio | objective reached | above ours |\n| --- | --- | --- | --- | --- |")
    say(f"| isoloss | {1e3 * mine:.1f} ms | 1 | {fitted.objective:.13f} | 0 |")
    say(
        f"| scipy L-BFGS-B, 4,500 starts{note} | {reference:.1f} s | {reference / mine:,.0f}x | "
        f"{reached:.13f} | {reached / fitted.objective - 1:.1e} |"
    )
    if options.peer:
        found = peer(options.peer, table, options.peer_grid)
        label = f"`chinchilla` (PyPI), log-Huber, {options.peer_grid}^5 = {options.peer_grid**5} starts"
        if isinstance(found, str):
            say(f"| {label} | - | - | - | {found} |")
        else:
            value = objective(table)(logs_of(found))
            say(
                f"| {label} | {found['seconds']:.1f} s | {found['seconds'] / mine:,.0f}x | {value:.13f} | "
                f"{value / fitted.objective - 1:.1e} |"
            )
    else:
        say("| `chinchilla` (PyPI) | - | - | - | skipped: give --peer PYTHON |")
    say(f"\nRelative gradient at our optimum: {fitted.gradient:.1e}; distinct minima found: {len(fitted.minima)}.\n")

    say("## Bootstrap, 4,000 pairs resamples\n")
    resample = cpu(lambda: fitted.bootstrap(4000, method="pairs"), 3)
    theirs, above = scipy_resamples(table, start, 40)
    say("| method | 4,000 resamples | a resample | ratio | note |\n| --- | --- | --- | --- | --- |")
    say(f"| isoloss | {resample:.2f} s | {1e3 * resample / 4000:.3f} ms | 1 | exact Newton, warm start |")
    times = f"{4000 * theirs:.0f} s | {1e3 * theirs:.1f} ms | {4000 * theirs / resample:,.0f}x"
    say(f"| scipy BFGS, finite differences, warm start | {times} | 40 timed; median {above:.0e} above |\n")

    say("## Cost against rows (synthetic)\n")
    say("| rows | full fit | a resample |\n| --- | --- | --- |")
    for rows in (24, 60, 240, 1000, 4000, 20_000, 100_000):
        made = synthetic(rows)
        few = 200 if rows <= 4000 else 20
        one = fit(made, "chinchilla")
        whole = cpu(lambda made=made: fit(made, "chinchilla"), 5 if rows <= 4000 else 2)
        each = cpu(lambda one=one, few=few: one.bootstrap(few, method="pairs"), 2) / few
        say(f"| {rows:,} | {1e3 * whole:.1f} ms | {1e3 * each:.3f} ms |")

    say("\n## Many curves at once (M2, 40 rows each)\n")
    say("| curves | together | a curve | one by one, a curve |\n| --- | --- | --- | --- |")
    for curves in (1, 10, 100, 1000):
        rng = np.random.default_rng(curves)
        x = np.geomspace(1e3, 1e6, 40)
        tables = [
            Points(D=x, loss=(1 + rng.uniform()) * (1 + 20 * x**-0.4) * np.exp(0.005 * rng.normal(size=40)))
            for _ in range(curves)
        ]
        together = cpu(lambda tables=tables: fit_many(tables, "m2", x="D"), 3 if curves < 1000 else 1)
        alone = cpu(lambda tables=tables: [fit(t, "m2", x="D") for t in tables[:10]], 3) / min(curves, 10)
        say(f"| {curves:,} | {1e3 * together:.1f} ms | {1e3 * together / curves:.2f} ms | {1e3 * alone:.2f} ms |")

    x = np.geomspace(1e3, 1e6, 100)
    forecast = cpu(lambda: extrapolate(x, 2 + 40 * x**-0.5), 31)
    say(
        "\nForecast of one running curve of 100 rows (`extrapolate`, form, window and band): "
        f"{1e3 * forecast:.2f} ms.\n"
    )

    if options.coverage:
        say("## Coverage of nominal 90 % intervals\n")
        say("The same design, known truth, Gaussian noise 0.0075 by row, 0.0035 by size; cluster bootstrap,")
        say("1,000 data sets, 200 resamples each (Monte Carlo error 0.009).\n")
        say("| quantity | coverage |\n| --- | --- |")
        for quantity, share in coverage(
            table,
            "chinchilla",
            TRUTH,
            derived_targets(),
            noise=0.0075,
            cluster_noise=0.0035,
            replicates=1000,
            delta=DELTA,
        ).items():
            say(f"| {quantity} | {share:.3f} |")
    if options.write:
        target = REPOSITORY / "benchmarks/results/laws.md"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("\n".join(lines) + "\n", encoding="utf-8")


def derived_targets() -> dict[str, Any]:
    """Exponents, floor and optima at several budgets."""
    found: dict[str, Any] = {name: name for name in ("alpha", "beta", "A", "B", "E", "a_opt", "b_opt", "G")}
    for budget in (1e22, 1e23, 1e24, 1e25):
        for name in ("N", "D", "loss"):
            found[f"{name}*({budget:g})"] = lambda v, b=budget, n=name: np.log(optimum(CHINCHILLA, v, b)[n])
    return found


if __name__ == "__main__":
    main()
