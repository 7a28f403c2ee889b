"""A safetensors file's header: its JSON, checked for contradictions with itself and with the file's size.

It refuses whatever the safetensors library refuses, and also duplicate keys, unknown fields of a tensor, more
than 32 dimensions, more than `MAX_TENSORS` tensors or `MAX_EMPTY` empty ones, and JSON of more parts than so many
tensors have.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from ingest.errors import Refusal
from ingest.reasons import Reason

MAX_TENSORS = 200_000
"""Far above any adapter: one of a mixture of experts has some ten thousand."""

MAX_EMPTY = 1_000
"""Tensors that hold nothing cost a file nothing, and a reader as much as others."""

# A part of JSON takes up to 28 times its characters in memory. The metadata's texts hold a few of these, too.
_SPARE = 1 << 17
_MOST = {b"{": 1, b"[": 2, b",": 36}
"""Character → how often a tensor's entry has it at most, the names of tensors aside."""

_MAX_BITS = 1 << 62
_MAX_NDIM = 32  # numpy 1's limit; it also bounds the product of the sizes

DTYPES: dict[str, tuple[str, int]] = {
    "BOOL": ("bool", 8),
    "F4": ("float4_e2m1fn", 4),
    "F6_E2M3": ("float6_e2m3fn", 6),
    "F6_E3M2": ("float6_e3m2fn", 6),
    "U8": ("uint8", 8),
    "I8": ("int8", 8),
    "F8_E5M2": ("float8_e5m2", 8),
    "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "I16": ("int16", 16),
    "U16": ("uint16", 16),
    "F16": ("float16", 16),
    "BF16": ("bfloat16", 16),
    "I32": ("int32", 32),
    "U32": ("uint32", 32),
    "F32": ("float32", 32),
    "C64": ("complex64", 64),
    "F64": ("float64", 64),
    "I64": ("int64", 64),
    "U64": ("uint64", 64),
}
"""Name in the file → (name used here, which is numpy's or ml_dtypes', bits per element)."""

PACKED = frozenset(name for name, bits in DTYPES.values() if bits < 8)
"""Data types of several elements per byte, which no array holds as they are."""


