"""The verbs over torch, on the CPU (MKL, oneDNN) or a CUDA device."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.backends import matrix_units, torch_streams
from engine.backends.numpy_ import GROUP, add_gram, column_sum, less
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

PANEL = 512  # columns of a panel: lower-triangle panels take 0.57 of the full product's time at width 4096
# Rows that tensor cores sum by themselves. They cut each sum off where other units round, so that its error grows with
# the number of rows: 7e-7 of the largest eigenvalue at 512 and 2.6e-6 at 2048, in a simulation of 16 rows at a time.
TENSOR_ROWS = 512
OUT_DTYPE = (2, 8)  # the first torch whose products of 16-bit operands may be kept in float32


@dataclass(frozen=True, slots=True)
class TorchBackend:
    """torch has no syrk: on the CPU scipy's updates the same memory, on CUDA panels skip the upper triangle.

    Attributes
    ----------
    device : "cpu", "cuda" (the current one) or "cuda:1" and so on.

    Notes
    -----
    An array that leaves the process goes through the host, and arrives on the device of the same name: in a worker
    that sees one GPU only, that is its own. (cuBLAS has a syrk, which cupy reaches and torch does not; panels make
    1.13 of its products at width 4096.)
    """

    device: str = "cpu"

    @property
    def name(self) -> str:
        return "torch" if self.device == "cpu" else self.device

    def load(self) -> None:
        try:
            import torch  # noqa: F401
        except ImportError as problem:
            raise EigenzooError(
                "device: torch is not installed where this task runs; install it there, or choose device 'cpu'"
            ) from problem

        if self.device == "cpu":
            import scipy.linalg.blas  # noqa: F401

    def products(self, dtype: str) -> str:
        if dtype not in ("float16", "bfloat16"):
            return "float64"
        if self.device != "cpu":
            return dtype if self._tensor_cores(dtype) else "float32"
        return "bfloat16" if dtype == "bfloat16" and matrix_units.cpu_has_amx() else "float32"

    def matrix(self, block: NDArray[Any], products: str = "float64") -> Tensor:
        import torch

        if self.device != "cpu":
            return torch_streams.send(block, products, self.device)
        wide = torch.float64 if products == "float64" else torch.float32
        if block.dtype.name == "bfloat16":
            return torch.from_numpy(_seen(block).view(np.int16)).view(torch.bfloat16).to(wide)
        if block.dtype == np.float16:  # widened by all threads, where numpy takes one
            return torch.from_numpy(_seen(block)).to(wide)
        return torch.from_numpy(np.array(block, order="C", copy=True)).to(wide)

    def less(self, block: NDArray[Any], row: Tensor) -> Tensor:
        import torch

        if self.device == "cpu":
            return torch.from_numpy(less(block, row.numpy()))
        x = self.matrix(block)
        x.sub_(row)
        return x

    def square(self, n: int, dtype: str = "float64") -> Tensor:
        import torch

        return torch.zeros((n, n), dtype=getattr(torch, dtype), device=self.device)

    def vector(self, n: int) -> Tensor:
        import torch

        return torch.zeros(n, dtype=torch.float64, device=self.device)

    def column_mean(self, x: Tensor) -> Tensor:
        return self.column_sum(x, "float64") / len(x)

    def column_sum(self, x: Tensor, products: str = "") -> Tensor:
        import torch

        if self.device == "cpu" and products in ("float64", "float32"):
            # One thread of numpy's: torch's would wait for cores on which OpenBLAS' still spin after a product.
            return torch.from_numpy(column_sum(x.numpy()))
        if x.dtype == torch.float64:
            return x.sum(dim=0)
        whole = len(x) // GROUP * GROUP
        groups = x[:whole].reshape(-1, GROUP, x.shape[1]).sum(dim=1, dtype=torch.float32)
        return groups.double().sum(dim=0) + x[whole:].double().sum(dim=0)

    def subtract_row(self, x: Tensor, row: Tensor) -> None:
        x.sub_(row.to(x.dtype))

    def square_sum(self, x: Tensor) -> float:
        flat = x.reshape(-1)
        return float(flat.dot(flat))

    def add_gram(self, c: Tensor, x: Tensor, products: str = "float64") -> None:
        if self.device == "cpu" and products != "bfloat16":
            # The lower triangle of a row-ordered c is the upper one of its transpose, and the same memory.
            add_gram(c.numpy().T, x.numpy(), lower=False)
        elif self.device == "cpu":
            with matrix_units.bfloat16_products():
                self._panels(c, x)
        elif x.dtype == c.dtype:
            with matrix_units.no_tf32():
                self._panels(c, x)
        elif _torch_version() < OUT_DTYPE:
            with matrix_units.no_tf32():
                self._panels(c, x.float())
        else:
            with matrix_units.float32_sums():
                for start in range(0, len(x), TENSOR_ROWS):
                    self._panels_to_float32(c, x[start : start + TENSOR_ROWS])

    def add_outer(self, c: Tensor, row: Tensor, weight: float) -> None:
        c.addr_(row, row, alpha=weight)

    def add(self, c: Tensor, other: Tensor) -> None:
        if c.dim() < 2:
            c.add_(other)
            return
        for left in range(0, len(c), PANEL):
            c[left:, left : left + PANEL].add_(other[left:, left : left + PANEL])

    def clear(self, c: Tensor) -> None:
        c.zero_()

    def diagonal(self, c: Tensor) -> NDArray[np.float64]:
        return self.to_host(c.diagonal().double())

    def mirror(self, c: Tensor) -> None:
        for left in range(0, len(c), PANEL):
            right = min(left + PANEL, len(c))
            c[left:right, right:] = c[right:, left:right].T
            corner = c[left:right, left:right]
            corner.copy_(corner.tril() + corner.tril(-1).T)

    def deflated(self, c: Tensor, a: Tensor, dtype: str) -> Tensor:
        import torch

        out = torch.empty(c.shape, dtype=getattr(torch, dtype), device=self.device)
        for left in range(0, len(c), PANEL):
            out[left : left + PANEL] = c[left : left + PANEL] - a[left : left + PANEL] @ a.T
        return out

    def eigen(self, c: Tensor) -> FullEigen:
        import torch

        values, vectors = torch.linalg.eigh(c, UPLO="L")
        return FullEigen(self.to_host(values.flip(0)), vectors)

    def eigenvalues(self, c: Tensor, dtype: str) -> NDArray[np.float64]:
        import torch

        values = torch.linalg.eigvalsh(c.to(getattr(torch, dtype)), UPLO="L")
        return self.to_host(values.double().flip(0))

    @property
    def values_alone(self) -> bool:
        return True

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        import torch

        if a.dtype != torch.float32:
            return a @ b
        with matrix_units.whole_products() if self.device == "cpu" else matrix_units.no_tf32():
            return a @ b

    def orthonormalise(self, x: Tensor) -> Tensor:
        import torch

        q, r = torch.linalg.qr(x)
        return q * torch.where(r.diagonal() < 0, -1.0, 1.0)

    def to_host(self, x: Tensor) -> NDArray[np.float64]:
        return np.asarray(x.cpu().numpy())

    def stack(self, parts: Sequence[Tensor]) -> Tensor:
        import torch

        return torch.cat(list(parts))

    def qr_append(self, r: Tensor, x: Tensor) -> Tensor:
        import torch

        return torch.linalg.qr(torch.cat([r, x]), mode="r").R

    def stream(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self.device == "cpu" else torch_streams.own_stream(self.device)

    def _tensor_cores(self, dtype: str) -> bool:
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_available():
            return True  # a plan for some other machine
        first = (7, 0) if dtype == "float16" else (8, 0)
        return _torch_version() >= OUT_DTYPE and torch.cuda.get_device_capability(self.device) >= first

    def _panels(self, c: Tensor, x: Tensor) -> None:
        for left in range(0, x.shape[1], PANEL):
            right = left + PANEL
            c[left:, left:right].addmm_(x[:, left:].T, x[:, left:right])

    def _panels_to_float32(self, c: Tensor, x: Tensor) -> None:
        import torch

        for left in range(0, x.shape[1], PANEL):
            right = left + PANEL
            # out_dtype keeps what the tensor cores summed; without it the result is rounded to 16 bits.
            c[left:, left:right].add_(torch.mm(x[:, left:].T, x[:, left:right], out_dtype=torch.float32))


def _seen(block: NDArray[Any]) -> NDArray[Any]:
    """The block as torch takes it, rows in order and writable; copied only where it is not."""
    return np.require(block, requirements=["C", "W"])


@dataclass(frozen=True, slots=True)
class FullEigen:
    """torch reaches no tridiagonal form, so every vector is computed and the wanted ones handed out."""

    values: NDArray[np.float64]
    all_vectors: Tensor

    def vectors(self, k: int) -> Tensor:
        return self.all_vectors[:, self.all_vectors.shape[1] - k :].flip(1)


def _torch_version() -> tuple[int, ...]:
    import torch

    return tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
