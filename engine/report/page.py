"""`write_report`: a run as one HTML page that needs nothing but itself.

The page carries the Vega libraries, the data as JSON and a script.  A content security policy lets only that
script run and nothing be fetched: layer names come from other people's files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.analysis.file import Analysis, read_analysis
from engine.atomic import write_atomically
from engine.report import sections
from engine.report.data import page_data
from engine.report.document import as_json, policy, script_text
from engine.report.findings import current, missing, partitions, stale
from engine.report.refused import Refused, refused
from engine.report.script import script
from engine.report.style import CSS
from engine.report.summary import summary
from engine.report.table import asked, matrix_table
from engine.report.words import facts, introduction, unfinished
from ingest.errors import EigenzooError
from ingest.html import printable
from ingest.look import CONFIG

if TYPE_CHECKING:
    from engine.run import Run


def write_report(
    run: Run,
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    planted: Mapping[tuple[str, str], int] | None = None,
) -> Path:
    """Write the report of a run: K by every rule, spectra, what an analysis beside the run found, who was refused.

    Parameters
    ----------
    run : Run
    path : path-like
        The page to write, in one atomic step.
    title : str, optional
        The page's heading; names the zoo unless given.
    planted : mapping, optional
        The true K per (layer, side), of a zoo that was made with one; shown beside what was found.

    Returns
    -------
    Path
        Absolute path of the page.

    Raises
    ------
    EigenzooError
        If altair or vl-convert is missing, the run has no finished matrix, its analysis is damaged, or the page cannot
        be written.

    Notes
    -----
    About 1 MB for the libraries and at most 8 KiB per matrix for the curves, which are thinned to 250 points.
    The same run, analysis and zoo give the same page, byte for byte.
    """
    target = Path(os.path.abspath(os.fspath(path)))
    if target.exists() and not target.is_file():
        # The atomic step would replace a device such as /dev/stdout by a file.
        raise EigenzooError(f"{target}: cannot be written (not a file); give the report another path")
    library, specs_of = _tools()
    analysis = read_analysis(run)
    data = page_data(run, planted or {}, analysis)
    fields = tuple(field for field, _ in data["heldout"])
    page = render(
        run, data, specs_of(fields), library, refused(run), title=title, planted=bool(planted), analysis=analysis
    )
    try:
        write_atomically(target, page.encode("utf-8"))
    except OSError as error:
        raise EigenzooError(f"{target}: cannot be written ({error.strerror}); give the report another path") from error
    return target


def render(
    run: Run,
    data: Mapping[str, Any],
    specs: Mapping[str, Any],
    library: str,
    turned_away: Refused,
    *,
    title: str | None,
    planted: bool,
    analysis: Analysis | None,
) -> str:
    """The page's text from its parts."""
    heading = escape(printable(title or f"eigenzoo: {os.path.basename(run.record.zoo) or run.record.zoo}"))
    matrices, results = data["matrices"], run.matrices
    scripts = [script_text(library), script_text(script())]
    layers = [r.layer for r in results]
    groups = partitions(analysis, current(analysis, results))
    rule = run.record.settings.k if isinstance(run.record.settings.k, str) else None
    lead = "".join(f"<li>{escape(s)}</li>" for s in summary(data, groups, rule, planted))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy(scripts)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{heading}</title>
<style>{CSS}</style>
</head>
<body>
<header>
<h1>{heading}</h1>
<ul class="lead">{lead}</ul>
{unfinished(run, len(matrices))}
{facts(run, matrices)}
</header>
<noscript><p>The charts need JavaScript; the words and tables do not.</p></noscript>
<section>
<h2>K over depth and module</h2>
{introduction(matrices, getattr(run.record.settings, "space", "factor"))}
<div class="controls"><label>K<select id="rule">{_rule_options(data)}</select></label></div>
<figure><div id="map" class="chart" tabindex="0" role="group"
 aria-label="K over depth and module; arrow keys pick a matrix"></div>
