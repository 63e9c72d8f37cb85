"""Images that other packages bring: scikit-learn's digits, Hugging Face datasets, torchvision. All are extras."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from isoloss.data.cache import cache_folder
from isoloss.data.image_files import pictures, remembered
from isoloss.data.images import Decoded, ImageSource, Pixels, make_source
from isoloss.data.options import boolean, integer, paths
from isoloss.recipe.errors import StudyError, nearest


def open_digits(spec: Mapping[str, Any], cache: Path | None = None) -> ImageSource:
    """``digits``: 1,797 grey 8x8 images of handwritten digits, 17 levels, which scikit-learn carries.

    Source: the test part of Optical Recognition of Handwritten Digits (Alpaydin and Kaynak 1998, UCI). It has no test
    images of its own here: 0.3 is held out unless ``holdout`` says otherwise.
    """

    def decode() -> Decoded:
        try:
            version = metadata.version("scikit-learn")
        except metadata.PackageNotFoundError as error:
            raise StudyError("data.source: 'digits' comes with scikit-learn: pip install 'isoloss[digits]'") from error
        return remembered("digits", {"scikit-learn": version}, _read_digits, cache)

    return make_source("digits", spec, decode, holdout=0.3)


def _read_digits() -> tuple[Pixels, None, tuple[str, ...]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise StudyError(f"data.source: 'digits' cannot import scikit-learn: {error}") from error
    x, y = load_digits(return_X_y=True)
    return Pixels(x.reshape(-1, 1, 8, 8).astype(np.uint8), y.astype(np.int64)), None, tuple(map(str, range(10)))


def open_huggingface(spec: Mapping[str, Any], cache: Path | None = None) -> ImageSource:
    """``huggingface``: an image data set of the Hub (``dataset``, ``config``) or saved on disk (``path``).

    ``train``, ``test``: names of the splits; without a test split, a part is held out. ``image``, ``label``: names of
    the columns. ``side``: as in ``image-folder``. Needs the package ``datasets``.
    """
    side = _side(spec)
    name, places = _text(spec, "dataset"), paths(spec, "path")
    if (name is None) == (not places) or len(places) > 1:
        raise StudyError("data.dataset: give either the name of a data set of the Hub or a path it was saved to")
    train, image, label = (_text(spec, key) or key for key in ("train", "image", "label"))
    test = _text(spec, "test")

    def decode() -> Decoded:
        try:
            import datasets
        except ImportError as error:
            raise StudyError(
                f"data.source: 'huggingface' needs the package datasets ({error}): pip install 'isoloss[datasets]'"
            ) from error
        try:
            found = datasets.load_from_disk(places[0]) if places else datasets.load_dataset(name, _text(spec, "config"))
        except Exception as error:  # the package raises whatever its loaders raise
            raise StudyError(f"data.dataset: cannot open {places[0] if places else name}: {error}") from error
        splits = dict(found) if isinstance(found, datasets.DatasetDict) else {train: found}
        held_out = test or ("test" if "test" in splits else None)
        for split in (train, *([held_out] if held_out else [])):
            _named("split", split, splits)
            for column in (image, label):
                _named("column", column, splits[split].column_names)
        fingerprints = [splits[split]._fingerprint for split in (train, held_out) if split]
        classes = tuple(getattr(splits[train].features[label], "names", None) or ())
        inputs = {"fingerprints": fingerprints, "columns": [image, label], "side": side}

        def part(split: str) -> Pixels:
            rows = splits[split]
            return Pixels(pictures(rows[image], side), np.asarray(rows[label], dtype=np.int64))

        return remembered(
            "huggingface", inputs, lambda: (*_alike(part(train), part(held_out) if held_out else None), classes), cache
        )

    own = ("dataset", "config", "path", "train", "test", "image", "label", "side")
    return make_source("huggingface", spec, decode, own=own)


def open_torchvision(spec: Mapping[str, Any], cache: Path | None = None) -> ImageSource:
    """``torchvision``: a classification set of ``torchvision.datasets`` by the name of its class (``dataset``).

    ``path``: its root folder (default: below the cache); ``download``: fetch what is missing; ``side``: as in
    ``image-folder``.
    """
    side, download = _side(spec), boolean(spec, "download", False)
    name, places = _text(spec, "dataset"), paths(spec, "path")
    if name is None:
        raise StudyError("data.dataset: missing; allowed: the name of a class in torchvision.datasets, as in CIFAR10")
    root = places[0] if places else str(cache_folder(cache) / "torchvision")

    def decode() -> Decoded:
        try:
            from torchvision import datasets
        except (ImportError, RuntimeError) as error:  # a build for another torch fails with RuntimeError
            raise StudyError(
                f"data.source: 'torchvision' needs torchvision, built for the installed torch ({error}): "
                "pip install 'isoloss[torchvision]'"
            ) from error
        _named("dataset", name, datasets.__all__)
        made = getattr(datasets, name)
        parameters = inspect.signature(made).parameters
        by_split = {"train": ("train", True, False), "split": ("split", "train", "test")}
        way = next((by_split[key] for key in by_split if key in parameters), None)
        if way is None:
            raise StudyError(f"data.dataset: torchvision.datasets.{name} has no training and test part")
        extra = {"download": download} if "download" in parameters else {}

        def read() -> tuple[Pixels, Pixels | None, tuple[str, ...]]:
            try:
                train, test = (made(root=root, **{way[0]: value}, **extra) for value in way[1:])
                parts = [list(zip(*part, strict=True)) for part in (train, test)]
            except Exception as error:  # torchvision raises RuntimeError for missing files, and others
                raise StudyError(f"data.dataset: torchvision.datasets.{name} at {root}: {error}") from error
            found = [Pixels(pictures(images, side), np.asarray(y, dtype=np.int64)) for images, y in parts]
            return (*_alike(*found), tuple(map(str, getattr(train, "classes", ()))))

        import torchvision

        inputs = {"dataset": name, "root": str(Path(root).resolve()), "side": side, "of": torchvision.__version__}
        return remembered("torchvision", inputs, read, cache)

    return make_source("torchvision", spec, decode, own=("dataset", "path", "download", "side"))


def _alike(train: Pixels, test: Pixels | None) -> tuple[Pixels, Pixels | None]:
    """Grey in both parts or colour in both."""
    if test is None or train.x.shape[1] == test.x.shape[1]:
        return train, test
    return tuple(Pixels(np.repeat(p.x, 3, axis=1) if p.x.shape[1] == 1 else p.x, p.y) for p in (train, test))  # type: ignore[return-value]


def _side(spec: Mapping[str, Any]) -> int | None:
    return None if spec.get("side") is None else integer(spec, "side", None, 1, 4096)


def _text(spec: Mapping[str, Any], name: str) -> str | None:
    value = spec.get(name)
    if value is not None and (not isinstance(value, str) or not value):
        raise StudyError(f"data.{name}: found {value!r}; allowed is text")
    return value


def _named(what: str, name: str, known: Any) -> None:
    if name not in known:
        raise StudyError(f"data.{what}: found {name!r}{nearest(name, known)}; allowed: {', '.join(known)}")
