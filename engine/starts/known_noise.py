"""The noise level of a matrix, where its adapters' own files name the random start of their factors.

Trained A stays close to its random start, and B starts at zero, so on side A the level of the noise is known:

- peft, `init_lora_weights` true or absent: `kaiming_uniform_(a=√5)`, variance 1/(3 · fan_in), the fan-in being the
  width of side A, kernel included.
- peft, false or null: torch's own start of both linear layers, by the same formula; B does not start at zero then, but
  with variance 1/(3 · rank), its fan-in being the rank.
- peft, "gaussian": normal of standard deviation 1/r. So draw diffusers' own training scripts (`LoRALinearLayer`, and
  since 0.20 peft's "gaussian") and cloneofsimo's; their files carry no configuration, or one in their metadata.
- kohya's sd-scripts (`networks.lora` in the metadata): `kaiming_uniform_(a=√5)`.
- An embedding is the other way round: A starts at zero, B as N(0, 1); with false or null both as N(0, 1).
- pissa, olora, eva, corda, loftq, orthogonal and the like take their start from the base, or from data: unknown.

One level is all that a rule can use. Starts of several levels in one matrix (as 1/r gives where ranks differ) are noise
that varies by row, on which white-noise rules fail; so adapters whose levels differ by more than 1 % have none.
`row_levels` gives a level for every row, for rules that can use that (`engine.analysis.parallel`).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from ingest.prefixes import COMPONENTS
from ingest.store.texts import live_texts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ingest.store.catalog import LayerRecord
    from ingest.store.reader import Zoo

KAIMING, GAUSSIAN, TORCH = "kaiming-uniform", "gaussian", "torch's own"
AGREE = 0.01  # levels further apart are not one
_METADATA_KEY = "lora_adapter_metadata"
_BY_FORMAT = {"diffusers": GAUSSIAN, "cloneofsimo": GAUSSIAN}
_KOHYA_MODULES = ("networks.lora",)


@dataclass(frozen=True, slots=True)
class KnownNoise:
    """A noise level, and from where, or why there is none.

    Attributes
    ----------
    sigma : standard deviation of one entry; None where it is not known.
    why : one line for people.
    """

    sigma: float | None
    why: str


@dataclass(frozen=True, slots=True)
class Start:
    """How an adapter was drawn: by `KAIMING`, `GAUSSIAN` or `TORCH`, per component of a pipeline ("" for all).

    Where that is unknown, the law is "" and `why` says what its files say.
    """

    laws: tuple[tuple[str, str], ...]
    why: str = ""

    def law(self, layer: str) -> str:
        """Of one layer."""
        by_component = dict(self.laws)
        return by_component.get(layer.partition(".")[0], by_component.get("", ""))


def known_noise(zoo: Zoo, layer: str, side: str, members: Collection[int] | None = None) -> KnownNoise:
    """The noise level of one matrix of a zoo, from its adapters' configurations and metadata.

    Parameters
    ----------
    zoo : Zoo
    layer : canonical name.
    side : "A" or "B".
    members : ordinals of the adapters whose rows are meant; by default all that are live.

    Returns
    -------
    KnownNoise
        Without a level where a start is zero, unknown for any adapter, or not the same for all; `why` says which.

    Raises
    ------
    EigenzooError
        For a layer that the zoo does not have, or texts that are lost.

    Notes
    -----
    The first call reads the texts of all adapters, which are parsed once for each different text; every call costs
    O(adapters of the layer).
    """
    levels = _levels(zoo, zoo.layer(layer), side, members)
    if levels.unknown:
        most, count = levels.unknown.most_common(1)[0]
        total = sum(levels.unknown.values())
        whose = f"{total} of {levels.n_adapters} adapters"
        return KnownNoise(None, f"the random start of {whose} is unknown: {most} ({count})")
    variances, ranks = levels.variances, levels.ranks
    if not len(variances):
        return KnownNoise(None, "the matrix has no rows")
    if zeros := int(np.count_nonzero(variances == 0)):
        some = f" for {zeros} of {levels.n_adapters} adapters" if zeros < levels.n_adapters else ""
        where = " in an embedding" if side == "A" else ""
        return KnownNoise(None, f"{side} starts at zero{where}{some}, so no noise is known of it")
    low, high = math.sqrt(float(variances.min())), math.sqrt(float(variances.max()))
    if high > low * (1 + AGREE):
        span = f"from {low:.3g} to {high:.3g}"
        return KnownNoise(None, f"the adapters' random starts differ, {span}, where one level is needed")
    sigma = math.sqrt(float(variances @ ranks) / float(ranks.sum()))
    return KnownNoise(sigma, f"noise {sigma:.4g} as the adapters' random start ({', '.join(levels.laws)})")


def row_levels(
    zoo: Zoo, layer: str, side: str, members: Collection[int] | None = None
) -> NDArray[np.float64] | KnownNoise:
    """The standard deviation of every row's random start, (n_rows,); or why it is not known."""
    levels = _levels(zoo, zoo.layer(layer), side, members)
    if levels.unknown or not levels.variances.all() or not len(levels.ranks):
        return known_noise(zoo, layer, side, members)
    return np.repeat(np.sqrt(levels.variances), levels.ranks)


