"""Losses and other metrics on the fixed validation parts, in fp32 whatever the training precision is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isoloss.recipe.errors import StudyError, nearest
from isoloss.train import calibration, statistics, tasks
from isoloss.train.parallel.layout import Layout

CHUNK = 64
"""Samples evaluated at once; part of the arithmetic, so it is fixed."""


class Evaluator:
    """A second model in fp32 whose weights are set from any flat vector: the trained weights or an average.

    ``take`` sets them. ``validation(part, amount)`` gives the arrays of a part, ``training(number)`` those of a
    training batch. The processes of ``layout`` share the samples, and all of them get the values.
    """

    def __init__(
        self,
        model: nn.Module,
        take: Callable[[Tensor], object],
        task: tasks.Task,
        validation: Callable[[str, int], Any],
        training: Callable[[int], Any] | None = None,
        layout: Layout | None = None,
    ) -> None:
        self.model, self.take, self.task = model.eval(), take, task
        self.layout = layout or Layout()
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self._validation, self._training = validation, training
        self._parts: dict[tuple[str, int], Any] = {}

    def __call__(
        self,
        weights: Tensor,
        buffers: Mapping[str, Tensor],
        asked: list[tuple[str, str, int]],
        *,
        refresh: int = 0,
        seed: int = 0,
    ) -> dict[tuple[str, str, int], float]:
        """Values of the asked (metric, part, amount); raise ``StudyError`` for a metric the task does not have.

        ``refresh``: training batches from which running statistics are estimated for these weights, in place of those
        in ``buffers``; ``seed``: of what is random in that.
        """
        self.take(weights)
        own = dict(self.model.named_buffers())
        for name, value in buffers.items():
            own[name].copy_(value)
        if refresh:
            assert self._training is not None
            batches = (tasks.tensors(self._training(number), self.device) for number in range(refresh))
            statistics.refresh(self.model, self.task, batches, seed)
        found: dict[tuple[str, str, int], float] = {}
        for part, amount in dict.fromkeys((part, amount) for _, part, amount in asked):
            names = [m for m, p, a in asked if (p, a) == (part, amount)]
            values = self._measure(part, amount, names)
            found.update({(name, part, amount): values[name] for name in names})
        return found

    def _measure(self, part: str, amount: int, names: list[str]) -> dict[str, float]:
        if (part, amount) not in self._parts:
            self._parts[part, amount] = tasks.tensors(self._validation(part, amount), self.device)
        batch = self._parts[part, amount]
        judge = getattr(self.task, "judge", None)
        pieces: list[tuple[dict[str, tuple[float, int]], tuple[Tensor, Tensor] | None]] = []
        starts = range(0, tasks.samples(batch), CHUNK)
        # FSDP does not work in inference mode.
        with torch.no_grad() if self.layout.shard > 1 else torch.inference_mode():
            for begin in self.layout.turns(starts):
                piece = tasks.part(batch, begin, begin + CHUNK)
                model: Any = self.model if names == ["loss"] else _Once(self.model)
                seen = {k: (float(total), count) for k, (total, count) in self.task.metrics(model, piece).items()}
                pair = None
                if judge is not None and any(name not in seen for name in names):
                    p, y = judge(model, piece)
                    pair = p.cpu(), y.cpu()
                pieces.append((seen, pair))
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        pairs: list[tuple[Tensor, Tensor]] = []
        for seen, pair in self.layout.in_order(pieces, len(starts)):
            for name, (total, count) in seen.items():
                sums[name] = sums.get(name, 0.0) + total
                counts[name] = counts.get(name, 0) + count
            if pair is not None:
                pairs.append(pair)
        found = {name: sums[name] / counts[name] if counts[name] else float("nan") for name in sums}
        if pairs:
            p, y = (torch.cat(column) for column in zip(*pairs, strict=True))
            found = {**calibration.judged(p, y), **found}
        for name in names:
            if name not in found:
                known = list(dict.fromkeys([*found, *(("accuracy", *calibration.METRICS) if judge else ())]))
                raise StudyError(
                    f"evaluation.metrics: found {name!r}; allowed: {', '.join(n for n in known if n != 'loss')}, which "
                    f"the task measures{nearest(name, known)}"
                )
        return found


def try_metrics(name: str, metrics: Sequence[str], model: nn.Module, validation: Any) -> None:
    """Measure ``metrics`` of a user's own task once, on a few samples of ``validation`` (a data source's arrays).

    Raises ``StudyError`` where the task cannot, or has no metric of that name.
    """
    few = tasks.part(validation, 0, CHUNK)
    evaluate = Evaluator(model, lambda weights: None, tasks.build(name), lambda part, amount: few)
    try:
        evaluate(torch.empty(0), {}, [(metric, "B", 0) for metric in metrics])
    except StudyError as error:
        raise StudyError(f"{error} (task {name!r})") from None
    except Exception as error:
        raise StudyError(
            f"task {name!r} cannot measure {', '.join(metrics)}: {type(error).__name__}: {error}"
        ) from error


class _Once:
    """A model that answers a repeated question from memory, so that all metrics share one forward pass."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._asked: tuple[Tensor, ...] = ()
        self._answer: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        if options or not all(isinstance(item, Tensor) for item in inputs):
            return self._model(*inputs, **options)
        if len(inputs) != len(self._asked) or not all(map(_same, inputs, self._asked)):
            self._asked = tuple(item.clone() for item in inputs)  # the task may change its own
            self._answer = self._model(*inputs)
        return self._answer


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)
