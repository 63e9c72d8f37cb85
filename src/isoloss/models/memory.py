"""How the process handles freed memory: no bit of a result depends on it."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Let the C library reuse large freed buffers instead of handing them back to the system.

    Activations above 32 MB would otherwise be mapped, zeroed and unmapped by the kernel in every operation (a
    copy of 33 MB: 6.9 ms instead of 1.4). For worker processes; returns whether it took effect (glibc only).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, 1 << 30)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
