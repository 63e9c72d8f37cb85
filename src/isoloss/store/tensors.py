"""States as bytes: one canonical safetensors file for each set of named tensors; its SHA-256 is its digest.

The file is written here and not by the safetensors package because its bytes are the identity of a state.
This module fixes the order of tensors (item size descending, then name), the padding and the metadata; the
package promises no order between versions, and with several metadata entries has none within a process.
Reading is the package's own; nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from isoloss.store.backend import Buffer

META = "isoloss"
ALIGNMENT = 64
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Blob:
    """Bytes to be stored under their own hash. `chunks` may alias tensors: write before they change."""

    digest: str
    chunks: tuple[Buffer, ...]
    size: int
    suffix: str

    @property
    def name(self) -> str:
        """Name inside a store."""
        return blob_name(self.digest, self.suffix)


def blob_name(digest: str, suffix: str) -> str:
    """Name of a blob inside a store, from its hash."""
    return f"blobs/{digest[:2]}/{digest}.{suffix}"


def make_blob(chunks: tuple[Buffer, ...], suffix: str) -> Blob:
    """Hash chunks of bytes as one file."""
    hashed = hashlib.sha256()
    size = 0
    for chunk in chunks:
        hashed.update(chunk)
        size += len(chunk)
    return Blob(hashed.hexdigest(), chunks, size, suffix)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; raises ValueError unless reading it back gives the same value."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{value!r:.200} must be plain JSON (finite numbers, lists, str keys): {error}") from None
    if json.loads(text) != value:
        raise ValueError(f"{value!r:.200} must be plain JSON: lists (no tuples) and str keys only")
    return text


def encode(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Blob:
    """Canonical safetensors file of `tensors` (any shapes) and `meta` (JSON), without copying CPU memory.

    Raises ValueError on a dtype that safetensors lacks, on sparse or meta tensors, and if `meta` is no JSON.
    """
    header: dict[str, Any] = {"__metadata__": {META: canonical_json(dict(meta))}}
    chunks: list[Buffer] = []
    offset = 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):
        tensor = tensors[name]
        if tensor.dtype not in _NAMES or tensor.layout != torch.strided or tensor.is_meta or name == "__metadata__":
            raise ValueError(
                f"tensor {name!r} cannot be stored: {tensor.dtype}, {tensor.layout}, {tensor.device}; "
                f"allowed are dense tensors of {', '.join(str(dtype) for dtype in _NAMES)}"
            )
        data = raw(tensor)
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + len(data)],
        }
        chunks.append(data)
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return make_blob((len(text).to_bytes(8, "little") + text, *chunks), "safetensors")


def raw(tensor: Tensor) -> memoryview:
    """Bytes of a tensor in row-major order; a view where it is a contiguous CPU tensor."""
    flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().flatten()
    return memoryview(flat.view(torch.uint8).numpy().data)


def decode(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (own memory) and meta of a file whose hash has been checked."""
    size = int.from_bytes(data[:8], "little")
    meta = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][META])
    return load_safetensors(data), meta


def differences(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> list[str]:
    """One line for each tensor whose name, dtype, shape or bits differ."""
    lines = [f"{name}: only in the stored state" for name in sorted(old.keys() - new.keys())]
    lines += [f"{name}: only in the new state" for name in sorted(new.keys() - old.keys())]
    for name in sorted(old.keys() & new.keys()):
        a, b = old[name].detach().cpu(), new[name].detach().cpu()
        if a.dtype != b.dtype or a.shape != b.shape:
            lines.append(f"{name}: {a.dtype} {tuple(a.shape)} stored, {b.dtype} {tuple(b.shape)} new")
        elif raw(a) != raw(b):
            bits_a, bits_b = (x.contiguous().flatten().view(torch.uint8).view(x.numel(), -1) for x in (a, b))
            wide = torch.complex128 if a.is_complex() else torch.float64
            gap = float((a.to(wide) - b.to(wide)).abs().max())
            count = int((bits_a != bits_b).any(dim=1).sum())
            lines.append(f"{name}: {count} of {a.numel()} values differ, by up to {gap:.3g}")
    return lines
