"""The zarr metadata of a zoo's groups and arrays, as of one commit."""

from __future__ import annotations

from typing import Any

from ingest.store import schema
from ingest.store.catalog import Commit


def nodes_of(commit: Commit) -> dict[str, dict[str, Any]]:
    """The metadata of every group and array below the root, by path."""
    nodes: dict[str, dict[str, Any]] = {"layers": schema.group_document({})}
    for layer in commit.layers:
        nodes[schema.layer_path(layer.layer)] = schema.group_document(
            {"layer": layer.layer, "kind": layer.kind, "a_shape": list(layer.a_shape), "out": layer.out}
        )
    for a in commit.arrays:
        nodes[a.path] = schema.array_document(a.rows, a.width, a.dtype, a.chunk, {"layer": a.layer, "side": a.side})
    # zarr nests consolidated metadata by runs of keys with one parent: children of one group must stand together.
    return dict(sorted(nodes.items(), key=lambda item: (item[0].count("/"), item[0])))
