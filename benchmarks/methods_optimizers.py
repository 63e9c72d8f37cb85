"""Layer-wise optimizers, extrapolation and local SGD: time of one update against peers.

    python benchmarks/methods_optimizers.py              one thread, interleaved rounds, medians of processor time
    python benchmarks/methods_optimizers.py --rounds 40 --write

Peers: timm's LAMB and LARS (timm installed without dependencies into a temporary folder, its optimizer files
loaded alone, as timm itself imports torchvision), torch's optimizers, and a literal loop over local workers.
`--write` puts the tables into benchmarks/results/methods-optimizers.md.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import platform
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isoloss.methods.extrapolation import Extrapolation, asam, gradient_norm_penalty, sam
from isoloss.methods.lamb import LAMB
from isoloss.methods.lars import LARS
from isoloss.methods.local_sgd import BatchedLocalSGD, LocalSGD
from isoloss.models import build
from timing import Update, medians

RESULT = Path(__file__).parent / "results" / "methods-optimizers.md"


def timm_optimizers() -> tuple[str, Any, Any]:
    """(version, Lamb, Lars) from timm's optimizer files alone."""
    folder = tempfile.mkdtemp()
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, "timm"]
    subprocess.run(command, check=True)
    version = next(Path(folder).glob("timm-*.dist-info")).name.split("-")[1].removesuffix(".dist")
    package = types.ModuleType("timm_optim")
    package.__path__ = [str(Path(folder) / "timm" / "optim")]
    sys.modules["timm_optim"] = package
    lamb, lars = (importlib.import_module(f"timm_optim.{name}") for name in ("lamb", "lars"))
    return version, lamb.Lamb, lars.Lars


def parameters() -> list[Tensor]:
    """100 tensors, 11.27M numbers, with gradients."""
    generator = torch.Generator().manual_seed(0)
    width = 332
    shapes = [(width, width), (width,), (1024, width), (width,)] * 25
    found = [torch.randn(shape, generator=generator) * 0.02 for shape in shapes]
    for p in found:
        p.grad = torch.randn(p.shape, generator=generator) * 1e-3
    return found


def optimizers(rounds: int) -> tuple[str, dict[str, float]]:
    """(timm's version, milliseconds of a step)."""
    version, Lamb, Lars = timm_optimizers()
    momentum: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}
    made = {
        "torch AdamW, foreach": torch.optim.AdamW(parameters(), foreach=True),
        "torch AdamW, fused": torch.optim.AdamW(parameters(), fused=True),
        "timm LAMB, no clipping": Lamb(parameters(), max_grad_norm=None),
        "timm LAMB, no clipping, loop": Lamb(parameters(), max_grad_norm=None, foreach=False),
        "isoloss LAMB": LAMB(parameters()),
        "isoloss LAMB, foreach": LAMB(parameters(), foreach=True),
        "timm LAMB": Lamb(parameters()),
        "isoloss LAMB nvlamb": LAMB(parameters(), variant="nvlamb"),
        "torch SGD, fused": torch.optim.SGD(parameters(), fused=True, **momentum),
        "timm LARS": Lars(parameters(), **momentum),
        "isoloss LARS": LARS(parameters(), **momentum),
        "isoloss LARS, foreach": LARS(parameters(), foreach=True, **momentum),
        "timm LARS, Nesterov": Lars(parameters(), nesterov=True, **momentum),
        "isoloss LARS, Nesterov": LARS(parameters(), nesterov=True, **momentum),
        "isoloss LARS lamb-paper": LARS(parameters(), variant="lamb-paper", **momentum),
    }
    return version, medians({name: each.step for name, each in made.items()}, rounds)


