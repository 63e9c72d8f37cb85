"""Whatever is read, the loader gives a study or one StudyError whose every line says where and what."""

import copy
import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isoloss import study
from isoloss.recipe.errors import StudyError
from isoloss.study.schema import TOP_LEVEL

TEXT = Path(__file__).with_name("demo.yaml").read_text(encoding="utf-8")
RELAXED = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

SCRAPS = [
    *":,{}[]#%@`~?|>-'\"\n\t\\",
    *[
        "- ",
        "  ",
        "&a ",
        "*a",
        "!!int ",
        "---\n",
        "...",
        "<<: *a",
        "\x00",
        "\ud800",
        "\u2028",
        "é",
        "\\u0000",
    ],
    *["null", "on", "4e-3", "-1", "1e999", ".nan", "0x1", "9" * 30, "200", "200 updates", "1 epoch"],
    *["tuned", "a.b:C", "cosine", "model.width", "seed.init: [1]", "grid: {}", "arms: []"],
]
WORDS = [
    "200 updates",
    "1 epochs",
    "20 tokens/param",
    "cosine",
    "tuned",
    "a.b:C",
    "sgd",
    "fp32",
    "none",
    "window",
]
KEYS = st.sampled_from([*TOP_LEVEL, "lr", "shape", "x"])

SCALARS = (
    st.none() | st.booleans() | st.integers(-3, 100) | st.integers() | st.floats() | st.text(max_size=6)
    | st.sampled_from(WORDS)
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


def survives(make: Any, source: Any) -> study.Study | None:
    """The study, if it is one; otherwise its message must be whole."""
    try:
        made: study.Study = make(source)
    except StudyError as error:
        told = str(error)
        assert told and "Traceback" not in told
        told.encode()
        for line in told.splitlines():
            assert "; allowed" in line or "missing" in line or "not YAML" in line or line.startswith("... and")
        return None
    assert made.cells and made.baseline in {arm.name for arm in made.arms}
    json.dumps([cell.config for cell in made.cells])
    assert len({json.dumps([c.arm, c.coordinates, c.extra], sort_keys=True) for c in made.cells}) == len(made.cells)
    return made


@RELAXED
@given(st.data())
def test_a_mutated_file(data: st.DataObject) -> None:
    text = TEXT
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        match data.draw(st.integers(0, 3)):
            case 0:
                text = text[:at] + data.draw(st.sampled_from(SCRAPS)) + text[at:]
            case 1:
                text = text[:at] + text[at + data.draw(st.integers(1, 12)) :]
            case 2:
                scrap = data.draw(st.sampled_from(SCRAPS))
                text = text[:at] + scrap + text[at + len(scrap) :]
            case _:
                lines = text.splitlines(keepends=True)
                if lines:
                    line = data.draw(st.sampled_from(lines))
                    text = text.replace(line, line * data.draw(st.sampled_from([0, 2])), 1)
    survives(study.loads, text)


@RELAXED
@given(st.text(max_size=60) | st.lists(st.sampled_from([*SCRAPS, *TOP_LEVEL, ": "]), max_size=30).map("".join))
def test_any_text(text: str) -> None:
    survives(study.loads, text)


@RELAXED
@given(st.data())
def test_a_mutated_tree(data: st.DataObject) -> None:
    """One or two nodes of a valid tree become something else; what is accepted reads back the same."""
    tree = copy.deepcopy(study.loads(TEXT).raw)
    for _ in range(data.draw(st.integers(1, 2))):
        node: Any = tree
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if isinstance(node[key], (dict, list)) and data.draw(st.integers(0, 3)):
                node = node[key]
                continue
            if isinstance(node, dict) and data.draw(st.booleans()):
                names = [*node, *TOP_LEVEL, "lr", "fraction", "length"]
                node[data.draw(st.sampled_from(names))] = data.draw(VALUES)
            else:
                node[key] = data.draw(VALUES)
            break
    made = survives(study.from_dict, tree)
    if made is not None and "nan" not in json.dumps(made.raw).lower():
        assert study.loads(made.text).cells == made.cells


@RELAXED
@given(st.dictionaries(st.sampled_from(TOP_LEVEL), VALUES, max_size=8))
def test_any_tree(tree: dict[str, Any]) -> None:
    survives(study.from_dict, tree)


@RELAXED
@given(st.binary(max_size=80))
def test_any_bytes(data: bytes) -> None:
    from isoloss.study.reader import decode

    survives(lambda raw: study.loads(decode(raw, "f"), "f"), data)
