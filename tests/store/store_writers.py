"""What the child processes of the tests of object storage do: race, publish, be paused."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from store_pieces import make_piece

from isoloss.store import Store, places, s3


def with_environment(environment: Mapping[str, str], work: Callable[..., None], *given: Any) -> None:
    """Work under the variables of the test, which a server that children fork from may not have."""
    os.environ.update(environment)
    work(*given)


def put_rounds(url: str, worker: int, rounds: int, size: int, barrier: Any, results: Any) -> None:
    """Race for a name a round; each writer's content is its own. `size` bytes, in parts of 5 MiB."""
    s3.PART = 5 << 20
    backend = places.object_backend(places.parse(url))
    won = []
    for number in range(rounds):
        content = (b"%d" % worker) * size
        barrier.wait()
        if backend.put_new(f"blobs/race-{number}", (content,)):
            won.append(number)
    results.put((worker, won))


def publish_all(url: str, worker: int, count: int, barrier: Any, results: Any) -> None:
    """Race for the same pieces."""
    with Store(url) as store:
        won = []
        for i in range(count):
            barrier.wait()
            if store.publish(make_piece(i)):
                won.append(i)
    results.put((worker, won))


def publish_then_die(url: str, before: str, ready: Any) -> None:
    """Publish one piece, but stand still for good at the first put of a name that begins with `before`."""
    import time

    store = Store(url)
    put = store.top.backend.put_new

    def stopped(name: str, chunks: Any, durable: bool = True) -> bool:
        if name.startswith(before):
            ready.set()
            time.sleep(600)
        return put(name, chunks, durable)

    store.top.backend.put_new = stopped  # type: ignore[method-assign]
    store.publish(make_piece(0))


def publish_when_told(url: str, ready: Any, go: Any, results: Any) -> None:
    """Publish a piece, pausing before the manifest until told to go on: a worker that comes back late."""
    store = Store(url)
    put = store.top.backend.put_new

    def paused(name: str, chunks: Any, durable: bool = True) -> bool:
        if name.startswith("pieces/"):
            ready.set()
            go.wait(60)
        return put(name, chunks, durable)

    store.top.backend.put_new = paused  # type: ignore[method-assign]
    results.put(store.publish(make_piece(0)))
