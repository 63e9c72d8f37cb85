"""Pieces go into the store while training goes on: the loop waits for a copy in memory, not for the disk."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from isoloss.train.segment import State, Trained


class Saver:
    """Publishes pieces one after the other in a thread; use as a context, which waits for the last one.

    ``publish`` runs in the thread, ``published`` afterwards in the caller's, as soon as ``look`` or ``put`` is called.
    An error of ``publish`` is raised there too, and nothing after it is published.
    """

    def __init__(self, publish: Callable[[Trained], object], published: Callable[[Trained], object]) -> None:
        self._publish, self._published = publish, published
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="isoloss-saving")
        self._underway: tuple[Future[object], Trained] | None = None
        self._copies: dict[tuple[str, str], Tensor] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if kind is None or issubclass(kind, Exception):
                self._finish()
        finally:
            self._thread.shutdown(wait=True)

    def put(self, piece: Trained) -> None:
        """Take over a piece, whose tensors may change as soon as this returns."""
        self._finish()
        if piece.state is not None:
            piece = replace(piece, state=self._copied(piece.state))
        self._underway = self._thread.submit(self._publish, piece), piece

    def look(self) -> None:
        """Tell of the piece under way if it is published."""
        if self._underway is not None and self._underway[0].done():
            self._finish()

    def _finish(self) -> None:
        if self._underway is not None:
            (future, piece), self._underway = self._underway, None
            future.result()
            self._published(piece)

    def _copied(self, state: State) -> State:
        """The state in memory that is used again for the next one: fresh memory costs more than the copy."""
        wanted = {("", name): tensor for name, tensor in state.tensors.items()}
        for observer, (tensors, _) in state.sides.items():
            wanted |= {(observer, name): tensor for name, tensor in tensors.items()}
        copies: dict[tuple[str, str], Tensor] = {}
        for place, tensor in wanted.items():
            own = self._copies.get(place)
            if own is None or own.shape != tensor.shape or own.dtype != tensor.dtype:
                own = torch.empty(tensor.shape, dtype=tensor.dtype)
            copies[place] = own.copy_(tensor)
        self._copies = copies
        sides = {
            observer: ({name: copies[observer, name] for name in tensors}, meta)
            for observer, (tensors, meta) in state.sides.items()
        }
        return State({name: copies["", name] for name in state.tensors}, state.meta, sides)
