"""Small tables in HTML for notebooks: no script, no style sheet, readable on light and on dark; every text is escaped.

Names come from other people's files: what does not show in them (controls, bidi overrides) is spelt out.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_CELL = "padding:.15em .7em .15em 0;text-align:{align};vertical-align:top;border:0;background:none"
_HEAD = "opacity:.65;font-weight:normal;white-space:nowrap;"
_LINE = "border-bottom:1px solid rgba(128,128,128,.4);"


def printable(text: object) -> str:
    """`text`, with characters that do not show (controls, bidi overrides, lone surrogates) spelt out."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in str(text))


def safe(text: object) -> str:
    """`text` made printable and escaped, for HTML."""
    return escape(printable(text))


def facts(entries: Sequence[tuple[str, object]]) -> str:
    """A table of names and values."""
    name, value = _HEAD + _CELL.format(align="left"), _CELL.format(align="left")
    rows = "".join(
        f'<tr style="background:none"><th scope="row" style="{name}">{safe(key)}</th>'
        f'<td style="{value}">{safe(what)}</td></tr>'
        for key, what in entries
    )
    return f'<table style="border:0;margin:0">{rows}</table>'


def grid(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table with headings; numbers stand at the right, None is a dash."""
    right = [any(isinstance(row[i], int | float) for row in rows) for i in range(len(head))]
    aligned = ["right" if number else "left" for number in right]
    heads = "".join(
        f'<th scope="col" style="{_HEAD}{_CELL.format(align=a)};{_LINE}">{safe(h)}</th>'
        for h, a in zip(head, aligned, strict=True)
    )
    body = "".join(
        '<tr style="background:none">'
        + "".join(
            f'<td style="{_CELL.format(align=a)}">{safe(_shown(cell))}</td>'
            for cell, a in zip(row, aligned, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return f'<table style="border:0;margin:0"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'


def card(title: str, *parts: str) -> str:
    """A heading, and parts in HTML beside each other where there is room."""
    inner = "".join(f"<div>{part}</div>" for part in parts if part)
    return (
        '<div style="font-size:.9em;line-height:1.5">'
        f'<div style="font-weight:600;margin-bottom:.3em">{safe(title)}</div>'
        f'<div style="display:flex;flex-wrap:wrap;gap:.6em 2.2em;align-items:flex-start">{inner}</div></div>'
    )


def _shown(cell: object) -> object:
    if cell is None:
        return "–"
    return f"{cell:.4g}" if isinstance(cell, float) else cell
