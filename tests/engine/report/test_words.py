from __future__ import annotations

import pytest

from engine.report.words import rule


@pytest.mark.parametrize(("k", "share"), [("ev:0.8", "80 %"), ("ev:0.07", "7 %"), ("ev:0.9999999", "99.99999 %")])
def test_a_share_is_not_rounded_away(k: str, share: str) -> None:
    assert rule(k) == f"the fewest components with {share} of the variance"
