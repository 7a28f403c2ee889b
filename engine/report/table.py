"""The table of all matrices, as HTML that reads without a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

DASH = "–"


def matrix_table(matrices: Sequence[Mapping[str, Any]], *, planted: bool) -> str:
    """A row per entry of `engine.report.data.page_data`, with a column for planted K if there is one."""
    heads = ["layer", "side", "rows × width", "adapters"]
    heads += ["planted K"] if planted else []
    heads += [
        "K by Gavish–Donoho",
        "K for 80 % of the variance",
        "K kept",
        "total variance",
        "method",
        "note",
    ]
    text = {"layer", "side", "method", "note"}
    head = "".join(f'<th scope="col"{"" if h in text else _NUMBER}>{h}</th>' for h in heads)
    rows = "\n".join(_row(i, m, planted) for i, m in enumerate(matrices))
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="All matrices"><table>\n'
        f'<thead><tr>{head}</tr></thead>\n<tbody id="rows">\n{rows}\n</tbody></table></div>'
    )


_NUMBER = ' class="number"'


def _row(index: int, m: Mapping[str, Any], planted: bool) -> str:
    cells = [_number(f"{m['rows']} × {m['width']}"), _number(m["adapters"])]
    if planted:
        cells.append(_number("" if m["planted"] is None else m["planted"]))
    wrong = m["planted"] is not None and m["gd"] != m["planted"]
    cells += [
        _k(m["gd"], m["declined"]["gd"], wrong),
        _k(m["ev"], m["declined"]["ev"], False),
        _number(m["kept"]),
    ]
    variance = m["total_variance"]
    cells.append(_number(DASH if variance is None else f"{variance:.4g}"))
    return (
        f'<tr data-index="{index}"><th scope="row"><a href="#matrix-{index}">{_breakable(m["layer"])}</a></th>'
        f"<td>{escape(m['side'])}</td>{''.join(cells)}<td>{escape(m['method'])}</td>"
        f'<td class="note">{escape(m["note"])}</td></tr>'
    )


def _k(k: int | None, note: str, wrong: bool) -> str:
    # A rule that answers may have a note too.
    text = DASH if k is None else str(k)
    inner = f'<span title="{escape(note)}">{text}</span>' if note else text
    return f'<td class="number{" off" if wrong else ""}">{inner}</td>'


def _number(value: object) -> str:
    return f"<td{_NUMBER}>{escape(str(value))}</td>"


def _breakable(name: str) -> str:
    # A long name breaks after its dots rather than anywhere.
    return escape(name).replace(".", ".<wbr>")
