"""Rates of one task on a device, and from them seconds.

A task on a CPU has one BLAS thread, so rates are those of one core, and seconds are a core's. What is here is
documented, not measured where you are: `engine.plan.calibration` does that. The shape of an eigenproblem's time over
its order is taken from here always, its size from a measurement at an order of `REFERENCE`: a reduction to tridiagonal
form is half made of products with a vector, which run at the memory's pace once the matrix has outgrown the caches, so
the time does not simply follow the cube of the order.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from engine.backends.protocol import PRODUCTS
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from engine.plan.work import Eigenproblem, Work

# Orders at which eigenproblems are timed, by kind: torch's values alone take another, quicker way from 1536 on in
# float64 and from 2048 on in float32.
REFERENCE = {"whole": 1024, "float64": 1536, "float32": 2048, "vectors": 1024}
KINDS = tuple(REFERENCE)
# How far seconds may be off, as a factor: of rates measured where the work is done, and of others.
MEASURED_WITHIN, ASSUMED_WITHIN = 1.5, 3.0

# Processor seconds of one thread, measured on a server processor with AVX-512 and AMX.
CURVES: dict[str, dict[int, float]] = {
    "whole": {128: 0.0004, 256: 0.0018, 512: 0.0138, 1024: 0.0731, 1536: 0.254, 2048: 0.595, 3072: 1.89, 4096: 4.42},
    "float64": {128: 0.0003, 256: 0.0017, 512: 0.0100, 1024: 0.0795, 1536: 0.138, 2048: 0.290, 3072: 0.87, 4096: 1.86},
    "float32": {128: 0.0003, 256: 0.0013, 512: 0.0067, 1024: 0.0432, 1536: 0.156, 2048: 0.204, 3072: 0.60, 4096: 1.22},
    "vectors": {128: 0.0007, 256: 0.0033, 512: 0.0206, 1024: 0.142, 1536: 0.577, 2048: 1.17, 3072: 4.03, 4096: 10.2},
}
# Rates that are tables, and what may be in them.
_TABLES = {"values_per_s": set(PRODUCTS), "gram_flops_per_s": set(PRODUCTS), "eigen_us": set(KINDS)}


@dataclass(frozen=True, slots=True)
class Rates:
    """What one task does in a second.

    Attributes
    ----------
    device : name of the backend.
    source : where the numbers are from, for people.
    measured : whether they were measured, where `source` says; else they are assumed.
    values_per_s : by products: stored values widened, shifted and summed, apart from their product.
    gram_flops_per_s : by products: of a product of which one triangle is made, n · d² for n rows.
    thin_flops_per_s : of float64 products of a large matrix with a few dozen vectors.
    eigen_us : by `KINDS`: microseconds of an eigenproblem of order `REFERENCE`, see `engine.plan.work`.
    read_bytes_per_s : of rows from storage; they are read ahead, while others are folded.
    copy_bytes_per_s : of float64 values through memory.
    network_bytes_per_s : between workers.
    start_us : what a worker process needs to have its libraries imported.
    """

    device: str
    source: str
    measured: bool
    values_per_s: Mapping[str, int]
    gram_flops_per_s: Mapping[str, int]
    thin_flops_per_s: int
    eigen_us: Mapping[str, int]
    read_bytes_per_s: int
    copy_bytes_per_s: int
    network_bytes_per_s: int
    start_us: int

    @property
    def within(self) -> float:
        """Factor by which seconds may be off."""
        return MEASURED_WITHIN if self.measured else ASSUMED_WITHIN

    def fold_seconds(self, work: Work) -> float:
        """Seconds of reading and folding all rows in one task: the slower of the two, as reads are ahead."""
        by = work.products
        computing = (
            work.values / _of(self.values_per_s, by)
            + work.fold_gram / _of(self.gram_flops_per_s, by)
            + work.fold_thin / self.thin_flops_per_s
            + sum(map(self.eigen_seconds, work.fold_eigen))
        )
        return max(computing, work.bytes_read / self.read_bytes_per_s)

    def join_seconds(self, work: Work, parts: int) -> float:
        """Seconds of joining the states of as many tasks: sent, copied and added, one level of a tree after another."""
        if min(parts, work.n_ranges) <= 1:
            return 0.0
        levels = (min(parts, work.n_ranges) - 1).bit_length()
        sent = (work.state_bytes + work.sent_bytes) / self.network_bytes_per_s
        return work.most_passes * levels * (sent + 3 * work.state_bytes / self.copy_bytes_per_s)

    def solve_seconds(self, work: Work) -> float:
        """Seconds of the rest, which one task has to do."""
        return (
            work.solve_gram / self.gram_flops_per_s["float64"]
            + work.solve_thin / self.thin_flops_per_s
            + 8 * work.solve_values / self.copy_bytes_per_s
            + sum(map(self.eigen_seconds, work.solve_eigen))
        )

    def eigen_seconds(self, problem: Eigenproblem) -> float:
        """Seconds of an eigenproblem."""
        return problem.times * self.eigen_us[problem.kind] * 1e-6 * relative(problem.kind, problem.order)


def _of(table: Mapping[str, int], products: str) -> int:
    """16-bit operands that have no rate of their own are widened to float32."""
    return table.get(products, table["float32"])


def relative(kind: str, order: int) -> float:
    """Time of an eigenproblem over that of its kind's `REFERENCE`: the curve, and the cube beyond its ends."""
    return _on_curve(kind, order) / CURVES[kind][REFERENCE[kind]]


