"""The law commands as a user meets them: in their own process, from a file to figures, JSON and a page."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from isoloss.laws import Points, fit, get_form


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """One command through the module that the console script calls."""
    return subprocess.run(
        [sys.executable, "-m", "isoloss.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid with 0.3 % noise, written as a stranger would name the columns."""
    N, D, s = (
        g.ravel() for g in np.meshgrid(np.geomspace(1e7, 3e9, 6), np.geomspace(1e9, 1e11, 5), [0, 1, 2], indexing="ij")
    )
    truth = {"A": 400.0, "B": 2000.0, "E": 1.8, "alpha": 0.34, "beta": 0.37}
    loss = get_form("chinchilla").predict(truth, {"N": N, "D": D}) * np.exp(
        0.003 * np.random.default_rng(0).normal(size=len(N))
    )
    path = tmp_path_factory.mktemp("points") / "runs.csv"
    lines = [
        "params,tokens,val_loss,seed",
        *(f"{n!r},{d!r},{y!r},{int(k)}" for n, d, y, k in zip(N.tolist(), D.tolist(), loss.tolist(), s, strict=True)),
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_fit_prints_what_the_library_finds(table: Path) -> None:
    done = run("fit", table, "--json", "--bootstrap", "100", "--holdout", "D", "--pin", "E=1.8")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    direct = fit(Points.read(table), "chinchilla", fixed={"E": 1.8})
    assert found["parameters"] == pytest.approx(direct.parameters, rel=1e-9)
    assert found["objective"] == pytest.approx(direct.objective, rel=1e-9)
    low, high = found["intervals"]["alpha"]
    assert low < found["parameters"]["alpha"] < high
    assert found["bootstrap"]["unit"] == "N"
    assert found["holdout"]["by"] == "D" and found["holdout"]["rows"]


def test_fit_in_words(table: Path) -> None:
    done = run("fit", table)
    assert done.returncode == 0, done.stderr
    for word in ("alpha", "90% interval", "converged", "6 clusters by N", "rows inside"):
        assert word in done.stdout


def test_fit_without_enough_clusters_refuses_intervals_only(table: Path) -> None:
    points = Points.read(table)
    two = table.parent / "two.csv"
    rows = [
        f"{n},{d},{y},{'a' if i % 2 else 'b'}"
        for i, (n, d, y) in enumerate(zip(points.N, points.D, points.loss, strict=True))
    ]
    two.write_text("\n".join(["N,D,loss,cluster", *rows]) + "\n")
    done = run("fit", two, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert "intervals" not in found and "2 independent clusters" in found["intervals_refused"]


def test_replaced_and_failed_draws_are_told(table: Path) -> None:
    """Four model sizes: a third of the resamples cannot determine the law."""
    points = Points.read(table)
    four = table.parent / "four.csv"
    kept = points.where(points.N < 4e8)
    rows = [f"{n},{d},{y}" for n, d, y in zip(kept.N, kept.D, kept.loss, strict=True)]
    four.write_text("\n".join(["N,D,loss", *rows]) + "\n")
    found = json.loads(run("fit", four, "--bootstrap", "300", "--json").stdout)
    redrawn = found["bootstrap"]["redrawn"]
    assert redrawn > 50 and found["bootstrap"]["failed"] == 0
    assert f"{redrawn} of {300 + redrawn} resamples" in " ".join(found["bootstrap"]["notes"])
    assert "only 4 independent clusters" in found["identification"]
    told = " ".join(run("fit", four, "--bootstrap", "300").stdout.split())
    assert f"0 failed, {redrawn} drawn again" in told and "only 4 independent clusters by N" in told
    assert "were drawn again" in told


def test_overtraining_law_predicts_from_size_and_data(table: Path) -> None:
    done = run("predict", table, "--law", "overtraining", "--flops", "6ND", "--at", "N=1e9,D=1e11", "--compute", "1e22",
               "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    point, best = json.loads(done.stdout)["predictions"]
    assert point["low"] < point["predicted"] < point["high"]
    assert 6 * best["N"] * best["D"] == pytest.approx(1e22, rel=1e-9)


def test_backtest_scores_each_cut_off_once(table: Path) -> None:
    cuts = json.loads(run("backtest", table, "--by", "D", "--json").stdout)["cuts"]
    reached = [cut["threshold"] for cut in cuts if "threshold" in cut]
    assert reached and len(reached) == len(set(reached))


def test_saved_fit_predicts_like_the_table(table: Path, tmp_path: Path) -> None:
    saved = tmp_path / "deep" / "fit.json"
    assert run("fit", table, "--save", saved, "--bootstrap", "0").returncode == 0
    from_file = json.loads(run("predict", saved, "--at", "N=1e9,D=5e11", "--compute", "1e22", "--json").stdout)[
        "predictions"
    ]
    from_rows = json.loads(
        run("predict", table, "--at", "N=1e9,D=5e11", "--compute", "1e22", "--by", "D", "--json").stdout
    )["predictions"]
    for one, other in zip(from_file, from_rows, strict=True):
        assert one["predicted"] == pytest.approx(other["predicted"], rel=1e-9)
    assert from_rows[0]["low"] < from_rows[0]["predicted"] < from_rows[0]["high"]
    assert 6 * from_rows[1]["N"] * from_rows[1]["D"] == pytest.approx(1e22, rel=1e-9)
    assert from_rows[1]["N_low"] < from_rows[1]["N"] < from_rows[1]["N_high"]


def test_backtest_and_compare(table: Path) -> None:
    done = run("backtest", table, "--by", "D", "--json")
    assert done.returncode == 0, done.stderr
    cuts = json.loads(done.stdout)["cuts"]
    assert any("rmse" in cut for cut in cuts)
    ranked = run("compare", table, "--law", "chinchilla", "--law", "kaplan", "--holdout", "D", "--json")
    assert ranked.returncode == 0, ranked.stderr
    assert json.loads(ranked.stdout)["best"] == "chinchilla"
    assert "held-out rmse" in run("compare", table, "--holdout", "D").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "TABLE", "--law", "chinchila"], "did you mean 'chinchilla'"),
        (["fit", "absent.csv"], "no such file"),
        (["fit", "TABLE", "--law", "m2"], "--x D"),
        (["fit", "TABLE", "--law", "m2", "--x", "tokns"], "unknown column 'tokns'"),
        (["fit", "TABLE", "--cluster", "sed"], "did you mean 'seed'"),
        (["fit", "TABLE", "--pin", "E=inf"], "finite"),
        (["fit", "TABLE", "--pin", "E=50"], "is a floor"),
        (["fit", "TABLE", "--level", "1.5"], "between 0 and 1"),
        (["fit", "TABLE", "--drop-largest", "90"], "the table has 90 rows"),
        (["fit", "TABLE", "--law", "envelope", "--flops", "6ND"], "--pin L_inf="),
        (["predict", "TABLE", "--at", "N=-1,D=1e9"], "positive"),
        (["predict", "TABLE", "--compute=-5"], "positive"),
        (["predict", "TABLE", "--law", "kaplan-d", "--compute", "1e20"], "law of D alone"),
        (["fit", "TABLE", "--column", "N=parms"], "did you mean 'params'"),
        (["fit", "TABLE", "--column", "N"], "allowed: NAME=VALUE"),
        (["fit", "TABLE", "--pin", "E=low"], "is not a number"),
        (["fit", "TABLE", "--holdout", "C"], "--flops 6ND"),
        (["fit", "TABLE", "--holdout", "D:x"], "COLUMN:SHARE"),
        (["predict", "TABLE"], "say where"),
        (["predict", "TABLE", "--at", "N=1e9", "--by", "D"], "give D too"),
        (["backtest", "TABLE", "--by", "width"], "unknown column 'width'"),
        (["fit", "TABLE", "--report", "/proc/no/page.html"], "cannot write"),
    ],
)
def test_wrong_requests_exit_with_two_and_one_message(table: Path, arguments: list[str], message: str) -> None:
    done = run(*[str(table) if word == "TABLE" else word for word in arguments])
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"params,model_size,D,loss\n1,1,1,1\n", "could all be N"),
        ("a.csv", b"N,N,D,loss\n1,1,1,1\n", "more than once"),
        ("a.csv", b"N,tokns,loss\n1e8,1e9,3\n", "--column D='tokns'"),
        ("a.csv", b"N,D,loss\n", "no rows"),
        ("a.csv", b"N,D,loss\n1e8,1e9,\n", "row 0: missing"),
        ("a.csv", bytes(range(256)), "UTF-8"),
        ("a.parquet", b"PAR1 and no more", "Parquet"),
    ],
)
def test_unusable_files_end_in_one_message(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    done = run("fit", path)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_one_variable_by_the_header_of_the_file(tmp_path: Path) -> None:
    x = np.geomspace(1e3, 1e7, 20)
    path = tmp_path / "curve.csv"
    rows = [f"{a!r},{b!r}" for a, b in zip(x.tolist(), (2 + 50 * x**-0.4).tolist(), strict=True)]
    path.write_text("\n".join(["Seen Examples,loss", *rows]) + "\n")
    done = run("fit", path, "--law", "m2", "--x", "Seen Examples", "--bootstrap", "0", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parameters"]["E"] == pytest.approx(2.0, rel=1e-4)


def test_allocation_uses_the_ratio_of_the_table_and_the_saved_fit_remembers_it(table: Path, tmp_path: Path) -> None:
    points = Points.read(table)
    path, saved = tmp_path / "eight.csv", tmp_path / "fit.json"
    columns = [points.N.tolist(), points.D.tolist(), (8 * points.N * points.D).tolist(), points.loss.tolist()]
    rows = [",".join(map(repr, row)) for row in zip(*columns, strict=True)]
    path.write_text("\n".join(["N,D,C,loss", *rows]) + "\n")
    assert run("fit", path, "--bootstrap", "0", "--save", saved).returncode == 0
    for source in (path, saved):
        best = json.loads(run("predict", source, "--compute", "1e22", "--json").stdout)["predictions"][0]
        assert 8 * best["N"] * best["D"] == pytest.approx(1e22, rel=1e-9)


def test_band_grows_with_any_variable_beyond_the_rows(table: Path) -> None:
    far = ("--at", "N=1e9,D=5e10", "--at", "N=1e9,D=1e13", "--flops", "6ND", "--by", "N", "--json")
    near, beyond = json.loads(run("predict", table, *far).stdout)["predictions"]
    assert np.log(beyond["high"] / beyond["low"]) > 3 * np.log(near["high"] / near["low"])
    assert beyond["times_largest_D"] == pytest.approx(100.0)


def test_compare_takes_the_options_of_fit(table: Path) -> None:
    done = run("compare", table, "--flops", "6ND", "--law", "chinchilla-tied", "--law", "kaplan", "--drop-largest", "2")
    assert done.returncode == 0, done.stderr
    assert "chinchilla-tied" in done.stdout


def _processor_seconds() -> float:
    """Of all child processes that have ended: what a busy machine disturbs least."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def test_chinchilla_from_csv_to_page_in_five_seconds(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "laws" / "epoch-chinchilla" / "svg_extracted_data.csv"
    if not path.is_file():
        pytest.skip(f"no table at {path}")
    begin = _processor_seconds()
    done = run(
        "fit",
        path,
        "--flops",
        "6ND",
        "--drop-largest",
        "5",
        "--holdout",
        "C",
        "--report",
        tmp_path / "law.html",
    )
    seconds = _processor_seconds() - begin
    assert done.returncode == 0, done.stderr
    assert "0.001018274" in done.stdout
    assert seconds < 5.0
    assert (tmp_path / "law.html").stat().st_size > 1_000_000


def test_commands_import_nothing_heavy_until_they_run() -> None:
    code = (
        "import sys, isoloss.cli.fit, isoloss.cli.predict, isoloss.cli.backtest, isoloss.cli.forms; "
        "print([m for m in ('numpy', 'scipy', 'torch', 'polars', 'plotly') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
