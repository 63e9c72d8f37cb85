"""YAML 1.2 with lines: what scalars mean, where things stand, what is refused."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from isoloss.recipe.errors import StudyError
from isoloss.study.reader import DEEPEST, LARGEST_FILE, decode, plain, read


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("4e-3", 0.004),
        ("4E3", 4000.0),
        ("1.5e+2", 150.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("on", "on"),
        ("yes", "yes"),
        ("No", "No"),
        ("N", "N"),
        ("off", "off"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("none", "none"),
        ("012", 12),
        ("0o17", 15),
        ("0x1F", 31),
        ("+7", 7),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2001-01-01", "2001-01-01"),
        ("'4e-3'", "4e-3"),
        ('"true"', "true"),
        ("!!str 5", "5"),
        ("! 5", "5"),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("200 updates", "200 updates"),
    ],
)
def test_scalars_of_the_core_schema(written: str, value: object) -> None:
    found = read(f"key: {written}", "f")[0]["key"]
    assert found == value and type(found) is type(value)


def test_nan() -> None:
    assert math.isnan(read("a: .nan", "f")[0]["a"])


def test_keys_are_words_and_lines_are_kept() -> None:
    value, lines = read("on: 1\n5:\n  - a\n  - {x: 1,\n     y: 2}\n'q r': z", "f")
    assert value == {"on": 1, "5": ["a", {"x": 1, "y": 2}], "q r": "z"}
    assert lines == {
        (): 1,
        ("on",): 1,
        ("5",): 2,
        ("5", 0): 3,
        ("5", 1): 4,
        ("5", 1, "x"): 4,
        ("5", 1, "y"): 5,
        ("q r",): 6,
    }


def test_anchors_are_copied() -> None:
    value, _ = read("a: &x {p: [1]}\nb: *x\nc: [*x, &n 4, *n]", "f")
    assert value == {"a": {"p": [1]}, "b": {"p": [1]}, "c": [{"p": [1]}, 4, 4]}
    assert value["a"] is not value["b"] and value["a"]["p"] is not value["b"]["p"]


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("a: 1\nb: 2\na: 3", ["f:3:", "found the key 'a' again", "line 1"]),
        ("a:\n  b: 1\n  'b': 1", ["f:3:", "'b' again", "line 2"]),
        ("a: 1\n\tb: 2", ["f:2:", "not YAML", "spaces, not tabs"]),
        ("a: [1, 2", ["f:", "not YAML"]),
        ("a: 'x", ["f:1:", "not YAML", "quoted scalar"]),
        ("a: 1\n b: 2", ["f:2:", "not YAML"]),
        ("x: 1\na: !!python/name:os.system y", ["f:2:", "found the tag", "python/name", "without tags"]),
        ("a: !mine {}", ["f:1:", "tag", "!mine"]),
        ("a: &x {b: *x}", ["f:1:", "*x inside itself"]),
        ("a: &one 1\nb: *on", ["f:2:", "*on", "did you mean 'one'?"]),
        ("a: 1\n<<: {b: 1}", ["f:2:", "merge key"]),
        ("[1]: 2", ["f:1:", "as a key", "a name"]),
        ("? {a: 1}\n: 2", ["f:1:", "as a key"]),
        ("a: 1\n---\nb: 1", ["f:2:", "second document"]),
        ("a: 1\nb: \x01", ["f:2:", "not YAML", "special characters"]),
        ("a: " + "9" * 5000, ["f:1:", "5000 digits"]),
        ("[" * 500, ["f:1:", f"{DEEPEST} levels of nesting"]),
        ("a: " * 3, ["f:1:", "not YAML"]),
        ("\n".join(f"{'  ' * i}k:" for i in range(50)), [f"f:{DEEPEST + 1}:", "levels of nesting"]),
    ],
)
def test_refused(text: str, fragments: list[str]) -> None:
    with pytest.raises(StudyError) as caught:
        read(text, "f")
    for fragment in fragments:
        assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def test_aliases_do_not_explode() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(StudyError, match="values; allowed"):
        read("\n".join(lines), "f")


def test_bytes() -> None:
    assert decode("\ufeffa: ä".encode(), "f") == "a: ä"
    with pytest.raises(StudyError, match=r"f:2: found byte 0xff at 5; allowed: text in UTF-8"):
        decode(b"a: 1\n\xff", "f")
    with pytest.raises(StudyError, match="at most"):
        decode(b" " * (LARGEST_FILE + 1), "f")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(JSON)
def test_json_reads_as_itself(value: object) -> None:
    """Every JSON document is YAML 1.2 and means the same."""
    assert read(json.dumps(value), "f")[0] == value
    assert plain(value, "f") == value


def test_agrees_with_a_yaml_loader_on_plain_documents() -> None:
    text = "a: [1, 2.5, x, null, true]\nb:\n  c: {d: 'e', f: |\n    many\n    lines\n  }\n"
    text = text.replace("{d: 'e', f: |\n    many\n    lines\n  }", "\n    d: 'e'\n    f: |\n      many\n      lines\n")
    assert read(text, "f")[0] == YAML(typ="safe", pure=True).load(text)


def test_python_values() -> None:
    assert plain({"a": (1, 2)}, "s") == {"a": [1, 2]}
    with pytest.raises(StudyError, match=r"s: a\.b: found a set; allowed"):
        plain({"a": {"b": {1}}}, "s")
    with pytest.raises(StudyError, match=r"s: a: found the key 1; allowed: text keys"):
        plain({"a": {1: 2}}, "s")
    deep: list = []
    deep.append(deep)
    with pytest.raises(StudyError, match="levels of nesting"):
        plain(deep, "s")
