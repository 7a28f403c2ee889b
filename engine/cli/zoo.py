"""Commands about a zoo: ingest, info, verify."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.output import Meter, emit_json, parse_size, printable, say, size, table

if TYPE_CHECKING:
    from ingest.pipeline import IngestResult
    from ingest.plan import Plan
    from ingest.store.catalog import AdapterRecord
    from ingest.store.reader import Zoo

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
ZooPath = Annotated[str, typer.Argument(metavar="ZOO", help="The zoo's folder.")]


def ingest(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="Folders (any depth), files, quoted globs, text files of sources."),
    ],
    zoo: Annotated[str, typer.Option("--zoo", metavar="ZOO", help="The zoo; created, or appended to.")],
    base_model: Annotated[
        str | None,
        typer.Option("--base-model", help="The zoo's base; else that of the largest group that agrees."),
    ] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option("--alias", metavar="NAME", help="Another name of the base model; repeatable."),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option("--rename", metavar="OLD=NEW", help="Replace leading parts of layer names; repeatable."),
    ] = None,
    memory: Annotated[str, typer.Option("--memory", help="Data held at a time, such as 512MiB.")] = "1GiB",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, write nothing.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 if any adapter is refused.")] = False,
    json: Json = False,
) -> int:
    """Read LoRA adapters into a zoo of chunked zarr arrays."""
    from ingest.pipeline import Progress, run
    from ingest.plan import plan
    from ingest.store.writer import ZooWriter

    limit = parse_size(memory)
    _check_renames(rename or ())
    settings = {"base_model": base_model, "aliases": alias or (), "renames": rename or ()}

    def look() -> Plan:
        with Meter("plan", "sources") as meter:
            return plan(sources, zoo, progress=meter.update, **settings)  # type: ignore[arg-type]

    if dry_run:
        made = look()
        _print_plan(made, json)
        return 3 if strict and made.refused else 0
    with ZooWriter(zoo) as writer:
        made = look()
        with Meter("ingest", "bytes") as meter:

            def tell(p: Progress) -> None:
                meter.update(p.done_bytes, p.total_bytes, f"{p.stored} stored, {p.refused} refused")

            result = run(made, writer, memory=limit, progress=tell)
    _print_result(result, json)
    return 3 if strict and result.refused else 0


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
    accepted = [r for r in opened.adapters if r.status == "ok"]
    ranks = ", ".join(f"{n} of rank {r}" for r, n in sorted(Counter(a.rank for a in accepted).items()))
    print(f"base model  {opened.base_model or '(named by no adapter)'}")
    print(f"commit      {opened.commit.version}, {opened.commit.time}")
    print(f"adapters    {len(accepted)} ({ranks})")
    print(f"layers      {len(opened.layers)}\n")
    rows = [(m.layer, m.side, f"{m.rows} × {m.width}", m.dtype) for m in opened.matrices]
    table(("layer", "side", "rows × width", "dtype"), rows, right=(2,))
    print_refused([r for r in opened.adapters if r.status == "refused"])


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
        found = f"{len(result.problems)} problems" if result.problems else "whole"
        print(f"{result.adapters} adapters, {result.arrays} arrays, {size(result.nbytes)}: {found}")
    return 1 if result.problems else 0


def is_zoo(path: str) -> bool:
    """Whether a zoo's root document lies there."""
    from ingest.store.schema import ROOT

    return os.path.isfile(os.path.join(path, ROOT))


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


def _check_renames(renames: Sequence[str]) -> None:
    from ingest.errors import EigenzooError
    from ingest.names import Rename

    for text in renames:
        try:
            Rename.parse(text)
        except EigenzooError as error:
            raise typer.BadParameter(f"--rename: {error}") from error


def _print_plan(made: Plan, json: bool) -> None:
    if json:
        emit_json(
            {
                "zoo": made.zoo,
                "base_model": made.base.name,
                "adapters": [p.name for p in made.adapters],
                "refused": _refusals(made.refused),
                "known": made.known,
                "matrices": [
                    {
                        "layer": m.layer,
                        "side": m.side,
                        "dtype": m.dtype,
                        "rows": m.rows,
                        "width": m.width,
                        "bytes": m.nbytes,
                    }
                    for m in made.matrices
                ],
                "bytes": made.nbytes,
            }
        )
        return
    print(f"base model  {made.base.name or '(named by no adapter)'}")
    print(f"adapters    {len(made.adapters)} new, {made.known} in the zoo already, {len(made.refused)} refused")
    print(f"to store    {size(made.nbytes)}\n")
    rows = [(m.layer, m.side, f"{m.rows} × {m.width}", m.dtype, size(m.nbytes)) for m in made.matrices]
    table(("layer", "side", "rows × width", "dtype", "bytes"), rows, right=(2, 4))
    print_refused(made.refused)


def _print_result(result: IngestResult, json: bool) -> None:
    if json:
        emit_json(
            {
                "zoo": result.zoo,
                "version": result.version,
                "base_model": result.base_model,
                "added": list(result.added),
                "refused": _refusals(result.refused),
                "known": result.known,
                "bytes": result.nbytes,
                "seconds": round(result.seconds, 3),
            }
        )
        return
    print_refused(result.refused)
    known = f", {result.known} in the zoo already" if result.known else ""
    rate = size(result.nbytes / max(result.seconds, 1e-9))
    print(
        f"{len(result.added)} adapters added{known}, {len(result.refused)} refused; "
        f"{size(result.nbytes)} in {result.seconds:.1f} s ({rate}/s)"
    )
    say(f"zoo {result.zoo}, commit {result.version}, base model {result.base_model or '(named by no adapter)'}")


def _refusals(records: Sequence[AdapterRecord]) -> list[dict[str, str]]:
    return [{"name": r.name, "source": r.source, "reason": r.reason, "detail": r.detail} for r in records]


def print_refused(records: Sequence[AdapterRecord]) -> None:
    if records:
        print("\nrefused:")
        names = [printable(r.name) for r in records]
        width = max(map(len, names))
        for name, r in zip(names, records, strict=True):
            print(f"  {name.ljust(width)}  {r.reason}: {printable(r.detail)}")
        print()
