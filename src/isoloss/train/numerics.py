"""The facts of a machine and its software that decide bits; they are part of every address.

Host names, paths and the number of workers are not among them: they change no bit, so a store can be moved.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

_DISPATCH = (
    "ATEN_CPU_CAPABILITY", "DNNL_DEFAULT_FPMATH_MODE", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_DEBUG_CPU_TYPE",
    "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_DEFAULT_FPMATH_MODE", "ONEDNN_MAX_CPU_ISA",
)  # fmt: skip
"""Variables by which a user may choose other kernels."""
PRECISIONS = ("fp32", "bf16-autocast", "bf16-master")


def detect(precision: str = "fp32", *, compiled: bool = False, threads: int = 1) -> dict[str, Any]:
    """The numerics record of this process's machine.

    ``precision``: ``fp32``, ``bf16-autocast`` (fp32 weights, bf16 operations), ``bf16-master`` (bf16 weights
    and gradients, fp32 masters and moments) or ``fast``: ``bf16-master`` where the processor multiplies bf16,
    else ``fp32`` (docs/models.md has the measured table).
    """
    if precision == "fast":
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        precision = "bf16-master" if native else "fp32"
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
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


def _vendor() -> str:
    """Processor vendor: kernels are chosen by it as well as by instruction set."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("vendor_id"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
