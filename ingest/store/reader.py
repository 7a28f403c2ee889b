"""Reading a zoo: a snapshot of its last whole commit.

A `Zoo` holds what one read of the root document said.  A writer that appends or removes meanwhile changes nothing for
it: row ranges that are committed are never moved.  One that compacts the zoo deletes them; a snapshot that still needs
them says so, and never reads anything else in their place; so does one of a zoo that was deleted, even if another was
made at its path (see `ingest.store.rows.ZooRows`).
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingest.errors import EigenzooError
from ingest.storage import open_storage
from ingest.store import schema, texts
from ingest.store.catalog import ArrayRecord, LayerRecord
from ingest.store.root import check_same, read_commit
from ingest.store.rows import ZooRows, read_array, runs_of
from ingest.store.snapshot import Snapshot

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class MatrixInfo:
    """One matrix of the zoo: a layer on one side.  ``dtype`` holds every value of the live rows exactly."""

    layer: str
    side: str
    rows: int
    width: int
    dtype: str


@dataclass(frozen=True, slots=True)
class StoredModule:
    """One adapter's factors on one layer, as stored: A (rank × in [× kernel]), B (out × rank), and the scale."""

    layer: str
    kind: str
    A: NDArray[Any]
    B: NDArray[Any]
    scale: float


