"""What is so of a folder alone: links, folders, disks that fill, and a lock that dies with its holder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingest.errors import EigenzooError
from ingest.storage import DIRTY, LOCK, PARTIAL, open_storage

HOLD = """
import sys, time
from ingest.storage import open_storage
storage = open_storage(sys.argv[1])
storage.acquire()
storage.write("x", [b"1"])
print("ready", flush=True)
time.sleep(600)
"""


def test_a_killed_writer_leaves_the_lock_and_word_of_it(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "z")], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "ready\n"
        storage = open_storage(tmp_path / "z")
        with pytest.raises(EigenzooError, match="another process is writing to this zoo; wait"):
            storage.acquire()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    assert storage.acquire() is True
    storage.release(clean=True)
    assert storage.acquire() is False
    storage.release(clean=True)


def test_a_zoo_in_which_nothing_was_written_does_not_stay(tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "z")
    storage.acquire()
    assert sorted(os.listdir(storage.url)) == sorted([LOCK, DIRTY])
    storage.write("made/here/x", [b"1"])
    os.unlink(tmp_path / "z/made/here/x")
    storage.release(clean=True)
    assert not (tmp_path / "z").exists()


def test_folders_that_were_there_before_stay(tmp_path: Path) -> None:
    (tmp_path / "z/data/empty").mkdir(parents=True)
    storage = open_storage(tmp_path / "z")
    storage.acquire()
    storage.release(clean=True)
    assert [p.name for p in (tmp_path / "z").rglob("*")] == ["data", "empty"]
    (tmp_path / "e").mkdir()
    storage = open_storage(tmp_path / "e")
    storage.acquire()
    storage.release(clean=True)
    assert (tmp_path / "e").is_dir()


def test_nothing_is_written_or_removed_through_a_linked_folder(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/x").write_bytes(b"mine")
    (tmp_path / "real").mkdir()
    (tmp_path / "z").symlink_to("real")  # the zoo itself may be one
    storage = open_storage(tmp_path / "z")
    storage.write("a/x", [b"1"])
    (tmp_path / "z/linked").symlink_to(tmp_path / "outside")
    for name in ("linked/x", "linked/new/y"):
        with pytest.raises(EigenzooError, match="is a link to elsewhere; put the folder itself in its place$"):
            storage.write(name, [b"2"])
    storage.delete(["linked/x"])
    assert [(p.name, p.read_bytes()) for p in (tmp_path / "outside").iterdir()] == [("x", b"mine")]
    assert storage.read("a/x") == b"1"


def test_a_lock_whose_file_was_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening the file and locking it, who held it removes it, and a third one makes and locks its own."""
    import filelock

    acquire, third = filelock.FileLock.acquire, open_storage(tmp_path / "z")

    def late(lock: filelock.FileLock, *arguments: float, **named: float) -> object:
        done = acquire(lock, *arguments, **named)
        monkeypatch.undo()
        os.unlink(tmp_path / "z" / LOCK)
        third.acquire()
        return done

    monkeypatch.setattr(filelock.FileLock, "acquire", late)
    with pytest.raises(EigenzooError, match="another process is writing to this zoo"):
        open_storage(tmp_path / "z").acquire()
    third.release(clean=True)
    assert open_storage(tmp_path / "z").acquire() is False


def test_folders_go_with_their_last_file(tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "z")
    for name in ("a/b/c", "a/d"):
        storage.write(name, [b"1"])
    (tmp_path / "z" / "void").mkdir()
    storage.delete(["a/b/c", "void"])
    assert sorted(os.listdir(tmp_path / "z")) == ["a"] and os.listdir(tmp_path / "z" / "a") == ["d"]
    storage.delete(["a"])
    assert storage.exists("a/d")


@pytest.mark.parametrize("name", ["x", f"x{PARTIAL}", DIRTY])
def test_nothing_is_written_through_a_link(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / name).symlink_to(outside)
    storage = open_storage(tmp_path / "z")
    storage.acquire()
    storage.write("x", [b"zoo"])
    storage.release(clean=True)
    assert outside.read_bytes() == b"mine" and storage.read("x") == b"zoo"
    assert sorted(os.listdir(tmp_path / "z")) == sorted([LOCK, "x"])


def test_a_pipe_is_no_file_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    storage = open_storage(tmp_path)
    assert not storage.exists("pipe")
    with pytest.raises(OSError, match="no regular file"):
        storage.read("pipe")


def test_a_file_cannot_be_a_zoo(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    storage = open_storage(tmp_path / "f")
    with pytest.raises(NotADirectoryError):
        storage.read("zarr.json")
    with pytest.raises(EigenzooError, match="cannot write there"):
        storage.acquire()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_leaves_no_partial_file(small_disk: Path) -> None:
    storage = open_storage(small_disk / "z")
    storage.acquire()
    storage.write("kept", [b"k" * 1000])
    with pytest.raises(EigenzooError) as caught:
        storage.write("a/b", [b"x" * 600_000, b"x" * 600_000])
    text = f"{storage.url}: cannot write 'a/b' (No space left on device); make room there, then run again"
    assert str(caught.value) == text
    assert os.listdir(small_disk / "z" / "a") == [] and storage.read("kept") == b"k" * 1000
    storage.write("a/b", [b"x" * 600_000])
    storage.release(clean=True)


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder that may be read only, and no right to more."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "z").mkdir()
        Path(folder, "z", "x").write_bytes(b"1")
        Path(folder, "z", "closed").mkdir(mode=0o700)
        os.chmod(folder, 0o755)
        os.chmod(Path(folder, "z"), 0o555)
        user = os.geteuid()
        if user:
            os.chmod(Path(folder, "z", "closed"), 0o000)
        if user == 0:
            os.seteuid(65534)
        try:
            yield Path(folder, "z")
        finally:
            if user == 0:
                os.seteuid(0)
            os.chmod(Path(folder, "z"), 0o755)
            os.chmod(Path(folder, "z", "closed"), 0o755)


def test_permission_denied_is_one_line(nobody: Path) -> None:
    storage = open_storage(nobody)
    with pytest.raises(EigenzooError, match=r"cannot write there \(Permission denied\); give another --zoo$"):
        storage.acquire()
    with pytest.raises(EigenzooError, match=r"cannot write 'y' \(Permission denied\); its permissions must"):
        storage.write("y", [b"1"])
    with pytest.raises(EigenzooError, match=r"cannot remove 'x' \(Permission denied\)"):
        storage.delete(["x"])
    assert storage.read("x") == b"1"
    for act in (lambda: [*storage.list()], lambda: storage.exists("closed/y")):
        with pytest.raises(EigenzooError, match=r"cannot read .* \(Permission denied\)") as caught:
            act()
        assert isinstance(caught.value, OSError)
