"""The page's script: puts the datasets of the chosen matrix into the specifications and draws them.

It reads two JSON blocks, ``data`` and ``specs``, and writes text only through ``textContent``.
"""

SCRIPT = r"""
"use strict";
const read = id => JSON.parse(document.getElementById(id).textContent);
const byId = id => document.getElementById(id);
const data = read("data"), specs = read("specs");
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function coloured(spec, side) {
  const own = name => colour(name === "--side" ? (side === "B" ? "--b" : "--a") : name);
  return JSON.parse(JSON.stringify(spec).replace(/var\((--[a-z]+)\)/g, (_, name) => own(name)));
}

function look() {
  const ink = colour("--ink"), muted = colour("--muted"), line = colour("--line");
  const font = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif";
  return {
    background: colour("--page"), font, padding: {left: 0, right: 4, top: 4, bottom: 6},
    view: {stroke: line}, text: {fontSize: 12}, legend: {labelColor: ink, labelFontSize: 12, offset: 8},
    header: {labelFontSize: 12},
    axis: {
      labelColor: muted, titleColor: ink, titleFontWeight: "normal", labelFontSize: 11.5, titleFontSize: 12.5,
      gridColor: line, gridOpacity: .7, domainColor: line, tickColor: line, titlePadding: 8,
      labelOverlap: "greedy", labelSeparation: 6
    }
  };
}

// One drawing at a time in each place; of several that wait, the last.
const waiting = {}, busy = {}, shown = {};
async function draw(id, spec) {
  waiting[id] = spec;
  if (busy[id]) return;
  busy[id] = true;
  while (waiting[id]) {
    const next = waiting[id];
    waiting[id] = null;
    if (shown[id]) shown[id].finalize();
    shown[id] = null;
    try {
      shown[id] = await vegaEmbed(byId(id), next, {
        mode: "vega-lite", renderer: "svg", ast: true, config: look(),
        tooltip: {theme: dark.matches ? "dark" : "light"}, downloadFileName: "eigenzoo-" + id,
        actions: {export: true, source: false, compiled: false, editor: false}
      });
    } catch (error) {
      byId(id).textContent = "This chart cannot be drawn here: " + error.message;
    }
  }
  busy[id] = false;
}

function drawPicture() {
  const rule = byId("rule"), width = byId("picture").clientWidth;
  const spec = coloured(specs.picture);
  const panels = new Set(data.matrices.map(m => m.panel)).size;
  const lines = Math.ceil(panels / Math.max(1, Math.floor(width / 300)));
  spec.columns = Math.ceil(panels / lines);
  spec.spec.width = Math.min(panels === 1 ? 1200 : 560, Math.floor((width - 34) / spec.columns) - 22);
  if (data.matrices.every(m => m.panel === "")) spec.facet.header.labels = false;
  else spec.facet.header.labelLimit = spec.spec.width;
  spec.datasets = {matrices: data.matrices.map(m => ({
    panel: m.panel, x: m.x, layer: m.layer, side: m.side,
    gd: m.gd === null ? "–" : m.gd, ev: m.ev === null ? "–" : m.ev,
    kept: m.kept, planted: m.planted, k: m[rule.value]
  }))};
  spec.description = "K " + rule.selectedOptions[0].textContent + " over the layers, by side";
  draw("picture", spec);
}

function drawMatrix() {
  const m = data.matrices[Number(byId("matrix").value)], log = byId("axis").value === "log";
  const above = i => m.gd !== null && i <= m.gd;
  const point = (i, j) => ({i, sigma: m.sigma[j], share: m.share[j], above: above(i)});
  const spectrum = data.grids[m.n].map(point);
  const positive = spectrum.filter(p => p.sigma > 0);
  const domain = log ? [.9, 1.1 * Math.max(m.n, 2)] : [0, m.n + 1];
  const scale = {type: log ? "log" : "linear", domain, nice: false};
  const where = k => log ? Math.log(k / domain[0]) / Math.log(domain[1] / domain[0]) : k / domain[1];

  byId("chosen").textContent = m.layer + ", side " + m.side;
  byId("scree-words").textContent = m.words.scree;
  byId("share-words").textContent = m.words.share;
  byId("scree").hidden = byId("share").hidden = positive.length === 0;
  byId("nothing").hidden = positive.length > 0;
  if (positive.length === 0) return;

  const sigmas = positive.map(p => p.sigma).concat(m.thresholds.map(t => t.value).filter(v => v > 0));
  const scree = coloured(m.center === "feature" ? specs.scree : specs.scree_uncentred, m.side);
  scree.layer[0].encoding.x.scale = scale;
  scree.layer[0].encoding.y.scale.domain = [.8 * Math.min(...sigmas), 1.3 * Math.max(...sigmas)];
  scree.datasets = {spectrum: positive, thresholds: m.thresholds.filter(t => t.value > 0)};
  scree.description = "Scree plot of " + m.layer + ", side " + m.side + ". " + m.words.scree;
  // The other chart has its labels above the frame: the two frames stand level.
  scree.padding = {left: 0, right: 4, top: 4 + 16 * m.marks.length, bottom: 6};
  draw("scree", scree);

  const share = coloured(m.center === "feature" ? specs.share : specs.share_uncentred, m.side);
  share.layer[0].encoding.x.scale = scale;
  const marks = m.marks.map((mark, lane) => ({...mark, lane, right: where(mark.k) > .5}));
  share.datasets = {spectrum, marks};
  share.description = "Cumulative variance of " + m.layer + ", side " + m.side + ". " + m.words.share;
  draw("share", share);
}

function choose(index, go) {
  if (!(index in data.matrices)) return;
  byId("matrix").value = String(index);
  for (const row of document.querySelectorAll("tbody tr"))
    row.toggleAttribute("aria-current", row.dataset.index === String(index));
  const row = byId("rows").children[index], box = row.closest(".scroll"), head = row.closest("table").tHead;
  const top = box.scrollTop + head.offsetHeight, bottom = box.scrollTop + box.clientHeight;
  const visible = row.offsetTop >= top && row.offsetTop + row.offsetHeight <= bottom;
  if (!visible) box.scrollTop = row.offsetTop - head.offsetHeight;
  drawMatrix();
  if (go) byId("one").scrollIntoView({behavior: "smooth", block: "start"});
}

const fromAddress = () => Number((location.hash.match(/^#matrix-(\d+)$/) || [0, 0])[1]);
byId("rows").addEventListener("click", event => {
  const row = event.target.closest("tr");
  if (!row) return;
  event.preventDefault();
  choose(Number(row.dataset.index), true);
});
byId("matrix").addEventListener("change", event => choose(Number(event.target.value), false));
byId("axis").addEventListener("change", drawMatrix);
byId("rule").addEventListener("change", drawPicture);
window.addEventListener("hashchange", () => choose(fromAddress(), true));
dark.addEventListener("change", () => { drawPicture(); drawMatrix(); });
let timer = 0, width = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth === width) return;  // a phone's address bar comes and goes
  width = window.innerWidth;
  clearTimeout(timer);
  timer = setTimeout(drawPicture, 150);
});
drawPicture();
choose(fromAddress(), location.hash !== "");
"""
