from __future__ import annotations

import io
import json
import os
import sys

import pytest

from engine.cli import output
from engine.cli.output import Meter, emit_json


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_json_gets_through_a_strict_output(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = os.fsdecode(b"caf\xe9-") + "é × \N{SNAKE}"
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding, errors="strict"))
    emit_json({"name": name})
    sys.stdout.flush()
    assert json.loads(raw.getvalue()) == {"name": name}


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


NAME = "q[red]x[/nothing] :smile: {0} \x1b[31m\u202e\\"
SHOWN = "q[red]x[/nothing] :smile: {0} \\u001b[31m\\u202e\\"


def test_a_meter_shows_names_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names from other people's files: a terminal obeys none of it."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    screen, log = Screen(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    with Meter("fit", "matrices") as meter:
        meter.update(1, 3, NAME)
    assert SHOWN in screen.getvalue() and "\x1b[31m\u202e" not in screen.getvalue()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(output, "LOG_SECONDS", -1.0)
    with Meter("fit", "matrices") as meter:
        meter.update(1, 3, NAME)
    assert SHOWN in log.getvalue() and "\x1b" not in log.getvalue()
