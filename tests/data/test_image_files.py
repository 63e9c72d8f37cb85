"""Decoders against files written here by hand, one content in every form, and damaged files."""

from __future__ import annotations

import gzip
import io
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoloss.data import open_source
from isoloss.data.image_files import read_idx
from isoloss.recipe.errors import StudyError

RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 256, (30, 1, 6, 5)).astype(np.uint8), np.arange(30) % 3
TX, TY = RNG.integers(0, 256, (12, 1, 6, 5)).astype(np.uint8), np.arange(12) % 3


def idx(array: np.ndarray, code: int = 8, dtype: str = ">u1") -> bytes:
    header = struct.pack(">BBBB", 0, 0, code, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(dtype).tobytes()


def write_idx(folder: Path, test: bool = True, packed: bool = True) -> Path:
    folder.mkdir(exist_ok=True)
    parts = {"train-images-idx3": X[:, 0], "train-labels-idx1": Y}
    if test:
        parts |= {"t10k-images-idx3": TX[:, 0], "t10k-labels-idx1": TY}
    for name, array in parts.items():
        raw = idx(array)
        end = "-ubyte.gz" if packed else "-ubyte"
        (folder / (name + end)).write_bytes(gzip.compress(raw) if packed else raw)
    return folder


def write_pictures(folder: Path) -> Path:
    image = pytest.importorskip("PIL.Image")
    for part, x, y in (("train", X, Y), ("test", TX, TY)):
        for k, (picture, label) in enumerate(zip(x, y, strict=True)):
            place = folder / part / str(label)
            place.mkdir(parents=True, exist_ok=True)
            image.fromarray(picture[0]).save(place / f"{k:03}.png")
    return folder


def test_one_content_has_one_digest_in_every_form(tmp_path):
    from_idx = open_source({"source": "idx", "path": str(write_idx(tmp_path / "idx"))})
    plain = open_source({"source": "idx", "path": str(write_idx(tmp_path / "plain", packed=False))})
    np.savez(tmp_path / "keras.npz", x_train=X[:, 0], y_train=Y, x_test=TX[:, 0], y_test=TY)
    np.savez_compressed(
        tmp_path / "med.npz",
        train_images=X.transpose(0, 2, 3, 1),
        train_labels=Y[:, None],
        test_images=TX.transpose(0, 2, 3, 1).astype(np.int64),
        test_labels=TY[:, None],
    )
    keras, med = (open_source({"source": "arrays", "path": str(tmp_path / f"{n}.npz")}) for n in ("keras", "med"))
    assert from_idx.digest == plain.digest == keras.digest == med.digest
    assert from_idx.decoded.content == keras.decoded.content
    for made in (from_idx, keras, med):
        assert np.array_equal(made.decoded.train.x, X)
        assert np.array_equal(made.decoded.train.y, Y)
        assert np.array_equal(made.decoded.test.x, TX)
        assert np.array_equal(made.decoded.test.y, TY)


def test_the_second_opening_reads_the_cache(tmp_path, monkeypatch):
    spec = {"source": "idx", "path": str(write_idx(tmp_path / "idx"))}
    first = open_source(spec, tmp_path / "cache")
    monkeypatch.setattr("isoloss.data.image_files._decode_idx", lambda chosen: pytest.fail("decoded again"))
    second = open_source(spec, tmp_path / "cache")
    assert second.digest == first.digest
    assert np.array_equal(second.batch(0, 5, 9)[0], first.batch(0, 5, 9)[0])


def test_without_test_files_a_part_is_held_out(tmp_path):
    made = open_source({"source": "idx", "path": str(write_idx(tmp_path / "idx", test=False)), "holdout": 0.2})
    assert made.decoded.test is None
    assert made.train_size == 24


@pytest.mark.parametrize(
    ("code", "dtype"), [(8, ">u1"), (9, ">i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")]
)
def test_idx_types(tmp_path, code, dtype):
    array = np.arange(24).reshape(2, 3, 4)
    (tmp_path / "a-idx").write_bytes(idx(array, code, dtype))
    read = read_idx(tmp_path / "a-idx")
    assert np.array_equal(read, array)
    assert read.dtype == np.dtype(dtype).newbyteorder("=")


@settings(max_examples=80, deadline=None)
@given(cut=st.integers(0, 400), change=st.integers(0, 15), value=st.integers(0, 255))
def test_a_damaged_idx_file_is_one_message(tmp_path_factory, cut, change, value):
    raw = bytearray(idx(X[:10, 0]))
    raw[change] = value
    damaged = bytes(raw[:cut])
    place = tmp_path_factory.mktemp("idx") / "x-idx"
    place.write_bytes(damaged)
    try:
        read = read_idx(place)
    except StudyError as error:
        assert str(place) in str(error)
    else:
        assert read.nbytes <= len(damaged)


def test_idx_files_that_do_not_belong_together(tmp_path):
    folder = write_idx(tmp_path / "idx", packed=False)
    spec = {"source": "idx", "path": str(folder)}
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(StudyError, match="no idx file of test labels"):
        open_source(spec)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(TY[:5]))
    with pytest.raises(StudyError, match="12 test images, but 5 labels"):
        open_source(spec)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(TY))
    (folder / "emnist-train-images-idx3-ubyte").write_bytes(idx(X[:, 0]))
    with pytest.raises(StudyError, match="2 files of train images"):
        open_source(spec)
    assert open_source({"source": "idx", "path": str(folder / "t*")}).train_size == 30


