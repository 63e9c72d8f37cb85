"""What `isoloss watch` knows of a study under way: what the store holds, at every moment; it writes nothing."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import watched

import isoloss
from isoloss.recipe.errors import StoreError, StudyError
from isoloss.report.watch.expected import Course, Others
from isoloss.report.watch.leases import PATIENCE, Leases, began, named
from isoloss.report.watch.watch import Watch
from isoloss.store import Store, owners
from isoloss.worth.anytime import anytime_of

pytestmark = pytest.mark.multiprocess


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small tuned study, trained: small.yaml, small.store."""
    folder = tmp_path_factory.mktemp("watched")
    path = watched.written(watched.tuned(), folder)
    results = isoloss.run(path, folder / "small.store", workers=1, quiet=True)
    assert {r.status for r in results.results} == {"done"}
    return folder


def look(path: Path, store: Path | str, **options: Any) -> dict[str, Any]:
    """What a page is told at first."""
    watch = Watch(path, store, **options)
    watch.look()
    return watch.records.since()[1]


def by_name(state: dict[str, Any], *, trials: bool = False) -> dict[str, Any]:
    """Records of runs by name."""
    runs = state["plan"]["runs"]
    return {runs[int(i)]["name"]: record for i, record in state["runs"].items() if runs[int(i)]["trial"] == trials}


def test_a_finished_study_is_what_its_results_say(finished: Path) -> None:
    state = look(finished / "small.yaml", finished / "small.store")
    results = isoloss.results(finished / "small.yaml", finished / "small.store")
    records = by_name(state)
    assert {name: (r["status"], r["loss"], r["loss_a"]) for name, r in records.items()} == {
        r.name: ("done", r.loss, r.loss_a) for r in results.results
    }
    assert {name: list(zip(*r["losses"], strict=True)) for name, r in records.items()} == {
        r.name: list(r.curve) for r in results.results
    }
    sharing = results.answer()["sharing"]["updates"]
    assert state["head"]["updates"]["planned"] == state["head"]["updates"]["trained"] == sharing["shared"]
    assert state["head"]["updates"]["alone"] == sharing["unshared"]
    assert state["head"]["phase"] == "done"
    assert {t["name"]: state["runs"][str(i)]["loss_a"] for i, t in enumerate(state["plan"]["runs"]) if t["trial"]} == {
        name: t.loss for name, t in zip(results.stage.names, results.stage.trials, strict=False)
    }


