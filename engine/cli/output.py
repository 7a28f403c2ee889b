"""What the commands print: results on standard output, progress on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.progress import Progress

LOG_SECONDS = 10.0


def emit_json(data: Any) -> None:
    """One JSON document on standard output, in ASCII: a path may hold bytes that no encoding of text can print."""
    print(json.dumps(data, indent=1, ensure_ascii=True))


def say(text: str) -> None:
    """A line for people, on standard error."""
    print(text, file=sys.stderr, flush=True)


def printable(text: object) -> str:
    """Text from outside, with what a terminal would obey or not show (controls, bidi overrides) spelt out."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in str(text))


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], *, right: Sequence[int] = ()) -> None:
    """A plain table on standard output; columns in `right` are aligned there."""
    cells = [[printable(c) for c in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for n, row in enumerate(cells):
        line = "  ".join(
            c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        print(line.rstrip())
        if n == 0:
            print("  ".join("-" * w for w in widths))


def counted(number: int, noun: str) -> str:
    """ "1 adapter", "2 adapters"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def size(nbytes: float) -> str:
    """Bytes in a unit that reads well."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1024 or unit == "GiB":
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    raise AssertionError


def parse_size(text: str, option: str = "--memory") -> int:
    """Bytes from "512MiB", "2 GB", "1e9".

    Raises
    ------
    typer.BadParameter
        For anything else.
    """
    import typer
    from dask.utils import parse_bytes

    try:
        nbytes = int(parse_bytes(text))
    except ValueError as error:
        raise typer.BadParameter(f"{option} {text!r}: give a size such as 512MiB or 2GB") from error
    if nbytes <= 0:
        raise typer.BadParameter(f"{option} {text!r}: give a size above 0")
    return nbytes


class Meter:
    """Progress with rate and time left: a bar on a terminal, a line now and then in a log.

    Parameters
    ----------
    what : str
        What is being done.
    unit : {"bytes", "matrices", "sources"}
        What is counted.
    """

    def __init__(self, what: str, unit: str) -> None:
        self._what, self._unit = what, unit
        self._begin = self._told = 0.0
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar away; what comes after is another meter's."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _started(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[note]}", markup=False),  # it may hold a name from outside
            TimeRemainingColumn(),
        )
        bar = Progress(*columns, console=Console(stderr=True))
        self._task = bar.add_task(self._what, total=None, note="")
        bar.start()
        return bar

    def update(self, done: int, total: int, note: str = "") -> None:
        """`done` of `total`, with a remark, which is made printable."""
        now = time.monotonic()
        if not self._begin:
            self._begin = self._told = now
        rate = done / max(now - self._begin, 1e-9)
        shown = f"{size(rate)}/s" if self._unit == "bytes" else f"{rate:.1f} {self._unit}/s"
        text = f"{shown}{', ' if note else ''}{printable(note)}"
        if sys.stderr.isatty():
            self._bar = self._bar or self._started()
            self._bar.update(self._task, completed=done, total=total, note=text)
        elif now - self._told > LOG_SECONDS:
            self._told = now
            left = (total - done) / rate if rate else 0.0
            say(f"{self._what}: {done / max(total, 1):.0%}, {text}, {left:.0f} s left")
