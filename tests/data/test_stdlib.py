"""The standard library as a corpus: what is in it, how it is split, what the docstring remover keeps."""

from __future__ import annotations

import ast
import hashlib
import json
import sys
import time

import numpy as np
import pytest

from isoloss.data import open_source, stdlib
from isoloss.data.corpus import in_validation
from isoloss.recipe.errors import StudyError

CODE = {"source": "stdlib-code", "context": 64}
DOCS = {"source": "stdlib-docs", "context": 64}


def text(array: np.ndarray) -> bytes:
    return array.tobytes()


@pytest.fixture(scope="module")
def code(session_cache):
    return open_source(CODE, session_cache)


@pytest.fixture(scope="module")
def docs(session_cache):
    return open_source(DOCS, session_cache)


def test_what_is_left_out():
    names = stdlib.library_files(stdlib.library_folder())
    assert names == sorted(names)
    assert {"abc.py", "json/decoder.py", "xml/etree/ElementTree.py"} <= set(names)
    for part in ("site-packages", "test", "tests", "encodings", "pydoc_data"):
        assert not any(part in name.split("/") for name in names)
    assert not any("_sysconfigdata" in name or not name.endswith(".py") for name in names)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("_pydecimal.py", "pydecimal"),
        ("__future__.py", "future__"),
        ("xml/etree/ElementTree.py", "xml"),
        ("lib2to3/Grammar.py", "lib2to3"),
        ("_Mixed.py", "mixed"),
    ],
)
def test_group(name, group):
    assert stdlib.group_of(name) == group


def test_split_is_the_published_formula(code):
    folder = stdlib.library_folder()
    sides = {True: [], False: []}
    for name in stdlib.library_files(folder):
        group = name.split("/")[0].removesuffix(".py").lstrip("_").lower()
        number = int(hashlib.sha256(("v1:" + group).encode()).hexdigest()[:8], 16)
        sides[number < 0.1 * 2**32].append((folder / name).read_bytes())
    assert text(code.train) == b"".join(sides[False])
    assert text(code.held_out) == b"".join(sides[True])


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the published figures are of CPython 3.11")
def test_published_figures_of_this_version(code, docs):
    facts = code.describe()
    size = facts["bytes"]["training"] + facts["bytes"]["validation"]
    assert size == pytest.approx(9.9e6, rel=0.01)
    assert facts["validation_share_of_bytes"] == pytest.approx(0.090, abs=0.0005)
    assert facts["shared_8_line_windows"]["share_before_dropping"] == pytest.approx(0.0007, abs=0.00005)
    assert sum(docs.describe()["bytes"].values()) == pytest.approx(2.1e6, rel=0.02)


def test_facts_are_json_and_measured(code, docs):
    for source in (code, docs):
        facts = json.loads(json.dumps(source.describe(), allow_nan=False))
        assert facts["digest"] == source.digest
        assert 0.05 < facts["validation_share_of_bytes"] < 0.15
        assert facts["shared_8_line_windows"]["share"] < 0.005
        assert facts["shared_8_line_windows"]["windows"] > 1000
        parts = facts["validation_tokens"]
        assert parts["A"] == pytest.approx(parts["B"], rel=0.15)


def test_parts_are_alike(code):
    """Byte frequencies of A and B: a Jensen-Shannon divergence below a hundredth of a nat."""
    p, q = (np.bincount(code.validation(part, 2**18, 64).reshape(-1), minlength=256) + 1e-9 for part in "AB")
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2
    divergence = ((p * np.log(p / middle)).sum() + (q * np.log(q / middle)).sum()) / 2
    assert divergence < 0.01


def test_opened_again_in_no_time(code, session_cache):
    began = time.perf_counter()
    again = open_source(CODE, session_cache)
    seconds = time.perf_counter() - began
    assert again.digest == code.digest
    assert np.array_equal(again.batch(0, 7, 16, 64), code.batch(0, 7, 16, 64))
    # 0.02 s where nothing else runs; the bound leaves room for a busy machine.
    assert seconds < 1.0


def test_english_comes_from_training_groups_only(docs):
    corpus = text(docs.train) + text(docs.held_out)
    folder = stdlib.library_folder()
    checked = {True: 0, False: 0}
    dropped = docs.describe()["dropped_from_validation"]
    for name in stdlib.library_files(folder):
        held_out = in_validation(stdlib.group_of(name)) or name in dropped
        for docstring in stdlib.docstrings((folder / name).read_bytes())[:3]:
            if len(docstring) > 400:
                found = docstring.encode("utf-8", "replace") in corpus
                assert found is not held_out, (name, docstring)
                checked[held_out] += 1
    assert min(checked.values()) > 10
    assert b"The assert statement" in corpus or b'The "assert" statement' in corpus


def test_docs_parts_share_no_group(docs):
    held_out = docs.describe()["held_out_groups"]
    assert held_out
    for group in held_out:
        assert not in_validation(group)
        assert in_validation(group, 0.2)


