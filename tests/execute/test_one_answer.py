"""Two whole studies, trained in every way there is: one process, workers, copies, shards, torchrun, Ray: one answer."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import isoloss
from isoloss.store import Store

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

TEXT: dict[str, Any] = {
    "study": "text",
    "data": {"source": "synthetic", "order": 1, "vocabulary": 8, "tokens": 20_000, "seed": 1, "context": 8},
    "model": {"family": "gpt", "depth": 2, "head_size": 4, "width": 8},
    "training": {
        "optimizer": {"name": "adamw", "lr": 0.01}, "batch": "8 sequences", "micro_batches": 4, "warmup": "2 updates",
    },
    "grid": {"duration": ["12 updates", "24 updates"], "seed": [0, 1]},
    "checkpoint": {"every": "6 updates"},
    "evaluation": {"tokens": 512},
    "baseline": {"arm": "cosine", "extra": "none"},
    "arms": {
        "cosine": {"schedule": {"shape": "cosine"}},
        "cooldown": {"schedule": {"shape": "constant", "cooldown": {"shape": "one_minus_sqrt", "fraction": 0.25}}},
        "averaged": {
            "schedule": {"shape": "constant"}, "average": {"kind": "window", "length": "4 updates"},
        },
        "lamb": {"training": {"optimizer": {"name": "lamb", "lr": 0.02}}},
        "fine-tuned": {
            "pretrain": {
                "data": {"source": "synthetic", "order": 1, "vocabulary": 8, "tokens": 20_000, "seed": 2},
                "duration": "18 updates", "lr": 0.01,
            },
        },
    },
}  # fmt: skip
IMAGES: dict[str, Any] = {
    "study": "images",
    "data": {"source": "blobs", "classes": 4, "samples": 640},
    "model": {"family": "f1", "width": 12, "depth": 2},
    "training": {
        "optimizer": {"name": "sgd", "lr": 0.05}, "batch": "16 samples", "micro_batches": 4, "ghost_size": 2,
    },
    "grid": {"duration": ["12 updates"], "seed": [0, 1]},
    "evaluation": {"samples": 64, "metrics": ["accuracy"]},
    "baseline": {"arm": "cosine", "extra": "none"},
    "arms": {
        "cosine": {"schedule": {"shape": "cosine"}},
        "averaged": {"schedule": {"shape": "constant"}, "average": {"kind": "ema", "decay": 0.8, "refresh": 2}},
        "sam": {"training": {"sharpness": {"method": "sam"}}},
    },
}  # fmt: skip
STUDIES = {"text": TEXT, "images": IMAGES}
WAYS: dict[str, dict[str, Any]] = {
    "2 workers": {"workers": 2},
    "2 copies": {"workers": 1, "processes": 2},
    "2 shards": {"workers": 1, "processes": 2, "shard": 2},
    "2 copies of 2 shards": {"workers": 1, "processes": 4, "shard": 2},
}


def answer(store: Path) -> dict[str, Any]:
    """Digest of every state and every measurement, by key."""
    with Store(store, create=False) as opened:
        assert opened.verify().clean
        keys = {row.end_key for row in opened.pieces()}
        return {"digests": {key: opened.digest(key) for key in keys}, "measured": opened.measurements(keys)}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The answers of one process."""
    found = {}
    for name, study in STUDIES.items():
        store = tmp_path_factory.mktemp(name) / "store"
        results = isoloss.run(copy.deepcopy(study), store, workers=1, quiet=True)
        assert {r.status for r in results.results} == {"done"}
        found[name] = answer(store)
        assert len(found[name]["digests"]) >= 6
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", STUDIES)
def test_how_it_is_trained_changes_no_bit(name: str, way: str, one: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    isoloss.run(copy.deepcopy(STUDIES[name]), tmp_path / "store", quiet=True, **WAYS[way])
    assert answer(tmp_path / "store") == one[name]


def test_what_the_study_says_is_what_the_command_line_would(one: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    study = copy.deepcopy(TEXT)
    study["training"]["parallel"] = {"shard": 2, "checkpointing": True}
    isoloss.run(study, tmp_path / "store", workers=1, quiet=True)
    assert answer(tmp_path / "store") == one["text"]


def test_one_two_one_processes_are_one_run(one: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """Stopped and gone on with on another layout at every third of the way."""
    for duration, options in (("6 updates", {"workers": 1}), ("12 updates", WAYS["2 shards"]), (None, {"workers": 1})):
        study = copy.deepcopy(TEXT)
        if duration:
            study["arms"] = {"averaged": study["arms"]["averaged"]}
            study["grid"]["duration"] = [duration]
            study["baseline"] = "averaged"
        isoloss.run(study, tmp_path / "store", quiet=True, **options)
    whole = answer(tmp_path / "store")
    assert one["text"]["digests"].items() <= whole["digests"].items()
    for key, values in one["text"]["measured"].items():
        assert values.items() <= whole["measured"][key].items()


def test_torchrun(one: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    study, store = tmp_path / "study.json", tmp_path / "store"
    study.write_text(json.dumps(TEXT))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "isoloss"]
    command += ["run", str(study), "--store", str(store), "--shard", "2", "--out", str(tmp_path / "page")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert answer(store) == one["text"]


def test_two_nodes_of_a_ray_cluster(
    one: dict[str, dict[str, Any]], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="the extra isoloss[ray] is not installed")
    cluster = request.getfixturevalue("cluster")
    for shard in (1, 2):
        store = tmp_path / f"store-{shard}"
        options = {"processes": shard, "shard": shard}
        isoloss.run(copy.deepcopy(TEXT), store, on=f"ray:{cluster.address}", quiet=True, **options)
        assert answer(store) == one["text"]
