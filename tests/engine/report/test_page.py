from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import engine
from engine.report.page import _script_text, write_report
from engine.run import Run, RunRecord, RunSettings, open_run, summary, write_record, write_result
from ingest.errors import EigenzooError

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

Items = list[tuple[str, str, NDArray[Any]]]
MakeRun = Callable[..., Run]
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


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(items: Items, *, k: str = "gavish-donoho", center: str = "feature", base: str | None = "tiny") -> Run:
        path = str(tmp_path / "run")
        write_record(path, RunRecord(RunSettings(center, k), "/data/some zoo.zarr", 7, base))
        for layer, side, x in items:
            subspace = engine.fit(x, k=k, center=center)
            write_result(path, summary(layer, side, subspace), subspace)
        return open_run(path)

    return make


def page_of(run: Run, tmp_path: Path, **options: Any) -> Page:
    path = write_report(run, tmp_path / "report.html", **options)
    return Page(path.read_text(encoding="utf-8"))


def planted(n: int, width: int, k: int, seed: int = 0) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, k)) @ rng.standard_normal((k, width)) + 0.1 * rng.standard_normal((n, width))


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
        assert (drawn["gd"], drawn["ev"]) == (result.k["gavish_donoho"], result.k["ev_0.8"])
        assert drawn["kept"] == subspace.n_components
        assert drawn["total_variance"] == result.total_variance
        assert [t["value"] for t in drawn["thresholds"]] == [result.threshold]
        assert {m["rule"]: m["k"] for m in drawn["marks"]} == {"gd": drawn["gd"], "ev": drawn["ev"]}
        for mark in drawn["marks"]:
            assert mark["share"] == pytest.approx(cumulative[mark["k"] - 1], rel=1e-5)
    # 300 values, of which 250 at most are drawn, and the page says so
    drawn = data["matrices"][1]
    assert len(drawn["sigma"]) < 300 and f"{len(drawn['sigma'])} of 300 are drawn" in drawn["words"]["scree"]
    assert "All 30 are drawn" in data["matrices"][2]["words"]["scree"]


def test_table(make_run: MakeRun, tmp_path: Path) -> None:
    x = planted(200, 40, 3)
    run = make_run([("layers.10.q", "A", x), ("layers.9.q", "A", x)])
    head, first, second = page_of(run, tmp_path, planted={("layers.9.q", "A"): 3}).rows
    assert head[4:8] == ["planted K", "K by Gavish–Donoho", "K for 80 % of the variance", "K kept"]
    variance = f"{run.matrices[0].total_variance:.4g}"
    ev = str(run.matrices[0].k["ev_0.8"])
    assert first == ["layers.9.q", "A", "200 × 40", "1", "3", "3", ev, "3", variance, "moments", ""]
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
    rules = [layer for layer in specs["scree"]["layer"] if layer["mark"]["type"] == "rule"]
    assert [(r["data"]["name"], r["encoding"]["y"]["field"]) for r in rules] == [("thresholds", "value")]
    choices = run.subspace("q", side="A").choices
    drawn = {t["value"]: t["label"] for t in page.data["matrices"][0]["thresholds"]}
    assert set(drawn) == {choices["gavish-donoho"].threshold, choices["gavish-donoho:0.1"].threshold}
    assert "for noise 0.1" in drawn[choices["gavish-donoho:0.1"].threshold]


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
    assert drawn["gd"] == expected
    if says is not None:
        assert expected == gd and says in drawn["words"]["scree"]
    if expected is None:
        assert page.rows[1][4] == "–"
        assert run.subspace("layers.0.q", side="A").choices["gavish-donoho"].note in page.titles
    assert all(mark["k"] > 0 for mark in drawn["marks"])


def test_half_null_spectrum_declines_and_counts_its_zeros(make_run: MakeRun, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    run = make_run([("q", "A", rng.standard_normal((200, 10)) @ rng.standard_normal((10, 40)))])
    page = page_of(run, tmp_path)
    (drawn,) = page.data["matrices"]
    assert drawn["gd"] is None and drawn["thresholds"] == [] and page.rows[1][4] == "–"
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
    assert _script_text("a='</SCRIPT>';\r\nb='<!-- <script>'") == "a='\\x3c/SCRIPT>';\nb='\\x3c!-- \\x3cscript>'"


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


@pytest.mark.parametrize("name", ["picture", "scree", "scree_uncentred", "share", "share_uncentred"])
def test_specifications_compile(make_run: MakeRun, tmp_path: Path, name: str) -> None:
    import vl_convert

    page = page_of(make_run([("q", "A", planted(60, 20, 2))]), tmp_path)
    spec = json.loads(page.scripts["specs"])[name]
    assert "datasets" not in spec
    named = set(re.findall(r'"data": \{"name": "(\w+)"\}', json.dumps(spec)))
    assert named == ({"matrices"} if name == "picture" else {"spectrum", "thresholds" if "scree" in name else "marks"})
    vl_convert.vegalite_to_vega({**spec, "datasets": {n: [] for n in named}})
