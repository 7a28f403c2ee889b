"""peft's rank_pattern and alpha_pattern: regular expressions from strangers, matched as peft matches them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from ingest.errors import Refusal
from ingest.reasons import Reason

_MAX_PATTERNS = 4096
_MAX_CHOICES = 3


def patterns(value: Any, key: str, where: str) -> list[tuple[str, Any]]:
    """The pairs (pattern, value) of a configuration's `rank_pattern` or `alpha_pattern`, the values unchecked.

    Raises
    ------
    Refusal
        `bad-config`.
    """
    if value is None:
        return []
    if not isinstance(value, dict):
        raise Refusal(Reason.BAD_CONFIG, f"{where}: {key} is a {type(value).__name__}, expected an object")
    if len(value) > _MAX_PATTERNS:
        raise Refusal(Reason.BAD_CONFIG, f"{where}: {key} has {len(value)} patterns, at most {_MAX_PATTERNS}")
    for pattern in value:
        if not _tame(pattern):
            raise Refusal(
                Reason.BAD_CONFIG,
                f"{where}: {key} has {pattern[:60]!r}, a regular expression that could take for ever; simplify it",
            )
        try:
            _compiled(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise Refusal(
                Reason.BAD_CONFIG, f"{where}: {key} has the invalid regular expression {pattern[:60]!r} ({error})"
            ) from error
    return list(value.items())


def _tame(pattern: str) -> bool:
    """Whether a pattern from a stranger is matched in reasonable time: no repeated group, few choices, not long.

    Python's matcher backtracks, so "(a+)+" takes time exponential in a name's length, n repeats its n-th power, and
    each optional part or group of alternatives multiplies the ways to try.
    """
    choices = len(re.findall(r"[*+{]|(?<!\()\?", pattern)) + len(re.findall(r"\([^()]*\|", pattern))
    return len(pattern) <= 1000 and not re.search(r"\)[*+{]", pattern) and choices <= _MAX_CHOICES


@lru_cache(maxsize=1 << 14)
def _compiled(pattern: str) -> re.Pattern[str]:
    # peft's get_pattern_key, character for character.
    return re.compile(rf"(.*\.)?({pattern})$")


@lru_cache(maxsize=1 << 16)
def matching(patterns: tuple[str, ...], module: str) -> int | None:
    """The first pattern that matches, as in peft's `get_pattern_key`; None if none does."""
    for at, pattern in enumerate(patterns):
        if _compiled(pattern).match(module):
            return at
    # get_pattern_key then returns the module's own name, which may be a key that, as a regular expression, is
    # another.
    return patterns.index(module) if module in patterns else None