class ConvNet(nn.Sequential):
    """Three convolutions with BatchNorm on 32 x 32 images."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for before, after in ((3, 32), (32, 64), (64, 64)):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def task(kind: str) -> tuple[nn.Module, Callable[[], Tensor]]:
    """(model, closure that fills the gradients)."""
    torch.manual_seed(0)
    if kind == "conv net, batch 64":
        model: nn.Module = ConvNet()
        x, y = torch.randn(64, 3, 32, 32), torch.randint(10, (64,))
    else:
        model = build({"family": "gpt", "width": 128, "depth": 4, "head_size": 32}, vocabulary=256, context=128, seed=0)
        x, y = torch.randint(256, (8, 128)), torch.randint(256, (8 * 128,))

    def closure() -> Tensor:
        model.zero_grad(set_to_none=True)
        out = model(x)
        loss = nn.functional.cross_entropy(out.reshape(-1, out.shape[-1]), y)
        loss.backward()
        return loss.detach()

    return model, closure


def wrapped(kind: str, rounds: int) -> dict[str, float]:
    """Milliseconds of an update; the base is fused SGD with momentum on the conv net, fused AdamW on the gpt."""

    def base(model: nn.Module) -> torch.optim.Optimizer:
        if "conv" in kind:
            return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
        return torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def plain() -> Update:
        model, closure = task(kind)
        optimizer = base(model)

        def update() -> None:
            closure()
            optimizer.step()

        return update

    def with_(make: Callable[..., Extrapolation], **options: Any) -> Update:
        model, closure = task(kind)
        optimizer = make(base(model), model=model, **options)
        return lambda: optimizer.step(closure)

    noise = {"direction": "noise", "size": 0.01, "scale": "fixed"}
    cases = {
        "plain": plain(),
        "past": with_(Extrapolation, direction="past", size=0.1),
        "noise, gaussian": with_(Extrapolation, **noise),
        "extragradient": with_(Extrapolation, size=0.1),
        "SAM": with_(sam),
        "SAM every 5 updates (mean)": _mean_of_five(with_(sam, interval=5)),
        "ASAM": with_(asam),
        "gradient-norm penalty": with_(gradient_norm_penalty),
    }
    return medians(cases, rounds)


def _mean_of_five(update: Update) -> Update:
    def five() -> None:
        for _ in range(5):
            update()

    return five


def local(kind: str, rounds: int) -> dict[str, float]:
    """Milliseconds of one update of K = 8 workers, averaged every 16 updates."""
    K, every = 8, 16
    torch.manual_seed(0)
    if kind.startswith("mlp"):
        model: nn.Module = nn.Sequential(
            nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
        )
        x, y = torch.randn(K, 32, 64), torch.randint(10, (K, 32))
    else:
        layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
        model = nn.Sequential(nn.Embedding(64, 32), nn.TransformerEncoder(layer, 2), nn.Linear(32, 64))
        x, y = torch.randint(64, (K, 8, 32)), torch.randint(64, (K, 8, 32))

    def loss_of(out: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(out.reshape(-1, out.shape[-1]), target.reshape(-1))

    def sgd(given: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(given, lr=0.01, momentum=0.9, fused=True)

    models = [copy.deepcopy(model) for _ in range(K)]
    singles = [sgd(m.parameters()) for m in models]
    count = [0]

    def loop() -> None:
        for k, (m, optimizer) in enumerate(zip(models, singles, strict=True)):
            m.zero_grad()
            loss_of(m(x[k]), y[k]).backward()
            optimizer.step()
        count[0] += 1
        if count[0] % every == 0:
            with torch.no_grad():
                for parts in zip(*(m.parameters() for m in models), strict=True):
                    mean = torch.stack(parts).mean(0)
                    for p in parts:
                        p.copy_(mean)

    looped = copy.deepcopy(model)
    ours = LocalSGD(sgd(looped.parameters()), K, every)

    def closure(k: int) -> Update:
        def run() -> Tensor:
            looped.zero_grad()
            loss = loss_of(looped(x[k]), y[k])
            loss.backward()
            return loss.detach()

        return run

    workers = [closure(k) for k in range(K)]
    batched = BatchedLocalSGD(copy.deepcopy(model), lambda call, data: loss_of(call(data[0]), data[1]), sgd, K, every)
    cases: dict[str, Update] = {
        "loop over 8 models": loop,
        "isoloss LocalSGD": lambda: ours.step(workers),
        "isoloss BatchedLocalSGD": lambda: batched.step((x, y)),
    }
    return medians(cases, rounds)


def table(title: str, found: dict[str, float], peers: dict[str, str]) -> list[str]:
    """Rows with the ratio to the first, and to the peer named for a row."""
    first = next(iter(found))
    lines = [f"## {title}", "", f"| | ms | {first} = 1 | peer = 1 |", "| --- | --- | --- | --- |"]
    for name, each in found.items():
        peer = f"{each / found[peers[name]]:.2f} ({peers[name]})" if name in peers else ""
        lines.append(f"| {name} | {each:.2f} | {each / found[first]:.2f} | {peer} |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    version, steps = optimizers(given.rounds)
    lines = [
        "# Layer-wise optimizers, extrapolation, local SGD: time of one update",
        "",
        f"One thread, processor time, medians of {given.rounds} interleaved rounds. {platform.machine()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}, timm {version}.",
        "",
    ]
    peers = {
        "isoloss LAMB": "timm LAMB, no clipping",
        "isoloss LAMB, foreach": "timm LAMB, no clipping",
        "isoloss LAMB nvlamb": "timm LAMB",
        "isoloss LARS": "timm LARS",
        "isoloss LARS, foreach": "timm LARS",
        "isoloss LARS, Nesterov": "timm LARS, Nesterov",
    }
    lines += table("A step of 100 tensors, 11.27M parameters", steps, peers)
    for kind in ("conv net, batch 64", "gpt L4 d128 T128 B8"):
        found = wrapped(kind, given.rounds)
        found["SAM every 5 updates (mean)"] /= 5
        lines += table(f"An update of a wrapper: {kind}", found, {})
    for kind in ("mlp 64-128-128-10, 32 samples a worker", "transformer L2 d32 T32, 8 sequences a worker"):
        lines += table(f"Local SGD, 8 workers: {kind}", local(kind, given.rounds), {})
    text = "\n".join(lines).rstrip() + "\n"
    print(text)
    if given.write:
        RESULT.write_text(text)


if __name__ == "__main__":
    main()
