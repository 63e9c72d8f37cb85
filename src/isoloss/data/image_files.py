"""Image files in the forms that data sets are published in: idx, CIFAR binary, npz, folders of pictures.

What is decoded is kept in the cache as plain bytes, so that later openings, and other processes, only map it.
"""

from __future__ import annotations

import hashlib
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from isoloss.data import files
from isoloss.data.cache import Entry, Writer, cache_folder, fetch
from isoloss.data.images import Decoded, ImageSource, Pixels, check, make_source
from isoloss.data.jpeg_dct import decode as decode_jpeg_dct
from isoloss.data.options import choice, integer, paths
from isoloss.recipe.canonical import digest as canonical_digest
from isoloss.recipe.errors import StudyError

_IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_TEST = ("t10k", "test", "valid", "val")
_NPZ_NAMES = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
)
_DCT_NAMES = ("train_dct", "train_labels", "test_dct", "test_labels")
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def remembered(
    form: str, inputs: Any, decode: Callable[[], tuple[Pixels, Pixels | None, tuple[str, ...]]], cache: Path | None
) -> Decoded:
    """``decode()`` as (training, test, names of the classes), kept in the cache under ``form`` and ``inputs``."""
    key = canonical_digest({"images": form, "semantics": 1, "inputs": inputs})

    def build(writer: Writer) -> dict[str, Any]:
        train, test, names = decode()
        check(form, train, test)
        facts: dict[str, Any] = {"names": list(names), "parts": {}}
        for part, pixels in (("train", train), ("held_out", test)):
            if pixels is not None:
                for array in (pixels.y.astype("<i8"), pixels.x.astype(pixels.x.dtype.newbyteorder("<"), copy=False)):
                    writer.append(part, np.ascontiguousarray(array).reshape(-1).view(np.uint8))
                facts["parts"][part] = {"shape": list(pixels.x.shape), "dtype": pixels.x.dtype.name}
        return {**facts, "content": content_of(train, test)}

    return _opened(fetch(cache_folder(cache), key, np.dtype(np.uint8), build))


def content_of(train: Pixels, test: Pixels | None) -> str:
    """SHA-256 over shapes, types, labels and pixels: the same for every form of the same images."""
    content = hashlib.sha256()
    for pixels in (train, test):
        if pixels is None:
            content.update(b"none;")
        else:
            content.update(f"{pixels.x.dtype.name}{pixels.x.shape};".encode())
            content.update(np.ascontiguousarray(pixels.y, dtype="<i8").data)
            content.update(np.ascontiguousarray(pixels.x, dtype=pixels.x.dtype.newbyteorder("<")).data)
    return content.hexdigest()


def _opened(entry: Entry) -> Decoded:
    found: dict[str, Pixels] = {}
    for part, facts in entry.meta["parts"].items():
        raw = np.asarray(entry.train if part == "train" else entry.held_out)
        n = facts["shape"][0]
        x = raw[8 * n :].view(np.dtype(facts["dtype"]).newbyteorder("<")).reshape(facts["shape"])
        found[part] = Pixels(x, raw[: 8 * n].view("<i8").astype(np.int64))
    return Decoded(found["train"], found.get("held_out"), entry.meta["content"], tuple(entry.meta["names"]))


def _fingerprints(found: Mapping[str, Path], cache: Path | None) -> list[tuple[str, str]]:
    folder = cache_folder(cache)
    return [(name, str(files.content_facts(path, folder)["sha256"])) for name, path in found.items()]


def _patterns(name: str, spec: Mapping[str, Any], what: str) -> list[str]:
    patterns = paths(spec, "path")
    if not patterns:
        raise StudyError(f"data.path: source {name!r} needs a path: {what}")
    return patterns


# --- idx -------------------------------------------------------------------------------------------------------------


def open_idx(spec: Mapping[str, Any], cache: Path | None = None) -> ImageSource:
    """``idx``: the files of the MNIST family, plain or ``.gz``, told apart by their names and dimensions.

    ``path``: their folder, or a glob where a folder holds several sets. Test files are called ``t10k...`` or
    ``test...``; without them a part of the training images is held out.
    """

    def decode() -> Decoded:
        found = files.find("path", _patterns("idx", spec, "the folder with the idx files, or a glob"))
        chosen = {place: path for place, path in _idx_roles(found).items() if path is not None}
        return remembered("idx", _fingerprints(chosen, cache), lambda: _decode_idx(chosen), cache)

    return make_source("idx", spec, decode, own=("path",))


