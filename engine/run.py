"""A run directory: what a fit of a whole zoo leaves on disk, and how it is read.

::

    run/
      run.json                          settings, the matrices asked for, and the zoo (path, uuid, commit)
      matrices/<layer>.<side>.safetensors   the Subspace
      matrices/<layer>.<side>.json          its summary; written last, so it marks the result as complete
      matrices/<layer>.<side>.state.safetensors   its moments, in a run that keeps them; written before both
      .lock                             held by the fit that writes
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.array_file import whole
from engine.atomic import write_atomically
from ingest.errors import EigenzooError
from ingest.store.schema import quote

if TYPE_CHECKING:
    from engine.subspace import Subspace

FORMAT = 1
RUN = "run.json"
MATRICES = "matrices"
ANALYSIS = "analysis.json"  # what `eigenzoo analyse` leaves, see `engine.analysis.file`
STATE_ENDING = ".state.safetensors"


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What decides the results: how rows are centred, the rule for K (or K per layer and side), and how to solve.

    `method` to `products` are as for `engine.fit`; `space` is "factor" or "delta" (see `engine.delta`);
    `seeds` says what is done about shared starts (see `engine.starts.seed_rows`).
    """

    center: str = "feature"
    k: str | dict[str, dict[str, int]] = "gavish-donoho"
    method: str = "auto"
    spectrum: str = "full"
    refine: bool | None = None
    products: str = "auto"
    space: str = "factor"
    seeds: str = "all"

    def differences(self, other: RunSettings) -> list[str]:
        """One "name: mine → other's" per setting that differs."""
        mine, theirs = asdict(self), asdict(other)
        return [f"{n}: {_short(mine[n])} → {_short(theirs[n])}" for n in mine if mine[n] != theirs[n]]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The run as a whole: its settings, and the zoo it was made from.

    `zoo_uuid` tells apart zoos that were made at one path, one after the other; "" where it is unknown.
    `planned` are the matrices, as (layer, side), that any start asked for; none where that was not recorded.
    `keep_state`: whether moments are kept, so that later starts read only what changed.
    """

    settings: RunSettings
    zoo: str
    zoo_version: int
    base_model: str | None
    zoo_uuid: str = ""
    planned: tuple[tuple[str, str], ...] = ()
    keep_state: bool = False


@dataclass(frozen=True, slots=True)
class MatrixResult:
    """Summary of one matrix.

    Attributes
    ----------
    layer, side : str
    rows, width, n_adapters : int
    method : str
        Name in `engine.methods.METHODS`.
    exact : bool
    total_variance : float
    k : dict
        K by rule: ``gavish_donoho``, ``ev_0.8`` and the chosen one; None where a rule declined.
    threshold : float or None
        Gavish–Donoho's threshold, in units of the singular values.
    chosen, note : str
        The rule that set the number of components, and what it had to say.
    n_components : int
        Components kept.
    center : str
    n_zero_variance_columns : int
    identity : str
        Digest of the rows; a zoo that changed gives another one.
    rows_read : int or None
        Rows that were read for this result: fewer than `rows` where a kept state was brought up to date, more where
        they were read more than once; None of an older run.
    spectrum, products, passes, sigma_error, how : str, str, int, float or None, str
        As `Subspace` has them; `how` is its note.
    space : str
        "factor", or "delta": see `engine.delta`.
    """

    layer: str
    side: str
    rows: int
    width: int
    n_adapters: int
    method: str
    exact: bool
    total_variance: float
    k: dict[str, int | None] = field(default_factory=dict)
    threshold: float | None = None
    chosen: str = ""
    note: str = ""
    n_components: int = 0
    center: str = "feature"
    n_zero_variance_columns: int = 0
    identity: str = ""
    rows_read: int | None = None
    spectrum: str = "full"
    products: str = "float64"
    passes: int = 1
    sigma_error: float | None = None
    how: str = ""
    space: str = "factor"

    @property
    def key(self) -> tuple[str, str]:
        """(layer, side)."""
        return self.layer, self.side


class Run:
    """A run directory, opened for reading.  Made by `open_run`."""

    def __init__(self, path: str, record: RunRecord) -> None:
        self.path = path
        self.record = record

    def __repr__(self) -> str:
        return f"Run({self.path!r}, zoo {self.record.zoo!r} at commit {self.record.zoo_version})"

    @property
    def matrices(self) -> list[MatrixResult]:
        """Summaries of the finished matrices, by layer (numbers in numeric order) and side."""
        folder = os.path.join(self.path, MATRICES)
        out = []
        for name in os.listdir(folder) if os.path.isdir(folder) else []:
            if name.endswith(".json") and not name.startswith("."):
                with open(os.path.join(folder, name), encoding="utf-8") as file:
                    try:
                        out.append(MatrixResult(**json.load(file)))
                    except (ValueError, TypeError) as error:
                        what = f"{file.name}: damaged ({error}); the same `eigenzoo fit` mends it"
                        raise EigenzooError(what) from error
        return sorted(out, key=lambda m: (natural_key(m.layer), m.side))

    def planned(self, finished: Iterable[MatrixResult]) -> int:
        """How many matrices were ever asked for; of an old run, how many are finished."""
        return len({*self.record.planned, *(m.key for m in finished)})

    def subspace(self, layer: str, *, side: str) -> Subspace:
        """The whole result of one matrix.

        Raises
        ------
        EigenzooError
            If the run has no finished result for it.
        """
        from engine.subspace import Subspace

        path = result_path(self.path, layer, side)
        if not os.path.exists(path):
            raise EigenzooError(f"{self.path}: no result for {layer} {side}; `eigenzoo rank` lists what there is")
        return Subspace.load(path)


def open_run(path: str | os.PathLike[str]) -> Run:
    """Open a run directory.

    Raises
    ------
    EigenzooError
        If there is none at `path`.
    """
    path = os.path.abspath(os.fspath(path))
    record = read_record(path)
    if record is None:
        raise EigenzooError(f"{path}: no run there; make one with `eigenzoo fit ZOO --out {path}`")
    return Run(path, record)


def read_record(path: str) -> RunRecord | None:
    """The run's record; None where there is no run."""
    try:
        with open(os.path.join(path, RUN), encoding="utf-8") as file:
            document = json.load(file)
        if document["format"] != FORMAT:
            raise EigenzooError(
                f"{path}: run format {document['format']}, this version reads {FORMAT}; upgrade eigenzoo"
            )
        settings = RunSettings(**document["settings"])
        zoo = {name: document[name] for name in ("zoo", "zoo_version", "base_model")}
        planned = tuple((str(layer), str(side)) for layer, side in document.get("planned", ()))
        keep = bool(document.get("keep_state", False))
        return RunRecord(settings, **zoo, zoo_uuid=document.get("zoo_uuid", ""), planned=planned, keep_state=keep)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EigenzooError(f"{path}: {RUN} cannot be read ({error}); fit into another folder, or --restart") from error


