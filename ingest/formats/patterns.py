"""peft's rank_pattern and alpha_pattern: regular expressions from strangers, matched as peft matches them.

Python's matcher backtracks, so what a pattern may contain is limited, and what all of them may cost on all modules of
a file is estimated before any is matched.  Most are plain names, one per module (EVA and AdaLoRA write them so), and
these are compared without the matcher.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from ingest.errors import Refusal
from ingest.reasons import Reason

_MAX_PATTERNS = 1024
_MAX_CHARACTERS = 1 << 16
_MAX_REPEATS = 2
_MAX_WAYS = 64
# About two seconds of matching where every estimate is met; real files stay below a hundredth.
_MAX_STEPS = 1 << 27
_PLAIN_STEPS = 64

_PLAIN = re.compile(r"\^?(?:[\w.-]|\\\.)+")
# A group's text again: what that costs depends on the text.
_REFERENCE = re.compile(r"\\[1-9]|\(\?(?:P=|\()")


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
    if (length := sum(map(len, value))) > _MAX_CHARACTERS:
        raise Refusal(Reason.BAD_CONFIG, f"{where}: {key} has {length} characters, at most {_MAX_CHARACTERS}")
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


def check_work(keys: Iterable[str], modules: Iterable[str], key: str, where: str) -> None:
    """Refuse patterns that together would take too long on these modules.

    Parameters
    ----------
    keys
        As `patterns` let them pass.
    modules
        The names that each will be matched against.
    key, where
        What they are called, and where they are, for the message.

    Raises
    ------
    Refusal
        `bad-config`.
    """
    lengths = [len(module) for module in modules]
    count, longest = len(lengths), max(lengths, default=0)
    steps = count * sum(_steps(pattern, longest) for pattern in keys)
    if steps > _MAX_STEPS:
        raise Refusal(
            Reason.BAD_CONFIG,
            f"{where}: {key} may take {steps} steps on {count} modules, at most {_MAX_STEPS}; write plain names",
        )


def _steps(pattern: str, length: int) -> int:
    """At most about so many steps of the matcher for one module's name of this length."""
    if _PLAIN.fullmatch(pattern):
        return _PLAIN_STEPS
    repeats, ways = _freedom(pattern) or (_MAX_REPEATS, _MAX_WAYS)
    # Where the name begins, and where each repeat ends; or the pattern, compared at every place.
    return ways * (math.comb(length + 1, 1 + repeats) + length * min(length, len(pattern)))


def _tame(pattern: str) -> bool:
    """Whether a pattern from a stranger is matched in reasonable time: not long, few repeats, no repeated group."""
    if _REFERENCE.search(pattern):
        return False
    freedom = _freedom(pattern)
    return len(pattern) <= 1000 and freedom is not None and freedom[0] <= _MAX_REPEATS and freedom[1] <= _MAX_WAYS


@lru_cache(maxsize=1 << 12)
def _freedom(pattern: str) -> tuple[int, int] | None:
    """How many parts are repeated, and how many ways there are through alternatives and options; None beyond tame.

    "(a+)+" takes time exponential in a name's length, n repeats its n-th power, and each optional part or group of
    alternatives multiplies the ways to try.
    """
    repeats, ways, at, after_group = 0, 1, 0, False
    groups = [1]  # alternatives of every open group
    while at < len(pattern):
        char = pattern[at]
        quantifier = char in "*+{?"
        if quantifier and char != "?":
            if after_group:
                return None
            repeats += 1
        elif char == "?":
            ways *= 2
        if quantifier and pattern[at + 1 : at + 2] in ("?", "+") and char != "{":
            at += 1  # lazy or possessive
        after_group = char == ")"
        if char == "\\":
            at += 1
        elif char == "[":
            end = pattern.find("]", at + (3 if pattern.startswith("[^", at) else 2))
            at = end if end > 0 else len(pattern)
        elif char == "(":
            groups.append(1)
            at += pattern.startswith("(?", at)  # no option but a kind of group
        elif char == "|":
            groups[-1] += 1
        elif char == ")" and len(groups) > 1:
            ways *= groups.pop()
        at += 1
    return repeats, ways * math.prod(groups)


@lru_cache(maxsize=1 << 12)
def _compiled(pattern: str) -> re.Pattern[str]:
    # peft's get_pattern_key, character for character.
    return re.compile(rf"(.*\.)?({pattern})$")


@lru_cache(maxsize=1 << 12)
def _plain(pattern: str) -> tuple[re.Pattern[str], int, bool] | None:
    """A pattern of a plain name: what its last characters are held against, how many, and whether it is anchored."""
    if _PLAIN.fullmatch(pattern) is None:
        return None
    name = pattern.removeprefix("^")
    return re.compile(name), len(name.replace("\\.", ".")), name != pattern


def _matches(pattern: str, module: str) -> bool:
    plain = None if "\n" in module else _plain(pattern)  # "." and "$" treat that one differently
    if plain is None:
        return _compiled(pattern).match(module) is not None
    name, length, anchored = plain
    begin = len(module) - length
    if begin < 0 or (begin and (anchored or module[begin - 1] != ".")):
        return False
    return name.fullmatch(module, begin) is not None


@lru_cache(maxsize=1 << 14)
def matching(patterns: tuple[str, ...], module: str) -> int | None:
    """The first pattern that matches, as in peft's `get_pattern_key`; None if none does."""
    for at, pattern in enumerate(patterns):
        if _matches(pattern, module):
            return at
    # get_pattern_key then returns the module's own name, which may be a key that, as a regular expression, is
    # another.
    return patterns.index(module) if module in patterns else None
