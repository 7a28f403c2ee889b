"""`eigenzoo demo`: the main job on a zoo that it writes itself."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Annotated

import typer

from engine.cli.output import Meter, emit_json, say, size, table
from engine.cli.runs import matrix_json, show_k
from engine.cli.zoo import Json, print_refused
from ingest.errors import EigenzooError

MARKER = ".eigenzoo-demo"
PARTS = ("adapters", "zoo.zarr", "run")


def demo(
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Where the demo's files go.")] = "demo",
    json: Json = False,
) -> int:
    """Do the main job on a zoo written for it.

    200 adapters with a planted subspace and twelve broken ones: ingest, fit, report.
    """
    from engine.report.page import write_report
    from engine.runners.dask_ import DaskRunner
    from engine.zoo_fit import Progress, fit_zoo
    from ingest import synthetic
    from ingest.pipeline import ingest

    folder = Path(out).absolute()
    make_room(folder)
    planted = synthetic.write(folder / "adapters")
    say(f"wrote {planted.sound} sound adapters and {len(planted.refused)} broken ones into {folder / 'adapters'}")

    with Meter("ingest", "bytes") as meter:
        result = ingest(
            [folder / "adapters"],
            folder / "zoo.zarr",
            progress=lambda p: meter.update(p.done_bytes, p.total_bytes),
        )
    say(f"ingested {len(result.added)} adapters, {size(result.nbytes)}, into {result.zoo}")

    with DaskRunner(workers=min(2, os.cpu_count() or 1)) as runner, Meter("fit", "matrices") as meter:
        if runner.dashboard_link:
            say(f"dask: dashboard {runner.dashboard_link}")

        def tell(p: Progress) -> None:
            meter.update(p.done, p.total)

        run = fit_zoo(result.zoo, folder / "run", runner=runner, progress=tell)
    page = write_report(run, folder / "report.html", title="eigenzoo demo", planted=planted.k)

    matrices = run.matrices
    found = all(m.k["gavish_donoho"] == planted.k[m.key] for m in matrices)
    reasons = {r.name: r.reason for r in result.refused}
    right = reasons == planted.refused
    if json:
        emit_json(
            {
                "matrices": [{**matrix_json(m), "planted_k": planted.k[m.key]} for m in matrices],
                "refused": [{"name": r.name, "reason": r.reason, "detail": r.detail} for r in result.refused],
                "planted_found": found,
                "refusals_right": right,
                "report": str(page),
            }
        )
    else:
        table(
            ("layer", "side", "rows × width", "planted K", "K Gavish–Donoho", "K for 80 %", "total variance"),
            [
                (
                    m.layer,
                    m.side,
                    f"{m.rows} × {m.width}",
                    planted.k[m.key],
                    show_k(m.k["gavish_donoho"]),
                    show_k(m.k["ev_0.8"]),
                    f"{m.total_variance:.4f}",
                )
                for m in matrices
            ],
            right=range(2, 7),
        )
        print_refused(result.refused)
        print(f"planted K found in {'every' if found else 'NOT every'} matrix; report: {page}")
    return 0 if found and right else 1


def make_room(folder: Path) -> None:
    """Mark a new or empty folder as a demo's, or clear one that is marked.

    Raises
    ------
    typer.BadParameter
        For anything else: what lies there is not a demo's to delete.
    """
    marker = folder / MARKER
    if not marker.is_file():
        if folder.exists() and not folder.is_dir():
            raise typer.BadParameter(f"--out {folder}: a file; give a new path")
        if folder.exists() and any(folder.iterdir()):
            raise typer.BadParameter(f"--out {folder}: a folder with files that no demo wrote; give a new path")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            marker.write_text("`eigenzoo demo` wrote this folder and may clear it.\n", encoding="utf-8")
        except OSError as error:
            raise EigenzooError(f"{folder}: cannot write there ({error.strerror}); give another --out") from error
    for part in PARTS:
        if (folder / part).is_symlink():
            (folder / part).unlink()  # not what it points to
        elif (folder / part).exists():
            shutil.rmtree(folder / part)
