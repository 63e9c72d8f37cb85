"""Model families."""

from __future__ import annotations

from isoloss.recipe.entry import REQUIRED, Entry, Option

_DEPTH = Option("depth", "integer", REQUIRED, 1, 1_024, summary="number of blocks")
_WIDTH = Option("width", "integer", REQUIRED, 1, 65_536, summary="size of a hidden vector")
_TRANSFER = (
    Option(
        "parametrisation",
        "word",
        "standard",
        choices=("standard", "mup"),
        summary="initial values and learning rates: as they are, or such that one lr serves all widths (muP)",
    ),
    Option(
        "base_width",
        "integer",
        None,
        1,
        65_536,
        summary="mup: width that the learning rate is meant for; nothing changes there",
    ),
)


ENTRIES = (
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
            *_TRANSFER,
        ),
        ("tokens",),
    ),
    Entry(
        "mlp",
        "model",
        "classifier of vectors: linear layers with ReLU between",
        "isoloss.models.mlp:MLP",
        1,
        (_WIDTH, Option("depth", "integer", REQUIRED, 1, 1_024, summary="number of hidden layers"), *_TRANSFER),
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
            *_TRANSFER,
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
        "transformers",
        "model",
        "causal language model of the installed transformers (isoloss[transformers]); takes the options of its config",
        "isoloss.models.hugging_face:build",
        1,
        (
            Option("type", "text", REQUIRED, summary="model_type of its config: llama, gpt2, qwen2 and others"),
            Option(
                "attn_implementation",
                "word",
                "eager",
                choices=("eager", "sdpa"),
                summary="attention written out, or PyTorch's scaled_dot_product_attention",
            ),
        ),
        ("tokens", "open"),
    ),
)