def start_of(config: str | None, format_name: str, metadata: Mapping[str, str]) -> Start:
    """How an adapter's A was drawn, by its configuration, else by its format and its file's metadata."""
    if config is not None:
        return _of_config(config)
    if stated := metadata.get(_METADATA_KEY):
        return _of_metadata(stated)
    if format_name == "kohya":
        module = metadata.get("ss_network_module", "")
        if module in _KOHYA_MODULES:
            return Start((("", KAIMING),))
        return Start((), f"format kohya with network module {module!r}" if module else "format kohya names no trainer")
    if format_name in _BY_FORMAT:
        return Start((("", _BY_FORMAT[format_name]),))
    return Start((), f"format {format_name} names no start")


@lru_cache(maxsize=4096)
def _of_config(text: str) -> Start:
    try:
        fields = json.loads(text)
    except ValueError:
        return Start((), "a configuration that cannot be read")
    if not isinstance(fields, dict):
        return Start((), "a configuration that cannot be read")
    peft_type = str(fields.get("peft_type", "")).upper()
    if peft_type != "LORA":
        return Start((), f"peft_type {peft_type}")
    law, why = _law(fields.get("init_lora_weights", True))
    return Start((("", law),) if law else (), why)


@lru_cache(maxsize=4096)
def _of_metadata(text: str) -> Start:
    try:
        flat = json.loads(text)
    except ValueError:
        flat = None
    if not isinstance(flat, dict):
        return Start((), "metadata that cannot be read")
    laws = []
    for component in sorted({key.partition(".")[0] for key in flat} & set(COMPONENTS)):
        law, why = _law(flat.get(f"{component}.init_lora_weights", True))
        if not law:
            return Start((), why)
        laws.append((component, law))
    return Start(tuple(laws), "" if laws else "metadata that name no component")


def _law(init: Any) -> tuple[str, str]:
    """The law that `init_lora_weights` names, or "" and what it says."""
    name = str(init).lower()
    if name in ("false", "none", ""):
        return TORCH, ""
    if name == "true":
        return KAIMING, ""
    return (GAUSSIAN, "") if name == "gaussian" else ("", f"init_lora_weights {name[:40]!r}")


class _Levels(NamedTuple):
    """Of one matrix: each adapter's variance and rank, the laws met, and what is said by how many without one.

    A variance of 0 is that of a start at zero.
    """

    n_adapters: int
    variances: NDArray[np.float64]
    ranks: NDArray[np.int64]
    laws: tuple[str, ...]
    unknown: Counter[str]


def _levels(zoo: Zoo, record: LayerRecord, side: str, members: Collection[int] | None) -> _Levels:
    entries = zoo.entries(record)
    starts = _starts(zoo)
    meant = starts.by_ordinal.keys() if members is None else starts.by_ordinal.keys() & set(members)
    entries = entries[np.array([i in meant for i in entries["adapter"].tolist()], bool)]
    ranks = entries["rank"].astype(np.int64)
    which = np.array([starts.by_ordinal[i] for i in entries["adapter"].tolist()], np.int64)
    laws = [start.law(record.layer) for start in starts.kinds]
    variances = _variances(record, side, np.array(laws, np.str_)[which], ranks)
    counts = np.bincount(which, minlength=len(laws))
    unknown = Counter[str]()
    for start, law, count in zip(starts.kinds, laws, counts.tolist(), strict=True):
        if not law and count:
            unknown[start.why or "no component of that name"] += count
    met = tuple(sorted({law for law, count in zip(laws, counts.tolist(), strict=True) if law and count}))
    if record.kind == "embedding":
        met = ("N(0, 1) of an embedding",)
    return _Levels(len(entries), variances, ranks, met, unknown)


def _variances(record: LayerRecord, side: str, laws: NDArray[np.str_], ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of an entry of each adapter's start, by its law."""
    if record.kind == "embedding":
        return np.where((side == "B") | (laws == TORCH), 1.0, 0.0)
    if side == "B":
        return np.where(laws == TORCH, 1.0 / (3 * ranks), 0.0)
    return np.where(laws == GAUSSIAN, 1.0 / ranks**2, 1.0 / (3 * math.prod(record.a_shape)))


class _Starts(NamedTuple):
    """The different starts of a zoo, and which one each live adapter has, by ordinal."""

    kinds: list[Start]
    by_ordinal: dict[int, int]


_KNOWN: WeakKeyDictionary[Zoo, _Starts] = WeakKeyDictionary()  # a zoo is a snapshot, and never changes


def _starts(zoo: Zoo) -> _Starts:
    if zoo not in _KNOWN:
        formats = {s.record.name: (i, s.record.format) for i, s in enumerate(zoo.stored) if s.live}
        numbers: dict[Start, int] = {}
        by_ordinal: dict[int, int] = {}
        for name, text in live_texts(zoo.storage, zoo.commit, formats):
            ordinal, format_name = formats[name]
            start = start_of(text.get("config"), format_name, text.get("metadata") or {})
            by_ordinal[ordinal] = numbers.setdefault(start, len(numbers))
        for ordinal, _ in formats.values():
            if ordinal not in by_ordinal:
                by_ordinal[ordinal] = numbers.setdefault(Start((), "its configuration is lost"), len(numbers))
        _KNOWN[zoo] = _Starts(list(numbers), by_ordinal)
    return _KNOWN[zoo]
