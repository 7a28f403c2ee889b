"""From named factors to modules: every A with its B, shapes and dtypes checked, layers named canonically."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ingest.errors import Refusal
from ingest.formats.adapter import Kind, LoraModule
from ingest.names import Dialect, Rename, canonical
from ingest.reasons import Reason
from ingest.safetensors_file import TensorRef

FACTOR_DTYPES = frozenset(("float16", "bfloat16", "float32", "float64"))

# A layer's name becomes the name of a group in the store, hence of a folder.
_MAX_NAME_BYTES = 255


@dataclass(frozen=True, slots=True)
class Factor:
    """One factor tensor: its module as the file names it, side "A" or "B", and whether an embedding's."""

    module: str
    side: str
    embedding: bool
    tensor: TensorRef


def pair(
    factors: Iterable[Factor],
    scale: Callable[[str, int], float],
    dialect: Dialect,
    renames: tuple[Rename, ...],
) -> tuple[LoraModule, ...]:
    """Pair the factors of one file.

    Parameters
    ----------
    factors
        All factors, in any order.
    scale
        Module (as the file names it) and its rank → scale; may refuse a rank that contradicts the
        configuration.
    dialect, renames
        Passed on to `ingest.names.canonical`.

    Returns
    -------
    tuple of LoraModule
        Sorted by layer.

    Raises
    ------
    Refusal
        `unknown-keys`, `unpaired`, `bad-shape`, `unsupported-dtype`.
    """
    sides: tuple[dict[str, Factor], dict[str, Factor]] = ({}, {})
    for factor in factors:
        side = sides[factor.side == "B"]
        earlier = side.setdefault(factor.module, factor)
        if earlier is not factor:
            raise Refusal(
                Reason.UNKNOWN_KEYS,
                f"{earlier.tensor.key!r} and {factor.tensor.key!r} are both {factor.side} of one module; "
                "save each adapter and each dialect in a file of its own",
            )
    a_side, b_side = sides
    _check_pairs(a_side, b_side)
    layers = canonical(a_side, renames, dialect)
    modules = []
    for module, a in a_side.items():
        layer = layers[module]
        _check_name(layer)
        kind = _kind(a, b_side[module])
        rank = a.tensor.shape[0]
        modules.append(LoraModule(layer, kind, a.tensor, b_side[module].tensor, scale(module, rank)))
    return tuple(sorted(modules, key=lambda module: module.layer))


def _check_pairs(a_side: dict[str, Factor], b_side: dict[str, Factor]) -> None:
    alone = a_side.keys() ^ b_side.keys()
    if alone:
        first = min(alone)
        factor = a_side.get(first) or b_side[first]
        other = "B" if factor.side == "A" else "A"
        raise Refusal(
            Reason.UNPAIRED,
            f"{factor.tensor.key!r} has no {other} (so do {len(alone)} of {len(a_side | b_side)} modules)",
        )


def _check_name(layer: str) -> None:
    bad = (
        not all(layer.split("."))
        or "/" in layer
        or "\\" in layer
        or not layer.isprintable()
        or len(layer.encode("utf-8", "replace")) > _MAX_NAME_BYTES
    )
    if bad:
        raise Refusal(
            Reason.UNKNOWN_KEYS,
            f"{layer[:120]!r} is no layer's name (empty components, slashes, control characters, or over "
            f"{_MAX_NAME_BYTES} bytes)",
        )


def _kind(a: Factor, b: Factor) -> Kind:
    """Check one pair's shapes and data types and tell what layer it belongs to."""
    for tensor in (a.tensor, b.tensor):
        if tensor.dtype not in FACTOR_DTYPES:
            raise Refusal(
                Reason.UNSUPPORTED_DTYPE,
                f"{tensor.key!r} is {tensor.dtype}, expected one of {', '.join(sorted(FACTOR_DTYPES))}",
            )
    a_shape, b_shape = a.tensor.shape, b.tensor.shape
    where = f"{a.tensor.key!r} is {_by(a_shape)} and its B {_by(b_shape)}"
    if a.embedding != b.embedding:
        raise Refusal(Reason.UNPAIRED, f"{a.tensor.key!r} and {b.tensor.key!r} are factors of different kinds")
    if not 2 <= len(a_shape) <= 5 or len(b_shape) != len(a_shape) or (a.embedding and len(a_shape) != 2):
        raise Refusal(Reason.BAD_SHAPE, f"{where}: no pair of matrices or of convolution kernels")
    if 0 in a_shape or 0 in b_shape:
        raise Refusal(Reason.BAD_SHAPE, f"{where}: empty (saved from a sharded model without gathering?)")
    if a_shape[0] != b_shape[1]:
        hint = " (a grouped convolution?)" if len(a_shape) > 2 and a_shape[0] % b_shape[1] == 0 else ""
        raise Refusal(Reason.BAD_SHAPE, f"{where}: ranks {a_shape[0]} and {b_shape[1]} disagree{hint}")
    if any(size != 1 for size in b_shape[2:]):
        raise Refusal(Reason.BAD_SHAPE, f"{where}: B of a convolution must be 1 × 1")
    if a.embedding:
        return "embedding"
    return "linear" if len(a_shape) == 2 else "conv"


def _by(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "a scalar"
