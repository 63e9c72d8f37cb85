"""Runs of a known law, and the files that real loggers write of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

E, A, B, ALPHA, BETA = 1.7, 400.0, 1100.0, 0.34, 0.37
CONTEXT, SEQUENCES = 128, 64
BATCH = CONTEXT * SEQUENCES
SIZES, LENGTHS = (2_000_000, 8_000_000, 30_000_000), (1_000, 3_000, 9_000)
GAIN = {"adam": 1.0, "muon": 1.3}
EVALUATIONS = 4


def law(N: float, D: float) -> float:
    return E + A / N**ALPHA + B / D**BETA


@dataclass(frozen=True)
class Old:
    """One run: evaluations (step, loss), the last one being its loss; losses are numbers that float32 can hold."""

    run: str
    arm: str
    seed: int
    N: int
    steps: int
    curve: tuple[tuple[int, float], ...]

    @property
    def D(self) -> int:
        return self.steps * BATCH

    @property
    def loss(self) -> float:
        return self.curve[-1][1]


def old_runs(seeds: int = 3, noise: float = 5e-4) -> list[Old]:
    """Two arms, one of which needs 1.3 times less data; seeds move both together."""
    chance = np.random.default_rng(0)
    found = []
    shift = {(N, seed): float(chance.normal(0, 3 * noise)) for N in SIZES for seed in range(seeds)}
    for arm, gain in GAIN.items():
        for N in SIZES:
            for steps in (*LENGTHS, LENGTHS[-1] * 2)[: 4 if arm == "adam" else 3]:
                for seed in range(seeds):
                    factor = np.exp(shift[N, seed] + chance.normal(0, noise))
                    at = [steps * (i + 1) // EVALUATIONS for i in range(EVALUATIONS)]
                    curve = tuple((s, float(np.float32(law(N, gain * s * BATCH) * factor))) for s in at)
                    found.append(Old(f"{arm}-n{N}-t{steps}-s{seed}", arm, seed, N, steps, curve))
    return found


def settings(run: Old) -> dict[str, Any]:
    return {
        "optimizer": {"name": run.arm, "lr": 3e-3},
        "seed": run.seed,
        "params": run.N,
        "batch_size": SEQUENCES,
        "block_size": CONTEXT,
        "max_steps": run.steps,
    }


def training(run: Old) -> Iterator[tuple[int, float]]:
    """Losses of training along a run, more often than its evaluations."""
    for i in range(8):
        step = run.steps * (i + 1) // 8
        yield step, law(run.N, step * BATCH) + 0.01


def as_csv(runs: Sequence[Old], folder: Path) -> Path:
    path = folder / "runs.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "optimizer", "seed", "params", "steps", "batch_size", "block_size", "val_loss"])
        for r in runs:
            writer.writerow([r.run, r.arm, r.seed, r.N, r.steps, SEQUENCES, CONTEXT, repr(r.loss)])
    return path


def as_parquet(runs: Sequence[Old], folder: Path) -> Path:
    """One row a step, as many loggers export it."""
    import polars

    rows = [
        {"run": r.run, "step": step, "optimizer": r.arm, "seed": r.seed, "params": r.N, "batch_size": SEQUENCES,
         "block_size": CONTEXT, "eval/loss": dict(r.curve).get(step), "train/loss": dict(training(r)).get(step)}
        for r in runs
        for step in sorted({s for s, _ in r.curve} | {s for s, _ in training(r)})
    ]  # fmt: skip
    path = folder / "curves.parquet"
    polars.DataFrame(rows, infer_schema_length=None).write_parquet(path)
    return path


def as_tensorboard(runs: Sequence[Old], folder: Path) -> Path:
    from torch.utils.tensorboard import SummaryWriter

    root = folder / "logs"
    for r in runs:
        writer = SummaryWriter(str(root / r.run))
        for step, loss in training(r):
            writer.add_scalar("train/loss", loss, step)
        for step, loss in r.curve:
            writer.add_scalar("eval/loss", loss, step)
        plain = {"optimizer": r.arm, "seed": r.seed, "params": r.N, "batch_size": SEQUENCES, "block_size": CONTEXT}
        writer.add_hparams(plain, {"hparam/loss": r.loss}, run_name="hparams")
        writer.close()
    return root


def with_mlflow(uri: str, runs: Sequence[Old], artifacts: Path) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("old runs", artifact_location=artifacts.as_uri())
    for number, r in enumerate(runs):
        run = client.create_run(experiment, run_name=r.run, start_time=1_000 + number).info.run_id
        plain = {name: value for name, value in settings(r).items() if name != "optimizer"}
        plain |= {"optimizer/name": r.arm, "optimizer/lr": 3e-3}
        losses = [("train/loss", at) for at in training(r)] + [("eval/loss", at) for at in r.curve]
        client.log_batch(
            run,
            metrics=[Metric(name, loss, step, step) for name, (step, loss) in losses],
            params=[Param(name, str(value)) for name, value in plain.items()],
        )
        client.set_terminated(run)


def as_wandb(runs: Sequence[Old], folder: Path) -> Path:
    """Runs in offline mode: what lies in the folder is all that there is."""
    import wandb

    quiet = wandb.Settings(
        mode="offline", silent=True, console="off", save_code=False, disable_git=True, x_disable_stats=True
    )
    for r in runs:
        run = wandb.init(project="old", name=r.run, config=settings(r), dir=str(folder), settings=quiet)
        losses = {**{s: {"train": {"loss": v}} for s, v in training(r)}}
        for step, value in r.curve:
            losses.setdefault(step, {})["eval"] = {"loss": value}
        for step in sorted(losses):
            run.log(losses[step], step=step)
        run.finish()
    wandb.teardown()  # the last records lie on disk when its service has ended
    return folder / "wandb"


def as_wandb_exports(runs: Sequence[Old], folder: Path) -> Path:
    """The table of runs and a chart, in the columns that their pages write."""
    out = folder / "exports"
    out.mkdir()
    with (out / "runs.csv").open("w", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["Name", "State", "Created", "optimizer.name", "seed", "params", "batch_size", "block_size"])
        for r in runs:
            writer.writerow([r.run, "finished", "2025-01-01", r.arm, r.seed, r.N, SEQUENCES, CONTEXT])
    steps = sorted({s for r in runs for s, _ in r.curve})
    with (out / "chart.csv").open("w", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        ends = ("", "__MIN", "__MAX")
        writer.writerow(["Step", *(f"{r.run} - eval/loss{end}" for r in runs for end in ends)])
        for step in steps:
            writer.writerow(
                [step, *(repr(dict(r.curve)[step]) if step in dict(r.curve) else "" for r in runs for _ in ends)]
            )
    return out


def as_wandb_json(runs: Sequence[Old], folder: Path) -> Path:
    """Runs with their histories, as a script over the public API writes them."""
    rows = [
        {
            "name": r.run,
            "state": "finished",
            "config": settings(r),
            "summary": {"eval/loss": r.loss, "_step": r.steps},
            "history": [{"_step": step, "eval/loss": loss} for step, loss in r.curve],
        }
        for r in runs
    ]
    path = folder / "runs.json"
    path.write_text(json.dumps(rows))
    return path


def as_wandb_project(runs: Sequence[Old], folder: Path) -> Path:
    """The table of the documented export script: config and summary as Python prints them."""
    path = folder / "project.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", "summary", "config", "name"])
        for i, r in enumerate(runs):
            writer.writerow(
                [i, str({"eval/loss": r.loss, "_step": r.steps, "bad": float("nan")}), str(settings(r)), r.run]
            )
    return path


TRAINER_STEP = 1000
"""Updates of a run that one step of the Trainer stands for."""


def with_trainer(runs: Sequence[Old], folder: Path) -> Path:
    """Output folders that the Trainer of transformers writes, of a model whose loss is the run's own."""
    import torch
    from transformers import Trainer, TrainingArguments

    class Known(torch.nn.Module):
        def __init__(self, loss: float) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))
            self.value = loss

        def forward(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": self.weight.sum() * 0 + self.value + (0.01 if self.training else 0.0)}

    examples = [{"labels": torch.zeros(1)}] * 4
    root = folder / "outputs"
    for r in runs:
        steps = r.steps // TRAINER_STEP
        arguments = TrainingArguments(
            output_dir=str(root / r.run), max_steps=steps, eval_strategy="steps", eval_steps=steps, logging_steps=1,
            save_strategy="no", per_device_train_batch_size=2, use_cpu=True, report_to=[], disable_tqdm=True,
            seed=r.seed, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = Trainer(Known(r.loss), arguments, train_dataset=examples, eval_dataset=examples)
        trainer.train()
        trainer.save_state()
    return root
