"""The thread that looks at the store while somebody looks at the page, and a small HTTP server that only reads.

What the server can answer is a table of a few fixed names: no part of an address becomes a path. Names of hosts are
checked, so that a foreign page cannot reach it under a name of its own (DNS rebinding); nothing is sent to or asked
from anywhere else, which a content security policy also forbids to the page.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import threading
import time
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from urllib.parse import parse_qs, urlsplit

from isoloss.recipe.errors import StudyError
from isoloss.report import palette
from isoloss.report.watch.watch import Watch

PORT = 8642
EVERY = 1.0
"""Seconds between looks at the store, at least."""
REST = 60.0
"""Times what a look costs is rested after it: less than 2 % of a core, however large the store."""
QUIET = 20.0
"""Seconds after the last request from which on nobody is looking."""
FRESH = 3.0
"""Seconds that a request may wait for a look when there was none for a while."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_FILES = {
    "/": ("watch.html", "text/html; charset=utf-8"),
    "/watch.css": ("watch.css", "text/css; charset=utf-8"),
    "/watch.js": ("watch.js", "text/javascript; charset=utf-8"),
}


class Looker:
    """Looks at a store again and again, in a thread, while it is asked; use as a context."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.looks = 0
        self.spent = 0.0
        """Seconds of a core that all looks took."""
        self._asked = time.monotonic()
        self._looked = float("-inf")
        self._pause = EVERY
        self._turn = threading.Condition()
        self._over = False
        self._thread = threading.Thread(target=self._run, name="isoloss-watch", daemon=True)

    def __enter__(self) -> Looker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._turn:
            self._over = True
            self._turn.notify_all()
        self._thread.join(5.0)

    def asked(self) -> None:
        """Somebody looks at the page: keep looking at the store. Waits a moment if that had ceased."""
        with self._turn:
            now = time.monotonic()
            self._asked = now
            old = now - self._looked > 3 * self._pause
            self._turn.notify_all()
            if old:
                looks = self.looks
                self._turn.wait_for(lambda: self.looks > looks or self._over, FRESH)

    def _run(self) -> None:
        while True:
            clock = time.thread_time()
            self.watch.look()
            cost = time.thread_time() - clock
            with self._turn:
                self.looks += 1
                self.spent += cost
                # The first look takes in all there is; the later ones are what it costs to go on.
                self._pause = EVERY if self.looks == 1 else max(EVERY, REST * cost)
                self._looked = time.monotonic()
                self._turn.notify_all()
                self._turn.wait_for(lambda: self._over, self._pause)
                self._turn.wait_for(lambda: self._over or time.monotonic() - self._asked < QUIET)
                if self._over:
                    return


class Server(ThreadingHTTPServer):
    """Serves the page of one `Looker`. Raises StudyError where the address cannot be had."""

    daemon_threads = True

    def __init__(self, looker: Looker, host: str = "127.0.0.1", port: int = PORT) -> None:
        self.looker = looker
        self.names = {"localhost", host.lower(), socket.gethostname().lower()}
        try:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self.address_family = family
            super().__init__((str(address[0]), port), Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise StudyError(
                f"--host {host} --port {port}: {reason}; allowed: an address of this machine and a free port, "
                "--port 0 for any free one"
            ) from error

    def server_bind(self) -> None:
        """As usual, but without asking the network for the machine's name."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def known(self, host: str | None) -> bool:
        """Whether a request's Host header is a name of this server: an address in digits, or one it was given.

        The port may be another one: that of a tunnel.
        """
        try:
            name = urlsplit(f"//{host or ''}").hostname or ""
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
            return True
        except ValueError:
            return name.lower() in self.names

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: a browser that went away is no error."""


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "isoloss", ""
    timeout = 30.0

    def parse_request(self) -> bool:
        """Whether a request may be answered: other methods and other names of a host are refused here."""
        if not super().parse_request():
            return False
        if self.command not in ("GET", "HEAD"):
            self.close_connection = True  # its body is not read
            self._answer(HTTPStatus.METHOD_NOT_ALLOWED, b"this page is only read\n", more={"Allow": "GET, HEAD"})
            return False
        if not self.server.known(self.headers.get("Host")):
            self._answer(HTTPStatus.MISDIRECTED_REQUEST, b"this server has another name\n")
            return False
        return True

    def do_GET(self) -> None:
        """One of the fixed names."""
        try:
            asked = urlsplit(self.path)
        except ValueError:
            self._answer(HTTPStatus.BAD_REQUEST, b"no address\n")
            return
        if asked.path == "/state.json":
            self._state(parse_qs(asked.query).get("since", [None])[-1])
        elif asked.path in _FILES:
            name, kind = _FILES[asked.path]
            self._answer(HTTPStatus.OK, _asset(name), kind)
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"there is /, /watch.css, /watch.js and /state.json\n")

    def do_HEAD(self) -> None:
        """As for GET, without the content."""
        self.do_GET()

    def _state(self, since: str | None) -> None:
        self.server.looker.asked()
        tag, found = self.server.looker.watch.records.since(since)
        mark = {"ETag": f'"{tag}"'}
        if self.headers.get("If-None-Match") == mark["ETag"]:
            self._answer(HTTPStatus.NOT_MODIFIED, None, more=mark)
            return
        body = json.dumps(found, separators=(",", ":"), allow_nan=False).encode()
        self._answer(HTTPStatus.OK, body, "application/json", mark)

    def _answer(
        self,
        status: HTTPStatus,
        body: bytes | None,
        kind: str = "text/plain; charset=utf-8",
        more: dict[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        headers = {
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cache-Control": "no-cache",
        }
        if body is not None:
            headers |= {"Content-Type": kind, "Content-Length": str(len(body))}
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in (headers | (more or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if body is not None and self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal shows the address alone."""


@cache
def _asset(name: str) -> bytes:
    content = resources.files("isoloss.report.watch").joinpath("assets", name).read_bytes()
    return palette.css().encode() + b"\n" + content if name.endswith(".css") else content


def address(host: str, port: int) -> str:
    """The URL of a server on a host; of any address, the one this machine reaches itself by."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}/"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
