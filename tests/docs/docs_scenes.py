"""What a page's blocks find: files in its folder, and the names that its examples leave to the reader.

A page that names ``study.yaml`` finds a small study there, and ``study.store`` its finished store.
"""

from __future__ import annotations

import shutil
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docs_pages import ROOT

STUDY = """\
study: small
data: {source: synthetic, order: 1, vocabulary: 8, tokens: 20000, context: 8}
model: {family: gpt, depth: 1, head_size: 4, width: 8}
training: {optimizer: {name: adamw, lr: 0.01}, batch: 4 sequences, micro_batches: 4, warmup: 4 updates}
evaluation: {tokens: 256, every: 10 updates}
checkpoint: {every: 8 updates}
grid: {duration: [20 updates, 40 updates], seed: [0, 1, 2]}
baseline: {arm: cosine, extra: none}
arms:
  cosine: {schedule: {shape: cosine, final: 0.1}}
  cooldown: {schedule: {shape: constant, cooldown: {shape: one_minus_sqrt, fraction: 0.2}}}
"""

BATCHES = """\
study: batches
data: {source: synthetic, order: 1, vocabulary: 8, tokens: 20000, context: 8}
model: {family: gpt, depth: 1, head_size: 4, width: 8}
training: {optimizer: {name: adamw, lr: 0.01}}
duration: 640 samples
evaluation: {tokens: 256, every: 64 samples}
grid: {training.batch: [4 sequences, 8 sequences, 16 sequences], seed: [0, 1, 2]}
baseline: {arm: plain, extra: none}
arms: {plain: {}}
"""

TEXT: dict[str, Any] = {
    "study": "part",
    "data": {"source": "stdlib-code", "context": 64},
    "model": {"family": "gpt", "depth": 2, "width": 32},
    "training": {"optimizer": {"name": "adamw", "lr": 1e-3}, "batch": "16 sequences"},
    "duration": "100 updates",
}
IMAGES: dict[str, Any] = {
    "study": "part",
    "data": {"source": "digits"},
    "model": {"family": "f1", "width": 32, "depth": 2},
    "training": {"optimizer": {"name": "sgd", "lr": 0.05}, "batch": "64 samples"},
    "duration": "100 updates",
}


@dataclass(frozen=True)
class Scene:
    """``names`` puts files into the folder and returns the names of Python blocks; ``part_of``: the study that a part
    of one is merged into; ``instead``: what is written shorter in the test, to be quick."""

    names: Callable[[Path], dict[str, Any]] = lambda folder: {}
    part_of: dict[str, Any] = field(default_factory=lambda: TEXT)
    instead: tuple[tuple[str, str], ...] = ()


def corpus(folder: Path, name: str = "corpus") -> None:
    """A folder of real text: sources of a package that is installed anyway."""
    import json

    (folder / name).mkdir()
    for path in sorted(Path(json.__file__).parent.glob("*.py")):
        shutil.copy(path, folder / name / f"{path.stem}.txt")


def training(folder: Path) -> dict[str, Any]:
    """A small training loop: what the cards call model, optimizer, batches and so on."""
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy

    torch.manual_seed(0)
    layers = OrderedDict(
        embed=nn.Linear(8, 16), norm=nn.BatchNorm1d(16), hidden=nn.Linear(16, 16), act=nn.GELU(), head=nn.Linear(16, 4)
    )
    model = nn.Sequential(layers)
    x, y = torch.randn(64, 8), torch.randint(0, 4, (64,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train_one_update() -> None:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()

    def evaluate(model: nn.Module) -> float:
        model.eval()
        with torch.no_grad():
            found = float(cross_entropy(model(x), y))
        model.train()
        return found

    train_one_update()
    before = [p.detach().clone() for p in model.parameters()]
    train_one_update()
    return {
        "torch": torch,
        "cross_entropy": cross_entropy,
        "model": model,
        "optimizer": optimizer,
        "weights": list(model.parameters()),
        "before": before,
        "after": [p.detach().clone() for p in model.parameters()],
        "x": x,
        "y": y,
        "batch": (x, y),
        "batches": [(x, y)] * 3,
        "loss": cross_entropy,
        "loss_of": lambda model, batch: cross_entropy(model(batch[0]), batch[1]),
        "train_one_update": train_one_update,
        "evaluate": evaluate,
        "total": 200,
        "peak": 0.1,
    }


def _lr_scheduler(folder: Path) -> dict[str, Any]:
    from isoloss.methods.lr_scheduler import IsolossLR

    found = training(folder)
    scheduler = IsolossLR(found["optimizer"], {"total": 100_000, "warmup": 300})
    for _ in range(8000):
        found["optimizer"].step()
        scheduler.step()
    saved = {name: found[name].state_dict() for name in ("model", "optimizer")}
    fresh = found["torch"].optim.SGD(found["model"].parameters(), lr=0.1)
    return found | {
        "saved": saved | {"scheduler": scheduler.state_dict()},
        "optimizer": fresh,
        "train": lambda batch: None,
    }


def _local_sgd(folder: Path) -> dict[str, Any]:
    from torch import nn

    found = training(folder)
    torch, model = found["torch"], nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))

    def closure() -> Any:
        loss = found["cross_entropy"](model(found["x"]), found["y"])
        model.zero_grad()
        loss.backward()
        return loss.detach()

    return found | {
        "model": model,
        "base": torch.optim.SGD(model.parameters(), lr=0.1),
        "closures": [closure] * 8,
        "inputs": torch.randn(8, 4, 8),
        "labels": torch.randint(0, 4, (8, 4)),
    }


