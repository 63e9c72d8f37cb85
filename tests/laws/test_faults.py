"""Faults seen in published fits, planted here, and every kind of bad input: each gets one message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoloss.laws import Fit, LawError, Points, audit, evaluate, fit, get_form
from isoloss.laws.losses import Objective
from isoloss.laws.problem import make_problem

CHINCHILLA = get_form("chinchilla")
TRUTH = {"A": 400.0, "B": 2000.0, "E": 1.8, "alpha": 0.34, "beta": 0.37}


def grid(sizes: int = 6, seeds: int = 4, noisy: bool = True, seed: int = 0) -> tuple[Points, np.ndarray]:
    """A grid whose noise falls with N, and the true variance of each row."""
    N, D, s = (
        g.ravel()
        for g in np.meshgrid(np.geomspace(1e7, 3e9, sizes), np.geomspace(1e9, 1e11, 5), np.arange(seeds), indexing="ij")
    )
    deviation = 0.03 * (N / 1e7) ** -0.5
    rng = np.random.default_rng(seed)
    loss = CHINCHILLA.predict(TRUTH, {"N": N, "D": D}) * np.exp(rng.normal(size=len(N)) * deviation * noisy)
    return Points(N=N, D=D, loss=loss, seed=s.astype(int)), deviation**2


def test_inverted_weights_are_seen_in_the_table() -> None:
    points, variance = grid()
    assert not any("inverted" in w for w in points.with_columns(weight=1 / variance).check())
    assert any("inverted" in w for w in points.with_columns(weight=variance).check())


def test_inverted_weights_are_named_by_the_audit() -> None:
    points, variance = grid()
    right, wrong = points.with_columns(weight=1 / variance / 1e4), points.with_columns(weight=variance * 1e4)
    claimed = fit(wrong, "chinchilla").parameters
    found = audit(right, "chinchilla", claimed)
    assert any("inverted weights" in text for text in found.findings)
    assert audit(right, "chinchilla", fit(right, "chinchilla").parameters).sound


def test_mean_instead_of_sum_is_caught(epoch: Points, epoch_fit: Fit) -> None:
    """The reported number is a mean; and the optimiser that averaged stopped far from the optimum."""
    from scipy.optimize import minimize

    def averaged(q: np.ndarray) -> float:
        logs = [q[0] - q[3] * np.log(epoch.N), q[1] - q[4] * np.log(epoch.D), np.full(240, q[2])]
        r = np.log(epoch.loss) - np.logaddexp.reduce(logs, axis=0)
        return float(np.mean(Objective("huber", 1e-3).rho(r)))

    start = [np.log(406.4), np.log(410.7), np.log(1.69), 0.34, 0.28]
    stopped = minimize(averaged, start, method="L-BFGS-B")
    claimed = dict(zip(("A", "B", "E"), np.exp(stopped.x[:3]), strict=True)) | {
        "alpha": stopped.x[3],
        "beta": stopped.x[4],
    }
    assert stopped.success
    found = audit(epoch, "chinchilla", claimed, objective=float(stopped.fun))
    assert any("not converged" in text for text in found.findings)
    assert any("mean instead of sum" in text for text in found.findings)
    honest = audit(epoch, "chinchilla", epoch_fit.parameters, objective=epoch_fit.objective)
    assert honest.sound


def test_rounded_parameters_are_caught(epoch: Points, epoch_fit: Fit) -> None:
    rounded = {name: float(f"{value:.2e}") for name, value in epoch_fit.parameters.items()}
    found = audit(epoch, "chinchilla", rounded)
    assert any("rounded parameters" in text for text in found.findings)
    assert found.objective > 1.05 * found.optimum


def test_embeddings_counted_in_size_are_caught() -> None:
    width, layers = np.array([64.0, 128, 256, 512, 1024]), np.array([4.0, 6, 8, 12, 16])
    blocks = 12 * layers * width**2
    N, D = np.repeat(blocks, 6), np.tile(np.geomspace(1e8, 3e10, 6), 5)
    shape = {"d_model": np.repeat(width, 6), "n_layer": np.repeat(layers, 6), "vocab": np.full(30, 50257.0)}
    loss = CHINCHILLA.predict(TRUTH, {"N": N, "D": D})
    clean = Points(N=N, D=D, loss=loss, **shape)
    counted = clean.with_columns(N=N + shape["vocab"] * shape["d_model"])
    assert not any("embeddings" in w for w in clean.check())
    assert any("embeddings" in w for w in counted.check())
    biased = fit(counted, "chinchilla").parameters["alpha"]
    assert abs(biased - TRUTH["alpha"]) > 0.05
    assert fit(counted.without_embeddings(), "chinchilla").parameters["alpha"] == pytest.approx(0.34, rel=1e-6)
    claimed = fit(counted, "chinchilla").parameters
    assert any("embeddings" in text for text in audit(counted, "chinchilla", claimed).findings)
    with pytest.raises(LawError, match="does not count the embeddings"):
        clean.without_embeddings()


def test_untied_embeddings_counted_in_size_are_caught() -> None:
    """Two vocabulary matrices in N: named as such, and taken off both."""
    width, layers = np.array([256.0, 512, 1024, 2048]), np.array([6.0, 8, 12, 16])
    blocks = np.repeat(12 * layers * width**2, 6)
    shape = {"d_model": np.repeat(width, 6), "n_layer": np.repeat(layers, 6), "vocab": np.full(24, 32000.0)}
    D = np.tile(np.geomspace(1e8, 3e10, 6), 4)
    clean = Points(N=blocks, D=D, loss=CHINCHILLA.predict(TRUTH, {"N": blocks, "D": D}), **shape)
    matrix = shape["vocab"] * shape["d_model"]
    once, twice = clean.with_columns(N=blocks + matrix), clean.with_columns(N=blocks + 2 * matrix)
    assert any("embeddings twice" in w for w in twice.check())
    assert any("embeddings (" in w for w in once.check()) and not any("embeddings" in w for w in clean.check())
    for counted in (once, twice):
        np.testing.assert_allclose(counted.without_embeddings().N, blocks, rtol=1e-12)
    assert abs(fit(twice, "chinchilla").parameters["alpha"] - TRUTH["alpha"]) > 0.05
    claimed = fit(twice, "chinchilla").parameters
    assert any("embeddings twice" in text for text in audit(twice, "chinchilla", claimed).findings)


def test_the_optimum_of_another_loss_is_named(epoch: Points) -> None:
    """Besiroglu's printed values are those of the L1 limit; others are recognised alike, none is invented."""
    printed = {"A": 482.01, "B": 2085.43, "E": 1.8169, "alpha": 0.3478, "beta": 0.3658}
    found = audit(epoch, "chinchilla", printed).findings
    assert len(found) == 1 and "the optimum of L1, not of Huber 0.001" in found[0]
    assert "another loss" not in " ".join(audit(epoch, "chinchilla", printed, loss="l1").findings)
    wide = fit(epoch, "chinchilla", delta=1e-2).parameters
    assert "the optimum of Huber 0.01, not of Huber 0.001" in audit(epoch, "chinchilla", wide).findings[0]
    squares = fit(epoch, "chinchilla", loss="squared").parameters
    assert "of squared residuals, not of L1" in audit(epoch, "chinchilla", squares, loss="l1").findings[0]
    hoffmann = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28}
    assert "not converged" in audit(epoch, "chinchilla", hoffmann).findings[0]
    with pytest.raises(LawError, match="needs beta too"):
        audit(epoch, "chinchilla", {name: v for name, v in hoffmann.items() if name != "beta"})


