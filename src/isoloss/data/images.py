"""Labelled images as a source: which are trained on, in which order, normalised and augmented.

One order of a pool of samples decides everything that is chosen from it: the samples are permuted by a key, and
each gets the place (rank within its class + 1/2) / (size of its class). Sorted by place, every prefix holds the
classes in proportion, and a shorter prefix is part of a longer one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from isoloss.data.augment import NONE, Augmentation
from isoloss.data.options import boolean, integer, number, refuse_unknown
from isoloss.data.permutation import permute, sample_order
from isoloss.data.size import sample_limit
from isoloss.recipe.canonical import digest as canonical_digest
from isoloss.recipe.errors import StudyError

SEMANTICS = 1
"""Raised when the same images and options give other batches."""

OPTIONS = ("holdout", "classes", "crop", "flip", "cutout", "fill")
"""Options that every image source knows."""


@dataclass(frozen=True)
class Pixels:
    """Images as they were stored: ``x`` uint8 or float32 (n, C, H, W), ``y`` int64 (n,)."""

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Decoded:
    """A data set: ``test`` is None where it has no images of its own for that; ``content``: hash of all of it."""

    train: Pixels
    test: Pixels | None
    content: str
    names: tuple[str, ...] = ()
    """Names of the classes, where the data set has any."""


def proportional_order(y: np.ndarray, key: str) -> np.ndarray:
    """The samples of labels ``y`` (n,) in the order described above: int64 (n,)."""
    n = len(y)
    if n == 0:
        return np.empty(0, dtype=np.int64)
    shuffled = permute(key, np.arange(n), n)
    labels = y[shuffled]
    place = (ranks(labels) + 0.5) / np.bincount(labels)[labels]
    return shuffled[np.argsort(place, kind="stable")]


def ranks(labels: np.ndarray) -> np.ndarray:
    """How many samples of the same class stand before each: int64 (n,)."""
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    firsts = np.cumsum(counts) - counts
    found = np.empty(len(labels), dtype=np.int64)
    found[by_class] = np.arange(len(labels)) - firsts[labels[by_class]]
    return found


def channel_statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel of (n, C, H, W), float64 (C,); exact sums for uint8.

    A channel without variation gets 1, so that it becomes 0.
    """
    channels = x.shape[1]
    mean, deviation = np.empty(channels), np.empty(channels)
    for c in range(channels):
        if x.dtype == np.uint8:
            counts = np.bincount(x[:, c].reshape(-1), minlength=256)
            values = np.arange(256, dtype=np.float64)
            mean[c] = (counts * values).sum() / counts.sum()
            variance = (counts * (values - mean[c]) ** 2).sum() / counts.sum()
        else:
            mean[c] = x[:, c].mean(dtype=np.float64)
            variance = np.square(x[:, c] - mean[c], dtype=np.float64).mean()
        deviation[c] = math.sqrt(variance) or 1.0
    return mean, deviation


