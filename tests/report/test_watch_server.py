"""The server of `isoloss watch`: what it answers, what it refuses, how it begins and ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import watched
from tests.cli.command import ENVIRONMENT, ISOLOSS, isoloss

from isoloss.recipe.errors import StudyError
from isoloss.report.watch import server as serving
from isoloss.report.watch.watch import Watch
from isoloss.store import Store


@contextlib.contextmanager
def served(study: Path, store: Path | str) -> Iterator[serving.Server]:
    """A server in this process, on a free port."""
    looker = serving.Looker(Watch(study, store))
    with serving.Server(looker, port=0) as server, looker:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Server]:
    """Serves a study of which nothing is trained."""
    folder = tmp_path_factory.mktemp("served")
    Store(folder / "store")
    with served(watched.written(watched.tuned(), folder), folder / "store") as running:
        yield running


def ask(
    server: serving.Server, path: str = "/", method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    """One request, byte for byte as given."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/watch.css", "text/css"),
        ("/watch.js", "text/javascript"),
        ("/state.json", "application/json"),
    ],
)
def test_what_it_answers(server: serving.Server, path: str, kind: str) -> None:
    answer, body = ask(server, path)
    assert answer.status == 200 and answer.headers["Content-Type"].startswith(kind)
    assert int(answer.headers["Content-Length"]) == len(body) > 100
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Access-Control-Allow-Origin"] is None
    head, nothing = ask(server, path, "HEAD")
    assert (head.status, nothing) == (200, b"")
    assert head.headers["Content-Length"] == answer.headers["Content-Length"]


def test_the_page_asks_for_nothing_from_elsewhere(server: serving.Server) -> None:
    for path in ("/", "/watch.css", "/watch.js"):
        text = ask(server, path)[1].decode()
        addresses = set(re.findall(r"(?:https?:)?//[A-Za-z][^\s\"')]*", text)) - {"http://www.w3.org/2000/svg"}
        assert not [found for found in addresses if "." in found.split("/")[2]]
    page = ask(server, "/")[1].decode()
    assert not re.search(r"\son\w+=|style=|<script>", page)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "MKCOL", "BREW"])
@pytest.mark.parametrize("path", ["/", "/state.json"])
def test_every_other_method_is_refused(server: serving.Server, method: str, path: str) -> None:
    answer, _ = ask(server, path, method, Content_Length="0")
    assert answer.status == 405 and answer.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8642", "127.0.0.1.evil.example", "localhost.evil.example", "a@127.0.0.1x", "",
        "[::1", "127.0.0.1 evil", "2130706433.example",
    ],
)  # fmt: skip
def test_other_names_of_the_host_are_refused(server: serving.Server, host: str) -> None:
    for path in ("/", "/state.json"):
        answer, body = ask(server, path, Host=host)
        assert answer.status == 421
        assert b"small" not in body


def test_its_own_names_are_known(server: serving.Server) -> None:
    # A tunnel has another port.
    for host in ("127.0.0.1", f"localhost:{server.server_port}", "LOCALHOST:9", "[::1]:8642", socket.gethostname()):
        assert ask(server, "/state.json", Host=host)[0].status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/../small.yaml", "/..%2fsmall.yaml", "/%2e%2e/small.yaml", "//etc/passwd", "/etc/passwd", "/assets/watch.js",
        "/watch.js/", "/watch.html", "/./watch.js/../../server.py", "/store/format.json", "/watch.js%00.html",
        "/..\\small.yaml",
    ],
)  # fmt: skip
def test_nothing_else_is_served(server: serving.Server, path: str) -> None:
    answer, body = ask(server, path)
    assert answer.status in (400, 404)
    assert b"grid" not in body and b"root:" not in body


def test_a_tag_asks_for_what_is_new(server: serving.Server) -> None:
    answer, body = ask(server, "/state.json")
    state = json.loads(body)
    assert answer.headers["ETag"] == f'"{state["tag"]}"' and state["whole"]
    same, nothing = ask(server, f"/state.json?since={state['tag']}", If_None_Match=answer.headers["ETag"])
    assert (same.status, nothing) == (304, b"")
    part = json.loads(ask(server, f"/state.json?since={state['tag']}")[1])
    assert not part["whole"] and part["runs"] == {} and "plan" not in part
    for other in (
        "",
        "nonsense",
        "0123456789abcdef.3",
        f"{state['tag']}9999",
        "%00",
        "a.b.c",
        state["tag"][:-1] + "-1",
    ):
        assert json.loads(ask(server, f"/state.json?since={other}")[1])["whole"]


AWRY = b"GET http://[ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def test_broken_requests_do_not_harm(server: serving.Server) -> None:
    for words in (b"\0\0\0\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nHost", AWRY, b""):
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=5) as line:
            line.sendall(words)
            line.shutdown(socket.SHUT_WR)
            while line.recv(4096):
                pass
    assert ask(server, "/state.json")[0].status == 200


