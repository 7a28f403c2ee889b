from __future__ import annotations

import io
import json
import os
import sys

import pytest

from engine.cli.output import emit_json


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_json_gets_through_a_strict_output(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = os.fsdecode(b"caf\xe9-") + "é × \N{SNAKE}"
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, errors="strict"))
    emit_json({"name": name})
    sys.stdout.flush()
    assert json.loads(raw.getvalue()) == {"name": name}