def _idx_roles(found: Mapping[str, Path]) -> dict[str, Path | None]:
    roles: dict[str, list[str]] = {f"{part} {what}": [] for part in ("train", "test") for what in ("images", "labels")}
    for name in found:
        base = name.rpartition("/")[2].lower()
        part = "test" if any(word in base for word in _TEST) else "train" if "train" in base else None
        what = next((word for word in ("images", "labels") if word in base), None)
        if part and what and "idx" in base:
            roles[f"{part} {what}"].append(name)
    for role, names in roles.items():
        if len(names) > 1:
            raise StudyError(f"data.path: {len(names)} files of {role} ({', '.join(sorted(names)[:4])}); allowed is "
                             "one: narrow the path with a glob such as 'folder/emnist-digits-*'")  # fmt: skip
        if not names and (role.startswith("train") or roles["test images"] or roles["test labels"]):
            raise StudyError(
                f"data.path: no idx file of {role} among {len(found)} files; it is known by its name, as in "
                f"'{'train' if role.startswith('train') else 't10k'}-{role.rpartition(' ')[2]}-idx3-ubyte.gz'"
            )
    return {role: found[names[0]] if names else None for role, names in roles.items()}


def _decode_idx(chosen: Mapping[str, Path]) -> tuple[Pixels, Pixels | None, tuple[str, ...]]:
    def part(name: str) -> Pixels | None:
        if f"{name} images" not in chosen:
            return None
        return Pixels(
            _images(read_idx(chosen[f"{name} images"]), "auto"),
            _labels(read_idx(chosen[f"{name} labels"])),
        )

    train = part("train")
    assert train is not None
    return train, part("test"), ()


def read_idx(path: Path) -> np.ndarray:
    """The array of an idx file (two zero bytes, type, number of dimensions, their sizes as big-endian uint32).

    Raises ``StudyError`` where the header or the length is wrong.
    """
    raw = b"".join(files.read(path))
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _IDX_TYPES or not raw[3]:
        raise StudyError(f"data.path: {path} is no idx file: it begins with {raw[:4]!r}")
    dtype, start = np.dtype(_IDX_TYPES[raw[2]]), 4 + 4 * raw[3]
    sizes = [int.from_bytes(raw[4 + 4 * k : 8 + 4 * k], "big") for k in range(raw[3])]
    wanted = start + math.prod(sizes) * dtype.itemsize
    if len(raw) != wanted:
        raise StudyError(f"data.path: {path} has {len(raw)} bytes; its header {sizes} asks for {wanted}")
    return np.frombuffer(raw, dtype=dtype, offset=start).reshape(sizes).astype(dtype.newbyteorder("="), copy=False)


# --- CIFAR -----------------------------------------------------------------------------------------------------------


def open_cifar(spec: Mapping[str, Any], cache: Path | None = None) -> ImageSource:
    """``cifar``: the binary version of CIFAR-10 or CIFAR-100 (``.bin``, also compressed).

    ``path``: the folder with ``data_batch_*.bin`` and ``test_batch.bin`` (10 classes), or ``train.bin`` and
    ``test.bin`` (100, two label bytes); ``labels``: "fine" or "coarse" of CIFAR-100.
    """
    level = choice(spec, "labels", "fine", ("fine", "coarse"))

    def decode() -> Decoded:
        found = files.find("path", _patterns("cifar", spec, "the folder with the .bin files"))
        roles = {name.rpartition("/")[2]: path for name, path in found.items()}
        ten = {name: path for name, path in roles.items() if re.fullmatch(r"(data_batch_\d+|test_batch)\.bin", name)}
        hundred = {name: path for name, path in roles.items() if name in ("train.bin", "test.bin")}
        chosen = ten or hundred
        training = [name for name in chosen if not name.startswith("test")]
        if not training or (ten and hundred):
            pickled = any(re.fullmatch(r"data_batch_\d+|train|test_batch|batches\.meta", name) for name in roles)
            hint = "; pickled files can run code and are not read: take the binary version" if pickled else ""
            raise StudyError(
                f"data.path: {len(roles)} files, of which {len(chosen)} are CIFAR's; allowed are data_batch_*.bin with "
                f"test_batch.bin, or train.bin with test.bin{hint}"
            )
        if ten and level == "coarse":
            raise StudyError("data.labels: found 'coarse'; CIFAR-10 has one kind of label: leave the option out")
        header = 1 if ten else 2
        names = next((path for name, path in roles.items() if name == "batches.meta.txt"), None)

        def read() -> tuple[Pixels, Pixels | None, tuple[str, ...]]:
            parts = [[path for name, path in sorted(chosen.items()) if name.startswith("test") is test]
                     for test in (False, True)]  # fmt: skip
            train, test = (_records(part, header, 0 if level == "coarse" else header - 1) for part in parts)
            assert train is not None
            return train, test, _words(names)

        inputs = {"files": _fingerprints(chosen, cache), "labels": level, "names": _words(names)}
        return remembered("cifar", inputs, read, cache)

    return make_source("cifar", spec, decode, own=("path", "labels"))