def _noise_scale(folder: Path) -> dict[str, Any]:
    import torch

    torch.manual_seed(0)
    kept: list[list[torch.Tensor]] = []

    def compute_gradient(x: Any, y: Any) -> list[torch.Tensor]:
        return [0.1 + torch.randn(50) / 4]

    def mean_gradient() -> list[torch.Tensor]:
        mean = [torch.stack(parts).mean(0) for parts in zip(*kept, strict=True)]
        kept.clear()
        return mean

    return {
        "total": 20,
        "micro_batches": [(None, None)] * 4,
        "compute_gradient": compute_gradient,
        "accumulate": kept.append,
        "mean_gradient": mean_gradient,
    }


def _gradient_noise(folder: Path) -> dict[str, Any]:
    found = training(folder)
    return found | {"batch": 64, "small_batch": 16, "samples": found["torch"].arange(64), "update": 0}


def _mup(folder: Path) -> dict[str, Any]:
    import torch
    from torch import nn

    def build_model(width: int) -> nn.Module:
        layers = OrderedDict(
            embed=nn.Embedding(11, width), hidden=nn.Linear(width, width), act=nn.GELU(), head=nn.Linear(width, 11)
        )
        return nn.Sequential(layers)

    (folder / "width.yaml").write_text(STUDY)
    return {"torch": torch, "build_model": build_model}


def _readme(folder: Path) -> dict[str, Any]:
    import numpy as np

    corpus(folder)
    (folder / "my_models.py").write_text(
        "from torch import nn\n\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, vocabulary, width, depth):\n"
        "        super().__init__()\n"
        "        self.embedding = nn.Embedding(vocabulary, width)\n"
        "        self.body = nn.GRU(width, width, depth, batch_first=True)\n"
        "        self.head = nn.Linear(width, vocabulary)\n\n"
        "    def forward(self, tokens):\n"
        "        return self.head(self.body(self.embedding(tokens))[0])\n"
    )
    rng = np.random.default_rng(0)
    N, D = (a.ravel() for a in np.meshgrid([1e6, 1e7, 1e8, 1e9], [1e8, 1e9, 1e10, 1e11]))
    loss = (1.7 + 400 / N**0.34 + 900 / D**0.36) * np.exp(rng.normal(0, 0.003, N.size))
    return {"update": 500, "N": N, "D": D, "loss": loss, "run": [f"{i}" for i in range(N.size)]}


def _my_data(folder: Path) -> dict[str, Any]:
    corpus(folder)
    return {}


def _studies(folder: Path) -> dict[str, Any]:
    (folder / "studies").symlink_to(ROOT / "studies")
    return {}


def _large_batches(folder: Path) -> dict[str, Any]:
    import isoloss

    (folder / "study.yaml").write_text(BATCHES)
    isoloss.run(folder / "study.yaml", folder / "study.store", quiet=True)
    return {"S": 4.0, "G2": 0.5}


def _images(folder: Path) -> dict[str, Any]:
    import torch

    torch.manual_seed(0)
    return {"logits": torch.randn(200, 10), "labels": torch.randint(0, 10, (200,))}


def _models(folder: Path) -> dict[str, Any]:
    import torch

    return {"tokens": torch.zeros(2, 64, dtype=torch.int64)}


def _shots(folder: Path) -> dict[str, Any]:
    (folder / "docs").symlink_to(ROOT / "docs")
    return {}


_GRID = {"grid": {"model.width": [32, 96], "duration": ["200 updates", "400 updates"], "seed": [0, 1]}}
SCENES: dict[str, Scene] = {
    "README.md": Scene(
        _readme,
        instead=(
            ("context: 128", "context: 16"),
            ("warmup: 20 updates}", "warmup: 2 updates}\nevaluation: {tokens: 1024}"),
            ("[400 updates, 800 updates, 1600 updates]", "[8 updates, 16 updates, 32 updates]"),
            ("duration: 400 updates}}", "duration: 8 updates}}"),
            ("[32, 64, 96]", "[8, 16, 24]"),
            ("[32, 96]", "[8, 24]"),
            ("[2e-3, 4e-3, 8e-3, 16e-3]", "[4e-3, 8e-3]"),
            ("seed: [0, 1, 2]", "seed: [0, 1]"),
            ("laws: [chinchilla]", "laws: [power]"),
        ),
    ),
    "images.md": Scene(_images, IMAGES),
    "large-batches.md": Scene(_large_batches, IMAGES),
    "methods/ghost_batchnorm.md": Scene(training, IMAGES),
    "methods/gradient_noise.md": Scene(_gradient_noise),
    "methods/local_sgd.md": Scene(_local_sgd),
    "methods/lr_scheduler.md": Scene(_lr_scheduler),
    "methods/mup.md": Scene(_mup),
    "methods/noise_scale.md": Scene(_noise_scale),
    "models.md": Scene(_models),
    "reproductions/index.md": Scene(_studies),
    "study-file.md": Scene(part_of={key: value for key, value in TEXT.items() if key != "duration"} | _GRID),
    "tutorials/my-data-and-model.md": Scene(_my_data),
    "tutorials/quickstart.md": Scene(instead=(("--budget 20s", "--budget 2s"),)),
    "worth-transfer.md": Scene(_shots),
}


def scene_of(page: str) -> Scene:
    """The scene of a page; cards of methods have a training loop."""
    return SCENES.get(page, Scene(training) if page.startswith("methods/") else Scene())
