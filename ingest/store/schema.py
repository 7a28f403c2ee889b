"""Layout of a zoo: paths, dtypes, chunk shapes and the zarr v3 documents, as pure functions.

::

    zoo.zarr/
      zarr.json                     root group: the commit record and consolidated metadata, replaced in one step
      layers/<layer>/A, B           arrays (rows × width) of each layer's commonest dtype
      layers/<layer>/A-float16      a further array where adapters of one matrix differ in dtype
      layers-000007/<layer>/A, B    the same after commit 7 compacted the zoo: no path is ever used again
      catalog/000001.json           the events of commit 1: adapters accepted, refused, removed, renewed
      catalog/000001.entries.npy    where the rows of the accepted ones lie, a record per adapter and layer
      catalog/000001.texts.json     their configuration files, verbatim
      catalog/extras/000001/<name>.safetensors   tensors that belong to an adapter of commit 1 and are no factors

bfloat16 is no zarr v3 data type: it is stored as uint16 with the attribute ``dtype: "bfloat16"``, which every zarr
reader opens.  Arrays carry no compressor by default: trained weights hardly compress and the codecs cost more than the
disk; lz4 with bitshuffle is for slow links.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

FORMAT = 2
ROOT = "zarr.json"
CATALOG = "catalog"
LAYERS = "layers"
STAGING = "staging"  # where an ingest into a local zoo keeps what it downloads
SIDES = ("A", "B")
FACTOR_DTYPES = ("bfloat16", "float16", "float32", "float64")
MAX_CHUNK_BYTES = 4 << 20
MIN_CHUNK_BYTES = 32 << 10  # an adapter of few bytes and many layers must not fill a disk
_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype of a factor dtype's name; bfloat16 comes from ``ml_dtypes``."""
    import numpy as np

    if name == "bfloat16":
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(name)


def stored_dtype(name: str) -> str:
    """The zarr data type that carries a factor dtype's bits."""
    return "uint16" if name == "bfloat16" else name


def itemsize(name: str) -> int:
    """Bytes per value of a factor dtype."""
    return {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}[name]


def common_dtype(names: set[str]) -> str:
    """The smallest factor dtype that holds every value of all the given ones exactly."""
    if len(names) == 1:
        return next(iter(names))
    return "float64" if "float64" in names else "float32"


def quote(name: str) -> str:
    """A layer's or adapter's name as one path component: injective, portable, at most 150 bytes.

    Bytes outside ``[A-Za-z0-9._-]`` become ``%XX``; so does a leading dot or underscore, which zarr and file
    systems give a meaning of their own.  A name too long for a file system keeps its head and gains a digest.
    """
    out = "".join(
        chr(b) if chr(b) in _SAFE and not (i == 0 and chr(b) in "._") else f"%{b:02X}"
        for i, b in enumerate(name.encode("utf-8", "surrogatepass"))
    )
    if len(out) <= 150:
        return out or "%"
    return f"{out[:110]}%~{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def group_path(generation: int) -> str:
    """The group of all layers: one for every time that the zoo was compacted."""
    return f"{LAYERS}-{generation:06d}" if generation else LAYERS


def layer_path(layer: str, generation: int = 0) -> str:
    """The group of a layer."""
    return f"{group_path(generation)}/{quote(layer)}"


def extras_name(adapter: str, folder: str) -> str:
    """The file of an adapter's tensors that are no factors; no commit writes into another's folder."""
    return f"{CATALOG}/extras/{folder}/{quote(adapter)}.safetensors"


def chunk_rows(width: int, dtype: str, planned_rows: int) -> int:
    """Rows per chunk: a power of two, whole rows, at most 4 MiB and at least 32 KiB where a row allows.

    A zoo that starts small gets small chunks, since a chunk is stored whole however few rows it holds.
    """
    row = max(1, width * itemsize(dtype))
    top, bottom = max(1, MAX_CHUNK_BYTES // row), max(1, MIN_CHUNK_BYTES // row)
    return 1 << int(math.log2(min(max(planned_rows, bottom), top)))


def array_document(
    rows: int, width: int, dtype: str, chunk: int, attributes: dict[str, Any], codec: str = ""
) -> dict[str, Any]:
    """The zarr v3 metadata of one array of factor rows; `codec` as in `ingest.store.chunks`."""
    stored = stored_dtype(dtype)
    codecs: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    if codec == "lz4":
        blosc = {"typesize": itemsize(dtype), "cname": "lz4", "clevel": 5, "shuffle": "bitshuffle", "blocksize": 0}
        codecs.append({"name": "blosc", "configuration": blosc})
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [rows, width],
        "data_type": stored,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunk, width]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0 if stored == "uint16" else 0.0,
        "codecs": codecs,
        "attributes": {"dtype": dtype, **attributes},
        "storage_transformers": [],
    }


def group_document(attributes: dict[str, Any]) -> dict[str, Any]:
    """The zarr v3 metadata of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}