def _on_curve(kind: str, order: int) -> float:
    curve = CURVES[kind]
    orders = sorted(curve)
    if order <= orders[0]:
        return curve[orders[0]] * (order / orders[0]) ** 2
    if order >= orders[-1]:
        return curve[orders[-1]] * (order / orders[-1]) ** 3
    above = next(o for o in orders if o >= order)
    below = orders[orders.index(above) - 1]
    share = math.log(order / below) / math.log(above / below)
    return float(curve[below] * (curve[above] / curve[below]) ** share)


_CPU = "assumed: one core of a server processor with AVX-512"
DEFAULTS: dict[str, Rates] = {
    "cpu": Rates(
        device="cpu",
        source=_CPU,
        measured=False,
        values_per_s={"float64": 300 * 10**6, "float32": 600 * 10**6},
        gram_flops_per_s={"float64": 85 * 10**9, "float32": 190 * 10**9},
        thin_flops_per_s=45 * 10**9,
        eigen_us={"whole": 75_000, "float64": 254_000, "float32": 595_000, "vectors": 225_000},
        read_bytes_per_s=600 * 10**6,
        copy_bytes_per_s=8 * 10**9,
        network_bytes_per_s=500 * 10**6,
        start_us=1_500_000,
    ),
    "torch": Rates(
        device="torch",
        source=_CPU + " and AMX, with torch",
        measured=False,
        values_per_s={"float64": 300 * 10**6, "float32": 600 * 10**6, "bfloat16": 850 * 10**6},
        gram_flops_per_s={"float64": 80 * 10**9, "float32": 190 * 10**9, "bfloat16": 360 * 10**9},
        thin_flops_per_s=70 * 10**9,
        eigen_us={"whole": 142_000, "float64": 138_000, "float32": 204_000, "vectors": 142_000},
        read_bytes_per_s=600 * 10**6,
        copy_bytes_per_s=8 * 10**9,
        network_bytes_per_s=500 * 10**6,
        start_us=3_000_000,
    ),
    # From data sheets and publications, not from a run: tensor cores at about half their peak, cuSOLVER's eigensolver
    # at about a tenth of the float64 rate, rows sent from pageable host memory at 6 GB/s, counted for 2 bytes each.
    "cuda": Rates(
        device="cuda",
        source="assumed, not measured: an NVIDIA H100 with host memory at 6 GB/s",
        measured=False,
        values_per_s={"float64": 750 * 10**6, "float32": 1_500 * 10**6, "bfloat16": 3 * 10**9, "float16": 3 * 10**9},
        gram_flops_per_s={
            "float64": 35 * 10**12,
            "float32": 35 * 10**12,
            "bfloat16": 350 * 10**12,
            "float16": 350 * 10**12,
        },
        thin_flops_per_s=5 * 10**12,
        eigen_us={"whole": 60_000, "float64": 120_000, "float32": 100_000, "vectors": 60_000},
        read_bytes_per_s=600 * 10**6,
        copy_bytes_per_s=2 * 10**12,
        network_bytes_per_s=1_000 * 10**6,
        start_us=5_000_000,
    ),
}


def default_rates(device: str) -> Rates:
    """The documented rates for a backend's name: "cuda:1" and "cupy" have those of "cuda"."""
    if device in ("cpu", "numpy"):
        return DEFAULTS["cpu"]
    return DEFAULTS["torch" if device == "torch" else "cuda"]


def save_rates(path: str | os.PathLike[str], rates: Mapping[str, Rates]) -> None:
    """Write rates by device as JSON, for `load_rates`, or to be edited."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump({device: asdict(each) for device, each in rates.items()}, file, indent=1)
        file.write("\n")


def load_rates(path: str | os.PathLike[str]) -> dict[str, Rates]:
    """Rates by device. What a device's entry leaves out is as in the documented ones.

    Raises
    ------
    EigenzooError
        For a file that cannot be read, an unknown name, or a rate that is no number above 0.
    """
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except (OSError, ValueError) as problem:
        raise EigenzooError(f"rates: {os.fspath(path)} cannot be read as JSON ({problem})") from problem
    if not isinstance(document, dict) or not all(isinstance(each, dict) for each in document.values()):
        raise EigenzooError(f"rates: {os.fspath(path)} must be {{device: {{rate: number}}}}, as --save writes it")
    return {device: _read_one(device, given, os.fspath(path)) for device, given in document.items()}


def _read_one(device: str, given: dict[str, Any], path: str) -> Rates:
    measured = given.get("measured", bool(given)) is True
    source = f"{'' if measured else 'assumed, '}from {path}"
    base = asdict(default_rates(device)) | {"device": device, "source": source, "measured": measured}
    known = {field.name for field in fields(Rates)}
    for name, value in given.items():
        if name not in known:
            raise EigenzooError(f"rates: {path}: {name!r} of {device!r} is unknown; give {', '.join(sorted(known))}")
        if name in _TABLES:
            if not isinstance(value, dict):
                raise EigenzooError(f"rates: {path}: {name} is {value!r}; it must be a table, as --save writes it")
            unknown = sorted(value.keys() - _TABLES[name])
            if unknown:
                raise EigenzooError(f"rates: {path}: {unknown[0]!r} of {name} is unknown")
            base[name] = base[name] | {key: _positive(each, f"{name}.{key}", path) for key, each in value.items()}
        elif name.endswith(("_per_s", "_us")):
            base[name] = _positive(value, name, path)
        elif name not in ("device", "source", "measured"):  # of where they were measured
            base[name] = value
    return Rates(**base)


def _positive(value: Any, name: str, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise EigenzooError(f"rates: {path}: {name} is {value!r}; give a number above 0")
    return max(1, int(value))
