"""Which matrices of a zoo a run fits, and with what settings; refused here if they cannot be had."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

from engine.backends.protocol import PRODUCTS
from engine.delta import SPACES, check_center, default_center
from engine.methods import SPECTRA, method_named
from engine.rank import parse_rule
from engine.rank.fixed import Fixed
from engine.rank.gavish_donoho import INIT, NAME
from engine.run import RunSettings
from engine.starts.seed_rows import check_seeds, parse_seeds
from engine.subspace import CENTERS
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from ingest.store.reader import MatrixInfo, Zoo

KByMatrix = Mapping[str, Mapping[str, int]]
SIDES = ("A", "B", "both")


def choose_matrices(zoo: Zoo, layers: str = "*", side: str = "both") -> list[MatrixInfo]:
    """The matrices whose layer matches the glob, on the given side or both.

    Raises
    ------
    EigenzooError
        For an unknown side, or when nothing matches.
    """
    if side not in SIDES:
        raise EigenzooError(f"side: got {side!r}; choose A, B or both")
    globs = [g.strip() for g in layers.split(",") if g.strip()]
    chosen = [
        m
        for m in zoo.matrices
        if side in ("both", m.side) and any(fnmatch.fnmatchcase(m.layer, glob) for glob in globs)
    ]
    if not chosen:
        if not zoo.matrices:
            raise EigenzooError(f"{zoo.path}: the zoo has no accepted adapter; `eigenzoo info` says why")
        example = zoo.matrices[0].layer
        raise EigenzooError(f"layers: {layers!r} matches none of {len(zoo.layers)} layers, such as {example!r}")
    return chosen


def run_settings(
    center: str | None,
    k: str | int | KByMatrix,
    *,
    method: str = "auto",
    spectrum: str = "full",
    refine: bool | None = None,
    products: str = "auto",
    space: str = "factor",
    seeds: str = "all",
) -> RunSettings:
    """The settings of a run, with a rule under its own name.  A `center` of None is the space's own.

    Raises
    ------
    EigenzooError
        For an unknown centring, rule, method, spectrum, products, space or seeds, for rows of ΔW space that are
        centred, for starts that are to be subtracted there, and for a rule that needs starts that are subtracted.
    """
    if space not in SPACES:
        raise EigenzooError(f"space: got {space!r}; choose {' or '.join(SPACES)}")
    if center is None:
        center = default_center(space)
    if center not in CENTERS:
        raise EigenzooError(f"center: got {center!r}; choose {' or '.join(CENTERS)}")
    check_center(space, center)
    check_seeds(seeds, space=space)
    if method != "auto":
        method_named(method)
    if spectrum not in SPECTRA:
        raise EigenzooError(f"spectrum: got {spectrum!r}; choose {' or '.join(SPECTRA)}")
    if products not in ("auto", *PRODUCTS):
        raise EigenzooError(f"products: got {products!r}; choose auto, {', '.join(PRODUCTS)}")
    rule: str | dict[str, dict[str, int]]
    if isinstance(k, Mapping):
        rule = {layer: {s: _plain(n) for s, n in sides.items()} for layer, sides in k.items()}
    else:
        rule = parse_rule(k).name
        if space == "delta" and rule == f"{NAME}:{INIT}":
            raise EigenzooError(f"k: {rule!r} is the level of a factor's random start; ΔW has none, give another rule")
        if parse_seeds(seeds).kind == "subtract" and rule == f"{NAME}:{INIT}":
            raise EigenzooError(
                f"k: {rule!r} is the level of the random start, which seeds 'subtract' takes from the rows; "
                "give another rule, or seeds one-each"
            )
    return RunSettings(center, rule, method, spectrum, refine, products, space, parse_seeds(seeds).name)


def check_k(settings: RunSettings, chosen: Sequence[MatrixInfo]) -> None:
    """Numbers given for K must be there for every matrix to be fitted, and within the rank that it can have.

    The rank itself may be lower still, which only the fit can find out.

    Raises
    ------
    EigenzooError
        Naming the first matrix at fault.
    """
    if isinstance(settings.k, str):
        rule = parse_rule(settings.k)
        if not isinstance(rule, Fixed):
            return
        wanted = [rule.k] * len(chosen)
    else:
        wanted = [_k_of(settings.k, info) for info in chosen]
    over = [(info, k) for info, k in zip(chosen, wanted, strict=True) if k > possible_rank(info, settings.center)]
    if over:
        info, k = over[0]
        raise EigenzooError(
            f"k: {k} components asked of {info.layer} {info.side}, {info.rows} × {info.width}, whose rank is at most "
            f"{possible_rank(info, settings.center)}; likewise {len(over)} of {len(chosen)} matrices: ask for fewer"
        )


def possible_rank(info: MatrixInfo, center: str) -> int:
    """The highest rank that a matrix of this shape can have: centring takes a row's worth."""
    return min(info.rows - 1 if center == "feature" else info.rows, info.width)


def _plain(k: Any) -> Any:
    # A number from an array is none that JSON knows; what is no number is refused later, by name.
    return k if isinstance(k, bool) or not isinstance(k, Integral) else int(k)


def _k_of(table: KByMatrix, info: MatrixInfo) -> int:
    k = table.get(info.layer, {}).get(info.side)
    if not isinstance(k, int) or isinstance(k, bool) or k < 0:
        found = f"{info.layer} {info.side} (found {k!r})"
        raise EigenzooError(f"k: no whole number for {found}; the K file must give one, 0 or more")
    return k
