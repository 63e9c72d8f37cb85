"""Budgets as training FLOPs, and what devices can do at most.

    C = seconds x devices x peak x MFU

Peaks are dense (no structured sparsity) FLOP/s of one device from its vendor's data sheet or white paper; fp32 is plain
single precision (no TF32). MFU, model FLOPs over peak FLOPs of the time taken, is a property of code and cluster: large
trainings report 0.3 to 0.6 (PaLM 0.46, Chowdhery et al. 2022, table 3). Replace the assumed one by a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from isoloss.recipe.errors import StudyError, nearest

MFU = 0.4
"""Assumed where none is given."""
HERE = "here"
"""The device whose speed is that of a study's own runs."""
PRECISIONS = ("bf16", "fp16", "fp32")
TERA = 1e12


@dataclass(frozen=True)
class Device:
    """One accelerator: what it is, peak FLOP/s by number format, and where the figures stand."""

    label: str
    peaks: Mapping[str, float]
    source: str


def _gpu(label: str, half: float, single: float, source: str, bf16: bool = True) -> Device:
    """Tensor cores are as fast in bf16 as in fp16, where they know bf16 at all."""
    peaks = {"bf16": half * TERA} if bf16 else {}
    return Device(label, peaks | {"fp16": half * TERA, "fp32": single * TERA}, source)


def _tpu(label: str, bf16: float, source: str) -> Device:
    return Device(label, {"bf16": bf16 * TERA}, source)


DEVICES: Mapping[str, Device] = {
    "v100": _gpu("NVIDIA V100 SXM2", 125, 15.7, "NVIDIA V100 data sheet", bf16=False),
    "t4": _gpu("NVIDIA T4", 65, 8.1, "NVIDIA T4 data sheet", bf16=False),
    "a10": _gpu("NVIDIA A10", 125, 31.2, "NVIDIA A10 data sheet"),
    "a40": _gpu("NVIDIA A40", 149.7, 37.4, "NVIDIA A40 data sheet"),
    "a100": _gpu("NVIDIA A100", 312, 19.5, "NVIDIA A100 data sheet"),
    "l4": _gpu("NVIDIA L4", 121, 30.3, "NVIDIA L4 data sheet, half of the figure with sparsity"),
    "l40s": _gpu("NVIDIA L40S", 362.05, 91.6, "NVIDIA L40S data sheet"),
    "rtx3090": _gpu("GeForce RTX 3090", 71, 35.6, "NVIDIA GA102 white paper, fp32 accumulation"),
    "rtx4090": _gpu("GeForce RTX 4090", 165.2, 82.6, "NVIDIA Ada white paper, fp32 accumulation"),
    "h100": _gpu("NVIDIA H100 SXM", 989.4, 66.9, "NVIDIA H100 white paper"),
    "h100-pcie": _gpu("NVIDIA H100 PCIe", 756, 51.2, "NVIDIA H100 white paper"),
    "h200": _gpu("NVIDIA H200 SXM", 989.5, 67, "NVIDIA H200 data sheet, half of the figure with sparsity"),
    "b200": _gpu("NVIDIA B200, HGX", 2250, 80, "NVIDIA Blackwell architecture technical brief"),
    "mi250x": _gpu("AMD Instinct MI250X", 383, 47.9, "AMD Instinct MI250X data sheet, fp32 vector"),
    "mi300x": _gpu("AMD Instinct MI300X", 1307.4, 163.4, "AMD Instinct MI300X data sheet"),
    "tpu-v4": _tpu("Google TPU v4, a chip", 275, "Google Cloud TPU v4 documentation"),
    "tpu-v5e": _tpu("Google TPU v5e, a chip", 197, "Google Cloud TPU v5e documentation"),
    "tpu-v5p": _tpu("Google TPU v5p, a chip", 459, "Google Cloud TPU v5p documentation"),
    "tpu-v6e": _tpu("Google TPU v6e, a chip", 918, "Google Cloud TPU v6e documentation"),
}


