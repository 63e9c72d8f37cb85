"""Real text that every Python installation carries: the sources and the English of the standard library."""

from __future__ import annotations

import ast
import hashlib
import inspect
import io
import os
import sys
import sysconfig
import tokenize
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isoloss.data.corpus import Corpus, Document, Split, in_validation, open_corpus
from isoloss.data.options import boolean, refuse_unknown
from isoloss.data.source import TokenSource
from isoloss.recipe.errors import StudyError

EXCLUDED = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "__pycache__"}
)
TOPICS = "pydoc_data/topics.py"


def library_folder() -> Path:
    """Folder of the running interpreter's standard library; raises ``StudyError`` where it is no folder."""
    folder = Path(sysconfig.get_path("stdlib"))
    if not (folder / "abc.py").is_file():
        raise StudyError(
            f"data.source: this Python ({sys.version.split()[0]}) has no library files in {folder}; "
            "use another interpreter, or source: text with a path"
        )
    return folder


def library_files(folder: Path) -> list[str]:
    """Names (relative, with forward slashes) of the library's own sources, sorted: no site-packages, tests,
    encoding
    tables, pydoc data or generated configuration.
    """
    names = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in EXCLUDED]
        below = Path(place).relative_to(folder)
        names += [
            (below / name).as_posix()
            for name in files
            if name.endswith(".py") and not name.startswith("_sysconfigdata")
        ]
    return sorted(names)


def group_of(name: str) -> str:
    """Unit of the split: first path component, no ``.py``, no leading underscores, lower case, so that a
    module and
    its accelerated or private twin (``_pydecimal``, ``pydecimal``) stay together.
    """
    return name.split("/", maxsplit=1)[0].removesuffix(".py").lstrip("_").lower()


def open_stdlib_code(spec: Mapping[str, Any], cache: Path | None = None) -> TokenSource:
    """``stdlib-code``: about 9.9 MB of Python in CPython 3.11. ``strip_docs`` (false) removes docstrings.

    A group is held out where ``int(sha256("v1:" + group)[:8], 16) < 0.1 * 2**32``.
    """
    refuse_unknown("stdlib-code", spec, ("strip_docs",))
    strip = boolean(spec, "strip_docs", False)
    folder = library_folder()
    contents = {name: _read(folder / name) for name in library_files(folder)}

    def split() -> Split:
        texts = {name: without_docstrings(text) if strip else text for name, text in contents.items()}
        return Split(
            [_document(name, text) for name, text in texts.items() if not in_validation(group_of(name))],
            [_document(name, text) for name, text in texts.items() if in_validation(group_of(name))],
            {
                "split": "hash of the group (first path component)",
                "held_out_groups": sorted({g for g in map(group_of, texts) if in_validation(g)}),
                "python": _python(),
            },
        )

    corpus = Corpus("stdlib-code", _fingerprint(contents), {"strip_docs": strip}, split, code=True)
    return open_corpus(corpus, spec, cache)


def _python() -> str:
    return f"{sys.implementation.name} {sys.version.split()[0]}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StudyError(f"data.source: cannot read {path}: {error.strerror}") from error


def _document(name: str, text: bytes) -> Document:
    return Document(name, lambda: iter((text,)))


def _fingerprint(contents: Mapping[str, bytes]) -> list[tuple[str, str]]:
    return [(name, hashlib.sha256(text).hexdigest()) for name, text in contents.items()]


def open_stdlib_docs(spec: Mapping[str, Any], cache: Path | None = None) -> TokenSource:
    """``stdlib-docs``: docstrings of the groups that ``stdlib-code`` trains on, and the topics of ``help()``.

    Nothing comes from a group that ``stdlib-code`` holds out. The validation part is the docstrings of the
    next tenth of the same hash range, [0.1, 0.2); the topics, which repeat one another, are all training.
    """
    refuse_unknown("stdlib-docs", spec, ())
    folder = library_folder()
    contents = {
        name: _read(folder / name)
        for name in library_files(folder)
        if not in_validation(group_of(name)) and name != TOPICS
    }
    topics = _read(folder / TOPICS) if (folder / TOPICS).is_file() else b""

    def split() -> Split:
        training: list[Document] = []
        validation: list[Document] = []
        for name, source in contents.items():
            text = "\n\n".join(docstrings(source)) + "\n"
            if text.strip():
                side = validation if in_validation(group_of(name), 0.2) else training
                side.append(_document(name, text.encode("utf-8", "replace")))
        for title, text in sorted(_topics(topics).items()):
            training.append(_document(f"topic {title}", (text.strip("\n") + "\n").encode()))
        return Split(
            training,
            validation,
            {
                "split": "second tenth of the hash of the group; topics in training",
                "held_out_groups": sorted({group_of(document.name) for document in validation}),
                "python": _python(),
            },
        )

    inputs = [*_fingerprint(contents), *([(TOPICS, hashlib.sha256(topics).hexdigest())] if topics else [])]
    return open_corpus(Corpus("stdlib-docs", inputs, {}, split), spec, cache)


def _topics(source: bytes) -> dict[str, str]:
    for statement in _tree(source).body if source else []:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            return dict(ast.literal_eval(statement.value))
    return {}


_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _documented(tree: ast.Module) -> list[tuple[_Documented, ast.Constant]]:
    found: list[tuple[_Documented, ast.Constant]] = []
    for node in ast.walk(tree):
        if isinstance(node, _Documented) and node.body and isinstance(node.body[0], ast.Expr):
            value = node.body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                found.append((node, value))
    return sorted(found, key=lambda pair: (pair[1].lineno, pair[1].col_offset))


def _tree(source: bytes | str) -> ast.Module:
    with warnings.catch_warnings():
        # Invalid escapes in old sources are not ours to report.
        warnings.simplefilter("ignore")
        return ast.parse(source)


def docstrings(source: bytes) -> list[str]:
    """Docstrings of a source file in order, indentation removed; empty where the file does not parse."""
    try:
        tree = _tree(source)
    except (SyntaxError, ValueError):
        return []
    cleaned = (inspect.cleandoc(str(value.value)) for _, value in _documented(tree))
    return [text for text in cleaned if text]


def without_docstrings(source: bytes) -> bytes:
    """The source without its docstrings, as UTF-8; a file that does not parse is returned as it is.

    Whole lines go where that leaves valid code; elsewhere (the only statement of a body, a statement behind
    it on the same line) the docstring becomes ``...``, an expression like itself.
    """
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
        text = source.decode(encoding)
        tree = _tree(text)
    except (SyntaxError, ValueError, LookupError):
        return source
    # Offsets of ast count UTF-8 bytes, and bytes.splitlines splits where the parser does.
    lines = text.encode().splitlines(keepends=True)
    for node, value in reversed(_documented(tree)):
        first, last = value.lineno - 1, (value.end_lineno or value.lineno) - 1
        before, after = lines[first][: value.col_offset], lines[last][value.end_col_offset :]
        alone = not before.strip() and (not after.strip() or after.strip().startswith(b"#"))
        if alone and (len(node.body) > 1 or isinstance(node, ast.Module)):
            lines[first : last + 1] = []
        else:
            lines[first : last + 1] = [before + b"..." + after]
    return b"".join(lines)
