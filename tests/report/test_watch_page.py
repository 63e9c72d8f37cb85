"""The page of `isoloss watch` in a browser, beside studies that really train."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import chromium
import numpy as np
import pytest
import torch
import watched
from playwright.sync_api import Browser, Page, expect, sync_playwright
from test_watch_server import served
from tests.cli.command import ENVIRONMENT, ISOLOSS
from tests.conftest import SMALL

import isoloss
from isoloss.plan.demands import folder_of
from isoloss.plan.lower import Lowering
from isoloss.plan.needs import Nothing
from isoloss.report.watch.plan import Plan
from isoloss.store import Measurement, Piece, Store
from isoloss.study import load

pytestmark = [pytest.mark.chromium, pytest.mark.multiprocess]

NASTY = "<img src=x onerror=\"document.title='taken'\">&amp;"
PATIENCE = 90_000


def in_browser(test: Callable[..., None]) -> Callable[..., None]:
    """Give a test a browser, in a thread of its own: Playwright allows one of its loops in each."""

    @functools.wraps(test)
    def run(**given: Any) -> None:
        def body() -> None:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
                try:
                    test(window=browser, **given)
                finally:
                    browser.close()

        binary = chromium.find()
        if binary is None:
            pytest.skip(f"no Chromium found; install it with: {chromium.INSTALL}")
        with ThreadPoolExecutor(1) as pool:
            pool.submit(body).result()

    names = [p for name, p in inspect.signature(test).parameters.items() if name != "window"]
    run.__signature__ = inspect.Signature(names)  # type: ignore[attr-defined]
    return run


def opened(
    window: Browser, url: str, *, width: int = 1280, dark: bool = False, **options: Any
) -> tuple[Page, list[str]]:
    """A page, and what it complains of from now on."""
    scheme = "dark" if dark else "light"
    page = window.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options).new_page()
    page.set_default_timeout(PATIENCE)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith((url, "data:")) else said.append(request.url))
    page.goto(url)
    return page, said


def serious(page: Page) -> list[str]:
    """What axe-core finds that is serious."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{rule['id']}: {node['html'][:120]}"
        for rule in found
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


