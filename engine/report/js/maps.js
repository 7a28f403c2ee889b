// Pictures of the whole run: the map of K, held-out errors, reconstruction errors.
const ROW = 22;
function drawMap() {
  const which = byId("rule").value, kept = which === "kept", room = byId("map").clientWidth;
  const kOf = m => kept ? m.kept : m.k[Number(which)];
  const misled = m => m.white === false && (kept ? m.on >= 0 && data.rules[m.on].white : data.rules[Number(which)].white);
  const panels = distinct(data.matrices.map(m => m.panel)), sides = distinct(data.matrices.map(m => m.side));
  const columns = distinct(data.matrices.map(m => m.x)).length;
  const gutter = Math.min(.4 * room, 14 + widest(panels));
  const step = beside => Math.floor((room - gutter - 12 - 24 * (beside - 1)) / (beside * columns));
  const beside = sides.length > 1 && step(2) >= 24 ? 2 : 1;
  const cell = Math.max(3, Math.min(36, step(beside)));
  const top = Math.max(1, ...data.matrices.map(kOf).filter(k => k !== null));
  const text = k => k === null ? "–" : String(k);

  const spec = coloured(specs.map);
  spec.columns = beside;
  spec.spec.width = cell * columns;
  spec.spec.height = ROW * panels.length;
  for (const layer of spec.spec.layer) {
    layer.encoding.y.sort = panels;
    layer.encoding.y.axis.labelLimit = gutter - 10;
    const corner = Math.min(6, .4 * cell);
    if (layer.mark.shape) Object.assign(layer.mark, {
      size: corner * corner, xOffset: (cell - corner) / 2 - 1.5, yOffset: (corner - ROW) / 2 + 1.5
    });
    if (layer.encoding.color && layer.encoding.color.field === "k") {
      layer.encoding.color.scale.domain = [0, .0625, .25, .5625, 1].map(part => part * top);
      layer.encoding.color.legend.values = distinct([0, Math.round(top / 4), top]);
    }
  }
  spec.params.find(p => p.name === "chosen").value = current;
  spec.datasets = {matrices: data.matrices.map((m, index) => {
    const k = kOf(m), said = text(k);
    return {
      index, panel: m.panel, x: m.x, layer: m.layer, side: m.side, k, said, kept: m.kept, planted: m.planted,
      label: widthOf(said) + 4 <= cell ? said : "", high: k !== null && Math.sqrt(k / top) > .6, flag: misled(m),
      noise: m.white === null ? "not judged" : m.white ? "white" : "not white"
    };
  })};
  spec.description = "K " + byId("rule").selectedOptions[0].textContent + " over depth and module, by side";
  byId("flag-words").hidden = !data.matrices.some(misled);
  return draw("map", spec);
}

function drawOver(id, rows, words) {
  if (!byId(id)) return;
  const spec = coloured(specs[id]);
  const room = byId(id).clientWidth;
  spec.spec.width = Math.max(120, room - 64);
  for (const layer of spec.spec.layer)
    for (const channel of Object.values(layer.encoding))
      if (channel.legend) channel.legend.columns = room < 480 ? 2 : 3;
  spec.datasets = {[id]: rows};
  spec.description = words;
  return draw(id, spec);
}

const atOf = m => layers.indexOf(m.layer) + 1;
function drawHeldout() {
  const rows = [];
  data.matrices.forEach((m, index) => {
    // What was held out comes last, over its controls.
    for (const [field, series] of m.heldout ? [...data.heldout].reverse() : [])
      if (m.heldout[field] !== null)
        rows.push({index, at: atOf(m), side: m.side, layer: m.layer, series, value: m.heldout[field]});
  });
  return drawOver("heldout", rows, "Held-out errors of all matrices beside those of their controls");
}
function drawErrors() {
  const rows = [];
  data.matrices.forEach((m, index) => {
    if (m.error) rows.push({index, at: atOf(m), layer: m.layer, series: m.side, ...m.error});
  });
  for (const each of data.delta) rows.push({series: "ΔW", ...each});
  return drawOver("errors", rows, "Reconstruction error per layer");
}