@dataclass(frozen=True)
class Budget:
    """What there is to spend: training FLOPs, or tokens. seconds, device, ...: how it was said, or None.

    speed: FLOP/s that time is counted with.
    """

    kind: str
    C: float | None
    tokens: float | None = None
    hours: float | None = None
    device: str | None = None
    label: str | None = None
    devices: int = 1
    peak: float | None = None
    mfu: float | None = None
    precision: str | None = None
    source: str | None = None

    @property
    def speed(self) -> float | None:
        """FLOP/s of all devices together; None where no device was named."""
        return None if self.peak is None else self.peak * (self.mfu or 1.0) * self.devices

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {**vars(self), "speed": self.speed}


def budget(
    *,
    flops: float | None = None,
    hours: float | None = None,
    tokens: float | None = None,
    device: str | None = None,
    peak: float | None = None,
    mfu: float | None = None,
    devices: int = 1,
    precision: str = "bf16",
    here: float | None = None,
) -> Budget:
    """The budget that one of flops, hours and tokens says; hours need a device (or peak, in FLOP/s).

    here: measured FLOP/s of this machine, for device "here". Raises StudyError naming what was found and is allowed.
    """
    given = {
        name: value for name, value in (("flops", flops), ("hours", hours), ("tokens", tokens)) if value is not None
    }
    if len(given) != 1:
        listed = ", ".join(f"--{name}" for name in given) or "none"
        raise StudyError(f"budget: found {listed}; allowed: exactly one of --flops, --hours and --tokens")
    for name, value in (*given.items(), ("peak", peak)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise StudyError(f"--{name}: found {value:g}; allowed: a number above 0")
    if mfu is not None and not 0 < mfu <= 1:
        raise StudyError(f"--mfu: found {mfu:g}; allowed: above 0, at most 1 (model FLOPs over peak FLOPs)")
    if devices < 1:
        raise StudyError(f"--devices: found {devices}; allowed: 1 or more")
    if device is not None and peak is not None:
        raise StudyError("--device and --peak: found both; allowed: one of them")
    said = _device(device, precision, here) if device is not None else {"peak": peak}
    if hours is not None and said["peak"] is None:
        raise StudyError(f"--hours: on which device? Allowed: --device {'|'.join([*DEVICES, HERE])}, or --peak FLOP/s")
    if said["peak"] is not None:
        said |= {"mfu": mfu if mfu is not None else 1.0 if device == HERE else MFU, "devices": devices}
    elif mfu is not None:
        raise StudyError("--mfu: found without --device or --peak; allowed: with one of them")
    found = Budget(next(iter(given)), flops, tokens, hours, **said)
    return found if hours is None else replace(found, C=3600.0 * hours * (found.speed or math.nan))


def _device(name: str, precision: str, here: float | None) -> dict[str, Any]:
    if precision not in PRECISIONS:
        raise StudyError(f"--precision: found {precision!r}; allowed: {', '.join(PRECISIONS)}")
    if name == HERE:
        if here is None:
            raise StudyError(
                "--device here: no run of this source was timed on this machine; allowed: with a study whose store has "
                f"finished runs, or --device {'|'.join(DEVICES)}, or --peak FLOP/s"
            )
        return {"device": HERE, "label": "one worker of this machine, as timed in the store", "peak": here}
    plain = name.lower().replace("_", "-").replace(" ", "")
    if plain not in DEVICES:
        raise StudyError(
            f"--device: found {name!r}; allowed: {', '.join([*DEVICES, HERE])}{nearest(plain, [*DEVICES, HERE])}; or "
            "--peak with FLOP/s"
        )
    chosen = DEVICES[plain]
    if precision not in chosen.peaks:
        raise StudyError(f"--precision: {plain} has no figure for {precision}; allowed: {', '.join(chosen.peaks)}")
    return {
        "device": plain,
        "label": chosen.label,
        "peak": chosen.peaks[precision],
        "precision": precision,
        "source": chosen.source,
    }