class Processes:
    """Commands of `isoloss` in a folder; all of them are ended at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._all: list[subprocess.Popen[str]] = []

    def start(self, *arguments: object, pipe: bool = False) -> subprocess.Popen[str]:
        running = subprocess.Popen(
            [ISOLOSS, *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, **ENVIRONMENT},
            text=True,
            stdout=subprocess.PIPE if pipe else subprocess.DEVNULL,
            stderr=(self.folder / f"errors-{len(self._all)}").open("w"),
        )
        self._all.append(running)
        return running

    def watch(self, study: str, port: int = 0) -> tuple[subprocess.Popen[str], int]:
        """A server that answers, and its port."""
        running = self.start("watch", study, "--port", port, pipe=True)
        assert running.stdout is not None
        running.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", running.stdout.readline())
        assert found, (self.folder / f"errors-{len(self._all) - 1}").read_text()
        return running, int(found[1])

    def close(self) -> None:
        for running in self._all:
            with contextlib.suppress(ProcessLookupError):
                running.kill()
            running.wait()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    running = Processes(tmp_path)
    yield running
    running.close()


def trained(page: Page) -> int:
    """Updates trained, as the page says."""
    found = re.match(r"([\d,]+) of", page.locator("#under").inner_text())
    return int(found[1].replace(",", "")) if found else 0


def drawn(page: Page) -> int:
    """Points of all lines of the plots."""
    paths = page.locator(".panel path.line").evaluate_all("paths => paths.map((path) => path.getAttribute('d'))")
    return sum(len(re.findall("[ML]", path)) for path in paths)


def until(holds: Callable[[], bool], seconds: float = PATIENCE / 1000) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.1)


def live(
    study: dict[str, Any], window: Browser, processes: Processes, run: tuple[object, ...]
) -> tuple[Page, list[str]]:
    """A study from before its first update: seen growing, its driver killed and restarted, then the server."""
    path = watched.written(study, processes.folder)
    server, port = processes.watch(path.name)
    page, said = opened(window, f"http://127.0.0.1:{port}/")
    pill, headline = page.locator("#link"), page.locator("#headline")
    expect(headline).to_have_text("Nothing is trained yet.")
    expect(pill).to_have_text("no driver at work")

    driver = processes.start("run", path.name, *run)
    expect(pill).to_have_text("live", timeout=PATIENCE)
    expect(page.locator("#working li").first).to_be_visible()
    until(lambda: trained(page) > 0 and drawn(page) > 0)
    first, points = trained(page), drawn(page)
    until(lambda: trained(page) > first and drawn(page) > points)
    assert said == []

    driver.send_signal(signal.SIGKILL)
    driver.wait()
    expect(pill).to_have_text("no driver at work", timeout=PATIENCE)
    expect(page.locator("#lead")).to_contain_text(f"isoloss run {path.name}")
    expect(page.locator("#work")).to_be_hidden()
    reached = trained(page)
    assert reached >= first

    processes.start("run", path.name, *run)
    expect(pill).to_have_text("live", timeout=PATIENCE)
    until(lambda: trained(page) > reached)
    expect(page.locator("#under")).to_contain_text("were there before it")
    assert said == []

    server.send_signal(signal.SIGKILL)
    server.wait()
    expect(pill).to_have_text("not reached, trying again", timeout=PATIENCE)
    reached = trained(page)
    assert reached > 0  # what was known stays
    until(lambda: len(said) > 0)
    processes.watch(path.name, port)
    expect(pill).to_have_text(re.compile("live|finished"), timeout=PATIENCE)
    until(lambda: trained(page) > reached)
    assert all("ERR_CONNECTION_REFUSED" in line for line in said), said
    said.clear()
    return page, said


@in_browser
def test_a_study_is_seen_live_and_both_sides_may_be_killed(window: Browser, processes: Processes) -> None:
    study = copy.deepcopy(SMALL)
    study["study"] = NASTY
    study["grid"] = {"duration": ["600 updates", "1200 updates"], "seed": [0, 1]}
    study["evaluation"]["every"] = "100 updates"
    study["checkpoint"]["every"] = "100 updates"
    del study["arms"]["averaged"]
    page, said = live(study, window, processes, ("--workers", 1))
    expect(page.locator("#link")).to_have_text("finished", timeout=PATIENCE)
    expect(page.locator("#headline")).to_have_text("All 8 runs are done.")
    results = isoloss.results(processes.folder / "small.yaml", processes.folder / "small.store")
    rows = {
        row.get_attribute("data-run"): [
            float(v) for v in row.locator("data").evaluate_all("d => d.map((e) => e.value)")
        ]
        for row in page.locator("#rows tr").all()
    }
    assert rows == {r.name: [r.loss, r.loss_a] for r in results.results}
    shared = results.answer()["sharing"]["updates"]
    expect(page.locator("#under")).to_contain_text(f"{shared['shared']:,} of {shared['shared']:,} updates")
    expect(page.locator("#under")).to_contain_text(f"every run alone would take {shared['unshared']:,}")
    assert page.title() != "taken" and NASTY in page.title()
    assert page.locator("#study").inner_text() == NASTY
    assert said == []


@pytest.mark.slow
@in_browser
def test_the_quickstart_is_seen_live(window: Browser, processes: Processes) -> None:
    """The study that is shipped, as far as it comes in a minute."""
    shipped = Path(isoloss.__file__).parent / "studies" / "quickstart.yaml"
    (processes.folder / "small.yaml").write_bytes(shipped.read_bytes())
    server, port = processes.watch("small.yaml")
    page, said = opened(window, f"http://127.0.0.1:{port}/")
    driver = processes.start("run", "small.yaml", "--budget", "60s")
    expect(page.locator("#headline")).to_have_text(re.compile(r"Tuning first: \d+ of 24 candidates"), timeout=PATIENCE)
    until(lambda: trained(page) > 0 and drawn(page) > 0)
    points = drawn(page)
    until(lambda: drawn(page) > points)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    expect(page.locator("#link")).to_have_text("no driver at work", timeout=PATIENCE)
    reached = trained(page)
    driver = processes.start("run", "small.yaml", "--budget", "60s")
    expect(page.locator("#link")).to_have_text("live", timeout=PATIENCE)
    until(lambda: trained(page) > reached)
    assert said == []
    driver.wait(PATIENCE / 1000)
    expect(page.locator("#link")).to_have_text("no driver at work", timeout=PATIENCE)
    results = isoloss.results(processes.folder / "small.yaml", processes.folder / "small.store")
    done = {r.name: r.loss for r in results.results if r.status == "done"}
    page.locator("#show").select_option("done")
    expect(page.locator("#rows tr")).to_have_count(len(done))
    server.send_signal(signal.SIGINT)
    assert server.wait(20) == 0


# A page that stands still


def fabricated(path: Path, store: Path, *, upto: float = 1.0) -> Plan:
    """A store with a piece a track of a study, of smooth losses: as far as a share of all tracks."""
    study = load(path)
    plan = Plan(study, Nothing(), Lowering(base=folder_of(study)))
    with Store(store) as target:
        for node in plan.nodes[: round(upto * len(plan.nodes))]:
            updates = np.arange(node.begun + 1, node.begun + node.length + 1)
            seed = int(node.phase.rule.seeds["data"])
            losses = 2.0 + 3.0 * updates**-0.4 * (1 + 0.01 * seed)
            target.publish(
                Piece(
                    node.track.key(0),
                    node.track.key(node.length),
                    node.begun,
                    node.begun + node.length,
                    state={"weight": torch.full((1,), float(len(updates)) + seed)},
                    curve={"update": updates, "loss": losses},
                    measurements=tuple(
                        Measurement(node.track.key(offset), node.begun + offset, name, float(losses[offset - 1]))
                        for offset, measures in node.measures.items()
                        for name in measures
                    ),
                    track=node.track.id,
                    offset=node.length,
                    seconds=1.0,
                )
            )
    return plan


def many() -> dict[str, Any]:
    """240 runs: four arms, three lengths, ten seeds, two sizes."""
    study = copy.deepcopy(SMALL)
    study["study"] = NASTY
    study["grid"] = {
        "model.width": [8, 16],
        "duration": ["100 updates", "200 updates", "400 updates"],
        "seed": list(range(10)),
    }
    study["arms"]["linear"] = {"schedule": {"shape": "linear"}}
    return study


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the many runs, nine tenths of them trained, one of the others failed with markup in its message."""
    folder = tmp_path_factory.mktemp("many")
    path = watched.written(many(), folder, "many.yaml")
    plan = fabricated(path, folder / "many.store", upto=0.9)
    name = plan.runs[-1].name
    (folder / "many.report").mkdir()
    failed = {"runs": [{"id": name, "status": "failed", "message": f"no such luck {NASTY}"}]}
    (folder / "many.report" / "result.json").write_text(json.dumps(failed))
    return folder


