"""What a file system can do to an ingest: pipes, folders and links for files, a full disk, no permission, odd names."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ingest.errors import EigenzooError
from ingest.pipeline import ingest
from ingest.reasons import Reason
from ingest.store.reader import open_zoo
from ingest.verify import verify
from tests.ingest.builders import factors, write_peft_folder

NOBODY = 65534


def adapter(folder: Path, seed: int = 0, layers: Iterable[int] = range(3), head: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    extras = {"base_model.model.head.weight": rng.standard_normal(head).astype(np.float32)} if head else {}
    write_peft_folder(folder, {f"layers.{i}.q": factors(rng, 4, 24, 16) for i in layers}, extras=extras)
    return folder


def outcome(source: Path, zoo: Path) -> dict[str, str]:
    """Name → reason, empty for who came in."""
    result = ingest(source, zoo)
    assert verify(open_zoo(zoo)).problems == ()
    return {**dict.fromkeys(result.added, ""), **{r.name: r.reason for r in result.refused}}


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "README.md", "LICENSE"])
def test_a_pipe_in_place_of_a_file_stops_nothing(tmp_path: Path, name: str) -> None:
    adapter(tmp_path / "in" / "good")
    bad = adapter(tmp_path / "in" / "pipe", seed=1)
    (bad / name).unlink(missing_ok=True)
    os.mkfifo(bad / name)
    code = f"import sys; sys.path.insert(0, {os.getcwd()!r})\nfrom ingest.pipeline import ingest\n"
    code += "print(*(r.name + ' ' + r.reason for r in ingest(sys.argv[1], sys.argv[2]).refused))"
    arguments = [sys.executable, "-c", code, str(tmp_path / "in"), str(tmp_path / "z")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() in ("pipe unreadable", "")
    assert ("pipe" in done.stdout) == (name.startswith("adapter"))


def test_folders_in_place_of_files(tmp_path: Path) -> None:
    adapter(tmp_path / "in" / "good")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        bad = adapter(tmp_path / "in" / name.partition(".")[0], seed=1)
        (bad / name).unlink()
        (bad / name).mkdir()
    found = outcome(tmp_path / "in", tmp_path / "z")
    assert found.pop("good") == "" and all(found.values())
    assert set(found) == {"adapter_model", "adapter_config"}


def test_names_of_every_kind(tmp_path: Path) -> None:
    names = ["é" * 120, "a b", "-rf", "%2e%2e", "\u202egnp", "tab\tin", "new\nline", "x" * 255, "日本語", "*?["]
    names.append(os.path.join(*("deep" * 20 for _ in range(8))))  # over 600 bytes in all
    for i, name in enumerate(names):
        adapter(tmp_path / "in" / name, seed=i)
    raw = os.fsencode(tmp_path / "in") + b"/not-utf8-\xff\xfe"
    adapter(Path(os.fsdecode(raw)), seed=99)
    found = outcome(tmp_path / "in", tmp_path / "z")
    assert len(found) == len(names) + 1 and set(found.values()) == {""}
    assert outcome(tmp_path / "in", tmp_path / "z") == {}
    opened = open_zoo(tmp_path / "z")
    for record in opened.accepted:
        assert len(list(opened.adapter(record.name))) == 3 and opened.config(record.name)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ingest.pipeline as pipeline

    adapter(tmp_path / "in" / "good")
    shrinking = adapter(tmp_path / "in" / "shrinking", seed=1) / "adapter_model.safetensors"
    plan = pipeline.plan

    def plan_then_cut(*args: object, **kw: object) -> object:
        made = plan(*args, **kw)  # type: ignore[arg-type]
        os.truncate(shrinking, shrinking.stat().st_size // 2)
        return made

    monkeypatch.setattr(pipeline, "plan", plan_then_cut)
    found = outcome(tmp_path / "in", tmp_path / "z")
    assert found["good"] == "" and found["shrinking"] in (Reason.TRUNCATED, Reason.CHANGED)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of four MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("what", ["heads", "rows"])
def test_a_disk_that_fills_loses_nothing(tmp_path: Path, small_disk: Path, what: str) -> None:
    adapter(tmp_path / "first" / "a")
    for i in range(8):
        if what == "heads":
            adapter(tmp_path / "more" / f"b{i}", seed=i + 1, head=300_000)
        else:
            adapter(tmp_path / "more" / f"b{i}", seed=i + 1, layers=range(24 * i, 24 * i + 24))
    zoo = small_disk / "z"
    ingest(tmp_path / "first", zoo)
    with pytest.raises(EigenzooError, match=r"No space left") as caught:
        ingest([tmp_path / "more"], zoo)
    assert "\n" not in str(caught.value) and str(zoo) in str(caught.value)
    left = open_zoo(zoo)
    assert [r.name for r in left.accepted] == ["a"] and verify(left).problems == ()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert outcome(tmp_path / "more", zoo) == {f"b{i}": "" for i in range(8)}
    assert not list(zoo.rglob("*.partial")) and not (zoo / "staging").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody without permission")
def test_without_permission(tmp_path: Path) -> None:
    adapter(tmp_path / "warm" / "up")
    adapter(tmp_path / "in" / "good")
    for name in ("closed-folder", "closed-file", "closed-config"):
        adapter(tmp_path / "in" / name, seed=1)
    for file in (tmp_path / "in").rglob("*.*"):
        os.chmod(file, 0o644)  # safetensors' own writer leaves files to their owner alone
    for name in ("closed-folder", "closed-file/adapter_model.safetensors", "closed-config/adapter_config.json"):
        os.chmod(tmp_path / "in" / name, 0)
    (tmp_path / "out").mkdir()
    os.chown(tmp_path / "out", NOBODY, NOBODY)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and not folder.stat().st_mode & 0o001:
            os.chmod(folder, folder.stat().st_mode | 0o055)
    code = f"""
import os, sys
sys.path.insert(0, {os.getcwd()!r})
from ingest.errors import EigenzooError
from ingest.pipeline import ingest
warm, source, zoo, sealed = sys.argv[1:]
ingest(warm, warm + ".zarr")
os.setgid({NOBODY}); os.setuid({NOBODY})
result = ingest(source, zoo)
print(*result.added, *(f"{{r.name}}={{r.reason}}" for r in result.refused))
try:
    ingest(source, sealed)
except EigenzooError as error:
    print(error)
"""
    paths = [str(tmp_path / name) for name in ("warm", "in", "out/z", "sealed")]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    unreadable = [f"closed-{what}=unreadable" for what in ("config", "file", "folder")]
    assert sorted(first.split()) == [*unreadable, "good"]
    assert "sealed" in second and "Permission denied" in second
