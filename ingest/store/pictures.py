"""What a notebook shows of a zoo, and its figure: rows per layer, and how many adapters have which rank."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from ingest.html import card, facts, grid
from ingest.look import altair, figure

if TYPE_CHECKING:
    from ingest.store.reader import Zoo

SHOWN = 12  # matrices


def zoo_html(zoo: Zoo) -> str:
    """Who is in the zoo, and its first matrices."""
    matrices, accepted = zoo.matrices, zoo.accepted
    refused = sum(1 for r in zoo.adapters if r.status == "refused")
    ranks = ", ".join(f"{n} of rank {rank}" for rank, n in sorted(Counter(a.rank for a in accepted).items()))
    entries: list[tuple[str, object]] = [
        ("path", zoo.path),
        ("commit", f"{zoo.commit.version}, {zoo.commit.time}"),
        ("base model", zoo.base_model or "named by no adapter"),
        ("adapters", f"{len(accepted)}{f': {ranks}' if ranks else ''}"),
        ("refused", refused),
        ("matrices", f"{len(matrices)}, of {len(zoo.layers)} layers"),
    ]
    table = grid(
        ("layer", "side", "rows", "width", "dtype"),
        [(m.layer, m.side, m.rows, m.width, m.dtype) for m in matrices[:SHOWN]],
    )
    more = len(matrices) - SHOWN
    rest = f'<div style="opacity:.65">and {more} more</div>' if more > 0 else ""
    return card("Zoo", facts(entries), table + rest if matrices else "")


def zoo_figure(zoo: Zoo) -> Any:
    """Rows per layer beside the adapters' ranks.

    Returns
    -------
    altair.HConcatChart

    Raises
    ------
    EigenzooError
        If altair is missing.
    """
    alt = altair()
    order = {layer: at for at, layer in enumerate(zoo.layers, 1)}
    rows = [{"layer": m.layer, "side": m.side, "rows": m.rows, "at": order[m.layer]} for m in zoo.matrices]
    ranks = [{"rank": rank, "adapters": n} for rank, n in sorted(Counter(a.rank for a in zoo.accepted).items())]
    whole = alt.Axis(format="d", tickMinStep=1, grid=False)
    by_layer = (
        alt.Chart(alt.Data(values=[r for r in rows if r["side"] == "A"]), title="Rows per layer")
        .mark_bar(color="var(--a)", size=max(1, min(24, 300 // max(len(order), 1))))
        .encode(
            x=alt.X("at:Q", title="layer, in the zoo’s order", axis=whole).scale(nice=False, padding=14),
            y=alt.Y("rows:Q", title="rows on a side"),
            tooltip=["layer:N", "rows:Q"],
        )
        .properties(width=360, height=220)
    )
    by_rank = (
        alt.Chart(alt.Data(values=ranks), title="Adapters by rank")
        .mark_bar(color="var(--a)")
        .encode(
            x=alt.X("rank:O", title="rank", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("adapters:Q", title="adapters", axis=alt.Axis(format="d", tickMinStep=1)),
            tooltip=["rank:O", "adapters:Q"],
        )
        .properties(width=alt.Step(28), height=220)
    )
    return figure(alt.hconcat(by_layer, by_rank))