def _records(parts: list[Path], header: int, label: int) -> Pixels | None:
    if not parts:
        return None
    rows = []
    for path in parts:
        raw = np.frombuffer(b"".join(files.read(path)), dtype=np.uint8)
        if len(raw) % (header + 3072):
            raise StudyError(
                f"data.path: {path} has {len(raw)} bytes; allowed is a multiple of {header + 3072} "
                f"({header} label bytes and 3 x 32 x 32 pixels)"
            )
        rows.append(raw.reshape(-1, header + 3072))
    records = np.concatenate(rows)
    return Pixels(np.ascontiguousarray(records[:, header:]).reshape(-1, 3, 32, 32), records[:, label].astype(np.int64))


def _words(path: Path | None) -> tuple[str, ...]:
    return () if path is None else tuple(b"".join(files.read(path)).decode("utf-8", "replace").split())


# --- arrays ----------------------------------------------------------------------------------------------------------


def open_arrays(spec: Mapping[str, Any], cache: Path | None = None) -> ImageSource:
    """``arrays``: one ``.npz`` with images and labels of training and, if there is one, of test.

    Names: ``x_train, y_train, x_test, y_test`` or ``train_images, train_labels, test_images, test_labels``; or
    ``train_dct, train_labels, test_dct, test_labels, quant``, coefficients of JPEGs of 32x32 (docs/images.md). Images
    are (n, H, W), (n, C, H, W) or (n, H, W, C), uint8 or floating; ``layout``: "auto", "nchw" or "nhwc".
    """
    layout = choice(spec, "layout", "auto", ("auto", "nchw", "nhwc"))

    def decode() -> Decoded:
        found = files.find("path", _patterns("arrays", spec, "an .npz file"))
        if len(found) != 1:
            raise StudyError(f"data.path: {len(found)} files; allowed is one .npz file")
        inputs = {"files": _fingerprints(found, cache), "layout": layout}
        (path,) = found.values()
        return remembered("arrays", inputs, lambda: _decode_npz(path, layout), cache)

    return make_source("arrays", spec, decode, own=("path", "layout"))