@dataclass(repr=False)
class ImageSource:
    """Labelled images; batches are (x float32 (count, C, H, W), y int64 (count,)).

    ``chosen``: classes in use, renumbered 0, 1, ... in that order, or None for all; ``holdout``: share held out for
    validation where the data set has no test images; ``limit``: unique training images (``size:``), or None.
    Channels are brought to mean 0 and variance 1 by constants of all training images, whatever classes and size
    are in use, so that arms that differ in those see a picture alike.
    """

    name: str
    decoded: Decoded
    chosen: tuple[int, ...] | None = None
    holdout: float = 0.1
    augmentation: Augmentation = NONE
    size: str | None = None
    bytes_per_token: float = math.nan
    kind: Literal["vectors"] = "vectors"
    digest: str = field(init=False)
    vocabulary: int = field(init=False)
    train_size: int = field(init=False)

    def __post_init__(self) -> None:
        data = self.decoded
        known = 1 + max(int(part.y.max()) for part in (data.train, data.test) if part is not None)
        if self.chosen is not None and not (len(self.chosen) >= 2 and max(self.chosen) < known):
            raise StudyError(
                f"data.classes: found {len(self.chosen)} classes up to {max(self.chosen)}; {self.name} "
                f"allows at least two of 0 to {known - 1}"
            )
        used = tuple(range(known)) if self.chosen is None else self.chosen
        self.vocabulary = len(used)
        self._number = np.full(known, -1, dtype=np.int64)
        self._number[list(used)] = np.arange(len(used))
        self._pools = self._split()
        available = len(self._pools["train"][1])
        limit = sample_limit(self.size, available)
        self.train_size = available if limit is None else limit
        mean, deviation = channel_statistics(self._training_pixels())
        self._mean, self._deviation = mean, deviation
        self._shift = mean.astype(np.float32)[:, None, None]
        self._scale = (1.0 / deviation).astype(np.float32)[:, None, None]
        augmentation = self.augmentation
        self.digest = canonical_digest(
            {
                "source": "images",
                "semantics": SEMANTICS,
                "content": data.content,
                "classes": None if self.chosen is None else list(self.chosen),
                "holdout": None if data.test is not None else self.holdout,
                "limit": None if limit is None or limit == available else limit,
                "augmentation": None
                if not augmentation.active
                else {
                    "crop": augmentation.crop,
                    "flip": augmentation.flip,
                    "cutout": augmentation.cutout,
                    "fill": float(augmentation.fill) if augmentation.crop else 0.0,
                },
            }
        )

    def _split(self) -> dict[str, tuple[Pixels, np.ndarray]]:
        """Training and validation as (where the pixels are, numbers of the samples in their order).

        Everything is decided over all classes and thinned to those in use at the end, so that no image changes
        sides with the choice of classes.
        """
        data = self.decoded
        if data.test is None:
            order = proportional_order(data.train.y, "image-holdout")
            held = round(self.holdout * len(order))
            if held < 2 or held >= len(order):
                raise StudyError(
                    f"data.holdout: {self.holdout:g} of {len(order)} images is {held}; allowed is a share that leaves "
                    "at least 2 for validation and 1 for training"
                )
            pixels, validation, self._members = data.train, np.sort(order[:held]), np.sort(order[held:])
        else:
            pixels, validation = data.test, np.arange(len(data.test))
            self._members = np.arange(len(data.train))
        order = validation[proportional_order(pixels.y[validation], "image-parts")]
        # The odd image of a class goes to A for even classes and to B for odd ones.
        side = (ranks(pixels.y[order]) + pixels.y[order]) % 2
        found = {part: (pixels, order[side == k]) for k, part in enumerate("AB")}
        order = self._members[proportional_order(data.train.y[self._members], "unique-samples")]
        found["train"] = (data.train, order)
        used = {part: (pixels, order[self._number[pixels.y[order]] >= 0]) for part, (pixels, order) in found.items()}
        for part, (_, order) in used.items():
            if not len(order):
                what = "training image" if part == "train" else f"image for validation part {part}"
                raise StudyError(f"data.source: {self.name} leaves no {what} of the classes in use")
        return used

    def _training_pixels(self) -> np.ndarray:
        """The training images of all classes, less those held out."""
        x = self.decoded.train.x
        return x if len(self._members) == len(x) else x[self._members]

    def _classes(self, pixels: Pixels, members: np.ndarray) -> np.ndarray:
        return self._number[pixels.y[members]]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        channels, height, width = self.decoded.train.x.shape[1:]
        return channels, height, width

    @property
    def features(self) -> int:
        """Numbers in one image."""
        return math.prod(self.shape)

    def blocks(self, context: int = 1) -> int:
        """Training samples of one epoch; ``context`` has no meaning for images."""
        return self.train_size

    def batch(self, seed: int, start: int, count: int, context: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Samples [start, start + count) of the stream, augmented: x float32 (count, C, H, W), y int64 (count,).

        Sample i is number ``permute(seed, i // n, i % n)`` of the n unique images, in epoch i // n.
        """
        pixels, order = self._pools["train"]
        member = order[sample_order(seed, start, count, self.train_size)]
        images = pixels.x[member]
        if not self.augmentation.active:
            return self._normalised(images), self._classes(pixels, member)
        epoch = (start + np.arange(count, dtype=np.int64)) // self.train_size
        moves = self.augmentation.draw(seed, member, epoch, *self.shape[1:])
        x = self._normalised(self.augmentation.move(images, moves))
        self.augmentation.cut(x, moves)
        return x, self._classes(pixels, member)

    def stored(self, part: str) -> np.ndarray:
        """The unique training images ("train"), or those of a validation part, as they were stored: (n, C, H, W)."""
        pixels, order = self._pools[part]
        return pixels.x[order[: self.train_size] if part == "train" else order]

    def validation(self, part: str, tokens: int, context: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """The first ``tokens`` samples of part "A" or "B", as they are; ``StudyError`` where there are fewer."""
        if part not in ("A", "B"):
            raise ValueError(f"validation part must be 'A' or 'B', found {part!r}")
        pixels, order = self._pools[part]
        if not 1 <= tokens <= len(order):
            raise StudyError(
                f"evaluation.samples: {tokens} samples; part {part} of {self.name} allows 1 to {len(order)}"
            )
        return self._normalised(pixels.x[order[:tokens]]), self._classes(pixels, order[:tokens])

    def _normalised(self, images: np.ndarray) -> np.ndarray:
        x = images.astype(np.float32)
        x -= self._shift
        x *= self._scale
        return x

    def describe(self) -> dict[str, Any]:
        """JSON facts: digest, sizes, classes, normalisation, augmentation."""
        a = self.augmentation
        used = range(self.vocabulary) if self.chosen is None else self.chosen
        names = self.decoded.names
        return {
            "source": self.name,
            "kind": self.kind,
            "digest": self.digest,
            "content": self.decoded.content,
            "classes": self.vocabulary,
            "class_names": [names[c] for c in used] if names else [str(c) for c in used],
            "shape": list(self.shape),
            "training_samples": len(self._pools["train"][1]),
            "unique_training_samples": self.train_size,
            "validation_samples": {part: len(self._pools[part][1]) for part in "AB"},
            "validation_from": "test images" if self.decoded.test is not None else f"held-out {self.holdout:g}",
            "channel_mean": self._mean.tolist(),
            "channel_deviation": self._deviation.tolist(),
            "augmentation": {"crop": a.crop, "flip": a.flip, "cutout": a.cutout, "fill": a.fill},
        }


def check(name: str, train: Pixels, test: Pixels | None) -> None:
    """Raise ``StudyError`` for what cannot be trained on."""
    for part, pixels in (("training", train), ("test", test)):
        if pixels is None:
            continue
        if len(pixels) == 0:
            raise StudyError(f"data.source: {name} holds no {part} images (empty data set)")
        if len(pixels.x) != len(pixels.y):
            raise StudyError(f"data.source: {name} has {len(pixels.x)} {part} images, but {len(pixels.y)} labels")
        if pixels.x.shape[1:] != train.x.shape[1:]:
            raise StudyError(
                f"data.source: {name} has training images {train.x.shape[1:]}, but test images "
                f"{pixels.x.shape[1:]}; allowed is one shape (C, H, W)"
            )
        if int(pixels.y.min()) < 0:
            raise StudyError(f"data.source: {name} has the {part} label {int(pixels.y.min())}; allowed from 0")
        if pixels.x.dtype != np.uint8 and not np.isfinite(pixels.x).all():
            raise StudyError(f"data.source: {name} has {part} images with values that are not finite")
        if int(pixels.y.max()) > 1_000_000:
            raise StudyError(f"data.source: {name} has the {part} label {int(pixels.y.max())}; allowed up to 1000000")


def make_source(
    name: str,
    spec: Mapping[str, Any],
    decode: Callable[[], Decoded],
    *,
    own: tuple[str, ...] = (),
    holdout: float = 0.1,
) -> ImageSource:
    """The source of what ``decode`` returns under the options of ``spec``, which are checked first.

    ``own``: further options, which ``decode`` knows; ``holdout``: the default share.
    """
    refuse_unknown(name, spec, (*OPTIONS, *own))
    chosen = parse_classes(spec.get("classes"))
    share = number(spec, "holdout", holdout, 0.001, 0.5)
    augmentation = Augmentation(
        crop=integer(spec, "crop", 0, 0, 1024),
        flip=boolean(spec, "flip", False),
        cutout=integer(spec, "cutout", 0, 0, 1024),
        fill=number(spec, "fill", 0.0, -1e6, 1e6),
    )
    decoded = decode()
    side = min(decoded.train.x.shape[2:])
    if augmentation.crop > side:
        raise StudyError(f"data.crop: found {augmentation.crop}; the images of {name} allow 0 to {side}")
    if decoded.train.x.dtype == np.uint8 and augmentation.fill not in range(256):
        raise StudyError(f"data.fill: found {augmentation.fill:g}; {name} has pixels that are whole numbers 0 to 255")
    return ImageSource(
        name=name,
        decoded=decoded,
        chosen=chosen,
        holdout=share,
        augmentation=augmentation,
        size=spec.get("size"),
    )


def parse_classes(text: Any) -> tuple[int, ...] | None:
    """``"0-4"`` or ``"7, 0-2"`` as class numbers in that order; None for None. Raises ``StudyError``."""
    if text is None:
        return None
    found: list[int] = []
    try:
        for piece in str(text).split(","):
            first, dash, last = (word.strip() for word in piece.partition("-"))
            low, high = int(first), int(last if dash else first)
            if not 0 <= low <= high <= 1_000_000:
                raise ValueError(piece)
            found.extend(range(low, high + 1))
    except ValueError:
        found = []
    if not isinstance(text, str) or len(found) < 2 or len(set(found)) < len(found):
        raise StudyError(
            f"data.classes: found {text!r}; allowed are at least two different class numbers and ranges, as in '0-4' "
            "or '1, 3, 5-7'"
        )
    return tuple(found)
