"""Causal language models of `transformers` (extra `isoloss[transformers]`), imported only when asked for.

A model is made from a config and never downloaded. Weights of a saved model are read from safetensors alone; the
library maps their names to those of the model, so what fits there (no prefix, a tied head) fits here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoloss.recipe.errors import StudyError, nearest

if TYPE_CHECKING:
    import torch

    from isoloss.models.facts import ModelFacts

FAMILY = "transformers"
OWN = ("type", "attn_implementation")
"""Options that are no config options."""
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
UNUSED = ("use_cache", "is_encoder_decoder", "bos_token_id", "eos_token_id", "decoder_start_token_id")
"""Config options that decide nothing here, or that would make another kind of model."""
NO_MATTER = ("initializer", "summary_", "router_aux", "output_")
"""Beginnings of config options that do not change the function of given weights."""
PROBE = 8
"""Tokens that are enough to see whether a model looks ahead."""
EXACT = ("F32", "BF16", "F16")
"""Types of numbers that are float32 without rounding."""


def version() -> str:
    """What stands for the package in keys: "transformers 5.0.0". Raises StudyError where it is missing."""
    return f"transformers {_package().__version__}"


def configure(options: Mapping[str, Any], vocabulary: int, context: int) -> Any:
    """The config of a study's options; vocabulary and positions come from the data unless set, dropout is 0 unless set.

    Raises StudyError for a type that is no causal language model, and for options that it does not take.
    """
    transformers = _package()
    given = {name: value for name, value in options.items() if name not in OWN}
    kind = options.get("type")
    causal = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if kind not in causal:
        raise StudyError(
            f"model.type: found {kind!r}; allowed: a causal language model of transformers, such as llama, gpt2 or "
            f"qwen2{nearest(str(kind), causal)}"
        )
    with _told(f"model: transformers has no config of {kind}"), _quiet(transformers):
        made = transformers.CONFIG_MAPPING[kind]
        plain = made()
    if plain.is_encoder_decoder:
        raise StudyError(f"model.type: {kind} is an encoder and a decoder; allowed: a decoder alone, such as llama")
    aliases, known = dict(made.attribute_map), _own(plain)
    for name in given:
        if name not in known and name not in aliases:
            raise StudyError(
                f"model: {kind} takes no option {name!r}; it takes: {', '.join(known)}{nearest(name, known)}"
            )
    named: dict[str, Any] = {}
    for name, value in given.items():
        if named.setdefault(aliases.get(name, name), value) != value:
            raise StudyError(f"model: {name} and {aliases.get(name, name)} are two names of one option of {kind}")
    for name, least, where in (
        ("vocab_size", vocabulary, "the vocabulary of data"),
        ("max_position_embeddings", context, "data.context"),
    ):
        own = aliases.get(name, name)
        if own in known:
            found = named.setdefault(own, least)
            if not isinstance(found, int) or found < least:
                raise StudyError(f"model.{own}: found {found!r}; allowed: a whole number from {least}, {where}")
    dropout = {name: 0.0 for name, value in known.items() if "drop" in name and type(value) in (int, float)}
    ids = dict.fromkeys(SPECIAL)
    causally = {"is_decoder": True} if "is_decoder" in known else {}
    with _told(f"model: transformers cannot make the config of {kind}"), _quiet(transformers):
        config = made(**{**ids, **dropout, **causally, **named})
    if hasattr(config, "_experts_implementation"):
        config._experts_implementation = "eager"  # the grouped product is unknown to the counter of FLOPs
    return config


def build(*, vocabulary: int, context: int, **options: Any) -> torch.nn.Module:
    """A model with the library's own initialisation, drawn from the global generator; its parameters keep their names.

    It maps tokens (B, T) int64 to logits (B, T, V). ``options``: of `configure`, and attn_implementation. Raises
    StudyError for options that do not fit, and where the library cannot make the model.
    """
    transformers = _package()
    config = configure(options, vocabulary, context)
    with _told(f"model: transformers cannot make {options['type']}"), _quiet(transformers):
        made: torch.nn.Module = _class_of(config)._from_config(config, attn_implementation=_attention(options))
    return made


def facts(*, vocabulary: int, context: int, **options: Any) -> ModelFacts:
    """Facts of the model that `build` makes, counted on the CPU: the library's masks, and experts, need values.

    Raises StudyError for a model that looks ahead or cannot be run.
    """
    import torch

    from isoloss.models.count import count

    kind = options["type"]
    with torch.random.fork_rng(devices=[]), torch.no_grad(), _told(f"model: {kind} cannot read tokens"):
        torch.manual_seed(0)
        model: Any = build(vocabulary=vocabulary, context=context, **options).eval()
        head = model.get_output_embeddings()
        found = count(model, vocabulary=vocabulary, context=context, head=None if head is None else head.weight)
        tokens = torch.arange(min(context, PROBE)).remainder(vocabulary).repeat(2, 1)
        tokens[1, -1] = (tokens[0, -1] + 1) % vocabulary
        one, other = model(tokens)[:, :-1]
    if one.numel() and not torch.allclose(one, other, rtol=0, atol=1e-5 * float(one.abs().max())):
        raise StudyError(f"model.type: {kind} with these options sees what it is to predict; allowed: causal models")
    return found


def files(folder: Path) -> list[Path]:
    """The safetensors files of a saved model, one or those of its index; raises StudyError where there are none."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if (folder / "adapter_config.json").exists():
        raise StudyError(f"init.weights: {folder} holds an adapter; allowed: a whole model, so merge it first")
    if single.is_file():
        return [single]
    names = _json(index).get("weight_map") if index.is_file() else None
    if not isinstance(names, dict) or not names:
        pickled = ", ".join(sorted(path.name for path in folder.glob("*.bin"))[:3])
        also = f" ({pickled} is pickled, which is never read: save it with safe_serialization)" if pickled else ""
        raise StudyError(
            f"init.weights: {folder} has no model.safetensors and no index of shards{also}; allowed: a safetensors "
            "file, or a folder of save_pretrained"
        )
    shards = sorted({str(name) for name in names.values()})
    odd = [name for name in shards if Path(name).name != name or not name.endswith(".safetensors")]
    lost = [name for name in shards if not (folder / name).is_file()]
    if odd or lost:
        raise StudyError(
            f"init.weights: {index} names {', '.join((odd or lost)[:3])}, "
            f"{'which is no safetensors file beside it' if odd else 'missing there'}; allowed: all shards in one folder"
        )
    return [folder / name for name in shards]