def test_a_flat_table_ends_in_words() -> None:
    """No slope: exponents go to zero, and what is derived from them has no value. Nothing divides by zero."""
    points = good(loss=np.full(30, 3.0))
    found = fit(points, "chinchilla")
    assert np.isnan(found.derived["a_opt"]) and np.isnan(found.derived["G"])
    assert "a_opt, b_opt, G have no finite value at this fit" in " ".join(found.warnings)
    assert "goes to zero" in found.report()
    for law in ("chinchilla-tied", "chinchilla-outer", "kaplan", "additive:N,D"):
        assert fit(points, law).rmse < 0.05 and fit(points, law).report()
    draws = fit(good(), "chinchilla").bootstrap(20)
    nothing = draws.interval(lambda p: p["E"] * np.nan)
    assert np.isnan(nothing.low) and np.isnan(nothing.high) and "20 of 20 draws have no value" in nothing.note


def test_an_envelope_is_the_same_from_python_and_the_command_line(tmp_path: Path) -> None:
    """Its floor is given, and it runs along the lower edge, whoever asks."""
    import subprocess
    import sys

    points = good(C=6 * good().N * good().D)
    with pytest.raises(LawError, match=r"takes L_inf as given.*--pin L_inf=VALUE"):
        fit(points, "envelope")
    with pytest.raises(LawError, match="is a floor"):
        fit(points, "envelope", fixed={"L_inf": 99.0})
    found = fit(points, "envelope", fixed={"L_inf": 1.5})
    assert found.loss.kind == "lower-envelope"
    assert np.mean(points.loss < found.predict(C=points.C)) < 0.2
    rows = ["C,loss", *(f"{c!r},{y!r}" for c, y in zip(points.C.tolist(), points.loss.tolist(), strict=True))]
    (tmp_path / "p.csv").write_text("\n".join(rows) + "\n")
    command = ["-m", "isoloss.cli.main", "fit", str(tmp_path / "p.csv"), "--law", "envelope", "--pin", "L_inf=1.5"]
    done = subprocess.run([sys.executable, *command, "--json"], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["parameters"] == pytest.approx(found.parameters, rel=1e-9)
    assert told["loss"]["kind"] == "lower-envelope"


def test_a_fit_that_equals_its_start_is_an_error(epoch: Points, epoch_fit: Fit) -> None:
    """The solver itself cannot stall here, so the refusal is tested on a result that did not move."""
    from dataclasses import replace

    from isoloss.laws.fitting import _refuse_unmoved

    problem = epoch_fit.problem
    node = np.log([np.e**5, np.e**5, np.e, 1, 1]) * [1, 1, 1, 0, 0] + [0, 0, 0, 0.5, 0.5]
    stalled = replace(epoch_fit, theta=node, converged=False)
    with pytest.raises(LawError, match="equals its start"):
        _refuse_unmoved(stalled, node[None, :], 3.0)
    _refuse_unmoved(epoch_fit, problem.lower[None, :], 3.0)


def test_published_hoffmann_values_are_not_the_optimum(epoch: Points) -> None:
    hoffmann = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28}
    found = audit(epoch, "chinchilla", hoffmann)
    assert found.objective / found.optimum > 3
    assert found.objective == pytest.approx(evaluate(epoch, "chinchilla", hoffmann), rel=1e-12)


