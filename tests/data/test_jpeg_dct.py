"""The DCT decoder against SciPy's transform, a literal interpolation, and the data's published statistics."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.fft import dctn

from isoloss.data import open_source
from isoloss.data.jpeg_dct import decode
from isoloss.recipe.errors import StudyError

ONES = np.ones((2, 8, 8), dtype=np.uint8)


def blocks(plane: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Quantised coefficients (64, blocks, 1) of one plane."""
    side = len(plane) // 8
    cut = plane.reshape(side, 8, side, 8).transpose(0, 2, 1, 3).reshape(-1, 8, 8)
    found = dctn(cut - 128.0, axes=(1, 2), norm="ortho") / table
    return np.rint(found).astype(np.int16).reshape(-1, 64).T[:, :, None]


def coefficients(luma: np.ndarray, blue: np.ndarray, red: np.ndarray, tables: np.ndarray = ONES) -> np.ndarray:
    return np.concatenate([blocks(luma, tables[0]), blocks(blue, tables[1]), blocks(red, tables[1])], axis=1)


def test_a_grey_image_comes_back():
    luma = np.random.default_rng(0).integers(0, 256, (32, 32)).astype(float)
    flat = np.full((16, 16), 128.0)
    rgb = decode(coefficients(luma, flat, flat), ONES)
    assert rgb.shape == (1, 3, 32, 32)
    # Coefficients rounded to whole numbers move a pixel by at most a few.
    assert np.abs(rgb[0].astype(int) - luma).max() <= 2
    assert (rgb[0, 0] == rgb[0, 1]).all()


def test_quantisation_tables_multiply_the_coefficients():
    rng = np.random.default_rng(1)
    smooth = 128 + 60 * np.cos(np.arange(32)[:, None] / 9) * np.cos(np.arange(32) / 7)
    tables = rng.integers(1, 9, (2, 8, 8)).astype(np.uint8)
    flat = np.full((16, 16), 128.0)
    rgb = decode(coefficients(smooth, flat, flat, tables), tables)
    assert np.abs(rgb[0, 1] - smooth).max() < 12
    assert np.abs(rgb[0, 1] - smooth).mean() < 2


def test_colours_follow_jfif():
    """Pure red, green and blue in YCbCr: (76, 85, 255), (150, 44, 21), (29, 255, 107)."""
    for ycc, wanted in (
        ((76, 85, 255), (254, 0, 0)),
        ((150, 44, 21), (0, 255, 1)),
        ((29, 255, 107), (0, 0, 254)),
    ):
        planes = [np.full((side, side), float(v)) for side, v in zip((32, 16, 16), ycc, strict=True)]
        rgb = decode(coefficients(*planes), ONES)[0].reshape(3, -1)
        assert (rgb == rgb[:, :1]).all()
        assert np.abs(rgb[:, 0].astype(int) - wanted).max() <= 1


def test_chroma_is_doubled_with_the_triangle_filter():
    red = np.random.default_rng(2).integers(90, 166, (16, 16)).astype(float)
    luma, blue = np.full((32, 32), 128.0), np.full((16, 16), 128.0)
    # What the decoder sees of the chroma is the plane after rounding its coefficients.
    seen = decode(coefficients(np.kron(red, np.ones((2, 2))), blue, blue), ONES)
    assert seen.shape == (1, 3, 32, 32)
    rgb = decode(coefficients(luma, blue, red), ONES)[0]
    for y in range(32):
        for x in range(32):
            h, w = y // 2, x // 2
            i = min(max(h + (1 if y % 2 else -1), 0), 15)
            j = min(max(w + (1 if x % 2 else -1), 0), 15)
            value = (9 * red[h, w] + 3 * red[i, w] + 3 * red[h, j] + red[i, j]) / 16
            # One for the chroma, two for its rounded coefficients, times 1.402.
            assert abs(int(rgb[0, y, x]) - np.clip(128 + 1.402 * (value - 128), 0, 255)) <= 4.5


def test_portions_do_not_show(monkeypatch):
    rng = np.random.default_rng(3)
    many = rng.integers(-30, 30, (64, 24, 7)).astype(np.int16)
    whole = decode(many, ONES)
    monkeypatch.setattr("isoloss.data.jpeg_dct.PORTION", 3)
    assert np.array_equal(decode(many, ONES), whole)
    assert np.array_equal(decode(many[:, :, 4:5], ONES)[0], whole[4])


def test_other_shapes_are_one_message():
    with pytest.raises(StudyError, match=r"\(64, 23, 2\) with tables \(2, 8, 8\)"):
        decode(np.zeros((64, 23, 2), dtype=np.int16), ONES)


def test_the_shared_copy_of_cifar_has_its_published_statistics(shared_data):
    """Mean and deviation as measured by the data's own decoder, on its first 4,000 test images."""
    with np.load(shared_data / "cifar-10" / "cifar10-jpeg-dct.npz") as archive:
        images = decode(archive["test_dct"][:, :, :4000], archive["quant"])
    np.testing.assert_allclose(images.mean((0, 2, 3)) / 255, [0.4912, 0.4821, 0.4465], atol=0.01)
    np.testing.assert_allclose(images.std((0, 2, 3)) / 255, [0.2452, 0.2428, 0.2606], atol=0.01)


@pytest.mark.slow
def test_it_opens_as_arrays(shared_data):
    path = shared_data / "cifar-10" / "cifar10-jpeg-dct.npz"
    made = open_source({"source": "arrays", "path": str(path)})
    facts = made.describe()
    assert (made.train_size, made.shape, made.vocabulary) == (50_000, (3, 32, 32), 10)
    np.testing.assert_allclose(np.array(facts["channel_mean"]) / 255, [0.4912, 0.4821, 0.4465], atol=5e-5)
    np.testing.assert_allclose(np.array(facts["channel_deviation"]) / 255, [0.2452, 0.2428, 0.2606], atol=5e-5)
