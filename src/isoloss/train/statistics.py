"""Running statistics for weights that were never trained: those of an average.

BatchNorm's running mean and variance belong to the weights that gathered them. For other weights they are estimated
again, as means of the statistics of training batches (Izmailov et al. 2018, section 3.2, update of BatchNorm).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from isoloss.train.tasks import Task


def refresh(model: nn.Module, task: Task, batches: Iterable[Any], seed: int) -> None:
    """Replace the running statistics of ``model`` by means over ``batches``, each passed forward in training mode.

    Means are of equal weight, of each batch's mean and unbiased variance. Dropout draws from ``seed`` and the number
    of the batch; the global random state and the model's mode are left as they were.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [layer.momentum for layer in layers]
    was_training = model.training
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all batches, each with the same weight
    model.train()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for number, batch in enumerate(batches):
                text = f"refresh:{seed}:{number}".encode()
                torch.default_generator.manual_seed(
                    int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
                )
                task.loss(model, batch)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        model.train(was_training)
