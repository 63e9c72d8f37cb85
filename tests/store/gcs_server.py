"""As much of Google Cloud Storage's JSON interface as a store asks for, on loopback, after its public reference.

No emulator of Google's: it shows that the requests are well formed and their answers understood, and no more.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

OBJECT = re.compile(r"/storage/v1/b/bucket/o/(?P<name>[^/]+)(/rewriteTo/b/bucket/o/(?P<target>[^/]+))?")


class Handler(BaseHTTPRequestHandler):
    """One request. The objects and the condition of a put are kept in `server`, under its lock."""

    protocol_version = "HTTP/1.1"
    server: Service

    def handle_one(self) -> None:
        url = urlsplit(self.path)
        asked = dict(parse_qsl(url.query))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.command, url.path, asked))
        with self.server.lock:
            status, headers, content = self._answer(url.path, asked, body)
        if self.command in self.server.lose:
            self.server.lose.remove(self.command)
            self.close_connection = True
            self.connection.close()
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, path: str, asked: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        objects = self.server.objects
        if not path.startswith(("/storage/v1/b/bucket/", "/upload/storage/v1/b/bucket/", "/session/")):
            return _said(404, {"error": {"code": 404, "message": "The specified bucket does not exist."}})
        if path.startswith("/upload/"):
            if asked["uploadType"] == "multipart":
                boundary = re.search('boundary="(.+)"', self.headers["Content-Type"])[1].encode()
                _, head, content = body.split(b"--" + boundary + b"\n")
                content = content.removesuffix(b"\n--" + boundary + b"--").partition(b"\n\n")[2]
                return self._put(json.loads(head.partition(b"\n\n")[2]), content, asked)
            number = str(len(self.server.sessions))
            self.server.sessions[number] = (json.loads(body), asked, bytearray())
            return 200, {"Location": f"{self.server.endpoint}/session/{number}"}, b""
        if path.startswith("/session/"):
            made, given, held = self.server.sessions[path.rpartition("/")[2]]
            first, last, size = map(
                int, re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", self.headers["Content-Range"]).groups()
            )
            assert first == len(held) and last - first + 1 == len(body)
            held += body
            return (
                self._put(made, bytes(held), given) if len(held) == size else (308, {"Range": f"bytes=0-{last}"}, b"")
            )
        if path == "/storage/v1/b/bucket/o":
            return self._list(asked)
        found = OBJECT.fullmatch(path)
        name = unquote(found["name"])
        if name not in objects:
            return _said(404, {"error": {"code": 404, "message": f"No such object: {name}"}})
        if found["target"]:
            content, about = objects[name]
            objects[unquote(found["target"])] = (content, about | {"name": unquote(found["target"]), "updated": _now()})
            return _said(200, {"done": True})
        if self.command == "DELETE":
            del objects[name]
            return 204, {}, b""
        content, about = objects[name]
        if self.command == "PATCH":
            about["metadata"] |= json.loads(body)["metadata"]
            about["updated"] = _now()
        return (200, {}, content) if asked.get("alt") == "media" else _said(200, about)

    def _put(self, made: dict[str, Any], content: bytes, asked: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        if asked.get("ifGenerationMatch") == "0" and made["name"] in self.server.objects:
            return _said(412, {"error": {"code": 412, "message": "At least one of the pre-conditions did not hold."}})
        about = made | {"size": str(len(content)), "updated": _now()}
        self.server.objects[made["name"]] = (content, about)
        return _said(200, about)

    def _list(self, asked: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        prefix = asked.get("prefix", "")
        names = sorted(name for name in self.server.objects if name.startswith(prefix))
        if "delimiter" in asked:
            names = sorted({prefix + re.match("[^/]*/?", name[len(prefix) :])[0] for name in names})
        start, most = int(asked.get("pageToken", 0)), int(asked.get("maxResults", 3))
        page = names[start : start + most]
        answer: dict[str, Any] = {
            "items": [{"name": name} for name in page if not name.endswith("/")],
            "prefixes": [name for name in page if name.endswith("/")],
        }
        return _said(200, answer | ({"nextPageToken": str(start + most)} if start + most < len(names) else {}))


class Service(ThreadingHTTPServer):
    """`lose`: methods, the replies to the next requests of which are lost."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.objects: dict[str, tuple[bytes, dict[str, Any]]] = {}
        self.sessions: dict[str, tuple[dict[str, Any], dict[str, str], bytearray]] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.lose: list[str] = []
        self.endpoint = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        pass


def _said(status: int, answer: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    return status, {"Content-Type": "application/json"}, json.dumps(answer).encode()


def _now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat().replace("+00:00", "Z")


@contextmanager
def running() -> Iterator[Service]:
    """Serve from a thread."""
    with Service() as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        yield service
        service.shutdown()
