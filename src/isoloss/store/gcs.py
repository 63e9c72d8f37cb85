"""Requests to Google Cloud Storage, by its JSON interface through gcsfs: see `objects.Bucket`.

A put is conditional by `ifGenerationMatch=0`; that of a large object is sent in parts under one condition. gcsfs
repeats what failed on the way; credentials are found its usual ways.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

from isoloss.recipe.errors import StoreError
from isoloss.store.backend import Buffer
from isoloss.store.objects import Found, Taken, Unclear, Upload, parts

PART = 1 << 25
"""Bytes of a part; a multiple of 256 KiB."""
WRITER = "isoloss-writer"
_BOUNDARY = "isoloss-part"


class GcsBucket:
    """A bucket that is there already. Raises StoreError where gcsfs is missing."""

    def __init__(self, bucket: str) -> None:
        self.name = bucket
        self._process = 0
        self._opened: Any = None
        with self._told(""):
            self.address = f"gs://{bucket} at {self._files.base}"

    @property
    def _files(self) -> Any:
        # Its loop lives in a thread, which a forked child does not have.
        if self._process != os.getpid():
            try:
                import fsspec
                import gcsfs  # noqa: F401
            except ImportError as error:
                raise StoreError(f"gs:// needs gcsfs ({error}): pip install 'isoloss[gcs]'") from None
            self._opened = fsspec.filesystem("gs", use_listings_cache=False, skip_instance_cache=True)
            self._process = os.getpid()
        return self._opened

    def _told(self, key: str) -> contextlib.AbstractContextManager[None]:
        return _told(f"gs://{self.name}/{key}")

    def _call(self, method: str, path: str, *names: str, key: str, **options: Any) -> tuple[Any, bytes]:
        """(headers, content) of the reply."""
        with self._told(key):
            return self._files.call(method, path, self.name, *names, **options)

    def create(self, key: str, chunks: Sequence[Buffer], writer: str) -> None:
        made = {"name": key, "metadata": {WRITER: writer}}
        size = sum(len(chunk) for chunk in chunks)
        path = self._files.base.replace("/storage/v1/", "/upload/storage/v1/") + "b/{}/o"
        if size <= PART:
            head = f"--{_BOUNDARY}\nContent-Type: application/json; charset=UTF-8\n\n{json.dumps(made)}\n"
            head += f"--{_BOUNDARY}\nContent-Type: application/octet-stream\n\n"
            body = b"".join([head.encode(), *chunks, f"\n--{_BOUNDARY}--".encode()])
            kind = {"Content-Type": f'multipart/related; boundary="{_BOUNDARY}"'}
            options = {"uploadType": "multipart", "ifGenerationMatch": "0"}
            self._call("POST", path, key=key, headers=kind, data=body, **options)
            return
        options = {"uploadType": "resumable", "ifGenerationMatch": "0"}
        headers, _ = self._call("POST", path, key=key, json=made, **options)
        # Its own address: quoted already, so no part of it is to be filled in.
        session = headers["Location"].replace("{", "{{").replace("}", "}}")
        sent = 0
        for body in parts(chunks, PART):
            span = {"Content-Range": f"bytes {sent}-{sent + len(body) - 1}/{size}"}
            with self._told(key):
                self._files.call("PUT", session, headers=span, data=body)
            sent += len(body)

    def get(self, key: str) -> bytes:
        _, content = self._call("GET", "b/{}/o/{}", key, key=key, alt="media")
        return content

    def head(self, key: str) -> Found | None:
        try:
            headers, content = self._call("GET", "b/{}/o/{}", key, key=key)
        except FileNotFoundError:
            return None
        found = json.loads(content)
        written = datetime.fromisoformat(found["updated"]).timestamp()
        return Found(int(found["size"]), written, _date(headers), found.get("metadata", {}).get(WRITER))

    def list(self, prefix: str, deep: bool) -> Iterator[str]:
        options: dict[str, Any] = {"prefix": prefix} | ({} if deep else {"delimiter": "/"})
        more = True
        while more:
            _, content = self._call("GET", "b/{}/o", key=prefix, **options)
            page = json.loads(content)
            yield from (found["name"] for found in page.get("items", ()))
            yield from page.get("prefixes", ())
            options["pageToken"] = page.get("nextPageToken")
            more = options["pageToken"] is not None

    def delete(self, key: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._call("DELETE", "b/{}/o/{}", key, key=key)

    def copy(self, key: str, target: str) -> None:
        more: dict[str, Any] = {}
        while True:
            path = "b/{}/o/{}/rewriteTo/b/{}/o/{}"
            _, content = self._call("POST", path, key, self.name, target, key=key, **more)
            reply = json.loads(content)
            if reply["done"]:
                return
            more = {"rewriteToken": reply["rewriteToken"]}

    def freshen(self, key: str, found: Found) -> None:
        # A changed note makes it young, its content is not sent again.
        note = {"metadata": {WRITER: found.writer, "isoloss-seen": f"{found.now:.0f}"}}
        self._call("PATCH", "b/{}/o/{}", key, key=key, json=note)

    def now(self) -> float:
        headers, _ = self._call("GET", "b/{}/o", key="", maxResults=1)
        return _date(headers)

    def uploads(self, prefix: str) -> Iterator[Upload]:
        # An unfinished one is not to be seen, and the service drops it after a week.
        yield from ()

    def abort(self, upload: Upload) -> None:
        raise StoreError(f"gs://{self.name}: there is no unfinished upload to abort, found {upload.id}")


def _date(headers: Any) -> float:
    return parsedate_to_datetime(headers["Date"]).timestamp()


@contextlib.contextmanager
def _told(where: str) -> Iterator[None]:
    """Turn what gcsfs raises into one message that says what to do."""
    try:
        yield
    except StoreError:
        raise
    except FileExistsError as error:
        raise Taken from error
    except FileNotFoundError as error:
        if "/o/" not in str(error) and "upload" not in str(error):
            raise StoreError(f"there is no bucket for {where}: make it first, or name another") from error
        raise FileNotFoundError(where) from error
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        status = str(getattr(error, "code", ""))
        if said.startswith("Forbidden") or status in ("401", "403"):
            raise StoreError(f"no permission for {where}: {said}; check credentials and the bucket's policy") from error
        if isinstance(error, ValueError) or status == "400":
            raise StoreError(f"{where} was refused: {said}") from error
        raise Unclear(f"{where} failed: {said}; nothing stored was harmed: check the network, and run again") from error