def write_record(path: str, record: RunRecord) -> None:
    """Write the run's record, in one atomic step."""
    document = {"format": FORMAT, **asdict(record)}
    write_atomically(Path(path) / RUN, json.dumps(document, indent=2).encode())


def write_result(path: str, result: MatrixResult, subspace: Subspace) -> None:
    """Write one matrix's subspace, then the summary that marks it as complete."""
    marker = marker_path(path, result.layer, result.side)
    Path(marker).unlink(missing_ok=True)  # a result that is being replaced is not complete
    subspace.save(result_path(path, result.layer, result.side))
    write_atomically(Path(marker), json.dumps(asdict(result), indent=1).encode())


def read_marker(path: str, layer: str, side: str) -> MatrixResult | None:
    """The summary of a finished matrix; None where it is not finished."""
    try:
        with open(marker_path(path, layer, side), encoding="utf-8") as file:
            result = MatrixResult(**json.load(file))
    except (OSError, ValueError, TypeError):
        return None
    return result if whole(result_path(path, layer, side)) else None


def summary(layer: str, side: str, subspace: Subspace, rows_read: int | None = None) -> MatrixResult:
    """The summary of a fitted subspace."""
    gavish_donoho = subspace.choices["gavish-donoho"]
    return MatrixResult(
        layer=layer,
        side=side,
        rows=subspace.n_rows,
        width=subspace.width,
        n_adapters=subspace.n_adapters,
        method=subspace.method,
        exact=subspace.exact,
        total_variance=subspace.total_variance,
        k={rule_key(name): choice.k for name, choice in subspace.choices.items()},
        threshold=gavish_donoho.threshold,
        chosen=subspace.k_choice.rule,
        note=subspace.k_choice.note,
        n_components=subspace.n_components,
        center=subspace.center,
        n_zero_variance_columns=subspace.n_zero_variance_columns,
        identity=subspace.source,
        rows_read=rows_read,
        spectrum=subspace.spectrum,
        products=subspace.products,
        passes=subspace.passes,
        sigma_error=subspace.sigma_error,
        how=subspace.note,
        space=subspace.settings.get("space", "factor"),
    )


def rule_key(name: str) -> str:
    """A rule's name as a key of the JSON output: ``gavish-donoho`` → ``gavish_donoho``, ``ev:0.8`` → ``ev_0.8``."""
    return name.replace("-", "_").replace(":", "_")


def result_path(path: str, layer: str, side: str) -> str:
    """Where a matrix's subspace lies."""
    return os.path.join(path, MATRICES, f"{quote(layer)}.{side}.safetensors")


def marker_path(path: str, layer: str, side: str) -> str:
    """Where a matrix's summary lies."""
    return os.path.join(path, MATRICES, f"{quote(layer)}.{side}.json")


def state_path(path: str, layer: str, side: str) -> str:
    """Where a matrix's moments lie, in a run that keeps them."""
    return os.path.join(path, MATRICES, f"{quote(layer)}.{side}{STATE_ENDING}")


def natural_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sorts names with their numbers in numeric order: layer 2 before layer 10."""
    return tuple((0, int(p)) if p.isascii() and p.isdigit() and len(p) < 10 else (1, p) for p in name.split("."))


def _short(value: str | bool | Mapping[str, Any] | None) -> str:
    return f"K given for {len(value)} layers" if isinstance(value, Mapping) else str(value)
