"""Addresses: equal key implies an equal stream of updates; frozen keys fail when an address changes by accident."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoloss.recipe.run import KEEP, LR, Carry, Phase, Rule, Run, Start, normalise
from isoloss.train.loop import learning_rate

NUMERICS = {"torch": "2.13.0", "threads": 1}


def rule(lr: LR, batch: int = 4, seed: int = 0) -> Rule:
    return Rule(
        data={"digest": "d", "context": 8},
        task={"name": "language-modelling", "code": {"semantics": 1}},
        batch=batch,
        micro_batches=1,
        optimizer={"name": "sgd", "options": {"momentum": 0.9}, "code": {"semantics": 1}, "decay": "matrices"},
        lr=lr,
        clip=1.0,
        seeds={"data": seed, "noise": seed},
    )


lrs = st.sampled_from(
    [
        LR("constant", 0.1),
        LR("constant", 0.2),
        LR("warmup", 0.1, length=3),
        LR("linear", 0.1, final=0.0, length=4),
        LR("linear", 0.1, final=0.0, length=6),
        LR("inverse_sqrt", 0.1, offset=3),
    ]
)
carries = st.sampled_from([KEEP, KEEP, KEEP, Carry(optimizer="reset"), Carry(data="reset")])
phases = st.builds(
    lambda lr, batch, length, carry: Phase(rule(lr, batch), min(length, lr.length or length), carry),
    lrs,
    st.sampled_from([4, 8]),
    st.integers(0, 5),
    carries,
)
runs = st.builds(
    lambda seed, ps: Run(Start({"width": 4}, seed), tuple(ps), NUMERICS),
    st.sampled_from([0, 1]),
    st.lists(phases, min_size=1, max_size=4),
)


def stream(run: Run, updates: int) -> list[Any]:
    """What decides each of the first updates, resolved to numbers: the brute-force twin of the key."""
    found: list[Any] = [run.start]
    for _, phase, begun in run.tracks:
        for offset in range(phase.length):
            if begun + offset >= updates:
                return found
            carry = phase.carry if offset == 0 else KEEP
            found.append((learning_rate(phase.rule.lr, offset), phase.rule.batch, phase.rule.seeds, carry))
    return found


@settings(max_examples=400, deadline=None)
@given(runs, runs)
def test_equal_key_implies_equal_stream(a: Run, b: Run) -> None:
    for i in range(a.length + 1):
        for j in range(b.length + 1):
            if a.key(i) == b.key(j):
                assert i == j
                assert stream(a, i) == stream(b, j)


@settings(max_examples=100, deadline=None)
@given(runs)
def test_keys_of_one_run_differ(run: Run) -> None:
    keys = [run.key(u) for u in range(run.length + 1)]
    assert len(set(keys)) == len(keys)


def test_a_trunk_does_not_know_its_length() -> None:
    constant = rule(LR("constant", 0.1))
    short = Run(Start({}, 0), (Phase(constant, 10),), NUMERICS)
    parts = Run(Start({}, 0), (Phase(constant, 7), Phase(constant, 0), Phase(constant, 93)), NUMERICS)
    assert short.key(10) == parts.key(10)
    assert len(parts.phases) == 1


def test_a_horizon_is_part_of_the_key() -> None:
    a, b = (Run(Start({}, 0), (Phase(rule(LR("cosine", 0.1, 0.0, n)), 10),), NUMERICS) for n in (10, 20))
    assert a.key(5) != b.key(5)
    early = Run(Start({}, 0), (Phase(rule(LR("cosine", 0.1, 0.0, 20)), 4),), NUMERICS)
    assert early.key(4) == b.key(4)


def test_what_decides_bits_is_in_the_key_and_what_does_not_is_not() -> None:
    base = Run(Start({"width": 4}, 0), (Phase(rule(LR("constant", 0.1)), 5),), NUMERICS)
    others = [
        Run(Start({"width": 5}, 0), base.phases, NUMERICS),
        Run(Start({"width": 4}, 1), base.phases, NUMERICS),
        Run(base.start, (Phase(rule(LR("constant", 0.1), seed=1), 5),), NUMERICS),
        Run(base.start, (Phase(rule(LR("constant", 0.1), batch=8), 5),), NUMERICS),
        Run(base.start, base.phases, {**NUMERICS, "threads": 2}),
        Run(Start({"width": 4}, 0, alone="x"), base.phases, NUMERICS),
    ]
    assert len({base.key(5), *(other.key(5) for other in others)}) == len(others) + 1


def test_normalise_keeps_resets_and_merges_only_stationary_rules() -> None:
    constant, decay = rule(LR("constant", 0.1)), rule(LR("linear", 0.1, 0.0, 8))
    assert len(normalise([Phase(constant, 2), Phase(constant, 3)])) == 1
    assert len(normalise([Phase(constant, 2), Phase(constant, 3, Carry(optimizer="reset"))])) == 2
    assert len(normalise([Phase(decay, 2), Phase(decay, 3)])) == 2
    with pytest.raises(ValueError, match="-1"):
        normalise([Phase(constant, -1)])


def test_updates_lists_every_update_once() -> None:
    run = Run(
        Start({}, 0), (Phase(rule(LR("warmup", 0.1, length=3)), 3), Phase(rule(LR("constant", 0.1)), 2)), NUMERICS
    )
    assert [(u, offset) for u, _, offset in run.updates()] == [(0, 0), (1, 1), (2, 2), (3, 0), (4, 1)]


def test_outside_the_run_is_an_error() -> None:
    run = Run(Start({}, 0), (Phase(rule(LR("constant", 0.1)), 5),), NUMERICS)
    with pytest.raises(ValueError, match="outside this run of 5"):
        run.key(6)


def test_frozen_keys() -> None:
    """If this fails without intent, stored results would no longer be found: raise SCHEMA only on purpose."""
    run = Run(
        Start({"spec": {"family": "gpt", "width": 16}, "code": {"semantics": 1}}, 0),
        (Phase(rule(LR("warmup", 0.01, length=3)), 3), Phase(rule(LR("constant", 0.01)), 5)),
        NUMERICS,
    )
    assert [run.key(u)[:16] for u in (0, 1, 3, 4, 8)] == FROZEN
    assert run.tracks[1][0].id[:16] == FROZEN_TRACK


FROZEN = ["bad920a45b74ae53", "7d84db27176c7925", "071a70b8a38e50ce", "1a3ac3ef2e73f224", "af9aa78494165cba"]
FROZEN_TRACK = "dc2b7b80798ee7af"