def _decode_npz(path: Path, layout: str) -> tuple[Pixels, Pixels | None, tuple[str, ...]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            present = set(archive.files)
            if set(_DCT_NAMES) | {"quant"} <= present:
                x, y, tx, ty = (archive[name] for name in _DCT_NAMES)
                tables = archive["quant"]
                return (
                    Pixels(decode_jpeg_dct(x, tables), _labels(y)),
                    Pixels(decode_jpeg_dct(tx, tables), _labels(ty)),
                    (),
                )
            for names in _NPZ_NAMES:
                if set(names[:2]) <= present:
                    train = Pixels(_images(archive[names[0]], layout), _labels(archive[names[1]]))
                    if not set(names[2:]) <= present:
                        return train, None, ()
                    return train, Pixels(_images(archive[names[2]], layout), _labels(archive[names[3]])), ()
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise StudyError(f"data.path: cannot read {path} as npz: {error}") from error
    raise StudyError(
        f"data.path: {path} holds {', '.join(sorted(present)) or 'nothing'}; allowed are "
        f"{' or '.join(', '.join(names) for names in _NPZ_NAMES)} (test may be missing)"
    )


def _images(x: np.ndarray, layout: str) -> np.ndarray:
    """Images as (n, C, H, W), uint8 or float32; raises ``StudyError`` where the channels cannot be told."""
    if x.dtype != np.uint8 and x.dtype.kind not in "fiub":
        raise StudyError(f"data.path: images of type {x.dtype}; allowed are whole or floating numbers")
    if x.dtype.kind in "iub" and x.dtype != np.uint8:
        if x.size and (int(x.min()) < 0 or int(x.max()) > 255):
            raise StudyError(f"data.path: {x.dtype} images from {x.min()} to {x.max()}; whole numbers may be 0 to 255")
        x = x.astype(np.uint8)
    elif x.dtype != np.uint8:
        x = x.astype(np.float32)
    if x.ndim == 3:
        return x[:, None]
    if x.ndim != 4 or 0 in x.shape[1:]:
        raise StudyError(f"data.path: images of shape {x.shape}; allowed are (n, H, W), (n, C, H, W), (n, H, W, C)")
    if layout == "auto":
        last, second = x.shape[3] in (1, 3, 4), x.shape[1] in (1, 3, 4)
        if last == second:
            raise StudyError(f"data.layout: images of shape {x.shape} do not tell where the channels are; allowed: "
                             "nchw, nhwc")  # fmt: skip
        layout = "nhwc" if last else "nchw"
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if layout == "nhwc" else x


def _labels(y: np.ndarray) -> np.ndarray:
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim != 1 or y.dtype.kind not in "iub":
        raise StudyError(f"data.path: labels {y.dtype} {y.shape}; allowed is one whole number an image, (n,)")
    return y.astype(np.int64)


# --- folders ---------------------------------------------------------------------------------------------------------


def open_folder(spec: Mapping[str, Any], cache: Path | None = None) -> ImageSource:
    """``image-folder``: pictures in one folder a class, numbered by the sorted names of the classes.

    ``path``: a folder with ``train/CLASS/...`` and ``test/CLASS/...`` (or ``val``, ``valid``), or with the class
    folders themselves, of which a part is then held out. ``side``: pictures are scaled so that the shorter side has so
    many pixels, and their middle is taken; null: they are all of one size. Grey if all are, else RGB. Needs Pillow.
    """
    side = integer(spec, "side", 0, 1, 4096) if spec.get("side") is not None else None

    def decode() -> Decoded:
        patterns = _patterns("image-folder", spec, "a folder with one folder a class")
        root = files.path_of("path", patterns[0])
        if len(patterns) != 1 or not root.is_dir():
            raise files.missing("path", root) if not root.exists() else StudyError(
                f"data.path: found {', '.join(patterns)}; allowed is one folder"
            )  # fmt: skip
        found = {name: path for name, path in files.find("path", patterns).items()
                 if path.suffix.lower() in _PICTURES}  # fmt: skip
        train, test = _sides(found)
        names = sorted({name.split("/")[-2] for name in (*train, *test)})
        if len(names) < 2:
            raise StudyError(f"data.path: {root} holds pictures of {len(names)} class folders; allowed are two or more")
        inputs = {"files": _fingerprints({**train, **test}, cache), "side": side}

        def read() -> tuple[Pixels, Pixels | None, tuple[str, ...]]:
            everything = pictures([*train.values(), *test.values()], side)
            labels = np.array([names.index(name.split("/")[-2]) for name in (*train, *test)], dtype=np.int64)
            cut = len(train)
            held_out = Pixels(everything[cut:], labels[cut:]) if test else None
            return Pixels(everything[:cut], labels[:cut]), held_out, tuple(names)

        return remembered("image-folder", inputs, read, cache)

    return make_source("image-folder", spec, decode, own=("path", "side"))


def _sides(found: Mapping[str, Path]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Pictures of training and test by name, the class being the last folder of the name."""
    tops = {name.split("/")[0] for name in found}
    held = next((word for word in ("test", "val", "valid", "validation") if word in tops), None)
    split = "train" in tops and held is not None
    train, test = {}, {}
    for name, path in found.items():
        parts = name.split("/")
        if len(parts) == (3 if split else 2):
            if parts[0] == held and split:
                test[name] = path
            elif not split or parts[0] == "train":
                train[name] = path
    if not train:
        raise StudyError(f"data.path: none of {len(found)} pictures lies in CLASS/ or in train/CLASS/")
    return train, test


def pictures(items: Iterable[Any], side: int | None) -> np.ndarray:
    """Picture files, or Pillow images, as uint8 (n, C, H, W); raises ``StudyError``, also where Pillow is missing."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise StudyError(f"data.source: pictures need Pillow ({error}): pip install 'isoloss[images]'") from error
    found, grey = [], True
    for item in items:
        try:
            picture = Image.open(item) if isinstance(item, str | Path) else item
            grey = grey and picture.mode in ("1", "L")
            picture = picture.convert("RGB")
        except (OSError, UnidentifiedImageError, ValueError) as error:
            raise StudyError(f"data.path: cannot read the picture {item}: {error}") from error
        found.append(np.asarray(picture if side is None else _scaled(picture, side)))
        if found[-1].shape != found[0].shape:
            raise StudyError(
                f"data.side: pictures of {found[0].shape[1]}x{found[0].shape[0]} and "
                f"{found[-1].shape[1]}x{found[-1].shape[0]}; give data.side to bring them to one size"
            )
    if not found:
        raise StudyError("data.path: no pictures (empty data set)")
    x = np.stack(found).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(x[:, :1] if grey else x)


def _scaled(picture: Any, side: int) -> Any:
    """The middle square after scaling the shorter side, with an antialiased bilinear filter."""
    from PIL import Image

    width, height = picture.size
    ratio = side / min(width, height)
    width, height = max(side, round(width * ratio)), max(side, round(height * ratio))
    left, top = (width - side) // 2, (height - side) // 2
    return picture.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + side, top + side))
