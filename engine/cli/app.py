"""The table of commands."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.cli import analyse, budget, delta, demo, heldout, ingest_, living, overlap, plan, rank, runs, seeds, zoo

app = typer.Typer(
    name="eigenzoo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"eigenzoo {version('eigenzoo')}")
        except PackageNotFoundError:  # run from a checkout that is not installed
            print("eigenzoo, not installed")
        raise typer.Exit


@app.callback()
def _top(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """The subspace that a zoo of LoRA adapters shares: ingest, fit, K.

    Every command takes --json and --debug. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refusals under --strict.
    """


for command, epilog in (
    (ingest_.ingest, "Example:  eigenzoo ingest adapters/ --zoo zoo.zarr"),
    (zoo.info, "Example:  eigenzoo info zoo.zarr"),
    (zoo.verify, "Example:  eigenzoo verify zoo.zarr"),
    (zoo.log, "Example:  eigenzoo log zoo.zarr"),
    (living.remove, "Example:  eigenzoo remove zoo.zarr some-adapter"),
    (living.compact, "Example:  eigenzoo compact zoo.zarr"),
    (plan.plan, "Example:  eigenzoo plan zoo.zarr --workers 2,8"),
    (runs.fit, "Example:  eigenzoo fit zoo.zarr --out run --k gavish-donoho"),
    (seeds.seeds, "Example:  eigenzoo seeds zoo.zarr"),
    (overlap.overlap, "Example:  eigenzoo overlap zoo.zarr --layers '*q_proj'"),
    (rank.rank, "Example:  eigenzoo rank run --rules all"),
    (runs.report, "Example:  eigenzoo report run --out report.html"),
    (delta.error, "Example:  eigenzoo error run"),
    (delta.leverage, "Example:  eigenzoo leverage run"),
    (budget.budget, "Example:  eigenzoo budget run --bytes 18x --out k.json"),
    (heldout.heldout, "Example:  eigenzoo heldout run"),
    (analyse.analyse, "Example:  eigenzoo analyse run"),
    (demo.demo, "Example:  eigenzoo demo --out demo"),
):
    app.command(epilog=epilog)(command)
