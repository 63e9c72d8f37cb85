"""Cost of the store: publishing and loading states beside torch.save and torch.load, and index look-ups.

Rounds are interleaved and medians reported, so that a busy machine slows all columns alike.
Run: python benchmarks/store.py [--folder DIR], or for object storage: python benchmarks/store.py --url s3://bucket/new
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from isoloss.store import Measurement, Piece, Store
from isoloss.store.cache import cache_folder


def key(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def state(parameters: int, tensors: int, seed: int) -> dict[str, torch.Tensor]:
    """A model with AdamW's two moments, fp32."""
    generator = torch.Generator().manual_seed(seed)
    size = parameters // tensors
    names = [f"{kind}/{i}" for kind in ("model", "optimizer/exp_avg", "optimizer/exp_avg_sq") for i in range(tensors)]
    return {name: torch.randn(size, generator=generator) for name in names}


def piece(number: int, tensors: dict[str, torch.Tensor], updates: int = 200) -> Piece:
    start, end = number * updates, (number + 1) * updates
    losses = np.linspace(5, 1, updates) + number
    return Piece(
        key(number),
        key(number + 1),
        start,
        end,
        state=tensors,
        meta={"updates": end},
        curve={"update": np.arange(start + 1, end + 1), "loss": losses, "lr": losses * 1e-3},
        measurements=[Measurement(key(number + 1), end, name, number + 0.1) for name in ("loss/A", "loss/B")],
        recipes={key(number + 1): b'{"optimizer": "adamw"}' * 20},
    )


def milliseconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def compare(folder: Path, name: str, parameters: int, tensors: int, rounds: int) -> None:
    """Print medians of `rounds` interleaved rounds."""
    times: dict[str, list[float]] = {}
    store = Store(folder / f"store-{name}")

    def note(column: str, work: Callable[[], object]) -> None:
        times.setdefault(column, []).append(milliseconds(work))

    for i in range(rounds):
        values = state(parameters, tensors, seed=i)
        made = piece(i, values)
        file = folder / f"{name}.pt"

        def saved_and_synced(file: Path = file, values: dict[str, torch.Tensor] = values) -> None:
            torch.save(values, file)
            with file.open("rb") as stream:
                os.fsync(stream.fileno())

        note("torch.save", lambda file=file, values=values: torch.save(values, file))
        note("torch.save + fsync", saved_and_synced)
        note("publish", lambda made=made: store.publish(made))
        note("publish again", lambda made=made: store.publish(made))
        note("torch.load", lambda file=file: torch.load(file, weights_only=True))
        note("load", lambda i=i: store.load(key(i + 1)))
        store.release(key(i + 1))
    medians = {column: statistics.median(values) for column, values in times.items()}
    size = parameters * 3 * 4 / 1e6
    print(f"\n{parameters / 1e6:g}M parameters, AdamW: {size:.1f} MB, {3 * tensors} tensors, {rounds} rounds")
    for column, median in medians.items():
        peer = "torch.load" if "load" in column else "torch.save"
        print(f"  {column:<20} {median:9.2f} ms   {median / medians[peer]:5.2f} x {peer}")


def lookups(folder: Path, pieces: int) -> None:
    """Print the cost of opening and asking a store of many pieces."""
    path = folder / "many"
    store = Store(path)
    took = milliseconds(lambda: [store.publish(piece(i, {"x": torch.zeros(1)}, 10)) for i in range(pieces)])
    store.close()
    print(f"\nstore of {pieces} pieces (published in {took / 1e3:.1f} s, {took / pieces:.2f} ms each)")
    keys = [key(i) for i in range(100_000)]
    fresh = Store(path)
    print(f"  open and refresh               {milliseconds(fresh.refresh):9.1f} ms")
    print(f"  measurements of 100,000 keys   {milliseconds(lambda: fresh.measurements(keys)):9.1f} ms")
    print(f"  stored? of 100,000 keys        {milliseconds(lambda: fresh.stored(keys)):9.1f} ms")
    print(f"  rebuild the index              {milliseconds(fresh.top.index.rebuild):9.1f} ms")


def far(url: str, pieces: int, rounds: int = 5) -> None:
    """Print the cost of a store in object storage; of the loads, the second is from copies on this machine."""
    times: dict[str, list[float]] = {}
    for name, parameters in (("small", 40_000), ("large", 10_000_000)):
        store = Store(f"{url}/{name}")
        for i in range(rounds):
            made = piece(i, state(parameters, 50, seed=i))
            column = f"{parameters * 12 / 1e6:g} MB: "
            times.setdefault(f"{column}publish", []).append(milliseconds(lambda made=made, s=store: s.publish(made)))
            again = milliseconds(lambda i=i, s=store: s.load(key(i + 1)))
            times.setdefault(f"{column}load a copy", []).append(again)
            for copy in (cache_folder() / "blobs").glob("*/*.safetensors"):
                copy.unlink()
            times.setdefault(f"{column}load", []).append(milliseconds(lambda i=i, s=store: s.load(key(i + 1))))
    print(f"\n{url}, medians of {rounds} rounds")
    for column, values in times.items():
        print(f"  {column:<24} {statistics.median(values):9.1f} ms")
    many = Store(f"{url}/many")
    for i in range(pieces):
        many.publish(piece(i, {"x": torch.zeros(1)}, 10))
    print(f"  {pieces} pieces: refresh {milliseconds(many.refresh):.1f} ms", end=", ")
    print(f"rebuild the index {milliseconds(many.top.index.rebuild):.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=None, help="where to write (default: the temporary folder)")
    parser.add_argument("--pieces", type=int, default=None, help="default: 10,000 in a folder, 200 elsewhere")
    parser.add_argument("--url", default=None, help="a new place in object storage; what is written there stays")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        if options.url:
            os.environ["ISOLOSS_CACHE"] = name
            far(options.url, options.pieces or 200)
            return
        compare(Path(name), "small", 40_000, 20, rounds=41)
        compare(Path(name), "large", 10_000_000, 50, rounds=7)
        lookups(Path(name), options.pieces or 10_000)


if __name__ == "__main__":
    main()
