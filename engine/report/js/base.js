"use strict";
// Reads the page's two JSON blocks, `data` and `specs`, and draws; text is written only through textContent.
const byId = id => document.getElementById(id);
const read = id => JSON.parse(byId(id).textContent);
const data = read("data"), specs = read("specs");
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const still = window.matchMedia("(prefers-reduced-motion: reduce)");
const distinct = values => [...new Set(values)];
const layers = distinct(data.matrices.map(m => m.layer));
let current = 0;

const colour = name => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
function coloured(spec, side) {
  const own = name => colour(name === "side" ? (side === "B" ? "b" : "a") : name);
  return JSON.parse(JSON.stringify(spec).replace(/var\(--([a-z0-9]+)\)/g, (_, name) => own(name)));
}

const pen = document.createElement("canvas").getContext("2d");
pen.font = "11.5px " + specs.look.font;
const widthOf = text => Math.ceil(pen.measureText(text).width);
const widest = texts => Math.max(0, ...texts.map(widthOf));

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
        mode: "vega-lite", renderer: "svg", ast: true, config: coloured(specs.look),
        tooltip: {theme: dark.matches ? "dark" : "light"}, downloadFileName: "eigenzoo-" + id,
        actions: {export: true, source: false, compiled: false, editor: false}
      });
      shown[id].view.addEventListener("click", (event, item) => {
        if (item && item.datum && Number.isInteger(item.datum.index)) choose(item.datum.index, true);
      });
    } catch (error) {
      byId(id).textContent = "This chart cannot be drawn here: " + error.message;
    }
  }
  busy[id] = false;
}
