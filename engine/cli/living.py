"""Commands that change a zoo in place: remove, compact."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.cli.output import Meter, counted, emit_json, printable, size
from engine.cli.zoo import Json, ZooPath, open_zoo_here


def remove(
    zoo: ZooPath,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Adapters, as `eigenzoo info` names them.")],
    json: Json = False,
) -> None:
    """Take adapters out of a zoo: gone at once for readers, stored until the zoo is compacted."""
    from ingest.remove import remove as carry_out

    open_zoo_here(zoo)
    result = carry_out(zoo, names)
    if json:
        emit_json(
            {
                "zoo": result.zoo,
                "version": result.version,
                "removed": list(result.removed),
                "already": list(result.already),
                "rows": result.rows,
                "retired_bytes": result.retired_bytes,
            }
        )
        return
    for name in result.already:
        print(printable(f"{name} had been removed before"))
    freed = size(result.retired_bytes)
    print(f"{counted(len(result.removed), 'adapter')} removed; `eigenzoo compact` would free {freed}")


def compact(
    zoo: ZooPath,
    compress: Annotated[
        bool | None,
        typer.Option("--compress/--no-compress", help="Chunks from now on compressed (lz4, bitshuffle), or raw."),
    ] = None,
    json: Json = False,
) -> None:
    """Rewrite a zoo without the rows of removed and replaced adapters, its catalogue in one piece."""
    from ingest.compact import compact as carry_out

    open_zoo_here(zoo)
    codec = None if compress is None else "lz4" if compress else ""
    with Meter("compact", "bytes") as meter:
        result = carry_out(zoo, codec=codec, progress=meter.update)
    if json:
        emit_json(
            {
                "zoo": result.zoo,
                "version": result.version,
                "adapters": result.adapters,
                "rows": result.rows,
                "dropped": result.dropped,
                "bytes": result.nbytes,
            }
        )
    elif result.nbytes or result.dropped:
        print(f"{counted(result.adapters, 'adapter')}, {size(result.nbytes)} written; {result.dropped} rows dropped")
    else:
        print(f"{counted(result.adapters, 'adapter')}; nothing to do")
