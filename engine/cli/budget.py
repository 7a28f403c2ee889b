"""The command that divides a byte budget among the matrices of a zoo: budget."""

from __future__ import annotations

import json as jsonlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.output import emit_json, parse_size, printable, say, size, table
from engine.cli.runs import RunPath, one_of, open_run_here, say_what_is_missing
from engine.cli.zoo import Json

if TYPE_CHECKING:
    from engine.analysis.budget import Budget
    from engine.rank.budget import Allocation
    from engine.run import Run

_TIMES = re.compile(r"(\d+(?:\.\d*)?)\s*[x×]")


def budget(
    run: RunPath,
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE", help="The K file to write, for `fit --k`.")],
    nbytes: Annotated[
        str | None,
        typer.Option("--bytes", metavar="SIZE", help="Of all that is kept: 50MiB, or 18x smaller than the factors."),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option("--max-error", metavar="E", help="Or: relative error of ΔW that is not to be exceeded, 0 to 1."),
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="f32, f16 or bf16: of the numbers kept.")] = "f16",
    json: Json = False,
) -> None:
    """Choose K per layer and side for a byte budget, so that ΔW is hurt least.

    Takes a run of ΔW space (`eigenzoo fit --space delta`). A component of a matrix costs width + Σ ranks numbers.
    What is made least is the sum of both spectra's tails, a bound on the squared error of ΔW.
    """
    from engine.analysis.budget import DTYPES
    from engine.analysis.budget import budget as find
    from engine.atomic import write_atomically
    from ingest.errors import EigenzooError

    one_of("--dtype", dtype, tuple(DTYPES))
    if (nbytes is None) == (max_error is None):
        raise typer.BadParameter("give either --bytes or --max-error")
    if max_error is not None and not 0 < max_error < 1:
        raise typer.BadParameter(f"--max-error {max_error}: give a number between 0 and 1")
    path = os.path.abspath(out)
    if os.path.isdir(path):
        raise EigenzooError(f"{path}: cannot be written (a folder); give the K file another path")
    opened = open_run_here(run)
    found = find(opened, nbytes=None if nbytes is None else _bytes(opened, nbytes), max_error=max_error, dtype=dtype)
    write_atomically(Path(path), jsonlib.dumps(found.table, indent=1).encode())
    if json:
        emit_json(_document(found, path))
    else:
        _print(found, path)
    say_what_is_missing(opened, opened.matrices)


def _bytes(run: Run, text: str) -> int:
    times = _TIMES.fullmatch(text.strip())
    if times is None:
        return parse_size(text, "--bytes")
    from engine.analysis.budget import stored_bytes
    from engine.analysis.run_rows import zoo_of

    factor = float(times[1])
    if factor < 1:
        raise typer.BadParameter(f"--bytes {text!r}: give how many times smaller, from 1x on, such as 18x")
    return int(stored_bytes(run, zoo_of(run)) / factor)


def _rows(found: Budget) -> Sequence[tuple[str, Allocation]]:
    return (("exact", found.exact), ("greedy", found.greedy), ("one K for all", found.uniform))


def _print(found: Budget, path: str) -> None:
    rows = []
    for name, allocation in _rows(found):
        k = sorted(allocation.k)
        span = f"{k[0]} to {k[-1]}, median {k[len(k) // 2]}"
        rows.append((name, size(allocation.nbytes), f"{found.curves.bound(allocation):.4%}", span))
    table(("allocation", "bytes", "error of ΔW at most", "K"), rows, right=(1, 2))
    if found.exact.gap > 0:
        say("not proven: the search was cut short, and another allocation may be better by a little")
    if not any(found.exact.k):
        say("no component fits so few bytes, and every K is 0; give more")
    print(f"\nK per matrix in {printable(path)}; `eigenzoo fit ZOO --space delta --k FILE --out RUN` takes it")


def _document(found: Budget, path: str) -> dict[str, Any]:
    return {
        "k_file": path,
        "dtype": found.curves.dtype,
        "energy": found.curves.energy,
        "k": found.table,
        "proven": found.exact.gap == 0.0,
        "allocations": {
            name: {
                "bytes": allocation.nbytes,
                "tail": allocation.tail,
                "error_bound": found.curves.bound(allocation),
                "k_min": min(allocation.k),
                "k_max": max(allocation.k),
            }
            for name, allocation in (("exact", found.exact), ("greedy", found.greedy), ("uniform", found.uniform))
        },
    }
