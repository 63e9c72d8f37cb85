"""The 240 Chinchilla points: optimum, L1 limit, bootstrap errors, diagnosis, and the OLMo ladder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isoloss.laws import Fit, LawError, Points, evaluate, fit

OPTIMUM = {"A": 477.8259, "B": 2143.417, "E": 1.817218, "alpha": 0.3473105, "beta": 0.3671724}
BESIROGLU = {"A": 482.01, "B": 2085.43, "E": 1.8169, "alpha": 0.3478, "beta": 0.3658}
BESIROGLU_ERRORS = {"A": 124.5, "B": 1293.0, "E": 0.0257, "alpha": 0.0154, "beta": 0.0206}


def test_optimum(epoch_fit: Fit, epoch: Points) -> None:
    assert len(epoch) == 240
    assert epoch_fit.objective <= 0.0010182740179
    assert epoch_fit.converged
    assert epoch_fit.gradient < 1e-8
    for name, value in OPTIMUM.items():
        assert epoch_fit.parameters[name] == pytest.approx(value, rel=1e-5)
    # The objective of the printed parameters, summed by another route, is the same number.
    assert evaluate(epoch, "chinchilla", epoch_fit.parameters) == pytest.approx(epoch_fit.objective, rel=1e-12)


def test_all_245_rows(epoch_all: Points) -> None:
    assert len(epoch_all) == 245
    assert fit(epoch_all, "chinchilla").objective == pytest.approx(0.00182601, abs=5e-9)


def test_l1_limit_is_the_published_fit(epoch: Points) -> None:
    found = fit(epoch, "chinchilla", loss="l1")
    for name, value in BESIROGLU.items():
        assert found.parameters[name] == pytest.approx(value, rel=1e-3)
    residual = np.log(epoch.loss) - np.log(found.predict(N=epoch.N, D=epoch.D))
    assert found.objective == pytest.approx(float(np.abs(residual).sum()), rel=1e-12)
    # At an L1 optimum of five parameters, five rows are met exactly.
    assert int((np.abs(residual) < 1e-8).sum()) == 5


def test_sensitivity_to_delta(epoch_fit: Fit) -> None:
    table = epoch_fit.sensitivity()
    assert {label: round(row["B"]) for label, row in table.items()} == {
        "huber 0.01": 2906, "huber 0.003": 2213, "huber 0.001": 2143, "l1": 2085,
    }  # fmt: skip
    assert [round(row["a_opt"], 3) for row in table.values()] == [0.518, 0.514, 0.514, 0.513]
    assert round(epoch_fit.diagnosis.inside, 2) == 0.16


def test_pairs_bootstrap_reproduces_the_published_errors(epoch_fit: Fit) -> None:
    """With the resamples of the published notebook (legacy generator, seed 42)."""
    generator = np.random.RandomState(42)
    indices = np.stack([generator.choice(240, 240, replace=True) for _ in range(4000)])
    draws = epoch_fit.bootstrap(indices=indices)
    assert len(draws) == 4000 and draws.failed == 0
    for name, value in BESIROGLU_ERRORS.items():
        assert draws.standard_error(name) == pytest.approx(value, rel=0.03)


def test_own_resamples_agree_within_their_noise(epoch_fit: Fit) -> None:
    draws = epoch_fit.bootstrap(2000, seed=5, method="pairs")
    for name in ("E", "alpha", "beta"):
        assert draws.standard_error(name) == pytest.approx(BESIROGLU_ERRORS[name], rel=0.08)


def test_resample_is_the_fit_of_the_resampled_table(epoch_fit: Fit, epoch: Points) -> None:
    """A draw, made with integer weights from a warm start, is the fresh fit of the table it stands for."""
    rng = np.random.default_rng(3)
    indices = rng.integers(0, 240, size=(3, 240))
    draws = epoch_fit.bootstrap(indices=indices)
    for k in range(3):
        fresh = fit(epoch.where(indices[k]), "chinchilla")
        assert draws.parameters["alpha"][k] == pytest.approx(fresh.parameters["alpha"], rel=1e-7)
        assert draws.parameters["B"][k] == pytest.approx(fresh.parameters["B"], rel=1e-6)


def test_objective_is_invariant_to_units_and_row_order(epoch_fit: Fit, epoch: Points) -> None:
    shuffled = epoch.where(np.random.default_rng(0).permutation(240))
    millions = shuffled.with_columns(N=shuffled.N / 1e6)
    found = fit(millions, "chinchilla")
    assert found.objective == pytest.approx(epoch_fit.objective, rel=1e-11)
    assert found.parameters["A"] == pytest.approx(
        epoch_fit.parameters["A"] * 1e6 ** -epoch_fit.parameters["alpha"], rel=1e-6
    )


def test_weights_count_rows(epoch: Points) -> None:
    """Weight two is the row given twice."""
    weight = np.where(np.arange(240) % 3 == 0, 2.0, 1.0)
    twice = epoch.join(epoch.where(np.arange(240) % 3 == 0))
    weighted = fit(epoch.with_columns(weight=weight), "chinchilla")
    assert weighted.objective == pytest.approx(fit(twice, "chinchilla").objective, rel=1e-11)


def test_pinned_parameters_and_start(epoch: Points, epoch_fit: Fit) -> None:
    pinned = fit(epoch, "chinchilla", fixed={"E": 1.69})
    assert pinned.parameters["E"] == pytest.approx(1.69, rel=1e-12)
    assert pinned.objective > epoch_fit.objective
    held = fit(epoch, "chinchilla", fixed={"A": epoch_fit.parameters["A"]})
    assert held.objective == pytest.approx(epoch_fit.objective, rel=1e-9)
    started = fit(epoch, "chinchilla", start={"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28})
    assert started.objective == pytest.approx(epoch_fit.objective, rel=1e-11)


def test_tied_exponents_are_a_constraint(epoch: Points, epoch_fit: Fit) -> None:
    tied = fit(epoch, "chinchilla-tied")
    assert tied.objective > epoch_fit.objective
    assert epoch_fit.parameters["alpha"] < tied.parameters["alpha"] < epoch_fit.parameters["beta"]


def test_lower_envelope_lies_below_most_rows(epoch: Points) -> None:
    low = fit(epoch, "chinchilla", loss="lower-envelope", tau=0.1)
    below = float(np.mean(epoch.loss < low.predict(N=epoch.N, D=epoch.D)))
    assert below == pytest.approx(0.1, abs=0.03)


def test_report_and_json_round_trip(epoch_fit: Fit, tmp_path: Path) -> None:
    import json

    epoch_fit.save(tmp_path / "fit.json")
    saved = json.loads((tmp_path / "fit.json").read_text())
    assert saved["parameters"] == epoch_fit.parameters
    assert saved["loss"]["reduction"] == "sum"
    text = epoch_fit.report()
    for word in ("objective", "rows inside delta", "distinct minima", "eigenvalues"):
        assert word in text


def test_olmo_ladder_predicts_the_13b_run(laws_data: Path) -> None:
    """16 runs, mean of the last five evaluations as in the paper's configuration."""
    path = laws_data / "olmo-ladder" / "ladder_final.csv"
    runs = Points.read(path, columns={"loss": "c4_mean_last5"})
    ladder, target = (
        runs.where(lambda p: p.mode == "train"),
        runs.where(lambda p: p.run == "peteish13_eval_final"),
    )
    assert len(ladder) == 16
    predicted = fit(ladder, "chinchilla").predict(target)
    assert predicted[0] == pytest.approx(2.344, abs=1e-3)
    assert target.loss[0] == pytest.approx(2.438, abs=5e-4)


def test_intervals_need_three_clusters(epoch: Points) -> None:
    halves = fit(epoch.with_columns(cluster=["a" if i % 2 else "b" for i in range(240)]), "chinchilla")
    with pytest.raises(LawError, match="fewer than 3"):
        halves.bootstrap(50)
