"""Averages from stored states equal, to the bit, those of a run that watched."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import SMALL

import isoloss
from isoloss.recipe.errors import StudyError
from isoloss.recipe.measure import Observer
from isoloss.store import Store
from isoloss.train import observers

pytestmark = pytest.mark.multiprocess

EVERY = 2
ONLINE: list[dict[str, Any]] = [
    {"kind": "window", "length": "8 updates", "every": "2 updates"},
    {"kind": "window", "length": "30 updates", "every": "2 updates"},
    {"kind": "window", "length": "20 updates", "every": "4 updates"},
    {"kind": "ema", "decay": 0.9, "every": "2 updates"},
    {"kind": "ema", "decay": 0.5, "every": "2 updates"},
    {"kind": "lawa", "count": 5, "every": "2 updates"},
]


def study(**extra: Any) -> dict[str, Any]:
    """A constant trunk whose averages a run watches, with a state kept every second update."""
    arms = {
        f"a{number}": {"schedule": {"shape": "constant"}, "average": average} for number, average in enumerate(ONLINE)
    }
    base = copy.deepcopy(SMALL) | {"arms": arms, "baseline": {"arm": "a0", "extra": "none"}}
    return base | {"grid": {"seed": [0]}, "duration": "40 updates", "checkpoint": {"every": "2 updates"}} | extra


def options_of(average: dict[str, Any]) -> dict[str, Any]:
    """As Python numbers."""
    return {k: int(v.split()[0]) if isinstance(v, str) else v for k, v in average.items() if k != "kind"}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Store]:
    path = tmp_path_factory.mktemp("watched") / "store"
    return isoloss.run(study(), path, quiet=True, workers=1), Store(path)


@pytest.mark.parametrize("number", range(len(ONLINE)))
def test_offline_is_online_to_the_bit(watched: tuple[Any, Store], number: int) -> None:
    results, store = watched
    (result,) = (r for r in results.results if r.arm == f"a{number}")
    (found,) = isoloss.averages(store, result.key, ONLINE[number]["kind"], **options_of(ONLINE[number]))
    assert (found.losses["B"], found.losses["A"]) == (result.loss, result.loss_a)
    assert found.update == 40
    # The weights too: the run's own memory of its observer is kept beside the state.
    observer = Observer(found.kind, found.options)
    side = store.load(result.key).sides[observer.id]
    (online,) = observers.unpack(observer, side.state, side.meta).average()
    offline = torch.cat([tensor.reshape(-1) for tensor in found.weights.values()])
    assert torch.equal(online.sort().values, offline.sort().values)


def test_many_from_one_pass_read_every_state_once(watched: tuple[Any, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    results, store = watched
    key = results.results[0].key
    alone = {n: isoloss.averages(store, key, every=2, length=n, measure=False)[0] for n in (4, 8, 20, 30)}
    read: list[str] = []
    load = Store.load
    monkeypatch.setattr(Store, "load", lambda self, key, *a, **k: (read.append(key), load(self, key, *a, **k))[1])
    together = isoloss.averages(store, key, every=2, length=[4, 8, 20, 30], measure=False)
    assert len(read) == len(set(read)) == 15
    for found in together:
        one = alone[found.options["length"]]
        assert all(torch.equal(found.weights[name], one.weights[name]) for name in one.weights)
        assert found.losses is None


def test_an_average_is_that_of_the_states(watched: tuple[Any, Store]) -> None:
    """Against means written out in float64, from the states themselves."""
    results, store = watched
    key = results.results[0].key
    states = {
        row.end_update: {n[6:]: t.double() for n, t in store.load(row.end_key).state.items() if n[:6] == "model/"}
        for row in store.pieces()
        if store.has(row.end_key)
    }
    for found in isoloss.averages(store, key, every=4, length=[8, 20], measure=False):
        last = range(40, 40 - found.options["length"], -4)
        for name, value in found.weights.items():
            mean = sum(states[at][name] for at in last) / len(last)
            assert torch.equal(value, mean.float())
    (ema,) = isoloss.averages(store, key, "ema", every=4, decay=0.8, measure=False)
    moments = range(8, 41, 4)  # the phase begins after the warm-up of 4
    weights = [0.2 * 0.8 ** ((40 - at) // 4) for at in moments]
    for name, value in ema.weights.items():
        mean = sum(w * states[at][name] for w, at in zip(weights, moments, strict=True)) / math.fsum(weights)
        torch.testing.assert_close(value, mean.float(), rtol=1e-6, atol=1e-7)


def test_statistics_are_refreshed_as_in_a_run(tmp_path: Path) -> None:
    images = {
        "data": {"source": "digits"},
        "model": {"family": "f1", "width": 12, "depth": 1},
        "training": {"optimizer": {"name": "sgd", "lr": 0.1}, "batch": "32 samples"},
        "evaluation": {"samples": 64},
        "duration": "12 updates",
    }
    average = {"kind": "window", "length": "8 updates", "every": "2 updates", "refresh": 3}
    arms = {"a": {"schedule": {"shape": "constant"}, "average": average}}
    results = isoloss.run(
        study(**images, arms=arms, baseline={"arm": "a", "extra": "none"}), tmp_path / "store", quiet=True, workers=1
    )
    (result, *_) = results.results
    options = {"every": 2, "length": 8, "amount": 64}
    (found,) = isoloss.averages(tmp_path / "store", result.key, refresh=3, **options)
    assert (found.losses["B"], found.losses["A"]) == (result.loss, result.loss_a)
    (stale,) = isoloss.averages(tmp_path / "store", result.key, **options)
    assert stale.losses["B"] != result.loss


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "windo", "length": 4}, "did you mean 'window'"),
        ({"lenght": 4}, "did you mean 'length'"),
        ({}, "length is missing"),
        ({"length": 4, "every": 3}, "a multiple of every"),
        ({"length": 10, "every": 1}, "5 of 10 sampled states are not kept"),
        ({"length": 0}, "length"),
        ({"kind": "ema", "decay": 1.5}, "decay is 1.5"),
        ({"kind": "lawa", "count": 40}, "snapshots"),
        ({"length": 40}, "begins at 1"),
    ],
)
def test_one_message_for_each_mistake(watched: tuple[Any, Store], options: dict[str, Any], words: str) -> None:
    results, store = watched
    with pytest.raises(StudyError, match=words):
        isoloss.averages(store, results.results[0].key, **{"every": 2, **options})