def records(x: np.ndarray, labels: list[np.ndarray]) -> bytes:
    return np.concatenate([np.stack(labels, 1), x.reshape(len(x), -1)], axis=1).astype(np.uint8).tobytes()


def test_cifar_binary(tmp_path):
    x = RNG.integers(0, 256, (40, 3, 32, 32)).astype(np.uint8)
    y = RNG.permutation(np.arange(40) % 10)
    ten = tmp_path / "ten"
    ten.mkdir()
    for k in range(3):
        (ten / f"data_batch_{k + 1}.bin").write_bytes(records(x[10 * k :][:10], [y[10 * k :][:10]]))
    (ten / "test_batch.bin").write_bytes(records(x[30:], [y[30:]]))
    (ten / "batches.meta.txt").write_text("plane\ncar\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n")
    made = open_source({"source": "cifar", "path": str(ten), "classes": "3, 5"})
    assert np.array_equal(made.decoded.train.x, x[:30])
    assert np.array_equal(made.decoded.test.x, x[30:])
    assert np.array_equal(made.decoded.train.y, y[:30])
    assert made.describe()["class_names"] == ["cat", "dog"]
    assert made.shape == (3, 32, 32)
    with pytest.raises(StudyError, match=r"data\.labels: found 'coarse'"):
        open_source({"source": "cifar", "path": str(ten), "labels": "coarse"})

    hundred = tmp_path / "hundred"
    hundred.mkdir()
    coarse, fine = np.arange(40) % 4, np.arange(40) % 20
    (hundred / "train.bin.gz").write_bytes(gzip.compress(records(x[:30], [coarse[:30], fine[:30]])))
    (hundred / "test.bin").write_bytes(records(x[30:], [coarse[30:], fine[30:]]))
    for level, labels in (("fine", fine), ("coarse", coarse)):
        made = open_source({"source": "cifar", "path": str(hundred), "labels": level})
        assert np.array_equal(made.decoded.train.y, labels[:30])
        assert np.array_equal(made.decoded.train.x, x[:30])

    (hundred / "test.bin").write_bytes(b"x" * 3073)
    with pytest.raises(StudyError, match="3073 bytes; allowed is a multiple of 3074"):
        open_source({"source": "cifar", "path": str(hundred)})


