"""Plans as properties: every run is a path, nothing is trained twice, order changes nothing, cost never grows."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from isoloss.plan import cost
from isoloss.plan.lower import Facts, Lowered
from isoloss.plan.needs import Nothing, Stretch, Work, arrange
from isoloss.plan.tree import grow
from isoloss.recipe.measure import Measure, Observer
from isoloss.recipe.run import LR, Phase, Rule, Run, Start

FACTS = Facts(100, 200, 4, 32, 1000.0, 10.0, 2400, "tokens")
NUMERICS = {"threads": 1}
_RULES: dict[LR, Rule] = {}


def rule(lr: LR) -> Rule:
    if lr not in _RULES:
        _RULES[lr] = Rule({"digest": "d"}, {"name": "t"}, 4, 1, {"name": "sgd"}, lr, None, {"data": 0, "noise": 0})
    return _RULES[lr]


def lowered(seed: int, warmup: int, trunk: int, cooldown: int, window: int, piece: int = 7) -> Lowered:
    """A warm-up, a trunk, maybe a cooldown; measured at the end, maybe through a window over the last phase."""
    phases = [Phase(rule(LR("warmup", 0.1, length=max(warmup, 1))), warmup), Phase(rule(LR("constant", 0.1)), trunk)]
    if cooldown:
        phases.append(Phase(rule(LR("linear", 0.1, 0.0, cooldown)), cooldown))
    run = Run(Start({"w": 1}, seed), tuple(phases), NUMERICS)
    watched = Observer("window", {"length": window, "every": 1, "block": 1}) if window else None
    measures = (Measure("loss", "B", 10), *((Measure("loss", "B", 10, watched),) if watched else ()))
    points = {run.length: measures, max(1, run.length // 2): (Measure("loss", "B", 10),)}
    return Lowered(run, points, FACTS, {}, watched, 10, piece)


made = st.builds(
    lowered,
    st.integers(0, 1),
    st.sampled_from([0, 3]),
    st.integers(5, 40),
    st.sampled_from([0, 4, 8]),
    st.sampled_from([0, 0, 2, 4]),
)
studies = st.lists(made, min_size=1, max_size=8)


def test_metrics_share_a_pass_and_parts_share_a_refresh() -> None:
    window = Observer("window", {"length": 4})
    plain = [Measure(name, part, 10) for name in ("loss", "ece") for part in ("A", "B")]
    averaged = [Measure(m.metric, m.part, m.amount, window, 8) for m in plain]
    assert cost.readings([plain]) == (2, 0)
    assert cost.readings([plain + averaged, [Measure("loss", "B", 10)]]) == (2 + 2 + 1, 8)
    assert cost.readings([[Measure("loss", "B", 10), Measure("loss", "B", 20)]]) == (2, 0)
    assert len({m.name for m in plain + averaged}) == 8
    assert Measure("loss", "B", 10, window).name == "window(length=4)/loss@B:10"
    assert averaged[0].name == "window(length=4)/refresh=8/loss@A:10"


class Ledger:
    """A store reduced to what planning sees, and a trainer that only notes what it did."""

    def __init__(self) -> None:
        self.states: dict[str, set[int]] = {}
        self.covered: dict[str, list[tuple[int, int]]] = {}
        self.sides: dict[str, dict[str, set[int]]] = {}
        self.values: dict[str, dict[str, float]] = {}
        self.trained: list[tuple[str, int]] = []

    def stretches(self, tracks: Sequence[str]) -> Mapping[str, Stretch]:
        return {
            t: Stretch(
                frozenset(self.states[t]),
                tuple(sorted(self.covered[t])),
                {o: frozenset(s) for o, s in self.sides.get(t, {}).items()},
            )
            for t in tracks
            if t in self.states
        }

    def measured(self, keys: Sequence[str]) -> Mapping[str, Mapping[str, float]]:
        return {k: self.values[k] for k in keys if k in self.values}

    def train(self, work: Work, pieces: int | None = None) -> None:
        """Do a segment, or its first pieces; check that what it begins from and looks back to exists."""
        segment, node = work.segment, work.node
        track = node.track
        if segment.begin:
            assert segment.begin in self.states[track.id]
        elif node.parent:
            assert node.fork in self.states[node.parent.track.id]
        seen = {
            o.id: segment.begin == 0 or segment.begin in self.sides.get(track.id, {}).get(o.id, ())
            for o in segment.observers
        }
        begin = segment.begin
        for end in segment.saves[:pieces]:
            self.trained += [(track.id, offset) for offset in range(begin, end)]
            self.states.setdefault(track.id, set()).add(end)
            self.covered.setdefault(track.id, []).append((begin, end))
            for observer in segment.observers:
                if seen[observer.id]:
                    self.sides.setdefault(track.id, {}).setdefault(observer.id, set()).add(end)
            for offset, measures in segment.measures.items():
                if begin < offset <= end or offset == segment.begin == begin:
                    for m in measures:
                        if m.observer and not seen[m.observer.id]:
                            assert segment.begin <= offset - m.observer.options["length"]
                        self.values.setdefault(track.key(offset), {})[m.name] = 1.0
            begin = end

    def finish(self, runs: Sequence[Lowered], rounds: int = 50) -> int:
        """Plan and train until nothing is missing; the updates that were replay."""
        replayed = 0
        for _ in range(rounds):
            works = arrange(grow(runs), self)
            if not works:
                return replayed
            replayed += sum(w.replayed for w in works)
            for work in works:
                self.train(work)
        raise AssertionError("the plan does not come to an end")


def satisfied(runs: Sequence[Lowered], ledger: Ledger) -> bool:
    return all(
        m.name in ledger.values.get(r.run.key(u), {})
        for r in runs
        for u, measures in r.points.items()
        for m in measures
    )


@settings(max_examples=200, deadline=None)
@given(studies)
def test_everything_is_trained_once_and_every_run_is_a_path(runs: list[Lowered]) -> None:
    ledger = Ledger()
    assert ledger.finish(runs) == 0
    assert satisfied(runs, ledger)
    assert len(set(ledger.trained)) == len(ledger.trained)
    distinct = {r.run.key(u) for r in runs for u in range(1, r.run.length + 1)}
    assert len(ledger.trained) == len(distinct) == cost.shared(grow(runs)).updates


@settings(max_examples=200, deadline=None)
@given(studies)
def test_cost_is_at_most_the_unshared_cost(runs: list[Lowered]) -> None:
    shared, unshared = cost.shared(grow(runs)), cost.unshared(runs)
    assert shared.updates <= unshared.updates
    alone = [
        replace(r, run=Run(replace(r.run.start, alone=str(i)), r.run.phases, NUMERICS)) for i, r in enumerate(runs)
    ]
    assert cost.shared(grow(alone)).updates == cost.unshared(alone).updates == sum(r.run.length for r in runs)


@settings(max_examples=100, deadline=None)
@given(studies, st.randoms(use_true_random=False))
def test_order_of_runs_changes_nothing(runs: list[Lowered], shuffler: random.Random) -> None:
    def segments(of: Sequence[Lowered]) -> set[tuple]:
        return {
            (w.node.track.id, w.segment.begin, w.segment.end, w.segment.saves, *sorted(w.segment.measures))
            for w in arrange(grow(of), Nothing())
        }

    other = list(runs)
    shuffler.shuffle(other)
    assert segments(runs) == segments(other)


@settings(max_examples=100, deadline=None)
@given(studies, made)
def test_adding_a_run_costs_only_what_is_new(runs: list[Lowered], extra: Lowered) -> None:
    ledger = Ledger()
    ledger.finish(runs)
    before = set(ledger.trained)
    ledger.finish([*runs, extra])
    new = {r.run.key(u) for r in [extra] for u in range(1, extra.run.length + 1)}
    old = {r.run.key(u) for r in runs for u in range(1, r.run.length + 1)}
    assert len(set(ledger.trained) - before) == len(new - old)
    assert satisfied([*runs, extra], ledger)


@settings(max_examples=150, deadline=None)
@given(studies, st.randoms(use_true_random=False))
def test_interrupted_work_goes_on_without_training_a_stored_piece_again(
    runs: list[Lowered], chance: random.Random
) -> None:
    ledger = Ledger()
    for _ in range(3):
        works = arrange(grow(runs), ledger)
        for work in works[: chance.randint(0, len(works))]:
            needed = work.waits_for
            if needed and needed[1] not in ledger.states.get(needed[0].track.id, ()):
                continue
            ledger.train(work, chance.choice([None, 1]))
            if chance.random() < 0.3:
                break
    replayed = ledger.finish(runs)
    assert satisfied(runs, ledger)
    assert len(ledger.trained) - len(set(ledger.trained)) <= replayed


def test_a_state_in_the_middle_of_a_trunk_costs_at_most_one_piece_of_replay() -> None:
    ledger = Ledger()
    ledger.finish([lowered(0, 3, 40, 0, 0)])
    before = len(ledger.trained)
    between = lowered(0, 3, 24, 8, 0)
    works = arrange(grow([lowered(0, 3, 40, 0, 0), between]), ledger)
    _, replayed = cost.missing(works)
    assert replayed == 24 - 21 <= 7
    ledger.finish([lowered(0, 3, 40, 0, 0), between])
    assert len(ledger.trained) - before == 8 + 3


def test_a_later_window_is_replayed_from_a_state_before_it() -> None:
    ledger = Ledger()
    ledger.finish([lowered(0, 3, 40, 0, 0)])
    works = arrange(grow([lowered(0, 3, 40, 0, 4)]), ledger)
    assert [(w.segment.begin, w.segment.end, w.replayed) for w in works] == [(35, 40, 5)]


def test_the_same_study_again_needs_nothing() -> None:
    runs = [lowered(s, 3, 20, c, w) for s in (0, 1) for c in (0, 4) for w in (0, 4)]
    ledger = Ledger()
    ledger.finish(runs)
    assert arrange(grow(runs), ledger) == []


def test_behind_a_divergence_nothing_is_planned() -> None:
    runs = [lowered(0, 3, 40, 0, 0), lowered(0, 3, 16, 4, 0), lowered(0, 3, 30, 4, 0)]
    track = runs[0].run.tracks[1][0].id

    class Broken(Nothing):
        def stretches(self, tracks: Sequence[str]) -> Mapping[str, Stretch]:
            first = runs[0].run.tracks[0][0].id
            return {
                first: Stretch(frozenset({3}), ((0, 3),)),
                track: Stretch(frozenset({7, 14}), ((0, 20),), diverged=20),
            }

    works = arrange(grow(runs), Broken())
    reached = {(w.node.begun + w.segment.begin, w.node.begun + w.segment.end) for w in works}
    assert all(end <= 3 + 20 for _, end in reached)
    assert any(w.node.track.id == runs[1].run.tracks[2][0].id for w in works)
    assert not any(w.node.track.id == runs[2].run.tracks[2][0].id for w in works)
