// The curves of the chosen matrix. Labels are placed here so that none covers another.
const LANE = 17, GAP = 15, TALL = 300;
// Labels keep their order and stand at least GAP apart, as near their lines as that allows.
function apart(labels, height) {
  labels.sort((p, q) => p.from - q.from);
  let least = -Infinity, most = height;
  for (const each of labels) { each.py = Math.max(each.from, least); least = each.py + GAP; }
  for (const each of [...labels].reverse()) { each.py = Math.min(each.py, most); most = each.py - GAP; }
  return labels;
}
const short = value => String(Number(value.toPrecision(4)));
const span = (log, last) => log ? [.9, 1.1 * Math.max(last, 2)] : [0, last + 1];
const xScale = (log, domain) => ({type: log ? "log" : "linear", domain, nice: false});

function drawScree(m, log, lanes) {
  const spec = coloured(m.center === "feature" ? specs.scree : specs.scree_uncentred, m.side);
  const gd = m.k[data.rules.findIndex(r => r.name === "gavish-donoho")];
  const spectrum = data.grids[m.n].map((i, j) => ({i, sigma: m.sigma[j], above: gd !== null && i <= gd}));
  const positive = spectrum.filter(p => p.sigma > 0);
  const held = data.rules.map((r, i) => ({text: r.label, value: m.at[i]})).filter(t => t.value > 0);
  const all = positive.map(p => p.sigma).concat(held.map(t => t.value));
  const domain = [.8 * Math.min(...all), 1.3 * Math.max(...all)];
  const height = TALL + LANE * lanes + 10;  // as tall as its neighbour with its lanes
  const from = v => height * (1 - Math.log(v / domain[0]) / Math.log(domain[1] / domain[0]));
  const labels = apart(held.map(t => ({text: t.text + " " + short(t.value), from: from(t.value)})), height);
  spec.height = height;
  spec.layer[0].encoding.x.scale = xScale(log, span(log, m.n));
  spec.layer[0].encoding.y.scale.domain = domain;
  spec.datasets = {spectrum: positive, thresholds: held, labels};
  spec.description = "Scree plot of " + m.layer + ", side " + m.side + ". " + m.words.scree;
  return draw("scree", spec);
}

function drawShare(m, log, rules) {
  const spec = coloured(m.center === "feature" ? specs.share : specs.share_uncentred, m.side);
  const domain = span(log, m.n);
  const where = k => log ? Math.log(k / domain[0]) / Math.log(domain[1] / domain[0]) : k / domain[1];
  spec.layer[0].encoding.x.scale = xScale(log, domain);
  const marks = rules.filter(r => r.known).map(r => ({...r, right: where(r.k) > .8}));
  spec.datasets = {spectrum: data.grids[m.n].map((i, j) => ({i, share: m.share[j]})), rules, marks};
  spec.description = "Cumulative variance of " + m.layer + ", side " + m.side + ". " + m.words.share;
  return draw("share", spec);
}

function drawCurve(m, log) {
  const h = m.heldout;
  const spec = coloured(specs.curve, m.side);
  const curve = h.curve.filter(([k]) => k > 0).map(([k, error]) => ({k, error}));
  const controls = data.heldout.filter(([field]) => h[field] !== null && field !== "error");
  const held = controls.map(([field, text]) => ({text: text + " " + short(h[field]), value: h[field]}));
  held.push({text: "held out " + short(h.error), value: h.error});
  const top = 1.08 * Math.max(...held.map(t => t.value), ...curve.map(p => p.error));
  const labels = apart(held.map(t => ({text: t.text, from: TALL * (1 - t.value / top)})), TALL);
  spec.layer[2].encoding.x.scale = xScale(log, span(log, Math.max(h.k, 1, ...curve.map(p => p.k))));
  spec.layer[2].encoding.y.scale.domain = [0, top];
  const at = h.k > 0 ? [{k: h.k}] : [];
  spec.datasets = {curve, controls: held.slice(0, -1), at, labels};
  spec.description = "Held-out error of " + m.layer + ", side " + m.side + ". " + m.words.curve;
  return draw("curve", spec);
}

function drawMatrix() {
  const m = data.matrices[current], log = byId("axis").value === "log";
  const text = k => k === null ? "declines" : k === 0 ? "K = 0" : String(k);
  const rules = data.rules.map((r, i) => ({label: r.label, k: m.k[i], share: m.shares[i], on: m.on === i, note: m.notes[i]}));
  if (m.on < 0) rules.push({label: "as given", k: m.kept, share: m.kept_share, on: true, note: ""});
  rules.forEach((r, i) => Object.assign(r, {
    py: -16 - LANE * (rules.length - 1 - i), known: r.k !== null && r.k > 0, text: text(r.k)
  }));

  byId("chosen").textContent = m.layer + ", side " + m.side;
  byId("scree-words").textContent = m.words.scree + " Noise: " +
    (m.white === null ? "not judged; " : m.white ? "white; " : "not white; ") + m.white_words + ".";
  byId("share-words").textContent = m.words.share;
  byId("curve-words").textContent = m.words.curve;
  const notes = new Map();
  for (const r of rules.filter(r => r.note)) notes.set(r.note, [...notes.get(r.note) || [], r.label]);
  byId("notes").replaceChildren(...[...notes].map(([note, who]) => {
    const line = document.createElement("li");
    line.textContent = who.join(", ") + ": " + note;
    return line;
  }));
  byId("notes").hidden = !notes.size;
  const none = !m.sigma.some(s => s > 0);
  byId("scree").hidden = byId("share").hidden = none;
  byId("nothing").hidden = !none;
  byId("beyond").hidden = !m.heldout;
  const drawn = none ? [] : [drawScree(m, log, rules.length), drawShare(m, log, rules)];
  if (m.heldout) drawn.push(drawCurve(m, log));
  return Promise.all(drawn);
}
