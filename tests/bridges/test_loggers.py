"""Runs in the loggers, read back by the packages themselves: what the store has, each value once, whatever happens."""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tests.conftest import SMALL
from wandb.proto import wandb_internal_pb2

import isoloss
from isoloss.bridges.loggers import Follower, export, log_run
from isoloss.bridges.sinks import LEDGER, opened
from isoloss.execute.run import Options, execute
from isoloss.plan.demands import Stage
from isoloss.recipe.errors import StudyError
from isoloss.study import from_dict
from isoloss.worth.results import Results

KINDS = ("tensorboard", "mlflow", "wandb")
SERIES = {"loss": "train/loss", "gradient_norm": "train/gradient_norm", "lr": "train/lr"}


def study(**changes: Any) -> dict[str, Any]:
    made = copy.deepcopy(SMALL)
    del made["arms"]["averaged"]
    made["grid"]["seed"] = [0]
    return made | changes


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Path]:
    """A study that was logged while it was trained, to all three."""
    folder = tmp_path_factory.mktemp("logged")
    targets = [f"{kind}:{folder / kind}" for kind in KINDS]
    return isoloss.run(study(), folder / "store", workers=2, quiet=True, log=targets), folder


Read = dict[str, dict[str, list[tuple[int, float]]]]
"""By run and series: what is logged, as it is logged."""


def tensorboard(folder: Path) -> Read:
    found = {}
    for place in folder.iterdir():
        events = EventAccumulator(str(place))
        events.Reload()
        name = json.loads((place / LEDGER).read_text())["name"]
        found[name] = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    return found


def mlflow(folder: Path) -> Read:
    client = MlflowClient(folder.resolve().as_uri())
    [experiment] = [e for e in client.search_experiments() if e.name == "small"]
    found = {}
    for run in client.search_runs([experiment.experiment_id]):
        histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
        found[run.info.run_name] = {
            name: sorted((row.step, row.value) for row in rows) for name, rows in histories.items()
        }
    return found


def chunks(data: bytes) -> Iterator[bytes]:
    """Records of a log in blocks of 32 KiB: check sum, length, kind (whole, first, middle, last), and the part."""
    at, parts = 7, b""
    while at + 7 <= len(data):
        if (-at) % 32768 < 7:
            at += (-at) % 32768
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


def wandb_records(folder: Path) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for path in folder.glob("wandb/offline-run-*/run-*.wandb"):
        records = [wandb_internal_pb2.Record.FromString(data) for data in chunks(path.read_bytes())]
        [name] = [r.run.display_name for r in records if r.HasField("run")]
        assert name not in found, "a run twice"
        found[name] = records
    return found


def wandb(folder: Path) -> Read:
    found: Read = {}
    for name, records in wandb_records(folder).items():
        series: dict[str, list[tuple[int, float]]] = {}
        for record in records:
            row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
            for key, value in row.items():
                if "/" in key:
                    series.setdefault(key, []).append((int(row["update"]), value))
            for item in record.summary.update:
                key = item.key or "/".join(item.nested_key)
                if key.startswith("final/"):
                    series[key] = [(0, json.loads(item.value_json))]
        found[name] = series
    return found


READERS: dict[str, Callable[[Path], Read]] = {"tensorboard": tensorboard, "mlflow": mlflow, "wandb": wandb}


def check(found: Read, results: Results, names: set[str] | None = None) -> None:
    """That what is logged is what the store has, each value once."""
    wanted = [r for r in results.results if names is None or r.name in names]
    assert set(found) == {r.name for r in wanted}
    for result in wanted:
        series, curve = found[result.name], results.store.trajectory(result.key)
        for column, name in SERIES.items():
            assert [step for step, _ in series[name]] == list(range(1, result.S + 1)), name
            assert [value for _, value in series[name]] == pytest.approx(curve[column], rel=1e-6)
        assert [step for step, _ in series["eval/loss"]] == [update for update, _ in result.curve]
        assert [value for _, value in series["eval/loss"]] == pytest.approx([v for _, v in result.curve], rel=1e-6)
        assert [value for _, value in series["final/loss"]] == pytest.approx([result.loss], rel=1e-6)
        assert [value for _, value in series["final/loss_a"]] == pytest.approx([result.loss_a], rel=1e-6)


