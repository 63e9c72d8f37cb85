"""Cooldowns of checkpoints of other people's loops, in every format, and one message for each thing that is wrong."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import isoloss
from isoloss.execute.checkpoints import flatten, unflatten
from isoloss.execute.outside import Outside
from isoloss.recipe.errors import RunFailed, StudyError

FORK, LENGTH = 20, 8


class Net(nn.Module):
    """Tied weights, a buffer and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.norm(self.embed(x))))


class Training:
    """The adapter under test."""

    lr = 0.02

    def build(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = Net()
        return model, torch.optim.AdamW(model.parameters(), lr=self.lr)

    def batches(self, update: int) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            x = torch.randint(6, (16,), generator=torch.Generator().manual_seed(update))
            yield x, (x + 1) % 6
            update += 1

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    def validation(self) -> list[tuple[Tensor, Tensor]]:
        return [next(self.batches(10_000))]


def trained(rates: list[float] | None = None) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The user's training: ``FORK`` updates at constant rate, and then those of ``rates`` with the branch's seed."""
    mine = Training()
    model, optimizer = mine.build()
    batches = mine.batches(0)
    torch.manual_seed(1)
    for update in range(FORK + len(rates or [])):
        if update >= FORK and rates:
            if update == FORK:
                torch.manual_seed(FORK)
            optimizer.param_groups[0]["lr"] = rates[update - FORK]
        optimizer.zero_grad()
        mine.loss(model, next(batches)).backward()
        optimizer.step()
    return model, optimizer


@pytest.fixture(scope="module")
def saved() -> tuple[dict[str, Tensor], dict[str, Any]]:
    model, optimizer = trained()
    return model.state_dict(), optimizer.state_dict()


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    """The same cooldown written out by hand."""
    return trained([Training.lr * (1 - (k / LENGTH) ** 0.5) for k in range(LENGTH)])[0].state_dict()


def torch_file(folder: Path, saved: Any, names: tuple[str, str, str] = ("model", "optimizer", "update")) -> Path:
    torch.save(dict(zip(names, (*saved, FORK), strict=True)) | {"notes": "mine"}, folder / "last.pt")
    return folder / "last.pt"


def hugging_face(folder: Path, saved: Any) -> Path:
    """model.safetensors (tied weights once), optimizer.pt, trainer_state.json, and files of no concern."""
    made = folder / "checkpoint-20"
    made.mkdir()
    weights = {name: tensor for name, tensor in saved[0].items() if name != "head.weight"}
    save_file(weights, made / "model.safetensors", {"format": "pt"})
    torch.save(saved[1], made / "optimizer.pt")
    (made / "trainer_state.json").write_text(json.dumps({"global_step": FORK, "epoch": 1.5}))
    (made / "config.json").write_text('{"width": 4}')
    return made


def all_safetensors(folder: Path, saved: Any) -> Path:
    """Weights in two shards, and the optimizer in safetensors too."""
    made = folder / "step-20"
    made.mkdir()
    weights = {name: tensor for name, tensor in saved[0].items() if name != "head.weight"}
    for number, names in enumerate((list(weights)[:2], list(weights)[2:]), 1):
        save_file({n: weights[n] for n in names}, made / f"model-0000{number}-of-00002.safetensors", {"step": "20"})
    tensors, metadata = flatten(saved[1])
    save_file(tensors, made / "optimizer.safetensors", metadata)
    return made


def weights_of(path: Path) -> dict[str, Tensor]:
    if path.is_file():
        return torch.load(path, weights_only=True)["model"]
    files = sorted(path.glob("model*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("make", [torch_file, hugging_face, all_safetensors])
def test_the_result_has_the_same_format_and_the_right_weights(
    tmp_path: Path, saved: Any, expected: dict[str, Tensor], make: Any
) -> None:
    path = make(tmp_path, saved)
    before = {file.name: file.read_bytes() for file in (path.iterdir() if path.is_dir() else [path])}
    found = isoloss.branch(path, adapter=Training, length=LENGTH)
    assert isinstance(found, Outside)
    assert (found.fork, found.total, found.lr) == (FORK, FORK + LENGTH, [Training.lr])
    assert Path(found.path).parent == tmp_path
    written = weights_of(Path(found.path))
    assert written.keys() == weights_of(path).keys()
    assert all(torch.equal(written[name], expected[name]) for name in written)
    assert {file.name: file.read_bytes() for file in (path.iterdir() if path.is_dir() else [path])} == before
    if path.is_dir():
        assert {file.name for file in Path(found.path).iterdir()} == set(before)
    record = json.loads(Path(found.record).read_text())
    assert (record["fork"], len(record["losses"]), record["checkpoint"]) == (FORK, LENGTH, str(path))
    assert record["validation"]["after"] < record["validation"]["before"]
    # What was written is a checkpoint itself: of the same names, and 8 updates later.
    again = isoloss.branch(found.path, adapter=Training, length=1, out=path.with_name(f"again{path.suffix}"))
    assert isinstance(again, Outside)
    assert again.fork == FORK + LENGTH
    assert again.lr == [pytest.approx(Training.lr * (1 - (7 / 8) ** 0.5))]


def test_names_of_ones_own_and_parallel_prefixes(tmp_path: Path, saved: Any, expected: dict[str, Tensor]) -> None:
    class Named(Training):
        names: ClassVar = {"model": "net.weights", "optimizer": "opts.1", "update": "at"}

    parallel = {f"module.{name}": tensor for name, tensor in saved[0].items()}
    torch.save({"net": {"weights": parallel}, "opts": [{}, saved[1]], "at": FORK}, tmp_path / "mine.ckpt")
    found = isoloss.branch(tmp_path / "mine.ckpt", adapter=Named, length=LENGTH, out=tmp_path / "new.ckpt")
    assert (found.fork, found.length) == (FORK, LENGTH)
    written = torch.load(tmp_path / "new.ckpt", weights_only=True)
    assert written["at"] == FORK + LENGTH
    assert written["net"]["weights"].keys() == parallel.keys()
    assert all(
        torch.equal(tensor, expected[n.removeprefix("module.")]) for n, tensor in written["net"]["weights"].items()
    )
    assert written["opts"][1]["state"][0]["step"] == FORK + LENGTH


def test_an_optimizer_in_safetensors_comes_back_whole(saved: Any, tmp_path: Path) -> None:
    tensors, metadata = flatten(saved[1])
    save_file(tensors, tmp_path / "optimizer.safetensors", metadata)
    back = unflatten(load_file(tmp_path / "optimizer.safetensors"), metadata)
    assert json.dumps(back["param_groups"]) == json.dumps(saved[1]["param_groups"])
    assert back["state"].keys() == saved[1]["state"].keys()
    for number, entries in saved[1]["state"].items():
        assert all(torch.equal(back["state"][number][name], value) for name, value in entries.items())


def test_a_users_own_step_and_no_optimizer_state(tmp_path: Path, saved: Any) -> None:
    class Own(Training):
        names: ClassVar = {"optimizer": None}
        update = FORK
        seen: ClassVar[list[float]] = []

        def build(self) -> tuple[nn.Module, torch.optim.Optimizer]:
            model, _ = super().build()
            return model, torch.optim.SGD(model.parameters(), lr=0.5)

        def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> float:
            self.seen.append(optimizer.param_groups[0]["lr"])
            return 1.0

    torch.save({"model": saved[0]}, tmp_path / "w.pt")
    found = isoloss.branch(tmp_path / "w.pt", adapter=Own, length=4, cooldown="linear", final=0.2)
    assert Own.seen == pytest.approx([0.5, 0.4, 0.3, 0.2])
    assert isinstance(found, Outside)
    assert found.losses == [1.0] * 4


class Loud:
    """A class that pickle would have to import."""


def wrong(saved: Any, **changes: Any) -> dict[str, Any]:
    model, optimizer = copy.deepcopy(saved)
    for change in changes.values():
        change(model, optimizer)
    return {"model": model, "optimizer": optimizer, "update": FORK}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m, o: m.pop("norm.bias"), "the model needs 'norm.bias', missing there"),
        (lambda m, o: m.update(extra=torch.ones(1)), "it has 'extra', which the model has not"),
        (lambda m, o: m.update({"norm.bias": torch.ones(5)}), r"'norm.bias' has shape \(5,\); allowed: \(4,\)"),
        (lambda m, o: o["state"].pop(1), "its optimizer has no exp_avg, exp_avg_sq, step for 'norm.weight'"),
        (lambda m, o: o["state"][1].update(exp_avg=torch.ones(3)), r"exp_avg of 'norm.weight' has shape \(3,\)"),
        (lambda m, o: o["param_groups"][0].update(params=[0, 1]), r"groups of \[2\] parameters; allowed: \[3\]"),
        (lambda m, o: o["param_groups"][0].update(lr=0.0), "its learning rate is 0"),
        (lambda m, o: o.pop("state"), "no state_dict of a torch optimizer"),
        (lambda m, o: m.clear(), "no mapping of names to tensors"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, saved: Any, change: Any, words: str) -> None:
    torch.save(wrong(saved, change=change), tmp_path / "last.pt")
    with pytest.raises(StudyError, match=words):
        isoloss.branch(tmp_path / "last.pt", adapter=Training, length=2)
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_files_that_cannot_be_read(tmp_path: Path, saved: Any) -> None:
    torch.save({"model": saved[0], "args": Loud()}, tmp_path / "code.pt")
    with pytest.raises(StudyError, match=r"Loud\).*would run code.*safetensors.*save it anew"):
        isoloss.branch(tmp_path / "code.pt", adapter=Training)
    (tmp_path / "cut.pt").write_bytes(torch_file(tmp_path, saved).read_bytes()[:300])
    with pytest.raises(StudyError, match=r"cut.pt: cannot be read"):
        isoloss.branch(tmp_path / "cut.pt", adapter=Training)
    save_file({n: t for n, t in saved[0].items() if n != "head.weight"}, tmp_path / "alone.safetensors")
    (tmp_path / "broken.safetensors").write_bytes((tmp_path / "alone.safetensors").read_bytes()[:20])
    with pytest.raises(StudyError, match=r"broken.safetensors: cannot be read"):
        isoloss.branch(tmp_path / "broken.safetensors", adapter=Training)
    with pytest.raises(StudyError, match=r"no optimizer found.*None if it has no state"):
        isoloss.branch(tmp_path / "alone.safetensors", adapter=Training, at=3)
    torch.save({"model": saved[0], "optimizer": saved[1]}, tmp_path / "when.pt")
    with pytest.raises(StudyError, match="does not say how many updates"):
        isoloss.branch(tmp_path / "when.pt", adapter=Training)
    assert isoloss.branch(tmp_path / "when.pt", adapter=Training, at=FORK, length=1).fork == FORK


def without(name: str) -> Any:
    members = {key: getattr(Training, key) for key in ("build", "batches", "loss") if key != name}
    return type("Lacking", (), members)


class Endless(Training):
    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return super().loss(model, batch) * float("nan")


class Short(Training):
    def batches(self, update: int) -> Any:
        first = next(super().batches(update))
        return iter([first])


class Misnamed(Training):
    names: ClassVar = {"modle": "x"}


class Elsewhere(Training):
    names: ClassVar = {"model": "weights"}


class Broken(Training):
    def build(self) -> Any:
        raise KeyError("shape")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"adapter": None}, StudyError, "needs --adapter"),
        ({"adapter": "nowhere"}, StudyError, "allowed: package.module:attribute"),
        ({"adapter": "nowhere_at_all:Training"}, StudyError, "cannot import 'nowhere_at_all'"),
        ({"adapter": "json:loadz"}, StudyError, "has no attribute 'loadz'"),
        ({"adapter": without("loss")}, StudyError, "lacks loss"),
        ({"adapter": Broken}, StudyError, r"build\(\) raised KeyError"),
        ({"adapter": Misnamed}, StudyError, "found 'modle'.*did you mean 'model'"),
        ({"adapter": Elsewhere}, StudyError, "no 'weights' for the model.*found: model, optimizer, update, notes"),
        ({"adapter": Short}, StudyError, r"batches\(20\) ended after 1"),
        ({"adapter": Endless}, RunFailed, "diverged: its loss at update 20 is nan"),
        ({"at": 7}, StudyError, "--at: found 7; allowed: 20"),
        ({"cooldown": "lineer"}, StudyError, "did you mean 'linear'"),
        ({"run": "x"}, StudyError, "--run: found"),
        ({"store": "x"}, StudyError, "--store: found"),
        ({"out": "last.safetensors"}, StudyError, "ends in .pt"),
        ({"out": "no/such/folder/x.pt"}, StudyError, "there is no folder"),
    ],
)
def test_one_message_for_each_mistake(
    tmp_path: Path, saved: Any, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    path = torch_file(tmp_path, saved)
    with pytest.raises(error, match=words):
        isoloss.branch(path, **{"adapter": Training, "length": 4, **options})
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_overwritten(tmp_path: Path, saved: Any) -> None:
    path = torch_file(tmp_path, saved)
    isoloss.branch(path, adapter=Training, length=2)
    with pytest.raises(StudyError, match="exists already"):
        isoloss.branch(path, adapter=Training, length=2)