def test_nothing_is_ever_written(finished: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(finished / "small.store", store, ignore=shutil.ignore_patterns("index"))
    damaged = next((store / "blobs").rglob("*.parquet"))
    damaged.chmod(0o644)
    damaged.write_bytes(b"not what its name says")
    torn = next((store / "pieces").rglob("*.json"))
    torn.chmod(0o644)
    torn.write_bytes(torn.read_bytes()[:40])
    (torn.parent / ".tmp-1-abc").write_bytes(b"half")
    before = watched.listing(store)
    watch = Watch(finished / "small.yaml", store)
    for _ in range(3):
        watch.look()
    assert watched.listing(store) == before
    head = watch.records.since()[1]["head"]
    assert any(str(torn) in notice for notice in head["notices"])
    assert any(str(damaged) in notice for notice in head["notices"])
    assert head["problem"] is None


def test_it_grows_with_the_store_and_what_is_sent_adds_up(finished: Path, tmp_path: Path) -> None:
    """At every moment: what came in parts is what a newcomer is told, and the counts are those of the store."""
    path = finished / "small.yaml"
    steps = watched.growing(finished / "small.store", tmp_path / "store")
    watch = Watch(path, tmp_path / "store")
    assert watch.records.since()[1]["head"]["phase"] == "reading"
    known: dict[str, Any] | None = None
    tag, phases, trained, sent = None, [], [], []
    for number in steps:
        watch.look()
        tag, message = watch.records.since(tag)
        message = json.loads(json.dumps(message, allow_nan=False))
        known = watched.merged(known, message)
        whole = watch.records.since()[1]
        assert known == {name: whole[name] for name in known}
        phases.append(known["head"]["phase"])
        trained.append(known["head"]["updates"]["trained"])
        sent.append(len(json.dumps(message)) if not message["whole"] else None)
        if number % 9 == 0:
            results = isoloss.results(path, tmp_path / "store")
            done = Counter(r.status for r in results.results)
            assert known["head"]["runs"].get("done", 0) == done["done"]
            assert known["head"]["runs"].get("waiting", 0) == len(results.study.cells) - done["done"]
    assert phases[0] == "tuning" and phases[-1] == "done" and list(dict.fromkeys(phases)) == ["tuning", "study", "done"]
    assert trained[0] == 0 and trained[-1] == known["head"]["updates"]["planned"]
    parts = [size for size in sent if size is not None]
    assert np.median(parts) < len(json.dumps(whole)) / 5
    nothing = watch.records.since(tag)[1]
    assert not nothing["whole"] and nothing["runs"] == nothing["tracks"] == {}


def test_curves_are_the_means_of_what_was_stored(finished: Path) -> None:
    state = look(finished / "small.yaml", finished / "small.store")
    store = Store(finished / "small.store", create=False)
    results = isoloss.results(finished / "small.yaml", store)
    runs = {run["name"]: run for run in state["plan"]["runs"] if not run["trial"]}
    for result in results.results:
        columns = store.trajectory(result.key)
        losses = dict(zip(columns["update"].tolist(), columns["loss"].tolist(), strict=True))
        for index, length in runs[result.name]["tracks"]:
            begun = state["plan"]["tracks"][index]["begun"]
            record = state["tracks"][str(index)]
            places = [math.floor(math.log10(max(1, u)) * 15) for u in range(begun + 1, begun + length + 1)]
            for update, mean in zip(record["update"], record["loss"], strict=True):
                if update > begun + length:
                    continue
                place = math.floor(math.log10(update) * 15)
                mine = [losses[begun + 1 + i] for i, p in enumerate(places) if p == place]
                if max(begun + 1 + i for i, p in enumerate(places) if p == place) == update:
                    assert mean == pytest.approx(np.mean(mine), rel=5e-5)


def test_without_a_store_it_waits(finished: Path, tmp_path: Path) -> None:
    watch = Watch(finished / "small.yaml", tmp_path / "store")
    watch.look()
    assert watch.records.since()[1]["head"]["phase"] == "waiting"
    assert not (tmp_path / "store").exists()
    (tmp_path / "store").mkdir()  # a driver that has just begun
    watch.look()
    assert watch.records.since()[1]["head"]["phase"] == "waiting"
    (tmp_path / "store").rmdir()
    shutil.copytree(finished / "small.store", tmp_path / "store")
    watch.look()
    assert watch.records.since()[1]["head"]["phase"] == "done"


def test_a_store_that_is_emptied_is_seen_empty(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "small.store", tmp_path / "store")
    watch = Watch(finished / "small.yaml", tmp_path / "store")
    watch.look()
    shutil.rmtree(tmp_path / "store")
    watch.look()
    head = watch.records.since()[1]["head"]
    assert head["updates"]["trained"] == 0 and head["runs"] == {"waiting": 12}
    shutil.copytree(finished / "small.store", tmp_path / "store")
    watch.look()
    assert watch.records.since()[1]["head"]["phase"] == "done"


def test_a_curve_that_is_late_is_drawn_later(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "small.store", tmp_path / "store")
    store = Store(finished / "small.store", create=False)
    row = next(row for row in store.pieces() if row.curve)
    blob = next((tmp_path / "store" / "blobs").rglob(f"{row.curve}*"))
    for manifest in (tmp_path / "store" / "pieces").rglob("*.json"):
        manifest.touch()  # as if it had just been written
    blob.rename(tmp_path / "away")
    watch = Watch(finished / "small.yaml", tmp_path / "store")
    watch.look()
    tag, early = watch.records.since()
    assert early["head"]["problem"] is None
    shutil.move(tmp_path / "away", blob)
    watch.look()
    assert len(watch.records.since(tag)[1]["tracks"]) == 1


def test_a_place_that_is_no_store_is_refused(finished: Path, tmp_path: Path) -> None:
    path = finished / "small.yaml"
    with pytest.raises(StoreError, match="allowed: a folder"):
        Watch(path, "ftp://somewhere/store")
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "format.json").write_text('{"isoloss_store": 99}')
    with pytest.raises(StoreError, match="newer version"):
        Watch(path, newer)
    with pytest.raises(StoreError, match="no isoloss store"):
        Watch(path, finished / "small.store", under=[tmp_path / "nothing"])


