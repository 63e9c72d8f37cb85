"""Training speed: the whole machine with isoloss's recipe against a loop equivalent to stock nanoGPT's.

    python benchmarks/training.py                 whole machine, ratios (interleaved rounds, medians)
    python benchmarks/training.py --steps         one thread: time of one update by precision and attention
    python benchmarks/training.py --loop          one thread: isoloss's loop over a bare loop of the same parts
    python benchmarks/training.py --seconds 2 --rounds 7

The peer, written out below: LayerNorm, learned positions, GELU, scaled-dot-product attention, tied head,
float32, all threads in one process, one fused AdamW over separate tensors; then the same with one process a
core. Ours: isoloss's own loop (`train.loop.Trainer`), one process a core with one thread each, the built-in gpt
with bf16 weights and float32 masters in one flat vector, on `stdlib-code`. Same depth, width, context, batch,
heads, vocabulary (256) and clipping; an update is timed with its data and optimizer. `--steps` and `--loop`
report processor time, which a busy machine disturbs least.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

SHAPES = {  # depth, width, context, batch, head size
    "L2 d16 T64 B16": (2, 16, 64, 16, 16),
    "L2 d96 T64 B16": (2, 96, 64, 16, 16),
    "L2 d64 T128 B8": (2, 64, 128, 8, 16),
    "L4 d128 T128 B16": (4, 128, 128, 16, 32),
    "L6 d256 T256 B16": (6, 256, 256, 16, 32),
}
VOCABULARY = 256
Shape = tuple[int, int, int, int, int]
Update = Callable[[], object]


def stock(shape: Shape) -> Update:
    """One update of the peer."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    depth, width, context, batch, head_size = shape

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            B, T, d = x.shape
            q, k, v = (
                t.view(B, T, d // head_size, head_size).transpose(1, 2) for t in self.qkv(self.norm1(x)).split(d, dim=2)
            )
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(mixed.transpose(1, 2).contiguous().view(B, T, d))
            return x + self.down(F.gelu(self.up(self.norm2(x))))

    class Stock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.positions = nn.Embedding(VOCABULARY, width), nn.Embedding(context, width)
            self.layers = nn.ModuleList(Layer() for _ in range(depth))
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, VOCABULARY, bias=False)
            self.head.weight = self.tokens.weight

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
            for layer in self.layers:
                x = layer(x)
            return self.head(self.norm(x))

    torch.manual_seed(0)
    model = Stock()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 0.02)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)
    draw = _batches(batch, context)

    def update() -> object:
        tokens = draw()
        logits = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.view(-1, VOCABULARY), tokens[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return update


def product(shape: Shape, precision: str = "bf16-master") -> Update:
    """One update of isoloss's own loop, as a study would run it."""
    from isoloss.plan.lower import Lowering, open_source
    from isoloss.study import from_dict
    from isoloss.train.loop import Trainer

    depth, width, context, batch, head_size = shape
    study = {
        "study": "benchmark",
        "data": {"source": "stdlib-code", "context": context},
        "model": {"family": "gpt", "depth": depth, "width": width, "head_size": head_size},
        "training": {
            "optimizer": {"name": "adamw", "lr": 1e-3},
            "batch": f"{batch} sequences",
            "precision": precision,
        },
        "schedule": {"shape": "constant"},
        "duration": "1000000 updates",
    }
    (cell,) = from_dict(study).cells
    made = Lowering()(cell.config, 1e-3, where="benchmark")
    _, phase, _ = made.run.tracks[0]
    trainer = Trainer(made.run.start, phase, open_source(made.data), made.run.numerics)
    return lambda: trainer.step(trainer.update)


def ours(shape: Shape, precision: str = "bf16-master", attention: str = "auto", text: bool = False) -> Update:
    """One update of the same parts in a bare loop; ``text``: on the data and in the order that isoloss reads."""
    import torch
    import torch.nn.functional as F

    from isoloss.methods.gradient_norm import clip_
    from isoloss.models import build, decayed

    depth, width, context, batch, head_size = shape
    spec = {"family": "gpt", "width": width, "depth": depth, "head_size": head_size}
    model = build(spec, vocabulary=VOCABULARY, context=context, seed=0)
    model.attention = attention
    named = sorted(model.named_parameters(), key=lambda item: not decayed(*item))
    parameters = [p for _, p in named]
    sizes = [p.numel() for p in parameters]
    split = sum(p.numel() for name, p in named if decayed(name, p))
    flat = torch.cat([p.detach().reshape(-1) for p in parameters])
    gradient = torch.zeros_like(flat)
    working = flat.bfloat16() if precision == "bf16-master" else flat
    slopes = [part.view(p.shape) for part, p in zip(gradient.split(sizes), parameters, strict=True)]
    for p, part in zip(parameters, working.split(sizes), strict=True):
        p.data = part.view(p.shape)
    groups = []
    for part, slope, decay in ((flat[:split], gradient[:split], 0.1), (flat[split:], gradient[split:], 0.0)):
        part.grad = slope
        groups.append({"params": [part], "weight_decay": decay})
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), fused=True)
    draw = _text(batch, context) if text else _batches(batch, context)

    def update() -> object:
        tokens = draw()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-autocast"):
            logits = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, VOCABULARY).float(), tokens[:, 1:].reshape(-1))
        torch._foreach_copy_(slopes, torch.autograd.grad(loss, parameters))
        clip_([gradient], 1.0)
        optimizer.step()
        if working is not flat:
            working.copy_(flat)
        return loss.item()

    return update