def content(folder: Path) -> str:
    """SHA-256 over the content of a saved model's files, whatever they are called. Raises StudyError, OSError."""
    total = hashlib.sha256(b"transformers:")
    digests = []
    for path in files(folder):
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    total.update(" ".join(sorted(digests)).encode())
    return total.hexdigest()


def read(
    folder: Path, options: Mapping[str, Any], *, vocabulary: int, context: int, ignored: Callable[[str], bool]
) -> dict[str, torch.Tensor]:
    """The weights of a saved model as the float32 state_dict of the model that `build` makes.

    ``ignored``: names of tensors that need not fit (they stay as initialised). Raises StudyError that lists what does
    not fit: another type, vocabulary or config, and tensors that are missing, unexpected or of another shape.
    """
    import torch

    config = configure(options, vocabulary, context)
    raw = _json(folder / "config.json")
    differ = _differences(config, raw, folder)
    tensors = _tensors(folder)
    # The library reads no file: it maps names, and ties what belongs together.
    with (
        torch.random.fork_rng(devices=[]),
        _told(f"init.weights: transformers cannot read {folder}"),
        _quiet(_package()),
    ):
        model, found = _class_of(config).from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            attn_implementation=_attention(options),
        )
    shapes = {name: f"{name} {list(theirs)} against {list(ours)}" for name, theirs, ours in found["mismatched_keys"]}
    faults = {
        "missing": {name: name for name in found["missing_keys"] if name not in shapes},
        "unexpected": {name: name for name in found["unexpected_keys"]},
        "of another shape": shapes,
    }
    told = []
    for words, names in faults.items():
        listed = [text for name, text in sorted(names.items()) if not ignored(name)]
        told += [f"{_some(listed)} {words}"] if listed else []
    if differ:
        told.append(f"in config.json {_some(differ)} of the model")
    if told:
        raise StudyError(
            f"init.weights: {folder} does not fit the model: {'; '.join(told)}; "
            "allowed: in model, the type and options of its config.json"
        )
    return {name: value.detach().float() if value.is_floating_point() else value for name, value in
            model.state_dict().items()}  # fmt: skip