def test_pickled_cifar_is_refused_with_the_reason(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x04")
    with pytest.raises(StudyError, match="can run code and are not read"):
        open_source({"source": "cifar", "path": str(tmp_path)})


def test_arrays_of_every_layout_and_type(tmp_path):
    colour = RNG.random((9, 3, 8, 7))
    labels = np.arange(9) % 2

    def made(x: np.ndarray, **options: str) -> np.ndarray:
        np.savez(tmp_path / "a.npz", x_train=x, y_train=labels)
        return open_source({"source": "arrays", "path": str(tmp_path / "a.npz"), "holdout": 0.3, **options})

    for x in (colour, colour.transpose(0, 2, 3, 1), colour.astype(np.float32)):
        assert np.array_equal(made(x).decoded.train.x, colour.astype(np.float32))
    square = np.zeros((9, 3, 4, 3), dtype=np.uint8)
    with pytest.raises(StudyError, match=r"data\.layout: .* do not tell"):
        made(square)
    assert made(square, layout="nchw").shape == (3, 4, 3)
    assert made(square, layout="nhwc").shape == (3, 3, 4)
    for wrong, message in (
        (np.full((9, 4, 4), 300), "0 to 255"),
        (np.zeros((9, 4)), r"images of shape \(9, 4\)"),
        (np.full((9, 4, 4), np.nan), "not finite"),
        (np.zeros((9, 4, 4), dtype=complex), "complex128"),
        (np.zeros((8, 4, 4)), "8 training images, but 9 labels"),
        (np.zeros((0, 4, 4)), "has 0 training images, but 9 labels"),
    ):
        with pytest.raises(StudyError, match=message):
            made(wrong)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, "holds x; allowed are x_train"),
        ({"x_train": X[:, 0], "y_train": Y.astype(float)}, "labels float64"),
        ({"x_train": X[:, 0], "y_train": np.eye(30, dtype=int)}, r"labels int64 \(30, 30\)"),
        ({"x_train": X[:, 0], "y_train": Y - 1}, "training label -1"),
        ({"x_train": X[:, 0], "y_train": np.array(["a"] * 30, dtype=object)}, "cannot read"),
        ({"x_train": X[:, 0], "y_train": Y, "x_test": TX[:, 0, :3], "y_test": TY}, "allowed is one shape"),
    ],
)
def test_arrays_that_are_wrong(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(StudyError, match=message):
        open_source({"source": "arrays", "path": str(tmp_path / "a.npz")})


def test_a_damaged_npz_is_one_message(tmp_path):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x_train=X[:, 0], y_train=Y)
    for raw in (b"", b"junk", buffer.getvalue()[:200], buffer.getvalue().replace(b"\x93NUMPY", b"\x93NUMPX")[:-30]):
        (tmp_path / "a.npz").write_bytes(raw)
        with pytest.raises(StudyError, match=r"data.path: .*a\.npz|data: "):
            open_source({"source": "arrays", "path": str(tmp_path / "a.npz")})


def test_class_folders(tmp_path):
    made = open_source({"source": "image-folder", "path": str(write_pictures(tmp_path / "both"))})
    assert made.shape == (1, 6, 5)
    assert made.describe()["class_names"] == ["0", "1", "2"]
    for pixels, x, y in ((made.decoded.train, X, Y), (made.decoded.test, TX, TY)):
        order = np.lexsort((np.arange(len(y)), y))  # files are sorted by class, then by number
        assert np.array_equal(pixels.x, x[order])
        assert np.array_equal(pixels.y, y[order])
    alone = open_source({"source": "image-folder", "path": str(tmp_path / "both" / "train"), "holdout": 0.2})
    assert alone.decoded.test is None
    assert alone.train_size == 24


def test_pictures_are_scaled_and_made_of_one_kind(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for name, mode, size in (("a", "L", (8, 6)), ("b", "RGB", (6, 9)), ("c", "RGBA", (6, 6)), ("d", "P", (12, 6))):
        (tmp_path / name).mkdir()
        for k in range(4):
            image.new(mode, size, 100).save(tmp_path / name / f"{k}.png")
    with pytest.raises(StudyError, match=r"data\.side: pictures of 8x6 and 6x9"):
        open_source({"source": "image-folder", "path": str(tmp_path)})
    made = open_source({"source": "image-folder", "path": str(tmp_path), "side": 6, "holdout": 0.5})
    assert made.shape == (3, 6, 6)
    assert (made.decoded.train.x[:4] == 100).all()
    wide = np.repeat(np.arange(0, 256, 16, dtype=np.uint8)[None], 8, axis=0)  # 16 wide, 8 high: the middle half is kept
    (tmp_path / "e").mkdir()
    for k in range(4):
        image.fromarray(wide).save(tmp_path / "e" / f"{k}.png")
    made = open_source({"source": "image-folder", "path": str(tmp_path), "side": 8, "holdout": 0.5})
    assert np.array_equal(made.decoded.train.x[-1], np.repeat(wide[None, :, 4:12], 3, axis=0))


@pytest.mark.parametrize("source", ["idx", "cifar", "arrays", "image-folder"])
def test_paths_that_lead_nowhere(tmp_path, source):
    with pytest.raises(StudyError, match="needs a path"):
        open_source({"source": source})
    with pytest.raises(StudyError, match=r"no file or folder .*absent; .* is looked for in ISOLOSS_DATA"):
        open_source({"source": source, "path": str(tmp_path / "absent")})
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudyError, match="empty corpus"):
        open_source({"source": source, "path": str(tmp_path / "empty")})
    (tmp_path / "empty" / "notes.md").write_text("no images here")
    with pytest.raises(StudyError, match="data"):
        open_source({"source": source, "path": str(tmp_path / "empty")})


