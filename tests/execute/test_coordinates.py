"""The coordinate check of a study, in Python and as a command, and what it finds."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from isoloss.cli.main import app
from isoloss.execute.coordinates import Coordinates, coordinates
from isoloss.methods.mup import Coordinate
from isoloss.recipe.errors import StudyError
from isoloss.study import from_dict

STUDY: dict[str, Any] = {
    "study": "check",
    "data": {"source": "synthetic", "order": 1, "vocabulary": 32, "tokens": 40_000, "context": 16},
    "model": {"family": "gpt", "depth": 1, "width": 32, "parametrisation": "mup", "base_width": 32},
    "duration": "40 updates",
    "training": {"optimizer": {"name": "adamw", "lr": 0.01}, "batch": "8 sequences", "warmup": "10 updates"},
    "evaluation": {"tokens": 256},
}
WIDTHS = [32, 64, 128]


def changed(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(STUDY) | changes


def test_mup_is_flat_and_standard_grows() -> None:
    own, other = coordinates(from_dict(STUDY), WIDTHS)
    assert (own.parametrisation, own.verdict) == ("mup", "flat")
    assert (other.parametrisation, other.verdict) == ("standard", "grows")
    assert {"", "embedding", "blocks.0", "blocks.0.qkv", "blocks.0.down"} <= set(own.growth) == set(other.growth)
    assert max(own.growth.values()) < 0.15 and other.growth["blocks.0.down"] > 0.6
    # At the base the two are one training.
    assert [r for r in own.rows if r.width == 32] == [r for r in other.rows if r.width == 32]
    assert {r.step for r in own.rows} == {0, 1, 2, 3, 4}
    assert all(r.change == 0 for r in own.rows if r.step == 0)
    assert coordinates(from_dict(STUDY), WIDTHS) == (own, other)


def test_a_tuned_rate_and_a_swept_width_are_filled_in() -> None:
    study = changed(grid={"model.width": [16, 32]}, baseline={"arm": "base", "extra": "none"})
    study["model"] = {"family": "gpt", "depth": 1}
    study["training"]["optimizer"] = {"name": "adamw"}
    study["tune"] = {"training.optimizer.lr": [0.001, 0.01, 0.1], "at": {"model.width": 32}}
    first, second = coordinates(from_dict(study), WIDTHS)
    assert [first.parametrisation, second.parametrisation] == ["standard", "mup"]
    fixed = coordinates(from_dict(STUDY), WIDTHS)
    assert (first, second) == (fixed[1], fixed[0])


def test_whatever_is_tuned_takes_its_middle_candidate() -> None:
    study = changed(tune={"training.optimizer.weight_decay": [0.0, 0.3, 0.1]})
    optimizer = STUDY["training"]["optimizer"]
    given = changed(training=STUDY["training"] | {"optimizer": optimizer | {"weight_decay": 0.1}})
    assert coordinates(from_dict(study), WIDTHS[:2]) == coordinates(from_dict(given), WIDTHS[:2])


def test_a_tied_table_and_vectors() -> None:
    tied = changed()
    tied["model"] |= {"tied": True}
    own, other = coordinates(from_dict(tied), WIDTHS)
    assert "embedding" not in own.growth
    assert (own.verdict, other.verdict) == ("flat", "grows")
    vectors = changed(
        data={"source": "blobs", "classes": 4, "samples": 640},
        model={"family": "mlp", "depth": 2, "width": 32},
        training={"optimizer": {"name": "adamw", "lr": 0.01}, "batch": "32 samples"},
        evaluation={"samples": 64},
    )
    plain, moved = coordinates(from_dict(vectors), WIDTHS, seeds=2)
    assert (plain.verdict, moved.verdict) == ("grows", "flat")


def test_divergence_is_a_verdict() -> None:
    study = changed()
    study["training"] |= {"clip": None, "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.0, "nesterov": False}}
    found = coordinates(from_dict(study), WIDTHS, lr=50.0)
    assert all(each.verdict == "diverges" and each.diverged for each in found)
    assert "diverges at width" in found[0].sentence


def test_verdicts() -> None:
    def made(slope: float) -> Coordinates:
        return Coordinates("mup", (Coordinate(8, 1, "", 1.0, 1.0),), {"": slope, "head": 0.0})

    assert [made(slope).verdict for slope in (0.1, 0.3, -0.3, -0.5)] == ["flat", "grows", "flat", "shrinks"]
    assert made(-0.5).sentence == "mup: shrinks with width (model: width^-0.50)"
    assert made(0.5).to_dict()["worst"] == "model"


def test_bad_requests() -> None:
    with pytest.raises(StudyError, match="widths: found 32; allowed: two or more"):
        coordinates(from_dict(STUDY), [32, 32])
    with pytest.raises(StudyError, match="multiple of head_size 16"):
        coordinates(from_dict(STUDY), [32, 40])
    own = changed(model={"family": "lstm", "depth": 1, "width": 8})
    with pytest.raises(StudyError, match="parametrisation"):
        coordinates(from_dict(own), WIDTHS)


@pytest.mark.parametrize("ending", ["svg", "png"])
def test_the_command(tmp_path: Path, ending: str) -> None:
    (tmp_path / "check.yaml").write_text(json.dumps(STUDY))
    picture = tmp_path / "made" / f"plot.{ending}"
    request = ["coordinates", str(tmp_path / "check.yaml"), "--widths", "32,64,128", "--out", str(picture)]
    text = CliRunner().invoke(app, request, env={"COLUMNS": "120"}).stdout
    assert "mup: flat (" in text and "standard: grows with width (" in text and "blocks.0.qkv" in text
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG") if ending == "png" else b"grows with width" in content
    found = json.loads(CliRunner().invoke(app, [*request, "--json"]).stdout)
    assert [each["verdict"] for each in found] == ["flat", "grows"]
    assert {"width", "step", "layer", "size", "change"} == set(found[0]["rows"][0])


def test_the_command_tells_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "check.yaml").write_text(json.dumps(STUDY))
    for request, message in (
        (["--widths", "32,x"], "--widths: found '32,x'; allowed: whole numbers"),
        (["--widths", "32,64", "--out", "plot.pdf"], "--out: found plot.pdf; allowed: a name that ends with .svg"),
    ):
        found = CliRunner().invoke(app, ["coordinates", str(tmp_path / "check.yaml"), *request])
        assert isinstance(found.exception, StudyError) and message in str(found.exception)