def _batches(batch: int, context: int) -> Callable[[], object]:
    """Random windows of one fixed random stream, as nanoGPT draws them."""
    import torch

    generator = torch.Generator().manual_seed(0)
    data = torch.randint(VOCABULARY, (1_000_000,), generator=generator)
    window = torch.arange(context + 1)

    def draw() -> object:
        start = torch.randint(len(data) - context - 1, (batch, 1), generator=generator)
        return data[start + window]

    return draw


def _text(batch: int, context: int) -> Callable[[], object]:
    """The stream of samples that isoloss trains on."""
    from itertools import count

    import torch

    from isoloss.data import open_source

    source = open_source({"source": "stdlib-code", "context": context})
    cursor = count(0, batch)
    return lambda: torch.from_numpy(source.batch(0, next(cursor), batch, context))


def _worker(pipe: Connection, kind: str, shape: Shape, threads: int) -> None:
    import torch

    from isoloss.models import keep_freed_memory

    torch.set_num_threads(threads)
    if kind == "ours":
        keep_freed_memory()
    update = (product if kind == "ours" else stock)(shape)
    for _ in range(3):
        update()
    pipe.send("ready")
    tokens = shape[2] * shape[3]
    while (seconds := pipe.recv()) is not None:
        begun, count = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds:
            update()
            count += 1
        pipe.send(count * tokens / (time.perf_counter() - begun))


def whole_machine(name: str, rounds: int, seconds: float, cores: int) -> dict[str, list[float]]:
    """Tokens/s of the whole machine in every round, by who used it; the rounds are interleaved."""
    context = multiprocessing.get_context("spawn")
    layouts = {"stock": [cores], "stock fanned out": [1] * cores, "isoloss": [1] * cores}
    groups: dict[str, list[Connection]] = {}
    processes = []
    for layout, threads in layouts.items():
        groups[layout] = []
        for each in threads:
            here, there = context.Pipe()
            os.environ["OMP_NUM_THREADS"] = str(each)
            kind = "ours" if layout == "isoloss" else "stock"
            process = context.Process(target=_worker, args=(there, kind, SHAPES[name], each), daemon=True)
            process.start()
            groups[layout].append(here)
            processes.append(process)
            here.recv()
    found: dict[str, list[float]] = {layout: [] for layout in layouts}
    for _ in range(rounds):
        for layout, pipes in groups.items():
            for pipe in pipes:
                pipe.send(seconds)
            found[layout].append(sum(pipe.recv() for pipe in pipes))
    for pipe in (pipe for pipes in groups.values() for pipe in pipes):
        pipe.send(None)
    for process in processes:
        process.join()
    return found


