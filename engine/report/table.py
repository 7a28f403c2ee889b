"""The table of all matrices, as HTML that reads without a script."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

DASH = "–"
_NUMBER = ' class="number"'


def matrix_table(data: Mapping[str, Any], *, planted: bool) -> str:
    """A row per matrix of `engine.report.data.page_data`; columns of what nobody knows are left out."""
    matrices, rules = data["matrices"], data["rules"]
    heldout, overlap = (any(m[name] for m in matrices) for name in ("heldout", "overlap"))
    heads = ["layer", "side", "rows × width", "adapters"]
    heads += ["planted K"] if planted else []
    heads += [f"K {asked(rule)}" for rule in rules]
    heads += ["K kept", "noise"]
    heads += ["held-out error"] if heldout else []
    heads += ["overlap, × chance"] if overlap else []
    heads += ["total variance", "method", "note"]
    text = {"layer", "side", "noise", "method", "note"}
    head = "".join(
        f'<th scope="col"{"" if h in text else _NUMBER}><button type="button">{escape(h)}</button></th>' for h in heads
    )
    gd = next((i for i, rule in enumerate(rules) if rule["name"] == "gavish-donoho"), -1)
    rows = "\n".join(_row(i, m, gd, planted=planted, heldout=heldout, overlap=overlap) for i, m in enumerate(matrices))
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="All matrices"><table id="matrices">\n'
        f'<thead><tr>{head}</tr></thead>\n<tbody id="rows">\n{rows}\n</tbody></table></div>'
    )


def asked(rule: Mapping[str, Any]) -> str:
    """How K is asked of a rule: "by Gavish–Donoho", "for 80 % of variance"."""
    return f"{'for' if rule['name'].startswith('ev:') else 'by'} {rule['label']}"


def _row(index: int, m: Mapping[str, Any], gd: int, *, planted: bool, heldout: bool, overlap: bool) -> str:
    cells = [number(f"{m['rows']} × {m['width']}"), number(m["adapters"])]
    if planted:
        cells.append(number("" if m["planted"] is None else m["planted"]))
    for i, (k, note) in enumerate(zip(m["k"], m["notes"], strict=True)):
        wrong = i == gd and m["planted"] is not None and k != m["planted"]
        cells.append(_k(k, note, wrong))
    cells.append(number(m["kept"]))
    noise = "–" if m["white"] is None else "white" if m["white"] else "not white"
    cells.append(f'<td><span title="{escape(m["white_words"])}">{noise}</span></td>')
    if heldout:
        cells.append(number(figure(m["heldout"] and m["heldout"]["error"])))
    if overlap:
        cells.append(number(figure(m["overlap"] and m["overlap"]["ratio"])))
    cells.append(number(figure(m["total_variance"], 4)))
    return (
        f'<tr data-index="{index}"><th scope="row"><a href="#matrix-{index}">{breakable(m["layer"])}</a></th>'
        f"<td>{escape(m['side'])}</td>{''.join(cells)}<td>{escape(m['method'])}</td>"
        f'<td class="note">{escape(m["note"])}</td></tr>'
    )


def _k(k: int | None, note: str, wrong: bool) -> str:
    # A rule that answers may have a note too.
    shown = DASH if k is None else str(k)
    inner = f'<span title="{escape(note)}">{shown}</span>' if note else shown
    return f'<td class="number{" off" if wrong else ""}">{inner}</td>'


def number(value: object) -> str:
    """A cell of a number."""
    return f"<td{_NUMBER}>{escape(str(value))}</td>"


def figure(value: float | None, digits: int = 3) -> str:
    """A figure for people: a dash where it is not known."""
    return DASH if value is None else f"{value:.{digits}g}"


def breakable(name: str) -> str:
    """A long name, escaped, that breaks after its dots rather than anywhere."""
    return escape(name).replace(".", ".<wbr>")
