"""What each reader makes of files that the real packages wrote: restarts, damage, NaN, settings, states."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoloss.bridges import mlflow, sources, tensorboard, trainer_state, wandb
from isoloss.bridges.recorded import FINISHED, Session, joined
from isoloss.recipe.errors import StudyError


def scalars(folder: Path, steps: range, value: float = 0.0, tag: str = "loss", **options: Any) -> Path:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder), **options)
    for step in steps:
        writer.add_scalar(tag, value + step / 1024, step)
    writer.close()
    return next(path for path in folder.iterdir() if path.name.endswith(options.get("filename_suffix", "")))


# ---- the order of steps


def test_a_later_process_counts_from_its_first_step_on() -> None:
    first = Session([1, 2, 3, 4, 5], [1.0, 2.0, 3.0, 4.0, 5.0], begin=10, end=20)
    again = Session([4, 6], [40.0, 60.0], begin=30, end=40)
    found = joined([again, first])
    assert found.steps.tolist() == [1, 2, 3, 4, 6]
    assert found.values.tolist() == [1.0, 2.0, 3.0, 40.0, 60.0]
    assert found.fault == "" and "steps 4 to 5 were trained again" in found.notes[0]


def test_two_processes_at_a_time_and_steps_back_are_faults_unless_the_map_decides() -> None:
    one, other = Session([1, 2, 3], [1.0, 1.0, 1.0], 10, 20), Session([2, 3, 4], [2.0, 2.0, 2.0], 15, 25)
    assert "at the same time" in joined([one, other]).fault
    assert joined([one, other], "later").values.tolist() == [1.0, 2.0, 2.0, 2.0]
    back = Session([10, 20, 15, 25], [1.0, 2.0, 3.0, 4.0])
    assert joined([back]).fault == "step 15 comes after step 20"
    assert joined([back], "later").steps.tolist() == [10, 15, 25]
    assert joined([back], "sort").steps.tolist() == [10, 15, 20, 25]
    assert "two values at step 1" in joined([Session([1, 1], [1.0, 2.0])]).fault
    assert joined([Session([1, 1, 2], [1.0, 1.0, math.nan])]).fault == ""


# ---- TensorBoard


def test_event_files_of_a_restarted_run_are_one_run(tmp_path: Path) -> None:
    """The second process begins at an earlier step, as one does that resumes from a checkpoint."""
    folder = tmp_path / "logs" / "adam"
    first = scalars(folder, range(0, 100, 10), filename_suffix=".first")
    scalars(folder, range(0, 100, 20), tag="eval", filename_suffix=".eval")
    _earlier(folder, seconds=1_000)
    scalars(folder, range(60, 90, 10), value=5.0, filename_suffix=".second")
    (run,) = tensorboard.read(tmp_path / "logs")
    assert run.name == "adam"
    loss = run.series["loss"]
    assert loss.steps.tolist() == list(range(0, 90, 10))
    assert loss.values.tolist() == [s / 1024 + (5.0 if s >= 60 else 0.0) for s in range(0, 90, 10)]
    assert "trained again" in loss.notes[0]
    # The resumed process ended at 80: what the first one evaluated after that is of weights that were given up.
    assert run.series["eval"].steps.tolist() == [0, 20, 40, 60, 80]
    assert first.exists()


def _earlier(folder: Path, seconds: float) -> None:
    """The files of a folder as if written long ago: their events carry the time, which is moved back."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto import event_pb2
    from tensorboard.summary.writer.record_writer import RecordWriter

    for path in list(folder.iterdir()):
        events = [event_pb2.Event.FromString(record) for record in RawEventFileLoader(str(path)).Load()]
        with path.open("wb") as file:
            writer = RecordWriter(file)
            for event in events:
                event.wall_time -= seconds
                writer.write(event.SerializeToString())