@in_browser
def test_it_fits_and_reads_well_everywhere(window: Browser, full: Path) -> None:
    with served(full / "many.yaml", full / "many.store") as server:
        url = f"http://127.0.0.1:{server.server_port}/"
        for width, dark in ((1280, False), (1280, True), (360, False)):
            page, said = opened(window, url, width=width, dark=dark, bypass_csp=True)
            expect(page.locator("#rows tr").first).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert serious(page) == []
            assert said == []
            page.context.close()


@in_browser
def test_names_and_messages_stay_text(window: Browser, full: Path) -> None:
    with served(full / "many.yaml", full / "many.store") as server:
        page, said = opened(window, f"http://127.0.0.1:{server.server_port}/")
        expect(page.locator("#study")).to_have_text(NASTY)
        page.locator("#show").select_option("broken")
        row = page.locator("#rows tr")
        expect(row).to_have_count(1)
        expect(row).to_contain_text(f"no such luck {NASTY}")
        study = (full / "many.yaml").read_text()
        try:
            (full / "many.yaml").write_text(f'{{"study": "x", "{NASTY.replace(chr(34), chr(39))}": 1}}')
            expect(page.locator("#troubles")).to_contain_text("onerror", timeout=PATIENCE)
        finally:
            (full / "many.yaml").write_text(study)
        assert page.locator("img").count() == 0 and page.title() != "taken"
        assert said == []


