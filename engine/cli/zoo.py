"""Commands that look at a zoo: info, log, verify."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.output import Meter, counted, emit_json, printable, size, table

if TYPE_CHECKING:
    from ingest.store.catalog import AdapterRecord
    from ingest.store.reader import Zoo

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
ZooPath = Annotated[str, typer.Argument(metavar="ZOO", help="The zoo's folder or URL.")]


def info(zoo: ZooPath, json: Json = False) -> None:
    """List a zoo's adapters, refusals and matrices."""
    opened = open_zoo_here(zoo)
    if json:
        emit_json(
            {
                "base_model": opened.base_model,
                "adapters": [
                    {
                        "name": r.name,
                        "source": r.source,
                        "format": r.format,
                        "revision": r.revision,
                        "licence": r.licence,
                        "status": r.status,
                        "reason": r.reason,
                        "rank": r.rank,
                        "rows": r.rows,
                        "detail": r.detail,
                    }
                    for r in opened.adapters
                ],
                "matrices": [
                    {"layer": m.layer, "side": m.side, "rows": m.rows, "width": m.width, "dtype": m.dtype}
                    for m in opened.matrices
                ],
            }
        )
        return
    accepted, removed = opened.accepted, opened.removed
    ranks = ", ".join(f"{n} of rank {r}" for r, n in sorted(Counter(a.rank for a in accepted).items()))
    print(f"base model  {opened.base_model or '(named by no adapter)'}")
    print(f"commit      {opened.commit.version}, {opened.commit.time}")
    print(f"adapters    {len(accepted)}{f' ({ranks})' if ranks else ''}")
    if removed:
        print(f"removed     {len(removed)}")
    if retired := sum(a.retired * a.row_bytes for a in opened.commit.arrays):
        print(f"retired     {size(retired)} of removed and replaced adapters; `eigenzoo compact` frees them")
    print(f"layers      {len(opened.layers)}\n")
    if accepted:
        who = [(r.name, r.rank, r.rows, r.format, r.licence or "") for r in accepted]
        table(("adapter", "rank", "rows", "format", "licence"), who, right=(1, 2))
        print()
    rows = [(m.layer, m.side, f"{m.rows} × {m.width}", m.dtype) for m in opened.matrices]
    table(("layer", "side", "rows × width", "dtype"), rows, right=(2,))
    print_refused([r for r in opened.adapters if r.status == "refused"])


def log(zoo: ZooPath, json: Json = False) -> None:
    """List a zoo's commits, the last one first."""
    entries = [dataclasses.asdict(entry) for entry in reversed(open_zoo_here(zoo).commit.log)]
    if json:
        emit_json(entries)
        return
    counts = ("added", "replaced", "renewed", "removed", "refused", "rows")
    rows = [(e["version"], e["time"], e["action"], *(e[c] or "" for c in counts)) for e in entries]
    table(("commit", "time", "action", *counts), rows, right=(0, *range(3, 3 + len(counts))))


def verify(zoo: ZooPath, json: Json = False) -> int:
    """Check every stored value against its digest."""
    from ingest.verify import verify as check

    opened = open_zoo_here(zoo)
    with Meter("verify", "bytes") as meter:
        result = check(opened, progress=meter.update)
    if json:
        problems = [{"where": p.where, "what": p.what} for p in result.problems]
        emit_json({"ok": not problems, "problems": problems, "arrays": result.arrays, "adapters": result.adapters})
    else:
        for problem in result.problems:
            print(printable(f"{problem.where}: {problem.what}"))
        found = counted(len(result.problems), "problem") if result.problems else "whole"
        looked = f"{counted(result.adapters, 'adapter')}, {counted(result.arrays, 'array')}, {size(result.nbytes)}"
        print(f"{looked}: {found}")
    return 1 if result.problems else 0


def is_zoo(path: str) -> bool:
    """Whether a zoo's root document lies there."""
    from ingest.storage import open_storage
    from ingest.store.schema import ROOT

    storage = open_storage(path)
    return storage.exists(ROOT)


def open_zoo_here(path: str) -> Zoo:
    """A zoo, for a command that takes one; a run is told apart.

    Raises
    ------
    EigenzooError
        If there is no zoo at `path`.
    """
    from engine.run import RUN
    from ingest.errors import EigenzooError
    from ingest.store.reader import open_zoo

    if not is_zoo(path) and os.path.isfile(os.path.join(path, RUN)):
        raise EigenzooError(
            f"{path}: that is a run; give the zoo it was made from (`eigenzoo rank {path}` shows the run)"
        )
    return open_zoo(path)


def print_refused(records: Sequence[AdapterRecord]) -> None:
    if records:
        print("\nrefused:")
        names = [printable(r.name) for r in records]
        width = max(map(len, names))
        for name, r in zip(names, records, strict=True):
            print(f"  {name.ljust(width)}  {r.reason}: {printable(r.detail)}")
        print()