@dataclass(frozen=True, slots=True)
class TensorRef:
    """Where one tensor lies in its file.

    Attributes
    ----------
    key
        Its name in the file.
    dtype
        Lower-case name: "float32", "float16", "bfloat16", "float64", "int8", "float8_e4m3fn", …
    shape
        Its shape; may hold zeros.
    offset, nbytes
        First byte, counted from where the tensors begin (so that files whose metadata differ in length still have
        equal references), and number of bytes.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} occurs twice")
        result[key] = value
    return result


def _natural(text: str) -> int:
    # The library's integers are unsigned 64-bit: it takes no sign (not even "-0") and nothing longer.
    if text.startswith("-") or len(text) > 19:
        raise ValueError(f"{text[:24]} is no size")
    return int(text)


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


def parse_header(raw: bytes, data_size: int, where: str) -> tuple[dict[str, TensorRef], dict[str, str]]:
    """Parse and check a header's JSON.

    Parameters
    ----------
    raw
        The JSON, without the eight bytes of its length.
    data_size
        How many bytes of tensors follow.
    where
        The file's name, for messages.

    Returns
    -------
    tensors, metadata
        Both in the header's order.

    Raises
    ------
    Refusal
        `header-mismatch`, or `truncated` if the tensors need more than `data_size` bytes.
    """
    # Tensors do not overlap, so more of them than bytes means empty ones: no need to read all their names first.
    if (entries := raw.count(b'"data_offsets"')) > data_size + MAX_EMPTY:
        raise _too_empty(where, entries - data_size)
    if entries > MAX_TENSORS:
        raise _too_many(where, entries)
    for character, most in _MOST.items():
        if (count := raw.count(character)) > most * entries + (_SPARE if most < 3 else 8 * _SPARE):
            raise Refusal(
                Reason.HEADER_MISMATCH,
                f"{where}: the header has {count} times {character.decode()!r}, too many for {entries} tensors",
            )
    try:
        text = raw.decode("utf-8")
        header = json.loads(text, object_pairs_hook=_unique, parse_int=_natural, parse_constant=_no_constant)
        if "\\u" in text:
            # JSON escapes can spell half a surrogate pair, which no file or array can be named with.
            json.dumps(header, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise Refusal(Reason.HEADER_MISMATCH, f"{where}: the header is no valid JSON ({error})") from error
    if not isinstance(header, dict):
        raise Refusal(Reason.HEADER_MISMATCH, f"{where}: the header is no JSON object")
    metadata = header.pop("__metadata__", None)
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Refusal(Reason.HEADER_MISMATCH, f"{where}: __metadata__ is no mapping of strings to strings")
    if len(header) > MAX_TENSORS:
        raise _too_many(where, len(header))
    if (empty := sum(map(_is_empty, header.values()))) > MAX_EMPTY:
        raise _too_empty(where, empty)
    tensors = {key: _tensor(key, entry, where) for key, entry in header.items()}
    _check_layout(tensors, data_size, where)
    return tensors, metadata


def _too_many(where: str, tensors: int) -> Refusal:
    return Refusal(Reason.HEADER_MISMATCH, f"{where} announces {tensors} tensors, at most {MAX_TENSORS}")


def _too_empty(where: str, empty: int) -> Refusal:
    return Refusal(
        Reason.HEADER_MISMATCH,
        f"{where} announces {empty} empty tensors, at most {MAX_EMPTY} (saved from a sharded model without gathering?)",
    )


def _is_empty(entry: Any) -> bool:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    return isinstance(offsets, list) and len(offsets) == 2 and offsets[0] == offsets[1]


def _tensor(key: str, entry: Any, where: str) -> TensorRef:
    def refuse(what: str) -> Refusal:
        return Refusal(Reason.HEADER_MISMATCH, f"{where}: tensor {key!r} {what}")

    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise refuse("needs exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise refuse(f"has the unknown dtype {dtype!r}")
    if not isinstance(shape, list) or not all(type(size) is int for size in shape):
        raise refuse("has a shape that is no list of sizes")
    if len(shape) > _MAX_NDIM:
        raise refuse(f"has {len(shape)} dimensions, at most {_MAX_NDIM}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(at) is int for at in offsets):
        raise refuse("has data_offsets that are no pair of sizes")
    name, bits = DTYPES[dtype]
    # Sizes of zero must not hide an overflow in the others: the library multiplies in 64 bits, left to right.
    if math.prod(max(size, 1) for size in shape) * bits > _MAX_BITS:
        raise refuse("has a shape too large for any file")
    total = math.prod(shape) * bits
    begin, end = offsets
    if total % 8 or end - begin != total // 8:
        raise refuse(f"takes {total / 8:g} bytes as {dtype} {shape}, but its data_offsets span {end - begin}")
    return TensorRef(key, name, tuple(shape), begin, end - begin)


def _check_layout(tensors: dict[str, TensorRef], data_size: int, where: str) -> None:
    at = 0
    for ref in sorted(tensors.values(), key=lambda ref: (ref.offset, ref.nbytes)):
        if ref.offset != at:
            fault = "overlaps the tensor before it" if ref.offset < at else "leaves a hole before it"
            raise Refusal(Reason.HEADER_MISMATCH, f"{where}: tensor {ref.key!r} {fault}")
        at += ref.nbytes
    if at > data_size:
        raise Refusal(
            Reason.TRUNCATED,
            f"{where} holds {data_size} of the {at} bytes of tensors it announces; download it again",
        )
    if at < data_size:
        raise Refusal(Reason.HEADER_MISMATCH, f"{where} has {data_size - at} bytes after its last tensor")
