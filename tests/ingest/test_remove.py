"""Removal as a user meets it: the adapter is gone, and its source does not bring it back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ingest.errors import EigenzooError
from ingest.pipeline import ingest
from ingest.reasons import Reason
from ingest.remove import remove
from ingest.settings import Settings
from ingest.store.reader import open_zoo
from ingest.store.writer import ZooWriter
from ingest.verify import verify
from tests.ingest.builders import factors, write_peft_folder


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in "abcd":
        head = {"base_model.model.head.weight": rng.standard_normal((3, 5)).astype(np.float32)}
        modules = {f"layers.{i}.q": factors(rng, 3, 24, 16) for i in range(2)}
        write_peft_folder(tmp_path / "in" / name, modules, extras=head)
    ingest(tmp_path / "in", tmp_path / "zoo")
    return tmp_path / "zoo"


def test_its_source_does_not_bring_it_back(zoo: Path) -> None:
    result = remove(zoo, ["b", "d"])
    assert result.removed == ("b", "d") and result.rows == 12
    assert result.retired_bytes == 2 * 2 * 3 * (24 + 16) * 4
    again = ingest(zoo.parent / "in", zoo)
    assert again.added == () and again.known == 2
    assert {(r.name, r.reason) for r in again.refused} == {("b", Reason.REMOVED), ("d", Reason.REMOVED)}
    assert [r.name for r in open_zoo(zoo).accepted] == ["a", "c"]
    back = ingest(zoo.parent / "in", zoo, Settings(readmit=True))
    assert back.added == ("b", "d")
    opened = open_zoo(zoo)
    assert opened.removed == [] and verify(opened).problems == () and len(opened.extras("b")) == 1
    assert all(m.rows == 12 for m in opened.matrices)


def test_its_record_stays_in_the_ledger(zoo: Path) -> None:
    was = open_zoo(zoo).accepted[1]
    remove(zoo, ["b"])
    (record,) = open_zoo(zoo).removed
    assert (record.name, record.source, record.fingerprint, record.content) == (
        was.name,
        was.source,
        was.fingerprint,
        was.content,
    )
    assert [r.status for r in open_zoo(zoo).adapters] == ["ok", "ok", "ok", "removed"]


def test_where_there_is_no_zoo_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(EigenzooError, match="no zoo there"):
        remove(tmp_path / "none", ["a"])
    assert list(tmp_path.iterdir()) == []


def test_an_older_format_is_refused_in_one_line(zoo: Path) -> None:
    root = zoo / "zarr.json"
    document = json.loads(root.read_text())
    document["attributes"]["eigenzoo"]["format"] = 1
    root.write_text(json.dumps(document))
    for act in (lambda: open_zoo(zoo), lambda: remove(zoo, ["a"]), lambda: ZooWriter(str(zoo)).__enter__()):
        with pytest.raises(EigenzooError, match="zoo format 1, this version reads 2; ingest its sources again"):
            act()
