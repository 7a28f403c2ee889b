"""The reader against the safetensors library, on valid, mutated and hostile files."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ingest.errors import Refusal
from ingest.reasons import Reason
from ingest.safetensors_file import pack_header, read_all, read_bytes, read_header, read_tensor
from ingest.safetensors_header import DTYPES as CODES
from tests.ingest.builders import raw_safetensors

DTYPES = [
    *(np.float16, np.float32, np.float64, ml_dtypes.bfloat16, np.bool_, np.complex64),
    *(np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64),
]
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def one(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


def refused(path: Path, content: bytes) -> Refusal:
    path.write_bytes(content)
    with pytest.raises(Refusal) as caught:
        read_header(path)
    assert "\n" not in caught.value.detail
    return caught.value


def library_tensors(path: Path) -> dict[str, bytes] | None:
    """Key → bytes as the library reads them; None if it refuses, {} if numpy cannot hold a tensor."""
    try:
        opened = safe_open(path, "numpy")
    except (SafetensorError, OSError, UnicodeError):
        return None
    with opened as file:
        try:
            return {key: file.get_tensor(key).tobytes() for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, AttributeError, KeyError, TypeError):
            return {}


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("shape", [(), (1,), (3, 4), (2, 0, 5), (2, 3, 1, 2)], ids=str)
def test_reads_what_the_library_wrote(tmp_path: Path, dtype: Any, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    (tmp_path / "f").write_bytes(save({"before": np.zeros(3, np.uint8), "x": values}, {"format": "pt"}))
    header = read_header(tmp_path / "f")
    assert header.metadata == {"format": "pt"}
    ref = header.tensors["x"]
    assert (ref.dtype, ref.shape) == (np.dtype(dtype).name, shape)
    with open(tmp_path / "f", "rb") as file:
        got = read_tensor(file, ref, header.data_start)
        assert read_bytes(file.fileno(), ref, header.data_start) == values.tobytes()
    assert got.dtype == values.dtype and got.shape == shape and got.flags.writeable
    np.testing.assert_array_equal(got, values)
    assert read_all(tmp_path / "f").keys() == {"before", "x"}


def test_pack_is_read_back_by_the_library(tmp_path: Path) -> None:
    source = {
        "é.bias": np.arange(3, dtype=np.float16),
        "scalar": np.array(7, np.int64),
        "none": np.zeros((0, 4), np.float32),
    }
    (tmp_path / "f").write_bytes(save(source))
    header = read_header(tmp_path / "f")
    with open(tmp_path / "f", "rb") as file:
        parts = [read_bytes(file, ref, header.data_start) for ref in header.tensors.values()]
    (tmp_path / "g").write_bytes(b"".join([pack_header(header.tensors.values()), *parts]))
    with safe_open(tmp_path / "g", "numpy") as file:
        for key, value in source.items():
            np.testing.assert_array_equal(file.get_tensor(key), value)


@pytest.mark.parametrize("bits, code", [(bits, code) for code, (_, bits) in CODES.items()])
def test_knows_every_dtype_of_the_library(tmp_path: Path, bits: int, code: str) -> None:
    (tmp_path / "f").write_bytes(raw_safetensors({"x": one(code, (8,), (0, bits))}, b"\x01" * bits))
    with safe_open(tmp_path / "f", "numpy") as file:
        assert file.keys() == ["x"]
    header = read_header(tmp_path / "f")
    ref = header.tensors["x"]
    with open(tmp_path / "f", "rb") as file:
        if bits < 8:
            with pytest.raises(Refusal) as caught:
                read_tensor(file, ref, header.data_start)
            assert caught.value.reason is Reason.UNSUPPORTED_DTYPE
        else:
            assert read_tensor(file, ref, header.data_start).tobytes() == b"\x01" * bits


EIGHT = b"\0" * 8
BAD_HEADERS: dict[str, tuple[Any, bytes]] = {
    "no json": (b"{nonsense", b""),
    "array": (b"[1]", b""),
    "empty": (b"", b"{}"),
    "leading space": (b' {"a":1}', b""),
    "trailing garbage": (b"{}\0\0", b""),
    "not utf-8": (b'{"\xff":1}', b""),
    "half a surrogate": (b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', EIGHT),
    "duplicate key": (b'{"a":%s,"a":%s}' % ((json.dumps(one()).encode(),) * 2), EIGHT),
    "duplicate field": (b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', EIGHT),
    "deep": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b""),
    "nan": (b'{"a":NaN}', b""),
    "minus zero": (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[-0,8]}}', EIGHT),
    "negative shape": ({"a": one(shape=(-2,))}, EIGHT),
    "float shape": ({"a": one(shape=(2.0,))}, EIGHT),
    "bool shape": ({"a": one(shape=(True,), offsets=(0, 4))}, b"\0" * 4),
    "string shape": ({"a": one(shape="2")}, EIGHT),
    "digits": (b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,8]}}' % (b"9" * 5000), EIGHT),
    "overflow hidden by zero": ({"a": one(shape=(1 << 40, 1 << 40, 0), offsets=(0, 0))}, b""),
    "overflow to eight bytes": ({"a": one(shape=((1 << 62) + 1, 2))}, EIGHT),
    "many dimensions": ({"a": one(shape=(1,) * 1000, offsets=(0, 4))}, b"\0" * 4),
    "unknown dtype": ({"a": one("F128", (1,), (0, 16))}, b"\0" * 16),
    "dtype no string": ({"a": one(["F32"])}, EIGHT),
    "size lies": ({"a": one(shape=(3,))}, EIGHT),
    "sub-byte": ({"a": one("F4", (3,), (0, 2))}, b"\0\0"),
    "backwards": ({"a": one(offsets=(8, 0))}, EIGHT),
    "three offsets": ({"a": one(offsets=(0, 4, 8))}, EIGHT),
    "overlap": ({"a": one(), "b": one(offsets=(4, 12))}, b"\0" * 12),
    "same bytes twice": ({"a": one(), "b": one()}, EIGHT),
    "hole": ({"a": one(), "b": one(offsets=(12, 20))}, b"\0" * 20),
    "hole first": ({"a": one(offsets=(8, 16))}, b"\0" * 16),
    "trailing bytes": ({"a": one()}, EIGHT + b"x"),
    "missing field": ({"a": {"dtype": "F32", "shape": [2]}}, EIGHT),
    "further field": ({"a": one(more=1)}, EIGHT),
    "metadata no strings": ({"__metadata__": {"a": 1}}, b""),
    "metadata no object": ({"__metadata__": []}, b""),
    "tensor no object": ({"a": 3}, b""),
}


@pytest.mark.parametrize("header, data", BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_contradictions_are_refused(tmp_path: Path, header: Any, data: bytes) -> None:
    assert refused(tmp_path / "f", raw_safetensors(header, data)).reason is Reason.HEADER_MISMATCH


def test_too_many_tensors_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.safetensors_header.MAX_TENSORS", 4)
    header = {str(i): one(shape=(0,), offsets=(0, 0)) for i in range(5)}
    assert "5 tensors, at most 4" in refused(tmp_path / "f", raw_safetensors(header)).detail


@pytest.mark.parametrize("unit", [b"{},", b"[],", b'"ab",', b'{"a":[1,2]},'])
def test_a_header_of_many_parts_is_refused_before_it_is_parsed(tmp_path: Path, unit: bytes) -> None:
    raw = raw_safetensors(b'{"a":[' + unit * (6_000_000 // len(unit)) + b"0]}")
    tracemalloc.start()
    try:
        refusal = refused(tmp_path / "f", raw)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refusal.reason is Reason.HEADER_MISMATCH and "too many" in refusal.detail
    assert peak < 4 * len(raw)


def test_metadata_of_many_braces_is_read(tmp_path: Path) -> None:
    buckets = json.dumps({str(i): {"resolution": [512, 512], "tags": [[i]]} for i in range(20_000)})
    (tmp_path / "f").write_bytes(save({"x": np.ones(2, np.float32)}, {"ss_bucket_info": buckets}))
    assert read_header(tmp_path / "f").metadata == {"ss_bucket_info": buckets}


@pytest.mark.parametrize("cut", [0, 1, 2, 7, 8, 9, 30, -9, -1])
def test_cut_files_are_truncated(tmp_path: Path, cut: int) -> None:
    whole = save({"x": np.arange(4, dtype=np.float32)})
    assert refused(tmp_path / "f", whole[:cut]).reason in (Reason.TRUNCATED, Reason.HEADER_MISMATCH)
    assert cut in (8,) or refused(tmp_path / "f", whole[:cut]).reason is Reason.TRUNCATED


@pytest.mark.parametrize(
    "content, reason, word",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", Reason.UNREADABLE, "LFS"),
        (b"https://example.org/adapter_model.safetensors\n", Reason.UNREADABLE, "https://example.org"),
        (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", Reason.UNREADABLE, "web page"),
        (b"\n  <html>", Reason.UNREADABLE, "web page"),
        (b'{"error":"Repository not found"}', Reason.UNREADABLE, "error"),
        (b"PK\x03\x04" + b"\0" * 60, Reason.PICKLE, "convert"),
        (pickle.dumps([1.0] * 99, 2), Reason.PICKLE, "convert"),
        (b"GGUF" + b"\0" * 60, Reason.UNREADABLE, "GGUF"),
        (b"ok", Reason.TRUNCATED, "2 bytes"),
        (b"", Reason.TRUNCATED, "0 bytes"),
        ((100_000_001).to_bytes(8, "little") + b"{}", Reason.HEADER_MISMATCH, "100000001"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_other_files_are_named(tmp_path: Path, content: bytes, reason: Reason, word: str) -> None:
    refusal = refused(tmp_path / "f.safetensors", content)
    assert refusal.reason is reason and word in refusal.detail and "f.safetensors" in refusal.detail


def test_missing_files_and_folders_are_unreadable(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(Refusal) as caught:
            read_header(path)
        assert caught.value.reason is Reason.UNREADABLE


def test_a_file_that_shrinks_after_its_header_was_read(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(save({"x": np.arange(1000, dtype=np.float32)}))
    header = read_header(path)
    ref = header.tensors["x"]
    with open(path, "r+b") as file:
        file.truncate(header.data_start + ref.offset + 100)
        with pytest.raises(Refusal) as caught:
            read_tensor(file, ref, header.data_start)
    assert caught.value.reason is Reason.TRUNCATED and "100 of 4000" in caught.value.detail


def test_a_refusal_survives_pickling() -> None:
    copy = pickle.loads(pickle.dumps(Refusal(Reason.DORA, "why")))
    assert (copy.reason, copy.detail, str(copy)) == (Reason.DORA, "why", "dora: why")


def test_a_refusal_is_one_short_line() -> None:
    refusal = Refusal(Reason.UNKNOWN_KEYS, "a\nb\r\n\x85c" + "x" * 1000)
    assert refusal.detail.startswith("a b  c") and len(refusal.detail) == 400 and refusal.detail[-1] == "…"


def test_every_reason_is_explained() -> None:
    assert all(reason.explanation.endswith(".") for reason in Reason)


VALID = save(
    {
        "a.lora_A.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a.lora_B.weight": np.arange(8, dtype=np.float16).reshape(4, 2),
        "empty": np.zeros((0, 2), np.int8),
    },
    {"format": "pt", "note": "ü"},
)
PIECES = st.sampled_from(
    [
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b",",
        b":",
        b"-",
        b"0",
        b"1",
        b"9",
        b".",
        b"e",
        b" ",
        b"\\u00e9",
        b"\\ud800",
    ]
    + [b'"F32"', b'"F16"', b'"F4"', b"null", b"true", b"-0", b"1e3", b"18446744073709551616", b"\xff", b"\0"]
)
MUTATION = st.tuples(
    st.sampled_from(["set", "insert", "delete", "cut", "append"]), st.floats(0, 1, exclude_max=True), PIECES
)


def mutate(content: bytes, mutations: list[tuple[str, float, bytes]], keep_length: bool) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header, body = bytearray(content[8 : 8 + length]), bytearray(content[8 + length :])
    for how, where, piece in mutations:
        at = int(where * (len(header) + 1))
        if how == "set":
            header[at : at + len(piece)] = piece
        elif how == "insert":
            header[at:at] = piece
        elif how == "delete":
            del header[at : at + len(piece)]
        elif how == "cut":
            del body[int(where * len(body)) :]
        else:
            body += piece
    return (length if keep_length else len(header)).to_bytes(8, "little") + bytes(header) + bytes(body)


def agree(path: Path, content: bytes) -> bool:
    """Ours refuses what the library refuses, and where both read, equally. → whether ours reads it."""
    path.write_bytes(content)
    theirs = library_tensors(path)
    try:
        header = read_header(path)
    except Refusal:
        return False
    assert theirs is not None, "the library refuses this file"
    if theirs:
        with open(path, "rb") as file:
            assert {key: read_bytes(file, ref, header.data_start) for key, ref in header.tensors.items()} == theirs
    return True


@QUICK
@given(st.lists(MUTATION, max_size=3), st.booleans())
def test_mutated_files(tmp_path: Path, mutations: list[tuple[str, float, bytes]], keep_length: bool) -> None:
    read = agree(tmp_path / "f", mutate(VALID, mutations, keep_length))
    assert read or mutations


SIZES = st.one_of(st.integers(0, 6), st.sampled_from([-1, 2**31, 2**40, 2**62, 2**63, 2**64, True, 1.0, None, "2"]))
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*CODES, "F128", None]),
        "shape": st.lists(SIZES, max_size=3),
        "data_offsets": st.one_of(st.tuples(st.integers(0, 16), st.integers(0, 48)), st.lists(SIZES, max_size=3)),
    }
)


@QUICK
@given(st.dictionaries(st.text(max_size=3), ENTRY, max_size=3), st.integers(0, 48))
def test_invented_headers(tmp_path: Path, header: dict[str, Any], size: int) -> None:
    agree(tmp_path / "f", raw_safetensors(header, bytes(size)))


@QUICK
@given(st.lists(st.tuples(st.sampled_from(list(CODES)), st.lists(st.integers(0, 4), max_size=3)), max_size=4))
def test_consistent_headers_are_read(tmp_path: Path, tensors: list[tuple[str, list[int]]]) -> None:
    header, at = {}, 0
    for i, (code, shape) in enumerate(tensors):
        bits = int(np.prod(shape, dtype=np.int64)) * CODES[code][1]
        if bits % 8:
            continue
        header[f"t{i}"] = one(code, shape, (at, at + bits // 8))
        at += bits // 8
    assert agree(tmp_path / "f", raw_safetensors(header, bytes(i % 251 for i in range(at))))
