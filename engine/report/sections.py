"""Parts of the page that are words and small tables: seed groups, leverage, refused adapters, settings; as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from typing import TYPE_CHECKING, Any

from engine.report.findings import Partition
from engine.report.summary import counted, names
from engine.report.table import breakable, figure, number
from ingest.html import printable

if TYPE_CHECKING:
    from engine.analysis.file import Analysis
    from engine.report.refused import Refused
    from engine.run import Run

HOW = "<code>eigenzoo analyse RUN</code>, then the report again"
SHOWN_NAMES, SHOWN_LAYERS, SHOWN_GROUPS, SHOWN_ROWS = 8, 4, 12, 200


def unknown(what: Sequence[str], stale: int) -> str:
    """One line on what was not looked for, and on what was found from rows that have changed since."""
    lines = []
    if stale:
        them = counted(stale, "matrix was", "matrices were")
        lines.append(f"{them} fitted again since the analysis; its findings are left out. To have them here: {HOW}.")
    if what:
        lines.append(f"Not looked for: {', '.join(what)}. To have them here: {HOW}.")
    return "".join(f'<p class="quiet">{line}</p>' for line in lines)


def seeds(partitions: Sequence[Partition] | None, n_layers: int) -> str:
    """Which adapters share their random start, where."""
    if partitions is None:
        return ""
    if not partitions:
        return "<h3>Seed groups</h3><p>No two adapters share a random start in any layer.</p>"
    items = []
    for partition in partitions:
        groups = [f"{len(g)}: {names(g, SHOWN_NAMES)}" for g in partition.groups[:SHOWN_GROUPS]]
        more = len(partition.groups) - SHOWN_GROUPS
        groups += [f"{more} more groups"] if more > 0 else []
        cosine = f"; cosines of {partition.weakest:.3g} and more" if partition.weakest is not None else ""
        which = "" if len(partition.layers) == n_layers else f" ({escape(names(partition.layers, SHOWN_LAYERS))})"
        where = f"In {len(partition.layers)} of {counted(n_layers, 'layer', 'layers')}{which}{cosine}"
        inner = "".join(f"<li>{escape(group)}</li>" for group in groups)
        items.append(f"<li>{where}<ul>{inner}</ul></li>")
    few, rest = items[:SHOWN_GROUPS], items[SHOWN_GROUPS:]
    folded = f"<details><summary>{len(rest)} more</summary><ul>{''.join(rest)}</ul></details>" if rest else ""
    return (
        "<h3>Seed groups</h3><p>Adapters whose A began from the same random numbers. What they share may be these, not "
        f'anything learnt.</p><ul class="groups">{"".join(few)}</ul>{folded}'
    )


def leverage(matrices: Sequence[Mapping[str, Any]]) -> str:
    """Adapters that hold a component alone."""
    by_adapter: dict[str, list[tuple[float, int, Mapping[str, Any]]]] = {}
    for m in matrices:
        for adapter, component, share in m["leverage"]:
            by_adapter.setdefault(adapter, []).append((share or 0.0, component, m))
    if not by_adapter:
        return ""
    rows = []
    for adapter, held in sorted(by_adapter.items(), key=lambda each: (-len(each[1]), each[0]))[:SHOWN_ROWS]:
        share, component, m = max(held, key=lambda each: each[0])
        where = f"{breakable(m['layer'])} {escape(m['side'])}, component {component}"
        share_of = f"{100 * share:.0f}\u00a0%"
        rows.append(
            f'<tr><th scope="row">{escape(adapter)}</th>{number(len(held))}{number(share_of)}<td>{where}</td></tr>'
        )
    head = '<th scope="col">adapter</th><th scope="col" class="number">components</th>'
    head += '<th scope="col" class="number">largest share</th><th scope="col">of which</th>'
    return (
        "<h3>Adapters that hold a component alone</h3><p>More than half of the component’s energy, and more than "
        f"three times a fair share of it, is one adapter’s.</p>{small_table('Leverage', head, rows)}"
    )


def refused(found: Refused) -> str:
    """Who is not in the zoo, and why."""
    if found.note:
        return f'<p class="quiet">{escape(found.note)}</p>'
    if not found.adapters:
        return "<p>None: every adapter that was offered to the zoo is in it.</p>"
    rows = [
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(reason)}</td><td class="note">{escape(detail)}</td></tr>'
        for name, reason, detail in found.adapters[:SHOWN_ROWS]
    ]
    head = '<th scope="col">adapter</th><th scope="col">reason</th><th scope="col">detail</th>'
    more = len(found.adapters) - len(rows)
    rest = f'<p class="quiet">And {more} more; <code>eigenzoo info</code> lists them all.</p>' if more else ""
    return small_table("Refused adapters", head, rows, wide=True) + rest


def settings(run: Run, analysis: Analysis | None) -> str:
    """Every setting of the fit, and of the analysis."""
    entries = [(name, _shown(value)) for name, value in asdict(run.record.settings).items()]
    if analysis is not None:
        entries += [(f"analysis: {name}", _shown(value)) for name, value in analysis.settings.items()]
    inner = "".join(
        f"<div><dt>{escape(printable(name.replace('_', ' ')))}</dt><dd>{escape(printable(value))}</dd></div>"
        for name, value in entries
    )
    return f"<dl>{inner}</dl>"


def overlaps(matrices: Sequence[Mapping[str, Any]]) -> str:
    """How the table's overlaps are to be read, where there are any."""
    known = [m["overlap"] for m in matrices if m["overlap"]]
    if not known:
        return ""
    beyond = sum(1 for o in known if None not in (o["ratio"], o["high"]) and o["ratio"] > o["high"])
    lows, highs = ([o[name] for o in known if o[name] is not None] for name in ("low", "high"))
    band = f"{figure(min(lows, default=None))} to {figure(max(highs, default=None))}"
    return (
        f"<h3>Overlap against chance</h3><p>Adapters overlap by more than chance in {beyond} of {len(known)} matrices. "
        f"Random subspaces of the same sizes give {band} times their expectation; the table below has every figure.</p>"
    )


def small_table(label: str, head: str, rows: Sequence[str], *, wide: bool = False) -> str:
    """A table that scrolls where it is long."""
    kind = "" if wide else ' class="small"'
    body = "\n".join(rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table{kind}>'
        f"<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"given for {counted(len(value), 'layer', 'layers')}" if value else "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "as needed" if value is None else str(value)