def test_what_goes_wrong_with_the_store_is_said_and_passes(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "small.store", tmp_path / "store")
    watch = Watch(finished / "small.yaml", tmp_path / "store")
    watch.look()
    away = tmp_path / "store" / "pieces"
    away.rename(tmp_path / "pieces")
    away.write_text("a file in its place")
    (away.parent / "leases").mkdir(exist_ok=True)
    watch.look()
    away.unlink()
    (tmp_path / "pieces").rename(away)
    watch.look()
    head = watch.records.since()[1]["head"]
    assert (head["problem"], head["phase"]) == (None, "done")


def test_an_edited_study_is_followed(finished: Path, tmp_path: Path) -> None:
    study = watched.tuned()
    path = watched.written(study, tmp_path)
    watch = Watch(path, finished / "small.store")
    watch.look()
    tag, _ = watch.records.since()
    path.write_text("study: [")
    watch.look()
    tag, message = watch.records.since(tag)
    assert "edited" in message["head"]["problem"] and not message["whole"]
    study["grid"]["duration"].append("80 updates")
    watched.written(study, tmp_path)
    watch.look()
    _, message = watch.records.since(tag)
    assert message["whole"] and message["head"]["problem"] is None
    assert message["head"]["runs"] == {"done": 12, "waiting": 6}
    # What is new, of each seed: cosine behind its warm-up, the trunk from 40 to 80, a cooldown from 64.
    updates = message["head"]["updates"]
    assert updates["planned"] - updates["trained"] == 2 * ((80 - 4) + (80 - 40) + 16)


def test_a_wrong_study_is_one_error(tmp_path: Path) -> None:
    study = watched.tuned() | {"baseline": "cosin"}
    with pytest.raises(StudyError, match="cosine"):
        Watch(watched.written(study, tmp_path), tmp_path / "store")
    with pytest.raises(StudyError):
        Watch(tmp_path / "absent.yaml", tmp_path / "store")


def test_diverged_and_failed_runs(small: dict[str, Any], breaking: Callable[[bool], Any], tmp_path: Path) -> None:
    small["grid"] = {"duration": ["20 updates"], "seed": [0]}
    small["arms"] = {"cosine": {}, "wild": {"training": {"optimizer": {"name": "sgd", "lr": 90.0}}}}
    small["baseline"] = {"arm": "cosine", "extra": "none"}
    path = watched.written(small, tmp_path)
    results = isoloss.run(path, tmp_path / "small.store", workers=1, quiet=True)
    wild = next(r for r in results.results if r.arm == "wild")
    state = look(path, tmp_path / "small.store")
    record = by_name(state)[wild.name]
    assert (wild.status, record["status"], record["why"]) == ("diverged", "diverged", wild.message)
    assert state["head"]["runs"] == {"done": 1, "diverged": 1}

    small["model"] = breaking(True)
    small["arms"] = {"cosine": {}, "fine": {"model": breaking(False)}}
    path = watched.written(small, tmp_path, "broken.yaml")
    results = isoloss.run(path, tmp_path / "broken.store", workers=1, quiet=True)
    assert look(path, tmp_path / "broken.store")["head"]["runs"] == {"done": 1, "waiting": 1}
    isoloss.report(results.answer(), tmp_path / "broken.report")
    state = look(path, tmp_path / "broken.store")
    assert state["head"]["runs"] == {"done": 1, "failed": 1}
    assert "no such luck" in next(r for r in by_name(state).values() if r["status"] == "failed")["why"]


# Who is at work


