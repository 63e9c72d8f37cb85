"""Batches on their way to the device: on an accelerator the next one is made and pinned while this one is used."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from isoloss.train import tasks


class Batches:
    """``fetch(samples seen)`` as tensors on ``device``; ``step`` samples further is guessed to be asked next.

    What is returned depends on what is asked only, so a wrong guess costs time and nothing else.
    """

    def __init__(self, fetch: Callable[[int], Any], step: int, device: torch.device) -> None:
        self._fetch, self._step, self._device = fetch, step, device
        self._ahead: tuple[int, Future[Any]] | None = None
        self._thread = None if device.type == "cpu" else ThreadPoolExecutor(1, thread_name_prefix="isoloss-batches")

    def __call__(self, samples: int) -> Any:
        """The batch that begins after that many samples."""
        if self._thread is None:
            return tasks.tensors(self._fetch(samples))
        ahead, self._ahead = self._ahead, None
        pinned = ahead[1].result() if ahead is not None and ahead[0] == samples else self._pinned(samples)
        following = samples + self._step
        self._ahead = following, self._thread.submit(self._pinned, following)
        return _each(pinned, lambda tensor: tensor.to(self._device, non_blocking=True))

    def _pinned(self, samples: int) -> Any:
        return _each(tasks.tensors(self._fetch(samples)), Tensor.pin_memory)


def _each(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    return tuple(map(change, batch)) if isinstance(batch, tuple) else change(batch)
