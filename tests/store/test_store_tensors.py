"""States as bytes: exact, canonical, readable by the safetensors package."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

import isoloss.store
from isoloss.store.tensors import canonical_json, decode, differences, encode, raw

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.bool,
    torch.complex64,
]


def content(blob) -> bytes:
    return b"".join(bytes(chunk) for chunk in blob.chunks)


def random_bits(dtype: torch.dtype, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    count = torch.Size(shape).numel() * torch.empty((), dtype=dtype).element_size()
    return torch.randint(0, 256, (count,), dtype=torch.uint8, generator=generator).view(dtype).view(shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (3, 4), (0, 2), (2, 1, 3)], ids=str)
def test_every_bit_survives(dtype, shape):
    tensor = random_bits(dtype, shape)
    state, meta = decode(content(encode({"x": tensor, "pad": torch.zeros(3, dtype=torch.bool)}, {"n": 1})))
    assert state["x"].dtype == dtype and state["x"].shape == shape and meta == {"n": 1}
    assert raw(state["x"]) == raw(tensor)


def test_the_safetensors_package_reads_the_same(tmp_path):
    tensors = {f"{dtype}/{shape}": random_bits(dtype, shape) for dtype in DTYPES for shape in [(), (3,), (2, 5)]}
    blob = encode(tensors, {"updates": 3})
    file = tmp_path / "state.safetensors"
    file.write_bytes(content(blob))
    read = safetensors.torch.load_file(file)
    assert read.keys() == tensors.keys()
    assert all(raw(read[name]) == raw(tensor) and read[name].dtype == tensor.dtype for name, tensor in tensors.items())
    assert blob.digest == hashlib.sha256(file.read_bytes()).hexdigest() and blob.size == file.stat().st_size
    with safetensors.safe_open(file, "pt") as opened:
        assert json.loads(opened.metadata()["isoloss"]) == {"updates": 3}


def test_bytes_are_those_of_the_format_written_by_hand():
    a, b = torch.tensor([1.0, -2.0]), torch.tensor([True])
    header = (
        b'{"__metadata__":{"isoloss":"{\\"u\\":1}"},'
        b'"z":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"a":{"dtype":"BOOL","shape":[1],"data_offsets":[8,9]}}'
    )
    header += b" " * (-(len(header) + 8) % 64)
    expected = len(header).to_bytes(8, "little") + header + bytes.fromhex("0000803f000000c0") + b"\x01"
    assert content(encode({"a": b, "z": a}, {"u": 1})) == expected


def test_order_views_and_gradients_do_not_matter():
    base = torch.arange(12.0).reshape(3, 4)
    plain = encode({"a": base.T.clone().contiguous(), "b": torch.ones(2)}, {"x": 1, "y": 2})
    other = encode({"b": torch.ones(4)[::2].requires_grad_(), "a": base.T}, {"y": 2, "x": 1})
    assert plain.digest == other.digest and content(plain) == content(other)
    z = torch.tensor([1 + 2j], dtype=torch.complex64)
    assert encode({"z": z.conj()}, {}).digest == encode({"z": z.conj().resolve_conj().clone()}, {}).digest


@given(st.integers(0, 35 * 8 - 1))
def test_one_flipped_bit_changes_the_digest(position):
    tensor = random_bits(torch.uint8, (35,))
    flipped = tensor.clone()
    flipped[position // 8] ^= 1 << position % 8
    assert encode({"x": tensor}, {}).digest != encode({"x": flipped}, {}).digest


def test_name_dtype_shape_and_meta_are_part_of_the_digest():
    x = torch.zeros(4)
    variants = [
        encode({"x": x}, {}),
        encode({"y": x}, {}),
        encode({"x": x.view(2, 2)}, {}),
        encode({"x": x.view(torch.int32)}, {}),
        encode({"x": -x}, {}),
        encode({"x": x}, {"updates": 1}),
        encode({"x": x}, {"updates": 1.0}),
        encode({"x": x, "y": torch.zeros(0)}, {}),
    ]
    assert len({blob.digest for blob in variants}) == len(variants)


def test_digest_is_the_same_in_another_process():
    code = (
        "import torch; from isoloss.store.tensors import encode; "
        "print(encode({n: torch.arange(5.) for n in 'dcba'}, {'q': 1, 'p': 2}).digest)"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert digests == {encode({n: torch.arange(5.0) for n in "abcd"}, {"p": 2, "q": 1}).digest + "\n"}


def test_hashing_and_writing_copy_no_memory():
    x = torch.zeros(1000)
    chunk = encode({"x": x}, {}).chunks[1]
    x[0] = 1.0
    assert bytes(chunk[:4]) == bytes.fromhex("0000803f")


def test_loaded_tensors_are_separate_and_writable():
    data = content(encode({"a": torch.zeros(3), "b": torch.zeros(3)}, {}))
    first, second = decode(data)[0], decode(data)[0]
    first["a"].add_(1)
    assert not first["b"].any() and not second["a"].any()


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(2).to_sparse(), torch.zeros(2, device="meta"), torch.zeros(2, dtype=torch.complex128)],
)
def test_what_cannot_be_stored_is_refused_by_name(tensor):
    with pytest.raises(ValueError, match="tensor 'model/x' cannot be stored"):
        encode({"model/x": tensor}, {})


@pytest.mark.parametrize("value", [(1, 2), {1: 2}, {"a": float("nan")}, {"a": {1, 2}}, {"a": (1,)}])
def test_meta_is_plain_json(value):
    with pytest.raises(ValueError, match="must be plain JSON"):
        canonical_json(value)


def test_differences_name_the_tensors():
    old = {"a": torch.tensor([1.0, 2.0]), "b": torch.zeros(2), "c": torch.zeros(1), "z": torch.tensor([0.0])}
    new = {"a": torch.tensor([1.0, 2.5]), "b": torch.zeros(3), "d": torch.zeros(1), "z": torch.tensor([-0.0])}
    assert differences(old, new) == [
        "c: only in the stored state",
        "d: only in the new state",
        "a: 1 of 2 values differ, by up to 0.5",
        "b: torch.float32 (2,) stored, torch.float32 (3,) new",
        "z: 1 of 1 values differ, by up to 0",
    ]
    assert differences(old, old) == []


def test_nothing_is_ever_unpickled():
    for file in Path(isoloss.store.__file__).parent.glob("*.py"):
        tree = ast.parse(file.read_text())
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not imported & {"pickle", "shelve", "joblib", "dill"}
        assert not called & {"torch.load", "np.load", "numpy.load", "eval", "exec"}
