"""What a commit consists of: the zarr metadata of its groups and arrays, and the names of all its files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from ingest.store import schema
from ingest.store.catalog import Commit
from ingest.store.ledger import Stored
from ingest.store.segments import ENDINGS


def nodes_of(commit: Commit) -> dict[str, dict[str, Any]]:
    """The metadata of every group and array below the root, by path."""
    generation = commit.generation
    nodes: dict[str, dict[str, Any]] = {schema.group_path(generation): schema.group_document({})}
    for layer in commit.layers:
        nodes[schema.layer_path(layer.layer, generation)] = schema.group_document(
            {"layer": layer.layer, "kind": layer.kind, "a_shape": list(layer.a_shape), "out": layer.out}
        )
    for a in commit.arrays:
        attributes = {"layer": a.layer, "side": a.side}
        nodes[a.path] = schema.array_document(a.rows, a.width, a.dtype, a.chunk, attributes, commit.codec)
    # zarr nests consolidated metadata by runs of keys with one parent: children of one group must stand together.
    return dict(sorted(nodes.items(), key=lambda item: (item[0].count("/"), item[0])))


def documents_of(commit: Commit) -> dict[str, bytes]:
    """The files of that metadata, by name."""
    nodes = nodes_of(commit).items()
    return {f"{path}/{schema.ROOT}": json.dumps(node, separators=(",", ":")).encode() for path, node in nodes}


def files_of(commit: Commit, stored: Iterable[Stored]) -> Iterator[str]:
    """The names of all files of a commit; `stored` is its ledger's."""
    yield schema.ROOT
    yield from documents_of(commit)
    for array in commit.arrays:
        for index in range(array.chunks):
            yield array.chunk_name(index)
    for segment in commit.segments:
        for ending in ENDINGS:
            yield f"{segment.name}.{ending}"
    for adapter in stored:
        if adapter.record.extras:
            yield schema.extras_name(adapter.record.name, adapter.record.kept)
