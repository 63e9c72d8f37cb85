"""Every method of the registry: saved in the middle, loaded in a fresh process, continued, to the bit.

And each of them really changes the training: its weights differ from those of the plain rule.
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch

from isoloss.execute.job import Job, execute
from isoloss.plan.lower import Lowered, Lowering
from isoloss.recipe import catalogue
from isoloss.store import Store
from isoloss.study import from_dict
from isoloss.train.segment import Segment

MIDDLE, END = 5, 10

Case = dict[str, Any]

OPTIMIZERS: dict[str, Case] = {
    "adamw": {"lr": 0.01},
    "sgd": {"lr": 0.05, "nesterov": False},
    "lamb": {"lr": 0.01},
    "lars": {"lr": 0.5, "weight_decay": 1e-3},
    "schedule_free_adamw": {"lr": 0.01},
    "schedule_free_sgd": {"lr": 0.5, "weight_decay": 1e-3},
    "muon": {"lr": 0.02, "weight_decay": 0.01},
}
EXTRAPOLATE: dict[str, Case] = {
    "local": {"share": 0.5, "nesterov": True},
    "gradient": {"interval": 2, "size": 3.0},
    "past": {"size": 5.0},
    "past-mean": {"size": 5.0, "nesterov": True},
    "noise": {"scale": "fixed", "size": 0.01, "per_filter": True},
}
SHARPNESS: dict[str, Case] = {
    "sam": {"rho": 0.5},
    "asam": {"direction": "local"},
    "gradient_norm_penalty": {"interval": 3},
}
AVERAGES: dict[str, Case] = {
    "window": {"length": "4 updates"},
    "ema": {"decay": 0.8},
    "lawa": {"count": 2, "every": "3 updates"},
}
LOCAL: dict[str, Case] = {
    "local sgd": {"every": 4},
    "post-local sgd": {"every": 2, "begin": "3 updates"},
    "slow momentum": {"every": 2, "slow_momentum": 0.5, "slow_lr": 0.7},
}
GHOSTS = [
    ("sequential", "consecutive"),
    ("sequential", "strided"),
    ("averaged", "consecutive"),
    ("averaged", "strided"),
]


def cases() -> dict[str, Case]:
    """Overrides of the plain study by name."""
    sgd = {"name": "sgd", "lr": 0.05, "nesterov": False}
    found: dict[str, Case] = {"plain": {}}
    for name, options in OPTIMIZERS.items():
        found[f"optimizer {name}"] = {"training": {"optimizer": {"name": name, **options}}}
    for name, options in EXTRAPOLATE.items():
        found[f"extrapolate {name}"] = {"training": {"extrapolate": {"direction": name, **options}}}
    for name, options in SHARPNESS.items():
        found[f"sharpness {name}"] = {"training": {"sharpness": {"method": name, **options}}}
    for name, options in LOCAL.items():
        found[name] = {"training": {"local_sgd": options}}
        found[f"{name} of adamw"] = {"training": {"local_sgd": options, "optimizer": {"name": "adamw", "lr": 0.01}}}
    found["extrapolation of adamw"] = {
        "training": {"extrapolate": {"direction": "past"}, "optimizer": {"name": "adamw", "lr": 0.01}}
    }
    for name, lr in (("schedule_free_adamw", 0.01), ("schedule_free_sgd", 0.05), ("muon", 0.02)):
        base = {"optimizer": {"name": name, "lr": lr}}
        found[f"past gradients of {name}"] = {"training": {"extrapolate": {"direction": "past"}, **base}}
        found[f"noise of {name}"] = {"training": {"extrapolate": {"direction": "noise"}, **base}}
        found[f"asam of {name}"] = {"training": {"sharpness": {"method": "asam", "direction": "local"}, **base}}
    found["local sgd of muon"] = {"training": {"local_sgd": {"every": 2}, "optimizer": {"name": "muon", "lr": 0.02}}}
    found["sam of lamb"] = {"training": {"sharpness": {}, "optimizer": {"name": "lamb", "lr": 0.01}}}
    found["extrapolation, then local sgd"] = {
        "training": {
            "extrapolate": {"direction": "past", "end": f"{MIDDLE} updates"},
            "local_sgd": {"every": 2, "begin": f"{MIDDLE} updates"},
        }
    }
    for name, options in AVERAGES.items():
        found[f"average {name}"] = {"average": {"kind": name, **options}}
    for running, grouping in GHOSTS:
        ghost = {"ghost_size": 2, "ghost_running": running, "ghost_grouping": grouping}
        found[f"ghost {running} {grouping}"] = {"training": ghost}
    for case in found.values():
        case.setdefault("training", {}).setdefault("optimizer", sgd)
    return found


CASES = cases()


def lowered(case: Case) -> Lowered:
    study = {
        "study": "resume",
        "data": {"source": "blobs", "classes": 4, "samples": 640},
        "model": {"family": "f1", "width": 12, "depth": 2},
        "duration": f"{END} updates",
        "training": {"batch": "16 samples", "micro_batches": 4, "ghost_size": 4, "clip": 1.0, **case["training"]},
        "schedule": {"shape": "cosine"} if "average" not in case else {"shape": "constant"},
        "average": case.get("average"),
        "evaluation": {"samples": 64},
    }
    (cell,) = from_dict(study).cells
    return Lowering()(cell.config, float(cell.config["training"]["optimizer"]["lr"]), where="resume")


def jobs(made: Lowered, begin: int, end: int) -> list[Job]:
    """The segments of a run that begin before ``end``, to be halted there: observers know what they will be asked."""
    found = []
    for index, (_, phase, begun) in enumerate(made.run.tracks):
        low, high = max(begin - begun, 0), min(end - begun, phase.length)
        if low < high:
            measures = {u - begun: m for u, m in made.points.items() if begun + low < u <= begun + phase.length}
            saves = tuple(sorted({high, phase.length}))
            segment = Segment(made.run, index, low, phase.length, saves, measures)
            found.append(Job(len(found), segment, dict(made.data), frozenset(saves), "resume"))
    return found


def train(folder: Path, begin: int, end: int) -> None:
    """Train that part of every case; its state is in the store of the case."""
    torch.set_num_threads(1)
    for name, case in CASES.items():
        made = lowered(case)
        with Store(folder / name.replace(" ", "-")) as store:
            for job in jobs(made, begin, end):
                execute(job, store, halt=lambda: True)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Stores of every case: trained in one go, and in two processes that know nothing of each other."""
    whole, parts = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("parts")
    fresh = multiprocessing.get_context("spawn")
    for folder, begin, end in ((whole, 0, END), (parts, 0, MIDDLE), (parts, MIDDLE, END)):
        process = fresh.Process(target=train, args=(folder, begin, end))
        process.start()
        process.join()
        assert process.exitcode == 0
    return whole, parts


