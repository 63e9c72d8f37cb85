"""Models of images and the recurrent one: counts against published ones, literal twins, states that resume."""

from __future__ import annotations

import copy
import dataclasses
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from isoloss.models import (
    PARAMETRISATION,
    build,
    decayed,
    describe,
    has_batch_statistics,
    keeps_statistics,
    needs_whole_batch,
)
from isoloss.models.ladder import CONFIGS, FROM_DATA
from isoloss.recipe import catalogue

SHAPES = st.tuples(st.integers(1, 4), st.integers(7, 21), st.integers(7, 21))
IMAGE_SPECS = st.one_of(
    st.builds(
        lambda n, width, shortcut: {"family": "resnet", "depth": 6 * n + 2, "width": width, "shortcut": shortcut},
        st.integers(1, 3),
        st.integers(1, 9),
        st.sampled_from(["pad", "projection"]),
    ),
    st.builds(lambda width: {"family": "c1", "width": width}, st.integers(1, 9)),
    st.builds(
        lambda width, depth: {"family": "f1", "width": width, "depth": depth}, st.integers(1, 9), st.integers(1, 3)
    ),
)
ALL = [
    {"family": "f1", "width": 8, "depth": 2},
    {"family": "c1", "width": 4},
    {"family": "resnet", "depth": 8, "width": 4},
    {"family": "resnet", "depth": 8, "width": 4, "shortcut": "projection"},
]
LSTMS = [
    {"family": "lstm", "width": 12, "depth": 2, "dropout": 0.3},
    {"family": "lstm", "width": 12, "depth": 1, "tied": True},
]


def made(spec: dict[str, Any], shape: tuple[int, int, int] = (3, 9, 8), classes: int = 5, seed: int = 0) -> Any:
    return build(spec, vocabulary=classes, context=math.prod(shape), shape=shape, seed=seed)


def test_published_sizes() -> None:
    """He et al. 2016, table 6 (0.27M ... 1.7M parameters), and 40.8M multiply-adds of ResNet-20's 3x3 layers."""
    for depth, millions in ((20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.73)):
        facts = describe({"family": "resnet", "depth": depth}, vocabulary=10, context=3072, shape=(3, 32, 32))
        assert facts.total / 1e6 == pytest.approx(millions, abs=0.006)
    facts = describe({"family": "resnet", "depth": 20}, vocabulary=10, context=3072, shape=[3, 32, 32])
    assert facts.forward_flops_per_token / 2 == pytest.approx(40.8e6, rel=0.01)
    # 784-512x5-10: weights and biases of 6 layers, gain and shift of 5.
    facts = describe({"family": "f1"}, vocabulary=10, context=784, shape=(1, 28, 28))
    assert facts.total == 784 * 512 + 4 * 512 * 512 + 512 * 10 + 5 * 512 + 10 + 2 * 5 * 512
    # C1 as in the papers: 64 x 7 x 7 numbers enter the first of the hidden layers of 384 and 192.
    facts = describe({"family": "c1"}, vocabulary=10, context=3072, shape=(3, 32, 32))
    weights = 25 * 3 * 64 + 25 * 64 * 64 + 64 * 49 * 384 + 384 * 192
    assert (facts.matrices, facts.head, facts.scalars) == (weights, 1920, 2 * (64 + 64 + 384 + 192) + 10)


@settings(max_examples=40, deadline=None)
@given(spec=IMAGE_SPECS, shape=SHAPES, classes=st.integers(2, 12))
def test_closed_form_equals_the_built_model(spec: dict[str, Any], shape: tuple[int, int, int], classes: int) -> None:
    facts = describe(spec, vocabulary=classes, context=math.prod(shape), shape=shape)
    model = made(spec, shape, classes)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    assert facts.total == sum(sizes.values())
    assert facts.head == sizes["head.weight"]
    assert facts.scalars == sum(p.numel() for p in model.parameters() if p.ndim == 1)
    assert facts.embedding == 0
    with FlopCounterMode(display=False) as counter:
        logits = model(torch.randn(2, *shape))
    assert logits.shape == (2, classes)
    assert counter.get_total_flops() == 2 * facts.forward_flops_per_token


