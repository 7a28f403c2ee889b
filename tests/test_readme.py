"""Every command and every Python block of the README runs, in its order, and prints what the README says."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.cli import main
from ingest import synthetic
from tests.ingest.hub.server import HubServer

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(console|python|text)\n(.*?)```", README, flags=re.S)
pytestmark = pytest.mark.xdist_group("readme")


@pytest.fixture
def place(tmp_path: Path, hub: HubServer, s3_url: str) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder with the files that the README speaks of, and what stands for its addresses: a scheduler, a bucket.

    The repositories that it speaks of are on the tests' Hub.
    """
    from distributed import LocalCluster

    synthetic.write(tmp_path / "adapters")
    (tmp_path / "k.json").write_text(json.dumps({"layers.0.mlp.down_proj": {"A": 8, "B": 3}}))
    for name, task in (("lora-one", "task-0001"), ("lora-two", "task-0002"), ("lora-three", "task-0003")):
        hub.add_folder(f"some-org/{name}", tmp_path / "adapters" / task)
    (tmp_path / "names.txt").write_text("some-org/lora-three\n")
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        yield tmp_path, {"tcp://127.0.0.1:8786": cluster.scheduler_address, "s3://my-bucket": s3_url}


def steps() -> Iterator[tuple[str, list[str]]]:
    """Each command with the lines of output that the README shows for it."""
    for kind, text in BLOCKS:
        if kind != "console":
            continue
        command, shown = "", []
        for line in [*text.splitlines(), "$ "]:
            if line.startswith("$ "):
                if command:
                    yield command, shown
                command, shown = line[2:], []
            else:
                shown.append(line)


def test_the_whole_readme(
    place: tuple[Path, dict[str, str]], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, addresses = place
    monkeypatch.chdir(folder)
    ran = 0
    for command, shown in steps():
        for shown_address, address in addresses.items():
            command = command.replace(shown_address, address)
        program, *arguments = shlex.split(command)
        if program == "ln":
            continue  # the adapters are there already
        if program == "make":
            dry = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True)
            assert dry.returncode == 0, dry.stderr
            continue
        assert program == "eigenzoo", command
        capfd.readouterr()
        assert main(arguments) == 0, command
        printed = capfd.readouterr().out
        if "--json" in arguments:
            json.loads(printed)
        for line in shown:
            assert line == "…" or line in printed.splitlines(), f"{command} did not print {line!r}"
        ran += 1
    assert ran >= 18
    python = [text for kind, text in BLOCKS if kind == "python"]
    assert len(python) == 2
    for text in python:
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, env=_environment())
        assert done.returncode == 0, done.stderr


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_the_demo_prints_what_the_readme_shows(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0
    printed = capfd.readouterr().out.replace(str(tmp_path / "demo"), "demo").splitlines()
    shown = next(text for kind, text in BLOCKS if kind == "text" and "planted K" in text)
    for line in shown.splitlines():
        assert line.strip() == "…" or line in printed, line


def test_every_command_is_documented() -> None:
    from engine.cli.app import app

    for command in app.registered_commands:
        assert command.callback is not None
        assert re.search(rf"(eigenzoo|make) {command.callback.__name__}\b", README), command.callback.__name__
        assert command.epilog and command.epilog.startswith("Example:  eigenzoo ")


def test_every_reason_is_documented() -> None:
    from ingest.reasons import Reason

    for reason in Reason:
        assert f"`{reason.value}`" in README, reason


def test_the_project_speaks_of_itself_alone() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    for name in tracked.stdout.split():
        path = ROOT / name
        if path.suffix != ".png" and path.exists():
            assert not re.search(r"/(work|root|home)/[a-z]", path.read_text(encoding="utf-8")), name
    assert not re.search(r"@[A-Z]+@", README), "a placeholder was left"