def good(**changes: Any) -> Points:
    points, _ = grid(noisy=False, seeds=1)
    return points.with_columns(**changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: fit(good().where(np.arange(4)), "chinchilla"),
            r"5 free parameters but the table has 4 rows",
        ),
        (
            lambda: fit(good(N=np.full(30, 1e7)), "chinchilla"),
            r"at least two values of N; all 30 rows have N = 1e\+07",
        ),
        (
            lambda: fit(good(loss=np.r_[np.nan, np.ones(29)]), "chinchilla"),
            r"column 'loss', row 0: nan is not a number",
        ),
        (lambda: fit(good(loss=np.r_[1, -2, np.ones(28)]), "chinchilla"), r"row 1: -2 is not positive"),
        (lambda: fit(good(N=np.r_[0, np.ones(29)]), "chinchilla"), r"logarithm of N; row 0 holds 0"),
        (lambda: fit(good(), "chinchila"), r"did you mean 'chinchilla'"),
        (lambda: fit(good(), "m2", x="Dd"), r"unknown column 'Dd'.*did you mean 'D'"),
        (lambda: fit(good(), "m2"), r"say which column"),
        (lambda: fit(good(), "chinchilla", x="C"), r"takes no x"),
        (lambda: fit(good(D=None), "chinchilla"), r"unknown column 'D'"),
        (lambda: fit(good(loss=None), "chinchilla"), r"predicts 'loss', which is not in the table"),
        (lambda: fit(good(), "chinchilla", fixed={"e": 1.0}), r"unknown parameter.*did you mean 'E'"),
        (lambda: fit(good(), "chinchilla", loss="hubr"), r"did you mean 'huber'"),
        (lambda: fit(good(), "chinchilla", delta=0.0), r"delta must be positive"),
        (lambda: fit(good(weight=-np.ones(30)), "chinchilla"), r"weights must be non-negative"),
        (lambda: fit(good(), "additive:"), r"needs distinct variables"),
        (lambda: fit(good(), "bnsl-9"), r"must be 1 to 5"),
        (lambda: fit(good(), "chinchilla").predict(N=1e9), r"predicts from N, D; given: N"),
        (lambda: Points(N=[1, 2], D=[1]), r"differ in length"),
        (lambda: Points(N=["a", "b"]), r"must hold numbers; found 'a'"),
        (lambda: Points(N=[1.0], C=[6.0]).column("D"), r"not guessed from N and C.*6ND"),
        (lambda: Points(N=[1.0], D=[1.0]).with_compute("palm"), r"needs column 'n_layer'"),
        (lambda: Points(N=[1.0], D=[1.0]).with_compute("6nd"), r"did you mean '6ND'"),
    ],
)
def test_bad_input_gives_one_clear_message(make: Any, message: str) -> None:
    with pytest.raises(LawError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"D": np.geomspace(1, 100, 30)}, "D in billions"),
        ({"N": np.geomspace(10, 300, 30)}, "N in millions"),
        ({"loss": np.linspace(200, 300, 30)}, "perplexity"),
        ({"C": np.ones(30)}, "check the units"),
        ({"N": np.full(30, 1e7)}, "all rows have N"),
        ({"D": np.repeat(np.geomspace(1e7, 3e9, 6), 5) * 20}, "move together"),
    ],
)
def test_mistakes_that_can_be_seen_are_warned_of(changes: dict[str, np.ndarray], message: str) -> None:
    assert any(message in warning for warning in good(**changes).check()), good(**changes).check()
    assert not any(message in warning for warning in good().check())