SOURCES = [
    b'"""Only a docstring."""\n',
    b'def f():\n    """one"""\n',
    b'def f():\n    """one"""; return 1\n',
    b'def f(): "one"\n',
    b'class A:\n    """one\n    two"""  # note\n    x = 1\n',
    b'async def f():\n    "one" "two"\n    return """kept"""\n',
    "def f():\n    'e\u00e9'; x = 'g\u00e9'\n    return x\n".encode(),
    b'# coding: latin-1\nx = 1\ndef f():\n    "caf\xe9"\n    return "\xe9"\n',
    b'\xef\xbb\xbf"""with a mark"""\nx = 1\n',
    b'def f():\r\n    """one\r\n    two"""\r\n    return 1\r\n',
    b'def f():\n    r"""a\\b"""\n    def g():\n        """inner"""\n    return g\n',
    b'class A:\n    def f(self):\n        """x"""\n\n    def g(self):\n        f"""not {1} docstring"""\n',
    b'def f():\n    ("""one\n    """)\n    return 1\n',
    b'def f():\n    (\n        "one"\n    )\n    return 1\n',
    b'def f(): ...\nclass A: "one"; pass\n',
    b'"""a"""\nif x:\n    """no docstring"""\n',
]


def idle(statement: ast.stmt) -> bool:
    """A statement without effect that a removed docstring may leave: ``...`` or ``()``."""
    return isinstance(statement, ast.Expr) and ast.unparse(statement) in ("...", "()")


class Remover(ast.NodeTransformer):
    """Docstrings off the syntax tree: an independent way to the same program."""

    def generic_visit(self, node):
        super().generic_visit(node)
        if hasattr(node, "body") and isinstance(node.body, list):
            documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            if documented and ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
            node.body = [statement for statement in node.body if not idle(statement)]
        return node


def shape(source: bytes, remove: bool) -> str:
    tree = stdlib._tree(source)
    if not remove:
        for node in ast.walk(tree):
            if isinstance(getattr(node, "body", None), list):
                node.body = [statement for statement in node.body if not idle(statement)]
        return ast.dump(tree)
    return ast.dump(Remover().visit(tree))


@pytest.mark.parametrize("source", SOURCES)
def test_docstrings_go_and_the_program_stays(source):
    stripped = stdlib.without_docstrings(source)
    if source.startswith(b"# coding"):
        # The result is UTF-8, whatever the file says of itself.
        stripped = stripped.split(b"\n", 1)[1]
    assert stdlib.docstrings(stripped) == []
    assert shape(stripped, remove=False) == shape(source, remove=True)


def test_docstrings_of_the_library_go_and_the_programs_stay():
    folder = stdlib.library_folder()
    names = stdlib.library_files(folder)
    for name in names[::12]:
        source = (folder / name).read_bytes()
        stripped = stdlib.without_docstrings(source)
        assert len(stripped) <= len(source)
        assert stdlib.docstrings(stripped) == [], name
        assert shape(stripped, remove=False) == shape(source, remove=True), name


def test_a_file_that_does_not_parse_is_kept():
    assert stdlib.without_docstrings(b"def f(:\n") == b"def f(:\n"
    assert stdlib.without_docstrings(b"# coding: nonsense\n") == b"# coding: nonsense\n"
    assert stdlib.docstrings(b"\x00") == []


@pytest.fixture
def small_library(tmp_path, monkeypatch):
    """A library of a few modules, made to hold a copy across the split."""
    folder = tmp_path / "lib"
    folder.mkdir()
    names = [f"mod{i}" for i in range(60)]
    held_out = [name for name in names if in_validation(name)]
    assert len(held_out) >= 2
    for name in names:
        (folder / f"{name}.py").write_text("".join(f"{name}_{i} = {i}\n" for i in range(40)))
    training = next(name for name in names if not in_validation(name))
    (folder / f"{held_out[0]}.py").write_bytes((folder / f"{training}.py").read_bytes())
    (folder / "abc.py").write_text("import nothing\n")
    monkeypatch.setattr(stdlib, "library_folder", lambda: folder)
    return folder, held_out


def test_a_repeated_validation_file_is_dropped(small_library, tmp_path):
    folder, held_out = small_library
    source = open_source(CODE, tmp_path / "cache")
    facts = source.describe()
    assert facts["dropped_from_validation"] == [f"{held_out[0]}.py"]
    assert facts["shared_8_line_windows"]["share"] == 0
    assert facts["shared_8_line_windows"]["share_before_dropping"] > 0
    kept = b"".join((folder / f"{name}.py").read_bytes() for name in sorted(held_out) if name != held_out[0])
    assert text(source.held_out) == kept


def test_digest_is_of_the_content_alone(small_library, tmp_path, monkeypatch):
    folder, _ = small_library
    before = open_source(CODE, tmp_path / "one").digest
    assert open_source({**CODE, "context": 32, "tokenizer": "bytes"}, tmp_path / "two").digest == before
    assert open_source({**CODE, "strip_docs": True}, tmp_path / "two").digest != before
    assert open_source({**CODE, "size": "1000 tokens"}, tmp_path / "two").digest != before
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    monkeypatch.setattr(stdlib, "library_folder", lambda: moved)
    assert open_source(CODE, tmp_path / "three").digest == before
    (moved / "mod1.py").write_text("changed = 1\n")
    assert open_source(CODE, tmp_path / "one").digest != before


def test_a_library_that_is_no_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(stdlib.sysconfig, "get_path", lambda name: str(tmp_path / "python311.zip"))
    with pytest.raises(StudyError, match="source: text"):
        open_source(CODE, tmp_path)


def test_no_own_options():
    with pytest.raises(StudyError, match="did you mean 'strip_docs'"):
        open_source({**CODE, "strip_doc": True})
    with pytest.raises(StudyError, match="true and false"):
        open_source({**CODE, "strip_docs": "yes"})
