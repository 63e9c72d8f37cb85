"""The catalogue of names a study may use, with every option's kind, range and default.

A study is validated from these records alone, so nothing heavy is imported to check one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from isoloss.recipe.errors import StudyError, nearest


class Missing(Enum):
    """The default of an option that has none."""

    REQUIRED = "required"


REQUIRED = Missing.REQUIRED

OPTION_KINDS = ("integer", "number", "boolean", "word", "text", "paths", "pair", "duration", "drops")


@dataclass(frozen=True)
class Option:
    """One option of an entry.

    ``kind``: one of OPTION_KINDS ("pair": two numbers; "paths": one text or a list; "drops": a list of
    {at: duration, factor: number}). ``low`` and ``high`` bound numbers, and are excluded where ``open_low``
    or ``open_high``. A default of None means that null is allowed and leaves it to the method.
    """

    name: str
    kind: str
    default: object = REQUIRED
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    summary: str = ""
    open_low: bool = False
    open_high: bool = False

    @property
    def required(self) -> bool:
        """Whether a study must give it."""
        return self.default is REQUIRED


@dataclass(frozen=True)
class Entry:
    """One name a study may use: what it is, where its code is (``module:attribute``), and its options.

    ``semantics`` is raised by hand when the numbers it produces change: it is part of every key. ``tags`` say
    what a name can do: data "tokens" or "vectors", a schedule's "decay" (also a cooldown) or "trunk" (may be
    followed by a cooldown), a task's and a model's "tokens" or "vectors" ("images": of images alone).
    """

    name: str
    kind: str
    summary: str
    target: str
    semantics: int
    options: tuple[Option, ...] = ()
    tags: tuple[str, ...] = ()

    def option(self, name: str) -> Option:
        """The option of that name; KeyError if there is none."""
        for option in self.options:
            if option.name == name:
                return option
        raise KeyError(name)


_LR = Option("lr", "number", REQUIRED, 0, 100, open_low=True, summary="peak learning rate")
_EVERY = Option("every", "duration", "1 update", summary="distance between samples")
_TOKENIZER = Option("tokenizer", "text", "bytes", summary="`bytes`, or the path of a Hugging Face tokenizer.json")
_VALIDATION = Option("validation", "paths", None, summary="files to validate on; null: a part is held out")
_HOLDOUT = Option("holdout", "number", 0.1, 0.001, 0.5, summary="share that is held out for validation")
_FINAL = Option("final", "number", 0.0, 0, 1, summary="fraction of the peak at the end")
_HORIZON = Option(
    "horizon",
    "duration",
    None,
    summary="where the form would end, if later than the run; null: at the run's end",
)
_DECAY = (_FINAL, _HORIZON)
_WIDTH = Option("width", "integer", REQUIRED, 1, 65_536, summary="size of a hidden vector")
_DEPTH = Option("depth", "integer", REQUIRED, 1, 1_024, summary="number of blocks")
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


def _decay(name: str, summary: str) -> Entry:
    return Entry(name, "schedule", summary, f"isoloss.methods.schedules:{name}", 1, _DECAY, ("decay",))


_ENTRIES = (
    Entry(
        "gpt",
        "model",
        "decoder ladder: RMSNorm, rotary positions, SwiGLU or GELU",
        "isoloss.models.gpt:GPT",
        1,
        (
            _WIDTH,
            _DEPTH,
            Option("head_size", "integer", 16, 2, 1_024, summary="size of a head; even, and divides the width"),
            Option("mlp", "word", "swiglu", choices=("swiglu", "gelu"), summary="feed-forward kind"),
            Option(
                "mlp_ratio",
                "number",
                None,
                0,
                64,
                open_low=True,
                summary="hidden size over width, rounded up to 8s; null: 8/3 for swiglu, 4 for gelu",
            ),
            Option("tied", "boolean", False, summary="one table for the embedding and the output head"),
        ),
        ("tokens",),
    ),
    Entry(
        "mlp",
        "model",
        "classifier of vectors: linear layers with ReLU between",
        "isoloss.models.mlp:MLP",
        1,
        (_WIDTH, Option("depth", "integer", REQUIRED, 1, 1_024, summary="number of hidden layers")),
        ("vectors",),
    ),
    Entry(
        "f1",
        "model",
        "perceptron with BatchNorm: F1 of Keskar et al. 2017",
        "isoloss.models.mlp:F1",
        1,
        (
            Option("width", "integer", 512, 1, 65_536, summary="size of a hidden vector"),
            Option("depth", "integer", 5, 1, 1_024, summary="number of hidden layers"),
        ),
        ("vectors",),
    ),
    Entry(
        "c1",
        "model",
        "shallow conv net with BatchNorm: C1 of Keskar et al. 2017",
        "isoloss.models.convnet:C1",
        1,
        (
            Option("width", "integer", 64, 1, 65_536, summary="filters of a convolution; 6 and 3 times it follow"),
            Option("dropout", "number", 0.5, 0, 1, open_high=True, summary="share dropped behind a hidden layer"),
        ),
        ("vectors", "images"),
    ),
    Entry(
        "resnet",
        "model",
        "residual network for small images (He et al. 2016, section 4.2)",
        "isoloss.models.resnet:ResNet",
        1,
        (
            Option("depth", "integer", REQUIRED, 8, 6_002, summary="weighted layers, 6 n + 2"),
            Option("width", "integer", 16, 1, 65_536, summary="filters of the first of three stages"),
            Option(
                "shortcut",
                "word",
                "pad",
                choices=("pad", "projection"),
                summary="where shapes differ: zero channels, or a 1x1 convolution with BatchNorm",
            ),
        ),
        ("vectors", "images"),
    ),
    Entry(
        "lstm",
        "model",
        "recurrent language model (Zaremba et al. 2014)",
        "isoloss.models.lstm:LSTM",
        1,
        (
            _WIDTH,
            Option("depth", "integer", REQUIRED, 1, 1_024, summary="number of layers"),
            Option("dropout", "number", 0.0, 0, 1, open_high=True, summary="share dropped between layers"),
            Option("tied", "boolean", False, summary="one table for the embedding and the output head"),
        ),
        ("tokens",),
    ),
    Entry(
        "stdlib-code",
        "data",
        "Python sources of the running interpreter's standard library",
        "isoloss.data:open_source",
        1,
        (_TOKENIZER, Option("strip_docs", "boolean", False, summary="leave the docstrings out")),
        ("tokens",),
    ),
    Entry(
        "stdlib-docs",
        "data",
        "English of the same installation: docstrings and pydoc topics",
        "isoloss.data:open_source",
        1,
        (_TOKENIZER,),
        ("tokens",),
    ),
    Entry(
        "text",
        "data",
        "any text files, folders or globs, plain or gzip",
        "isoloss.data:open_source",
        1,
        (
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
        ("tokens",),
    ),
    Entry(
        "tokens",
        "data",
        "a memory map of token ids (.npy or .bin)",
        "isoloss.data:open_source",
        1,
        (
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
        ("tokens",),
    ),
    Entry(
        "synthetic",
        "data",
        "a Markov chain of known entropy",
        "isoloss.data:open_source",
        1,
        (
            Option("order", "integer", 1, 0, 8, summary="tokens that the next one depends on"),
            Option("vocabulary", "integer", 16, 2, 1_024, summary="number of token ids"),
            Option("tokens", "integer", 1_000_000, 2, 10**9, summary="training tokens generated"),
            _SEED,
        ),
        ("tokens",),
    ),
    Entry(
        "blobs",
        "data",
        "vectors in Gaussian classes",
        "isoloss.data:open_source",
        1,
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
    Entry(
        "digits",
        "data",
        "1,797 handwritten digits of 8x8 that scikit-learn carries",
        "isoloss.data:open_source",
        1,
        (*_IMAGES[:-1], replace(_IMAGES[-1], default=0.3)),
        ("vectors", "images"),
    ),
    Entry(
        "idx",
        "data",
        "image files of the MNIST family (idx, plain or .gz)",
        "isoloss.data:open_source",
        1,
        (Option("path", "paths", REQUIRED, summary="their folder, or a glob"), *_IMAGES),
        ("vectors", "images"),
    ),
    Entry(
        "cifar",
        "data",
        "CIFAR-10 or CIFAR-100, binary version",
        "isoloss.data:open_source",
        1,
        (
            Option("path", "paths", REQUIRED, summary="the folder with the .bin files"),
            Option("labels", "word", "fine", choices=("fine", "coarse"), summary="which labels of CIFAR-100"),
            *_IMAGES,
        ),
        ("vectors", "images"),
    ),
    Entry(
        "arrays",
        "data",
        "images and labels in one .npz file",
        "isoloss.data:open_source",
        1,
        (
            Option("path", "paths", REQUIRED, summary="the .npz file"),
            Option(
                "layout",
                "word",
                "auto",
                choices=("auto", "nchw", "nhwc"),
                summary="where the channels of 4-dimensional arrays are",
            ),
            *_IMAGES,
        ),
        ("vectors", "images"),
    ),
    Entry(
        "image-folder",
        "data",
        "pictures, one folder a class (needs Pillow)",
        "isoloss.data:open_source",
        1,
        (
            Option("path", "paths", REQUIRED, summary="folder with CLASS/, or with train/CLASS/ and test/CLASS/"),
            _SIDE,
            *_IMAGES,
        ),
        ("vectors", "images"),
    ),
    Entry(
        "huggingface",
        "data",
        "images through Hugging Face datasets (extra)",
        "isoloss.data:open_source",
        1,
        (
            Option("dataset", "text", None, summary="name on the Hub"),
            Option("config", "text", None, summary="its configuration"),
            Option("path", "paths", None, summary="folder it was saved to, in place of the name"),
            Option("train", "text", "train", summary="split that is trained on"),
            Option("test", "text", None, summary="split for validation; null: `test` if there is one"),
            Option("image", "text", "image", summary="column of the pictures"),
            Option("label", "text", "label", summary="column of the classes"),
            _SIDE,
            *_IMAGES,
        ),
        ("vectors", "images"),
    ),
    Entry(
        "torchvision",
        "data",
        "images through torchvision (extra)",
        "isoloss.data:open_source",
        1,
        (
            Option("dataset", "text", REQUIRED, summary="name of a class in torchvision.datasets"),
            Option("path", "paths", None, summary="its root folder; null: below the cache"),
            Option("download", "boolean", False, summary="fetch what is missing"),
            _SIDE,
            *_IMAGES,
        ),
        ("vectors", "images"),
    ),
    Entry(
        "adamw",
        "optimizer",
        "Adam with decoupled weight decay (Loshchilov and Hutter 2019)",
        "torch.optim:AdamW",
        1,
        (
            _LR,
            Option(
                "betas",
                "pair",
                (0.9, 0.95),
                0,
                1,
                open_high=True,
                summary="decay of the first and second moment",
            ),
            Option("eps", "number", 1e-8, 0, 1, open_low=True, summary="added to the root of the second moment"),
            Option(
                "weight_decay",
                "number",
                0.1,
                0,
                10,
                summary="decoupled weight decay, times the learning rate",
            ),
        ),
    ),
    Entry(
        "sgd",
        "optimizer",
        "stochastic gradient descent with momentum (Sutskever et al. 2013)",
        "torch.optim:SGD",
        1,
        (
            _LR,
            Option("momentum", "number", 0.9, 0, 1, open_high=True, summary="decay of the velocity"),
            Option("nesterov", "boolean", True, summary="look ahead along the velocity; needs momentum above 0"),
            Option("weight_decay", "number", 0.0, 0, 10, summary="added to the gradient, times the weights"),
        ),
    ),
    Entry("constant", "schedule", "the peak, held", "isoloss.methods.schedules:multiplier", 1, (), ("trunk",)),
    _decay("linear", "1 - x"),
    _decay("cosine", "(1 + cos(pi x)) / 2"),
    _decay("one_minus_sqrt", "1 - sqrt(x)"),
    _decay("mirror_cosine", "2 (1 - x) - (1 + cos(pi x)) / 2"),
    _decay("square", "1 - x^2"),
    Entry(
        "exponential",
        "schedule",
        "final^x",
        "isoloss.methods.schedules:exponential",
        1,
        (
            Option("final", "number", 0.1, 0, 1, open_low=True, summary="fraction of the peak at the end"),
            _HORIZON,
        ),
        ("decay",),
    ),
    Entry(
        "inverse_sqrt",
        "schedule",
        "sqrt(W / u) after a warm-up of W updates",
        "isoloss.methods.schedules:inverse_sqrt",
        1,
    ),
    Entry(
        "steps",
        "schedule",
        "drops by given factors at given moments",
        "isoloss.methods.schedules:steps",
        1,
        (Option("drops", "drops", REQUIRED, summary="list of {at: duration, factor: number in (0, 1]}"),),
        ("trunk",),
    ),
    Entry(
        "window",
        "average",
        "mean of the last updates (Izmailov et al. 2018)",
        "isoloss.methods.averages:WindowAverage",
        1,
        (Option("length", "duration", REQUIRED, summary="how much of the run's end is averaged"), _EVERY),
    ),
    Entry(
        "ema",
        "average",
        "exponential moving average (Polyak and Juditsky 1992)",
        "isoloss.methods.averages:EMA",
        1,
        (
            Option("decay", "number", REQUIRED, 0, 1, open_low=True, open_high=True, summary="weight of the past"),
            _EVERY,
        ),
    ),
    Entry(
        "lawa",
        "average",
        "mean of the latest snapshots (Kaddour 2022)",
        "isoloss.methods.averages:LAWA",
        1,
        (
            Option("count", "integer", REQUIRED, 1, 10_000, summary="number of snapshots"),
            Option("every", "duration", REQUIRED, summary="distance between snapshots"),
        ),
    ),
    Entry(
        "language-modelling",
        "task",
        "next-token prediction, nats per token",
        "isoloss.train.tasks:LanguageModelling",
        1,
        tags=("tokens",),
    ),
    Entry(
        "classification",
        "task",
        "class prediction, nats per sample, accuracy",
        "isoloss.train.tasks:Classification",
        1,
        tags=("vectors",),
    ),
    Entry(
        "chinchilla",
        "law",
        "E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, equation 10)",
        "isoloss.laws.forms.additive:Chinchilla",
        1,
    ),
    Entry("power", "law", "E + A / x^alpha in one variable", "isoloss.laws.forms.one_variable:M2", 1),
)

_BY_KIND: dict[str, dict[str, Entry]] = {}
for _entry in _ENTRIES:
    _BY_KIND.setdefault(_entry.kind, {})[_entry.name] = _entry

KINDS = tuple(_BY_KIND)


def names(kind: str, tag: str | None = None) -> tuple[str, ...]:
    """Names of a kind in the catalogue's order; with ``tag``, those that carry it. KeyError: no such kind."""
    return tuple(name for name, entry in _BY_KIND[kind].items() if tag is None or tag in entry.tags)


def get(kind: str, name: str) -> Entry:
    """The entry of that name; StudyError with the allowed names and the nearest one."""
    entries = _BY_KIND[kind]
    if name not in entries:
        raise StudyError(f"{kind}: found {name!r}; allowed: {', '.join(entries)}{nearest(str(name), entries)}")
    return entries[name]