@pytest.mark.multiprocess
@pytest.mark.parametrize("kind", KINDS)
def test_a_study_is_logged_while_it_is_trained(trained: tuple[Results, Path], kind: str) -> None:
    results, folder = trained
    check(READERS[kind](folder / kind), results)
    # Cooldowns of one trunk: its pieces are in both runs.
    shared = results.results[2].S // 2
    series = {r.name: READERS[kind](folder / kind)[r.name]["train/loss"] for r in results.results}
    assert series[results.results[2].name][:shared] == series[results.results[3].name][:shared]


@pytest.mark.multiprocess
@pytest.mark.parametrize("kind", KINDS)
def test_import_reads_what_was_logged(trained: tuple[Results, Path], kind: str) -> None:
    results, folder = trained
    reader = importlib.import_module(f"isoloss.bridges.{kind}")
    found = {str(run.settings["key"]): run for run in reader.read(folder / kind)}
    assert set(found) == {r.key for r in results.results}
    for result in results.results:
        series = found[result.key].series["train/loss"]
        assert series.steps.tolist() == list(range(1, result.S + 1))
        assert series.values == pytest.approx(results.store.trajectory(result.key)["loss"], rel=1e-6)
        assert float(found[result.key].settings["N"]) == result.N


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.multiprocess
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_logged_is_not_logged_again(trained: tuple[Results, Path], tmp_path: Path, kind: str) -> None:
    results, folder = trained
    before = tree(folder / kind)
    assert export(results, f"{kind}:{folder / kind}") == len(results.results)
    assert tree(folder / kind) == before
    assert export(results, kind, tmp_path / "new") == len(results.results)
    check(READERS[kind](tmp_path / "new"), results)