def test_a_cut_event_file_gives_what_is_whole_and_says_what_is_lost(tmp_path: Path) -> None:
    path = scalars(tmp_path / "run", range(50))
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    (run,) = tensorboard.read(tmp_path)
    assert len(run.series["loss"]) == 49
    assert "cut off or damaged" in run.notes[0]
    path.write_bytes(whole[: len(whole) // 2] + b"\xff" * 40 + whole[len(whole) // 2 + 40 :])
    (run,) = tensorboard.read(tmp_path)
    assert 10 < len(run.series["loss"]) < 40 and "cut off or damaged" in run.notes[0]


def test_scalars_of_every_kind_of_writer_are_read(tmp_path: Path) -> None:
    """Plain values, float64 tensors of the new style, and what TensorFlow 2 describes at a tag's first value only."""
    from tensorboard.compat.proto import event_pb2
    from tensorboard.plugins.scalar import metadata
    from tensorboard.summary.writer.record_writer import RecordWriter
    from tensorboard.util import tensor_util
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path / "a"))
    writer.add_scalar("plain", 0.1, 1)
    writer.add_scalar("double", 0.1, 1, new_style=True, double_precision=True)
    writer.close()
    (tmp_path / "b").mkdir()
    with (tmp_path / "b" / "events.out.tfevents.1.host").open("wb") as file:
        records = RecordWriter(file)
        for step in range(3):
            event = event_pb2.Event(step=step, wall_time=1.0 + step)
            value = event.summary.value.add(tag="new", tensor=tensor_util.make_tensor_proto(np.float64(step / 3)))
            if step == 0:
                value.metadata.CopyFrom(metadata.create_summary_metadata("", ""))
            records.write(event.SerializeToString())
    one, two = tensorboard.read(tmp_path)
    assert one.series["plain"].values.tolist() == [float(np.float32(0.1))]
    assert one.series["double"].values.tolist() == [0.1]
    assert two.series["new"].values.tolist() == [0.0, 1 / 3, 2 / 3]


def test_settings_come_from_hparams_texts_and_lightning(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    folder = tmp_path / "logs" / "one"
    writer = SummaryWriter(str(folder))
    writer.add_scalar("eval/loss", 2.0, 10)
    writer.add_text("args", json.dumps({"learning_rate": 0.1, "max_steps": 10, "nested": {"a": True}}))
    writer.add_hparams({"lr": 0.25, "name": "adam", "on": True}, {"final": 2.0})
    writer.close()
    (folder / "hparams.yaml").write_text("width: 64\nnested: {depth: 3}\n")
    (run,) = tensorboard.read(tmp_path / "logs")
    assert run.name == "one"
    expected = {"lr": 0.25, "name": "adam", "on": True, "width": 64, "nested.depth": 3}
    assert {key: run.settings[key] for key in expected} == expected
    assert run.settings["args.learning_rate"] == 0.1 and run.settings["args.nested.a"] is True


def test_nan_and_infinity_survive(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path / "run"))
    for step, value in enumerate((1.0, math.nan, math.inf)):
        writer.add_scalar("loss", value, step)
    writer.close()
    values = tensorboard.read(tmp_path)[0].series["loss"].values
    assert values[0] == 1.0 and math.isnan(values[1]) and values[2] == math.inf


# ---- MLflow


