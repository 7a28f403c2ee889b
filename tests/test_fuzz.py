"""Whatever comes from outside ends as a reason or a success: quickly, in bounded memory, and inside the zoo."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ingest.errors import EigenzooError
from ingest.formats import FORMATS
from ingest.settings import Settings
from ingest.store.reader import open_zoo
from tests.fuzz.corpus import UNET_CONFIG, corpus
from tests.fuzz.mutations import Mutation, mutations
from tests.fuzz.target import run

FOREVER = 60.0
STRICT = Settings()
FREE = Settings(
    allow_pickle=True, ignore_magnitude=True, convert=frozenset({"loha", "lokr"}), renames=("layers=body", "a.a=a")
)


def allowed(work: Path) -> Settings:
    """Everything allowed, and a UNet's configuration."""
    (work / "unet.json").write_text(json.dumps(UNET_CONFIG))
    return dataclasses.replace(FREE, unet_config=str(work / "unet.json"))


def test_the_corpus_has_every_format(tmp_path: Path) -> None:
    found = set()
    for name, files in corpus().items():
        work = tmp_path / name
        work.mkdir()
        run(files, work, allowed(work), FOREVER)
        found |= {record.format for record in open_zoo(work / "zoo").accepted}
    assert found == {entry.name for entry in FORMATS}


@pytest.mark.parametrize("name", sorted(corpus()))
def test_the_corpus_itself_comes_in(name: str, tmp_path: Path) -> None:
    run(corpus()[name], tmp_path, allowed(tmp_path), FOREVER)  # the first of a kind pays for imports
    shutil.rmtree(tmp_path / "in")
    shutil.rmtree(tmp_path / "zoo")
    assert "ok" in run(corpus()[name], tmp_path, allowed(tmp_path), FOREVER)


def hammer(count: int, derandomize: bool, seconds: float) -> Counter[str]:
    """Run so many inputs, each within so many seconds of processor time; how often each outcome was."""
    outcomes: Counter[str] = Counter()
    for name in corpus():  # imports are nobody's memory or time
        with tempfile.TemporaryDirectory() as work:
            run(corpus()[name], Path(work), allowed(Path(work)), FOREVER)

    @settings(
        max_examples=count,
        derandomize=derandomize,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),  # a failure is printed as drawn: shrinking takes minutes
    )
    @given(st.sampled_from(sorted(corpus())), mutations(), st.booleans())
    def hostile(name: str, changes: list[Mutation], free: bool) -> None:
        files = corpus()[name]
        for mutation in changes:
            files = mutation.change(files)
        with tempfile.TemporaryDirectory() as work:
            try:
                outcomes.update(run(files, Path(work), allowed(Path(work)) if free else STRICT, seconds))
            except EigenzooError as error:  # a folder without a candidate
                assert "no adapter in it" in str(error) and "\n" not in str(error)
                outcomes["no candidate"] += 1

    hostile()
    return outcomes


def test_some_hundred_hostile_inputs() -> None:
    outcomes = hammer(400, derandomize=True, seconds=20.0)
    assert outcomes["ok"] > 20 and len(outcomes) > 8, outcomes


@pytest.mark.slow
def test_ten_thousand_hostile_inputs() -> None:
    outcomes = hammer(10_000, derandomize=False, seconds=1.0)
    print(dict(outcomes))
    assert outcomes["ok"] > 500 and len(outcomes) > 12, outcomes
