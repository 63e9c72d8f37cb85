"""Checkpoints of other people's loops: safetensors or ``torch.save``, one file or a folder, read without running code.

A checkpoint has parts: ``model`` and ``optimizer`` (state dicts), ``scheduler`` and ``update``, where it has them. They
lie under usual names, or where ``names`` says: ``"net"`` or ``"states.0"`` inside a file, ``"weights.safetensors"`` or
``"training.pt:optimizer"`` in a folder. What is written back has the same files, names and dtypes.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from isoloss.recipe.errors import StudyError, nearest

USUAL: dict[str, tuple[str, ...]] = {
    "model": ("model", "state_dict", "model_state_dict", "net", "pytorch_model"),
    "optimizer": ("optimizer", "optimizer_state_dict", "optim"),
    "scheduler": ("scheduler", "lr_scheduler", "scheduler_state_dict"),
    "update": ("update", "global_step", "step", "iteration", "iter_num", "updates"),
}
_TORCH = (".pt", ".pth", ".bin", ".ckpt")
_GROUPS = "param_groups"


@dataclass
class _File:
    """One file: its content (tensors by name, or what was saved) and the text beside the tensors of safetensors."""

    path: Path
    content: Any
    beside: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        if path.suffix == ".safetensors":
            save_file({name: tensor.contiguous() for name, tensor in self.content.items()}, path, self.beside or None)
        elif path.suffix == ".json":
            path.write_text(json.dumps(self.content, indent=2) + "\n")
        else:
            torch.save(self.content, path)


@dataclass(frozen=True)
class _Place:
    """Where a part is: in a file (several of shards), at a path of keys inside it."""

    files: tuple[_File, ...]
    keys: tuple[str, ...] = ()

    def get(self) -> Any:
        if len(self.files) > 1:
            return {name: tensor for each in self.files for name, tensor in each.content.items()}
        return _at(self.files[0].content, self.keys)

    def put(self, value: Any) -> None:
        if len(self.files) > 1:
            for each in self.files:
                each.content = {name: value[name] for name in each.content}
        elif not self.keys:
            self.files[0].content = value
        else:
            above = _at(self.files[0].content, self.keys[:-1])
            above[int(self.keys[-1]) if isinstance(above, list) else self.keys[-1]] = value


class Checkpoint:
    """A checkpoint that was read; ``Checkpoint(path, names)`` raises ``StudyError`` for what cannot be used."""

    def __init__(self, path: Path, names: Mapping[str, str | None] | None = None) -> None:
        names = dict(names or {})
        for name in names:
            if name not in USUAL:
                raise StudyError(f"names: found {name!r}; allowed: {', '.join(USUAL)}{nearest(name, USUAL)}")
        self.path, self.folder = path, path.is_dir()
        paths = sorted(p for p in path.iterdir() if p.is_file()) if self.folder else [path]
        self._read: dict[str, _File] = {}
        self._paths = {p.name: p for p in paths}
        self._absent = {name for name, place in names.items() if place is None}
        self._places: dict[str, _Place] = {}
        for part in USUAL:
            if part in self._absent:
                continue
            given = names.get(part)
            place = self._usual(part) if given is None else self._given(part, given)
            if place is not None:
                self._places[part] = place

    def _open(self, name: str) -> _File:
        if name not in self._read:
            self._read[name] = _read(self._paths[name])
        return self._read[name]

    def _usual(self, part: str) -> _Place | None:
        if not self.folder:
            file = self._open(self.path.name)
            if file.path.suffix == ".safetensors":
                return _Place((file,)) if part == "model" else None
            return _inside(file, part)
        if part == "update":
            candidates = [name for name in self._paths if name.endswith(".json")]
            candidates += list(self._read)  # what was opened for the other parts
            return next((place for name in candidates if (place := _inside(self._open(name), part))), None)
        for usual in USUAL[part]:
            shards = [n for n in self._paths if re.fullmatch(rf"{usual}-\d+-of-\d+\.safetensors", n)]
            whole = [f"{usual}{ending}" for ending in (".safetensors", *_TORCH) if f"{usual}{ending}" in self._paths]
            if whole:
                file = self._open(whole[0])
                return _inside(file, part) or _Place((file,))
            if shards:
                return _Place(tuple(self._open(name) for name in shards))
        single = [name for name in self._paths if Path(name).suffix in _TORCH]
        return _inside(self._open(single[0]), part) if len(single) == 1 else None

    def _given(self, part: str, given: str) -> _Place:
        name, _, inside = given.partition(":") if self.folder else (self.path.name, "", given)
        if name not in self._paths:
            raise StudyError(
                f"{self.path}: no file {name!r} for the {part}; found: {', '.join(self._paths)}"
                f"{nearest(name, self._paths)}"
            )
        place = _Place((self._open(name),), tuple(inside.split(".")) if inside else ())
        try:
            place.get()
        except (KeyError, IndexError, TypeError, ValueError):
            found = place.files[0].content
            some = ", ".join(map(str, found)) if isinstance(found, Mapping) else type(found).__name__
            raise StudyError(f"{self.path}: no {inside!r} for the {part} in {name}; found: {some}") from None
        return place

    @property
    def model(self) -> dict[str, Tensor]:
        """Weights and buffers by name."""
        found = self._part("model")
        tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)} if found else {}
        if not tensors:
            raise StudyError(f"{self.path}: the model in it is no mapping of names to tensors")
        return tensors

    @property
    def optimizer(self) -> dict[str, Any] | None:
        """State dict of the optimizer; None where ``names`` says that there is none."""
        if "optimizer" in self._absent:
            return None
        found = self._part("optimizer")
        if self._flat:
            found = unflatten(found, self._places["optimizer"].files[0].beside)
        if not isinstance(found, Mapping) or "state" not in found:
            raise StudyError(f"{self.path}: the optimizer in it is no state_dict of a torch optimizer")
        return dict(found)

    @property
    def scheduler(self) -> Any:
        """State dict of a scheduler; None where there is none."""
        return self._places["scheduler"].get() if "scheduler" in self._places else None

    @property
    def update(self) -> int | None:
        """Updates taken; None where the checkpoint does not say."""
        if "update" in self._places:
            return int(self._places["update"].get())
        for file in self._read.values():
            for name in USUAL["update"]:
                if str(file.beside.get(name, "")).isdigit():
                    return int(file.beside[name])
        return None

    @property
    def _flat(self) -> bool:
        place = self._places["optimizer"]
        return place.files[0].path.suffix == ".safetensors"

    def _part(self, part: str) -> Any:
        if part not in self._places:
            here = ", ".join(self._paths)
            inside = [str(k) for f in self._read.values() if isinstance(f.content, Mapping) for k in f.content][:8]
            raise StudyError(
                f"{self.path}: no {part} found (files: {here}; names in them: {', '.join(inside)}); allowed: one of "
                f"the names {', '.join(USUAL[part])}, or names = {{{part!r}: ...}} in the adapter"
                + (", None if it has no state" if part == "optimizer" else "")
            )
        return self._places[part].get()

    def write(self, out: Path, model: Mapping[str, Tensor], optimizer: dict[str, Any] | None, scheduler: dict[str, Any],
              update: int) -> None:  # fmt: skip
        """Write the same files with these parts in them to ``out``, which appears at once. Raises ``StudyError``."""
        before = self.model
        self._places["model"].put({name: model[name].detach().cpu().to(old.dtype) for name, old in before.items()})
        if optimizer is not None:
            self._put_optimizer(optimizer)
        if "scheduler" in self._places:
            self._places["scheduler"].put(scheduler)
        if "update" in self._places:
            self._places["update"].put(update)
        for file in self._read.values():
            for name in USUAL["update"]:
                if name in file.beside:
                    file.beside[name] = str(update)
        try:
            if self.folder:
                made = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
                for name, path in self._paths.items():
                    if name in self._read:
                        self._read[name].save(made / name)
                    else:
                        shutil.copyfile(path, made / name)
                made.chmod(0o755)
                os.rename(made, out)
            else:
                made = out.with_name(f".{out.stem}-{os.getpid()}{out.suffix}")
                self._read[self.path.name].save(made)
                os.replace(made, out)
        except OSError as error:
            raise StudyError(f"--out: cannot write {out}: {error.strerror or error}") from error

    def _put_optimizer(self, state: dict[str, Any]) -> None:
        place = self._places["optimizer"]
        if self._flat:
            tensors, beside = flatten(state)
            place.put(tensors)
            place.files[0].beside |= beside
        else:
            place.put(state)


def flatten(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """An optimizer's ``state_dict()`` as (tensors, metadata) for ``safetensors.torch.save_file``.

    Tensors are named ``state.<parameter number>.<entry>``; the groups are JSON under ``param_groups``, the entries that
    are no tensors under ``plain``. Raises ``ValueError`` for an entry that is neither a tensor nor plain JSON.
    """
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for number, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"state.{number}.{name}"] = value.detach().cpu().contiguous()
            else:
                plain[f"state.{number}.{name}"] = value
    groups = [{k: v.item() if isinstance(v, Tensor) else v for k, v in group.items()} for group in state[_GROUPS]]
    try:
        return tensors, {_GROUPS: json.dumps(groups), "plain": json.dumps(plain)}
    except TypeError as error:
        raise ValueError(f"flatten: the optimizer's state is no tensors and plain JSON: {error}") from None


def unflatten(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Any]:
    """The ``state_dict`` that ``flatten`` saw; without metadata, only its state."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **json.loads(metadata.get("plain", "{}"))}.items():
        found = re.fullmatch(r"state\.(\d+)\.(.+)", name)
        if found is None:
            raise StudyError(f"optimizer: a tensor is called {name!r}; allowed: state.<parameter number>.<entry>")
        state.setdefault(int(found[1]), {})[found[2]] = value
    groups = json.loads(metadata[_GROUPS]) if _GROUPS in metadata else None
    return {"state": state} if groups is None else {"state": state, _GROUPS: groups}


def _read(path: Path) -> _File:
    """One file's content. Raises ``StudyError`` where it is damaged, or holds code."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as opened:
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
                return _File(path, tensors, dict(opened.metadata() or {}))
        if path.suffix == ".json":
            return _File(path, json.loads(path.read_text()))
        return _File(path, torch.load(path, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError as error:
        which = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise StudyError(
            f"{path}: it holds Python objects{f' ({which[1]})' if which else ''}, and reading them would run code from "
            "the file, so it was not read; allowed: safetensors, or torch.save of tensors, numbers and text. Where you "
            "trust it, save it anew: torch.save({'model': model.state_dict(), 'optimizer': optimizer.state_dict(), "
            "'update': n}, path)"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, SafetensorError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise StudyError(f"{path}: cannot be read: {line}") from error


def _inside(file: _File, part: str) -> _Place | None:
    """A part under its usual name in a file that holds a mapping."""
    if not isinstance(file.content, dict) or file.path.suffix == ".safetensors":
        return None
    for name in USUAL[part]:
        if name in file.content and (part != "update" or isinstance(file.content[name], int)):
            return _Place((file,), (name,))
    return None


def _at(content: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        content = content[int(key)] if isinstance(content, list) else content[key]
    return content
