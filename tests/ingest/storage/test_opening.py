"""Which place a path or URL names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ingest.errors import EigenzooError
from ingest.storage import is_remote, open_storage


def test_paths_and_file_urls_are_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_storage("a/../b").url == str(tmp_path / "b")
    assert open_storage(tmp_path / "b").url == str(tmp_path / "b")
    assert open_storage(f"file://{tmp_path}/a%20b").url == f"{tmp_path}/a b"
    assert open_storage(f"FILE://localhost{tmp_path}").url == str(tmp_path)
    assert not is_remote("c:/x") and not is_remote("file:///x") and not is_remote(Path("s3:/x"))
    assert is_remote("s3://b/x") and is_remote("S3://b")


def test_object_urls_are_kept_without_their_last_slash() -> None:
    assert open_storage("S3://bucket/a b/c/").url == "s3://bucket/a b/c"
    assert open_storage("gs://bucket").url == "gs://bucket"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "path is empty"),
        ("a\0b", "is no path"),
        ("ftp://host/x", "ftp://host/x: no known kind of storage; give a folder, or a URL with s3://"),
        ("file://elsewhere/x", "names another machine"),
        ("s3://", "not of the form"),
        ("s3:///x", "names no bucket"),
        ("s3://bucket/a//b", "without empty parts"),
        ("s3://bucket/../b", "without empty parts"),
        ("s3://bucket/x?y=1", "not of the form"),
        ("s3://key:secret@bucket/x", "credentials come from the environment"),
        ("s3://bucket/\n", "not of the form"),
        ("abfss://box@name.dfs.core.windows.net/x", "give az://container/prefix, and the account as"),
    ],
)
def test_what_names_no_place_is_refused_in_one_line(url: str, words: str) -> None:
    with pytest.raises(EigenzooError, match=words) as caught:
        open_storage(url)
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_opening_makes_nothing(tmp_path: Path) -> None:
    open_storage(tmp_path / "z")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("text", ["s3:/bucket/zoo", "file:/folder"])
def test_one_slash_is_a_slip(text: str) -> None:
    with pytest.raises(EigenzooError, match="a URL has two slashes"):
        open_storage(text)


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in ("file", "file/zoo"):
        with pytest.raises(EigenzooError, match="give a folder"):
            list(open_storage(tmp_path / place).list())
