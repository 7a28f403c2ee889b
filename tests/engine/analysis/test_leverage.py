"""Shares of a component's energy, and the adapters that hold one up by themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import engine.analysis.leverage as module
from engine.analysis.leverage import leverage, shares
from engine.fitting import fit
from engine.zoo_fit import fit_zoo
from ingest.errors import EigenzooError
from ingest.pipeline import ingest
from ingest.remove import remove
from ingest.store.reader import Zoo, open_zoo
from tests.engine.paired import draw, paired
from tests.ingest.builders import write_peft_folder

WIDTH, OUT = 24, 16


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Thirty adapters in a common subspace; one has a strong direction of its own as well."""
    path = tmp_path_factory.mktemp("leverage")
    for i, (a, b, _) in enumerate(draw((4,) * 30, WIDTH, OUT, planted=2, noise=0.1)):
        if i == 11:
            a = a + 200 * np.outer(np.ones(4), np.eye(WIDTH)[5])
        write_peft_folder(path / f"in/a{i:02}", {"layers.0.q": (a, b)}, r=4, lora_alpha=4)
    ingest(path / "in", path / "z")
    return open_zoo(path / "z")


@pytest.mark.parametrize("center", ["feature", "none"])
def test_shares(center: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = paired(draw((3, 5, 1, 3), 20, 14)).A
    sub = fit(rows, 5, center=center)
    x = rows.read(0, 12) - sub.offset
    for batch in (2**20, 1):
        monkeypatch.setattr(module, "_BATCH_BYTES", batch)
        found = shares(rows, sub)
        for i in range(4):
            mine = x[rows.offsets[i] : rows.offsets[i + 1]] @ sub.components.T
            assert np.allclose(found.share[i], np.sum(mine**2, axis=0) / sub.singular_values[:5] ** 2, rtol=1e-9)
        assert np.allclose(found.share.sum(axis=0), 1) and found.fair.tolist() == [3 / 12, 5 / 12, 1 / 12, 3 / 12]


@pytest.mark.parametrize("space", ["factor", "delta"])
def test_the_one_with_its_own_direction_is_named(zoo: Zoo, tmp_path: Path, space: str) -> None:
    run = fit_zoo(zoo, tmp_path / "run", space=space, k=2)
    found = leverage(run)
    assert {f.adapter for f in found} == {"a11"} and found[0].share > 0.9 and found[0].component == 0
    assert [f.share for f in found] == sorted((f.share for f in found), reverse=True)
    assert found[0].fair == 1 / 30 and found[0].layer == "layers.0.q"
    assert {f.side for f in found} == ({"A"} if space == "factor" else {"A", "B"})
    assert leverage(run, times=31.0) == [] and leverage(run, share=1.0) == []
    everybody = leverage(run, share=0.0, times=0.0)
    assert len(everybody) == 30 * 4 and sum(f.share for f in everybody) == pytest.approx(4)


def test_rows_that_are_others_than_were_fitted(zoo: Zoo, tmp_path: Path) -> None:
    run = fit_zoo(zoo, tmp_path / "run", k=2)
    ingest(Path(zoo.path).with_name("in"), tmp_path / "z")
    remove(tmp_path / "z", ["a03"])
    with pytest.raises(EigenzooError, match="layers.0.q A was fitted to other rows"):
        leverage(run, zoo=open_zoo(tmp_path / "z"))
