"""Data sources."""

from __future__ import annotations

from dataclasses import replace

from isoloss.recipe.entry import REQUIRED, Entry, Option

_TOKENIZER = Option("tokenizer", "text", "bytes", summary="`bytes`, or the path of a Hugging Face tokenizer.json")
_VALIDATION = Option("validation", "paths", None, summary="files to validate on; null: a part is held out")
_HOLDOUT = Option("holdout", "number", 0.1, 0.001, 0.5, summary="share that is held out for validation")
_SEED = Option("seed", "integer", 0, 0, 2**63 - 1, summary="seed of the generated data")
_SIDE = Option("side", "integer", None, 1, 4_096, summary="scale to this many pixels a side; null: all are of one size")
_IMAGES = (
    Option("classes", "text", None, summary="classes in use, as `0-4` or `1, 3, 5-7`, renumbered in that order"),
    Option("crop", "integer", 0, 0, 1_024, summary="training: pad by so many pixels, cut a window anywhere"),
    Option("flip", "boolean", False, summary="training: mirror left and right half of the time"),
    Option("cutout", "integer", 0, 0, 1_024, summary="training: side of a square that is blanked anywhere"),
    Option("fill", "number", 0.0, -1e6, 1e6, summary="value of padded pixels, in the units of the file"),
    Option("holdout", "number", 0.1, 0.001, 0.5, summary="share held out where there are no test images"),
)


def _source(name: str, summary: str, options: tuple[Option, ...], tags: tuple[str, ...]) -> Entry:
    return Entry(name, "data", summary, "isoloss.data:open_source", 1, options, tags)


def _tokens(name: str, summary: str, *options: Option) -> Entry:
    return _source(name, summary, options, ("tokens",))


def _images(name: str, summary: str, *own: Option, images: tuple[Option, ...] = _IMAGES) -> Entry:
    return _source(name, summary, (*own, *images), ("vectors", "images"))


ENTRIES = (
    _tokens(
        "stdlib-code",
        "Python sources of the running interpreter's standard library",
        _TOKENIZER,
        Option("strip_docs", "boolean", False, summary="leave the docstrings out"),
    ),
    _tokens("stdlib-docs", "English of the same installation: docstrings and pydoc topics", _TOKENIZER),
    _tokens(
        "text",
        "any text files, folders or globs, plain or gzip",
        Option("path", "paths", REQUIRED, summary="file, folder or glob, or a list of them"),
        _VALIDATION,
        _HOLDOUT,
        Option(
            "split",
            "word",
            "auto",
            choices=("auto", "files", "tail"),
            summary="hold out whole files, or the tail of the text",
        ),
        _TOKENIZER,
    ),
    _tokens(
        "tokens",
        "a memory map of token ids (.npy or .bin)",
        Option("path", "paths", REQUIRED, summary="file, or a list of them"),
        Option("vocabulary", "integer", REQUIRED, 2, 2**31 - 1, summary="number of token ids"),
        _VALIDATION,
        _HOLDOUT,
        Option(
            "dtype",
            "word",
            "uint16",
            choices=("uint8", "uint16", "int16", "uint32", "int32", "int64"),
            summary="type of the ids in a .bin file",
        ),
    ),
    _tokens(
        "synthetic",
        "a Markov chain of known entropy",
        Option("order", "integer", 1, 0, 8, summary="tokens that the next one depends on"),
        Option("vocabulary", "integer", 16, 2, 1_024, summary="number of token ids in use"),
        Option("pad_to", "integer", None, 2, 10**7, summary="token ids that models are made for; null: those in use"),
        Option("tokens", "integer", 1_000_000, 2, 10**9, summary="training tokens generated"),
        _SEED,
    ),
    _source(
        "blobs",
        "vectors in Gaussian classes",
        (
            Option("classes", "integer", 4, 2, 1_024, summary="number of classes"),
            Option(
                "features",
                "integer",
                None,
                1,
                65_536,
                summary="size of a vector, at least the classes; null: the larger of 16 and the classes",
            ),
            Option("samples", "integer", 10_000, 1, 10**8, summary="vectors generated"),
            Option(
                "separation",
                "number",
                2.0,
                0,
                100,
                summary="distance of class centres in standard deviations",
            ),
            _SEED,
        ),
        ("vectors",),
    ),
    _images(
        "digits",
        "1,797 handwritten digits of 8x8 that scikit-learn carries",
        images=(*_IMAGES[:-1], replace(_IMAGES[-1], default=0.3)),
    ),
    _images(
        "idx",
        "image files of the MNIST family (idx, plain or .gz)",
        Option("path", "paths", REQUIRED, summary="their folder, or a glob"),
    ),
    _images(
        "cifar",
        "CIFAR-10 or CIFAR-100, binary version",
        Option("path", "paths", REQUIRED, summary="the folder with the .bin files"),
        Option("labels", "word", "fine", choices=("fine", "coarse"), summary="which labels of CIFAR-100"),
    ),
    _images(
        "arrays",
        "images and labels in one .npz file",
        Option("path", "paths", REQUIRED, summary="the .npz file"),
        Option(
            "layout",
            "word",
            "auto",
            choices=("auto", "nchw", "nhwc"),
            summary="where the channels of 4-dimensional arrays are",
        ),
    ),
    _images(
        "image-folder",
        "pictures, one folder a class (needs Pillow)",
        Option("path", "paths", REQUIRED, summary="folder with CLASS/, or with train/CLASS/ and test/CLASS/"),
        _SIDE,
    ),
    _images(
        "huggingface",
        "images through Hugging Face datasets (extra)",
        Option("dataset", "text", None, summary="name on the Hub"),
        Option("config", "text", None, summary="its configuration"),
        Option("path", "paths", None, summary="folder it was saved to, in place of the name"),
        Option("train", "text", "train", summary="split that is trained on"),
        Option("test", "text", None, summary="split for validation; null: `test` if there is one"),
        Option("image", "text", "image", summary="column of the pictures"),
        Option("label", "text", "label", summary="column of the classes"),
        _SIDE,
    ),
    _images(
        "torchvision",
        "images through torchvision (extra)",
        Option("dataset", "text", REQUIRED, summary="name of a class in torchvision.datasets"),
        Option("path", "paths", None, summary="its root folder; null: below the cache"),
        Option("download", "boolean", False, summary="fetch what is missing"),
        _SIDE,
    ),
)
