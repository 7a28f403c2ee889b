"""What the head of the page says, in plain words."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from engine.report.rules import is_number, label
from engine.report.summary import counted
from ingest.html import printable

if TYPE_CHECKING:
    from engine.run import Run


def introduction(matrices: Sequence[Mapping[str, Any]], space: str = "factor") -> str:
    """What the matrices are, and how they were treated; as HTML."""
    sides = {m["side"] for m in matrices}
    stacked = {
        "A": "side A stacks the rows of every adapter’s lora_A",
        "B": "side B the columns of its lora_B",
    }
    if sides == {"B"}:
        stacked["B"] = "side B stacks the columns of every adapter’s lora_B"
    if space == "delta":
        stacked = {"A": "side A holds the row space of every adapter’s ΔW", "B": "side B its column space"}
    what = ", ".join(stacked[s] for s in ("A", "B") if s in sides)
    return (
        f"<p>One matrix per layer and side: {what}. "
        "Its leading right singular vectors span the subspace that holds most of its variance; K is how "
        "many of them count. The rules that say so are held against each other.</p>"
    )


def facts(run: Run, matrices: Sequence[Mapping[str, Any]]) -> str:
    """Zoo, base model, matrices, centring, rule for K; as HTML."""
    record = run.record
    layers = len({m["layer"] for m in matrices})
    adapters = sorted({m["adapters"] for m in matrices})
    span = str(adapters[0]) if len(adapters) == 1 else f"{adapters[0]} to {adapters[-1]}"
    # The zoo's name alone: where it lies is nobody's business whom the page is sent to.
    zoo = os.path.basename(record.zoo.rstrip("/")) or record.zoo
    entries = [
        ("zoo", f"{zoo}, at its commit {record.zoo_version}"),
        ("base model", record.base_model or "not recorded"),
        ("matrices", f"{counted(len(matrices), 'matrix', 'matrices')} of {counted(layers, 'layer', 'layers')}"),
        ("adapters per matrix", span),
        ("centring", centring(record.settings.center)),
        ("rule for K", rule(record.settings.k)),
    ]
    if (space := getattr(record.settings, "space", "factor")) != "factor":
        entries.append(("space", "ΔW, through the factors" if space == "delta" else str(space)))
    if (seeds := getattr(record.settings, "seeds", "all")) != "all":
        entries.append(("seeds", str(seeds)))
    return "<dl>" + "".join(f"<div><dt>{k}</dt><dd>{escape(printable(v))}</dd></div>" for k, v in entries) + "</dl>"


def unfinished(run: Run, finished: int) -> str:
    """That matrices are missing, as HTML; nothing where all that were asked for are there."""
    planned = run.planned(run.matrices)
    if finished >= planned:
        return ""
    return (
        f'<p class="missing" role="note">{finished} of {planned} matrices are finished; '
        "run <code>eigenzoo fit</code> again for the rest.</p>"
    )


def centring(center: str) -> str:
    """What was done to the rows."""
    return "the mean row is subtracted" if center == "feature" else "none: nothing is subtracted"


def rule(k: str | Mapping[str, Any]) -> str:
    """The rule that decided how many components are kept."""
    if not isinstance(k, str):
        return "K given for each matrix"
    name, _, argument = k.partition(":")
    if name == "gavish-donoho":
        noise = f"noise of standard deviation {argument}" if argument else "noise judged from the median singular value"
        return f"Gavish–Donoho, {'noise of the random start' if argument == 'init' else noise}"
    if name == "ev":
        return f"the fewest components with {100 * float(argument):.14g} % of the variance"
    return f"K = {k} for every matrix" if is_number(k) else label(k)