def test_a_broken_picture_is_named(tmp_path):
    pytest.importorskip("PIL.Image")
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"\x89PNG no more")
    with pytest.raises(StudyError, match=r"cannot read the picture .*a/1\.png"):
        open_source({"source": "image-folder", "path": str(tmp_path)})


@pytest.mark.parametrize(
    ("package", "spec", "extra"),
    [
        ("sklearn", {"source": "digits"}, "scikit-learn"),
        ("PIL", {"source": "image-folder"}, "isoloss[images]"),
        ("datasets", {"source": "huggingface", "dataset": "mnist"}, "isoloss[datasets]"),
        ("torchvision", {"source": "torchvision", "dataset": "CIFAR10"}, "isoloss[torchvision]"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch, package, spec, extra):
    if package == "PIL":
        spec = {**spec, "path": str(write_pictures(tmp_path / "pictures"))}
    monkeypatch.setitem(sys.modules, package, None)
    if package == "sklearn":
        monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(StudyError) as caught:
        open_source(spec, tmp_path / "cache")
    assert extra in str(caught.value)


def test_fashion_mnist_is_the_published_set(shared_data):
    made = open_source({"source": "idx", "path": str(shared_data / "fashion-mnist")})
    facts = made.describe()
    assert (made.train_size, made.shape, made.vocabulary) == (60_000, (1, 28, 28), 10)
    assert facts["validation_samples"] == {"A": 5000, "B": 5000}
    # The figures in common use: 0.2860 and 0.3530 of 255.
    assert facts["channel_mean"][0] / 255 == pytest.approx(0.2860, abs=5e-5)
    assert facts["channel_deviation"][0] / 255 == pytest.approx(0.3530, abs=5e-5)
    assert (np.bincount(made.validation("A", 100)[1]) == 10).all()


def test_huggingface_saved_on_disk(tmp_path):
    datasets = pytest.importorskip("datasets")
    image = pytest.importorskip("PIL.Image")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})

    def part(x: np.ndarray, y: np.ndarray) -> object:
        rows = {"image": [image.fromarray(p[0]) for p in x], "label": y.tolist()}
        return datasets.Dataset.from_dict(rows, features=features)

    datasets.DatasetDict(train=part(X, Y), test=part(TX, TY)).save_to_disk(str(tmp_path / "saved"))
    spec = {"source": "huggingface", "path": str(tmp_path / "saved")}
    made = open_source(spec)
    assert np.array_equal(made.decoded.train.x, X)
    assert np.array_equal(made.decoded.test.y, TY)
    assert made.describe()["class_names"] == ["a", "b", "c"]
    assert made.digest == open_source({"source": "idx", "path": str(write_idx(tmp_path / "idx"))}).digest
    with pytest.raises(StudyError, match=r"data\.column: found 'picture'; allowed: image, label"):
        open_source({**spec, "image": "picture"})
    with pytest.raises(StudyError, match=r"data.split: found 'tran' \(did you mean 'train'"):
        open_source({**spec, "train": "tran"})


def test_huggingface_needs_a_name_or_a_path(tmp_path):
    for spec in ({}, {"dataset": "mnist", "path": str(tmp_path)}):
        with pytest.raises(StudyError, match="either the name of a data set of the Hub or a path"):
            open_source({"source": "huggingface", **spec})


def test_torchvision_reads_what_is_there(tmp_path):
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision does not import here: {error}")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, array in (
        ("train-images-idx3-ubyte", X[:, 0]),
        ("train-labels-idx1-ubyte", Y),
        ("t10k-images-idx3-ubyte", TX[:, 0]),
        ("t10k-labels-idx1-ubyte", TY),
    ):
        (raw / name).write_bytes(idx(array))
    made = open_source({"source": "torchvision", "dataset": "MNIST", "path": str(tmp_path)})
    assert np.array_equal(made.decoded.train.x, X)
    assert np.array_equal(made.decoded.test.y, TY)