<figcaption>From left to right: {escape(data["axis"])}. Click a cell, or move with the arrow keys, to see its spectrum.
“–”: the rule declines.
<span id="flag-words" hidden>A marked corner: the noise is not white, so what this rule says should not be believed.
</span></figcaption></figure>
</section>
<section id="one">
<h2>One matrix</h2>
<div class="controls"><label>matrix<select id="matrix">{_matrix_options(matrices)}</select></label>
<label>index axis<select id="axis">
<option value="log">logarithmic</option><option value="linear">linear</option></select></label></div>
<h3 id="chosen"></h3>
<p id="nothing" hidden>No singular value above zero: there is nothing to draw.</p>
<div id="curves" class="pair">
<figure><div id="scree" class="chart"></div><figcaption id="scree-words"></figcaption></figure>
<figure><div id="share" class="chart"></div><figcaption id="share-words"></figcaption></figure>
<figure id="beyond" hidden><div id="curve" class="chart"></div><figcaption id="curve-words"></figcaption></figure>
<ul id="notes" class="quiet"></ul>
</div>
</section>
<section>
<h2>Is it real?</h2>
{_evidence(data)}
{sections.overlaps(matrices)}
{sections.seeds(groups, len({*layers}))}
{sections.leverage(matrices)}
{sections.unknown(missing(data, groups is not None), stale(analysis, results))}
</section>
<section>
<h2>All matrices</h2>
<p class="quiet">Click a row to see its spectrum, a heading to sort. “–”: the rule declines; hold the pointer on it to
see why.</p>
{matrix_table(data, planted=planted)}
</section>
<section>
<h2>Refused adapters</h2>
{sections.refused(turned_away)}
</section>
<section>
<h2>Settings</h2>
{sections.settings(run, analysis)}
</section>
<script type="application/json" id="data">{as_json(data)}</script>
<script type="application/json" id="specs">{as_json(specs)}</script>
<script>{scripts[0]}</script>
<script>{scripts[1]}</script>
</body>
</html>
"""


def _rule_options(data: Mapping[str, Any]) -> str:
    options = [(str(i), asked(r)) for i, r in enumerate(data["rules"])]
    chosen = "kept" if data["first"] < 0 else str(data["first"])
    return "".join(
        f'<option value="{value}"{" selected" if value == chosen else ""}>{escape(text)}</option>'
        for value, text in (*options, ("kept", "kept in this run"))
    )


def _matrix_options(matrices: Any) -> str:
    return "".join(
        f'<option value="{i}">{escape(m["layer"])}, side {escape(m["side"])}</option>' for i, m in enumerate(matrices)
    )


def _evidence(data: Mapping[str, Any]) -> str:
    """Figures for what an analysis measured; nothing where it did not."""
    figures = []
    if data["heldout"]:
        figures.append(
            '<figure><h3>Adapters not in the fit</h3><div id="heldout" class="chart"></div><figcaption>What the '
            "subspace leaves of them, beside its controls: what it leaves less than they do is shared structure."
            "</figcaption></figure>"
        )
    if any(m["error"] for m in data["matrices"]) or data["delta"]:
        figures.append(
            '<figure><h3>Reconstruction per layer</h3><div id="errors" class="chart"></div><figcaption>A dot for the '
            "mean over the adapters of the fit, a line up to the worst one.</figcaption></figure>"
        )
    return f'<div class="pair">{"".join(figures)}</div>' if figures else ""


def _tools() -> tuple[str, Callable[[tuple[str, ...]], dict[str, Any]]]:
    """The Vega libraries as one script, and what makes the specifications."""
    try:
        import altair  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise EigenzooError(
            f"the report needs {error.name}, which is missing; pip install 'eigenzoo[report]'"
        ) from error
    return _library(), _specs


@lru_cache(maxsize=8)
def _specs(heldout: tuple[str, ...]) -> dict[str, Any]:
    """The look and the charts' specifications; `heldout` are the fields of held-out errors that are known.

    Altair checks each against its schema, which takes most of a second for all.
    """
    from engine.report import charts, maps

    return {
        "look": CONFIG,
        "map": maps.heat_map(),
        "scree": charts.scree(centred=True),
        "scree_uncentred": charts.scree(centred=False),
        "share": charts.share(centred=True),
        "share_uncentred": charts.share(centred=False),
        "curve": charts.curve(),
        "heldout": maps.heldout(heldout),
        "errors": maps.errors(),
    }


@lru_cache(maxsize=1)
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script; bundling takes a second."""
    import vl_convert

    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
