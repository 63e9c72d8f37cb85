"""A plain PyTorch loop at constant learning rate that saves, resumes after a kill, and cools down from any checkpoint.

    python examples/own_loop.py runs --updates 2000              train; the same command goes on after a kill
    python examples/own_loop.py runs --cooldown 1000 --length 250   cool the checkpoint of update 1000 down
    isoloss branch runs/update-1000.pt --adapter own_loop:Training --length 250    the same, without this loop

The only part of isoloss in it is the scheduler. Batches are a pure function of the update, so a resume sees the data
that the killed run would have seen.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isoloss.methods.lr_scheduler import IsolossLR

LR, EVERY = 3e-3, 250
TRUNK: dict[str, Any] = {"total": 1_000_000, "warmup": 20}  # constant after its warm-up, so its total may be anything


def build() -> tuple[nn.Module, torch.optim.Optimizer]:
    """The model and its optimizer, before any update."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 1))
    return model, torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.01)


def batch(update: int) -> tuple[Tensor, Tensor]:
    """32 noisy samples of a fixed function; update -1 is for validation."""
    generator = torch.Generator().manual_seed(1000 + update)
    x = torch.randn(32 if update >= 0 else 2048, 16, generator=generator)
    noise = torch.randn(len(x), generator=generator)
    return x, (torch.sin(3 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.5 * noise)[:, None]


def loss_of(model: nn.Module, xy: tuple[Tensor, Tensor]) -> Tensor:
    """Mean squared error."""
    return nn.functional.mse_loss(model(xy[0]), xy[1])


def save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: IsolossLR) -> None:
    """Everything that the next update depends on; the file appears whole or not at all."""
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "update": scheduler.update,
    }
    torch.save(state, path.with_suffix(".partial"))
    os.replace(path.with_suffix(".partial"), path)


def go(schedule: Mapping[str, Any], checkpoint: Path | None, until: int, folder: Path | None = None) -> nn.Module:
    """Train up to update ``until``, from a checkpoint or from the start; into ``folder`` go checkpoints."""
    model, optimizer = build()
    scheduler = IsolossLR(optimizer, schedule)
    if checkpoint is not None:
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        scheduler.load_state_dict(saved["scheduler"])  # refuses another past, takes another future
    while scheduler.update < until:
        optimizer.zero_grad()
        loss_of(model, batch(scheduler.update)).backward()
        optimizer.step()
        scheduler.step()
        if folder is not None and scheduler.update % EVERY == 0:
            save(folder / f"update-{scheduler.update}.pt", model, optimizer, scheduler)
    return model


def newest(folder: Path) -> Path | None:
    """The latest checkpoint of the trunk."""
    found = [p for p in folder.glob("update-*.pt") if re.fullmatch(r"update-\d+", p.stem)]
    return max(found, key=lambda p: int(p.stem.partition("-")[2]), default=None)


class Training:
    """What ``isoloss branch --adapter own_loop:Training`` needs to know of this loop."""

    schedule = TRUNK

    def build(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        return build()

    def batches(self, update: int) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield batch(update)
            update += 1

    def loss(self, model: nn.Module, xy: tuple[Tensor, Tensor]) -> Tensor:
        return loss_of(model, xy)

    def validation(self) -> list[tuple[Tensor, Tensor]]:
        return [batch(-1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--updates", type=int, default=2000, help="length of the trunk")
    parser.add_argument("--cooldown", type=int, help="cool down from the checkpoint of this update")
    parser.add_argument("--length", type=int, default=250, help="updates of the cooldown")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.cooldown is None:
        checkpoint, until, schedule = newest(given.folder), given.updates, TRUNK
        print(f"from {checkpoint.name if checkpoint else 'the start'} to update {until}", flush=True)
    else:
        checkpoint = given.folder / f"update-{given.cooldown}.pt"
        until = given.cooldown + given.length
        schedule = TRUNK | {"total": until, "cooldown": ("one_minus_sqrt", given.length, 0.0)}
    model = go(schedule, checkpoint, until, given.folder if given.cooldown is None else None)
    torch.save(model.state_dict(), given.folder / ("trunk.pt" if given.cooldown is None else f"cooled-{until}.pt"))
    with torch.no_grad():
        print(f"update {until}: validation loss {loss_of(model, batch(-1)):.4f}")


if __name__ == "__main__":
    main()
