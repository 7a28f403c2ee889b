"""The verbs over torch, in float64, on the CPU (MKL) or a CUDA device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

_MIN_PANEL = 256


@dataclass(frozen=True, slots=True)
class TorchBackend:
    """torch has no syrk, so `add_gram` multiplies panel by panel and skips the upper triangle."""

    device: str = "cpu"

    @property
    def name(self) -> str:
        return "torch" if self.device == "cpu" else self.device

    def load(self) -> None:
        import torch  # noqa: F401

    def matrix(self, block: NDArray[Any]) -> Tensor:
        import torch

        if block.dtype.name == "bfloat16":
            bits = np.array(block, order="C", copy=True).view(np.int16)
            host = torch.from_numpy(bits).view(torch.bfloat16)
        else:
            host = torch.from_numpy(np.array(block, order="C", copy=True))
        # Sent as stored (a quarter of the bytes for bfloat16), widened on the device.
        return host.to(self.device).to(torch.float64)

    def square(self, n: int) -> Tensor:
        import torch

        return torch.zeros((n, n), dtype=torch.float64, device=self.device)

    def vector(self, n: int) -> Tensor:
        import torch

        return torch.zeros(n, dtype=torch.float64, device=self.device)

    def column_mean(self, x: Tensor) -> Tensor:
        return x.mean(dim=0)

    def subtract_row(self, x: Tensor, row: Tensor) -> None:
        x.sub_(row)

    def square_sum(self, x: Tensor) -> float:
        flat = x.reshape(-1)
        return float(flat.dot(flat))

    def add_gram(self, c: Tensor, x: Tensor) -> None:
        width = x.shape[1]
        panel = max(_MIN_PANEL, -(-width // 8))
        for left in range(0, width, panel):
            right = min(left + panel, width)
            c[left:, left:right].addmm_(x[:, left:].T, x[:, left:right])

    def add_outer(self, c: Tensor, row: Tensor, weight: float) -> None:
        c.addr_(row, row, alpha=weight)

    def add(self, c: Tensor, other: Tensor) -> None:
        c.add_(other)

    def diagonal(self, c: Tensor) -> NDArray[np.float64]:
        return self.to_host(c.diagonal().clone())

    def eigen(self, c: Tensor) -> FullEigen:
        import torch

        values, vectors = torch.linalg.eigh(c, UPLO="L")
        return FullEigen(self.to_host(values.flip(0)), vectors)

    def matmul(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b

    def orthonormalise(self, x: Tensor) -> Tensor:
        import torch

        q, r = torch.linalg.qr(x)
        return q * torch.where(r.diagonal() < 0, -1.0, 1.0)

    def to_host(self, x: Tensor) -> NDArray[np.float64]:
        return np.asarray(x.cpu().numpy())


@dataclass(frozen=True, slots=True)
class FullEigen:
    """torch reaches no tridiagonal form, so every vector is computed and the wanted ones handed out."""

    values: NDArray[np.float64]
    all_vectors: Tensor

    def vectors(self, k: int) -> Tensor:
        return self.all_vectors[:, self.all_vectors.shape[1] - k :].flip(1)