def test_duplicates_are_told_apart() -> None:
    points = good()
    copied = points.join(points.where(np.arange(3)))
    assert any("copied rows" in w for w in copied.with_columns(seed=None).check())
    repeated = copied.with_columns(loss=copied.loss * np.linspace(1, 1.01, 33), seed=None)
    assert any("give a seed" in w for w in repeated.check())
    assert not any("more than once" in w for w in repeated.with_columns(seed=np.arange(33)).check())


def test_readers_agree(tmp_path: Path) -> None:
    import polars

    points = good(run=[f"r{i}" for i in range(30)])
    table = polars.DataFrame(
        {"params": points.N, "tokens": points.D, "val_loss": points.loss, "run": points.run.tolist()}
    )
    table.write_csv(tmp_path / "p.csv")
    table.write_parquet(tmp_path / "p.parquet")
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps(row) for row in table.to_dicts()))
    for name in ("p.csv", "p.jsonl", "p.parquet"):
        read = Points.read(tmp_path / name)
        for column in ("N", "D", "loss"):
            np.testing.assert_allclose(read.column(column), points.column(column), rtol=1e-12)
        assert read.run.tolist() == points.run.tolist()
    renamed = Points.read(tmp_path / "p.csv", columns={"C": "tokens", "N": "params"})
    assert "D" not in renamed and len(renamed.C) == 30


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "N,D,loss\n1,2,3\n1,2\n", "line 3: 2 fields where the header has 3"),
        ("a.csv", "", "the file is empty"),
        ("a.csv", "N,D\n", "no rows"),
        ("a.jsonl", '{"N": 1}\n{oops}\n', "line 2: not JSON"),
        ("a.jsonl", "[1]\n", "expected an object"),
        ("a.txt", "1", "cannot read .txt"),
    ],
)
def test_unreadable_files(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(LawError, match=message):
        Points.read(tmp_path / name)
    with pytest.raises(LawError, match="no such file"):
        Points.read(tmp_path / "absent.csv")


def test_clusters_choose_root_then_run_then_size() -> None:
    points = good()
    assert points.clusters()[1] == "N" and int(points.clusters()[0].max()) == 5
    nearly = points.with_columns(N=points.N * (1 + 1e-5 * np.arange(30)))
    assert int(nearly.clusters()[0].max()) == 5  # sizes read off a figure differ in the last digits
    checkpoints = points.with_columns(run=["a"] * 10 + ["b"] * 20)
    assert checkpoints.clusters()[1] == "run"
    alone = points.with_columns(run=[f"r{i}" for i in range(30)])
    assert alone.clusters()[1] == "N"
    assert checkpoints.with_columns(cluster=list("xyz") * 10).clusters()[1] == "cluster"
    with pytest.raises(LawError, match="labels: 2 for 30 rows"):
        points.clusters([1, 2])


def test_fixed_parameters_keep_their_natural_value() -> None:
    problem = make_problem(good(), CHINCHILLA, fixed={"A": 400.0})
    assert problem.natural(np.array([np.log(400.0), 0, 0, 0.9, 0.1]))["A"] == pytest.approx(400.0)


def test_importing_laws_needs_neither_torch_nor_polars() -> None:
    import subprocess
    import sys

    heavy = ("torch", "polars", "plotly", "pydantic")
    code = f"import sys, isoloss.laws; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
