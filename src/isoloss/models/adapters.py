"""Models of other packages by name: `timm:NAME` (extra `isoloss[timm]`), imported only when asked for.

The family `transformers` is in `hugging_face`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from isoloss.models import hugging_face
from isoloss.recipe.errors import StudyError, nearest

PREFIX = "timm:"


def is_timm(name: str) -> bool:
    """Whether ``name`` asks for a model of timm."""
    return name.startswith(PREFIX)


def library_version(name: str | None) -> str | None:
    """What stands for the code of an adapted model in keys: "timm 1.0.20"; None for a name that is no adapter's.

    ``name``: a model's name or family. Raises StudyError where the package is missing.
    """
    if name == hugging_face.FAMILY:
        return hugging_face.version()
    return f"timm {_timm().__version__}" if name and is_timm(name) else None


def timm_model(name: str, vocabulary: int, shape: tuple[int, int, int] | None) -> Callable[..., Any]:
    """The function that makes the model ``timm:NAME`` for images ``shape`` (C, H, W) of ``vocabulary`` classes.

    It takes the further options of `timm.create_model` (`img_size`, `drop_rate`, `pretrained` ...). Raises StudyError
    where timm cannot be imported or does not have the model, ValueError for data that are no images.
    """
    timm, architecture = _timm(), name.removeprefix(PREFIX)
    if not timm.is_model(architecture):
        raise StudyError(f"model: {name}: timm has no such model{nearest(architecture, timm.list_models())}")
    if shape is None:
        raise ValueError(f"model: {name} reads images (C, H, W), but the data give no shape")
    return partial(timm.create_model, architecture, num_classes=vocabulary, in_chans=shape[0])


def _timm() -> Any:
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # a torchvision for another torch fails with RuntimeError
        raise StudyError(
            f"model: timm:NAME needs timm, and the torchvision that belongs to the installed torch ({error}): "
            "pip install 'isoloss[timm]'"
        ) from error
    return timm
