"""A folder that somebody else may have prepared is not used."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ingest.errors import EigenzooError
from ingest.private import private_folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_made_for_this_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "staging"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(private_folder, [str(folder)] * 32))
    assert mode(folder) == 0o700 and mode(folder.parent) != 0o700


def test_one_that_is_open_to_others_is_closed(tmp_path: Path) -> None:
    folder = tmp_path / "staging"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "kept").write_text("x")
    private_folder(str(folder))
    assert mode(folder) == 0o700 and (folder / "kept").exists()


@pytest.mark.parametrize("what", ["link", "dangling", "file", "somebody's", "below a file"])
def test_what_is_not_trusted_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    path = tmp_path / "staging"
    if what == "link":
        (tmp_path / "elsewhere").mkdir()
    if what in ("link", "dangling"):
        path.symlink_to(tmp_path / "elsewhere")
    elif what == "somebody's":
        path.mkdir()
        monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    else:
        path.write_text("")
        path = path / "deeper" if what == "below a file" else path
    with pytest.raises(EigenzooError, match="give another --staging") as caught:
        private_folder(str(path))
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert not (tmp_path / "elsewhere").exists() or mode(tmp_path / "elsewhere") != 0o700
