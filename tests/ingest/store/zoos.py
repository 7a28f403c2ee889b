"""Zoos made of the store's own calls, small and the same every time, and all that one says."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save

from ingest.screen import canonical_digest, extras_digest
from ingest.storage import DIRTY, LOCK, open_storage
from ingest.store import schema
from ingest.store.catalog import AdapterRecord, ArrayRecord, Commit, LayerRecord, entry_dtype
from ingest.store.nodes import files_of
from ingest.store.reader import Zoo, open_zoo
from ingest.store.writer import ZooWriter

LAYERS = (LayerRecord("h.0.q", "linear", (16,), 8), LayerRecord("h.1.q", "linear", (12,), 20))
CHUNK = 4
Adapter = tuple[str, int]  # a name, and the seed of all it holds
Factors = dict[str, tuple[Any, Any]]


def factors(seed: int) -> Factors:
    """Layer → A (rank × in) and B (out × rank); every third adapter is bfloat16, every fourth has one layer only."""
    rng = np.random.default_rng(seed)
    rank, dtype = 1 + seed % 5, ml_dtypes.bfloat16 if seed % 3 == 2 else np.float32
    return {
        layer.layer: (
            rng.standard_normal((rank, *layer.a_shape)).astype(dtype),
            rng.standard_normal((layer.out, rank)).astype(dtype),
        )
        for layer in (LAYERS[:1] if seed % 4 == 3 else LAYERS)
    }


def extras(seed: int) -> dict[str, Any]:
    """Other tensors of every second adapter."""
    return {"head": np.full(3, seed, np.float32)} if seed % 2 else {}


def content(seed: int) -> str:
    """What ingest's screening would say of an adapter's content."""
    digest = hashlib.sha256()
    for layer in LAYERS:
        if layer.layer in factors(seed):
            a, b = factors(seed)[layer.layer]
            scale = float(seed / 2).hex()
            digest.update(f"{layer.layer}\0linear\0{len(a)}\0{layer.a_shape}\0{layer.out}\0{scale}\0".encode())
            digest.update(canonical_digest(a) + canonical_digest(b))
    return digest.hexdigest()


def put(writer: ZooWriter, adapters: Sequence[Adapter], refused: Sequence[str] = ()) -> Commit:
    """Accept adapters in one commit, each in place of the live one of its name."""
    held = {(a.layer, a.side, a.dtype): a for a in writer.commit.arrays}
    rows: dict[tuple[str, str, str], list[Any]] = {}
    entries, records, texts = [], [], {}
    order = list(held)
    for ordinal, (name, seed) in enumerate(adapters, len(writer.zoo().stored)):
        rank = 0
        for i, layer in enumerate(LAYERS):
            if layer.layer not in factors(seed):
                continue
            pair = factors(seed)[layer.layer]
            entry = np.zeros((), entry_dtype())
            entry["adapter"], entry["layer"], entry["rank"], entry["scale"] = ordinal, i, len(pair[0]), seed / 2
            for side, values in zip("AB", pair, strict=True):
                key = layer.layer, side, values.dtype.name
                if key not in held:
                    kind = "" if not any(k[:2] == key[:2] for k in held) else f"-{key[2]}"
                    path = f"{schema.layer_path(layer.layer, writer.commit.generation)}/{side}{kind}"
                    width = values.shape[1] if side == "A" else values.shape[0]
                    held[key] = ArrayRecord(path, *key, 0, width, CHUNK)
                    order.append(key)
                new = rows.setdefault(key, [])
                low = side.lower()
                entry[f"{low}_array"] = order.index(key)
                entry[f"{low}_start"] = held[key].rows + sum(map(len, new))
                entry[f"{low}_digest"] = np.frombuffer(canonical_digest(values), np.uint8)
                new.append(values if side == "A" else values.T)
            entries.append(entry)
            rank += len(pair[0])
        other = extras(seed)
        if other:
            writer.write_extras(name, [save(other)])
        digest = extras_digest(v.tobytes() for v in other.values())
        record = AdapterRecord(name, f"/{name}", "ok", content=content(seed), rank=5, rows=rank, extras=digest)
        records.append(dataclasses.replace(record, fingerprint=f"print {seed}"))
        texts[name] = {"config": f"config {seed}", "metadata": {"seed": str(seed)}}
    arrays = [_store(writer, held[key], rows.get(key, [])) for key in order]
    records += [AdapterRecord(n, f"/{n}", "refused", "untrained", "B is zero") for n in refused]
    commit = dataclasses.replace(writer.commit, base_model="some/base", layers=LAYERS, arrays=tuple(arrays))
    return writer.save(commit, records, np.array(entries, entry_dtype()), texts)


def _store(writer: ZooWriter, array: ArrayRecord, parts: list[Any]) -> ArrayRecord:
    if not parts:
        return array
    index, committed = divmod(array.rows, array.chunk)
    if committed:
        parts = [writer.committed_rows(array, array.rows - committed, array.rows), *parts]
    values = np.concatenate(parts)
    for n, at in enumerate(range(0, len(values), array.chunk)):
        block = np.zeros((array.chunk, array.width), values.dtype)
        part = values[at : at + array.chunk]
        block[: len(part)] = part
        writer.write_chunk(array, index + n, block)
    return dataclasses.replace(array, rows=array.rows + len(values) - committed)


def make(url: str, batches: Sequence[Sequence[Adapter]], codec: str = "") -> Zoo:
    """A zoo of one commit a batch; what an earlier call has committed is passed over."""
    with ZooWriter(url, codec) as writer:
        for batch in batches:
            have = {(r.name, r.fingerprint) for r in writer.zoo().accepted}
            if missing := [(n, s) for n, s in batch if (n, f"print {s}") not in have]:
                put(writer, missing, [f"no-{missing[0][0]}"])
    return open_zoo(url)


def contents(zoo: Zoo) -> dict[str, Any]:
    """Everything a zoo says of itself, times and the names of its files aside."""
    kept = [dataclasses.replace(r, kept="") for r in zoo.adapters]
    return {
        "commit": (zoo.base_model, zoo.commit.layers, zoo.commit.codec),
        "arrays": sorted((a.layer, a.side, a.dtype, a.rows, a.retired, a.chunk) for a in zoo.commit.arrays),
        "adapters": sorted(kept, key=lambda r: (r.name, r.status)),
        "live": [r.name for r in zoo.accepted],
        "log": [dataclasses.replace(e, time="") for e in zoo.commit.log],
        "matrices": [
            (m, rows.identity, rows.offsets.tolist(), rows.read(0, m.rows).tobytes())
            for m in zoo.matrices
            for rows in [zoo.rows(m.layer, side=m.side)]
        ],
        "texts": {r.name: (zoo.config(r.name), zoo.metadata(r.name)) for r in zoo.accepted},
        "extras": {r.name: {k: v.tobytes() for k, v in zoo.extras(r.name).items()} for r in zoo.accepted},
    }


def check_adapter(zoo: Zoo, name: str, seed: int) -> None:
    """An adapter is there, bit for bit."""
    wanted = factors(seed)
    found = {m.layer: m for m in zoo.adapter(name)}
    assert found.keys() == wanted.keys()
    for layer, (a, b) in wanted.items():
        assert found[layer].A.dtype == a.dtype and found[layer].scale == seed / 2
        assert found[layer].A.tobytes() == a.tobytes() and found[layer].B.tobytes() == b.tobytes()
    assert zoo.config(name) == f"config {seed}" and zoo.metadata(name) == {"seed": str(seed)}
    assert {k: v.tolist() for k, v in zoo.extras(name).items()} == {k: v.tolist() for k, v in extras(seed).items()}


def leftovers(url: str) -> set[str]:
    """Files that belong to no commit."""
    zoo = open_zoo(url)
    return set(open_storage(url).list()) - set(files_of(zoo.commit, zoo.stored)) - {LOCK, DIRTY}
