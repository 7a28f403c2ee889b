"""Reading a zoo: a snapshot of its last whole commit.

A `Zoo` holds what one read of the root document said.  A writer that appends meanwhile changes nothing for it: row
ranges that are committed are never moved, and arrays are opened with the committed shape.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingest.errors import EigenzooError
from ingest.store import catalog, schema
from ingest.store.catalog import AdapterRecord, ArrayRecord, Commit, LayerRecord
from ingest.store.root import read_commit
from ingest.store.rows import Run, ZooRows, read_array

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class MatrixInfo:
    """One matrix of the zoo: a layer on one side.  ``dtype`` holds every stored value exactly."""

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


class Zoo:
    """An opened zoo: a snapshot of its last whole commit.  Made by `open_zoo`."""

    def __init__(self, path: str, commit: Commit) -> None:
        self.path = path
        self.commit = commit

    def __repr__(self) -> str:
        return f"Zoo({self.path!r}, commit {self.commit.version}, {len(self.layers)} layers)"

    @property
    def base_model(self) -> str | None:
        """The base model that the adapters share; None where no adapter named one."""
        return self.commit.base_model

    @property
    def layers(self) -> list[str]:
        """Canonical names of the layers that have rows."""
        held = {array.layer for array in self.commit.arrays if array.rows}
        return [r.layer for r in self.commit.layers if r.layer in held]

    @functools.cached_property
    def adapters(self) -> list[AdapterRecord]:
        """The ledger: every accepted and every refused adapter, in order of commit."""
        return catalog.ledger(self._segments)

    @functools.cached_property
    def accepted(self) -> list[AdapterRecord]:
        """The adapters whose rows are in the zoo; entries count them in this order."""
        return [r for records in self._segments for r in records if r.status == "ok"]

    @functools.cached_property
    def matrices(self) -> list[MatrixInfo]:
        """Every matrix, by layer and side."""
        found: dict[tuple[str, str], list[ArrayRecord]] = {}
        for array in self.commit.arrays:
            if array.rows:
                found.setdefault((array.layer, array.side), []).append(array)
        return [
            MatrixInfo(
                layer,
                side,
                sum(a.rows for a in arrays),
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

    def rows(self, layer: str, *, side: str) -> ZooRows:
        """The rows of one matrix.

        Parameters
        ----------
        layer : str
            Canonical name.
        side : {"A", "B"}
            "A" stacks lora_A (rank × in), "B" stacks lora_Bᵀ (rank × out).

        Returns
        -------
        ZooRows
            A row source: shape, dtype, offsets, `read`.

        Raises
        ------
        EigenzooError
            For an unknown layer or side.
        """
        import numpy as np

        if side not in schema.SIDES:
            raise EigenzooError(f"side {side!r}: give 'A' or 'B'")
        record = self.layer(layer)
        entries = self.entries(record)
        key = side.lower()
        arrays = self.commit.arrays
        runs: list[Run] = []
        for index, start, rank in zip(
            entries[f"{key}_array"].tolist(),
            entries[f"{key}_start"].tolist(),
            entries["rank"].tolist(),
            strict=True,
        ):
            if runs and runs[-1].array is arrays[index] and runs[-1].stop == start:
                runs[-1] = Run(arrays[index], runs[-1].start, start + rank)
            else:
                runs.append(Run(arrays[index], start, start + rank))
        digest = hashlib.sha256(f"{layer}\0{side}\0".encode())
        digest.update(np.ascontiguousarray(entries["rank"]).tobytes())
        digest.update(np.ascontiguousarray(entries[f"{key}_digest"]).tobytes())
        width = runs[0].array.width
        return ZooRows(
            path=self.path,
            layer=layer,
            side=side,
            shape=(int(entries["rank"].sum()), width),
            dtype=schema.numpy_dtype(schema.common_dtype({r.array.dtype for r in runs})),
            offsets=np.concatenate([[0], np.cumsum(entries["rank"], dtype=np.int64)]),
            block_rows=runs[0].array.chunk,
            identity=digest.hexdigest()[:32],
            runs=tuple(runs),
        )

    def entries(self, layer: LayerRecord) -> NDArray[Any]:
        """Row ranges, ranks, scales and digests of one layer, a record per adapter (see `catalog.entry_dtype`)."""
        import numpy as np

        index = self.commit.layers.index(layer)
        parts = [
            catalog.read_layer(self._file(f"{s.name}.entries.npy"), index) for s in self.commit.segments if s.entries
        ]
        return np.concatenate(parts) if parts else np.empty(0, catalog.entry_dtype())

    def entry_tables(self) -> Iterator[NDArray[Any]]:
        """Each commit's entries, sorted by layer and adapter, mapped from disk."""
        import numpy as np

        for segment in self.commit.segments:
            if segment.entries:
                yield np.load(self._file(f"{segment.name}.entries.npy"), mmap_mode="r", allow_pickle=False)

    def adapter(self, name: str) -> Iterator[StoredModule]:
        """The factors of one accepted adapter, layer by layer, exactly as its file had them.

        Raises
        ------
        EigenzooError
            If no accepted adapter has that name.
        """
        import numpy as np

        order = self.accepted.index(self._accepted(name))
        for table in self.entry_tables():
            for entry in table[table["adapter"] == order]:
                record = self.commit.layers[int(entry["layer"])]
                rank = int(entry["rank"])
                sides = []
                for key in ("a", "b"):
                    array = self.commit.arrays[int(entry[f"{key}_array"])]
                    start = int(entry[f"{key}_start"])
                    sides.append(read_array(self.path, array, start, start + rank))
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
        return self._text(name)["config"]  # type: ignore[no-any-return]

    def metadata(self, name: str) -> dict[str, str]:
        """The metadata of the adapter's weights file; errors as for `config`."""
        return dict(self._text(name)["metadata"])

    def extras(self, name: str) -> dict[str, NDArray[Any]]:
        """Tensors that belong to the adapter and are no factors (heads, biases), by their key in its file.

        Raises
        ------
        EigenzooError
            If no accepted adapter has that name, or its tensors are lost.
        """
        from ingest.safetensors_file import read_all

        if not self._accepted(name).extras:
            return {}
        path = self.extras_path(name)
        try:
            return read_all(path)
        except EigenzooError as error:
            raise EigenzooError(f"{path}: the other tensors of {name} cannot be read ({error})") from error

    def extras_path(self, name: str) -> str:
        """Where an adapter's tensors that are no factors are kept."""
        return self._file(f"{schema.CATALOG}/extras/{schema.quote(name)}.safetensors")

    def _accepted(self, name: str) -> AdapterRecord:
        for record in self.accepted:
            if record.name == name:
                return record
        raise EigenzooError(f"{self.path}: no accepted adapter {name!r}; `eigenzoo info` lists them")

    def _text(self, name: str) -> dict[str, Any]:
        self._accepted(name)
        for segment in reversed(self.commit.segments):
            with open(self._file(f"{segment.name}.texts.json"), encoding="utf-8") as file:
                texts = json.load(file)
            if name in texts:
                return dict(texts[name])
        raise EigenzooError(f"{self.path}: the configuration of {name} is lost; restore the folder catalog")

    @functools.cached_property
    def _segments(self) -> list[list[AdapterRecord]]:
        out = []
        for segment in self.commit.segments:
            try:
                with open(self._file(f"{segment.name}.json"), "rb") as file:
                    data = file.read()
            except OSError as error:
                raise EigenzooError(
                    f"{self.path}: {segment.name}.json is lost ({error.strerror}); restore it"
                ) from error
            if hashlib.sha256(data).hexdigest() != segment.digest:
                raise EigenzooError(f"{self.path}: {segment.name}.json does not match the commit record; restore it")
            out.append(catalog.decode_adapters(data))
        return out

    def _file(self, name: str) -> str:
        return os.path.join(self.path, name)


def open_zoo(path: str | os.PathLike[str]) -> Zoo:
    """Open the last whole commit of a zoo for reading.

    Parameters
    ----------
    path : path-like
        The zoo's folder.

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
    path = os.path.abspath(os.fspath(path))
    commit = read_commit(path)
    if commit is None:
        raise EigenzooError(f"{path}: no zoo there; make one with `eigenzoo ingest SOURCE --zoo {path}`")
    return Zoo(path, commit)
