"""Building and describing: determinism, a user's own models, weight decay, messages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from isoloss.models import build, decayed, describe, keep_freed_memory
from isoloss.recipe.errors import StudyError

SPECS = [
    {"family": "gpt", "width": 32, "depth": 2},
    {
        "family": "gpt",
        "width": 16,
        "depth": 1,
        "mlp": "gelu",
        "tied": True,
        "mlp_ratio": None,
        "version": None,
    },
    {"family": "mlp", "width": 8, "depth": 2},
]

OWN = """
import torch
from torch import nn

class Bag(nn.Module):
    def __init__(self, vocabulary, width=8, layers=1):
        super().__init__()
        self.wte = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.lm_head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens):
        x = self.wte(tokens).cumsum(1)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.lm_head(x)

def number(context):
    return 3

LIMIT = 4
"""


@pytest.fixture()
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_model_for_test.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_model_for_test", raising=False)
    return "own_model_for_test"


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize("spec", SPECS)
def test_initialisation_is_a_function_of_the_seed_alone(spec: dict[str, Any]) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = weights(build(spec, vocabulary=20, context=8, seed=5))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(first, weights(build(spec, vocabulary=20, context=8, seed=5)))
    assert not torch.equal(first, weights(build(spec, vocabulary=20, context=8, seed=6)))
    assert first.dtype == torch.float32
    assert torch.isfinite(first).all()


def test_context_does_not_change_the_weights() -> None:
    spec = SPECS[0]
    short, long = (weights(build(spec, vocabulary=20, context=c, seed=0)) for c in (8, 64))
    assert torch.equal(short, long)


def test_own_model_is_built_and_counted(own: str) -> None:
    spec = {"name": f"{own}:Bag", "layers": 2, "version": None}
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    model = build(spec, vocabulary=30, context=6, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(weights(model), weights(build(spec, vocabulary=30, context=6, seed=3)))
    facts = describe(spec, vocabulary=30, context=6)
    assert (facts.embedding, facts.matrices, facts.head, facts.scalars) == (240, 128, 240, 16)
    assert facts.forward_flops_per_token == 2 * (128 + 240)
    assert model(torch.zeros(2, 6, dtype=torch.int64)).shape == (2, 6, 30)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"family": "gtp", "width": 16, "depth": 1}, ["'gtp'", "did you mean 'gpt'"]),
        ({"family": "gpt", "width": 16}, ["depth is missing"]),
        ({"family": "gpt", "width": 16, "depht": 1}, ["depht", "did you mean 'depth'"]),
        ({"family": "gpt", "width": 24, "depth": 1}, ["width 24", "head_size 16", "16 and 32"]),
        ({"family": "gpt", "width": 8, "depth": 1}, ["nearest widths are 16 and 32"]),
        ({"family": "gpt", "width": 15, "depth": 1, "head_size": 3}, ["head_size is 3", "even"]),
        ({"family": "gpt", "width": 0, "depth": 1}, ["width is 0", "at least 1"]),
        ({"family": "gpt", "width": 16.0, "depth": 1}, ["width is 16.0", "integer"]),
        ({"family": "gpt", "width": 16, "depth": 1, "mlp": "swish"}, ["'swish'", "swiglu, gelu"]),
        ({"family": "gpt", "width": 16, "depth": 1, "mlp_ratio": -1}, ["mlp_ratio is -1", "(0, 64]"]),
        ({"family": "gpt", "width": 16, "depth": 1, "tied": "yes"}, ["tied is 'yes'"]),
        ({"family": "mlp", "width": 4, "depth": True}, ["depth is True"]),
    ],
)
@pytest.mark.parametrize("use", [describe, lambda *a, **k: build(*a, seed=0, **k)])
def test_wrong_options_are_one_message(use: Any, spec: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        use(spec, vocabulary=10, context=4)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("Bag", {"widht": 4}, ValueError, ["'widht'", "did you mean 'width'"]),
        ("Bug", {}, StudyError, ["Bug"]),
        ("LIMIT", {}, ValueError, ["is a int", "class or function"]),
        ("number", {}, ValueError, ["returned int", "torch.nn.Module"]),
    ],
)
def test_own_model_messages(
    own: str, name: str, options: dict[str, Any], error: type[Exception], words: list[str]
) -> None:
    with pytest.raises(error) as caught:
        describe({"name": f"{own}:{name}", **options}, vocabulary=10, context=4)
    for word in words:
        assert word in str(caught.value)


def test_decay_belongs_to_matrices_and_untied_heads(own: str) -> None:
    def names(spec: dict[str, Any]) -> set[str]:
        model = build(spec, vocabulary=20, context=8, seed=0)
        return {n for n, p in model.named_parameters() if decayed(n, p)}

    block = {"blocks.0.qkv.weight", "blocks.0.out.weight", "blocks.0.up.weight", "blocks.0.down.weight"}
    assert names({"family": "gpt", "width": 16, "depth": 1}) == block | {"head.weight"}
    assert names({"family": "gpt", "width": 16, "depth": 1, "tied": True}) == block
    assert names({"family": "mlp", "width": 8, "depth": 1}) == {"hidden.0.weight", "head.weight"}
    assert names({"name": f"{own}:Bag"}) == {"layers.0.weight", "lm_head.weight"}


def test_planning_needs_no_torch() -> None:
    code = (
        "import sys; from isoloss.models import describe; "
        "[describe({'family': 'gpt', 'width': 16 * w, 'depth': 2}, vocabulary=256, context=64)"
        " for w in range(1, 99)]; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_mlp_separates_blobs() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 6, generator=generator) * 3
    classes = torch.randint(4, (512,), generator=generator)
    vectors = centres[classes] + torch.randn(512, 6, generator=generator)
    model = build({"family": "mlp", "width": 32, "depth": 2}, vocabulary=4, context=6, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(vectors), classes).backward()
        optimizer.step()
    nearest_centre = torch.cdist(vectors, centres).argmin(1)
    bayes = (nearest_centre == classes).float().mean()
    assert (model(vectors).argmax(1) == classes).float().mean() >= bayes - 0.02


def test_memory_setting_changes_no_result() -> None:
    a = torch.randn(700, 700, generator=torch.Generator().manual_seed(0))
    before = (a @ a).exp().sum()
    assert keep_freed_memory() == sys.platform.startswith("linux")
    assert torch.equal((a @ a).exp().sum(), before)
