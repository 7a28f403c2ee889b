"""The command that reads adapters into a zoo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from engine.cli.output import Meter, counted, emit_json, parse_size, say, size, table
from engine.cli.zoo import Json, print_refused

if TYPE_CHECKING:
    from ingest.pipeline import IngestResult
    from ingest.planned import Plan
    from ingest.store.catalog import AdapterRecord

CONVERSIONS = ("loha", "lokr")


def ingest(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Folders (any depth), files, quoted globs; on the Hub ORG/NAME[@REVISION], hub:USER, "
            "hub:collection/USER/SLUG, hub:base/ORG/MODEL; text files of sources.",
        ),
    ],
    zoo: Annotated[str, typer.Option("--zoo", metavar="ZOO", help="Folder or URL (s3://…); created, or appended to.")],
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
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Open .bin and .pt files, by torch's weights-only load.")
    ] = False,
    ignore_magnitude: Annotated[
        bool, typer.Option("--ignore-magnitude", help="Take DoRA adapters without their magnitudes.")
    ] = False,
    convert: Annotated[
        list[str] | None,
        typer.Option("--convert", metavar="loha|lokr", help="Rewrite such adapters exactly as LoRA; repeatable."),
    ] = None,
    unet_config: Annotated[
        str | None,
        typer.Option("--unet-config", metavar="FILE", help="A UNet's config.json, for SDXL keys as SGM names them."),
    ] = None,
    readmit: Annotated[bool, typer.Option("--readmit", help="Take back adapters that were removed.")] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Read again files that were refused for their values (NaN, wrong bytes).")
    ] = False,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Follow links that lead out of a source folder.")
    ] = False,
    keep_downloads: Annotated[
        bool, typer.Option("--keep-downloads", help="Leave what is downloaded in the Hub's cache.")
    ] = False,
    staging: Annotated[
        str | None, typer.Option("--staging", metavar="DIR", help="Where downloads and conversions lie meanwhile.")
    ] = None,
    compress: Annotated[
        bool, typer.Option("--compress", help="For slow links: a new zoo's chunks are compressed (lz4, bitshuffle).")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, write nothing.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 if any adapter is refused.")] = False,
    json: Json = False,
) -> int:
    """Read LoRA adapters into a zoo of chunked zarr arrays."""
    from ingest.pipeline import Progress
    from ingest.pipeline import ingest as carry_out
    from ingest.plan import plan
    from ingest.settings import Settings

    _check_renames(rename or ())
    conversions = [name.lower() for name in convert or ()]
    _check_conversions(conversions)
    settings = Settings(
        base_model=base_model,
        aliases=alias or (),
        renames=rename or (),
        allow_pickle=allow_pickle,
        ignore_magnitude=ignore_magnitude,
        convert=frozenset(conversions),  # type: ignore[arg-type]
        unet_config=unet_config,
        readmit=readmit,
        retry=retry,
        follow_links=follow_links,
        keep_downloads=keep_downloads,
        staging=staging,
        memory=parse_size(memory),
        codec="lz4" if compress else "",
    )
    if dry_run:
        with Meter("plan", "sources") as meter:
            made = plan(sources, zoo, settings, progress=meter.update)
        _print_plan(made, json)
        return 3 if strict and made.refused else 0
    with Meter("plan", "sources") as looking, Meter("ingest", "bytes") as meter:

        def tell(p: Progress) -> None:
            looking.close()
            meter.update(p.done_bytes, p.total_bytes, f"{p.stored} stored, {p.refused} refused")

        result = carry_out(sources, zoo, settings, progress=tell, looked=looking.update)
    _print_result(result, json)
    if not (result.added or result.replaced or result.renewed or result.known):
        return 3 if strict else 1  # nothing of all that was asked for is in the zoo
    return 3 if strict and result.refused else 0


def _check_conversions(wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in CONVERSIONS:
            raise typer.BadParameter(f"--convert {name!r}: give one of {', '.join(CONVERSIONS)}")


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
    newer = sum(p.replaces is not None for p in made.adapters)
    counts = f"{len(made.adapters) - newer} new, {newer} changed, {made.known} in the zoo already"
    print(f"adapters    {counts}, {len(made.refused)} refused")
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
                "replaced": list(result.replaced),
                "renewed": list(result.renewed),
                "refused": _refusals(result.refused),
                "known": result.known,
                "bytes": result.nbytes,
                "seconds": round(result.seconds, 3),
            }
        )
        return
    print_refused(result.refused)
    counts = (
        (len(result.replaced), "replaced by a newer version"),
        (len(result.renewed), "with new texts only"),
        (result.known, "in the zoo already"),
        (len(result.refused), "refused"),
    )
    rest = "".join(f", {n} {what}" for n, what in counts if n or what == "refused")
    rate = size(result.nbytes / max(result.seconds, 1e-9))
    print(
        f"{counted(len(result.added), 'adapter')} added{rest}; "
        f"{size(result.nbytes)} in {result.seconds:.1f} s ({rate}/s)"
    )
    say(f"zoo {result.zoo}, commit {result.version}, base model {result.base_model or '(named by no adapter)'}")


def _refusals(records: Sequence[AdapterRecord]) -> list[dict[str, str]]:
    return [{"name": r.name, "source": r.source, "reason": r.reason, "detail": r.detail} for r in records]
