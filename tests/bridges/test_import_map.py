"""The map: what it may say, how values are found, and what is checked; every mistake is one message."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoloss.bridges import importing
from isoloss.bridges.expression import Expression
from isoloss.bridges.imported import Imported, load
from isoloss.bridges.runmap import check
from isoloss.bridges.runmap import load as load_map
from isoloss.recipe.errors import StudyError

HEAD = ("run", "arm", "seed", "N", "D", "loss")
ROWS = [(f"{a}{n}{d}{s}", a, s, n, d, 2.0 + 1e7 / n + 1e8 / d * (1 if a == "a" else 0.8)) for a in "ab"
        for n in (10**6, 10**7) for d in (10**8, 10**9) for s in (0, 1, 2)]  # fmt: skip


def table(folder: Path, rows: Sequence[Sequence[Any]] = ROWS, head: Sequence[str] = HEAD) -> Path:
    path = folder / "runs.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return path


def done(folder: Path, raw: dict[str, Any] | None = None, **written: Any) -> Imported:
    importing.write([table(folder, **written)], folder / "out", check(raw or {}))
    return load(folder / "out")


def fails(folder: Path, message: str, raw: dict[str, Any] | None = None, **written: Any) -> None:
    folder = folder / "refused"
    folder.mkdir(exist_ok=True)
    with pytest.raises(StudyError, match=message):
        done(folder, raw, **written)
    assert not (folder / "out").exists()  # nothing is written of what is refused


# ---- formulas


def test_a_formula_is_arithmetic_of_names() -> None:
    values = {"a": 3.0, "b.c": 4.0, "d e": 5.0, "_x1": 6.0}
    for text in ("12 * a ** 2 + b.c / 2", '-"d e" * (a - 1.5e3)', "+_x1", "2"):
        expected = text.replace("b.c", "4.0").replace('"d e"', "5.0").replace("_x1", "6.0").replace("a", "3.0")
        assert float(Expression(text)(lambda name: np.asarray(values[name]))) == eval(expected)
    assert Expression('a * "d e" + b.c').names == ("a", "d e", "b.c")


@pytest.mark.parametrize(
    "text",
    ["a +", "f(a)", "a[0]", "a if b else c", "a == b", "a % 2", "lambda: 1", "True", "__import__('os').x()", "x" * 600],
)
def test_anything_else_is_no_formula(text: str) -> None:
    with pytest.raises(StudyError, match=r"allowed: names, numbers, \+ - \* / \*\* and parentheses"):
        Expression(text)


# ---- the file


def test_every_mistake_of_a_map_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    lines = ["los: eval", "rows: step", "N: {nam: 3}", "units: {loss: nat, q: 3}", "flops: 6N", "steady: 3"]
    path.write_text("\n".join([*lines, "keep: {N: x}", "arm: {name: '('}"]))
    with pytest.raises(StudyError) as caught:
        load_map(path)
    said = str(caught.value)
    for words in (
        "map.yaml:1: los: no such key (did you mean 'loss'?)",
        "map.yaml:2: rows: found 'step'; allowed: runs, steps (did you mean 'steps'?)",
        "map.yaml:3: N: found nam; allowed: a name, a number, a formula",
        "map.yaml:4: units.loss: found 'nat'; allowed: nats, bits, perplexity (did you mean 'nats'?)",
        "map.yaml:4: units.q: no such quantity; allowed: D, loss",
        "map.yaml:5: flops: found '6N'; allowed: 6ND, ",
        "map.yaml:6: steady: found 3; allowed: true, [arms], or ARM: updates of its warm-up",
        "map.yaml:7: keep.N: is a column of every import",
        "map.yaml:8: arm: '(' is no regular expression",
    ):
        assert words in said
    path.write_text("- a\n")
    with pytest.raises(StudyError, match="allowed: a mapping, such as `loss: eval/loss`"):
        load_map(path)
    with pytest.raises(StudyError, match="--map: cannot read"):
        load_map(tmp_path / "none.yaml")


def test_options_lie_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text("loss: eval/loss\narm: optimizer\n")
    chart = load_map(path, ["arm={text: x}", "D=step * batch", "axes=[a, b]"])
    assert chart.values["loss"].given == "eval/loss" and chart.values["arm"].given == {"text": "x"}
    assert chart.values["D"].given == "step * batch" and chart.axes == ("a", "b")
    with pytest.raises(StudyError, match="--set: found 'arm'; allowed: KEY=VALUE"):
        load_map(None, ["arm"])


# ---- where values are found


def test_values_by_name_number_formula_and_the_runs_name(tmp_path: Path) -> None:
    models = (("10M", 64, 3.0), ("1.5B", 128, 2.0))
    rows = [(f"adam-{size}-s{s}", 12, width, 4000, loss) for size, width, loss in models for s in (0, 1)]
    chart = {
        "N": {"name": r"-([\d.]+[MB])-"},
        "D": "steps * 32 * 1024",
        "B": 32 * 1024,
        "S": "steps",
        "arm": {"name": {"^adam": "Adam", ".*": "other"}},
        "seed": {"of": "run", "match": r"s(\d)$"},
        "loss": {"first": ["no such name", "end"]},
        "C": "6.5 * 12 * layers * width ** 2 * steps * 32 * 1024",
        "keep": {"depth": "layers", "width": "width", "unique": 10**9},
    }
    found = done(tmp_path, chart, rows=rows, head=("run", "layers", "width", "steps", "end"))
    points = found.points
    assert points.N.tolist() == [1e7, 1e7, 1.5e9, 1.5e9] and points.D.tolist() == [4000 * 32768] * 4
    assert points.C.tolist() == [6.5 * 12 * 12 * w**2 * 4000 * 32768 for w in (64, 64, 128, 128)]
    assert [row.seed for row in found.rows] == ["0", "1", "0", "1"] and found.arms == ["Adam"]
    assert points.column("depth").tolist() == [12] * 4 and points.column("unique").tolist() == [1e9] * 4


def test_a_name_is_read_before_it_is_a_formula(tmp_path: Path) -> None:
    rows = [("a", 10**6, 10**8, 2.0, 4.0), ("b", 10**7, 10**8, 3.0, 4.0)]
    found = done(tmp_path, {"loss": "eval/loss"}, rows=rows, head=("run", "N", "D", "eval/loss", "loss"))
    assert found.points.loss.tolist() == [2.0, 3.0]


def test_usual_names_are_found_and_said(tmp_path: Path) -> None:
    rows = [("a", "7B", "1.4e12", 2.0, 2.1, 3), ("b", "13B", "1.4e12", 1.9, 2.0, 3)]
    found = done(tmp_path, rows=rows, head=("Name", "params", "tokens", "val_loss", "train_loss", "Seed"))
    assert found.points.N.tolist() == [7e9, 13e9]
    assert found.record["taken"]["loss"] == "val_loss (by its usual name)"
    assert found.record["taken"]["C"] == "6ND, from N and D (by default)"
    assert [row.seed for row in found.rows] == ["3", "3"] and found.points.train_loss.tolist() == [2.1, 2.0]


# ---- what is refused


def test_missing_columns_are_one_message(tmp_path: Path) -> None:
    fails(tmp_path, "N: nothing has a usual name for it; say where it is found, in the map or with --set N=NAME; "
          "found: run, arm, seed, width, D, loss", head=("run", "arm", "seed", "width", "D", "loss"))  # fmt: skip
    fails(tmp_path, r"N: no 'sizes' \(did you mean 'size'\?\); found: run, .* \(in 24 of 24 runs, first 'a1000000100",
          {"N": "sizes"}, head=("run", "arm", "seed", "size", "D", "loss"))  # fmt: skip
    fails(tmp_path, r"loss: no 'los' in any run \(did you mean 'loss'\?\); found: D, N, arm", {"loss": "los"})
    fails(tmp_path, r"loss: val_loss, eval_loss could all be it; say which, in the map \(loss: val_loss\) or with",
          head=("run", "val_loss", "seed", "N", "D", "eval_loss"))  # fmt: skip
    fails(tmp_path, r"seed: 'a10000001000000000' does not match 'x\(", {"seed": {"name": r"x(\d)"}})
    fails(tmp_path, "no column of steps", {"run": ["arm"]})


def test_a_name_that_only_some_runs_have(tmp_path: Path) -> None:
    rows = [(*row[:3], "" if i == 3 else row[3], *row[4:]) for i, row in enumerate(ROWS)]
    fails(tmp_path, r"N: no 'N'.*\(in 1 of 24 runs, first 'a100000010000000000'", rows=rows)


def test_runs_that_cannot_be_told_apart(tmp_path: Path) -> None:
    twice = [*ROWS, ("again", *ROWS[0][1:5], 2.5)]
    told = (
        r"2 runs share arm, N, D and seed with another, first 'a10000001000000000', 'again' \(arm a, N 1e\+06, "
        r"D 1e\+08, seed 0\); name what sets them apart in arm, axes or tuned, or say duplicates"
    )
    fails(tmp_path, told, rows=twice)
    assert done(tmp_path, {"duplicates": "first"}, rows=twice).points.loss[0] == ROWS[0][5]
    last = done(tmp_path, {"duplicates": "last"}, rows=twice)
    assert 2.5 in last.points.loss and len(last.points) == 24
    assert last.rows[0].status == "twin" and "again counts" in last.rows[0].message
    seeds = done(tmp_path, {"duplicates": "seeds"}, rows=twice)
    assert len(seeds.points) == 25 and {seeds.rows[0].seed, seeds.rows[-1].seed} == {"0.0", "0.1"}


def test_one_name_for_two_runs_in_two_sources(tmp_path: Path) -> None:
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    one.write_text("run,N,D,loss\na,1000000,100000000,2.0\n")
    two.write_text("run,N,D,loss\na,1000000,100000000,2.5\n")
    with pytest.raises(
        StudyError, match=r"two runs are called 'a', in .*one.csv and in .*two.csv, and loss is 2.0 and"
    ):
        importing.make([one, two], check({}))
    two.write_text("run,seed\na,7\n")
    _, found = importing.make([one, two], check({}))
    assert found.rows[0].seed == "7" and "made of" in found.notes[0]
    with pytest.raises(StudyError, match="is given twice"):
        importing.make([one, tmp_path / "." / "one.csv"], check({}))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("N", "0.7", r"N of run 'a10000001000000000' \(.*\): found 0.7, from N; allowed: a whole number from 1; of m"),
        ("D", "300.5", r"found 300.5, from D; .* map a formula, as D: D \* 1e9"),
        ("loss", "-1", "found -1; allowed: above 0"),
        ("loss", "n.a.", "none of 1 runs is finished with a loss: .*: missing, no loss: loss is 'n.a.'"),
        ("N", "big", "N: N is 'big', which is no number"),
        ("D", "inf", "D: D is inf"),
    ],
)
def test_values_that_cannot_be(column: str, value: str, message: str, tmp_path: Path) -> None:
    row = list(ROWS[0])
    row[HEAD.index(column)] = value
    fails(tmp_path, message, rows=[row])


def test_mixed_units_are_refused_and_odd_ones_told(tmp_path: Path) -> None:
    rows = [(*row[:3], "125M" if row[3] == 10**6 else "350", *row[4:]) for row in ROWS]
    fails(tmp_path, "N: some values have a K, M, B or T and others are small and have none, so units are m", rows=rows)
    millions = [(*row[:3], row[3] // 10**6, *row[4:]) for row in ROWS]
    assert any("times N in 24 of 24 runs" in w for w in done(tmp_path, rows=millions).record["warnings"])


def test_c_against_6nd_and_b_against_d_over_s(tmp_path: Path) -> None:
    rows = [(*row, 6 * row[3] * row[4] * (1.5 if row[2] else 100), row[4] // 512, 4) for row in ROWS]
    found = done(tmp_path, {"S": "S", "B": "batch"}, rows=rows, head=(*HEAD, "flops", "S", "batch"))
    (c,) = [w for w in found.record["warnings"] if w.startswith("C is")]
    assert c.startswith("C is 100 times 6ND in 8 of 24 runs, first 'a10000001000000000'")
    (b,) = [w for w in found.record["warnings"] if w.startswith("D over S times B")]
    assert "is 128 in 24 of 24 runs" in b and "is the context left out?" in b


def test_losses_in_other_units(tmp_path: Path) -> None:
    bits = [(*row[:5], row[5] / np.log(2)) for row in ROWS]
    assert done(tmp_path, {"units": {"loss": "bits"}}, rows=bits).points.loss == pytest.approx([r[5] for r in ROWS])
    powers = [(*row[:5], np.exp(row[5])) for row in ROWS]
    named = done(tmp_path, {"loss": "eval_ppl"}, rows=powers, head=(*HEAD[:5], "eval_ppl"))
    assert any("is it in nats?" in warning for warning in named.record["warnings"])
    chart = {"loss": "eval_ppl", "units": {"loss": "perplexity"}}
    found = done(tmp_path, chart, rows=powers, head=(*HEAD[:5], "eval_ppl"))
    assert found.points.loss == pytest.approx([r[5] for r in ROWS])


# ---- which runs count


def test_diverged_failed_and_unfinished_runs_are_marked(tmp_path: Path) -> None:
    rows = [("a", 1e6, 10, 1e8, 2.0, "finished"), ("b", 1e6, 10, 2e8, "nan", "finished"),
            ("c", 1e6, 10, 3e8, 2.0, "crashed"), ("d", 1e6, 4, 4e8, 2.0, "finished"),
            ("e", 1e6, 10, 5e8, "", "finished")]  # fmt: skip
    head = ("run", "N", "S", "D", "loss", "state")
    found = done(tmp_path, {"length": 10}, rows=rows, head=head)
    assert [row.status for row in found.rows] == ["done", "diverged", "failed", "failed", "missing"]
    assert found.rows[2].message == "crashed; where it counts all the same, say finished: [crashed]"
    assert found.rows[3].message == "stopped at update 4 of 10"
    assert found.points.column("run").tolist() == ["a"]
    assert len(done(tmp_path, {"finished": ["crashed"]}, rows=rows, head=head).points) == 3
    assert len(done(tmp_path, {"exclude": "a|c"}, rows=rows, head=head).points) == 1
    fails(tmp_path, "include and exclude leave no run", {"include": "z"}, rows=rows, head=head)


def steps(*losses: float, lr: Sequence[float] | None = None, arm: str = "a", run: str = "r") -> list[tuple[Any, ...]]:
    return [(run, arm, 10**6, 10 * (i + 1), loss, loss + 1, (lr or [0.1] * 99)[i]) for i, loss in enumerate(losses)]


STEPS = ("run", "arm", "N", "step", "val_loss", "train_loss", "lr")


def test_the_last_loss_or_the_best(tmp_path: Path) -> None:
    chart = {"D": "step * 1000"}
    rows = steps(3.0, 2.0, 2.5)
    last = done(tmp_path, chart, rows=rows, head=STEPS)
    assert (last.points.loss[0], last.points.S[0], last.points.D[0]) == (2.5, 30, 30_000)
    best = done(tmp_path, {**chart, "at": "best"}, rows=rows, head=STEPS)
    assert (best.points.loss[0], best.points.S[0]) == (2.0, 20)
    nan = done(tmp_path, chart, rows=[*rows, *steps(3.0, float("nan"), run="s", arm="b")], head=STEPS)
    assert [row.status for row in nan.rows] == ["done", "diverged"]


def test_a_last_loss_before_the_end_is_told(tmp_path: Path) -> None:
    rows = [*steps(3.0, 2.5), ("r", "a", 10**6, 40, "", 2.0, 0.1)]
    found = done(tmp_path, {"D": "step * 1000"}, rows=rows, head=STEPS)
    assert found.points.S[0] == 20 and any("first 'r' from step 20 to 40" in w for w in found.record["warnings"])


def test_a_counter_of_tokens_is_read_where_the_loss_was_measured(tmp_path: Path) -> None:
    logged = ((10, "", 5_000), (15, 3.0, ""), (20, "", 10_000), (25, 2.0, 12_500))
    rows = [("r", 10**6, *row) for row in logged]
    head = ("run", "N", "step", "val_loss", "tokens")
    found = done(tmp_path, rows=rows, head=head)
    assert found.points.D[0] == 12_500 and found.curves["D"].to_list() == [7_500, 12_500]
    short = [row if row[2] < 25 else (*row[:4], "") for row in rows]
    fails(tmp_path, "D: tokens ends at step 20, before step 25", rows=short, head=head)


def test_steps_back_are_refused_where_they_matter(tmp_path: Path) -> None:
    rows = [*steps(3.0, 2.0), ("r", "a", 10**6, 15, 1.5, 2.0, 0.1), ("r", "a", 10**6, 25, 1.0, 2.0, 0.1)]
    told = "run 'r' .*: val_loss: step 15 comes after step 20; say restarts: later where what was written later counts"
    fails(tmp_path, told, {"D": "step * 1000"}, rows=rows, head=STEPS)
    found = done(tmp_path, {"D": "step * 1000", "restarts": "later"}, rows=rows, head=STEPS)
    assert found.curves["S"].to_list() == [10, 15, 25]
    assert any("what was written later counts" in note for note in found.record["notes"])


def test_what_the_map_did_not_ask_for_does_not_stop_an_import(tmp_path: Path) -> None:
    """Training losses in disorder are left out with a word; runs that count nowhere need no arm."""
    rows = [("r", "a", 10, 2.0, 2.0), ("r", "a", 20, 1.5, 2.0), ("r", "a", 15, "", 3.0), ("q", "", 10, "nan", 3.0)]
    found = done(
        tmp_path, {"N": 10**6, "D": "step * 1000"}, rows=rows, head=("run", "arm", "step", "val_loss", "train_loss")
    )
    assert found.record["warnings"][0] == ("train_loss: train_loss is left out: run 'r': step 15 comes after step 20")
    assert [row.status for row in found.rows] == ["done", "diverged"]
    fails(tmp_path, "seed: Seed, random_seed could all be it", rows=[("a", 1, 2, 10**6, 10**8, 2.0)],
          head=("run", "Seed", "random_seed", "N", "D", "loss"))  # fmt: skip


def test_the_learning_rate_is_its_peak_and_steadiness_is_checked(tmp_path: Path) -> None:
    chart = {"D": "step * 1000"}
    rows = [*steps(3.0, 2.0, 1.5, lr=[0.05, 0.2, 0.2]), *steps(3.0, 2.0, 1.0, lr=[0.2, 0.2, 0.01], arm="b", run="q")]
    found = done(tmp_path, chart, rows=rows, head=STEPS)
    assert [row.lr for row in found.rows] == [0.2, 0.2]
    falling = r"steady: lr of run 'q' .* goes from 0.2 to 0.01 after update 0"
    fails(tmp_path, falling, {**chart, "steady": ["b"]}, rows=rows, head=STEPS)
    fails(tmp_path, "steady: no arm 'c'", {**chart, "steady": ["c"]}, rows=rows, head=STEPS)
    warm = done(tmp_path, {**chart, "steady": {"a": 10}}, rows=rows, head=STEPS)
    assert warm.record["steady"] == {"a": 10.0} and warm.compared("a").results[0].steady == 10


# ---- tuning and axes


def test_tuning_takes_the_best_mean_and_charges_the_rest(tmp_path: Path) -> None:
    rows = [(f"{lr}{s}{arm}{D}", arm, s, 10**6, D, 2.0 + gain * 1e8 / D + abs(lr - best) + s / 100, lr)
            for arm, best, gain in (("a", 0.2, 1.0), ("b", 0.4, 0.8)) for lr in (0.1, 0.2, 0.4)
            for D in (10**8, 2 * 10**8) for s in (0, 1, 2)]  # fmt: skip
    found = done(tmp_path, {"tuned": "lr"}, rows=rows, head=(*HEAD, "lr"))
    kept = {(row.arm, row.lr) for row in found.rows if row.status == "done"}
    assert kept == {("a", 0.2), ("b", 0.4)} and len(found.points) == 12
    compared = found.compared("a")
    assert compared.tuning("a", 10**6) == 2 * 3 * 6 * 10**6 * (10**8 + 2 * 10**8)
    answer = found.answer("a")
    assert [arm["tuning"]["runs"] for arm in answer["arms"]] == [12, 12]
    assert [row["lr"] for arm in answer["arms"] for row in arm["lr"]] == [0.2, 0.4]
    assert any("best lr of b lies at an edge" in caveat for caveat in answer["caveats"])
    worth = found.worth("a").by_size[0].ratios
    assert worth["compute with tuning"].ratio != pytest.approx(worth["compute"].ratio)


def test_axes_compare_at_the_same_place_and_a_batch_is_one(tmp_path: Path) -> None:
    def loss(D: float, factor: float) -> float:
        return 2.0 + 1e4 / (D * factor) ** 0.5

    rows = [(f"{arm}{batch}{D}{s}", arm, s, 10**6, D, loss(D, factor * (64 / batch) ** 0.3), batch)
            for arm, factor in (("a", 1.0), ("b", 1.5)) for batch in (64, 128, 256)
            for D in (10**7, 3 * 10**7, 9 * 10**7) for s in (0, 1, 2)]  # fmt: skip
    found = done(tmp_path, {"axes": "batch", "B": "batch * 100"}, rows=rows, head=(*HEAD, "batch"))
    overall = {(o.arm, o.reference): o.ratios["data"].ratio for o in found.worth("a").overall}
    assert overall["b · batch 128", "a · batch 128"] == pytest.approx(1.5, rel=0.01)
    assert overall["a · batch 128", "a · batch 64"] == pytest.approx(0.5**0.3, rel=0.01)
    answer = found.answer("a")
    (size,) = answer["large_batch"]["sizes"]
    speed = {cell["batch"]: cell["speedup"]["ratio"] for cell in size["cells"] if cell["arm"] == "a"}
    assert speed == {6400: 1.0, 12800: pytest.approx(2**0.7, rel=0.02), 25600: pytest.approx(4**0.7, rel=0.02)}


def test_sizes_that_differ_by_a_rounding_meet(tmp_path: Path) -> None:
    rows = [(*row[:3], row[3] + (2_000 if row[1] == "b" else 0), *row[4:]) for row in ROWS]
    found = done(tmp_path, rows=rows)
    assert len(found.worth("a").by_size) == 2 and all(w.ratios for w in found.worth("a").by_size)
    assert any("within half a percent" in caveat for caveat in found.answer("a")["caveats"])
    assert sorted(set(found.points.N.tolist())) == [1e6, 1_002_000, 1e7, 10_002_000]
