"""The facts of a machine and its software that decide bits; they are part of every address.

Host names, paths and the number of workers are not among them: they change no bit, so a store can be moved.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

_DISPATCH = (
    "ATEN_CPU_CAPABILITY", "DNNL_DEFAULT_FPMATH_MODE", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_DEBUG_CPU_TYPE",
    "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_DEFAULT_FPMATH_MODE", "ONEDNN_MAX_CPU_ISA",
)  # fmt: skip
"""Variables by which a user may choose other kernels."""
PRECISIONS = ("fp32", "bf16-autocast", "bf16-master")


DEVICES = ("auto", "cpu", "cuda")


def device_kind(asked: str = "auto") -> str:
    """``cpu`` or ``cuda``; ``auto``: the GPU where there is one. Raises ValueError for what is not there."""
    if asked not in DEVICES:
        raise ValueError(f"device {asked!r} is not one of {', '.join(DEVICES)}")
    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise ValueError("device 'cuda': torch finds no GPU here; allowed: cpu, auto")
    return "cuda" if there and asked != "cpu" else "cpu"


def detect(
    precision: str = "fp32", *, compiled: bool = False, threads: int = 1, device: str = "auto"
) -> dict[str, Any]:
    """The numerics record of this process's machine.

    ``precision``: ``fp32``, ``bf16-autocast`` (fp32 weights, bf16 operations), ``bf16-master`` (bf16 weights
    and gradients, fp32 masters and moments) or ``fast``: ``bf16-master`` where the processor multiplies bf16,
    else ``fp32`` (docs/models.md has the measured table).
    """
    if device_kind(device) == "cuda":
        return _of_gpu("bf16-master" if precision == "fast" else precision, compiled)
    if precision == "fast":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        precision = "bf16-master" if native else "fp32"
    _check(precision)
    return {
        "torch": str(torch.__version__),
        "device": "cpu",
        "machine": platform.machine(),
        "vendor": _vendor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "amx": bool(torch.cpu._is_amx_tile_supported()),
        "avx512_bf16": bool(torch.cpu._is_avx512_bf16_supported()),
        "threads": threads,
        "precision": precision,
        "compiled": compiled,
        "optimizer": "flat",
        "environment": {name: os.environ[name] for name in _DISPATCH if name in os.environ},
    }


def _check(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")


def _of_gpu(precision: str, compiled: bool) -> dict[str, Any]:
    _check(precision)
    return {
        "torch": str(torch.__version__),
        "device": "cuda",
        "gpu": torch.cuda.get_device_name(),
        "cuda": str(torch.version.cuda),
        "cudnn": torch.backends.cudnn.version(),
        "precision": precision,
        "compiled": compiled,
        "optimizer": "flat",
    }


def here(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The record that this machine would give for what ``facts`` ask for."""
    device = "auto" if facts["device"] == "cuda" else "cpu"
    return detect(facts["precision"], compiled=facts["compiled"], threads=facts.get("threads", 1), device=device)


def use_gpu(number: int) -> None:
    """Make this process compute on one of the machine's GPUs, counted around."""
    torch.cuda.set_device(number % torch.cuda.device_count())


def use(facts: Mapping[str, Any]) -> torch.device:
    """The device that a run with these numerics trains on, set to give the same bits every time."""
    if facts["device"] == "cpu":
        return torch.device("cpu")
    # cuBLAS reads this when it is first used; without it products of matrices may differ from call to call.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda", torch.cuda.current_device())


def _vendor() -> str:
    """Processor vendor: kernels are chosen by it as well as by instruction set."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("vendor_id"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
