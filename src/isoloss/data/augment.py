"""Augmentation of image batches as a pure function of (seed, sample, epoch): pad-crop, flip, cutout.

    h_0 = f(f(K(seed) + G sample) + G epoch),   h_j = f(h_0 + G j),   draw_j in [0, m) = floor(h_j m / 2^64)

f is the finaliser and G the increment of SplitMix64 (Steele, Lea and Flood 2014): a counter-based generator, so
that no draw depends on the batch that a sample comes in, or on what was drawn before.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

_INCREMENT = 0x9E3779B97F4A7C15
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


@dataclass(frozen=True)
class Moves:
    """What happens to each image of a batch, int64 (n,): crop offsets, flip (0 or 1), centre of the cutout."""

    down: np.ndarray
    right: np.ndarray
    flip: np.ndarray
    row: np.ndarray
    column: np.ndarray


@dataclass(frozen=True)
class Augmentation:
    """``crop``: pad by so many pixels of value ``fill`` (raw units), then cut a window of the old size anywhere in
    it; ``flip``: mirror left and right with probability 1/2 (both: He et al. 2016, section 4.2); ``cutout``: a
    square of that side around any pixel, clipped at the border, becomes the channel mean (DeVries and Taylor 2017).
    """

    crop: int = 0
    flip: bool = False
    cutout: int = 0
    fill: float = 0.0

    @property
    def active(self) -> bool:
        """Whether anything changes."""
        return bool(self.crop or self.flip or self.cutout)

    def draw(self, seed: int, sample: np.ndarray, epoch: np.ndarray, height: int, width: int) -> Moves:
        """Draws for images ``sample`` (their numbers in the training set) in ``epoch``, both int64 (n,)."""
        state = _finalise(_finalise(_key(seed) + _times(sample)) + _times(epoch))
        ranges = (2 * self.crop + 1, 2 * self.crop + 1, 2, height, width)
        return Moves(*(_below(_finalise(state + _multiple(j)), m) for j, m in enumerate(ranges, 1)))

    def move(self, images: np.ndarray, moves: Moves) -> np.ndarray:
        """Crop and flip raw images (n, C, H, W) of any type; a new array where anything moves."""
        if self.crop:
            n, channels, height, width = images.shape
            p = self.crop
            padded = np.full((n, channels, height + 2 * p, width + 2 * p), self.fill, dtype=images.dtype)
            padded[:, :, p : p + height, p : p + width] = images
            windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
            images = windows[np.arange(n), :, moves.down, moves.right]
        if self.flip:
            mirrored = np.flatnonzero(moves.flip)
            images = images.copy() if not self.crop else images
            images[mirrored] = images[mirrored][..., ::-1]
        return images

    def cut(self, x: np.ndarray, moves: Moves) -> None:
        """Cutout in normalised images (n, C, H, W), in place: the channel mean is 0 there."""
        if not self.cutout:
            return
        rows = _inside(moves.row, self.cutout, x.shape[2])
        columns = _inside(moves.column, self.cutout, x.shape[3])
        x *= ~(rows[:, None, :, None] & columns[:, None, None, :])


NONE = Augmentation()


def _inside(centre: np.ndarray, side: int, length: int) -> np.ndarray:
    """Which of ``length`` places lie in the stretch of ``side`` around each centre, boolean (n, length)."""
    offset = np.arange(length) - (centre - side // 2)[:, None]
    return (offset >= 0) & (offset < side)


@lru_cache(maxsize=256)
def _key(seed: int) -> np.uint64:
    digest = hashlib.blake2b(f"isoloss.augment.1:{seed}".encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def _multiple(j: int) -> np.uint64:
    return np.uint64(_INCREMENT * j % 2**64)


def _times(counter: np.ndarray) -> np.ndarray:
    return np.uint64(_INCREMENT) * counter.astype(np.uint64)


def _finalise(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    return z ^ (z >> np.uint64(31))


def _below(bits: np.ndarray, limit: int) -> np.ndarray:
    """Uniform integers in [0, limit) from the upper 32 bits; the bias is below limit / 2^32."""
    return ((bits >> np.uint64(32)) * np.uint64(limit) >> np.uint64(32)).astype(np.int64)