@pytest.mark.multiprocess
@pytest.mark.parametrize("kind", KINDS)
def test_settings_are_those_of_the_run(trained: tuple[Results, Path], kind: str) -> None:
    results, folder = trained
    result = results.results[-1]
    if kind == "tensorboard":
        [place] = [p for p in (folder / kind).iterdir() if json.loads((p / LEDGER).read_text())["name"] == result.name]
        events = EventAccumulator(str(place))
        events.Reload()
        content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        data = HParamsPluginData.FromString(content).session_start_info.hparams
        params = {name: value.string_value or value.number_value for name, value in data.items()}
        assert "_hparams_/session_end_info" in events.summary_metadata
    elif kind == "mlflow":
        client = MlflowClient((folder / kind).resolve().as_uri())
        runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
        [run] = [run for run in runs if run.info.run_name == result.name]
        params = dict(run.data.params)
        assert run.info.status == "FINISHED"
    else:
        records = wandb_records(folder / kind)[result.name]
        items = [item for r in records if r.HasField("run") for item in r.run.config.update]
        params = {item.key: json.loads(item.value_json) for item in items}
    assert (params["arm"], params["key"]) == (result.arm, result.key)
    for name, value in (("N", result.N), ("D", result.D), ("S", result.S), ("C", result.C), ("lr", result.lr),
                        ("B", result.D // result.S), ("seed", 0)):  # fmt: skip
        assert float(params[name]) == pytest.approx(value), name


def partial(results: Results, folder: Path, updates: int) -> Results:
    """The same study over a store that has its pieces up to an update only."""
    keys = {row.end_key for row in results.store.pieces() if row.end_update <= updates}
    results.store.export(folder, keys)
    return isoloss.results(study(), folder)


@pytest.mark.multiprocess
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("updates", [8, 24, 36])
def test_logging_goes_on_where_it_stopped(
    trained: tuple[Results, Path], tmp_path: Path, kind: str, updates: int
) -> None:
    results, _ = trained
    early = partial(results, tmp_path / "early", updates)
    ended = export(early, kind, tmp_path / "log")
    assert ended == sum(r.status == "done" for r in early.results)
    if kind != "wandb":
        for series in READERS[kind](tmp_path / "log").values():
            assert len(series["train/loss"]) <= updates
    assert export(results, kind, tmp_path / "log") == len(results.results)
    check(READERS[kind](tmp_path / "log"), results)


@pytest.mark.multiprocess
def test_a_death_between_a_file_and_its_number_writes_nothing_twice(
    trained: tuple[Results, Path], tmp_path: Path
) -> None:
    results, _ = trained
    early = partial(results, tmp_path / "early", 24)
    export(early, "tensorboard", tmp_path / "log")
    before = {path: path.read_text() for path in (tmp_path / "log").glob(f"*/{LEDGER}")}
    export(results, "tensorboard", tmp_path / "log")
    for path, text in before.items():
        path.write_text(text)  # as if the newest files were written and the numbers were not
    export(results, "tensorboard", tmp_path / "log")
    check(tensorboard(tmp_path / "log"), results)


@pytest.mark.multiprocess
def test_what_a_death_left_empty_in_files_of_mlflow_is_mended(trained: tuple[Results, Path], tmp_path: Path) -> None:
    results, _ = trained
    early = partial(results, tmp_path / "early", 8)
    export(early, "mlflow", tmp_path / "log")
    [first, second, third, fourth] = [path.parents[1] for path in sorted(tmp_path.glob("log/*/*/tags/isoloss.id"))]
    (first / "metrics" / "eval").mkdir(exist_ok=True)
    (first / "metrics" / "eval" / "loss").write_text("")
    (first / "params" / "N").write_text("")
    (first / "params" / "D").unlink()
    (second / "tags" / "isoloss.id").write_text("")
    for part in ("metrics", "params", "tags"):
        shutil.rmtree(third / part)
    (fourth / "tags" / "isoloss.id").unlink()
    (fourth / "tags" / "mlflow.runName").unlink()
    (first.parent / "new").mkdir()
    (first.parent / "new" / "meta.yaml").write_text("")
    export(results, "mlflow", tmp_path / "log")
    check(mlflow(tmp_path / "log"), results)
    params = MlflowClient((tmp_path / "log").resolve().as_uri()).get_run(first.name).data.params
    assert {"N", "D"} <= set(params) and params["N"]


@pytest.mark.multiprocess
def test_half_a_run_of_wandb_is_written_anew(trained: tuple[Results, Path], tmp_path: Path) -> None:
    results, _ = trained
    export(results, "wandb", tmp_path)
    done = json.loads((tmp_path / LEDGER).read_text())
    lost = next(iter(done))
    (tmp_path / LEDGER).write_text(json.dumps({name: value for name, value in done.items() if name != lost}))
    export(results, "wandb", tmp_path)
    check(wandb(tmp_path), results)


@pytest.mark.multiprocess
def test_a_longer_study_adds_its_runs(trained: tuple[Results, Path], tmp_path: Path) -> None:
    results, folder = trained
    short = study()
    short["grid"]["duration"] = ["20 updates"]
    first = isoloss.results(short, folder / "store")
    assert export(first, "mlflow", tmp_path) == 2
    check(mlflow(tmp_path), results, {r.name for r in first.results})
    export(results, "mlflow", tmp_path)
    check(mlflow(tmp_path), results)


@pytest.mark.multiprocess
def test_the_driver_is_told_of_every_piece(tmp_path: Path) -> None:
    made = study(arms={"cosine": SMALL["arms"]["cosine"]})
    made["grid"]["duration"] = ["20 updates"]
    heard: list[Stage] = []
    store = isoloss.Store(tmp_path / "store")
    execute(from_dict(made), store, Options(workers=1, quiet=True), heard=heard.append)
    assert len(heard) >= 2 + len(store.pieces()) and heard[-1].complete


@pytest.mark.multiprocess
@pytest.mark.slow
def test_a_killed_driver_and_its_next_start_log_every_value_once(tmp_path: Path) -> None:
    made = study(checkpoint={"every": "25 updates"})
    made["grid"]["duration"] = ["500 updates", "1000 updates"]
    (tmp_path / "study.yaml").write_text(json.dumps(made))
    targets = [f"--log={kind}:{tmp_path / kind}" for kind in KINDS]
    command = [sys.executable, "-m", "isoloss.cli.main", "run", str(tmp_path / "study.yaml"), "--workers=2", *targets]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL) as driver:
        begun = time.monotonic()
        while not list(tmp_path.glob("tensorboard/*/*.isoloss")) and time.monotonic() < begun + 300:
            time.sleep(0.05)
        os.killpg(driver.pid, signal.SIGKILL)
    assert len(isoloss.Store(tmp_path / "study.store").pieces()) < 100
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0 and "ended: " not in done.stderr, done.stderr
    results = isoloss.results(tmp_path / "study.yaml", tmp_path / "study.store")
    for kind in KINDS:
        check(READERS[kind](tmp_path / kind), results)


@pytest.mark.multiprocess
@pytest.mark.slow
def test_tuning_and_divergence_are_logged(tmp_path: Path) -> None:
    made = study(tune={"training.optimizer.lr": [0.1, 100.0], "at": {"duration": "20 updates"}})
    made["training"] |= {"optimizer": {"name": "sgd"}, "clip": None}
    made |= {"arms": {"calm": {}}, "schedule": {"shape": "constant"}, "baseline": {"arm": "calm", "extra": "none"}}
    made["grid"]["duration"] = ["20 updates"]
    results = isoloss.run(made, tmp_path / "store", workers=2, quiet=True, log=[f"mlflow:{tmp_path / 'log'}"])
    client = MlflowClient((tmp_path / "log").resolve().as_uri())
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    states = {run.info.run_name: (run.info.status, run.data.params["tuning"]) for run in runs}
    assert len(states) == 3 and results.results[0].status == "done"
    assert states[results.results[0].name] == ("FINISHED", "False")
    assert sorted(state for name, state in states.items() if name != results.results[0].name) == [
        ("FAILED", "True"),
        ("FINISHED", "True"),
    ]


@pytest.mark.multiprocess
def test_a_logger_that_fails_stops_nothing(trained: tuple[Results, Path], tmp_path: Path) -> None:
    results, _ = trained
    follower = Follower(results.study, results.store, [f"tensorboard:{tmp_path / 'log'}"])
    (tmp_path / "log").write_text("in the way")
    with pytest.warns(UserWarning, match="logging to tensorboard:.* ended: "), follower:
        follower(results.stage)
    assert export(results, "tensorboard", tmp_path / "other") == len(results.results)


def test_any_loop_may_log(tmp_path: Path) -> None:
    settings = {"optimizer": "sgd", "lr": 0.1}
    for kind in KINDS:
        target = f"{kind}:{tmp_path / kind}"
        losses = [1.0, 0.5, 0.25]
        log_run(target, "mine", params=settings, curves={"train/loss": ([1, 2], losses[:2])}, group="small")
        log_run(target, "mine", params=settings, curves={"train/loss": ([1, 2, 3], losses)}, final={"final/loss": 0.25},
                group="small")  # fmt: skip
        log_run(target, "mine", params=settings, curves={"train/loss": ([4], [9.0])}, group="small")  # it has ended
        [series] = READERS[kind](tmp_path / kind).values()
        assert series["train/loss"] == [(1, 1.0), (2, 0.5), (3, 0.25)]
        assert [value for _, value in series["final/loss"]] == [0.25]
    with pytest.raises(ValueError, match="one ascending row"):
        log_run(f"tensorboard:{tmp_path / 't'}", "mine", curves={"loss": ([2, 1], [0.0, 1.0])})


@pytest.mark.parametrize(
    ("target", "message"),
    [("tensorbaord:x", "did you mean 'tensorboard'"), ("mlflow", "mlflow:FOLDER-or-URI"), ("wandb:", "wandb:FOLDER"),
     ("mlflow:nothing://x", "--log mlflow:nothing://x: ")],
)  # fmt: skip
def test_a_target_that_cannot_be_used(target: str, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        opened(target)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="is a file; allowed: a folder"):
        opened(f"tensorboard:{tmp_path / 'file'}")


def test_it_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="--log: found 'nowhere'"):
        isoloss.run(study(), tmp_path / "store", log=["nowhere"])
    assert not list((tmp_path / "store").rglob("*.safetensors"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_package_is_named(kind: str) -> None:
    code = f"import sys; sys.modules[{kind!r}] = None\nfrom isoloss.bridges.sinks import opened\nopened('{kind}:x')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "StudyError" in done.stderr and f"pip install 'isoloss[{kind}]'" in done.stderr


def test_a_database_of_mlflow(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    pytest.importorskip("alembic")
    uri = f"mlflow:sqlite:///{tmp_path / 'runs.db'}"
    for _ in range(2):
        log_run(uri, "mine", params={"lr": 0.1}, curves={"train/loss": ([1, 2], [1.0, 0.5])}, final={"final/loss": 0.5})
    client = MlflowClient(uri.removeprefix("mlflow:"))
    [run] = client.search_runs([client.get_experiment_by_name("isoloss").experiment_id])
    assert [row.value for row in client.get_metric_history(run.info.run_id, "train/loss")] == [1.0, 0.5]
