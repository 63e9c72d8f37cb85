"""An S3 service on loopback: moto's, in its own process, with the faults of a network in front of it.

moto looks whether an object is there and then puts it, in two steps and several threads, where S3 does both at once;
the lock makes up for that. `POST /-/faults` sets what happens to the next requests, `POST /-/counts` tells how many
there were.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Lossy:
    """A WSGI application that spoils single requests to another one.

    A fault is {"method", "contains", "kind", "times"}: of the requests with this method and text in path and query,
    the next `times` get the reply lost (`lost`: carried out, connection closed), are carried out twice (`twice`: as
    if the network repeated the request; the second reply is given), or are refused for now (`slow`).
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        self.lock = threading.Lock()
        self.faults: list[dict[str, Any]] = []
        self.counts: Counter[str] = Counter()

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length) if length or "HTTP_TRANSFER_ENCODING" not in environ else None
        if environ["PATH_INFO"].startswith("/-/"):
            return self._control(environ, body, start)
        kind = self._fault(environ)
        if kind == "slow":
            start("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(SLOW_DOWN)))])
            return [SLOW_DOWN]
        for _ in range(2 if kind == "twice" else 1):
            if body is not None:
                environ["wsgi.input"] = io.BytesIO(body)
            with self.lock:
                reply, content = _carried_out(self.app, dict(environ))
        if kind == "lost":
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return []
        start(*reply)
        return [content]

    def _fault(self, environ: dict[str, Any]) -> str | None:
        method = environ["REQUEST_METHOD"]
        request = f"{environ['PATH_INFO']}?{environ.get('QUERY_STRING', '')}"
        with self.lock:
            self.counts[method] += 1
            for fault in self.faults:
                if fault["method"] == method and fault["contains"] in request and fault["times"] > 0:
                    fault["times"] -= 1
                    self.counts[f"{fault['kind']} {method}"] += 1
                    return fault["kind"]
        return None

    def _control(self, environ: dict[str, Any], body: bytes | None, start: Any) -> list[bytes]:
        with self.lock:
            if environ["PATH_INFO"] == "/-/faults":
                self.faults = json.loads(body or b"[]")
            answer = json.dumps(self.counts).encode()
        start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
        return [answer]


def _carried_out(app: Any, environ: dict[str, Any]) -> tuple[tuple[Any, Any], bytes]:
    """((status, headers), content) of a reply."""
    said: list[tuple[Any, Any]] = []
    content = b"".join(app(environ, lambda status, headers, *_: said.append((status, headers))))
    return said[-1], content


class Server:
    """A running service, as a test sees it."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def faults(self, *faults: dict[str, Any]) -> None:
        self._post("faults", list(faults))

    def counts(self) -> Counter[str]:
        return Counter(self._post("counts", []))

    def _post(self, what: str, content: Any) -> Any:
        request = urllib.request.Request(f"{self.endpoint}/-/{what}", json.dumps(content).encode())
        with urllib.request.urlopen(request, timeout=30) as reply:
            return json.loads(reply.read())


@contextmanager
def running() -> Iterator[Server]:
    """Start a service in its own process, stop it in the end."""
    child = subprocess.Popen(
        [sys.executable, __file__],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    try:
        assert child.stdout is not None
        line = child.stdout.readline()
        assert line.startswith("http://"), f"the service did not start: {line!r}"
        yield Server(line.strip())
    finally:
        child.terminate()
        child.wait(10)


def use(server: Server, patch: Any, cache: Path) -> None:
    """Point this process and its children at a service, with nothing of the user's, and make a bucket there."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
        patch.delenv(name)
    patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    patch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    patch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    patch.setenv("ISOLOSS_CACHE", str(cache))
    import fsspec

    fsspec.filesystem("s3", skip_instance_cache=True).mkdir("bucket")


def main() -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    parser = argparse.ArgumentParser()
    parser.add_argument("--plain", action="store_true", help="moto alone, without the lock and the faults")
    options = parser.parse_args()
    app = DomainDispatcherApplication(create_backend_app)

    class Quiet(MotoRequestHandler):
        def log(self, *_: object) -> None:
            pass

    server = make_server("127.0.0.1", 0, app if options.plain else Lossy(app), True, request_handler=Quiet)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    parent = os.getppid()
    # Left alone, it ends too.
    threading.Thread(target=lambda: _watch(parent), daemon=True).start()
    server.serve_forever()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


if __name__ == "__main__":
    main()