def update_times(name: str, rounds: int, seconds: float) -> dict[str, float]:
    """Median processor seconds of one update on one thread, by policy."""
    import torch

    from isoloss.models import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()
    shape = SHAPES[name]
    updates: dict[str, Update] = {"stock fp32": stock(shape)}
    for precision in ("fp32", "bf16-autocast", "bf16-master"):
        for attention in ("sdpa", "explicit"):
            updates[f"{precision} {attention}"] = ours(shape, precision, attention)
    times: dict[str, list[float]] = {key: [] for key in updates}
    for update in updates.values():
        update()
    for _ in range(rounds):
        for key, update in updates.items():
            begun, count = time.process_time(), 0
            while count < 1 or time.process_time() - begun < seconds / 4:
                update()
                count += 1
            times[key].append((time.process_time() - begun) / count)
    return {key: statistics.median(found) for key, found in times.items()}


def loop_ratio(name: str, rounds: int, seconds: float) -> tuple[float, float, float]:
    """(ms of a bare update, ms of isoloss's, median ratio of their speeds) on one thread, interleaved."""
    import torch

    from isoloss.models import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()
    bare, mine = ours(SHAPES[name], text=True), product(SHAPES[name])
    times: dict[str, list[float]] = {"bare": [], "mine": []}
    for update in (bare, mine):
        update()
    for _ in range(rounds):
        for key, update in (("bare", bare), ("mine", mine)):
            begun, done = time.process_time(), 0
            while done < 1 or time.process_time() - begun < seconds / 4:
                update()
                done += 1
            times[key].append((time.process_time() - begun) / done)
    ratio = statistics.median(a / b for a, b in zip(times["bare"], times["mine"], strict=True))
    return 1e3 * statistics.median(times["bare"]), 1e3 * statistics.median(times["mine"]), ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", action="store_true", help="time of one update on one thread, by policy")
    parser.add_argument("--loop", action="store_true", help="isoloss's loop over a bare loop of the same parts")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES), choices=list(SHAPES), metavar="SHAPE")
    options = parser.parse_args()
    if options.loop:
        print("| 1 thread | bare loop, ms | isoloss, ms | tokens/s over the bare loop |")
        print("| --- | ---: | ---: | ---: |")
        for name in options.shapes:
            bare, mine, ratio = loop_ratio(name, options.rounds, options.seconds)
            print(f"| {name} | {bare:.2f} | {mine:.2f} | {ratio:.3f} |", flush=True)
        return
    if options.steps:
        for place, name in enumerate(options.shapes):
            times = update_times(name, options.rounds, options.seconds)
            if place == 0:
                print("| ms an update, 1 thread | " + " | ".join(times) + " |")
                print("| --- |" + " ---: |" * len(times))
            print(f"| {name} | " + " | ".join(f"{1e3 * t:.2f}" for t in times.values()) + " |", flush=True)
        return
    print(
        f"| tokens/s on {options.cores} cores | stock nanoGPT loop | the same, one process a core | isoloss | ratios |"
    )
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in options.shapes:
        found = whole_machine(name, options.rounds, options.seconds, options.cores)
        middle = " | ".join(f"{statistics.median(each):,.0f}" for each in found.values())
        mine = found.pop("isoloss")
        ratios = (statistics.median(b / a for a, b in zip(peer, mine, strict=True)) for peer in found.values())
        print(f"| {name} | {middle} | {' and '.join(f'{r:.2f}' for r in ratios)} |", flush=True)


if __name__ == "__main__":
    main()
