from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.analysis import file as found
from engine.rank import parse_rule
from engine.report.document import script_text
from engine.report.page import write_report
from engine.report.rules import STANDARD
from engine.run import Run
from ingest.errors import EigenzooError
from tests.engine.report.conftest import MakeRun, large_run, planted

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

HOSTILE = 'x</script><script>alert(1)</script><img src=x onerror="alert(2)">&\u2028\u202e\ud800.q'


class Page(HTMLParser):
    """Elements, the text of scripts by id or number, and table rows of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.rows: list[list[str]] = []
        self.titles: list[str] = []
        self._script = self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.tags.append((tag, named))
        if tag == "script":
            self._script = True
            self._key = named.get("id") or str(len(self.scripts))
            self.scripts[self._key] = ""
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self._cell = True
            self.rows[-1].append("")
        if named.get("title"):
            self.titles.append(str(named["title"]))

    def handle_endtag(self, tag: str) -> None:
        self._script &= tag != "script"
        self._cell &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[self._key] += data
        if self._cell:
            self.rows[-1][-1] += data

    @property
    def data(self) -> Any:
        return json.loads(self.scripts["data"])


def page_of(run: Run, tmp_path: Path, **options: Any) -> Page:
    path = write_report(run, tmp_path / "report.html", **options)
    return Page(path.read_text(encoding="utf-8"))


def test_data_are_the_runs(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(
        [
            ("layers.10.q", "A", planted(80, 30, 3)),
            ("layers.2.q", "B", planted(400, 300, 5)),
            ("layers.2.q", "A", planted(60, 90, 2)),
        ]
    )
    data = page_of(run, tmp_path).data
    assert [(m["layer"], m["side"]) for m in data["matrices"]] == [m.key for m in run.matrices]
    for drawn, result in zip(data["matrices"], run.matrices, strict=True):
        subspace = run.subspace(result.layer, side=result.side)
        at = np.array(data["grids"][str(drawn["n"])]) - 1
        cumulative = np.cumsum(subspace.singular_values**2) / np.sum(subspace.singular_values**2)
        assert drawn["n"] == len(subspace.singular_values)
        assert drawn["sigma"] == pytest.approx(subspace.singular_values[at], rel=1e-5)
        assert drawn["share"] == pytest.approx(cumulative[at], rel=1e-5)
        assert [rule["name"] for rule in data["rules"]] == list(STANDARD)
        spectrum = subspace.as_spectrum()
        for name, k, at_k, held in zip(STANDARD, drawn["k"], drawn["shares"], drawn["at"], strict=True):
            choice = parse_rule(name)(spectrum)
            assert k == choice.k
            if k:
                assert at_k == pytest.approx(cumulative[k - 1], rel=1e-5)
            if name.startswith("ev:") or choice.threshold is None:
                assert held is None
            else:
                assert held == pytest.approx(choice.threshold, rel=1e-5)
        assert data["rules"][drawn["on"]]["name"] == "gavish-donoho" and data["first"] == drawn["on"]
        assert drawn["kept"] == subspace.n_components
        assert drawn["total_variance"] == result.total_variance
    # 300 values, of which 250 at most are drawn, and the page says so
    drawn = data["matrices"][1]
    assert len(drawn["sigma"]) < 300 and f"{len(drawn['sigma'])} of 300 are drawn" in drawn["words"]["scree"]
    assert "All 30 are drawn" in data["matrices"][2]["words"]["scree"]


def test_table(make_run: MakeRun, tmp_path: Path) -> None:
    x = planted(200, 40, 3)
    run = make_run([("layers.10.q", "A", x), ("layers.9.q", "A", x)])
    head, first, second = page_of(run, tmp_path, planted={("layers.9.q", "A"): 3}).rows
    assert head[4:7] == ["planted K", "K by Gavish–Donoho", "K by bulk edge"]
    assert head[5 + len(STANDARD) :] == ["K kept", "noise", "total variance", "method", "note"]
    variance = f"{run.matrices[0].total_variance:.4g}"
    assert first[:6] == ["layers.9.q", "A", "200 × 40", "1", "3", "3"]
    assert first[head.index("K for 80\u00a0% of variance")] == str(run.matrices[0].k["ev_0.8"])
    assert first[5 + len(STANDARD) :] == ["3", "white", variance, "moments", ""]
    assert second[:5] == ["layers.10.q", "A", "200 × 40", "1", ""]
    assert "planted K" not in page_of(run, tmp_path).rows[0]


def test_a_wrong_k_is_marked(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run([("q", "A", planted(200, 40, 3))])
    for k, marked in ((3, False), (4, True)):
        classes = [tag[1].get("class") for tag in page_of(run, tmp_path, planted={("q", "A"): k}).tags]
        assert ("number off" in classes) is marked


def test_thresholds_are_drawn(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run([("q", "A", planted(200, 40, 3))], k="gavish-donoho:0.1")
    page = page_of(run, tmp_path)
    specs = json.loads(page.scripts["specs"])
    rules = [layer for layer in specs["scree"]["layer"] if layer.get("data") == {"name": "thresholds"}]
    assert [(r["mark"]["type"], r["encoding"]["y"]["field"]) for r in rules] == [("rule", "value")]
    (drawn,) = page.data["matrices"]
    at = {rule["label"]: value for rule, value in zip(page.data["rules"], drawn["at"], strict=True)}
    choices = run.subspace("q", side="A").choices
    assert at["Gavish–Donoho"] == pytest.approx(choices["gavish-donoho"].threshold, rel=1e-5)
    assert at["Gavish–Donoho, noise 0.1"] == pytest.approx(choices["gavish-donoho:0.1"].threshold, rel=1e-5)
    assert page.data["rules"][drawn["on"]]["name"] == "gavish-donoho:0.1"


def test_a_given_k_is_no_rule(make_run: MakeRun, tmp_path: Path) -> None:
    page = page_of(make_run([("q", "A", planted(200, 40, 3))], k="5"), tmp_path)
    assert [rule["name"] for rule in page.data["rules"]] == list(STANDARD)
    assert page.data["matrices"][0]["on"] == -1 and page.data["first"] == -1 and page.data["matrices"][0]["kept"] == 5


@pytest.mark.parametrize("center", ["feature", "none"])
def test_axis_titles(make_run: MakeRun, tmp_path: Path, center: str) -> None:
    page = page_of(make_run([("q", "A", planted(60, 20, 2))], center=center), tmp_path)
    specs = json.loads(page.scripts["specs"])
    assert page.data["matrices"][0]["center"] == center
    scree, share = ("scree", "share") if center == "feature" else ("scree_uncentred", "share_uncentred")
    matrix = "centred" if center == "feature" else "uncentred"
    assert specs[scree]["layer"][0]["encoding"]["y"]["title"] == f"singular value σᵢ of the {matrix} matrix"
    assert specs[scree]["layer"][0]["encoding"]["y"]["scale"]["type"] == "log"
    assert ("about zero" in specs[share]["layer"][0]["encoding"]["y"]["title"]) is (center == "none")


@pytest.mark.parametrize(
    ("x", "center", "gd", "says"),
    [
        (np.random.default_rng(0).standard_normal((300, 60)), "feature", 0, "K = 0"),
        (planted(200, 60, 3) @ np.diag(np.arange(60) < 9) @ np.eye(60), "feature", None, None),
        (np.ones((1, 8)), "feature", None, "Gavish–Donoho declines"),
        (np.ones((1, 8)), "none", 0, "It is the only one"),
        (np.zeros((30, 12)), "feature", None, "Every singular value is numerically zero"),
        (np.zeros((5, 12)), "none", None, "Every singular value is numerically zero"),
    ],
    ids=["K=0", "zero columns", "one row", "one row uncentred", "zeros", "wide zeros"],
)
def test_odd_matrices(
    make_run: MakeRun, tmp_path: Path, x: NDArray[Any], center: str, gd: int | None, says: str | None
) -> None:
    run = make_run([("layers.0.q", "A", x)], center=center)
    page = page_of(run, tmp_path)
    (drawn,) = page.data["matrices"]
    expected = run.matrices[0].k["gavish_donoho"]
    assert drawn["k"][0] == expected
    if says is not None:
        assert expected == gd and says in drawn["words"]["scree"]
    if expected is None:
        assert page.rows[1][4] == "–"
        assert run.subspace("layers.0.q", side="A").choices["gavish-donoho"].note in page.titles
    assert all(value is None or np.isfinite(value) for value in (*drawn["shares"], *drawn["at"]))


def test_half_null_spectrum_declines_and_counts_its_zeros(make_run: MakeRun, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    run = make_run([("q", "A", rng.standard_normal((200, 10)) @ rng.standard_normal((10, 40)))])
    page = page_of(run, tmp_path)
    (drawn,) = page.data["matrices"]
    assert drawn["k"][0] is None and drawn["at"][0] is None and page.rows[1][4] == "–"
    assert "30 are numerically zero" in drawn["words"]["scree"] and "10 of 40 are drawn" in drawn["words"]["scree"]
    assert any("numerically null" in title for title in page.titles)


def test_hostile_names(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run([(HOSTILE, "A", planted(60, 20, 2))], base=HOSTILE)
    page = page_of(run, tmp_path, title=HOSTILE)
    assert len(page.scripts) == 4
    assert not {"img", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.rows[1][0].startswith("x</script>") and "\\u202e\\ud800.q" in page.rows[1][0]
    assert page.data["matrices"][0]["layer"] == page.rows[1][0]
    assert not re.search("[<>&\u2028]", page.scripts["data"])


def test_nothing_is_fetched(make_run: MakeRun, tmp_path: Path) -> None:
    page = page_of(make_run([("q", "A", planted(60, 20, 2))]), tmp_path)
    fetching = {"src", "srcset", "data", "action", "poster", "background"}
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "base", "object", "embed")
        assert not fetching & set(attributes)
        assert (attributes.get("href") or "#").startswith("#")
    assert "://" not in page.scripts["data"] + page.scripts["specs"]
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a) or ""
    assert policy.startswith("default-src 'none';") and "http" not in policy
    programs = [text for name, text in page.scripts.items() if name not in ("data", "specs")]
    for text in programs:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy
    assert len(programs) == policy.count("'sha256-") == 2


def test_scripts_survive_the_html_parser() -> None:
    assert script_text("a='</SCRIPT>';\r\nb='<!-- <script>'") == "a='\\x3c/SCRIPT>';\nb='\\x3c!-- \\x3cscript>'"


def test_head_says_what_was_done(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run([("q", "A", planted(60, 20, 2))], k="ev:0.9", center="none", base=None)
    text = write_report(run, tmp_path / "deep" / "report.html").read_text(encoding="utf-8")
    for words in (
        "some zoo.zarr, at its commit 7",
        "not recorded",
        "1 matrix of 1 layer",
        "none: nothing is subtracted",
        "the fewest components with 90 % of the variance",
    ):
        assert words in text
    assert "/data/" not in text


def test_same_run_same_page(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run([("q", "A", planted(60, 20, 2)), ("q", "B", planted(60, 30, 2))])
    pages = [write_report(run, tmp_path / f"{i}.html").read_bytes() for i in range(2)]
    assert pages[0] == pages[1]


def test_the_command(make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from engine.cli import main

    run = make_run([("q", "A", planted(60, 20, 2))])
    page = tmp_path / "short.html"
    assert main(["report", run.path, "-o", str(page)]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    assert page.read_bytes() == write_report(run, tmp_path / "other.html").read_bytes()


def test_errors_are_one_line(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EigenzooError, match="no finished matrix"):
        write_report(make_run([]), tmp_path / "report.html")
    run = make_run([("q", "A", planted(60, 20, 2))])
    (tmp_path / "folder").mkdir()
    with pytest.raises(EigenzooError, match="cannot be written"):
        write_report(run, tmp_path / "folder")
    for name in ("altair", "vl_convert"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(EigenzooError) as caught:
                write_report(run, tmp_path / "missing.html")
        assert name in str(caught.value) and "pip install 'eigenzoo[report]'" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "missing.html").exists()


@pytest.mark.parametrize(
    ("name", "datasets"),
    [
        ("map", {"matrices"}),
        ("scree", {"spectrum", "thresholds", "labels"}),
        ("scree_uncentred", {"spectrum", "thresholds", "labels"}),
        ("share", {"spectrum", "rules", "marks"}),
        ("share_uncentred", {"spectrum", "rules", "marks"}),
        ("curve", {"curve", "controls", "at", "labels"}),
        ("heldout", {"heldout"}),
        ("errors", {"errors"}),
    ],
)
def test_specifications_compile(make_run: MakeRun, tmp_path: Path, name: str, datasets: set[str]) -> None:
    import vl_convert

    page = page_of(make_run([("q", "A", planted(60, 20, 2))]), tmp_path)
    spec = json.loads(page.scripts["specs"])[name]
    assert "datasets" not in spec
    named = set(re.findall(r'"data": \{"name": "(\w+)"\}', json.dumps(spec)))
    assert named == datasets
    vl_convert.vegalite_to_vega({**spec, "datasets": {n: [] for n in named}})


def test_what_an_analysis_found_is_shown(tmp_path: Path) -> None:
    run = large_run(tmp_path / "run", blocks=3, analysed=True)
    text = write_report(run, tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    analysis = found.read_analysis(run)
    assert analysis is not None
    assert [rule["name"] for rule in page.data["rules"]] == [*STANDARD, "parallel"]
    first = next(i for i, row in enumerate(page.rows) if row[0] == "layer")
    head = page.rows[first]
    for at, (drawn, said) in enumerate(zip(page.data["matrices"], analysis.matrices, strict=True)):
        assert said.heldout is not None and said.overlap is not None and said.reconstruction is not None
        assert (drawn["layer"], drawn["side"]) == (said.layer, said.side)
        assert drawn["heldout"]["error"] == pytest.approx(said.heldout.error, rel=1e-5)
        assert drawn["error"]["worst"] == said.reconstruction.worst and drawn["k"][-1] == said.rules[0].k
        assert page.rows[first + 1 + at][head.index("held-out error")] == f"{said.heldout.error:.3g}"
        assert page.rows[first + 1 + at][head.index("overlap, × chance")] == f"{said.overlap.ratio:.3g}"
    assert [d["layer"] for d in page.data["delta"]] == [each.layer for each in analysis.layers]
    for words in (
        "In 6 of 9 layers",
        "author-0/adapter-0",
        "task-0007",
        "More than half of the component’s energy, and more than three times a fair share of it",
        "analysis: folds",
        'id="heldout"',
        'id="errors"',
    ):
        assert words in text
    assert "Not looked for" not in text and "fitted again" not in text


def test_without_an_analysis_it_is_said_how_to_get_one(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run([("q", "A", planted(60, 20, 2))])
    text = write_report(run, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Not looked for: seed groups, held-out errors, overlap against chance, reconstruction errors" in text
    assert "eigenzoo analyse RUN" in text and 'id="heldout"' not in text and 'id="errors"' not in text
    found.write_analysis(run, found.Analysis(7, (found.MatrixAnalysis("q", "A", "of other rows", 2, "feature"),)))
    text = write_report(run, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "1 matrix was fitted again since the analysis" in text


def test_what_was_found_of_other_rows_is_left_out(make_run: MakeRun, tmp_path: Path) -> None:
    """Also of a layer one of whose matrices was fitted again: seeds and ΔW are of both sides."""
    x = planted(60, 20, 2)
    run = make_run([(layer, side, x) for layer in ("o", "q", "v") for side in ("A", "B")])
    changed = {("q", "B")}
    matrices = tuple(
        found.MatrixAnalysis(
            m.layer, m.side, "of other rows" if m.key in changed else m.identity, m.n_components, m.center
        )
        for m in run.matrices
        if m.key != ("o", "A")  # finished since
    )
    layers = tuple(
        found.LayerAnalysis(
            layer, found.SeedFigures(((f"{layer}-one", f"{layer}-two"),), 0.9), found.DeltaFigures(0.1, 0.2, "w")
        )
        for layer in ("o", "q", "v")
    )
    found.write_analysis(run, found.Analysis(7, matrices, layers))
    path = write_report(run, tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    assert [(d["layer"], d["at"]) for d in Page(text).data["delta"]] == [("v", 3)]
    assert "In 1 of 3 layers" in text and "v-one, v-two" in text and "q-one" not in text and "o-one" not in text
    assert "1 matrix was fitted again since the analysis" in text


def test_who_was_refused(tmp_path: Path) -> None:
    from engine.fitting import fit
    from engine.run import RunRecord, RunSettings, open_run, summary, write_record, write_result
    from ingest import synthetic
    from ingest.pipeline import ingest
    from ingest.store.reader import open_zoo

    plan = synthetic.write(tmp_path / "adapters", replace(synthetic.demo_settings(), adapters=3))
    ingest([tmp_path / "adapters"], tmp_path / "zoo.zarr")
    zoo = open_zoo(tmp_path / "zoo.zarr")
    for uuid, known in ((zoo.commit.uuid, True), ("another", False)):
        path = str(tmp_path / f"run-{known}")
        write_record(path, RunRecord(RunSettings(), zoo.path, 1, None, uuid))
        subspace = fit(planted(60, 20, 2))
        write_result(path, summary("q", "A", subspace), subspace)
        text = write_report(open_run(path), tmp_path / "report.html").read_text(encoding="utf-8")
        rows = {row[0]: row[1] for row in Page(text).rows if len(row) == 3}
        assert (plan.refused.items() <= rows.items()) is known
        assert ("another zoo lies where" in text) is not known
        assert str(tmp_path) not in text
