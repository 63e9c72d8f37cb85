"""Cooldowns from the states of a store: to the bit, and under the key of, the run trained in one go."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import SMALL

import isoloss
from isoloss.execute.cooldown import Cooldown
from isoloss.recipe.errors import RunFailed, StudyError
from isoloss.store import Store

pytestmark = pytest.mark.multiprocess

FORMS: dict[str, dict[str, Any]] = {
    "one_minus_sqrt": {},
    "linear": {"final": 0.1},
    "cosine": {},
    "mirror_cosine": {},
    "square": {},
    "power": {"exponent": 0.3},
    "exponential": {"final": 0.05},
}
FORKS, LENGTH = (4, 13, 28, 36), 6
"""Updates to leave from: the end of the warm-up, the middle of a stored stretch, and two stored states."""


def trunk(**extra: Any) -> dict[str, Any]:
    """One run at constant learning rate, 40 updates with a state kept every 8 of the trunk."""
    study = copy.deepcopy(SMALL) | {
        "grid": {"seed": [0]},
        "duration": "40 updates",
        "baseline": {"arm": "flat", "extra": "none"},
    }
    return study | {"arms": {"flat": {"schedule": {"shape": "constant"}}}} | extra


def cooled(length: int, totals: list[int], shapes: list[str]) -> dict[str, Any]:
    """The study that asks for cooldowns of these forms at the end of runs of these lengths."""
    arms = {
        shape: {
            "schedule": {
                "shape": "constant",
                "cooldown": {"shape": shape, "length": f"{length} updates", **FORMS[shape]},
            }
        }
        for shape in shapes
    }
    grid = {"seed": [0], "duration": [f"{total} updates" for total in totals]}
    study = trunk(grid=grid, arms=arms, baseline={"arm": shapes[0], "extra": "none"})
    del study["duration"]
    return study


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished trunk."""
    path = tmp_path_factory.mktemp("trunk") / "store"
    isoloss.run(trunk(), path, quiet=True, workers=1)
    return path


@pytest.fixture(scope="module")
def branches(store: Path) -> dict[tuple[str, int], Any]:
    """Every form from every update, by form and length of the whole run."""
    found = {}
    for shape, options in FORMS.items():
        for fork in FORKS:
            made = isoloss.branch(trunk(), store, run="flat", cooldown=shape, at=fork, length=LENGTH, **options)
            assert (made.fork, made.total) == (fork, fork + LENGTH)
            found[shape, fork + LENGTH] = made
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_a_branch_is_the_run_in_one_go(
    store: Path, branches: dict[tuple[str, int], Any], tmp_path: Path, workers: int
) -> None:
    study = cooled(LENGTH, [fork + LENGTH for fork in FORKS], list(FORMS))
    # Alone, no run shares an update with another one.
    alone = isoloss.run(study, tmp_path / "alone", quiet=True, workers=workers, share=False)
    assert alone.trained == len(FORMS) * sum(fork + LENGTH for fork in FORKS)
    here, there = Store(store), Store(tmp_path / "alone")
    for result in alone.results:
        found = branches[result.arm, result.S]
        assert (result.loss, result.loss_a) == (found.losses["B"], found.losses["A"])
        assert there.digest(result.key) == here.digest(found.key) is not None


@pytest.mark.parametrize("workers", [1, 2])
def test_a_study_that_asks_later_trains_nothing(
    store: Path, branches: dict[tuple[str, int], Any], workers: int
) -> None:
    study = cooled(LENGTH, [fork + LENGTH for fork in FORKS], list(FORMS))
    later = isoloss.run(study, store, quiet=True, workers=workers)
    assert (later.trained, later.replayed) == (0, 0)
    for result in later.results:
        found = branches[result.arm, result.S]
        assert (result.key, result.loss) == (found.key, found.losses["B"])


def test_a_branch_by_fraction_is_a_study_by_fraction(store: Path) -> None:
    found = isoloss.branch(trunk(), store, run="flat", at=28, fraction=0.3)
    study = cooled(1, [found.total], ["one_minus_sqrt"])
    study["arms"]["one_minus_sqrt"]["schedule"]["cooldown"] = {"shape": "one_minus_sqrt", "fraction": 0.3}
    later = isoloss.run(study, store, quiet=True, workers=1)
    assert (later.trained, later.results[0].key, later.results[0].loss) == (0, found.key, found.losses["B"])


