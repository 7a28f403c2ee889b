"""Whatever comes from outside ends as a reason or a success: quickly, in bounded memory, and inside the zoo."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ingest.errors import EigenzooError
from ingest.settings import Settings
from tests.fuzz.corpus import corpus
from tests.fuzz.mutations import Mutation, mutations
from tests.fuzz.target import run

FOREVER = 60.0
ALLOWED = Settings(allow_pickle=True, ignore_magnitude=True, convert=frozenset({"loha", "lokr"}))


@pytest.mark.parametrize("name", sorted(corpus()))
def test_the_corpus_itself_comes_in(name: str, tmp_path: Path) -> None:
    run(corpus()[name], tmp_path, ALLOWED, FOREVER)  # the first of a kind pays for imports
    shutil.rmtree(tmp_path / "in")
    shutil.rmtree(tmp_path / "zoo")
    assert "ok" in run(corpus()[name], tmp_path, ALLOWED, FOREVER)


def hammer(count: int, derandomize: bool, seconds: float) -> Counter[str]:
    """Run so many inputs, each within so many seconds of processor time; how often each outcome was."""
    outcomes: Counter[str] = Counter()
    for name in corpus():  # imports are nobody's memory or time
        with tempfile.TemporaryDirectory() as work:
            run(corpus()[name], Path(work), ALLOWED, FOREVER)

    @settings(
        max_examples=count,
        derandomize=derandomize,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),  # a failure is printed as drawn: shrinking takes minutes
    )
    @given(st.sampled_from(sorted(corpus())), mutations(), st.booleans())
    def hostile(name: str, changes: list[Mutation], allowed: bool) -> None:
        files = corpus()[name]
        for mutation in changes:
            files = mutation.change(files)
        with tempfile.TemporaryDirectory() as work:
            try:
                outcomes.update(run(files, Path(work), ALLOWED if allowed else Settings(), seconds))
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
