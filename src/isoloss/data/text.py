"""``text``: any text files by path, with a validation part of whole files where there are enough of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from isoloss.data import files
from isoloss.data.cache import cache_folder
from isoloss.data.corpus import Corpus, Document, Split, in_validation, open_corpus
from isoloss.data.options import choice, number, paths, refuse_unknown
from isoloss.data.source import TokenSource
from isoloss.recipe.errors import StudyError

_LINE_SEARCH = 1 << 16


def open_text(spec: Mapping[str, Any], cache: Path | None = None) -> TokenSource:
    """``text``: options path, validation (files of your own), holdout (0.1), split (auto, files or tail).

    ``files`` holds a file out where the hash of its name falls below ``holdout``; ``tail`` holds out the end
    of every file, cut at a line; ``auto`` takes files where that gives half to twice the share asked for.
    """
    refuse_unknown("text", spec, ("path", "validation", "holdout", "split"))
    holdout = number(spec, "holdout", 0.1, 0.001, 0.5)
    asked = choice(spec, "split", "auto", ("auto", "files", "tail"))
    patterns, own = paths(spec, "path"), paths(spec, "validation")
    if not patterns:
        raise StudyError("data.path: source 'text' needs a path: a file, a folder, a glob or a list of them")
    folder = cache_folder(cache)
    training = files.find("path", patterns)
    validation = files.find("validation", own) if own else {}
    both = {path.resolve() for path in training.values()} & {path.resolve() for path in validation.values()}
    if both:
        raise StudyError(f"data.validation: {min(both)} is also under data.path; a file belongs to one side")
    stamps = {path: files.stamp(path) for path in (*training.values(), *validation.values())}
    facts = {path: files.content_facts(path, folder) for path in stamps}
    sizes = {name: int(facts[path]["bytes"]) for name, path in training.items()}
    if not sum(sizes.values()):
        raise StudyError(f"data.path: {', '.join(patterns)}: all files are empty (empty corpus)")
    mode = "own" if own else _mode(asked, holdout, sizes)
    inputs = [(name, str(facts[path]["sha256"])) for name, path in training.items()]
    inputs += [(f"validation:{name}", str(facts[path]["sha256"])) for name, path in validation.items()]
    options = {"split": mode} if own else {"split": mode, "holdout": holdout}

    def split() -> Split:
        if own:
            return Split(_whole(training), _whole(validation), {"split": "files given as validation"})
        if mode == "files":
            held_out = {name: path for name, path in training.items() if in_validation(name, holdout)}
            rest = {name: path for name, path in training.items() if name not in held_out}
            return Split(
                _whole(rest),
                _whole(held_out),
                {"split": "hash of the file name", "held_out_files": sorted(held_out)[:100]},
            )
        cuts = {name: _cut(path, sizes[name], holdout) for name, path in training.items()}
        return Split(
            [_part(name, path, 0, cuts[name]) for name, path in training.items()],
            [_part(name, path, cuts[name], sizes[name]) for name, path in training.items()],
            {"split": f"last {holdout:g} of every file"},
            separable=False,
        )

    def check() -> None:
        for path, stamp in stamps.items():
            if files.stamp(path) != stamp:
                raise StudyError(f"data.path: {path} changed while it was read; run again when it is complete")

    return open_corpus(Corpus("text", inputs, options, split, check=check), spec, cache)


def _mode(asked: str, holdout: float, sizes: Mapping[str, int]) -> str:
    held_out = sum(size for name, size in sizes.items() if in_validation(name, holdout))
    total = sum(sizes.values())
    if asked == "auto":
        # Never most of the text, however much was asked for.
        most = min(2 * holdout, (1 + holdout) / 2)
        return "files" if holdout / 2 <= held_out / total <= most else "tail"
    if asked == "files" and not 0 < held_out < total:
        side = "validation" if held_out == 0 else "training"
        raise StudyError(
            f"data.split: 'files' leaves nothing for {side} with {len(sizes)} files; "
            "use split: tail, more files, or name validation files in data.validation"
        )
    return asked


def _whole(found: Mapping[str, Path]) -> list[Document]:
    return [Document(name, _reader(path)) for name, path in found.items()]


def _part(name: str, path: Path, start: int, stop: int) -> Document:
    return Document(name, _reader(path, start, stop))


def _reader(path: Path, start: int = 0, stop: int | None = None) -> Callable[[], Iterator[bytes]]:
    return partial(files.read, path, start, stop)


def _cut(path: Path, size: int, holdout: float) -> int:
    """First byte of the held-out tail: the next line, else UTF-8 character, near the share asked for."""
    wanted = size - round(size * holdout)
    ahead = b"".join(files.read(path, wanted, min(size, wanted + _LINE_SEARCH)))
    line = ahead.find(b"\n") + 1
    if line > 0 and wanted + line < size:
        return wanted + line
    continued = 0
    while continued < len(ahead) and ahead[continued] & 0xC0 == 0x80:
        continued += 1
    return wanted + continued
