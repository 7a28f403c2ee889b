r"""LoHa (FedPara): \(\Delta W = s\,(W_{1a} W_{1b}) \odot (W_{2a} W_{2b})\), rewritten as a LoRA of rank r² on request.

With the row-wise Khatri-Rao (face-splitting) product ⊙ₖ, (PQ) ⊙ (RS) = (P ⊙ₖ R)(Qᵀ ⊙ₖ Sᵀ)ᵀ: B has the products of the
rows of W1a and W2a, A those of the columns of W1b and W2b. (Hyeon-Woo et al., FedPara, ICLR 2022, Proposition 1.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from ingest.errors import Refusal
from ingest.formats import products
from ingest.formats.adapter import LoraAdapter
from ingest.formats.low_rank import Method, Pair, Shape, check_rank, exact_dtype
from ingest.formats.opened import Opened
from ingest.reasons import Reason
from ingest.safetensors_file import TensorRef

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME: Final = "loha"

_PARTS = ("w1_a", "w1_b", "w2_a", "w2_b")


def claims(keys: Iterable[str], has_config: bool) -> bool:
    """Whether any key is a LoHa factor."""
    del has_config
    return products.claims(METHOD, keys)


def parse(opened: Opened) -> LoraAdapter:
    """Read one LoHa; see `ingest.formats.parse` for what it raises."""
    return products.parse(METHOD, opened)


def shapes(module: str, parts: Mapping[str, TensorRef]) -> Pair:
    """The factors of one module; refuses cores and contradictions."""
    if core := parts.keys() & {"t1", "t2"}:
        raise Refusal(
            Reason.NOT_LORA, f"{parts[min(core)].key!r} is a Tucker core: products of those have no such factors"
        )
    if parts.keys() != set(_PARTS):
        raise Refusal(Reason.UNPAIRED, f"{module!r} has of {', '.join(_PARTS)} only {', '.join(sorted(parts))}")
    w1a, w1b, w2a, w2b = (parts[name] for name in _PARTS)
    if any(len(ref.shape) != 2 or 0 in ref.shape for ref in parts.values()):
        raise Refusal(Reason.BAD_SHAPE, f"{module!r}: LoHa's factors must be matrices")
    (out, rank), (_, width) = w1a.shape, w1b.shape
    if w2a.shape != (out, rank) or w1b.shape != (rank, width) or w2b.shape != (rank, width):
        raise Refusal(
            Reason.BAD_SHAPE, f"{module!r}: {', '.join(str(parts[name].shape) for name in _PARTS)} do not fit together"
        )
    check_rank(module, "LoHa", rank * rank, (out, width))
    return Pair(
        Shape(rank * rank, width, exact_dtype(w1b.key, w1b.dtype, w2b.dtype)),
        Shape(out, rank * rank, exact_dtype(w1a.key, w1a.dtype, w2a.dtype)),
        rank,
        (),
    )


def factors(values: Mapping[str, NDArray[Any]], pair: Pair) -> tuple[NDArray[Any], NDArray[Any]]:
    """A and B, each entry one exact product."""
    from scipy.linalg import khatri_rao

    w1b, w2b = (values[name].astype(pair.a.dtype) for name in ("w1_b", "w2_b"))
    w1a, w2a = (values[name].astype(pair.b.dtype) for name in ("w1_a", "w2_a"))
    return khatri_rao(w1b, w2b), khatri_rao(w1a.T, w2a.T).T


METHOD: Final = Method(NAME, "LoHa", re.compile(r"[._]hada_(w[12]_[ab]|t[12])$"), shapes, factors)
