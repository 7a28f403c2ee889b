"""One file's tensors parted into factors, alphas and the rest; what the dialects of named pairs share."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from ingest.errors import Refusal
from ingest.formats import foreign
from ingest.formats.adapter import LoraModule
from ingest.formats.opened import Opened
from ingest.formats.pairing import Factor, pair
from ingest.names import Rename
from ingest.reasons import Reason
from ingest.safetensors_file import TensorRef

SHARED_TENSORS = 4096
"""Files with more tensors are sorted anew each time: what is remembered of a stranger's files must stay small."""


class Split(NamedTuple):
    """What a key says: the module as the dialect spells it, and "A", "B" or "alpha"."""

    module: str
    role: str


class Sorted(NamedTuple):
    """Factors, extras, and alphas by module."""

    factors: tuple[Factor, ...]
    extras: tuple[TensorRef, ...]
    alphas: tuple[tuple[str, TensorRef], ...]


def sort(
    opened: Opened,
    split: Callable[[str], Split | None],
    extra: Callable[[str], bool],
    stranger: Callable[[str, str], Refusal] = foreign.stranger,
) -> Sorted:
    """Part a file's tensors; files with equal headers share the result, so that large zoos stay small.

    Parameters
    ----------
    opened
        The adapter.
    split
        Key → what it says, None if it is neither factor nor alpha.
    extra
        Whether a key that `split` does not know belongs to the adapter all the same.
    stranger
        (key, file) → the refusal of a key that is none of these.

    Raises
    ------
    Refusal
        `stranger`'s, or `unknown-keys` for an alpha of no module.
    """
    tensors = tuple(opened.header.tensors.values())
    function = _sorted if len(tensors) <= SHARED_TENSORS else _sorted.__wrapped__
    return function(tensors, opened.where, opened.options.ignore_magnitude, split, extra, stranger)


@lru_cache(maxsize=64)
def _sorted(
    tensors: tuple[TensorRef, ...],
    where: str,
    ignore_magnitude: bool,
    split: Callable[[str], Split | None],
    extra: Callable[[str], bool],
    stranger: Callable[[str, str], Refusal],
) -> Sorted:
    factors: list[Factor] = []
    extras: list[TensorRef] = []
    alphas: dict[str, TensorRef] = {}
    for tensor in tensors:
        said = split(tensor.key)
        if said is not None and said.role == "alpha":
            earlier = alphas.setdefault(said.module, tensor)
            if earlier is not tensor:
                raise Refusal(Reason.UNKNOWN_KEYS, f"{earlier.key!r} and {tensor.key!r} are alphas of one module")
        elif said is not None:
            factors.append(Factor(said.module, said.role, False, tensor))
        elif (ignore_magnitude and foreign.is_magnitude(tensor.key)) or extra(tensor.key):
            extras.append(tensor)
        else:
            raise stranger(tensor.key, where)
    orphan = alphas.keys() - {factor.module for factor in factors}
    if orphan:
        raise Refusal(Reason.UNKNOWN_KEYS, f"{alphas[min(orphan)].key!r} is the alpha of no module in {where}")
    return Sorted(tuple(factors), tuple(extras), tuple(alphas.items()))


def scaled(
    factors: tuple[Factor, ...], alphas: tuple[tuple[str, float], ...], renames: tuple[Rename, ...]
) -> tuple[LoraModule, ...]:
    """Modules whose scale is alpha / rank, and 1 without an alpha; equal arguments share them.

    Raises
    ------
    Refusal
        As `ingest.formats.pairing.pair`.
    """
    function = _scaled if len(factors) <= SHARED_TENSORS else _scaled.__wrapped__
    return function(factors, alphas, renames)


@lru_cache(maxsize=64)
def _scaled(
    factors: tuple[Factor, ...], alphas: tuple[tuple[str, float], ...], renames: tuple[Rename, ...]
) -> tuple[LoraModule, ...]:
    by_module = dict(alphas)

    def scale(module: str, rank: int) -> float:
        return by_module[module] / rank if module in by_module else 1.0

    return pair(factors, scale, "diffusers", renames)


def refuse_config(opened: Opened, dialect: str) -> None:
    """Refuse an `adapter_config.json` beside a dialect that states its alpha elsewhere.

    Raises
    ------
    Refusal
        `bad-config`.
    """
    if opened.config is not None:
        raise Refusal(
            Reason.BAD_CONFIG,
            f"{opened.where} has {dialect} keys, but an adapter_config.json lies beside it: "
            "which alpha holds is unknown; part them",
        )


def refuse_zero(found: Sorted, alphas: tuple[tuple[str, float], ...], trainer: str) -> None:
    """Refuse an alpha of 0, which its trainer reads as the rank (scale 1) and other loaders as 0.

    Raises
    ------
    Refusal
        `bad-config`.
    """
    for (_, ref), (_, alpha) in zip(found.alphas, alphas, strict=True):
        if alpha == 0:
            raise Refusal(
                Reason.BAD_CONFIG,
                f"{ref.key!r} is 0, which {trainer} takes for the rank and diffusers for nothing; mend or drop it",
            )
