"""Configurations from strangers: every wrong one is refused, quickly and in one line."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ingest.errors import Refusal
from ingest.formats.lora_config import read_config
from ingest.formats.options import Options
from ingest.reasons import Reason

ALL = Options(ignore_magnitude=True, convert=frozenset(("loha", "lokr")))


def written(path: Path, content: Any) -> str:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    (path / "adapter_config.json").write_bytes(raw)
    return str(path / "adapter_config.json")


def lora(**fields: Any) -> dict[str, Any]:
    return {"peft_type": "LORA", **fields}


MALFORMED: dict[str, Any] = {
    "nothing": b"",
    "a list": [],
    "a number": 5,
    "no UTF-8": b'{"peft_type": "LORA\xff"}',
    "UTF-16": '{"peft_type": "LORA"}'.encode("utf-16"),
    "deep lists": b'{"peft_type": "LORA", "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "deep objects": b'{"a":' * 200_000,
    "a key twice": b'{"peft_type": "LORA", "r": 8, "r": 16}',
    "a key twice, deeper": b'{"peft_type": "LORA", "rank_pattern": {"q": 8, "q": 16}}',
    "a number of 10,000 digits": b'{"peft_type": "LORA", "r": ' + b"9" * 10_000 + b"}",
    "ten megabytes": lora(target_modules=["q" * 100] * 100_000),
    "no type": {"r": 8},
    "a list as type": {"peft_type": [["LORA"]] * 1000},
    "a rank of a million": lora(r=1_000_000),
    "a rank of 4,000 digits": b'{"peft_type": "LORA", "r": ' + b"9" * 4000 + b"}",
    "no rank": lora(r=0),
    "a negative rank": lora(r=-8),
    "a rank that is true": lora(r=True),
    "a rank in words": lora(r="8"),
    "a rank with a fraction": lora(r=8.0),
    "ranks": lora(r=[8]),
    "an alpha of NaN": lora(lora_alpha=float("nan")),
    "an infinite alpha": b'{"peft_type": "LORA", "lora_alpha": 1e999}',
    "an alpha of 4,000 digits": b'{"peft_type": "LORA", "lora_alpha": ' + b"9" * 4000 + b"}",
    "an alpha in words": lora(lora_alpha="16"),
    "no alpha": lora(lora_alpha=None),
    "rslora in words": lora(use_rslora="yes"),
    "patterns in a list": lora(rank_pattern=["q"]),
    "a pattern of NaN": lora(alpha_pattern={"q": float("nan")}),
    "no pattern": lora(rank_pattern={"(": 8}),
    "a repeated group": lora(rank_pattern={"(a+)+b": 8}),
    "many options": lora(rank_pattern={"a?" * 25 + "a" * 25: 8}),
    "many alternatives": lora(rank_pattern={"(a|aa)" * 25: 8}),
    "a hundred thousand patterns": lora(rank_pattern={f"m{i}": 8 for i in range(100_000)}),
    "a base with line breaks": lora(base_model_name_or_path="a\nb"),
    "half a character": b'{"peft_type": "LORA", "base_model_name_or_path": "\\ud800"}',
    "a base of another type": lora(base_model_name_or_path={"a": [1] * 1000}),
    "an unknown start": lora(init_lora_weights={"a": [1] * 1000}),
    "LoHa's alpha": {"peft_type": "LOHA", "alpha": None},
    "LoKr's rank": {"peft_type": "LOKR", "r": 1 << 40},
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_configurations_are_refused(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, MALFORMED[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Refusal) as caught:
        read_config(path, ALL)
    assert caught.value.reason is Reason.BAD_CONFIG
    assert len(caught.value.detail) <= 400 and "\n" not in caught.value.detail
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "adapter_config.json")
    with pytest.raises(Refusal) as caught:
        read_config(str(tmp_path / "adapter_config.json"), ALL)
    assert caught.value.reason is Reason.UNREADABLE


def test_patterns_that_people_write_are_read(tmp_path: Path) -> None:
    patterns = {
        r"^model.decoder.layers.0.encoder_attn.k_proj": 4,
        r".*\.(q_proj|k_proj)": 5,
        r"layers\.(?:1[0-9]|2[0-9])\.mlp\.(up|down)_proj": 6,
        r"down_blocks\.\d+\.attentions\.\d+\.proj_in": 7,
    }
    read = read_config(written(tmp_path, lora(r=3, rank_pattern=patterns)), ALL).settings
    names = {
        "model.decoder.layers.0.encoder_attn.k_proj": 4,
        "model.layers.1.self_attn.q_proj": 5,
        "model.layers.17.mlp.up_proj": 6,
        "unet.down_blocks.2.attentions.1.proj_in": 7,
        "model.layers.1.self_attn.v_proj": 3,
    }
    assert {name: read.rank(name) for name in names} == names


@pytest.mark.parametrize(
    ("fields", "scale"),
    [({"alpha": 3, "r": 2}, 1.5), ({}, 1.0), ({"lora_alpha": 99, "use_rslora": True, "init_weights": "lycoris"}, 1.0)],
)
def test_lycoris_methods_have_fields_of_their_own(tmp_path: Path, fields: dict[str, Any], scale: float) -> None:
    for kind in ("LOHA", "lokr"):
        config = read_config(written(tmp_path, {"peft_type": kind, **fields}), ALL)
        assert (config.peft_type, config.settings.scale("x")) == (kind.upper(), scale)


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=9), inner, max_size=3)),
    max_leaves=6,
)
FIELDS = st.sampled_from(
    ("r", "lora_alpha", "alpha", "rank_pattern", "alpha_pattern", "use_dora", "use_rslora", "init_lora_weights")
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(("LORA", "LOHA", "LOKR", "IA3")), st.dictionaries(FIELDS, VALUES, max_size=4))
def test_whatever_a_configuration_says_it_is_read_or_refused(tmp_path: Path, kind: str, fields: dict[str, Any]) -> None:
    try:
        config = read_config(written(tmp_path, {"peft_type": kind, **fields}), ALL)
    except Refusal as refusal:
        assert refusal.detail and "\n" not in refusal.detail
        return
    assert isinstance(config.settings.scale("model.layers.0.q"), float) and config.settings.rank("q") > 0
