from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine.run import open_run
from engine.starts import known_noise as module
from engine.starts.known_noise import GAUSSIAN, KAIMING, TORCH, known_noise, row_levels, start_of
from engine.zoo_fit import fit_zoo
from ingest import shared_starts
from ingest.errors import EigenzooError
from ingest.pipeline import ingest
from ingest.remove import remove
from ingest.store.reader import Zoo, open_zoo

IN, OUT, LAYER = 96, 64, "layers.0.q_proj"
KAIMING_LEVEL = 1 / math.sqrt(3 * IN)


def adapter(folder: Path, rank: int, config: dict[str, Any], seed: int) -> None:
    """A PEFT folder whose A is as its configuration says it began."""
    rng = np.random.default_rng(seed)
    init = config.get("init_lora_weights", True)
    bound = 1 / math.sqrt(IN)
    a = rng.normal(0, 1 / rank, (rank, IN)) if init == "gaussian" else rng.uniform(-bound, bound, (rank, IN))
    key = f"base_model.model.model.{LAYER}"
    tensors = {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": 0.01 * rng.standard_normal((OUT, rank))}
    folder.mkdir(parents=True)
    save_file({k: v.astype(np.float32) for k, v in tensors.items()}, folder / "adapter_model.safetensors")
    common = {"peft_type": "LORA", "base_model_name_or_path": "b", "r": rank, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps({**common, **config}))


def zoo_of(path: Path, adapters: list[tuple[int, dict[str, Any]]]) -> Zoo:
    for i, (rank, config) in enumerate(adapters):
        adapter(path / "in" / f"a{i:03d}", rank, config, i)
    ingest(path / "in", path / "zoo")
    return open_zoo(path / "zoo")


def test_the_kaiming_level_whatever_the_ranks(tmp_path: Path) -> None:
    zoo = zoo_of(tmp_path, [(4, {}), (8, {"init_lora_weights": True}), (16, {"lora_dropout": 0.1})])
    known = known_noise(zoo, LAYER, "A")
    assert known.sigma == pytest.approx(KAIMING_LEVEL, rel=1e-12) and "kaiming-uniform" in known.why
    measured = np.sqrt((zoo.rows(LAYER, side="A").read(0, 28).astype(np.float64) ** 2).mean())
    assert measured == pytest.approx(known.sigma, rel=0.03)
    levels = row_levels(zoo, LAYER, "A")
    np.testing.assert_allclose(levels, np.full(28, KAIMING_LEVEL))  # type: ignore[arg-type]


def test_b_starts_at_zero(tmp_path: Path) -> None:
    known = known_noise(zoo_of(tmp_path, [(4, {}), (4, {"seed": 1})]), LAYER, "B")
    assert known.sigma is None and "B starts at zero" in known.why


def test_levels_that_differ_are_no_level(tmp_path: Path) -> None:
    zoo = zoo_of(tmp_path, [(4, {"init_lora_weights": "gaussian"}), (8, {"init_lora_weights": "gaussian"})])
    known = known_noise(zoo, LAYER, "A")
    assert known.sigma is None and "from 0.125 to 0.25" in known.why
    np.testing.assert_allclose(row_levels(zoo, LAYER, "A"), [0.25] * 4 + [0.125] * 8)  # type: ignore[arg-type]


def test_one_gaussian_level(tmp_path: Path) -> None:
    zoo = zoo_of(tmp_path, [(4, {"init_lora_weights": "gaussian"}), (4, {"init_lora_weights": "gaussian", "x": 1})])
    assert known_noise(zoo, LAYER, "A").sigma == pytest.approx(0.25, rel=1e-12)


def test_of_some_adapters(tmp_path: Path) -> None:
    gaussian = {"init_lora_weights": "gaussian"}
    zoo = zoo_of(tmp_path, [(4, gaussian), (8, gaussian), (4, {**gaussian, "x": 1}), (4, {"init_lora_weights": "eva"})])
    assert known_noise(zoo, LAYER, "A", [2, 0]).sigma == pytest.approx(0.25, rel=1e-12)
    np.testing.assert_allclose(row_levels(zoo, LAYER, "A", [1, 0]), [0.25] * 4 + [0.125] * 8)  # type: ignore[arg-type]
    assert known_noise(zoo, LAYER, "A", []).why == "the matrix has no rows"
    assert "1 of 1 adapters is unknown" in known_noise(zoo, LAYER, "A", [3]).why


def test_torchs_own_start_leaves_b_random(tmp_path: Path) -> None:
    own = {"init_lora_weights": False}
    zoo = zoo_of(tmp_path, [(4, own), (4, {**own, "x": 1}), (4, {})])
    assert known_noise(zoo, LAYER, "A").sigma == pytest.approx(KAIMING_LEVEL, rel=1e-12)
    known = known_noise(zoo, LAYER, "B")
    assert known.sigma is None and "B starts at zero for 1 of 3 adapters" in known.why
    assert row_levels(zoo, LAYER, "B") == known
    assert known_noise(zoo, LAYER, "B", [0, 1]).sigma == pytest.approx(1 / math.sqrt(3 * 4), rel=1e-12)


def test_an_embedding_asks_the_configurations_too(tmp_path: Path) -> None:
    table = shared_starts.Module("embed_tokens", 80, 64, shared=False, embedding=True)
    shared_starts.write(tmp_path / "in", shared_starts.Settings((table,), adapters=4, groups=(2,), ranks=(4,)))
    configs = sorted((tmp_path / "in").glob("*/adapter_config.json"))
    for path, init in zip(configs, ("gaussian", True, False, "orthogonal"), strict=True):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": init}))
    ingest(tmp_path / "in", tmp_path / "zoo")
    zoo = open_zoo(tmp_path / "zoo")
    assert known_noise(zoo, "embed_tokens", "B", [0, 1, 2]).sigma == 1.0
    assert known_noise(zoo, "embed_tokens", "A", [2]).sigma == 1.0
    assert "A starts at zero in an embedding, so" in known_noise(zoo, "embed_tokens", "A", [0, 1]).why
    assert "for 2 of 3 adapters" in known_noise(zoo, "embed_tokens", "A", [0, 1, 2]).why
    assert "init_lora_weights 'orthogonal'" in known_noise(zoo, "embed_tokens", "B").why


def test_an_unknown_start_is_said_and_a_removed_adapter_forgotten(tmp_path: Path) -> None:
    zoo = zoo_of(tmp_path, [(4, {}), (4, {"init_lora_weights": "orthogonal"}), (6, {})])
    known = known_noise(zoo, LAYER, "A")
    assert known.sigma is None and "1 of 3 adapters is unknown: init_lora_weights 'orthogonal'" in known.why
    assert row_levels(zoo, LAYER, "A") == known
    remove(tmp_path / "zoo", ["a001"])
    after = open_zoo(tmp_path / "zoo")
    assert known_noise(after, LAYER, "A").sigma == pytest.approx(KAIMING_LEVEL)
    assert len(row_levels(after, LAYER, "A")) == after.rows(LAYER, side="A").shape[0] == 10  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "law"),
    [
        ({}, KAIMING),
        ({"init_lora_weights": True}, KAIMING),
        ({"init_lora_weights": False}, TORCH),
        ({"init_lora_weights": None}, TORCH),
        ({"init_lora_weights": "gaussian"}, GAUSSIAN),
        ({"init_lora_weights": "eva"}, ""),
        ({"init_lora_weights": "pissa_niter_4"}, ""),
        ({"init_lora_weights": "olora"}, ""),
        ({"peft_type": "LOHA"}, ""),
    ],
)
def test_what_a_configuration_says(config: dict[str, Any], law: str) -> None:
    start = start_of(json.dumps({"peft_type": "LORA", **config}), "peft", {})
    assert start.law("layers.0.q") == law and bool(start.why) == (law == "")