def test_leases_tell_who_is_at_work(finished: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    now = [0.0]
    seen = Leases(abandoned=lambda owner: owner == "dead", clock=lambda: now[0])
    mine = store.lease("a" * 64, "host 7 1")
    theirs = store.lease("b" * 64, "dead")
    assert mine.take() and theirs.take()
    seen.look(store.top.backend)
    assert seen.held == {"a" * 64: "host 7 1"} and seen.drivers == ["host 7 1"]
    now[0] += PATIENCE - 1
    assert mine.beat()
    seen.look(store.top.backend)
    now[0] += PATIENCE - 1
    seen.look(store.top.backend)
    assert seen.held  # it has moved since
    now[0] += 2
    seen.look(store.top.backend)
    assert seen.held == {} and seen.drivers == ["host 7 1"]  # a moment ago it was
    now[0] += PATIENCE
    seen.look(store.top.backend)
    assert seen.drivers == []
    assert mine.beat() and (seen.look(store.top.backend) or seen.held)
    mine.release()
    seen.look(store.top.backend)
    assert seen.held == {}
    record = next((tmp_path / "store" / "leases" / ("a" * 64)).iterdir())
    record.chmod(0o644)
    record.rename(record.with_name(f"{int(record.name) + 1:012d}"))
    next((tmp_path / "store" / "leases" / ("a" * 64)).iterdir()).write_bytes(b"{")
    seen.look(store.top.backend)
    assert seen.held == {}


def test_a_driver_by_name_and_age() -> None:
    import os
    import socket

    owner = owners.this_process()
    assert named(owner) == f"{socket.gethostname()}, process {os.getpid()}"
    moment = began(owner)
    assert moment is not None and 0 < time.time() - moment < 24 * 3600
    assert began("elsewhere 1 1") is None and began("nonsense") is None
    assert named("nonsense") == "nonsense"


def test_what_a_track_at_work_is_called(finished: Path, tmp_path: Path) -> None:
    """A lease makes the runs that need the track's next updates `training`; what was there before is told apart."""
    store = tmp_path / "store"
    for number in watched.growing(finished / "small.store", store):
        if number == 30:
            break
    watch = Watch(finished / "small.yaml", store)
    watch.look()
    state = watch.records.since()[1]
    plan = watch.plan
    waiting = next(i for i, r in state["runs"].items() if r["status"] == "waiting")
    number, _ = plan.to_dict()["runs"][int(waiting)]["tracks"][-1]
    lease = Store(store).lease(plan.nodes[number].track.id, "elsewhere 4711 1")
    assert lease.take()
    watch.look()
    state = watch.records.since()[1]
    assert state["head"]["drivers"] == [{"name": "elsewhere, process 4711", "tracks": [number], "others": 0}]
    assert state["tracks"][str(number)]["live"]
    assert state["runs"][waiting]["status"] == "training"
    training = {i for i, r in state["runs"].items() if r["status"] == "training"}
    assert training <= set(map(str, plan.to_dict()["tracks"][number]["runs"]))
    assert state["head"]["updates"]["before"] == state["head"]["updates"]["trained"]  # it is older than the watch
    lease.release()
    watch.look()
    assert "training" not in watch.records.since()[1]["head"]["runs"]


def test_time_left_is_the_estimate_of_a_plan(finished: Path, tmp_path: Path) -> None:
    for number in watched.growing(finished / "small.store", tmp_path / "store"):
        if number == 40:
            break
    watch = Watch(finished / "small.yaml", tmp_path / "store")
    watch.look()
    left = watch.records.since()[1]["head"]["left"]
    planned = isoloss.plan(finished / "small.yaml", tmp_path / "store", workers=left["workers"])
    # The plan adds the start of the workers.
    assert 0 < left["seconds"] <= planned.seconds
    assert left["speed"] == "store"
    done = look(finished / "small.yaml", finished / "small.store")
    assert done["head"]["left"]["seconds"] == 0


# Likely ends


def course(seed: str, losses: dict[int, float], end: float | None, **given: Any) -> Course:
    usual: dict[str, Any] = {
        "group": ("a", 10), "place": ("a", "x"), "length": 100, "trunk": None, "walked": {}, "falls": False,
        "averaged": False,
    }  # fmt: skip
    return Course(seed=seed, losses=losses, end=end, **(usual | given))


def test_twins_by_hand() -> None:
    twins = [course("1", {50: 3.0}, 2.0), course("2", {50: 3.3}, 2.31)]
    run = course("0", {25: 9.0, 50: 3.1}, None)
    found = Others([*twins, run]).expect(run, ([], []))
    steps = np.log([2.0 / 3.0, 2.31 / 3.3])
    half = 6.313751514675 * np.std(steps, ddof=1) * math.sqrt(1.5)  # Student's t, one degree of freedom, 95 %
    assert found.how == "twins" and not found.ceiling
    assert found.loss == pytest.approx(3.1 * math.exp(steps.mean()))
    assert (found.low, found.high) == pytest.approx(
        (found.loss * math.exp(-half), found.loss * math.exp(half)), rel=1e-9
    )
    # One twin: no band of its own, but that of the arm's other cells of this length.
    assert Others([twins[0], run]).expect(run, ([], [])).low is None
    pooled = Others([twins[0], *(course(c.seed, dict(c.losses), c.end, place=("a", "y")) for c in twins), run])
    made = pooled.expect(run, ([], []))
    half = 6.313751514675 * np.std(steps, ddof=1) * math.sqrt(2)
    assert made.high == pytest.approx(3.1 * 2 / 3 * math.exp(half))
    # Another arm or length is no twin.
    others = [course(c.seed, dict(c.losses), c.end, place=("b", "x"), group=("b", 10)) for c in twins]
    assert Others([*others, run]).expect(run, ([], [])) is None


def test_a_continued_curve_holds_a_planted_law() -> None:
    law = lambda u: 2.0 + 5.0 * u**-0.5  # noqa: E731
    at = range(100, 1001, 50)
    run = course("0", {u: law(u) for u in at}, None, length=2000)
    found = Others([run]).expect(run, ([], []))
    assert found.how == "curve" and found.low <= law(2000) <= found.high
    assert found.loss == pytest.approx(law(2000), rel=0.005)
    assert not found.ceiling and "validation" in found.words
    falling = course("0", dict(run.losses), None, length=2000, falls=True)
    assert Others([falling]).expect(falling, ([], [])).ceiling
    # Few evaluations: the training losses; too far from the end, or too little: nothing.
    few = course("0", {100: law(100)}, None, length=2000)
    assert "training" in Others([few]).expect(few, ([float(u) for u in at], [law(u) for u in at])).words
    assert Others([few]).expect(few, ([1.0, 2.0, 3.0], [3.0, 2.9, 2.8])) is None
    early = course("0", {u: law(u) for u in range(10, 101, 10)}, None, length=2000)
    assert Others([early]).expect(early, ([], [])) is None


def test_branches_are_those_of_the_anytime_curve(small: dict[str, Any], tmp_path: Path) -> None:
    """The end of a cooldown under way, against `worth.anytime` on the results of the other runs."""
    small["grid"] = {"duration": ["40 updates", "60 updates", "80 updates", "120 updates"], "seed": [0]}
    small["evaluation"]["every"] = "4 updates"
    path = watched.written(small, tmp_path)
    isoloss.run(path, tmp_path / "whole", workers=1, quiet=True)
    whole = Store(tmp_path / "whole", create=False)
    results = isoloss.results(path, whole)
    longest = next(r for r in results.results if r.arm == "cooldown" and r.S == 120)
    track = next(p for p in results.stage.planned if p.name == longest.name).lowered.run.tracks[-1][0]
    (tmp_path / "part").mkdir()
    shutil.copytree(tmp_path / "whole", tmp_path / "part", dirs_exist_ok=True, ignore=shutil.ignore_patterns("index"))
    for row in whole.on_tracks([track.id])[track.id]:
        shutil.rmtree(tmp_path / "part" / "pieces" / row.end_key[:2] / row.end_key)
    part = isoloss.results(path, tmp_path / "part")
    expected = anytime_of(part, "cooldown")[longest.N].at(96)
    assert Store(tmp_path / "part").lease(track.id, "elsewhere 4711 1").take()
    record = by_name(look(path, tmp_path / "part"))[longest.name]
    assert record["status"] == "training" and record["loss"] is None
    found = record["expected"]
    assert found["how"] == "branches" and not found["ceiling"]
    assert (found["loss"], found["low"], found["high"]) == pytest.approx((expected.loss, expected.low, expected.high))
