from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engine
from engine.subspace import Subspace
from ingest.errors import EigenzooError


@pytest.fixture
def subspace() -> Subspace:
    rng = np.random.default_rng(0)
    return engine.fit(rng.standard_normal((50, 8)) * np.arange(1, 9) + 5, 3)


@pytest.mark.parametrize("k", [0, 3])
def test_round_trip(k: int, tmp_path: Path) -> None:
    saved = engine.fit(np.random.default_rng(0).standard_normal((50, 8)), k)
    saved.save(tmp_path / "new folder" / "x.safetensors")
    loaded = Subspace.load(tmp_path / "new folder" / "x.safetensors")
    for field in fields(Subspace):
        a, b = getattr(saved, field.name), getattr(loaded, field.name)
        if isinstance(a, np.ndarray):
            assert b.dtype == np.float64
            np.testing.assert_array_equal(a, b)
        else:
            assert a == b, field.name
    assert [p.name for p in (tmp_path / "new folder").iterdir()] == ["x.safetensors"]


def test_anyone_can_read_the_arrays(subspace: Subspace, tmp_path: Path) -> None:
    from safetensors import safe_open

    subspace.save(tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", framework="np") as file:
        np.testing.assert_array_equal(file.get_tensor("components"), subspace.components)
        assert json.loads(file.metadata()["eigenzoo"])["n_rows"] == 50


def test_a_failed_save_leaves_the_old_file(subspace: Subspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    subspace.save(path)
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        subspace.save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_load_says_what_is_wrong_in_one_line(subspace: Subspace, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    good = tmp_path / "good.safetensors"
    subspace.save(good)
    data = good.read_bytes()
    (tmp_path / "truncated").write_bytes(data[:-8])
    (tmp_path / "header").write_bytes(data[:100])
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("not a safetensors file at all")
    save_file({"a": np.zeros(2)}, tmp_path / "foreign")
    save_file({"a": np.zeros(2)}, tmp_path / "other", metadata={"eigenzoo": '{"kind": "coefficients"}'})
    save_file({"a": np.zeros(2)}, tmp_path / "list", metadata={"eigenzoo": "[]"})
    save_file({"a": np.zeros(2)}, tmp_path / "later", metadata={"eigenzoo": '{"kind": "subspace", "version": 99}'})
    expected = {
        "missing": "cannot be read",
        "truncated": "not a whole safetensors file",
        "header": "not a whole safetensors file",
        "empty": "not a whole safetensors file",
        "text": "not a whole safetensors file",
        "foreign": "not a subspace",
        "other": "not a subspace",
        "list": "not a subspace",
        "later": "update eigenzoo",
    }
    for name, message in expected.items():
        with pytest.raises(EigenzooError, match=message) as caught:
            Subspace.load(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)


def test_transform_shapes(subspace: Subspace) -> None:
    row = np.ones(8, dtype=np.float32)
    assert subspace.transform(row).shape == (3,)
    assert subspace.transform(row[None]).shape == (1, 3)
    assert subspace.inverse_transform(np.zeros(3)).shape == (8,)
    np.testing.assert_array_equal(subspace.inverse_transform(np.zeros(3)), subspace.mean)
    for bad in (np.ones(7), np.ones((2, 7)), np.ones((1, 1, 8)), np.float64(1)):
        with pytest.raises(EigenzooError, match="8 columns"):
            subspace.transform(bad)
    with pytest.raises(EigenzooError, match="3 coefficients"):
        subspace.inverse_transform(np.ones(8))
