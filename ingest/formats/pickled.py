"""Adapters saved by torch.save (.bin, .pt, .ckpt): opened as if they were safetensors files.

Their pickle is checked (`pickle_check`) and then loaded by torch's weights-only unpickler, with storages that have
a size and no memory.  What comes out says where each tensor's values lie, and they are read from there one by
one.  Never is a pickle loaded in any other way.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ingest.errors import EigenzooError, Refusal
from ingest.formats.pickle_files import open_pickle_file
from ingest.formats.state_dict import state_dict
from ingest.reasons import Reason
from ingest.safetensors_file import MAX_TENSORS, SafetensorsHeader, TensorRef, numpy_dtype, pack_header
from ingest.safetensors_header import DTYPES, PACKED

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Of files that are taken for pickles."""

_MAX_NDIM = 32
# Tied tensors are stored once and read twice; far more than that is a file made to be unpacked into much.
_MAX_GROWTH = 4
_NAMES = frozenset(name for name, _ in DTYPES.values()) - PACKED


@dataclass(frozen=True, slots=True)
class Pickled:
    """A pickle presented as a safetensors file.

    Attributes
    ----------
    header
        The header of a file of all its tensors, C-contiguous, in this order (see `pack_header`).
    tensor
        Reads one of them from the pickle.
    """

    header: SafetensorsHeader
    tensor: Callable[[TensorRef], NDArray[Any]]


class _Place(NamedTuple):
    """Where a tensor's values lie: first byte and bytes spanned in the file, strides in bytes."""

    start: int
    span: int
    strides: tuple[int, ...]


