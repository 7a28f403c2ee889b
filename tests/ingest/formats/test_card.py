"""Licence and base model from what lies beside the weights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ingest.formats.card import Card, read_card


@pytest.mark.parametrize(
    "readme, card",
    [
        ("---\nlicense: apache-2.0\n---\n", Card("apache-2.0", None)),
        ("\ufeff---\r\nlicense:   'mit' \r\n---\r\n", Card("mit", None)),
        (
            "---\ntags:\n- a\nlicense:\n- cc-by-4.0\n- mit\nbase_model:\n  - x/y\n---\n",
            Card("cc-by-4.0", "x/y"),
        ),
        ('---\nlicense: [mit, x]\nbase_model: "x/y" # note\n---\n', Card("mit", "x/y")),
        ("---\nlicense: other\nlicense_name: llama3\n---\n", Card("llama3", None)),
        ("---\nlicense: other\n---\n", Card("other", None)),
        ("---\nmodel:\n  license: nested\n---\n", Card(None, None)),
        ("---\ntitle: x\n---\nlicense: below\n", Card(None, None)),
        ("license: mit\n", Card(None, None)),
        ("---\nlicense:\n---\n", Card(None, None)),
        ("", Card(None, None)),
    ],
)
def test_front_matter(tmp_path: Path, readme: str, card: Card) -> None:
    (tmp_path / "README.md").write_bytes(readme.encode())
    assert read_card(str(tmp_path)) == card


def test_a_licence_file_speaks_where_the_readme_does_not(tmp_path: Path) -> None:
    assert read_card(str(tmp_path)) == Card(None, None)
    (tmp_path / "LICENSE").write_text("\n\n   # " + "long " * 40 + "\nmore")
    licence = read_card(str(tmp_path)).licence
    assert licence is not None and licence.startswith("long long") and len(licence) == 80 and licence[-1] == "…"
    (tmp_path / "LICENSE").write_text("\n  MIT License\n\nCopyright")
    assert read_card(str(tmp_path)).licence == "MIT License"
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert read_card(str(tmp_path)).licence == "apache-2.0"


@pytest.mark.parametrize(
    "readme, card",
    [
        ("---\nlicense: mit" + " " * 60_000 + "x\nbase_model: a/b\n---\n", Card("mit" + " " * 77, "a/b")),
        ("---\nlicense: \x1b[31mmit\nbase_model: a\u200bb\n---\n", Card(None, None)),
        ("---\n" + "license:\n" * 5_000 + "- mit\n---\n", Card("mit", None)),
    ],
)
def test_what_strangers_write(tmp_path: Path, readme: str, card: Card) -> None:
    (tmp_path / "README.md").write_text(readme)
    (tmp_path / "LICENSE").write_text("\x1b[31m\n")
    assert read_card(str(tmp_path)) == card


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "README.md")
    (tmp_path / "LICENSE").mkdir()
    assert read_card(str(tmp_path)) == Card(None, None)
