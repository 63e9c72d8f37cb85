"""Whole studies, trained for real: sharing, workers, processes and interruptions change no bit."""

from __future__ import annotations

import copy
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import isoloss
from isoloss.execute.replay import audit
from isoloss.store import Store

pytestmark = pytest.mark.multiprocess


def table(results: Any) -> pl.DataFrame:
    """What was measured, in an order that does not depend on execution."""
    return results.frame().sort("arm", "duration", "seed").select("arm", "duration", "seed", "loss", "loss_a", "lr")


def run(study: dict[str, Any], store: Path, **options: Any) -> Any:
    return isoloss.run(study, store, quiet=True, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The small study, undisturbed."""
    from tests.conftest import SMALL

    store = tmp_path_factory.mktemp("whole") / "store"
    return run(copy.deepcopy(SMALL), store, workers=1), store


def test_every_run_is_measured_and_shared_stretches_are_trained_once(whole: tuple[Any, Path]) -> None:
    results, _ = whole
    assert {r.status for r in results.results} == {"done"}
    sharing = results.answer()["sharing"]["updates"]
    # A seed: cosine trains 20 + 40 with the warm-up of 4 once; the trunk goes to 40; cooldowns of 4 and 8 leave it.
    assert results.trained == sharing["shared"] == 2 * (20 + 40 - 4 + (40 - 4) + 4 + 8)
    assert sharing["unshared"] == 2 * 3 * (20 + 40)
    assert results.replayed == 0


def test_sharing_changes_no_bit(whole: tuple[Any, Path], small: dict[str, Any], tmp_path: Path) -> None:
    alone = run(small, tmp_path / "store", workers=2, share=False)
    assert table(alone).equals(table(whole[0]))
    assert alone.trained == alone.answer()["sharing"]["updates"]["unshared"]


def test_the_number_of_workers_changes_no_bit(whole: tuple[Any, Path], small: dict[str, Any], tmp_path: Path) -> None:
    assert table(run(small, tmp_path / "store", workers=3)).equals(table(whole[0]))


@pytest.mark.slow
def test_processes_that_share_micro_batches_change_no_bit(small: dict[str, Any], tmp_path: Path) -> None:
    small["training"]["micro_batches"] = 4
    small["grid"]["seed"] = [0]
    small["arms"] |= {
        "sam": {"training": {"sharpness": {"direction": "local"}}},
        "extrapolated": {"training": {"extrapolate": {"direction": "gradient", "share": 0.5}}},
        "lamb": {"training": {"optimizer": {"name": "lamb", "lr": 0.01}}},
    }
    one, two, four = (run(small, tmp_path / f"{n}", workers=1, processes=n) for n in (1, 2, 4))
    assert {r.status for r in one.results} == {"done"}
    assert table(one).equals(table(two))
    assert table(one).equals(table(four))


@pytest.mark.parametrize("method", [{"local_sgd": {"every": 2}}, {"extrapolate": {"direction": "past"}}])
def test_a_memory_of_each_micro_batch_is_not_shared_by_processes(
    small: dict[str, Any], tmp_path: Path, method: dict[str, Any]
) -> None:
    small |= {"grid": {"seed": [0]}, "duration": "4 updates", "arms": {"only": {"training": method}}}
    small["training"] |= {"micro_batches": 2, "warmup": "0 updates"}
    small["baseline"] = "only"
    found = run(small, tmp_path / "store", workers=1, processes=2)
    assert {r.status for r in found.results} == {"failed"}
    assert "allowed: --processes 1" in found.results[0].message


def test_a_second_run_trains_nothing(whole: tuple[Any, Path], small: dict[str, Any]) -> None:
    results, store = whole
    again = run(small, store)
    assert (again.trained, again.replayed) == (0, 0)
    assert table(again).equals(table(results))


def test_a_longer_duration_costs_exactly_what_is_new(small: dict[str, Any], tmp_path: Path) -> None:
    run(small, tmp_path / "store")
    small["grid"]["duration"].append("80 updates")
    planned = isoloss.plan(small, tmp_path / "store")
    # cosine anew but for the warm-up; the trunk from 40 to 80; a cooldown of 16 from 64.
    expected = 2 * ((80 - 4) + (80 - 40) + 16)
    assert (planned.missing.updates, planned.replayed) == (expected, 0)
    more = run(small, tmp_path / "store")
    assert (more.trained, more.replayed) == (expected, 0)


def test_a_duration_in_between_costs_that_and_at_most_a_piece_of_replay(small: dict[str, Any], tmp_path: Path) -> None:
    run(small, tmp_path / "store")
    small["grid"]["duration"].insert(1, "30 updates")
    planned = isoloss.plan(small, tmp_path / "store")
    # A seed: cosine 26; a cooldown of 6 that leaves the trunk at 24, 4 updates behind the stored state at 20; the
    # window of 10 that ends at 30 begins at 20.
    assert planned.missing.updates - planned.replayed == 2 * (26 + 6)
    assert 0 < planned.replayed <= 2 * (8 + 10)
    more = run(small, tmp_path / "store")
    assert (more.trained, more.replayed) == (planned.missing.updates, planned.replayed)
    fresh = run(small, tmp_path / "fresh")
    assert table(more).equals(table(fresh))


def test_a_stored_piece_trained_again_has_the_same_bits(whole: tuple[Any, Path]) -> None:
    done, problems = audit(Store(whole[1], create=False), 5)
    assert done == 5
    assert problems == []


def test_a_kept_store_serves_as_a_read_only_layer(
    whole: tuple[Any, Path], small: dict[str, Any], tmp_path: Path
) -> None:
    results, store = whole
    Store(store, create=False).export(tmp_path / "kept")
    again = run(small, tmp_path / "top", under=[tmp_path / "kept"])
    assert again.trained == 0
    assert table(again).equals(table(results))


def test_divergence_is_recorded_and_the_study_goes_on(small: dict[str, Any], tmp_path: Path) -> None:
    small["training"]["optimizer"] = {"name": "sgd", "lr": 0.1}
    small["training"]["clip"] = None
    small["grid"]["seed"] = [0]
    small["arms"] = {"calm": {}, "wild": {"training": {"optimizer": {"name": "sgd", "lr": 100.0}}}}
    small["schedule"] = {"shape": "constant"}
    small["baseline"]["arm"] = "calm"
    results = run(small, tmp_path / "store")
    statuses = {(r.arm, r.status) for r in results.results}
    assert statuses == {("calm", "done"), ("wild", "diverged")}
    wild = next(r for r in results.results if r.arm == "wild")
    assert "update" in wild.message
    assert run(small, tmp_path / "store").trained == 0
    assert isoloss.plan(small, tmp_path / "store").missing.updates == 0


def test_a_failing_run_is_one_message_and_the_others_finish(
    small: dict[str, Any], breaking: Callable[[bool], dict[str, Any]], tmp_path: Path
) -> None:
    small["model"] = breaking(False)
    small["arms"] = {"fine": {}, "broken": {"model": breaking(True)}}
    small["schedule"] = {"shape": "constant"}
    small["baseline"]["arm"] = "fine"
    small["grid"]["seed"] = [0]
    results = run(small, tmp_path / "store")
    by_arm = {r.arm: r for r in results.results}
    assert by_arm["fine"].status == "done"
    assert by_arm["broken"].status == "failed"
    assert "no such luck" in by_arm["broken"].message


@pytest.mark.slow
def test_editing_a_users_model_changes_its_keys(tmp_path: Path) -> None:
    code = (
        "import isoloss, sys\n"
        "from isoloss.plan.demands import expected\n"
        "from isoloss.plan.lower import Lowering\n"
        "study = isoloss.load_study('study.yaml')\n"
        "print(expected(study, Lowering())[0].run.key(5))\n"
    )
    model = "from torch import nn\n\n\ndef net(vocabulary):\n    return nn.Embedding(vocabulary, vocabulary){}\n"
    (tmp_path / "study.yaml").write_text(
        "study: own\ndata: {source: synthetic, tokens: 2000, context: 8}\n"
        "model: {name: 'own_model:net'}\n"
        "training: {optimizer: {name: sgd, lr: 0.1}, batch: 4 sequences}\n"
        "evaluation: {tokens: 64}\nduration: 5 updates\n"
    )

    def key(suffix: str) -> str:
        (tmp_path / "own_model.py").write_text(model.format(suffix))
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    first, edited, back = key(""), key(".float()"), key("")
    assert first == back
    assert first != edited


def spawn(study: Path, store: Path) -> subprocess.Popen:
    call = f"isoloss.run({str(study)!r}, {str(store)!r}, quiet=True, workers=2)"
    code = f"import isoloss\nif __name__ == '__main__':\n    {call}\n"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True
    )


def written(study: dict[str, Any], folder: Path) -> Path:
    import json

    path = folder / "small.yaml"
    path.write_text(json.dumps(study))
    return path


@pytest.mark.slow
def test_sigkill_at_random_moments_ends_with_the_same_bits(
    whole: tuple[Any, Path], small: dict[str, Any], tmp_path: Path
) -> None:
    """The process group is killed at 20 random moments, once something is being trained each time."""
    small["grid"]["seed"] = [0, 1]
    small["checkpoint"]["every"] = "2 updates"
    small["training"]["batch"] = "4 sequences"
    undisturbed = run(small, tmp_path / "undisturbed", workers=2)
    study, store = written(small, tmp_path), tmp_path / "store"
    chance = random.Random(7)
    kills = 0
    while kills < 20:
        process = spawn(study, store)
        begun = _pieces(store)
        until = time.monotonic() + 60
        while _pieces(store) <= begun and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.05))
        if process.poll() is not None:
            # It came to the end: begin again from what an earlier interruption would have left.
            assert process.returncode == 0, process.stderr.read() if process.stderr else ""
            _forget_half(store, chance)
            continue
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        verified = Store(store, create=False).verify()
        assert verified.clean, verified.problems
    final = run(small, store, workers=2)
    assert table(final).equals(table(undisturbed))
    assert Store(store, create=False).verify().clean


def _pieces(store: Path) -> int:
    return sum(1 for _ in (store / "pieces").rglob("*.json")) if store.exists() else 0


def _forget_half(store: Path, chance: random.Random) -> None:
    """Remove random manifests (what has no manifest does not exist), as if they had never been published."""
    manifests = sorted((store / "pieces").rglob("*.json"))
    for path in chance.sample(manifests, len(manifests) // 2):
        path.unlink()


def test_a_script_without_a_main_guard_does_not_start_itself_again(small: dict[str, Any], tmp_path: Path) -> None:
    study = written(small, tmp_path)
    script = tmp_path / "script.py"
    script.write_text(f"import isoloss\n\nprint('begun')\nisoloss.run({str(study)!r}, 'store', quiet=True)\n")
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.count("begun") == 1


def test_running_statistics_are_not_shared_by_processes(small: dict[str, Any], tmp_path: Path) -> None:
    from isoloss.recipe.errors import StudyError

    small["data"] = {"source": "blobs", "samples": 2000}
    small["evaluation"] = {"samples": 64}
    small["model"] = {"name": "tests.train.train_models:Normed"}
    small["training"] |= {"batch": "8 samples", "micro_batches": 2}
    small["arms"] = {"cosine": {"schedule": {"shape": "constant"}}}
    with pytest.raises(StudyError, match="BatchNorm"):
        run(small, tmp_path / "two", processes=2)
    small["training"]["micro_batches"] = 1
    with pytest.raises(StudyError, match="cannot be shared"):
        run(small, tmp_path / "two", processes=2)
    assert {r.status for r in run(small, tmp_path / "one", workers=1).results} == {"done"}


def test_tuning_over_seeds_and_the_rule_between_sizes(small: dict[str, Any], tmp_path: Path) -> None:
    small["grid"] = {"model.width": [8, 12, 16], "duration": ["20 updates"], "seed": [0, 1]}
    small["arms"] = {"cosine": small["arms"]["cosine"]}
    small["tune"] = {
        "training.optimizer.lr": [0.003, 0.03],
        "at": {"model.width": [8, 16], "duration": "20 updates", "seed": [0, 1]},
    }
    store = tmp_path / "store"
    results = run(small, store)
    trials: dict[tuple[int, float], list[float]] = {}
    for trial in results.stage.trials:
        trials.setdefault((trial.cell.coordinates["model.width"], trial.lr), []).append(trial.loss)
    assert all(len(losses) == 2 for losses in trials.values())
    best = {w: min((0.003, 0.03), key=lambda lr: sum(trials[w, lr])) for w in (8, 16)}
    used = {r.cell["model.width"]: (r.lr, r.lr_rule) for r in results.results}
    assert used[8] == (best[8], "tuned") and used[16] == (best[16], "tuned")
    assert used[12][1] == "between"
    small["tune"]["between"] = "nearest"
    near = {r.cell["model.width"]: (r.lr, r.lr_rule) for r in run(small, store).results}
    assert near[12][1] == "nearest" and near[12][0] in best.values()


def test_an_arm_whose_candidates_all_diverge_does_not_end_the_study(small: dict[str, Any], tmp_path: Path) -> None:
    small["training"]["optimizer"] = {"name": "adamw"}
    small["grid"]["seed"] = [0]
    small["schedule"] = {"shape": "constant"}
    small["arms"] = {"calm": {}, "wild": {"task": "tests.train.train_models:Exploding"}}
    small["baseline"]["arm"] = "calm"
    small["tune"] = {"training.optimizer.lr": [0.01, 0.02], "at": {"duration": "20 updates"}}
    results = run(small, tmp_path / "store")
    assert {(r.arm, r.status) for r in results.results} == {("calm", "done"), ("wild", "diverged")}


@pytest.mark.slow
def test_ctrl_c_finishes_the_pieces_and_leaves(small: dict[str, Any], tmp_path: Path) -> None:
    small["grid"]["duration"] = ["4000 updates"]
    small["arms"] = {"cosine": small["arms"]["cosine"]}
    study, store = written(small, tmp_path), tmp_path / "store"
    process = spawn(study, store)
    while _pieces(store) < 3:
        time.sleep(0.02)
        assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "finished first" in errors
    opened = Store(store, create=False)
    assert opened.verify().clean
    assert 0 < isoloss.plan(study, opened).missing.updates < 8000


def test_a_budget_stops_early_and_the_rest_is_missing(small: dict[str, Any], tmp_path: Path) -> None:
    small["grid"]["duration"] = ["3000 updates"]
    results = run(small, tmp_path / "store", workers=1, budget=4.0)
    assert results.stopped
    assert {r.status for r in results.results} <= {"done", "missing"}
    assert "missing" in {r.status for r in results.results}


def test_a_dead_worker_is_replaced(small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dying.py").write_text(
        "import os\nfrom pathlib import Path\nfrom torch import nn\n\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, vocabulary, mark):\n"
        "        super().__init__()\n"
        "        self.mark, self.count = Path(mark), 0\n"
        "        self.embedding = nn.Embedding(vocabulary, vocabulary)\n\n"
        "    def forward(self, tokens):\n"
        "        self.count += 1\n"
        "        if self.count == 15 and not self.mark.exists():\n"
        "            self.mark.touch()\n"
        "            os._exit(9)\n"
        "        return self.embedding(tokens)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    small["model"] = {"name": "dying:Net", "mark": str(tmp_path / "mark")}
    small["grid"]["seed"] = [0]
    results = run(small, tmp_path / "store", workers=1)
    assert (tmp_path / "mark").exists()
    assert {r.status for r in results.results} == {"done"}


@pytest.mark.slow
def test_two_drivers_share_the_work(small: dict[str, Any], tmp_path: Path, whole: tuple[Any, Path]) -> None:
    study, store = written(small, tmp_path), tmp_path / "store"
    drivers = [spawn(study, store) for _ in range(2)]
    for driver in drivers:
        _, errors = driver.communicate(timeout=120)
        assert driver.returncode == 0, errors
    opened = Store(store, create=False)
    assert opened.verify().clean
    assert table(isoloss.results(study, opened)).equals(table(whole[0]))
    rows = opened.pieces()
    assert len({(r.start_key, r.end_key) for r in rows}) == len(rows)


def test_learning_approaches_the_known_entropy(tmp_path: Path) -> None:
    from isoloss.plan.lower import open_source

    study = {
        "study": "entropy",
        "data": {"source": "synthetic", "order": 1, "vocabulary": 8, "tokens": 200_000, "context": 16},
        "model": {"family": "gpt", "depth": 1, "width": 16},
        "training": {"optimizer": {"name": "adamw", "lr": 0.01}, "batch": "16 sequences", "warmup": "20 updates"},
        "schedule": {"shape": "cosine", "final": 0.0},
        "evaluation": {"tokens": 8192},
        "duration": "400 updates",
    }
    results = run(study, tmp_path / "store")
    (only,) = results.results
    source: Any = open_source(results.stage.planned[0].lowered.data)
    attainable = source.attainable_loss(16)
    assert only.loss is not None
    assert abs(only.loss - attainable) < 0.03
    assert attainable < 0.95 * 2.0794  # well below ln 8: there was something to learn