def test_a_taken_port_is_one_message(server: serving.Server) -> None:
    with pytest.raises(StudyError, match=r"--port \d+: .*in use.*--port 0"):
        serving.Server(server.looker, port=server.server_port)
    with pytest.raises(StudyError, match=r"--host 203\.0\.113\.1"):
        serving.Server(server.looker, "203.0.113.1", 0)
    with pytest.raises(StudyError, match=r"--host no\.such\.name\.invalid"):
        serving.Server(server.looker, "no.such.name.invalid", 0)


def test_nobody_asks_and_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "EVERY", 0.05)
    monkeypatch.setattr(serving, "QUIET", 0.4)
    Store(tmp_path / "store")
    with served(watched.written(watched.tuned(), tmp_path), tmp_path / "store") as server:
        ask(server, "/state.json")
        time.sleep(1.0)
        looks = server.looker.looks
        assert looks >= 2
        time.sleep(0.5)
        assert server.looker.looks == looks
        # A request after the pause waits for a look, and so is not old.
        ask(server, "/state.json")
        assert server.looker.looks > looks


def test_loopback_and_addresses() -> None:
    assert all(map(serving.is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost")))
    assert not any(map(serving.is_loopback, ("0.0.0.0", "::", "192.168.0.3", "example.org")))
    assert serving.address("0.0.0.0", 80) == "http://127.0.0.1:80/"
    assert serving.address("::1", 80) == "http://[::1]:80/"


def test_it_serves_over_ipv6(tmp_path: Path) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    looker = serving.Looker(Watch(watched.written(watched.tuned(), tmp_path), tmp_path / "store"))
    try:
        with serving.Server(looker, "::1", 0) as server:
            assert server.server_port > 0
    except StudyError:
        pytest.skip("no IPv6 here")


# The command


def test_a_wrong_request_is_one_line(tmp_path: Path) -> None:
    watched.written(watched.tuned() | {"baseline": "cosin"}, tmp_path, "wrong.yaml")
    watched.written(watched.tuned(), tmp_path)
    for arguments, words in (
        (["wrong.yaml"], "cosin"),
        (["absent.yaml"], "absent.yaml"),
        (["small.yaml", "--store", "ftp://there"], "ftp://there"),
        (["small.yaml", "--under", "absent"], "absent"),
        (["small.yaml", "--host", "203.0.113.1", "--port", "0"], "--host 203.0.113.1"),
    ):
        done = isoloss("watch", *arguments, cwd=tmp_path, code=2)
        assert words in done.stderr and done.stderr.count("isoloss: ") == 1


def test_json_prints_what_the_page_would_show(tmp_path: Path) -> None:
    watched.written(watched.tuned(), tmp_path)
    state = json.loads(isoloss("watch", "small.yaml", "--json", cwd=tmp_path).stdout)
    assert state["head"]["phase"] == "waiting" and len(state["plan"]["runs"]) == 12 + 6
    assert not (tmp_path / "small.store").exists()


@pytest.mark.multiprocess
def test_ctrl_c_ends_it_well(tmp_path: Path) -> None:
    watched.written(watched.tuned(), tmp_path)
    command = [ISOLOSS, "watch", "small.yaml", "--port", "0", "--host", "0.0.0.0"]
    environment = {**os.environ, **ENVIRONMENT}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, text=True, **pipes) as running:
        try:
            assert running.stdout is not None
            said = [running.stdout.readline(), running.stdout.readline()]
            found = re.search(r"http://127\.0\.0\.1:(\d+)/", said[1])
            assert "watching small" in said[0] and found
            connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
            connection.request("GET", "/state.json")
            assert json.loads(connection.getresponse().read())["head"]["phase"] == "waiting"
            running.send_signal(signal.SIGINT)  # with a connection open
            _, errors = running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == 0
    assert "everybody who reaches this machine" in errors and "Traceback" not in errors


# A store far away


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_store_in_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs", reason="needs isoloss[s3]")
    pytest.importorskip("moto", reason="needs moto[server]")
    import sys

    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "store"))
    import s3_server

    import isoloss as package

    study = watched.tuned()
    study["grid"]["seed"] = [0]
    path = watched.written(study, tmp_path)
    package.run(path, tmp_path / "here", workers=1, quiet=True)
    here = Watch(path, tmp_path / "here")
    here.look()
    with s3_server.running() as storage:
        s3_server.use(storage, monkeypatch, tmp_path / "cache")
        watch = Watch(path, "s3://bucket/small")
        watch.look()
        assert watch.records.since()[1]["head"]["phase"] == "waiting"
        Store(tmp_path / "here", create=False).export("s3://bucket/small")
        watch.look()
        found, expected = (w.records.since()[1] for w in (watch, here))
        assert found["head"]["phase"] == "done"
        for run, other in zip(found["runs"].values(), expected["runs"].values(), strict=True):
            assert (run["loss"], run["losses"], run["status"]) == (other["loss"], other["losses"], other["status"])
        lease = Store("s3://bucket/small").lease("a" * 64, "elsewhere 4711 1")
        assert lease.take()
        watch.look()
        assert watch.records.since()[1]["head"]["drivers"][0]["others"] == 1
    watch.look()  # the storage is gone
    assert watch.records.since()[1]["head"]["problem"]
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
