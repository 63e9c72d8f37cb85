"""Hugging Face `trainer_state.json`: alone, in checkpoints of one output folder, or in many output folders."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from isoloss.bridges.recorded import FINISHED, Recorded, Session, Setting, flat, joined
from isoloss.recipe.errors import StudyError

FILE = "trainer_state.json"
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
EMBEDDINGS = re.compile(r"(^|\.)(wte|wpe|lm_head|embed_\w+|\w*embeddings?|embed_out|cls\.predictions)(\.|$)")
"""Names of tensors that are embeddings, of tokens or of places, and the heads that mirror them."""
MOST_HEADER = 100_000_000


def read(source: Path, restarts: str = "sessions") -> list[Recorded]:
    """One run an output folder, from the state that went furthest, under the folder's path below `source`.

    Settings: the state's own numbers, `config.json` below `config.`, and of `model.safetensors` the number of
    parameters: `N` without embeddings, `N_total` with them. Pickled files are never opened. Raises StudyError for a
    state that is no JSON of the Trainer.
    """
    paths = sorted(source.rglob(FILE)) if source.is_dir() else [source]
    root = source if source.is_dir() else source.parent
    runs: dict[Path, list[Path]] = {}
    for path in paths:
        folder = path.parent.parent if CHECKPOINT.fullmatch(path.parent.name) else path.parent
        runs.setdefault(folder, []).append(path)
    found = []
    for folder, states in runs.items():
        # A source inside of an output folder is named after that folder.
        below = folder.relative_to(root).as_posix() if folder.is_relative_to(root) and folder != root else folder.name
        found.append(_run(below or folder.resolve().name, folder, states, restarts))
    return found


def _run(name: str, folder: Path, states: list[Path], restarts: str) -> Recorded:
    read_states = sorted(((_state(path), path) for path in states), key=lambda pair: pair[0]["global_step"])
    state, path = read_states[-1]
    made = Recorded(name, str(path))
    made.settings = flat({key: value for key, value in state.items() if isinstance(value, int | float | str)})
    made.settings |= _model([path.parent, folder, *(other.parent for _, other in reversed(read_states[:-1]))])
    logged: dict[str, tuple[list[float], list[float]]] = {}
    for entry in state["log_history"]:
        for key, value in entry.items():
            if key != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                steps, values = logged.setdefault(key, ([], []))
                steps.append(float(entry["step"]))
                values.append(float(value))
    made.series = {key: joined([Session(*pair)], restarts) for key, pair in logged.items()}
    for counter in ("num_input_tokens_seen", "total_flos"):
        if not state.get(counter):  # the Trainer did not count
            made.settings.pop(counter, None)
            made.series.pop(counter, None)
    most = state.get("max_steps") or 0
    made.state = FINISHED if state["global_step"] >= most else f"stopped at step {state['global_step']} of {most}"
    shared = {entry["step"]: entry for entry in state["log_history"] if "loss" in entry}
    for other, at in read_states[:-1]:
        differing = [e["step"] for e in other["log_history"] if "loss" in e and shared.get(e["step"], e) != e]
        if differing:
            made.notes.append(
                f"{at.parent.name} and {path.parent.name} differ from step {differing[0]} on: the training was started "
                f"again, and {path.parent.name} counts"
            )
    return made


def _state(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise StudyError(f"{path}: cannot be read as JSON ({error})") from None
    history = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(history, list) or not isinstance(state.get("global_step"), int):
        raise StudyError(
            f"{path}: has no log_history and global_step; allowed: what the Trainer of transformers writes"
        )
    if not all(isinstance(entry, dict) and isinstance(entry.get("step"), int | float) for entry in history):
        raise StudyError(
            f"{path}: an entry of log_history has no step; allowed: what the Trainer of transformers writes"
        )
    return state


def _model(folders: list[Path]) -> dict[str, Setting]:
    """What `config.json` and the header of the weights say, of the first folder that has them.

    Where no weights are kept, a config of a model that `transformers` knows gives the sizes.
    """
    found: dict[str, Setting] = {}
    sizes: dict[str, int] = {}
    raw = ""
    for folder in folders:
        config = folder / "config.json"
        if config.is_file() and not raw:
            try:
                values = json.loads(config.read_text(encoding="utf-8"))
            except ValueError:
                values = {}
            if isinstance(values, Mapping):
                raw = raw or json.dumps(values)
                found |= flat(values, "config.")
        sizes = sizes or _sizes(folder)
    sizes = sizes or (_built(raw) if raw else {})
    if sizes:
        found["N_total"] = sum(sizes.values())
        found["N"] = sum(size for tensor, size in sizes.items() if not EMBEDDINGS.search(tensor))
    return found


@cache
def _built(config: str) -> dict[str, int]:
    """Numbers of elements by parameter of the model that a config describes, made without memory for its weights."""
    values = json.loads(config)
    try:
        import torch
        import transformers

        made = transformers.AutoConfig.for_model(**values)
        kind = getattr(transformers, (values.get("architectures") or ["AutoModel"])[0])
        with torch.device("meta"):
            model = kind._from_config(made) if hasattr(kind, "_from_config") else kind.from_config(made)
    except Exception:  # the package is missing, or knows no such model: then N comes from the map
        return {}
    return {name: parameter.numel() for name, parameter in model.named_parameters()}


def _sizes(folder: Path) -> dict[str, int]:
    """Numbers of elements by tensor, from the headers of safetensors files; nothing else of them is read."""
    found: dict[str, int] = {}
    if (folder / "adapter_config.json").exists():
        return found
    for path in sorted(folder.glob("model*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= MOST_HEADER:
                return {}
            try:
                header = json.loads(file.read(length))
            except ValueError:
                return {}
        for name, tensor in header.items():
            if name != "__metadata__":
                size = 1
                for edge in tensor["shape"]:
                    size *= edge
                found[name] = size
    return found
