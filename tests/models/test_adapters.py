"""Models of timm by name; where timm or its torchvision does not import, the message and nothing else."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch

from isoloss.models import build, describe, library_version, needs_whole_batch
from isoloss.recipe.errors import StudyError

DATA = {"vocabulary": 5, "context": 3072, "shape": (3, 32, 32)}


@pytest.fixture()
def timm() -> ModuleType:
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm does not import here: {error}")
    return timm


def test_other_names_are_nobodys() -> None:
    assert library_version(None) is None
    assert library_version("my_package.timm:Model") is None


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    for use in (describe, lambda *a, **k: build(*a, seed=0, **k)):
        with pytest.raises(StudyError, match=r"timm:NAME needs timm.*isoloss\[timm\]"):
            use({"name": "timm:resnet18"}, **DATA)


def test_a_model_is_built_counted_and_addressed(timm: ModuleType) -> None:
    spec = {"name": "timm:resnet18", "drop_rate": 0.1}
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    model = build(spec, seed=3, **DATA)
    assert torch.equal(torch.random.get_rng_state(), before)
    again = build(spec, seed=3, **DATA)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    facts = describe(spec, **DATA)
    assert facts.total == sum(p.numel() for p in model.parameters())
    assert facts.total == 11_176_512 + 512 * 5 + 5  # torchvision's ResNet-18 without its head
    # 1.8 G multiply-adds at 224 pixels, less by the area.
    assert facts.forward_flops_per_token / 2 == pytest.approx(1.814e9 * (32 / 224) ** 2, rel=0.05)
    assert needs_whole_batch(spec, **DATA)
    assert library_version("timm:resnet18") == f"timm {timm.__version__}"


def test_wrong_names_and_data_are_one_message(timm: ModuleType) -> None:
    with pytest.raises(StudyError, match=r"no such model \(did you mean 'resnet18"):
        describe({"name": "timm:resnet1q8"}, **DATA)
    with pytest.raises(ValueError, match="reads images"):
        describe({"name": "timm:resnet18"}, vocabulary=5, context=16)