def test_a_key_is_enough(store: Path, tmp_path: Path) -> None:
    """The record beside a state holds all that a study says."""
    opened = Store(store)
    kept = {row.end_update: row for row in opened.pieces() if row.status == "done" and opened.has(row.end_key)}
    named = isoloss.branch(trunk(), store, run="flat", at=20, cooldown="linear", length=7)
    found = isoloss.branch(kept[20].end_key[:10], opened, cooldown="linear", length=7)
    assert (found.key, found.losses, found.amount, found.trained) == (named.key, named.losses, named.amount, 0)
    fresh = isoloss.branch(kept[20].end_key, store, cooldown="linear", length=9)
    assert (fresh.fork, fresh.fork_key, fresh.trained) == (20, kept[20].end_key, 9)
    # A track's name is its newest state; the trunk was last seen at update 40.
    track = isoloss.branch(kept[20].track[:12], store, length=3)
    assert track.fork == 40
    # Of an update that was never stored: training goes on from the state of update 20.
    between = isoloss.branch(kept[28].end_key, store, at=23, length=4)
    assert (between.fork, between.trained) == (23, 4)
    alone = isoloss.run(cooled(4, [27], ["one_minus_sqrt"]), tmp_path / "s", quiet=True, workers=1)
    assert alone.results[0].loss == between.losses["B"]


def test_a_branch_of_a_branch_and_of_a_released_state(store: Path) -> None:
    """A cooldown can be left too, at the rate it had there; what was released is trained again."""
    opened = Store(store)
    first = isoloss.branch(trunk(), store, run="flat", at=12, length=8, cooldown="cosine")
    again = isoloss.branch(first.key, store, at=16, length=4, cooldown="linear")
    assert opened.curve(again.key)["lr"][0] == opened.trajectory(first.key)["lr"][16] == pytest.approx(0.005)
    opened.release(first.key)
    after = isoloss.branch(first.key, store, at=17, length=4, cooldown="linear")
    assert after.trained == 4
    with pytest.raises(StudyError, match="learning rate is 0"):
        isoloss.branch(first.key, store)


def test_runs_of_several_durations_share_the_state_that_is_asked_for(small: dict[str, Any], tmp_path: Path) -> None:
    small["grid"]["seed"] = [0]
    del small["arms"]["averaged"]
    isoloss.run(small, tmp_path / "store", quiet=True, workers=1)
    with pytest.raises(StudyError, match="which several runs are called; allowed: cosine duration=20 updates seed=0"):
        isoloss.branch(small, tmp_path / "store", run="cosine", at=15)
    # Both durations of the arm have one trunk, which goes to 32.
    found = isoloss.branch(small, tmp_path / "store", run="cooldown seed=0", fraction=0.2)
    assert (found.fork, found.length, found.trained) == (32, 8, 0)
    assert found.total == 40
    shorter = isoloss.branch(small, tmp_path / "store", run="cooldown", at=14)
    assert shorter.trained == shorter.length == 3


def test_fractions_round_as_a_study_does() -> None:
    for fraction in (0.05, 0.1, 0.2, 1 / 3, 0.5, 0.8, 0.97):
        for fork in (1, 2, 3, 7, 50, 99, 1602, 12_345):
            length = Cooldown(fraction=fraction).updates(fork)
            total = fork + length
            assert length == max(1, round(fraction * total))
            shorter = total - 1
            assert shorter - max(1, round(fraction * shorter)) < fork


