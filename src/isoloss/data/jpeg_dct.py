"""Images from the quantised DCT coefficients of 32x32 baseline JPEGs (4:2:0), without an image library.

For every 8x8 block, with C the orthonormal DCT-II matrix, q the quantisation table and b the coefficients

    pixels = C^T (b * q) C + 128        (ITU-T T.81, A.3.3 and A.3.4)

The two chroma planes are doubled with the triangle filter (3 near + 1 far) / 4 in each direction, and YCbCr becomes
RGB by the constants of JFIF 1.02.
"""

from __future__ import annotations

import numpy as np

from isoloss.recipe.errors import StudyError

PORTION = 2000
"""Images decoded at once: a portion stays below 200 MB."""


def decode(coefficients: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """RGB images, uint8 (N, 3, 32, 32).

    ``coefficients``: int16 (64, 24, N), by coefficient (8x8 row by row), block (16 of Y in 4x4, 4 of Cb, 4 of Cr in
    2x2) and image. ``tables``: (2, 8, 8), of Y and of Cb/Cr. Raises ``StudyError`` for other shapes.
    """
    if coefficients.ndim != 3 or coefficients.shape[:2] != (64, 24) or tables.shape != (2, 8, 8):
        raise StudyError(
            f"data.path: DCT coefficients {coefficients.shape} with tables {tables.shape}; "
            "allowed are (64, 24, N) with (2, 8, 8)"
        )
    images = np.empty((coefficients.shape[2], 3, 32, 32), dtype=np.uint8)
    for begin in range(0, len(images), PORTION):
        part = np.ascontiguousarray(coefficients[:, :, begin : begin + PORTION].transpose(2, 1, 0))
        luma = _plane(part[:, :16], tables[0], 4)
        blue, red = (_doubled(_plane(part[:, k : k + 4], tables[1], 2)) - 128.0 for k in (16, 20))
        rgb = np.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], axis=1)
        images[begin : begin + PORTION] = np.clip(np.rint(rgb), 0, 255)
    return images


def _transform() -> np.ndarray:
    k = np.arange(8)
    rows = 0.5 * np.cos((2 * k[None, :] + 1) * k[:, None] * np.pi / 16)
    rows[0] = np.sqrt(1 / 8)
    return rows


def _plane(blocks: np.ndarray, table: np.ndarray, side: int) -> np.ndarray:
    """(N, side^2, 64) coefficients as planes (N, 8 side, 8 side) of whole numbers from 0 to 255, float64.

    The two products are one with the Kronecker square of C. In float64, so that no machine rounds otherwise.
    """
    basis = np.kron(_transform(), _transform()) * table.reshape(64, 1)
    pixels = np.clip(np.rint(blocks.astype(np.float64) @ basis + 128.0), 0, 255)
    return pixels.reshape(-1, side, side, 8, 8).transpose(0, 1, 3, 2, 4).reshape(-1, 8 * side, 8 * side)


def _doubled(plane: np.ndarray) -> np.ndarray:
    """(N, 16, 16) whole numbers as (N, 32, 32): sixteenths, rounded half up and down in turn, as libjpeg does."""
    rows = np.pad(plane, ((0, 0), (1, 1), (0, 0)), "edge")
    tall = np.stack([3 * plane + rows[:, :-2], 3 * plane + rows[:, 2:]], axis=2).reshape(len(plane), -1, 16)
    columns = np.pad(tall, ((0, 0), (0, 0), (1, 1)), "edge")
    left, right = 3 * tall + columns[..., :-2] + 8, 3 * tall + columns[..., 2:] + 7
    return np.floor(np.stack([left, right], axis=3).reshape(len(plane), 32, 32) / 16)
