"""Commands about a run: fit, report; and how a run is printed."""

from __future__ import annotations

import contextlib
import json as jsonlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli.output import Meter, counted, emit_json, parse_size, say, size, table
from engine.cli.zoo import Json, ZooPath, is_zoo, open_zoo_here

if TYPE_CHECKING:
    from engine.job import Job
    from engine.run import MatrixResult, Run
    from engine.runners.dask_ import DaskRunner
    from engine.selection import KByMatrix

RunPath = Annotated[str, typer.Argument(metavar="RUN", help="A run directory, as made by `eigenzoo fit`.")]


def fit(
    zoo: ZooPath,
    out: Annotated[str, typer.Option("--out", metavar="RUN", help="The run directory; a second start continues it.")],
    layers: Annotated[str, typer.Option("--layers", metavar="GLOB", help="Layers to fit; commas between globs.")] = "*",
    side: Annotated[str, typer.Option("--side", help="A, B or both.")] = "both",
    space: Annotated[
        str, typer.Option("--space", help="factor: A and B as stored; delta: what they make of the weights, ΔW.")
    ] = "factor",
    center: Annotated[
        str | None,
        typer.Option("--center", help="feature (subtract the mean row; the default) or none (always so in ΔW space)."),
    ] = None,
    k: Annotated[
        str,
        typer.Option(
            "--k",
            help="A rule (`eigenzoo rank --list-rules`), such as gavish-donoho or ev:0.8, a number, or a JSON file "
            "{layer: {side: K}}.",
        ),
    ] = "gavish-donoho",
    method: Annotated[
        str, typer.Option("--method", help="auto, moments, dual, krylov, randomized, incremental or tsqr; see `plan`.")
    ] = "auto",
    spectrum: Annotated[str, typer.Option("--spectrum", help="full, or top: the largest values alone.")] = "full",
    refine: Annotated[
        bool | None,
        typer.Option("--refine/--no-refine", help="One more pass for small singular values; by default where needed."),
    ] = None,
    products: Annotated[str, typer.Option("--products", help="auto, or the least precise, such as float64.")] = "auto",
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler",
            metavar="ADDRESS",
            help="A running Dask cluster; else DASK_SCHEDULER_ADDRESS, else one here.",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes of a cluster started here.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", help="Memory of all workers together, such as 8GiB.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, torch, cuda, cuda:1, cupy, cupy:1.")] = "auto",
    performance_report: Annotated[
        str | None,
        typer.Option("--performance-report", metavar="FILE", help="Save Dask's page of what every worker did when."),
    ] = None,
    seeds: Annotated[
        str,
        typer.Option("--seeds", help="Adapters that share a random start: all, one-each, subtract, or group:N alone."),
    ] = "all",
    restart: Annotated[bool, typer.Option("--restart", help="Discard what the run directory holds.")] = False,
    keep_state: Annotated[
        bool,
        typer.Option(
            "--keep-state", help="Keep moments in the run: later starts read only adapters that came or went."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Fit every matrix of a zoo: components, spectrum, K."""
    from engine.backends import DEVICES, form_of
    from engine.backends.protocol import PRODUCTS
    from engine.delta import SPACES
    from engine.job import open_job
    from engine.methods import METHODS, SPECTRA
    from engine.run import open_run
    from engine.selection import SIDES
    from engine.subspace import CENTERS
    from engine.zoo_fit import Progress, run_job

    one_of("--side", side, SIDES)
    one_of("--space", space, SPACES)
    seeds_as_typed(seeds)
    if center is not None:
        one_of("--center", center, CENTERS)
    one_of("--method", method, ("auto", *METHODS))
    one_of("--spectrum", spectrum, SPECTRA)
    one_of("--products", products, ("auto", *PRODUCTS))
    one_of("--device", form_of(device), DEVICES)
    with open_job(
        open_zoo_here(zoo),
        out,
        layers=layers,
        side=side,
        center=center,
        k=parse_k(k),
        method=method,
        spectrum=spectrum,
        refine=refine,
        products=products,
        space=space,
        seeds=seeds,
        device=device,
        restart=restart,
        keep_state=keep_state,
        notice=say,
    ) as job:
        fitted: list[MatrixResult] = []
        if job.waiting:
            with (
                _cluster(job, scheduler, workers, memory, performance_report) as (runner, share),
                Meter("fit", "matrices") as meter,
            ):

                def tell(p: Progress) -> None:
                    fitted.extend([p.last] if p.last else [])
                    meter.update(p.done, p.total, f"{p.last.layer} {p.last.side}" if p.last else "")

                run_job(job, runner, memory=share, progress=tell)
        run = open_run(job.path)
    print_run(run, json, {"rows_read": sum(m.rows_read or 0 for m in fitted)})
    if job.states is not None:
        say(what_was_read(job, fitted))
    say(f"run {run.path}")


def report(
    run: RunPath,
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE", help="The page to write.")] = "report.html",
    json: Json = False,
) -> None:
    """Write an HTML page: K by every rule, spectra, what `analyse` found, who was refused."""
    from engine.report.page import write_report

    opened = open_run_here(run)
    path = os.path.abspath(write_report(opened, out))
    say_what_is_missing(opened, opened.matrices)
    if json:
        emit_json({"report": path})
    else:
        print(path)


def one_of(option: str, value: str, known: Sequence[str]) -> None:
    """Refuse a value that is not in the table.

    Raises
    ------
    typer.BadParameter
        With what may be chosen.
    """
    if value not in known:
        raise typer.BadParameter(f"{option} {value!r}: choose {', '.join(known[:-1])} or {known[-1]}")


def seeds_as_typed(text: str) -> None:
    """Refuse another option than there is for shared starts.

    Raises
    ------
    typer.BadParameter
        With what may be chosen.
    """
    from engine.starts.seed_rows import parse_seeds
    from ingest.errors import EigenzooError

    try:
        parse_seeds(text)
    except EigenzooError as error:
        raise typer.BadParameter(f"--{error}") from error


def parse_k(text: str) -> str | KByMatrix:
    """A rule as typed, or the content of a K file.

    Raises
    ------
    typer.BadParameter
        For an unknown rule or a file that is not {layer: {side: K}}.
    """
    from engine.rank import parse_rule
    from ingest.errors import EigenzooError

    if os.path.isfile(text):
        try:
            with open(text, encoding="utf-8") as file:
                table_of_k = jsonlib.load(file)
        except (OSError, ValueError) as error:
            raise typer.BadParameter(f"--k {text}: cannot be read as JSON ({error})") from error
        if not isinstance(table_of_k, dict) or not all(isinstance(v, dict) for v in table_of_k.values()):
            raise typer.BadParameter(
                f'--k {text}: give {{layer: {{side: K}}}}, as in {{"layers.0.q_proj": {{"A": 8}}}}'
            )
        return table_of_k
    try:
        return parse_rule(text).name
    except EigenzooError as error:
        hint = "; there is no such file" if text.endswith(".json") else ""
        raise typer.BadParameter(f"--{error}{hint}") from error


def open_run_here(path: str) -> Run:
    """A run, for a command that takes one; a zoo is told apart.

    Raises
    ------
    EigenzooError
        If there is no run at `path`.
    """
    from engine.run import RUN, open_run
    from ingest.errors import EigenzooError

    if is_zoo(path) and not os.path.exists(os.path.join(path, RUN)):
        raise EigenzooError(f"{path}: that is a zoo; give a run, as made by `eigenzoo fit {path} --out RUN`")
    return open_run(path)


@contextlib.contextmanager
def _cluster(
    job: Job, scheduler: str | None, workers: int | None, memory: str | None, report: str | None
) -> Iterator[tuple[DaskRunner, int | None]]:
    """A Dask runner and the bytes a task may use; a local cluster is sized to the machine and the memory."""
    import dask
    import psutil

    from engine.backends import choose
    from engine.job import within
    from engine.runners.cluster import IDLE_BYTES, n_gpus
    from engine.runners.dask_ import DaskRunner
    from ingest.errors import EigenzooError

    limit = parse_size(memory) if memory else int(psutil.virtual_memory().available * 0.8)
    if scheduler is None and not dask.config.get("scheduler-address", None):
        job = within(job, limit // (workers or 1), quiet=True)
    needed = max(each.plan.process_bytes for each in job.waiting)
    tasks = sum(each.plan.n_tasks for each in job.waiting)
    if workers is None:
        workers = max(1, min(len(os.sched_getaffinity(0)), tasks, limit // (needed + IDLE_BYTES)))
        if choose(job.device).startswith(("cuda", "cupy")):
            workers = max(1, min(workers, n_gpus(choose(job.device))))  # several would share one GPU's memory
    with DaskRunner(scheduler, workers=workers, device=choose(job.device)) as runner:
        here = runner.n_workers
        dashboard = f"dashboard {runner.dashboard_link}" if runner.dashboard_link else ""
        if runner.is_local:
            say(f"dask: {counted(here, 'worker')} here, tasks of up to {size(needed)}")
            for line in (runner.note, dashboard):
                if line:
                    say(f"dask: {line}")
            share: int | None = limit // max(1, here)
        else:
            say(f"dask: {counted(here, 'worker')}{', ' if dashboard else ''}{dashboard}")
            share = parse_size(memory) // max(1, here) if memory else None
        share = min((most for most in (share, runner.task_bytes) if most is not None), default=None)
        try:
            fitting = within(job, share, quiet=True)
        except EigenzooError:
            for each in job.waiting:  # a worker's own limit is said as such
                runner.check_memory(each.plan.process_bytes, each.name)
            raise
        for each in fitting.waiting:
            runner.check_memory(each.plan.process_bytes, each.name)
        with runner.performance_report(report) if report else contextlib.nullcontext():
            yield runner, share


def what_was_read(job: Job, fitted: Sequence[MatrixResult]) -> str:
    """A line on how many rows a start read, of how many there are, in a run that keeps states."""
    from engine.kept.updates import kept_bytes

    rows = sum(m.rows for m in job.done) + sum(each.info.rows for each in job.waiting)
    read = sum(m.rows_read or 0 for m in fitted)
    updated = sum(1 for m in fitted if m.rows_read is not None and m.rows_read < m.rows)
    matrices = "1 matrix" if updated == 1 else f"{updated} matrices"
    said = f"read {read:,} of {rows:,} rows ({matrices} updated, {len(fitted) - updated} read whole)"
    return f"{said}; kept states take {size(kept_bytes(job.path))}"


def print_run(run: Run, json: bool, more: Mapping[str, Any] | None = None) -> None:
    """The table of a run, or its JSON (with `more` in it), and what the run still lacks."""
    from engine.run import rule_key

    results = run.matrices
    if json:
        emit_json({"matrices": [matrix_json(r) for r in results], "planned": run.planned(results), **(more or {})})
    else:
        rows = [
            (
                r.layer,
                r.side,
                f"{r.rows} × {r.width}",
                show_k(r.k.get("gavish_donoho")),
                show_k(r.k.get("ev_0.8")),
                show_k(r.k.get(rule_key(r.chosen), r.n_components)),
                f"{r.total_variance:.4g}",
                show_method(r),
                r.note,
            )
            for r in results
        ]
        header = ("layer", "side", "rows × width", "K gavish_donoho", "K ev_0.8", "K kept")
        table((*header, "total variance", "method", "note"), rows, right=range(2, 7))
        k = run.record.settings.k
        print(f"\nK kept {f'by {k}' if isinstance(k, str) else 'as given per matrix'}{in_space(run)}{of_starts(run)}")
    say_what_is_missing(run, results)


def in_space(run: Run) -> str:
    """That a run is one of ΔW space, for the end of a line; nothing where it is one of the factors."""
    return ", in ΔW space" if run.record.settings.space == "delta" else ""


def of_starts(run: Run) -> str:
    """What a run did about shared starts, for the end of a line; nothing where it took adapters as they are."""
    seeds = run.record.settings.seeds
    said = {"all": "", "one-each": ", one adapter per random start", "subtract": ", shared starts subtracted"}
    return said.get(seeds, f", seed {seeds.replace(':', ' ')} alone")


def say_what_is_missing(run: Run, results: Sequence[MatrixResult]) -> None:
    """A line where fewer matrices are finished than were asked for."""
    planned = run.planned(results)
    if len(results) < planned:
        again = f"eigenzoo fit {run.record.zoo} --out {run.path}"
        say(f"{len(results)} of {planned} matrices are finished; run `{again}` again for the rest")


def matrix_json(r: MatrixResult) -> dict[str, Any]:
    """One matrix as `rank --json` gives it."""
    return {
        "layer": r.layer,
        "side": r.side,
        "rows": r.rows,
        "width": r.width,
        "n_adapters": r.n_adapters,
        "space": r.space,
        "method": r.method,
        "exact": r.exact,
        "spectrum": r.spectrum,
        "products": r.products,
        "passes": r.passes,
        "sigma_error": r.sigma_error,
        "total_variance": r.total_variance,
        "k": r.k,
        "threshold": r.threshold,
        "n_components": r.n_components,
        "note": r.note,
        "how": r.how,
    }


def show_method(r: MatrixResult) -> str:
    """A method for people, with the error of an approximate one."""
    if r.exact:
        return r.method
    return f"{r.method}, σ ± {'?' if r.sigma_error is None else format(r.sigma_error, '.2g')}"


def show_k(k: int | None) -> str:
    """K for people: a dash where a rule declined."""
    return "–" if k is None else str(k)
