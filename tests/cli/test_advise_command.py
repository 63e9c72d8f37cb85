"""`isoloss advise` as it is typed: every source, the terminal, JSON, and one message for what is wrong."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.command import isoloss, typed
from tests.conftest import SMALL


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of a planted law with headers of its own, and its saved fit."""
    made = tmp_path_factory.mktemp("points")
    rng = np.random.default_rng(0)
    with (made / "points.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["weights", "text", "loss", "arm"])
        for arm, worth in (("plain", 1.0), ("better", 1.5)):
            for N in np.geomspace(1e7, 1e9, 5):
                for D in N * np.array([5.0, 20.0, 80.0, 320.0]):
                    loss = 1.8 + 400 * N**-0.34 + 2000 * (worth * D) ** -0.37
                    out.writerow([N, D, loss * np.exp(0.003 * rng.normal()), arm])
    isoloss("fit", "points.csv", *HEADERS, "--arm", "better", "--bootstrap", "200", "--save", "fit.json", cwd=made)
    return made


HEADERS = ("--column", "N=weights", "--column", "D=text")


def advised(folder: Path, source: str, *options: str) -> Any:
    return json.loads(isoloss("advise", source, *options, "--json", cwd=folder).stdout)


def test_a_table_and_its_saved_fit_say_the_same(folder: Path) -> None:
    table = advised(folder, "points.csv", *HEADERS, "--arm", "better", "--flops", "1e20")
    saved = advised(folder, "fit.json", "--flops", "1e20")
    assert table["answer"] == saved["answer"] and table["arm"] == "better"
    truth = 1.8 + 400 * saved["answer"]["N"] ** -0.34 + 2000 * (1.5 * saved["answer"]["D"]) ** -0.37
    assert saved["answer"]["low"] < truth < saved["answer"]["high"]
    assert table["source"] == "points.csv" and any("6 N D" in warning for warning in table["warnings"])
    named = advised(folder, "fit.json", "--flops", "1e20", "--level", "0.5")
    assert named["answer"]["low"] > saved["answer"]["low"] and named["level"] == 0.5


def test_arms_that_are_mixed_are_noticed(folder: Path) -> None:
    """Rows of two arms at each place: an absolute loss is indifferent between them, whatever is resampled."""
    mixed = advised(folder, "points.csv", *HEADERS, "--flops", "1e20")
    assert any("are runs of different kinds mixed in one table?" in warning for warning in mixed["warnings"])
    alone = advised(folder, "points.csv", *HEADERS, "--arm", "plain", "--flops", "1e20")
    assert not any("mixed" in warning for warning in alone["warnings"])


def test_the_bare_form_is_the_question_of_a_budget(folder: Path) -> None:
    bare = isoloss("advise", "fit.json", "--flops", "1e20", cwd=folder).stdout
    assert bare == isoloss("advise", "budget", "fit.json", "--flops", "1e20", cwd=folder).stdout
    assert bare == isoloss("advise", "--flops", "1e20", "fit.json", cwd=folder).stdout
    listed = isoloss("advise", "--help", cwd=folder).stdout
    assert all(word in listed for word in ("budget", "transfer", "isoloss advise points.csv --hours 3 --device h100"))
    assert "--mfu" in isoloss("advise", "budget", "--help", cwd=folder).stdout


def test_the_terminal_fits_80_columns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.cli.command.ENVIRONMENT", {"OMP_NUM_THREADS": "1", "COLUMNS": "80"})
    said = isoloss("advise", "fit.json", "--hours", "1000", "--device", "h100", "--devices", "8", cwd=folder).stdout
    assert max(map(len, said.splitlines())) <= 80
    for words in ("Model", "Data", "Loss", "41.7 days on 8 x NVIDIA H100 SXM at MFU 0.4", "tokens a parameter",
                  "The same loss at another size", "tune them", "! the time rests on MFU 0.4"):  # fmt: skip
        assert words in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("fit.json", "budget: found none; allowed: exactly one of --flops, --hours and --tokens"),
        ("fit.json --flops 0", "--flops: found 0; allowed: a number above 0"),
        ("fit.json --flops=-1e18", "--flops: found -1e+18"),
        ("fit.json --hours 3 --device h10", "did you mean 'h100'?"),
        ("fit.json --hours 3 --device h100 --mfu 1.5", "--mfu: found 1.5; allowed: above 0, at most 1"),
        ("fit.json --flops 1e30", "times above the measured"),
        ("fit.json --flops 1e20 --given unique", "--given: found 'unique'; allowed: NAME=VALUE"),
        ("points.csv --flops 1e20", "unknown column 'N'; allowed: arm, loss, text, weights"),
        ("points.csv --column D=text --law kaplan-d --flops 1e20", "law 'kaplan-d' is a law of D alone"),
        ("nothing.json --flops 1e20", "nothing.json: cannot be read"),
        ("nothing.yaml --flops 1e20", "nothing.yaml: found no such file"),
        ("fit.json --flops 1e20 --device here", "--device here: no run of this source was timed"),
    ],
)
def test_what_is_wrong_is_one_message(folder: Path, arguments: str, words: str) -> None:
    done = isoloss("advise", *arguments.split(), cwd=folder, code=2)
    assert words in done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr


@pytest.mark.multiprocess
def test_a_trained_study_is_advised_on_its_own_machine(tmp_path: Path) -> None:
    study = {
        **SMALL,
        "grid": {"model.width": [8, 16, 32], "duration": ["6 updates", "18 updates", "54 updates"], "seed": [0, 1]},
        "arms": {"cosine": SMALL["arms"]["cosine"]},
        "laws": ["chinchilla"],
    }
    (tmp_path / "mine.yaml").write_text(json.dumps(study))
    empty = isoloss("advise", "mine.yaml", "--flops", "1e9", cwd=tmp_path, code=2).stderr
    assert "mine.store" in empty
    isoloss("run", "mine.yaml", cwd=tmp_path)
    found = advised(tmp_path, "mine.yaml", "--hours", "0.001", "--device", "here", "--reach", "1e6")
    assert found["arm"] == "cosine" and found["budget"]["mfu"] == 1.0
    assert found["answer"]["C"] == pytest.approx(3.6 * found["budget"]["peak"])
    assert 1e6 < found["budget"]["peak"] < 1e13, "FLOP/s of one core"
    assert found["batch"]["used"] == 4 and found["lr"]["rule"] == "not tuned" and not found["schedule"]["known"]


def test_the_console_script_knows_it(folder: Path) -> None:
    assert "Model" in typed("advise", "fit.json", "--tokens", "2e10", cwd=folder).stdout
