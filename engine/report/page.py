"""`write_report`: a run as one HTML page that needs nothing but itself.

The page carries the Vega libraries, the data as JSON and a script.  A content security policy lets only that
script run and nothing be fetched: layer names come from other people's files.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.atomic import write_atomically
from engine.report.data import page_data
from engine.report.names import printable
from engine.report.script import SCRIPT
from engine.report.style import CSS
from engine.report.table import matrix_table
from engine.report.words import facts, introduction, unfinished
from ingest.errors import EigenzooError

if TYPE_CHECKING:
    from engine.run import Run


def write_report(
    run: Run,
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    planted: Mapping[tuple[str, str], int] | None = None,
) -> Path:
    """Write the report of a run: its matrices, K over the layers, scree and explained-variance curves.

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
        If altair or vl-convert is missing, the run has no finished matrix, or the page cannot be written.

    Notes
    -----
    About 1 MB for the libraries and at most 6 KiB per matrix for the curves, which are thinned to 250 points.
    The same run gives the same page, byte for byte.
    """
    target = Path(os.path.abspath(os.fspath(path)))
    if target.exists() and not target.is_file():
        # The atomic step would replace a device such as /dev/stdout by a file.
        raise EigenzooError(f"{target}: cannot be written (not a file); give the report another path")
    library, specs_of = _tools()
    data = page_data(run, planted or {})
    text = render(run, data, specs_of(data["axis"]), library, title=title, planted=bool(planted))
    try:
        write_atomically(target, text.encode("utf-8"))
    except OSError as error:
        raise EigenzooError(f"{target}: cannot be written ({error.strerror}); give the report another path") from error
    return target


def render(
    run: Run,
    data: Mapping[str, Any],
    specs: Mapping[str, Any],
    library: str,
    *,
    title: str | None,
    planted: bool,
) -> str:
    """The page's text from its parts."""
    heading = escape(printable(title or f"eigenzoo: {os.path.basename(run.record.zoo) or run.record.zoo}"))
    matrices = data["matrices"]
    scripts = [_script_text(library), _script_text(SCRIPT)]
    options = "".join(
        f'<option value="{i}">{escape(m["layer"])}, side {escape(m["side"])}</option>' for i, m in enumerate(matrices)
    )
    planted_words = " Short bars: the planted K." if planted else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{heading}</title>
<style>{CSS}</style>
</head>
<body>
<header>
<h1>{heading}</h1>
{introduction(matrices)}
{facts(run, matrices)}
{unfinished(run, len(matrices))}
</header>
<noscript><p>The charts need JavaScript; the table does not.</p></noscript>
<section>
<h2>K over the layers</h2>
<div class="controls"><label>K<select id="rule">
<option value="gd">by Gavish–Donoho</option><option value="ev">for 80 % of the variance</option>
<option value="kept">kept in this run</option></select></label></div>
<figure><div id="picture" class="chart"></div>
<figcaption>A panel per kind of module; a dash at the bottom where the rule declines.{planted_words}
</figcaption></figure>
</section>
<section>
<h2>All matrices</h2>
<p class="quiet">Click a row to see its spectrum. “–”: the rule declines; hold the pointer on it to see
why.</p>
{matrix_table(matrices, planted=planted)}
</section>
<section id="one">
<h2>One matrix</h2>
<div class="controls"><label>matrix<select id="matrix">{options}</select></label>
<label>index axis<select id="axis">
<option value="log">logarithmic</option><option value="linear">linear</option></select></label></div>
<h3 id="chosen"></h3>
<p id="nothing" hidden>No singular value above zero: there is nothing to draw.</p>
<div id="curves" class="pair">
<figure><div id="scree" class="chart"></div><figcaption id="scree-words"></figcaption></figure>
<figure><div id="share" class="chart"></div><figcaption id="share-words"></figcaption></figure>
</div>
</section>
<script type="application/json" id="data">{_json(data)}</script>
<script type="application/json" id="specs">{_json(specs)}</script>
<script>{scripts[0]}</script>
<script>{scripts[1]}</script>
</body>
</html>
"""


def _tools() -> tuple[str, Any]:
    """The Vega libraries as one script, and what makes the specifications."""
    try:
        import altair  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise EigenzooError(
            f"the report needs {error.name}, which is missing; pip install 'eigenzoo[report]'"
        ) from error
    from engine.report import charts

    def specs(axis: str) -> dict[str, Any]:
        return {
            "picture": charts.picture(axis),
            "scree": charts.scree(centred=True),
            "scree_uncentred": charts.scree(centred=False),
            "share": charts.share(centred=True),
            "share_uncentred": charts.share(centred=False),
        }

    return _library(), specs


@lru_cache(maxsize=1)
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script; bundling takes a second."""
    import vl_convert

    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def _json(value: Any) -> str:
    """JSON that is safe inside a script element: no <, > or &, and ASCII throughout."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _script_text(text: str) -> str:
    """A script as an HTML parser hands it on: one kind of line end, no tag or comment in its strings."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(r"<(?=/script|script|!--)", r"\\x3c", text, flags=re.IGNORECASE)


def _policy(scripts: list[str]) -> str:
    hashes = (base64.b64encode(hashlib.sha256(s.encode("utf-8")).digest()).decode() for s in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    rest = "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'"
    return f"default-src 'none'; script-src {allowed}; {rest}"