def _differences(config: Any, raw: Mapping[str, Any], folder: Path) -> list[str]:
    """What of a saved config changes the function of its weights and is not so in the model's."""
    theirs_type, ours_type = raw.get("model_type"), type(config).model_type
    if theirs_type != ours_type:
        raise StudyError(
            f"init.weights: {folder} is a model of type {theirs_type!r}; allowed: {ours_type!r}, which is model.type"
        )
    with _told(f"init.weights: transformers cannot read {folder / 'config.json'}"), _quiet(_package()):
        theirs, ours = _own(type(config).from_dict(dict(raw))), _own(config)
    aliases = dict(config.attribute_map)
    vocabulary, positions = (aliases.get(name, name) for name in ("vocab_size", "max_position_embeddings"))
    if theirs.get(vocabulary) != ours.get(vocabulary):
        raise StudyError(
            f"init.weights: {folder} has a vocabulary of {theirs.get(vocabulary)}, the model {ours.get(vocabulary)}; "
            f"allowed: data of its tokenizer, and model.{vocabulary}: {theirs.get(vocabulary)} if the ids of data are "
            "only the first of them"
        )
    rope = ours.get("rope_parameters") or ours.get("rope_scaling") or {}
    rotary = isinstance(rope, dict) and rope.get("rope_type", "default") == "default"
    return [
        f"{name} {theirs.get(name)!r} against {ours.get(name)!r}"
        for name in sorted(ours)
        if theirs.get(name) != ours.get(name)
        and "drop" not in name
        and name != "pad_token_id"
        and not name.startswith(NO_MATTER)
        # Positions of a table have a shape, which is compared; where they are turned, any number of them will do.
        and not (rotary and name == positions)
    ]


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a saved model, floats as float32. Raises StudyError for what float32 cannot hold exactly."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, torch.Tensor] = {}
    for path in files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (it is no mapping)
                    kind = file.get_slice(name).get_dtype()
                    value = file.get_tensor(name)
                    if value.is_floating_point() and kind not in EXACT:
                        raise StudyError(
                            f"init.weights: {name} in {path} has type {kind}; allowed: {', '.join(EXACT)}, which "
                            "float32 holds exactly"
                        )
                    found[name] = value.float() if value.is_floating_point() else value
        except (OSError, SafetensorError) as error:
            raise StudyError(f"init.weights: {path} cannot be read as safetensors: {error}") from error
    return found


def _class_of(config: Any) -> Any:
    return _adapted(_package().MODEL_FOR_CAUSAL_LM_MAPPING[type(config)])


def _attention(options: Mapping[str, Any]) -> str:
    return str(options.get("attn_implementation", "eager"))


@lru_cache(maxsize=64)
def _adapted(kind: Any) -> Any:
    """A class of the library that maps tokens to logits, with nothing else changed."""

    def forward(self: Any, tokens: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = kind.forward(self, input_ids=tokens, use_cache=False).logits
        return logits

    def convert(self: Any, change: Callable[..., Any], recurse: bool = True) -> Any:
        # Tables of positions are computed, not trained: in bfloat16 they would turn by other angles.
        kept = [
            (module, name, value)
            for module in self.modules()
            for name, value in module._buffers.items()
            if name in module._non_persistent_buffers_set and value is not None and value.is_floating_point()
        ]
        kind._apply(self, change, recurse)
        for module, name, value in kept:
            new = module._buffers[name]
            if new.dtype != value.dtype:
                module._buffers[name] = value.to(new.device)
        return self

    # The library looks for the source of a class by its module.
    return type(kind.__name__, (kind,), {"forward": forward, "_apply": convert, "__module__": kind.__module__})


def _own(config: Any) -> dict[str, Any]:
    """What a config says of its own architecture, beside what all configs have."""
    common = set(_package().PretrainedConfig().to_dict()) - {"tie_word_embeddings", "pad_token_id"}
    found = config.to_dict()
    found.setdefault("tie_word_embeddings", getattr(config, "tie_word_embeddings", False))
    return {name: value for name, value in found.items() if name not in {*common, *UNUSED, "model_type"}}


def _package() -> Any:
    try:
        import transformers
    except (ImportError, RuntimeError) as error:  # a torchvision for another torch fails with RuntimeError
        raise StudyError(
            f"model: family transformers needs the package transformers ({error}): pip install 'isoloss[transformers]'"
        ) from error
    return transformers


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Errors of the library as one message."""
    try:
        yield
    except StudyError:
        raise
    except Exception as error:  # whatever one of some two hundred models does
        raise StudyError(f"{what}: {type(error).__name__}: {' '.join(str(error).split())}") from error


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without its warnings and progress bars: what matters is said in messages of our own."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise StudyError(f"init.weights: {path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise StudyError(f"init.weights: {path} is no JSON object")
    return found


def _some(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
