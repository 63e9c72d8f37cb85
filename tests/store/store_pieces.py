"""Pieces for the tests of the store: small, seeded, with every part filled in."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from isoloss.store import Measurement, Piece, Side

LENGTH = 10


def key(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


def make_piece(i: int, path: str = "trunk", seed: int = 0, value: float | None = None, **changes: object) -> Piece:
    """The `i`-th piece of a path of 10 updates each; `seed` changes the bits of its state, not its key."""
    generator = torch.Generator().manual_seed(1000 * seed + i)
    start, end = LENGTH * i, LENGTH * (i + 1)
    here = key(f"{path}-{end}")
    parts: dict[str, object] = {
        "start_key": key(f"{path}-{start}"),
        "end_key": here,
        "start_update": start,
        "end_update": end,
        "state": {
            "model/weight": torch.randn(7, 5, generator=generator),
            "model/mask": torch.tensor([True, False, True]),
            "optimizer/step": torch.tensor(end),
        },
        "meta": {"updates": end, "samples": 16 * end},
        "side": {"ema": Side({"average": torch.full((3,), float(i), dtype=torch.float64)}, {"count": end})},
        "curve": {
            "update": np.arange(start + 1, end + 1),
            "loss": 5.0 / (1.0 + np.arange(start, end)),
        },
        "measurements": [
            Measurement(key(f"{path}-{start + 5}"), start + 5, "loss/A", 3.0 / (i + 1.5)),
            Measurement(here, end, "loss/A", 3.0 / (i + 2) if value is None else value),
        ],
        "recipes": {here: b'{"lr":0x1.0p-8,"path":"' + path.encode() + b'"}'},
        "labels": {"torch": "2.13"},
    }
    return Piece(**(parts | changes))  # type: ignore[arg-type]


def diverged(i: int, path: str = "trunk", detail: str = "loss is nan at update 14") -> Piece:
    """The `i`-th piece of a path, ended by divergence."""
    full = make_piece(i, path)
    return make_piece(
        i,
        path,
        state=None,
        side={},
        measurements=full.measurements[:1],
        status="diverged",
        detail=detail,
        curve={name: column[:4] for name, column in full.curve.items()},
    )


def same_state(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Equality of names, dtypes, shapes and bits."""
    return a.keys() == b.keys() and all(
        x.dtype == b[name].dtype and x.shape == b[name].shape and x.numpy().tobytes() == b[name].numpy().tobytes()
        for name, x in a.items()
    )
