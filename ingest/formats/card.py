"""What stands beside the weights in words: the licence, and a base model where no configuration names it."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass

CARD = "README.md"
LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "LICENCE.md", "COPYING")
_HEAD_BYTES = 1 << 16
_LONGEST = 80
# What follows is stripped afterwards: a pattern for it would take quadratic time on a line of blanks.
_ENTRY = re.compile(r"(license|license_name|base_model)[ \t]*:(.*)")
_ITEM = re.compile(r"[ \t]*-[ \t](.*)")


@dataclass(frozen=True, slots=True)
class Card:
    """The licence (a Hub identifier, or a licence file's first line) and the base model, as stated."""

    licence: str | None
    base_model: str | None


def read_card(folder: str) -> Card:
    """Read README.md's front matter, else a licence file's first line; None stands for what is not there."""
    fields = _front_matter(_head(os.path.join(folder, CARD)))
    licence = fields.get("license")
    if licence in ("other", "unknown") and "license_name" in fields:
        licence = fields["license_name"]
    return Card(licence or _licence_file(folder), fields.get("base_model"))


def _head(path: str) -> str:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for a writer
            return ""
        with open(path, "rb") as file:
            return file.read(_HEAD_BYTES).decode("utf-8-sig", "replace")
    except OSError:
        return ""


def _front_matter(text: str) -> dict[str, str]:
    """The three fields wanted from a YAML front matter: plain scalars, or the first item of a list."""
    lines = text.splitlines()
    if not lines or lines[0].strip() != "---":
        return {}
    fields: dict[str, str] = {}
    open_list = ""
    for line in lines[1:]:
        if line.strip() in ("---", "..."):
            break
        item = _ITEM.match(line)
        if open_list and item:
            fields.setdefault(open_list, _scalar(item[1].strip()))
            continue
        entry = _ENTRY.match(line)
        value = entry[2].strip() if entry else ""
        open_list = entry[1] if entry and not value else ""
        if entry and value:
            fields[entry[1]] = _scalar(value)
    return {key: value for key, value in fields.items() if value and value.isprintable()}


def _scalar(text: str) -> str:
    if text.startswith("["):
        text = text.strip("[]").split(",")[0].strip()
    if text[:1] in ("'", '"'):
        return text[1:].partition(text[0])[0][:_LONGEST]
    return re.split(r"[ \t]#", text, maxsplit=1)[0].strip()[:_LONGEST]


def _licence_file(folder: str) -> str | None:
    for name in LICENCES:
        for line in _head(os.path.join(folder, name)).splitlines():
            title = line.strip().lstrip("#").strip()
            if title and title.isprintable():
                return title if len(title) <= _LONGEST else f"{title[: _LONGEST - 1]}…"
    return None