def test_files_without_a_configuration() -> None:
    assert start_of(None, "diffusers", {}).law("unet.down") == GAUSSIAN
    assert start_of(None, "cloneofsimo", {}).law("unet.down") == GAUSSIAN
    stated = json.dumps({"unet.r": 4, "unet.init_lora_weights": "gaussian", "text_encoder.r": 4})
    both = start_of(None, "diffusers", {"lora_adapter_metadata": stated})
    assert (both.law("unet.down"), both.law("text_encoder.q"), both.law("prior.q")) == (GAUSSIAN, KAIMING, "")
    assert start_of(None, "kohya", {"ss_network_module": "networks.lora"}).law("unet.down") == KAIMING
    assert "lycoris.kohya" in start_of(None, "kohya", {"ss_network_module": "lycoris.kohya"}).why
    for text, name in (("{", "peft"), ("[]", "peft")):
        assert "cannot be read" in start_of(text, name, {}).why
    assert "comfy" in start_of(None, "comfy", {}).why


def test_ten_thousand_configurations_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    text = json.dumps({"peft_type": "LORA", "r": 8, "target_modules": ["q", "v"]})
    calls = 0
    loads = json.loads

    def counted(data: Any) -> Any:
        nonlocal calls
        calls += 1
        return loads(data)

    monkeypatch.setattr(module.json, "loads", counted)
    module._of_config.cache_clear()
    begin = time.perf_counter()
    assert {start_of(text, "peft", {}) for _ in range(10_000)} == {start_of(text, "peft", {})}
    assert calls == 1 and time.perf_counter() - begin < 1


def test_a_fit_takes_the_level_and_keeps_the_rules_name(tmp_path: Path) -> None:
    zoo = zoo_of(tmp_path, [(8, {"i": i}) for i in range(30)])
    fit_zoo(zoo, tmp_path / "run", k="gavish-donoho:init")
    run = open_run(tmp_path / "run")
    a, b = run.subspace(LAYER, side="A"), run.subspace(LAYER, side="B")
    assert run.record.settings.k == a.k_choice.rule == "gavish-donoho:init"
    expected = module.known_noise(zoo, LAYER, "A").sigma
    from engine.rank.gavish_donoho import gavish_donoho

    assert a.k_choice.threshold == gavish_donoho(a.singular_values, (239, IN), expected).threshold
    assert a.k_choice.k == a.n_components == 0 and "kaiming-uniform" in a.k_choice.note
    assert b.k_choice.k is None and b.n_components == 0 and "B starts at zero" in b.k_choice.note
    with pytest.raises(EigenzooError, match="ΔW has none"):
        fit_zoo(zoo, tmp_path / "delta", k="gavish-donoho:init", space="delta")