@settings(max_examples=20, deadline=None)
@given(width=st.integers(1, 20), depth=st.integers(1, 3), tied=st.booleans(), vocabulary=st.integers(2, 30))
def test_lstm_closed_form(width: int, depth: int, tied: bool, vocabulary: int) -> None:
    spec = {"family": "lstm", "width": width, "depth": depth, "tied": tied}
    facts = describe(spec, vocabulary=vocabulary, context=7)
    model = build(spec, vocabulary=vocabulary, context=7, seed=0)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    assert facts.total == sum(sizes.values())
    assert facts.matrices == sum(n for name, n in sizes.items() if name.startswith("layers.weight"))
    assert facts.scalars == sum(n for name, n in sizes.items() if name.startswith("layers.bias"))
    # On the CPU the layers run as one call that the counter does not know; on meta as their products.
    with FlopCounterMode(display=False) as counter:
        model.to("meta")(torch.zeros(2, 7, dtype=torch.int64, device="meta"))
    assert counter.get_total_flops() == 14 * facts.forward_flops_per_token


def test_lstm_is_the_recurrence_of_the_paper() -> None:
    model = build({"family": "lstm", "width": 6, "depth": 2, "dropout": 0.5}, vocabulary=11, context=5, seed=3)
    model = model.double().eval()
    tokens = torch.randint(11, (2, 5), generator=torch.Generator().manual_seed(0))
    x = model.embedding.weight[tokens]
    for layer in range(2):
        W, U, b, c = (
            getattr(model.layers, f"{kind}_l{layer}") for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        h = s = torch.zeros(2, 6, dtype=torch.float64)
        out = []
        for t in range(5):
            i, f, g, o = (x[:, t] @ W.T + b + h @ U.T + c).chunk(4, -1)
            s = f.sigmoid() * s + i.sigmoid() * g.tanh()
            h = o.sigmoid() * s.tanh()
            out.append(h)
        x = torch.stack(out, 1)
    torch.testing.assert_close(model(tokens), x @ model.head.weight.T)
    assert (model.layers.bias_ih_l1[6:12] == 1).all()
    assert model.layers.bias_ih_l1.sum() == 6


def literal_resnet(model: Any, images: torch.Tensor, shortcut: str) -> torch.Tensor:
    """Evaluation written with one loop over filters and no module's forward."""

    def norm(x: torch.Tensor, layer: Any) -> torch.Tensor:
        scale = layer.weight / (layer.running_var + 1e-5).sqrt()
        return x * scale[:, None, None] + (layer.bias - layer.running_mean * scale)[:, None, None]

    def conv(x: torch.Tensor, layer: Any) -> torch.Tensor:
        size, stride = layer.kernel_size[0], layer.stride[0]
        padded = F.pad(x, (size // 2,) * 4)
        windows = padded.unfold(2, size, stride).unfold(3, size, stride)
        return torch.einsum("nchwyx,fcyx->nfhw", windows, layer.weight)

    x = norm(conv(images, model.conv), model.norm).clamp(min=0)
    for block in model.blocks:
        h = norm(conv(x, block.conv1), block.norm1).clamp(min=0)
        h = norm(conv(h, block.conv2), block.norm2)
        if x.shape != h.shape and shortcut == "projection":
            x = norm(conv(x, block.projection), block.projection_norm)
        elif x.shape != h.shape:
            thin = x[:, :, ::2, ::2]
            x = torch.cat([thin, torch.zeros(len(x), h.shape[1] - x.shape[1], *thin.shape[2:]).double()], 1)
        x = (x + h).clamp(min=0)
    return x.flatten(2).mean(2) @ model.head.weight.T + model.head.bias


@pytest.mark.parametrize("shortcut", ["pad", "projection"])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 7, 9)])
def test_resnet_is_what_the_paper_draws(shortcut: str, shape: tuple[int, int, int]) -> None:
    model = made({"family": "resnet", "depth": 14, "width": 3, "shortcut": shortcut}, shape).double()
    images = torch.randn(6, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for _ in range(3):
        model(images)  # moves the running statistics away from where they begin
    model.eval()
    torch.testing.assert_close(model(images), literal_resnet(model, images, shortcut))
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == 14 + 2 * (shortcut == "projection")


@pytest.mark.parametrize("spec", [*ALL, *LSTMS], ids=str)
def test_initialisation_is_a_function_of_the_seed_alone(spec: dict[str, Any]) -> None:
    def state(seed: int) -> dict[str, torch.Tensor]:
        return made(spec, seed=seed).state_dict()

    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = state(5)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = state(5), state(6)
    assert all(torch.equal(first[name], again[name]) for name in first)
    for name, value in first.items():
        if value.ndim >= 2:
            assert not torch.equal(value, other[name])
        if value.is_floating_point():
            assert value.dtype == torch.float32
            assert torch.isfinite(value).all()


def test_initialisation_has_the_variances_of_he() -> None:
    model = made({"family": "resnet", "depth": 14, "width": 32, "shortcut": "projection"}, (3, 16, 16), 10)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            wanted = math.sqrt(2 / (layer.out_channels * layer.kernel_size[0] ** 2))
            assert layer.weight.std().item() == pytest.approx(wanted, rel=5 / math.sqrt(layer.weight.numel())), name
    assert model.head.weight.std().item() == pytest.approx(128**-0.5, rel=0.1)
    assert model.head.bias.abs().max() == 0
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        assert (norm.weight == 1).all()
        assert (norm.bias == 0).all()


@pytest.mark.parametrize("spec", ALL, ids=str)
def test_training_resumes_to_the_bit_from_the_state_dict(spec: dict[str, Any]) -> None:
    """Running statistics are part of the state: without them, evaluation after a resume would differ."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 3, 9, 8, generator=generator), torch.randint(5, (12,), generator=generator)

    def train(model: Any, updates: range) -> None:
        for update in updates:
            torch.manual_seed(update)
            for p, g in zip(
                model.parameters(), torch.autograd.grad(F.cross_entropy(model(x), y), model.parameters()), strict=True
            ):
                p.data -= 0.1 * g

    whole, first, second = made(spec), made(spec), made(spec, seed=9)
    train(whole, range(6))
    train(first, range(3))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(second, range(3, 6))
    for a, b in zip(whole.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(whole.eval()(x), second.eval()(x))
    kept = {name for name in whole.state_dict() if "running" in name}
    assert kept
    assert kept <= {name for name, _ in whole.named_buffers()}


def test_mlp_and_f1_read_images_as_vectors() -> None:
    images = torch.randn(4, 3, 9, 8)
    for family in ("mlp", "f1"):
        model = build({"family": family, "width": 6, "depth": 2}, vocabulary=5, context=216, seed=0).eval()
        assert torch.equal(model(images), model(images.reshape(4, 216)))


def test_who_needs_the_whole_batch() -> None:
    methods = pytest.importorskip("isoloss.methods.ghost_batchnorm")
    shape = (3, 9, 8)
    others = [{"family": "mlp", "width": 4, "depth": 1}, {"family": "gpt", "width": 16, "depth": 1}, *LSTMS]
    for spec, wanted in [*((s, True) for s in ALL), *((s, False) for s in others)]:
        given_by_data = {"vocabulary": 5, "context": 216, "shape": shape}
        model = build(spec, seed=0, **given_by_data)
        assert has_batch_statistics(model) is wanted
        assert needs_whole_batch(spec, **given_by_data) is wanted
        assert keeps_statistics(spec, **given_by_data) is wanted
        if wanted:
            assert not has_batch_statistics(methods.convert(model, 4))
            assert not has_batch_statistics(
                nn.SyncBatchNorm.convert_sync_batchnorm(build(spec, seed=0, **given_by_data))
            )
    assert has_batch_statistics(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)))
    assert not has_batch_statistics(nn.Sequential(nn.GroupNorm(1, 2), nn.InstanceNorm2d(2), nn.LayerNorm(2)))


OWN = """
from torch import nn

class Net(nn.Module):
    def __init__(self, vocabulary, shape, width=4):
        super().__init__()
        self.conv = nn.Conv2d(shape[0], width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.out = nn.Linear(width, vocabulary)
        self.last = nn.BatchNorm1d(vocabulary)

    def forward(self, x):
        return self.last(self.out(self.norm(self.conv(x)).mean((2, 3))))
"""


def test_own_model_of_images_is_built_and_counted(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_image_model.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_image_model", raising=False)
    spec, data = {"name": "own_image_model:Net"}, {"vocabulary": 5, "context": 216, "shape": (3, 9, 8)}
    facts = describe(spec, **data)
    assert facts.forward_flops_per_token == 2 * (27 * 4 * 72 + 4 * 5)
    assert (facts.matrices, facts.head) == (108, 20)
    assert needs_whole_batch(spec, **data)
    assert keeps_statistics(spec, **data)
    assert build(spec, seed=0, **data)(torch.zeros(2, 3, 9, 8)).shape == (2, 5)


@pytest.mark.parametrize(
    ("spec", "shape", "message"),
    [
        ({"family": "resnet", "depth": 21}, (3, 9, 9), r"depth is 21; allowed: 6 n \+ 2 \(nearest: 20 and 26\)"),
        ({"family": "resnet", "depth": 2}, (3, 9, 9), r"depth is 2; .*nearest: 8 and 14"),
        ({"family": "resnet"}, (3, 9, 9), "depth is missing"),
        ({"family": "resnet", "depth": 8, "shortcut": "paddle"}, (3, 9, 9), r"did you mean 'pad'"),
        ({"family": "resnet", "depth": 8}, None, "reads images .*216 numbers without a shape"),
        ({"family": "resnet", "depth": 8}, (3, 9), "shape of an image is"),
        ({"family": "c1"}, (3, 6, 9), "images of 6x9; allowed: at least 7"),
        ({"family": "c1", "dropout": 1.0}, (3, 9, 9), "dropout is 1.0"),
        ({"family": "c1", "depth": 3}, (3, 9, 9), "unknown option 'depth'"),
        ({"family": "f1", "width": 0}, (3, 9, 9), "width is 0"),
        ({"family": "lstm", "width": 4}, None, "depth is missing"),
        ({"family": "lstm", "width": 4, "depth": 1, "tied": 1}, None, "tied is 1"),
    ],
)
def test_wrong_options_are_one_message(spec: dict[str, Any], shape: Any, message: str) -> None:
    for use in (describe, needs_whole_batch, lambda *a, **k: build(*a, seed=0, **k)):
        with pytest.raises(ValueError, match=message):
            use(spec, vocabulary=5, context=216, shape=shape)


def test_the_catalogue_has_the_options_of_every_family() -> None:
    closed = {name for name in catalogue.names("model") if "open" not in catalogue.get("model", name).tags}
    assert closed == set(CONFIGS)
    for name, config in CONFIGS.items():
        fields = {f.name: f.default for f in dataclasses.fields(config) if f.name not in FROM_DATA}
        options = {
            option.name: dataclasses.MISSING if option.required else option.default
            for option in catalogue.get("model", name).options
            if option.name not in PARAMETRISATION
        }
        assert options == fields


def test_decay_belongs_to_filters_and_matrices() -> None:
    for spec in [*ALL, *LSTMS]:
        for name, parameter in made(spec).named_parameters():
            assert decayed(name, parameter) == (parameter.ndim >= 2 and not name.startswith("embedding")), name


def test_planning_needs_no_torch() -> None:
    code = (
        "import sys; from isoloss.models import describe, needs_whole_batch\n"
        "for spec in ({'family': 'resnet', 'depth': 20}, {'family': 'c1'}, {'family': 'f1'}):\n"
        "    describe(spec, vocabulary=10, context=3072, shape=(3, 32, 32))\n"
        "    assert needs_whole_batch(spec, vocabulary=10, context=3072, shape=(3, 32, 32))\n"
        "describe({'family': 'lstm', 'width': 8, 'depth': 1}, vocabulary=10, context=8)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("spec", [*ALL, *LSTMS], ids=str)
@pytest.mark.parametrize("precision", ["autocast", "bf16"])
def test_low_precision_runs_forwards_and_backwards(spec: dict[str, Any], precision: str) -> None:
    model = made(spec)
    tokens = spec["family"] == "lstm"
    inputs = torch.randint(5, (4, 6)) if tokens else torch.randn(4, 3, 9, 8)
    if precision == "bf16":
        model = model.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        logits = model(inputs)
    logits.float().logsumexp(-1).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def learn(spec: dict[str, Any], source: Any, updates: int, batch: int, lr: float) -> float:
    """Accuracy on 256 images of part B after SGD with momentum and a linear decay."""
    data = {"vocabulary": source.vocabulary, "context": source.features, "shape": source.shape}
    model = build(spec, seed=0, **data)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True)
    torch.manual_seed(0)
    for update in range(updates):
        x, y = map(torch.from_numpy, source.batch(0, update * batch, batch))
        optimizer.param_groups[0]["lr"] = lr * (1 - update / updates)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    x, y = source.validation("B", 256)
    with torch.inference_mode():
        return float(np.mean(model.eval()(torch.from_numpy(x)).argmax(1).numpy() == y))


@pytest.mark.parametrize(
    ("spec", "updates", "lr"),
    [
        ({"family": "f1", "width": 64, "depth": 2}, 80, 0.1),
        ({"family": "c1", "width": 16}, 150, 0.1),
        ({"family": "resnet", "depth": 8, "width": 8}, 80, 0.1),
    ],
    ids=str,
)
def test_digits_are_learnt_within_seconds(spec: dict[str, Any], updates: int, lr: float) -> None:
    pytest.importorskip("sklearn")
    from isoloss.data import open_source

    assert learn(spec, open_source({"source": "digits"}), updates, 64, lr) > 0.85


def test_fashion_mnist_is_learnt_within_seconds(shared_data: Any) -> None:
    from isoloss.data import open_source

    spec = {"source": "idx", "path": str(shared_data / "fashion-mnist"), "crop": 2, "flip": True}
    source = open_source(spec)
    assert learn({"family": "resnet", "depth": 8, "width": 8}, source, 120, 64, 0.1) > 0.6
    halves = open_source({**spec, "classes": "5-9", "crop": 0})
    assert learn({"family": "f1", "width": 64, "depth": 2}, halves, 60, 64, 0.1) > 0.85


def test_lstm_learns_a_chain(tmp_path: Any) -> None:
    """Nearer to the entropy rate than to what the frequencies of symbols alone allow."""
    from isoloss.data import open_source

    source = open_source({"source": "synthetic", "order": 1, "vocabulary": 8, "context": 16}, tmp_path)
    model = build({"family": "lstm", "width": 32, "depth": 1}, vocabulary=8, context=16, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for update in range(150):
        batch = torch.from_numpy(source.batch(0, update * 16, 16, 16))
        optimizer.zero_grad()
        F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()).backward()
        optimizer.step()
    held_out = torch.from_numpy(source.validation("B", 8192, 16))
    loss = F.cross_entropy(model(held_out[:, :-1]).flatten(0, 1), held_out[:, 1:].flatten()).item()
    unigram, rate = source.chain.entropies()
    assert rate - 0.02 < loss < rate + 0.3 * (unigram - rate)
