"""Whose rows a state holds, told by their content: what it lacks, and what it holds too many of.

A member is one adapter's factor on one layer and side, known by digest and rank (in ΔW space by both factors' digests,
scale and rank), so that neither names nor the numbers that a zoo gives its adapters matter: the same rows are the same
member, wherever they are stored now. Adapters may share a factor, hence members are counted.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Keys = Any  # NDArray of void: numpy orders and compares it bytewise
KEY_BYTES = 20


@dataclass(frozen=True, slots=True, eq=False)
class Members:
    """A multiset of keys, in order."""

    keys: Keys

    @classmethod
    def of(cls, keys: Keys) -> Self:
        """From keys in any order."""
        return cls(np.sort(keys))

    @property
    def digest(self) -> str:
        """Equal for equal members."""
        return hashlib.sha256(self.keys.tobytes()).hexdigest()[:32]

    def changed(self, added: Keys, removed: Keys) -> Members:
        """These members with some added and, of those, some removed."""
        unique, where, counts = _counted(np.concatenate([self.keys, added]), removed)
        return Members(np.repeat(unique, np.maximum(counts[0] - counts[1], 0)))

    def to_text(self) -> str:
        """As ASCII text, 27 characters a member."""
        return base64.b64encode(self.keys.tobytes()).decode("ascii")

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The inverse of `to_text`.

        Raises
        ------
        ValueError
            For other text.
        """
        return cls(np.frombuffer(base64.b64decode(text, validate=True), f"V{KEY_BYTES}"))


class Changes(NamedTuple):
    """What lies between members that are held and members that are wanted."""

    added: NDArray[np.int64]  # places among those wanted
    removed: Keys


def keys_of(entries: NDArray[Any], side: str, space: str = "factor") -> Keys:
    """The key of each entry of a layer's catalogue (`ingest.store.catalog.entry_dtype`).

    In ΔW space a row is made of both factors and the scale.
    """
    raw = np.empty((len(entries), KEY_BYTES), np.uint8)
    raw[:, :16] = _of_both(entries, side) if space == "delta" else entries[f"{side.lower()}_digest"]
    raw[:, 16:] = np.ascontiguousarray(entries["rank"], "<i4").view(np.uint8).reshape(-1, 4)
    return raw.view(f"V{KEY_BYTES}").ravel()


def _of_both(entries: NDArray[Any], side: str) -> NDArray[np.uint8]:
    parts = [entries["a_digest"], entries["b_digest"], entries["scale"].astype("<f8").view(np.uint8).reshape(-1, 8)]
    told = np.ascontiguousarray(np.concatenate(parts, axis=1))
    digests = [hashlib.blake2b(each.tobytes(), digest_size=16, salt=side.encode()).digest() for each in told]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)


def changes(held: Members, wanted: Keys) -> Changes:
    """What has to be added to the members held, and what removed, to have those wanted."""
    unique, where, counts = _counted(held.keys, wanted)
    lacking = np.maximum(counts[1] - counts[0], 0)
    added = _last_of_each(where[len(held.keys) :], counts[1], lacking)
    return Changes(added, np.repeat(unique, np.maximum(counts[0] - counts[1], 0)))


def places(stored: Keys, wanted: Keys) -> NDArray[np.int64] | None:
    """Where the wanted members are among those stored, each at its own place; None where one is not there."""
    _, where, counts = _counted(stored, wanted)
    if (counts[1] > counts[0]).any():
        return None
    return _last_of_each(where[: len(stored)], counts[0], counts[1])


def _counted(left: Keys, right: Keys) -> tuple[Keys, NDArray[np.int64], tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """All that occur, which of them each of left's and right's is, and how often each occurs in either."""
    unique, where = np.unique(np.concatenate([left, right]), return_inverse=True)
    counts = [np.bincount(part, minlength=len(unique)) for part in (where[: len(left)], where[len(left) :])]
    return unique, where, (counts[0], counts[1])


def _last_of_each(where: NDArray[np.int64], counts: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places of the last `wanted[u]` occurrences of each u in `where`, which has `counts[u]` of them; ascending."""
    order = np.argsort(where, kind="stable")
    nth = np.arange(len(where)) - (np.cumsum(counts) - counts)[where[order]]
    return np.sort(order[nth >= (counts - wanted)[where[order]]])