def end_of(folder: Path, name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any], dict[str, Any], Any]:
    made = lowered(CASES[name])
    key = made.run.key(END)
    with Store(folder / name.replace(" ", "-")) as store:
        tensors, meta, sides = store.load(key)
        return tensors, meta, {n: (dict(s.state), s.meta) for n, s in sides.items()}, store.measurements([key])


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_resumed_in_a_fresh_process_is_the_same_to_the_bit(stores: tuple[Path, Path], name: str) -> None:
    whole, parts = (end_of(folder, name) for folder in stores)
    assert whole[0].keys() == parts[0].keys()
    for entry, tensor in whole[0].items():
        assert torch.equal(tensor, parts[0][entry]), entry
    assert whole[1] == parts[1]
    assert whole[2].keys() == parts[2].keys()
    for observer, (tensors, meta) in whole[2].items():
        assert meta == parts[2][observer][1]
        assert all(torch.equal(value, parts[2][observer][0][entry]) for entry, value in tensors.items())
    assert whole[3] == parts[3]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name not in ("plain", "optimizer sgd")])
def test_the_method_changes_what_is_learnt(stores: tuple[Path, Path], name: str) -> None:
    """An average changes no weight but the loss that is read off."""
    plain, found = end_of(stores[0], "plain"), end_of(stores[0], name)
    if name.startswith("average"):
        (values,) = found[3].values()
        judged = [value for measure, value in values.items() if "/loss@" in measure]
        assert judged and not set(judged) & {v for m, v in values.items() if "/" not in m}
        return
    weights = [entry for entry in plain[0] if entry.startswith(("model/", "buffer/"))]
    assert any(not torch.equal(plain[0][entry], found[0][entry]) for entry in weights)
    if "ghost" not in name:
        assert any(not torch.equal(plain[0][e], found[0][e]) for e in weights if e.startswith("model/"))


def test_no_name_of_the_registry_is_left_out() -> None:
    assert set(OPTIMIZERS) == set(catalogue.names("optimizer"))
    assert set(EXTRAPOLATE) == set(catalogue.names("extrapolate"))
    assert set(SHARPNESS) == set(catalogue.names("sharpness"))
    assert set(AVERAGES) == set(catalogue.names("average"))