def test_threads_and_random_state_are_the_callers_again(store: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    before = torch.get_num_threads()
    isoloss.branch(trunk(), store, run="flat", at=30, length=2)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == before


def test_divergence_is_told(tmp_path: Path) -> None:
    study = trunk(training=SMALL["training"] | {"optimizer": {"name": "sgd", "lr": 0.05}})
    isoloss.run(study, tmp_path / "store", quiet=True, workers=1)
    study["training"]["optimizer"]["lr"] = 100.0
    with pytest.raises(RunFailed, match="diverged at update"):
        isoloss.branch(study, tmp_path / "store", run="flat", at=30, length=4)


def test_a_state_of_files_needs_its_study(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("to be or not to be, that is the question. " * 400)
    study = trunk(data={"source": "text", "path": str(tmp_path / "text.txt"), "context": 8})
    isoloss.run(study, tmp_path / "store", quiet=True, workers=1)
    key = Store(tmp_path / "store").pieces()[-1].end_key
    with pytest.raises(StudyError, match=r"data are files.*STUDY\.yaml --run"):
        isoloss.branch(key, tmp_path / "store", length=2)
    assert isoloss.branch(study, tmp_path / "store", run="flat", length=2).fork == 40


def test_another_machine_is_told(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = Store(store).pieces()[-1].end_key
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    with pytest.raises(StudyError, match=r"other numerics.*environment.*MKL_CBWR"):
        isoloss.branch(key, store, length=2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cooldown": "one_minus_sqr"}, "did you mean 'one_minus_sqrt'"),
        ({"length": 3, "fraction": 0.2}, "found both fraction and length"),
        ({"fraction": 1.0}, "above 0 and below 1"),
        ({"length": 0}, "1 or more updates"),
        ({"final": 2.0}, "--final: found 2; allowed: 0 to 1"),
        ({"cooldown": "exponential", "final": 0.0}, "allowed: above 0 to 1"),
        ({"exponent": 0.5}, "with power alone"),
        ({"cooldown": "power", "exponent": 0.0}, "above 0, up to 100"),
        ({"at": 41}, "allowed: 1 to 40"),
        ({"at": 0}, "allowed: 1 to 40"),
        ({"run": None}, "found no name; allowed: flat seed=0"),
        ({"run": "fat seed=0"}, r"found 'fat seed=0'; allowed: flat seed=0 \(did you mean 'flat seed=0'"),
        ({"out": "x.pt"}, "--out"),
        ({"adapter": "a:b"}, "--adapter"),
    ],
)
def test_one_message_for_each_mistake(store: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(StudyError, match=words):
        isoloss.branch(trunk(), store, **{"run": "flat", **options})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("0" * 12, "no state or track of the store"),
        ("checkpoint.pt", "no such file, and no key"),
        ("abc", "no such file, and no key"),
    ],
)
def test_a_checkpoint_that_is_not_there(store: Path, name: str, words: str) -> None:
    with pytest.raises(StudyError, match=words):
        isoloss.branch(name, store)
    with pytest.raises(StudyError, match="--store is missing"):
        isoloss.branch(name)


@pytest.mark.parametrize(
    "training",
    [
        {"micro_batches": 2, "sharpness": {"direction": "local"}},
        {"optimizer": {"name": "schedule_free_adamw", "lr": 0.01}},
        {"optimizer": {"name": "muon", "lr": 0.01}, "precision": "bf16-master"},
    ],
    ids=["sharpness", "schedule_free", "muon"],
)
def test_the_rest_of_the_rule_goes_on(tmp_path: Path, training: dict[str, Any]) -> None:
    """Method, optimizer and precision are read back from the record; only the learning rate is new."""
    extra = {"training": SMALL["training"] | training, "duration": "12 updates"}
    isoloss.run(trunk(**extra), tmp_path / "store", quiet=True, workers=1)
    key = Store(tmp_path / "store").pieces()[-1].end_key
    found = isoloss.branch(key, tmp_path / "store", length=4, cooldown="linear")
    study = cooled(4, [16], ["linear"]) | {"training": extra["training"]}
    study["arms"]["linear"]["schedule"]["cooldown"]["final"] = 0.0
    later = isoloss.run(study, tmp_path / "store", quiet=True, workers=1)
    alone = isoloss.run(study, tmp_path / "alone", quiet=True, workers=1)
    assert (later.trained, later.results[0].key) == (0, found.key)
    assert alone.results[0].loss == later.results[0].loss == found.losses["B"]
