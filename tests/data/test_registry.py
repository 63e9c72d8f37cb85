"""Opening by name: built in, a user's own, and whatever else people write there."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isoloss.data import SOURCES, Source, open_source
from isoloss.recipe.errors import StudyError


def test_importing_and_opening_needs_no_torch(tmp_path):
    script = (
        "import sys\n"
        "from isoloss.data import open_source\n"
        "source = open_source({'source': 'synthetic', 'tokens': 1000, 'context': 8})\n"
        "source.batch(0, 0, 4, 8)\n"
        "print([name for name in ('torch', 'scipy', 'tokenizers') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "stdlib-code"),
        ({"source": "stdlib-cod"}, "did you mean 'stdlib-code'"),
        ({"source": 3}, "found 3"),
        ({"source": "synthetic", "context": "64"}, "data.context"),
        ({"source": "synthetic", "context": 0}, "data.context"),
        ({"source": "synthetic", "version": "2"}, "built in"),
        ({"source": "no.such.module:thing"}, "cannot import"),
        ({"source": "math:pi"}, "no function or class"),
    ],
)
def test_every_mistake_has_its_message(spec, message):
    with pytest.raises(StudyError, match=message):
        open_source(spec)


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5000),
    st.floats(),
    st.sampled_from(["", "bytes", "10 tokens", "5 %", "1 sample", "1e3", "x.json", "~", "."]),
    st.lists(st.integers(), max_size=2),
)
NAMES = st.sampled_from(
    [
        "context",
        "size",
        "tokenizer",
        "version",
        "strip_docs",
        "order",
        "vocabulary",
        "tokens",
        "seed",
        "classes",
        "features",
        "samples",
        "separation",
        "path",
        "holdout",
        "split",
        "validation",
        "dtype",
        "nonsense",
    ]
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(source=st.sampled_from(["synthetic", "blobs", "text", "tokens"]), options=st.dictionaries(NAMES, ANYTHING))
def test_any_options_give_a_source_or_one_message(tmp_path, monkeypatch, source, options):
    monkeypatch.chdir(tmp_path)
    try:
        opened = open_source({"source": source, **options})
    except StudyError as error:
        assert "data." in str(error)
        return
    assert isinstance(opened, Source)
    assert opened.train_size >= 1


def test_every_name_of_the_catalogue_is_a_source():
    from isoloss.recipe import catalogue

    assert set(catalogue.names("data")) == set(SOURCES)


OWN = """
    import hashlib
    import numpy as np

    class Ramp:
        kind = "tokens"
        bytes_per_token = 1.0
        vocabulary = 50

        def __init__(self, slope: int = 1, context: int = 4):
            self.slope, self.context, self.train_size = slope, context, 100
            self.digest = hashlib.sha256(b"ramp %d" % slope).hexdigest()

        def describe(self):
            return {"slope": self.slope}

        def blocks(self, context):
            return 10

        def batch(self, seed, start, count, context):
            rows = np.arange(start, start + count)[:, None] + np.arange(context + 1)
            return (rows * self.slope % self.vocabulary).astype(np.int64)

        def validation(self, part, tokens, context):
            return self.batch(0, 0, tokens // context, context)

    class Short(Ramp):
        def batch(self, seed, start, count, context):
            return super().batch(seed, start, count, context)[:, 1:]

    class Floats(Ramp):
        def batch(self, seed, start, count, context):
            return super().batch(seed, start, count, context).astype(np.float32)

    class Beyond(Ramp):
        def batch(self, seed, start, count, context):
            return super().batch(seed, start, count, context) + 49

    class Forgetful(Ramp):
        calls = 0

        def batch(self, seed, start, count, context):
            Forgetful.calls += 1
            return super().batch(seed, start + Forgetful.calls, count, context)

    class BadDigest(Ramp):
        def __init__(self):
            super().__init__()
            self.digest = "v1"

    class Crash(Ramp):
        def __init__(self):
            raise KeyError("column")

    class Other(Ramp):
        kind = "images"

    def partial(**options):
        return object()

    def vectors():
        source = Ramp()
        source.kind = "vectors"
        source.batch = lambda seed, start, count, context: (
            np.zeros((count, 3), np.float32), np.arange(count, dtype=np.int64))
        return source
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_sources_of_a_test.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_sources_of_a_test", raising=False)
    return lambda name, **spec: open_source({"source": f"own_sources_of_a_test:{name}", **spec})


def test_own_source_gets_its_options_and_keeps_its_digest(own):
    source = own("Ramp", slope=3, context=6, tokenizer="bytes", size=None, version=None)
    assert isinstance(source, Source)
    assert source.batch(0, 2, 3, 6)[0].tolist() == [6, 9, 12, 15, 18, 21, 24]
    assert source.slope == 3
    assert source.digest != own("Ramp", slope=4).digest
    facts = source.describe()
    assert facts["slope"] == 3
    assert facts["source"] == "own_sources_of_a_test:Ramp"
    assert own("vectors").batch(0, 0, 5, 1)[0].shape == (5, 3)


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("Ramp", {"slop": 3}, "options are: slope, context"),
        ("Ramp", {"size": "5 tokens"}, "no parameter 'size'"),
        ("Short", {}, r"gave int64 \(2, 1\); allowed is tokens int64 \(2, 2\)"),
        ("Floats", {}, "float32"),
        ("Beyond", {}, "vocabulary allows 0 to 49"),
        ("Forgetful", {}, "two different answers"),
        ("BadDigest", {}, "64 hexadecimal"),
        ("Crash", {}, "failed: KeyError"),
        ("Other", {}, "tokens, vectors"),
        ("partial", {"any": 1}, "lacks digest"),
        ("Rump", {}, "no attribute"),
    ],
)
def test_own_source_that_is_wrong(own, name, spec, message):
    with pytest.raises(StudyError, match=message):
        own(name, **spec)