def open_pickle(path: str) -> Pickled:
    """Open a file of torch.save by a weights-only load.

    Parameters
    ----------
    path
        A zip archive (torch 1.6 and later) or a stream (before).

    Raises
    ------
    Refusal
        `pickle` (anything that is no plain state dict, with what it is), `truncated`, `unreadable`,
        `unsupported-dtype`, `bad-shape`, `header-mismatch` (too many tensors).
    EigenzooError
        If torch is not installed.

    Notes
    -----
    A bare list of tensors, cloneofsimo's [up, down, up, down, …], gets the keys `list:0:up`, `list:0:down`,
    `list:1:up`, ….  Cost: the pickle itself, some hundred bytes per tensor; no value is read.
    """
    where = os.path.basename(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for a writer
            raise Refusal(Reason.UNREADABLE, f"{where} is no regular file")
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            refs, places = _read(file.fileno(), size, where)
    except OSError as error:
        raise Refusal(Reason.UNREADABLE, f"{where} cannot be read ({error.strerror or error})") from error
    header = SafetensorsHeader(path, size, len(pack_header(refs.values())), refs, {})

    def tensor(ref: TensorRef) -> NDArray[Any]:
        return _values(path, ref, places[ref.key])

    return Pickled(header, tensor)


def _read(descriptor: int, size: int, where: str) -> tuple[dict[str, TensorRef], dict[str, _Place]]:
    storages = _Storages(where)
    opened = open_pickle_file(descriptor, size, where, storages.load)
    tensors = state_dict(storages.load(opened.pickle), where)
    if len(tensors) > MAX_TENSORS:
        raise Refusal(Reason.HEADER_MISMATCH, f"{where} holds {len(tensors)} tensors, at most {MAX_TENSORS}")
    starts = opened.places(storages.sizes())
    refs: dict[str, TensorRef] = {}
    places: dict[str, _Place] = {}
    at = spanned = 0
    for key, value in tensors.items():
        ref, place = storages.locate(key, value, starts, at)
        refs[key], places[key] = ref, place
        at += ref.nbytes
        spanned += place.span
        if max(at, spanned) > _MAX_GROWTH * size:
            raise Refusal(Reason.PICKLE, f"{where} has {size} bytes and claims tensors of more than {max(at, spanned)}")
    return refs, places


class _Storages:
    """The storages that a pickle names, each a size without memory, and the weights-only load that asks for them."""

    def __init__(self, where: str) -> None:
        try:
            import torch
        except ImportError as error:
            raise EigenzooError(
                f"{where} is a pickle, and opening it takes torch; pip install 'eigenzoo[torch]'"
            ) from error
        self._torch = torch
        self._where = where
        self._by_key: dict[str, Any] = {}
        self._elements: dict[str, tuple[int, int]] = {}
        self._keys: dict[int, str] = {}

    def load(self, pickle: io.BytesIO) -> Any:
        """What `torch.load(weights_only=True)` makes of a pickle, on the meta device."""
        from torch import _weights_only_unpickler as weights_only

        # torch.load itself would read every storage, or map the file; its unpickler is all of it that is wanted.
        unpickler = weights_only.Unpickler(pickle, encoding="utf-8")
        unpickler.persistent_load = self._storage
        try:
            return unpickler.load()
        except Refusal:
            raise
        except Exception as error:  # a stranger's bytes: whatever the unpickler says of them is their fault
            raise Refusal(
                Reason.PICKLE, f"{self._where} cannot be loaded as weights only ({type(error).__name__}: {error})"
            ) from error

    def sizes(self) -> Mapping[str, tuple[int, int]]:
        """Key → number of elements, bytes of one."""
        return self._elements

    def _storage(self, pid: Any) -> Any:
        torch = self._torch
        kinds = pid[1:] if isinstance(pid, tuple) else ()
        if len(kinds) == 5 and kinds[4] is None:  # streams: a view of another storage, never since torch 0.4
            kinds = kinds[:4]
        if len(kinds) != 4 or type(kinds[1]) is not str or type(kinds[3]) is not int or kinds[3] < 0:
            raise Refusal(Reason.PICKLE, f"{self._where} names a storage in an unknown manner")
        kind, key, _, count = kinds
        dtype = torch.uint8 if kind is torch.UntypedStorage else kind.dtype
        itemsize = torch.empty((), dtype=dtype, device="meta").element_size()
        if self._elements.setdefault(key, (count, itemsize)) != (count, itemsize):
            raise Refusal(Reason.PICKLE, f"{self._where} names the storage {key!r} with two sizes")
        if key not in self._by_key:
            if count * itemsize > 1 << 62:
                raise Refusal(Reason.PICKLE, f"{self._where} names a storage of {count} elements")
            memory = torch.UntypedStorage(count * itemsize, device="meta")
            self._by_key[key] = torch.storage.TypedStorage(wrap_storage=memory, dtype=dtype, _internal=True)
            self._keys[memory._cdata] = key
        return self._by_key[key]

    def locate(self, key: str, value: Any, starts: Mapping[str, tuple[int, int]], at: int) -> tuple[TensorRef, _Place]:
        """One tensor's reference, at an offset, and where its values lie."""
        torch = self._torch
        # By the class's own methods: a pickle can hang attributes of these names on a tensor.
        get = torch.Tensor
        where = f"{self._where}: {key!r}"
        dtype = str(get.dtype.__get__(value)).removeprefix("torch.")
        if dtype not in _NAMES:
            raise Refusal(Reason.UNSUPPORTED_DTYPE, f"{where} is {dtype}, which safetensors does not know")
        storage = self._keys.get(get.untyped_storage(value)._cdata)
        if storage is None or get.is_conj(value) or get.is_neg(value):
            raise Refusal(Reason.PICKLE, f"{where} is a tensor without storage of its own, or a conjugate")
        shape, strides = tuple(get.size(value)), tuple(get.stride(value))
        itemsize = get.element_size(value)
        start, held = starts[storage]
        first = get.storage_offset(value) * itemsize
        elements = last = 1
        for size, stride in zip(shape, strides, strict=True):
            elements *= size
            last += (size - 1) * stride
        span = last * itemsize if elements else 0
        if len(shape) > _MAX_NDIM or min((0, *strides)) < 0 or first + span > held:
            raise Refusal(Reason.PICKLE, f"{where} reaches beyond its storage of {held} bytes")
        if elements * itemsize > held:
            raise Refusal(Reason.PICKLE, f"{where} claims {elements * itemsize} bytes of a storage of {held}")
        ref = TensorRef(key, dtype, shape, at, elements * itemsize)
        return ref, _Place(start + first, span, tuple(stride * itemsize for stride in strides))


def _values(path: str, ref: TensorRef, place: _Place) -> NDArray[Any]:
    import numpy as np

    where = os.path.basename(path)
    out = np.empty(place.span, np.uint8)
    done = 0
    try:
        with open(path, "rb", buffering=0) as file:
            while done < place.span:
                count = os.preadv(file.fileno(), [out[done:].data], place.start + done)
                if not count:
                    raise Refusal(Reason.TRUNCATED, f"{where} ends within {ref.key!r}")
                done += count
    except OSError as error:
        raise Refusal(Reason.UNREADABLE, f"{where} cannot be read ({error.strerror or error})") from error
    dtype = numpy_dtype(ref.dtype, ref.key)
    if not ref.nbytes:
        return np.empty(ref.shape, dtype)
    flat = out.view(dtype)
    strided = np.lib.stride_tricks.as_strided(flat, ref.shape, place.strides)
    return np.ascontiguousarray(strided).reshape(ref.shape)
