"""What can be done to an adapter's files: strategies that yield functions from files to files."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.corpus import Files, corpus
from tests.fuzz.edits import Mutation, nth, on_config, on_header, on_weights, weights_of
from tests.fuzz.larger import crowds, larger

BAD_NAMES = (
    *("", ".", "..", "../../escape", "/etc/escape", "a/../../escape", "a\\b", "nul\0byte", "\ud800", "\u202egnp.exe"),
    *(
        "x" * 300,
        "é" * 200,
        "a" * 20_000,
        "layers..q",
        " ",
        "\n",
        "con",
        "%2e%2e",
        "base_model.model.",
        ".lora_A.weight",
    ),
)
BAD_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        3,
        1_000_000,
        2**31,
        2**63,
        2**64,
        10**400,
        0.5,
        1e308,
        float("nan"),
        float("inf"),
    ),
    *(
        "",
        "8",
        "a" * 10_000,
        "(a+)+$",
        "((((",
        [],
        [[]],
        {},
        {"a": {"b": []}},
        [None],
        ["../../escape"],
        "float8_e4m3fn",
    ),
)
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "F4", "C64", "", "float32", None, 7)
CONFIG_KEYS = (
    *("r", "lora_alpha", "peft_type", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "bias", "lora_bias"),
    *("target_modules", "modules_to_save", "init_lora_weights", "base_model_name_or_path", "fan_in_fan_out"),
    *("trainable_token_indices", "layer_replication", "target_parameters", "use_qalora", "revision", "unknown_field"),
)


def _bytes_edits() -> st.SearchStrategy[Mutation]:
    at = st.floats(0, 1)
    flip = st.builds(
        lambda p, b: on_weights(f"flip {p} {b}", lambda r: _put(r, int(p * (len(r) - 1)), bytes([b]))),
        at,
        st.integers(0, 255),
    )
    cut = st.builds(lambda p: on_weights(f"cut at {p}", lambda r: r[: int(p * len(r))]), at)
    insert = st.builds(
        lambda p, b: on_weights(f"insert {len(b)} at {p}", lambda r: r[: int(p * len(r))] + b + r[int(p * len(r)) :]),
        at,
        st.binary(min_size=1, max_size=64),
    )
    head = st.builds(
        lambda n: on_weights(f"header length {n}", lambda r: n.to_bytes(8, "little") + r[8:]),
        st.sampled_from([0, 1, 7, 8, 100_000_001, 2**31, 2**40, 2**63, 2**64 - 1]) | st.integers(0, 10_000),
    )
    other = st.builds(lambda b: on_weights(f"bytes {b[:20]!r}", lambda _: b), _impostors())
    return st.one_of(flip, cut, insert, head, other)


def _put(raw: bytes, at: int, new: bytes) -> bytes:
    return raw[:at] + new + raw[at + len(new) :] if raw else new


def _impostors() -> st.SearchStrategy[bytes]:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
    fixed = (b"", b"{}", pointer, b"<!DOCTYPE html><html>", b"PK\x03\x04" + b"\0" * 60, b"\x80\x04.", b"\x1f\x8b\x08")
    return st.sampled_from(fixed) | st.binary(max_size=200)


def _header_edits() -> st.SearchStrategy[Mutation]:
    n = st.integers(0, 20)
    bad = st.sampled_from(BAD_VALUES)

    def field(name: str, value: Any) -> st.SearchStrategy[Mutation]:
        def edit(i: int, v: Any) -> Mutation:
            return on_header(f"{name} of {i} = {v!r:.60}", lambda h: {**h, nth(h, i): {**h[nth(h, i)], name: v}})

        return st.builds(edit, n, value)

    sizes = st.sampled_from([0, 1, 2, 4, 24, 320, 10**6, 2**31, 2**62, 2**64, -1, 1.5, "4", None])
    shapes = st.lists(sizes, max_size=6) | bad
    offsets = st.lists(st.integers(-8, 10_000) | sizes, max_size=3) | bad
    rename = st.builds(
        lambda i, new: on_header(f"rename {i} to {new[:40]!r}", lambda h: _renamed(h, nth(h, i), new)),
        n,
        st.sampled_from(BAD_NAMES) | st.text(max_size=40),
    )
    inside = st.builds(
        lambda i, part: on_header(
            f"component {part[:30]!r} into {i}",
            lambda h: _renamed(h, nth(h, i), nth(h, i).replace("layers.", f"layers.{part}.", 1)),
        ),
        n,
        st.sampled_from(BAD_NAMES),
    )
    drop = st.builds(lambda i: on_header(f"drop {i}", lambda h: _without(h, nth(h, i))), n)
    twice = st.builds(lambda i: on_header(f"key {i} twice", lambda h: _doubled(h, nth(h, i))), n)
    empty = st.builds(
        lambda count, key: on_header(f"{count} empty tensors", lambda h: {**h, **_empty(count, key)}),
        st.sampled_from([1, 50, 2_000, 100_000]),
        st.sampled_from(["t{}", "base_model.model.layers.{}.q.lora_A.weight", "unet:{}:up", "lora_unet_x_{}.alpha"]),
    )
    metadata = st.builds(
        lambda v: on_header(f"metadata {v!r:.40}", lambda h: {**h, "__metadata__": v}),
        bad
        | st.dictionaries(st.sampled_from(["unet", "format", "lora_adapter_metadata", "unet:0:rank"]), bad, max_size=3),
    )
    deep = st.builds(
        lambda d: on_header(f"{d} brackets", lambda h: b'{"a":' * d + b"[" * d + b"]" * d + b"}" * d),
        st.sampled_from([5, 500, 50_000]),
    )
    wide = st.builds(
        lambda part, count: on_header(f"{count} times {part!r}", lambda h: b'{"a":[' + part * count + b"0]}"),
        st.sampled_from([b"{},", b"[],", b'"ab",', b"[1],"]),
        st.sampled_from([1_000, 1_000_000]),
    )
    return st.one_of(
        *(field("dtype", st.sampled_from(DTYPES)), field("shape", shapes), field("data_offsets", offsets)),
        *(rename, inside, drop, twice, empty, metadata, deep, wide),
    )


def _renamed(header: dict[str, Any], key: str, new: str) -> dict[str, Any]:
    return {(new if k == key else k): v for k, v in header.items()}


def _without(header: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in header.items() if k != key}


def _doubled(header: dict[str, Any], key: str) -> bytes:
    text = json.dumps(header)
    return f"{text[:-1]}, {json.dumps(key)}: {json.dumps(header[key])}}}".encode()


def _empty(count: int, key: str) -> dict[str, Any]:
    return {key.format(i + 100): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(count)}


def _config_edits() -> st.SearchStrategy[Mutation]:
    bad = st.sampled_from(BAD_VALUES)
    patterns = st.dictionaries(
        st.sampled_from(["q", "(", "(a|a)*b", "^" * 50, "(x+x+)+y", "layers.*", "[", "", "\\", "x{1000000}"]),
        bad,
        max_size=3,
    )

    def edit(key: str, value: Any) -> Mutation:
        def change(raw: bytes) -> bytes:
            try:
                fields = json.loads(raw)
                return json.dumps({**fields, key: value}).encode()
            except (ValueError, TypeError, RecursionError):
                return raw

        return on_config(f"{key} = {value!r:.60}", change)

    field = st.builds(edit, st.sampled_from(CONFIG_KEYS), bad | patterns)
    method = st.builds(edit, st.just("peft_type"), st.sampled_from(["LOHA", "LOKR", "IA3", "lora", "LORA ", "ADALORA"]))
    raw = st.sampled_from(_RAW_CONFIGS).map(lambda pair: on_config(pair[0], lambda _: pair[1]))
    return st.one_of(field, method, raw)


_RAW_CONFIGS: tuple[tuple[str, bytes], ...] = (
    ("empty config", b""),
    ("config null", b"null"),
    ("config list", b"[1]"),
    ("config not UTF-8", b'{"r": 4, "x": "\xff\xfe"}'),
    ("config with BOM", b'\xef\xbb\xbf{"peft_type": "LORA", "r": 4, "lora_alpha": 4}'),
    ("config UTF-16", '{"peft_type": "LORA"}'.encode("utf-16")),
    ("config of brackets", b"[" * 100_000),
    ("config nested deep", b'{"a":' * 20_000 + b"1" + b"}" * 20_000),
    ("config of 8 MB", b'{"peft_type": "LORA", "r": 4, "x": "' + b"y" * 8_000_000 + b'"}'),
    ("config with r twice", b'{"peft_type": "LORA", "r": 4, "r": 8, "lora_alpha": 8}'),
    ("config with a huge number", b'{"peft_type": "LORA", "r": ' + b"9" * 5_000 + b"}"),
    ("config with NaN", b'{"peft_type": "LORA", "r": 4, "lora_alpha": NaN}'),
)


def _file_edits() -> st.SearchStrategy[Mutation]:
    def rename(new: str) -> Mutation:
        def change(files: Files) -> Files:
            name = weights_of(files)
            return files if name is None else {(new if k == name else k): v for k, v in files.items()}

        return Mutation(f"weights called {new!r}", change)

    def without(name: str) -> Mutation:
        return Mutation(f"no {name}", lambda files: {k: v for k, v in files.items() if k != name})

    def beside(other: str) -> Mutation:
        return Mutation(f"beside {other}", lambda files: {**corpus()[other], **files})

    names = (
        "lora.pt",
        "adapter_model.bin",
        "lora.ckpt",
        "é" * 100 + ".safetensors",
        "a b\u202e.safetensors",
        "x.safetensors",
    )
    return st.one_of(
        st.builds(rename, st.sampled_from(names)),
        st.builds(without, st.sampled_from(["adapter_config.json", "README.md", "adapter_model.safetensors"])),
        st.builds(beside, st.sampled_from(sorted(corpus()))),
        st.builds(
            lambda b: Mutation("README of anything", lambda files: {**files, "README.md": b}),
            st.sampled_from(
                [b"---\n" * 10_000, b"---\nbase_model: " + b"[" * 50_000, b"\xff" * 100, b"---\nlicense: \x00"]
            ),
        ),
    )


def mutations() -> st.SearchStrategy[list[Mutation]]:
    """One to four changes."""
    one = st.one_of(_bytes_edits(), _header_edits(), _header_edits(), _config_edits(), _file_edits())
    one = st.one_of(one, larger(), crowds())
    return st.lists(one, min_size=1, max_size=4)
