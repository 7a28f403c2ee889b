"""What a GPU does with a zoo's matrices, beside what it could do.

    python bench/gpu.py                          on the CUDA device that is there; some minutes
    python bench/gpu.py --device cuda:1 --width 8192
    python bench/gpu.py --cpu                    the same steps at a tiny size on the CPU: figures mean nothing

Four parts, each a key of the JSON that is written:

copy    bytes per second from the host: pageable and pinned memory by torch itself, and through the backend's `matrix`
gram    seconds of a pass over the rows for every kind of products, of one plain product xᵀx in the same dtype, and how
        far eigenvalues are off by the products' and sums' rounding, over the largest, on white noise and on spikes
eigen   seconds of one eigenproblem: all vectors, values alone, and as the engine does it, each with its error
zoo     seconds for several matrices, one after the other and two at a time on streams of their own

Rates of products are 2 · rows · width² per second for a whole product and rows · width² for a Gram, of which one
triangle is made. The best of several repeats. The machine has to be otherwise idle.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from engine.backends.protocol import Backend

Figures = dict[str, Any]

# Products, and the dtype that rows are stored in.
KINDS = (
    ("float64", "float32"),
    ("float64", "bfloat16"),
    ("float32", "float32"),
    ("float32", "bfloat16"),
    ("float16", "float16"),
    ("bfloat16", "bfloat16"),
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, …")
    parser.add_argument("--cpu", action="store_true", help="a tiny run on the CPU, to see that it runs")
    parser.add_argument("--rows", type=int, default=65536)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--matrices", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="by default bench/results/gpu-NAME.json")
    args = parser.parse_args(argv)
    try:
        import torch
    except ImportError:
        print("torch is not installed: nothing was measured", file=sys.stderr)
        return 1
    if args.cpu:
        args.device, args.rows, args.width, args.matrices, args.repeats = "torch", 1024, 128, 2, 1
    elif not torch.cuda.is_available():
        print("no CUDA device: nothing was measured (--cpu runs the same steps at a tiny size)", file=sys.stderr)
        return 1
    bench = Bench(args.device, args.rows, args.width, args.matrices, args.repeats)
    figures: Figures = {"machine": machine(args.device), "rows": args.rows, "width": args.width}
    for part in (bench.copy, bench.gram, bench.eigen, bench.zoo):
        figures[part.__name__] = part()
        print(part.__name__, json.dumps(figures[part.__name__], indent=1), flush=True)
    name = "".join(c if c.isalnum() else "-" for c in figures["machine"]["device"]).strip("-")
    out = args.out or ROOT / "bench" / "results" / f"gpu-{name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(f"written to {out}")
    return 0


def machine(device: str) -> Figures:
    """Names and versions."""
    import torch

    found: Figures = {"device": "CPU", "torch": torch.__version__, "python": platform.python_version()}
    if device != "torch":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "device": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "bytes": properties.total_memory,
            "cuda": torch.version.cuda,
        }
    return found


class Bench:
    """The parts, on one device."""

    def __init__(self, device: str, rows: int, width: int, matrices: int, repeats: int) -> None:
        from engine.backends import get_backend

        self.device, self.rows, self.width, self.matrices, self.repeats = device, rows, width, matrices, repeats
        self.on_gpu = device != "torch"
        self.b: Backend = get_backend(device)
        self.b.load()
        self.place = device if self.on_gpu else "cpu"

    def copy(self) -> Figures:
        import torch

        block = stored(noise(self.piece, self.width), "bfloat16")
        pageable = torch.zeros(block.nbytes, dtype=torch.uint8)
        there = torch.zeros(block.nbytes, dtype=torch.uint8, device=self.place)
        ways: dict[str, Callable[[], object]] = {
            "pageable": lambda: there.copy_(pageable),
            "matrix, as stored": lambda: self.b.matrix(block, "bfloat16"),
            "matrix, to float64": lambda: self.b.matrix(block),
        }
        if self.on_gpu:
            pinned = pageable.pin_memory()
            ways["pinned"] = lambda: there.copy_(pinned, non_blocking=True)
        return {way: block.nbytes / self.best(once) for way, once in ways.items()}

    def gram(self) -> list[Figures]:
        import torch

        found = []
        for products, dtype in KINDS:
            x = self.b.matrix(stored(noise(self.piece, self.width), dtype), products)
            c = self.b.square(self.width, "float64" if products == "float64" else "float32")
            n = self.piece

            def ours(c: Any = c, x: Any = x, products: str = products) -> None:
                self.b.add_gram(c, x, products)

            figures: Figures = {"products": products, "stored": dtype, "seconds": self.best(ours)}
            figures["rate"] = n * self.width**2 / figures["seconds"]
            plain = x.to(getattr(torch, products))
            figures["plain_seconds"] = self.best(lambda plain=plain: plain.T @ plain)
            figures["plain_rate"] = 2 * n * self.width**2 / figures["plain_seconds"]
            del plain, x, c
            for name, spikes in (("noise", 0.0), ("spikes", 3.0)):
                figures[f"error_{name}"] = self.rounding(products, dtype, spikes)
            found.append(figures)
        return found

    def rounding(self, products: str, dtype: str, spikes: float) -> float:
        """max |λ − λ of float64| / λ₁ of the moments of rows so multiplied."""
        from engine.reductions.moments import Moments

        rng = np.random.default_rng(1)
        width, rows = min(self.width, 1024), min(self.rows, 16384)
        data = noise(rows, width)
        data += np.float32(spikes) * (rng.standard_normal((rows, 4)) @ rng.standard_normal((4, width))).astype("f4")
        block = stored(data, dtype)
        values = []
        for kind in (products, "float64"):
            reduction = Moments(width, self.b, kind)
            state = reduction.finish(reduction.step(reduction.start(), block))
            values.append(self.b.eigenvalues(state.scatter, "float64"))
        return float(np.abs(values[0] - values[1]).max() / values[1][0])

    def eigen(self) -> list[Figures]:
        import torch

        from engine.eigen import solve_apart, top_pairs

        rng = np.random.default_rng(2)
        data = noise(2 * self.width, self.width)
        data += (rng.standard_normal((len(data), 4)) @ rng.standard_normal((4, self.width))).astype("f4")
        kept = self.b.square(self.width)
        self.b.add_gram(kept, self.b.matrix(data))
        self.b.mirror(kept)
        k = max(1, self.width // 64)

        def fresh() -> Any:
            return self.b.stack([kept])

        def apart(dtype: str) -> Any:
            found = solve_apart(self.b, fresh(), dtype=dtype)
            found.vectors(k)
            return found.values

        ways: dict[str, Callable[[], Any]] = {
            "eigh float64": lambda: torch.linalg.eigh(kept)[0],
            "eigvalsh float64": lambda: torch.linalg.eigvalsh(kept),
            "eigvalsh float32": lambda: torch.linalg.eigvalsh(kept.float()),
            f"ours float64, {k} vectors": lambda: apart("float64"),
            f"ours float32, {k} vectors": lambda: apart("float32"),
            f"ours top {k}": lambda: top_pairs(self.b, kept, k).values,
        }
        exact = np.sort(self.b.to_host(torch.linalg.eigvalsh(kept)))[::-1]
        found = []
        for way, once in ways.items():
            given = once()
            values = np.sort(np.asarray(given if isinstance(given, np.ndarray) else given.double().cpu()))[::-1]
            error = float(np.abs(values - exact[: len(values)]).max() / exact[0]) if len(values) else None
            found.append({"way": way, "seconds": self.best(once), "values": len(values), "error": error})
        return found

    def zoo(self) -> Figures:
        import engine

        blocks = [stored(noise(self.rows, self.width, seed), "bfloat16") for seed in range(2)]

        def one(i: int) -> Any:
            with self.b.stream():
                return engine.fit(blocks[i % 2], device=self.device)

        def at_a_time(threads: int) -> tuple[float, list[Any]]:
            with ThreadPoolExecutor(threads) as pool:
                begin = time.perf_counter()
                fitted = list(pool.map(one, range(self.matrices)))
                return time.perf_counter() - begin, fitted

        one(0)
        (serial, first), (double, second) = at_a_time(1), at_a_time(2)
        same = all(np.allclose(a.singular_values, c.singular_values) for a, c in zip(first, second, strict=True))
        return {"matrices": self.matrices, "one_at_a_time": serial, "two_at_a_time": double, "same": same}

    @property
    def piece(self) -> int:
        """Rows multiplied at once, as the engine has them."""
        from engine.reductions.moments import piece_rows

        return min(self.rows, piece_rows(self.width, "float32"))

    def best(self, once: Callable[[], object]) -> float:
        """Seconds of the quickest of several calls, after one to warm up."""
        seconds = []
        for _ in range(self.repeats + 1):
            self.wait()
            begin = time.perf_counter()
            once()
            self.wait()
            seconds.append(time.perf_counter() - begin)
        return min(seconds[1:])

    def wait(self) -> None:
        if self.on_gpu:
            import torch

            torch.cuda.synchronize(self.device)


def noise(rows: int, width: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal((rows, width), np.float32)


def stored(data: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    import ml_dtypes

    return data.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


if __name__ == "__main__":
    sys.exit(main())
