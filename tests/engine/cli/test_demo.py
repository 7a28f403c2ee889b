"""What `eigenzoo demo` may delete."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from engine.cli import main
from engine.cli.demo import MARKER, PARTS, make_room


@pytest.mark.parametrize("part", [*PARTS, "notes", ".hidden"])
def test_a_folder_that_no_demo_wrote_is_left_alone(
    part: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / part).mkdir()
    (tmp_path / part / "mine").write_text("x")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    out, err = capfd.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and "give a new path" in err
    assert (tmp_path / part / "mine").exists() and not (tmp_path / MARKER).exists()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises(typer.BadParameter, match="a file"):
        make_room(tmp_path / "x")


def test_a_new_or_empty_folder_is_marked_and_a_marked_one_cleared(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/kept").write_text("x")
    for folder in (tmp_path / "empty", tmp_path / "a/new"):
        make_room(folder)
        assert [p.name for p in folder.iterdir()] == [MARKER]
        (folder / "adapters").symlink_to(tmp_path / "mine", target_is_directory=True)
        (folder / "run/matrices").mkdir(parents=True)
        (folder / "notes").write_text("x")
        make_room(folder)
        assert {p.name for p in folder.iterdir()} == {MARKER, "notes"}
    assert (tmp_path / "mine/kept").exists(), "a link goes, not what it points to"
