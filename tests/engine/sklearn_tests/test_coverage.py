"""Every test of the originals is restated or listed with a reason, and none is both."""

from __future__ import annotations

import re
from types import ModuleType

import pytest

from tests.engine.sklearn_tests import test_extmath, test_incremental_pca, test_pca
from tests.engine.sklearn_tests.not_applicable import NOT_APPLICABLE
from tests.engine.sklearn_tests.originals import ORIGINALS

RESTATED = {
    "test_pca.py": test_pca,
    "test_incremental_pca.py": test_incremental_pca,
    "test_extmath.py": test_extmath,
}


def named_by(module: ModuleType) -> dict[str, list[str]]:
    """Of each test its originals: the names its docstring begins with, joined by "and"."""
    tests = {name: test for name, test in vars(module).items() if name.startswith("test_")}
    found = {name: re.match(r"test_\w+(?: and test_\w+)*", test.__doc__ or "") for name, test in tests.items()}
    return {name: match[0].split(" and ") if match else [] for name, match in found.items()}


@pytest.mark.parametrize("file", ORIGINALS)
def test_every_original_has_its_place(file: str) -> None:
    named = named_by(RESTATED[file])
    assert all(named.values()), f"no original named by {[name for name, names in named.items() if not names]}"
    restated = {name for names in named.values() for name in names}
    listed = NOT_APPLICABLE[file]
    assert all(listed.values())
    assert not restated & set(listed)
    assert restated | set(listed) == set(ORIGINALS[file])
