"""Publishing and reading: a memo table that answers with the same bits, and an alarm where it cannot."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from store_pieces import diverged, key, make_piece, same_state

from isoloss.recipe.errors import NotDeterministic, StoreError
from isoloss.store import Measurement, Side, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_everything_comes_back(store):
    piece = make_piece(0)
    assert not store.has(piece.end_key) and store.digest(piece.end_key) is None
    assert store.publish(piece) is True
    for reader in (store, Store(store.path)):
        loaded = reader.load(piece.end_key)
        assert same_state(loaded.state, piece.state) and loaded.meta == piece.meta
        assert same_state(loaded.sides["ema"].state, piece.side["ema"].state)
        assert loaded.sides["ema"].meta == {"count": 10}
        assert reader.has(piece.end_key) and reader.known(piece.end_key) and not reader.has(piece.start_key)
        assert reader.measurement(piece.end_key, "loss/A") == 1.5
        assert reader.measurement(key("trunk-5"), "loss/A") == 2.0
        assert reader.measurement(piece.end_key, "loss/B") is None
        assert reader.measurements([piece.end_key, key("trunk-5"), key("nowhere")]) == {
            piece.end_key: {"loss/A": 1.5},
            key("trunk-5"): {"loss/A": 2.0},
        }
        assert reader.recipe(piece.end_key) == piece.recipes[piece.end_key]
        assert reader.has_side(piece.end_key, "ema") and not reader.has_side(piece.end_key, "lawa")
        assert reader.side(piece.end_key, "lawa") is None
        curve = reader.curve(piece.end_key)
        assert curve.keys() == piece.curve.keys()
        assert all(column.tobytes() == piece.curve[name].tobytes() for name, column in curve.items())
        assert reader.divergence(piece.end_key) is None
        assert reader.stored([piece.end_key, key("trunk-5")]) == {piece.end_key}


def test_observers_are_loaded_on_request(store):
    piece = make_piece(0, side={name: Side({"x": torch.ones(1)}, {"name": name}) for name in "abc"})
    store.publish(piece)
    assert store.load(piece.end_key, observers=["a", "c"]).sides.keys() == {"a", "c"}
    assert store.load(piece.end_key, observers=()).sides == {}


def test_equal_again_is_a_no_op(store):
    store.publish(make_piece(0))
    files = {path: path.stat().st_ino for path in store.path.rglob("*") if "index" not in path.parts}
    assert store.publish(make_piece(0)) is False and Store(store.path).publish(make_piece(0)) is False
    assert {path: path.stat().st_ino for path in store.path.rglob("*") if "index" not in path.parts} == files


def test_other_processes_pieces_are_seen_at_once(store):
    other = Store(store.path)
    other.refresh()
    piece = make_piece(0)
    store.publish(piece)
    assert other.has(piece.end_key) and other.measurement(piece.end_key, "loss/A") == 1.5
    assert other.measurements([key("trunk-5")])


def test_a_different_state_raises_the_alarm(store):
    store.publish(make_piece(0))
    before = store.digest(make_piece(0).end_key)
    changed = make_piece(0)
    state = {name: tensor.clone() for name, tensor in changed.state.items()}
    state["model/weight"][2, 3] += 0.5
    with pytest.raises(NotDeterministic) as alarm:
        store.publish(make_piece(0, state=state, meta={"updates": 10, "samples": 99}, labels={"torch": "2.14"}))
    text = str(alarm.value)
    assert changed.end_key in text and "(update 10)" in text
    assert "model/weight: 1 of 35 values differ, by up to 0.5" in text and "model/mask" not in text
    assert "meta 'samples': 160 stored, 99 new" in text
    assert "label 'torch': '2.13' stored, '2.14' new" in text
    assert '"path":"trunk"' in text
    assert store.digest(changed.end_key) == before and store.verify().clean


def test_the_alarm_shows_how_recipes_differ(store):
    piece = make_piece(0)
    store.publish(piece)
    other = {piece.end_key: b'{"lr":0x1.0p-7,"path":"trunk"}'}
    with pytest.raises(NotDeterministic) as alarm:
        store.publish(make_piece(0, seed=1, recipes=other))
    text = str(alarm.value)
    lines = [line.strip() for line in text.splitlines()]
    assert '- "lr":0x1.0p-8,' in lines and '+ "lr":0x1.0p-7,' in lines and '"path":"trunk"}' in lines


def test_the_alarm_works_after_the_state_was_released(store):
    piece = make_piece(0)
    store.publish(piece)
    store.release(piece.end_key)
    with pytest.raises(NotDeterministic, match="cannot be compared"):
        store.publish(make_piece(0, seed=1))


@pytest.mark.parametrize(
    ("old", "new"), [(1.0, math.nextafter(1.0, 2.0)), (0.0, -0.0), (1.0, math.nan), (math.inf, 1e308)]
)
def test_a_different_measurement_raises_the_alarm(store, old, new):
    store.publish(make_piece(0, value=old))
    with pytest.raises(NotDeterministic, match="measurement 'loss/A'") as alarm:
        store.publish(make_piece(0, value=new))
    assert repr(old) in str(alarm.value) and repr(new) in str(alarm.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.0, 5e-324])
def test_special_values_are_exact_and_equal_to_themselves(store, value):
    piece = make_piece(0, value=value)
    store.publish(piece)
    assert store.publish(piece) is False
    for reader in (store, Store(store.path)):
        assert reader.measurement(piece.end_key, "loss/A").hex() == value.hex()


def test_a_replay_that_measures_more_adds_to_the_piece(store):
    piece = make_piece(0)
    store.publish(piece)
    more = [*piece.measurements, Measurement(piece.end_key, 10, "loss/B", 0.25)]
    columns = {**piece.curve, "gradient norm": np.arange(10.0)}
    assert store.publish(make_piece(0, measurements=more, curve=columns)) is True
    assert store.measurement(piece.end_key, "loss/B") == 0.25
    assert store.curve(piece.end_key).keys() == {"update", "loss", "gradient norm"}
    wrong = [Measurement(key("trunk-5"), 5, "loss/A", 9.0)]
    with pytest.raises(NotDeterministic, match=r"update 5, key .*2.0 stored, 9.0 new"):
        store.publish(make_piece(0, measurements=wrong))


def test_observer_states_must_agree_too(store):
    store.publish(make_piece(0))
    with pytest.raises(NotDeterministic, match="observer 'ema'"):
        store.publish(make_piece(0, side={"ema": Side({"average": torch.zeros(3)}, {})}))


def test_divergence_is_remembered_and_a_later_success_wins(store):
    store.publish(make_piece(0))
    failed = diverged(1)
    assert store.publish(failed) and not store.publish(failed)
    assert store.divergence(failed.end_key) == "loss is nan at update 14"
    assert not store.has(failed.end_key) and not store.known(failed.end_key)
    assert len(store.curve(failed.end_key)["update"]) == 4
    assert store.measurement(key("trunk-15"), "loss/A") == 1.2
    store.publish(make_piece(1))
    assert store.divergence(failed.end_key) is None and store.has(failed.end_key)
    assert len(store.curve(failed.end_key)["update"]) == 10


def test_a_digest_without_its_state(store):
    piece = make_piece(0)
    assert store.publish(piece, keep_state=False)
    assert not store.has(piece.end_key) and store.known(piece.end_key)
    assert store.verify().clean and store.stored([piece.end_key]) == set()
    assert store.reached([piece.end_key]) == {piece.end_key}
    with pytest.raises(StoreError, match="was released"):
        store.load(piece.end_key)
    assert store.publish(piece, keep_state=False) is False
    assert store.publish(piece) is True and store.has(piece.end_key)
    assert store.publish(piece, keep_state=False) is False and store.has(piece.end_key)


def test_trajectory_joins_the_pieces_from_the_root(store):
    root = make_piece(0, start_key=key("trunk-0"), end_key=key("trunk-0"), end_update=0, curve={}, measurements=[])
    for piece in (root, *(make_piece(i) for i in range(4))):
        store.publish(piece)
    longer = make_piece(
        1,
        start_key=key("trunk-0"),
        start_update=0,
        curve={"update": np.arange(1, 21), "loss": np.arange(20.0)},
    )
    assert list(store.trajectory(key("trunk-40"))["update"]) == list(range(1, 41))
    store.publish(longer)
    path = store.trajectory(key("trunk-40"))
    assert list(path["update"]) == list(range(1, 41)) and list(path["loss"][:3]) == [0, 1, 2]
    assert store.trajectory(key("nowhere")) == {}


def test_curve_up_to_a_measured_key_inside_a_piece(store):
    store.publish(make_piece(0))
    store.publish(make_piece(1))
    assert list(store.curve(key("trunk-15"))["update"]) == [11, 12, 13, 14, 15]
    assert store.curve(key("trunk-13")) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"end_key": "abc"}, "64 hexadecimal digits"),
        ({"start_key": "A" * 64}, "64 hexadecimal digits"),
        ({"start_update": 11}, "runs forward"),
        ({"start_update": -1}, "runs forward"),
        ({"state": None}, "'done' without a state"),
        ({"status": "diverged"}, "'diverged' with a state"),
        ({"status": "maybe"}, "'maybe' with a state"),
        ({"state": None, "status": "diverged"}, "observer states need the state"),
        ({"curve": {"loss": np.zeros(3)}}, "'update' among them"),
        ({"curve": {"update": np.zeros(3), "loss": np.zeros(4)}}, "1-D columns of one length"),
        ({"curve": {"update": np.zeros((3, 1))}}, "1-D columns"),
        ({"curve": {"update": np.array(["a"])}}, "allowed are bool"),
        ({"curve": {"update": np.zeros(3, dtype=np.float16)}}, "'update' of a curve is float16"),
        ({"meta": {"betas": (0.9, 0.95)}}, "plain JSON"),
        ({"labels": {"x": float("nan")}}, "plain JSON"),
        (
            {"measurements": [Measurement(key(1), 1, "a", 1.0), Measurement(key(1), 1, "a", 2.0)]},
            "two values",
        ),
    ],
)
def test_a_contradictory_piece_is_refused_and_leaves_nothing(store, changes, message):
    with pytest.raises(ValueError, match=message):
        store.publish(make_piece(0, **changes))
    assert not list(store.path.rglob("*.parquet")) and not list(store.path.rglob("*.safetensors"))


@pytest.mark.parametrize("dtype", ["bool", "i1", "u1", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_curves_keep_their_dtype_and_bits(store, dtype):
    column = np.frombuffer(np.random.default_rng(0).bytes(80), dtype="u1" if dtype == "bool" else dtype)[:10]
    column = column.astype(bool) if dtype == "bool" else column
    store.publish(make_piece(0, curve={"update": np.arange(10), "x": column}))
    back = store.curve(make_piece(0).end_key)["x"]
    assert back.dtype == column.dtype and back.tobytes() == column.tobytes()


def test_numpy_and_torch_numbers_are_measurements(store):
    values = [
        Measurement(key("trunk-10"), np.int64(10), "a", np.float32(0.1)),
        Measurement(key("trunk-10"), 10, "b", torch.tensor(0.5)),
    ]
    store.publish(make_piece(0, measurements=values, start_update=np.int64(0)))
    assert store.measurements([key("trunk-10")]) == {key("trunk-10"): {"a": float(np.float32(0.1)), "b": 0.5}}


def test_loading_what_was_never_reached_says_so(store):
    with pytest.raises(StoreError, match=f"{key('x')}: it was never reached"):
        store.load(key("x"))


class AgainstADictionary(RuleBasedStateMachine):
    """Any sequence of operations answers like plain dictionaries, also after reopening and rebuilding."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = Store(Path(self.folder.name) / "store")
        self.states: dict[str, str] = {}
        self.loadable: set[str] = set()
        self.values: dict[tuple[str, str], float] = {}

    pieces = st.builds(
        make_piece,
        st.integers(0, 2),
        st.sampled_from(["trunk", "branch"]),
        seed=st.integers(0, 1),
        value=st.sampled_from([None, 1.0, 2.0]),
    )

    @rule(piece=pieces, keep=st.booleans())
    def publish(self, piece, keep):
        bits = piece.state["model/weight"].numpy().tobytes().hex()
        new = {(m.key, m.name): m.value for m in piece.measurements}
        agrees = self.states.get(piece.end_key, bits) == bits
        agrees &= all(self.values.get(pair, value) == value for pair, value in new.items())
        if not agrees:
            with pytest.raises(NotDeterministic):
                self.store.publish(piece, keep)
            return
        news = piece.end_key not in self.states or (keep and piece.end_key not in self.loadable)
        assert self.store.publish(piece, keep) is news
        self.states[piece.end_key] = bits
        self.values |= new
        if keep:
            self.loadable.add(piece.end_key)

    @rule(piece=pieces)
    def release(self, piece):
        freed = self.store.release(piece.end_key)
        held = piece.end_key in self.loadable
        self.loadable.discard(piece.end_key)
        shared = self.states.get(piece.end_key) in {self.states[other] for other in self.loadable}
        assert (freed > 0) == (held and not shared)

    @rule()
    def reopen(self):
        self.store.close()
        self.store = Store(self.store.path)

    @rule()
    def lose_the_index(self):
        self.store.close()
        for file in (self.store.path / "index").iterdir():
            file.unlink()
        self.store = Store(self.store.path)

    @rule()
    def sweep(self):
        assert self.store.gc(grace=0).bytes == 0

    @invariant()
    def answers_agree(self):
        keys = [key(f"{path}-{end}") for path in ("trunk", "branch") for end in (10, 20, 30)]
        assert self.store.stored(keys) == self.loadable
        assert self.store.reached(keys) == set(self.states)
        for at in keys:
            assert self.store.has(at) == (at in self.loadable) and self.store.known(at) == (at in self.states)
        measured = self.store.measurements([at for at, _ in self.values])
        assert {(at, name): v for at, row in measured.items() for name, v in row.items()} == self.values
        for at in self.loadable:
            weight = self.store.load(at).state["model/weight"]
            assert weight.numpy().tobytes().hex() == self.states[at]

    def teardown(self):
        report = self.store.verify()
        assert report.problems == []
        self.store.close()
        self.folder.cleanup()


TestAgainstADictionary = AgainstADictionary.TestCase
TestAgainstADictionary.settings = settings(max_examples=20, stateful_step_count=15, deadline=None)