@pytest.fixture(params=["files", pytest.param("sqlite", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Path]:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    if request.param == "sqlite":
        pytest.importorskip("sqlalchemy")
        pytest.importorskip("alembic")
    path = tmp_path / ("mlruns" if request.param == "files" else "store.db")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=str(path) if request.param == "files" else f"sqlite:///{path}"), path


def test_an_mlflow_store_as_its_own_client_tells_it(store: tuple[Any, Path], tmp_path: Path) -> None:
    """Names with slashes, states, deleted runs, runs of one name, NaN and infinity, and the order of logging."""
    client, path = store
    experiment = client.create_experiment("one", artifact_location=(tmp_path / "a").as_uri())
    made = {}
    for number, (name, end) in enumerate(
        (("adam", "FINISHED"), ("adam", "FAILED"), ("gone", "FINISHED"), ("on", None))
    ):
        run = client.create_run(experiment, run_name=name, start_time=number + 1, tags={"arm": name}).info.run_id
        client.log_param(run, "optimizer/lr", 0.1)
        for step, value in ((0, 3.0), (10, 2.0), (20, math.nan if name == "on" else math.inf)):
            client.log_metric(run, "eval/loss", value, step=step, timestamp=1_000 + step)
        if end:
            client.set_terminated(run, end)
        made[run] = name
    gone = next(run for run, name in made.items() if name == "gone")
    client.delete_run(gone)
    found = mlflow.read(path)
    assert [run.state for run in found] == [FINISHED, "failed", "running"]
    assert found[0].name != found[1].name and all(run.name.startswith("adam (") for run in found[:2])
    assert found[2].name == "on"
    for run, recorded in zip([key for key in made if key != gone], found, strict=True):
        history = client.get_metric_history(run, "eval/loss")
        assert recorded.series["eval/loss"].steps.tolist() == [metric.step for metric in history]
        theirs = [metric.value for metric in history]
        ours = recorded.series["eval/loss"].values.tolist()
        assert ours[:2] == theirs[:2]
        assert math.isnan(ours[2]) if recorded.name == "on" else ours[2] == math.inf
        assert recorded.settings["optimizer/lr"] == "0.1" and recorded.settings["experiment"] == "one"
        assert recorded.settings["tags.arm"] == made[run]
        assert not any("mlflow" in key for key in recorded.settings)


def test_steps_back_in_mlflow_are_told_to_whoever_uses_them(store: tuple[Any, Path], tmp_path: Path) -> None:
    client, path = store
    experiment = client.create_experiment("one", artifact_location=(tmp_path / "a").as_uri())
    run = client.create_run(experiment, run_name="adam").info.run_id
    for time, (step, value) in enumerate(((10, 3.0), (20, 2.0), (10, 2.5), (30, 1.0))):
        client.log_metric(run, "loss", value, step=step, timestamp=1_000 + time)
    assert mlflow.read(path)[0].series["loss"].fault == "step 10 comes after step 20"
    later = mlflow.read(path, "later")[0].series["loss"]
    assert (later.steps.tolist(), later.values.tolist()) == ([10, 30], [2.5, 1.0])


def test_a_database_of_something_else_is_no_store(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "other.db"
    with sqlite3.connect(path) as base:
        base.execute("CREATE TABLE t (a)")
    assert not mlflow.is_store(path)
    with pytest.raises(StudyError, match=r"found no runs \(a file \.db\)"):
        sources.read(path)


# ---- Weights & Biases


@pytest.fixture
def offline(tmp_path: Path) -> Any:
    package = pytest.importorskip("wandb")
    quiet = package.Settings(
        mode="offline", silent=True, console="off", save_code=False, disable_git=True, x_disable_stats=True
    )

    def begin(**options: Any) -> Any:
        return package.init(project="p", dir=str(tmp_path), settings=quiet, **options)

    return begin


def _written() -> None:
    """Wait until all records lie on disk: that is when the package's service has ended."""
    import wandb as package

    package.teardown()


def test_an_offline_run_with_all_that_it_logged(offline: Any, tmp_path: Path) -> None:
    run = offline(name="adam", config={"lr": 0.1, "model": {"width": 64, "kinds": ["a", "b"]}})
    for step in range(0, 3000, 3):
        run.log({"train/loss": 3.0 / (step + 1), "eval": {"loss": 2.0}, "note": "text"}, step=step)
    run.log({"train/loss": math.nan}, step=3000)
    run.config.update({"late": 7})
    run.summary["best"] = 1.5
    run.finish()
    _written()
    (found,) = wandb.read(tmp_path)
    assert (found.name, found.state) == ("adam", FINISHED)
    series = found.series["train/loss"]  # more than one block of the log
    assert series.steps.tolist() == [*range(0, 3000, 3), 3000]
    assert series.values[:-1].tolist() == [3.0 / (step + 1) for step in range(0, 3000, 3)]
    assert math.isnan(series.values[-1])
    assert len(found.series["eval.loss"]) == 1000 and "note" not in found.series
    assert (found.settings["lr"], found.settings["model.width"], found.settings["late"]) == (0.1, 64, 7)
    assert found.settings["best"] == 1.5 and "train/loss" not in found.settings


def test_failed_resumed_and_cut_runs(offline: Any, tmp_path: Path) -> None:
    run = offline(name="failed", config={"seed": 1})
    run.log({"loss": 1.0}, step=1)
    run.finish(exit_code=1)
    for value in (2.0, 3.0):
        run = offline(name="again", id="abc123", resume="allow", config={"part": value})
        for step in range(int(value), int(value) + 3):
            run.log({"loss": value + step}, step=step)
        run.finish()
    _written()
    found = {run.name: run for run in wandb.read(tmp_path)}
    assert found["failed"].state == "failed"
    assert found["again"].series["loss"].steps.tolist() == [2, 3, 4, 5]
    assert found["again"].series["loss"].values.tolist() == [4.0, 6.0, 7.0, 8.0]
    assert "trained again" in found["again"].series["loss"].notes[0]
    path = next(path for path in tmp_path.rglob("*.wandb") if path.name != "run-abc123.wandb")
    path.write_bytes(path.read_bytes()[:-25])
    cut = next(run for run in wandb.read(tmp_path) if run.name == "failed")
    assert cut.state == "not ended" and "cut off or damaged" in cut.notes[0]
    path.write_bytes(b"something else")
    with pytest.raises(StudyError, match="allowed: a file that wandb wrote"):
        wandb.read(path)


# ---- Hugging Face


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """An output folder of a tiny GPT-2 with checkpoints, and its Trainer."""
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0)
    tokens = torch.randint(0, 16, (16, 8))
    examples = [{"input_ids": row, "labels": row} for row in tokens]
    folder = tmp_path_factory.mktemp("hf") / "outputs" / "adam-s3"
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=8, save_steps=4, eval_strategy="steps", eval_steps=4, logging_steps=2,
        per_device_train_batch_size=4, use_cpu=True, report_to=[], disable_tqdm=True, seed=3,
        include_num_input_tokens_seen=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = Trainer(GPT2LMHeadModel(config), arguments, train_dataset=examples, eval_dataset=examples)
    trainer.train()
    trainer.save_state()
    return folder, trainer


def test_trainer_state_of_a_real_training(trained: tuple[Path, Any]) -> None:
    folder, trainer = trained
    (run,) = trainer_state.read(folder.parent)
    assert (run.name, run.state) == ("adam-s3", FINISHED)
    history = trainer.state.log_history
    for key in ("eval_loss", "loss", "learning_rate"):
        expected = [(entry["step"], entry[key]) for entry in history if key in entry]
        series = run.series[key]
        assert list(zip(series.steps.tolist(), series.values.tolist(), strict=True)) == expected
    model = trainer.model
    assert run.settings["N_total"] == sum(p.numel() for p in model.parameters())
    embeddings = model.transformer.wte.weight.numel() + model.transformer.wpe.weight.numel()
    assert run.settings["N"] == run.settings["N_total"] - embeddings
    assert run.settings["config.n_embd"] == 8 and run.settings["max_steps"] == 8
    assert run.settings["num_input_tokens_seen"] == 8 * 4 * 8
    assert run.notes == []


def test_a_config_alone_gives_the_size(trained: tuple[Path, Any], tmp_path: Path) -> None:
    folder, trainer = trained
    checkpoint = tmp_path / "run" / "checkpoint-8"
    checkpoint.mkdir(parents=True)
    for name in ("trainer_state.json", "config.json"):
        (checkpoint / name).write_bytes((folder / "checkpoint-8" / name).read_bytes())
    (run,) = trainer_state.read(tmp_path)
    assert run.name == "run"
    assert run.settings["N_total"] == sum(p.numel() for p in trainer.model.parameters())
    (checkpoint / "config.json").write_text('{"model_type": "no such model"}')
    assert "N" not in trainer_state.read(tmp_path)[0].settings


def test_checkpoints_that_differ_are_told_and_the_furthest_counts(trained: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = trained
    for step in (4, 8):
        state = json.loads((folder / f"checkpoint-{step}" / "trainer_state.json").read_text())
        if step == 4:
            state["log_history"][0]["loss"] += 1.0
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(state))
    (run,) = trainer_state.read(tmp_path)
    assert len(run.series["eval_loss"]) == 2
    assert run.notes == [
        "checkpoint-4 and checkpoint-8 differ from step 2 on: the training was started again, and checkpoint-8 counts"
    ]


def test_a_run_that_stopped_early_says_so(trained: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = trained
    (tmp_path / "trainer_state.json").write_bytes((folder / "checkpoint-4" / "trainer_state.json").read_bytes())
    assert trainer_state.read(tmp_path)[0].state == "stopped at step 4 of 8"
    (tmp_path / "trainer_state.json").write_text('{"log_history": 3}')
    with pytest.raises(StudyError, match="has no log_history and global_step"):
        trainer_state.read(tmp_path)
    (tmp_path / "trainer_state.json").write_text("{")
    with pytest.raises(StudyError, match="cannot be read as JSON"):
        trainer_state.read(tmp_path)


# ---- what a path holds


def test_a_path_without_runs_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(StudyError, match=r"found no runs \(in the folder: notes.txt\); allowed: wandb: run-ID.wandb"):
        sources.read(tmp_path)
    with pytest.raises(StudyError, match=r"no such file or folder.*did you mean 'notes.txt'"):
        sources.read(tmp_path / "note.txt")
    with pytest.raises(StudyError, match="found an address; allowed: files and folders here"):
        sources.read("https://example.org/api")


def test_what_else_a_folder_holds_is_named_and_can_be_asked_for(trained: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = trained
    os.symlink(folder, tmp_path / "unfollowed")
    (tmp_path / "trainer_state.json").write_bytes((folder / "trainer_state.json").read_bytes())
    scalars(tmp_path / "runs", range(3))
    form, (run,) = sources.read(tmp_path)
    assert form == "huggingface"
    assert "also holds tensorboard; read as huggingface" in run.notes[0]
    form, (run,) = sources.read(tmp_path, "tensorboard")
    assert form == "tensorboard" and len(run.series["loss"]) == 3
    with pytest.raises(StudyError, match="--format mlflow reads an mlruns folder"):
        sources.read(tmp_path, "mlflow")
    with pytest.raises(StudyError, match=r"found 'tensorbord'; allowed: .*did you mean 'tensorboard'"):
        sources.read(tmp_path, "tensorbord")
