from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.kept.members import KEY_BYTES, Keys, Members, changes, keys_of, places
from ingest.store.catalog import entry_dtype

LETTERS = st.lists(st.sampled_from("abcde"), max_size=12)


def keys(letters: list[str]) -> Keys:
    return np.array([letter.encode().ljust(KEY_BYTES, b"\0") for letter in letters], f"V{KEY_BYTES}")


def count(found: Keys) -> Counter[str]:
    return Counter(bytes(k).rstrip(b"\0").decode() for k in found)


@given(held=LETTERS, wanted=LETTERS)
def test_changes_lead_from_one_to_the_other(held: list[str], wanted: list[str]) -> None:
    before, after = Members.of(keys(held)), Members.of(keys(wanted))
    added, removed = changes(before, keys(wanted))
    assert count(keys(wanted)[added]) == Counter(wanted) - Counter(held) and list(added) == sorted(set(added))
    assert count(removed) == Counter(held) - Counter(wanted)
    assert before.changed(keys(wanted)[added], removed).digest == after.digest
    assert (before.digest == after.digest) == (sorted(held) == sorted(wanted))
    assert Members.from_text(before.to_text()).digest == before.digest


@given(stored=LETTERS, wanted=LETTERS)
def test_each_member_has_a_place_of_its_own(stored: list[str], wanted: list[str]) -> None:
    found = places(keys(stored), keys(wanted))
    if Counter(wanted) - Counter(stored):
        assert found is None
    else:
        assert found is not None and len(set(found)) == len(wanted)
        assert count(keys(stored)[found]) == Counter(wanted)


def test_a_member_is_its_digest_and_rank() -> None:
    entries = np.zeros(3, entry_dtype())
    entries["rank"] = [4, 4, 8]
    entries["a_digest"][1, 15] = 1
    a, b = keys_of(entries, "A"), keys_of(entries, "B")
    assert len(set(map(bytes, a))) == 3 and len(set(map(bytes, b))) == 2


def test_what_is_no_list_of_members_is_refused() -> None:
    for text in ("not base64!", "QUJD"):
        with pytest.raises(ValueError):
            Members.from_text(text)