@in_browser
def test_every_control_by_mouse_and_keyboard(window: Browser, full: Path) -> None:
    with served(full / "many.yaml", full / "many.store") as server:
        page, said = opened(window, f"http://127.0.0.1:{server.server_port}/")
        expect(page.locator(".panel")).to_have_count(2)

        def lines() -> int:
            page.wait_for_timeout(150)
            return page.locator(".panel path.line").count()

        everything = lines()
        cosine = page.locator("#arms input").first
        cosine.uncheck()
        without = lines()
        assert 0 < without < everything
        cosine.focus()
        page.keyboard.press("Space")
        assert lines() == everything

        def ticks() -> list[str]:
            page.wait_for_timeout(150)
            return page.locator(".panel").first.locator("text[text-anchor=middle]").all_text_contents()

        logarithmic = ticks()
        page.locator("[name=scale][value=log]").focus()
        page.keyboard.press("ArrowRight")
        assert page.locator("[name=scale][value=linear]").is_checked() and ticks() != logarithmic
        page.locator("[name=part][value=training]").check()
        expect(page.locator("#reading")).to_contain_text("means over neighbouring updates")
        assert lines() != everything

        # What a tip says is what the store holds.
        page.locator("[name=part][value=validation]").check()
        page.wait_for_timeout(200)
        dot = page.locator(".panel circle.end").last
        dot.scroll_into_view_if_needed()
        box = dot.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        found = re.search(r"(\d\.\d{4}) at update (\d+)", page.locator("#tip").inner_text())
        losses = {f"{r.loss:.4f}" for r in isoloss.results(full / "many.yaml", full / "many.store").results if r.loss}
        assert found and found[1] in losses
        page.mouse.move(0, 0)
        expect(page.locator("#tip")).to_be_hidden()

        total = page.locator("#rows tr").count()
        page.locator("#show").focus()
        page.keyboard.press("d")
        expect(page.locator("#shown")).to_have_text(re.compile(r"\d+ runs"))
        assert 0 < page.locator("#rows tr").count() <= total
        page.locator("#show").select_option("training")
        expect(page.locator("#shown")).to_have_text("none yet")
        more = page.locator("#more")
        if more.count():
            more.focus()
            page.keyboard.press("Enter")
            expect(page.locator("#more")).to_have_text("show fewer")
        page.locator("body").press("Tab")
        assert said == []


@in_browser
def test_two_hundred_runs_stay_smooth(window: Browser, full: Path) -> None:
    with served(full / "many.yaml", full / "many.store") as server:
        page, _ = opened(window, f"http://127.0.0.1:{server.server_port}/")
        expect(page.locator("#rows tr").first).to_be_visible()
        spent = page.evaluate(
            """() => new Promise((done) => {
                const begun = performance.now();
                const input = document.querySelector("[name=scale][value=linear]");
                input.click();
                requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - begun)));
            })"""
        )
        assert page.locator(".panel path.line").count() > 150
        assert spent < 500  # about 60 ms on an idle core
        looker = server.looker
        looks, cost = looker.looks, looker.spent
        page.wait_for_timeout(3000)
        assert looker.looks > looks
        assert (looker.spent - cost) / (looker.looks - looks) < 0.05


@in_browser
def test_an_old_page_takes_up_another_study(window: Browser, full: Path, tmp_path: Path) -> None:
    """The study file is edited while it is looked at: the page goes on with the new plan."""
    shutil.copy(full / "many.yaml", tmp_path)
    with served(tmp_path / "many.yaml", full / "many.store") as server:
        page, said = opened(window, f"http://127.0.0.1:{server.server_port}/")
        expect(page.locator(".panel")).to_have_count(2)
        study = many()
        study["grid"]["model.width"] = [8, 16, 24]
        watched.written(study, tmp_path, "many.yaml")
        expect(page.locator(".panel")).to_have_count(3, timeout=PATIENCE)
        expect(page.locator("#facts")).to_contain_text("of 360")
        assert said == []
