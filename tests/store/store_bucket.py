"""A bucket in memory that answers as object storage may: lost and repeated replies, late listings, late requests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from isoloss.store.objects import Found, Taken, Unclear, Upload


class MemoryBucket:
    """What a service keeps: shared by the clients of one test. Its clock moves only when told."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, str | None, float]] = {}
        self.clock = 1e6

    def create(self, key: str, content: bytes, writer: str | None) -> None:
        if key in self.objects:
            raise Taken
        self.objects[key] = (content, writer, self.clock)


class Client:
    """One machine's way to the bucket: see `objects.Bucket`.

    `spoil(operation, number, kind)`: what happens to the n-th request of an operation ("create", "delete", "copy"):
    "lost" carried out and the reply lost, "refused" not carried out and no reply, "late" carried out only by
    `arrive`, "twice" carried out twice. `blind`: keys that this client's listings do not show yet.
    """

    address = "memory"

    def __init__(self, bucket: MemoryBucket) -> None:
        self.bucket = bucket
        self.faults: dict[tuple[str, int], str] = {}
        self.counts: dict[str, int] = {}
        self.held: list[Callable[[], None]] = []
        self.blind: set[str] = set()
        self.before: Callable[[str, str], None] = lambda operation, key: None

    def spoil(self, operation: str, number: int, kind: str) -> None:
        self.faults[operation, self.counts.get(operation, 0) + number] = kind

    def arrive(self) -> None:
        """Let the requests come through that were held up."""
        for request in self.held:
            with contextlib.suppress(Taken, FileNotFoundError):
                request()
        self.held = []

    def _request(self, operation: str, key: str, work: Callable[[], None]) -> None:
        self.before(operation, key)
        self.counts[operation] = number = self.counts.get(operation, 0) + 1
        kind = self.faults.get((operation, number))
        if kind == "refused":
            raise Unclear("slow down")
        if kind == "late":
            self.held.append(work)
            raise Unclear("no reply")
        work()
        if kind == "twice":
            work()
        if kind == "lost":
            raise Unclear("no reply")

    def create(self, key: str, chunks: Sequence[bytes], writer: str) -> None:
        content = b"".join(chunks)
        self._request("create", key, lambda: self.bucket.create(key, content, writer))

    def get(self, key: str) -> bytes:
        if key not in self.bucket.objects:
            raise FileNotFoundError(key)
        return self.bucket.objects[key][0]

    def head(self, key: str) -> Found | None:
        self.before("head", key)
        if key not in self.bucket.objects:
            return None
        content, writer, written = self.bucket.objects[key]
        return Found(len(content), written, self.bucket.clock, writer)

    def list(self, prefix: str, deep: bool) -> Iterator[str]:
        keys = [key for key in self.bucket.objects if key.startswith(prefix) and key not in self.blind]
        if not deep:
            keys = [prefix + key[len(prefix) :].partition("/")[0] for key in keys]
        yield from sorted(set(keys))

    def delete(self, key: str) -> None:
        self._request("delete", key, lambda: self.bucket.objects.pop(key, None) and None)

    def copy(self, key: str, target: str) -> None:
        def work() -> None:
            if key not in self.bucket.objects:
                raise FileNotFoundError(key)
            content, writer, _ = self.bucket.objects[key]
            self.bucket.objects[target] = (content, writer, self.bucket.clock)

        self._request("copy", key, work)

    def freshen(self, key: str, found: Found) -> None:
        self.copy(key, key)

    def now(self) -> float:
        return self.bucket.clock

    def uploads(self, prefix: str) -> Iterator[Upload]:
        yield from ()

    def abort(self, upload: Upload) -> None:
        raise AssertionError("there are no uploads here")