class Zoo(Snapshot):
    """An opened zoo: a snapshot of its last whole commit.  Made by `open_zoo`."""

    def __repr__(self) -> str:
        return f"Zoo({self.path!r}, commit {self.commit.version}, {len(self.layers)} layers)"

    def _repr_html_(self) -> str:
        from ingest.store.pictures import zoo_html

        return zoo_html(self)

    def plot(self) -> Any:
        """Rows per layer beside the adapters' ranks: an altair.HConcatChart.

        Raises
        ------
        EigenzooError
            If altair is missing.
        """
        from ingest.store.pictures import zoo_figure

        return zoo_figure(self)

    @property
    def base_model(self) -> str | None:
        """The base model that the adapters share; None where no adapter named one."""
        return self.commit.base_model

    @property
    def layers(self) -> list[str]:
        """Canonical names of the layers that have live rows."""
        held = {array.layer for array in self.commit.arrays if array.live}
        return [r.layer for r in self.commit.layers if r.layer in held]

    @functools.cached_property
    def matrices(self) -> list[MatrixInfo]:
        """Every matrix of live rows, by layer and side."""
        found: dict[tuple[str, str], list[ArrayRecord]] = {}
        for array in self.commit.arrays:
            if array.live:
                found.setdefault((array.layer, array.side), []).append(array)
        return [
            MatrixInfo(
                layer,
                side,
                sum(a.live for a in arrays),
                arrays[0].width,
                schema.common_dtype({a.dtype for a in arrays}),
            )
            for layer in self.layers
            for side in schema.SIDES
            if (arrays := found.get((layer, side)))
        ]

    def layer(self, name: str) -> LayerRecord:
        """The record of one layer."""
        for record in self.commit.layers:
            if record.layer == name:
                return record
        raise EigenzooError(f"{self.path}: no layer {name!r}; `eigenzoo info` lists the {len(self.layers)} layers")

    def rows(self, layer: str, *, side: str, members: Collection[int] | None = None) -> ZooRows:
        """The rows of one matrix.

        Parameters
        ----------
        layer : str
            Canonical name.
        side : {"A", "B"}
            "A" stacks lora_A (rank × in), "B" stacks lora_Bᵀ (rank × out).
        members : collection of int, optional
            Ordinals of the adapters whose rows are wanted (see `stored`), which may be removed or replaced ones until
            the zoo is compacted; without it the live ones.

        Returns
        -------
        ZooRows
            A row source: shape, dtype, offsets, `read`.  Rows are in the order of the ordinals.

        Raises
        ------
        EigenzooError
            For an unknown layer, side or ordinal, or a layer without rows.
        """
        import numpy as np

        if side not in schema.SIDES:
            raise EigenzooError(f"side {side!r}: give 'A' or 'B'")
        record = self.layer(layer)
        arrays = [a for a in self.commit.arrays if (a.layer, a.side) == (layer, side) and a.rows]
        if not arrays:
            raise EigenzooError(f"{self.path}: layer {layer!r} has no rows; `eigenzoo info` lists those that have")
        entries = self._members(self.entries(record), members)
        key = side.lower()
        runs = runs_of(self.commit.arrays, entries[f"{key}_array"], entries[f"{key}_start"], entries["rank"])
        digest = hashlib.sha256(f"{layer}\0{side}\0".encode())
        digest.update(np.ascontiguousarray(entries["rank"]).tobytes())
        digest.update(np.ascontiguousarray(entries[f"{key}_digest"]).tobytes())
        return ZooRows(
            path=self.path,
            layer=layer,
            side=side,
            shape=(int(entries["rank"].sum()), arrays[0].width),
            dtype=schema.numpy_dtype(schema.common_dtype({r.array.dtype for r in runs} or {arrays[0].dtype})),
            offsets=np.concatenate([[0], np.cumsum(entries["rank"], dtype=np.int64)]),
            block_rows=runs[0].array.chunk if runs else arrays[0].chunk,
            identity=digest.hexdigest()[:32],
            runs=runs,
            codec=self.commit.codec,
            zoo=self.commit.uuid,
        )

    def _members(self, entries: NDArray[Any], members: Collection[int] | None) -> NDArray[Any]:
        """The entries of the adapters that are asked for."""
        import numpy as np

        if members is None and not any(a.retired for a in self.commit.arrays):
            return entries  # everybody is live: no need to read who is
        wanted = np.zeros(len(self.stored), bool)
        for ordinal in self._ordinals.values() if members is None else members:
            if not 0 <= ordinal < len(wanted):
                raise EigenzooError(f"{self.path}: no adapter of ordinal {ordinal}; there are {len(wanted)}")
            wanted[ordinal] = True
        found: NDArray[Any] = entries[wanted[entries["adapter"]]]
        return found

    def adapter(self, name: str) -> Iterator[StoredModule]:
        """The factors of one accepted adapter, layer by layer, exactly as its file had them.

        Raises
        ------
        EigenzooError
            If no accepted adapter has that name.
        """
        import numpy as np

        for entry in self.entries_of(self.ordinal(name)):
            record = self.commit.layers[int(entry["layer"])]
            rank = int(entry["rank"])
            sides = []
            for key in ("a", "b"):
                array = self.commit.arrays[int(entry[f"{key}_array"])]
                start = int(entry[f"{key}_start"])
                sides.append(read_array(self.storage, array, self.commit.codec, start, start + rank))
            check_same(self.storage, self.commit.uuid)
            yield StoredModule(
                record.layer,
                record.kind,
                sides[0].reshape(rank, *record.a_shape),
                np.ascontiguousarray(sides[1].T),
                float(entry["scale"]),
            )

    def config(self, name: str) -> str | None:
        """The adapter's configuration file, verbatim; None where it had none.

        Raises
        ------
        EigenzooError
            If no accepted adapter has that name.
        """
        self.ordinal(name)
        return texts.read_text(self.storage, self.commit, name)["config"]  # type: ignore[no-any-return]

    def metadata(self, name: str) -> dict[str, str]:
        """The metadata of the adapter's weights file; errors as for `config`."""
        self.ordinal(name)
        return dict(texts.read_text(self.storage, self.commit, name)["metadata"])

    def extras(self, name: str) -> dict[str, NDArray[Any]]:
        """Tensors that belong to the adapter and are no factors (heads, biases), by their key in its file.

        Raises
        ------
        EigenzooError
            If no accepted adapter has that name, or its tensors are lost.
        """
        record = self.stored[self.ordinal(name)].record
        if not record.extras:
            return {}
        return texts.read_extras(self.storage, self.commit, schema.extras_name(name, record.kept), name)


def open_zoo(path: str | os.PathLike[str]) -> Zoo:
    """Open the last whole commit of a zoo for reading.

    Parameters
    ----------
    path : path-like
        The zoo's folder, or an object store's URL such as ``s3://bucket/zoo.zarr``.

    Returns
    -------
    Zoo
        A snapshot; later commits do not change it.

    Raises
    ------
    EigenzooError
        If there is no zoo at `path`.

    Notes
    -----
    Cost: one file read; the ledger and the row ranges are read when asked for.
    """
    storage = open_storage(path)
    commit = read_commit(storage)
    if commit is None:
        raise EigenzooError(f"{storage.url}: no zoo there; make one with `eigenzoo ingest SOURCE --zoo {storage.url}`")
    return Zoo(storage, commit)
