// A matrix is picked by a click, the keyboard or the address; rows of the table sort.
function choose(index, go) {
  if (!(index in data.matrices)) return;
  current = index;
  byId("matrix").value = String(index);
  for (const row of byId("rows").children) row.toggleAttribute("aria-current", row.dataset.index === String(index));
  const row = byId("rows").querySelector('[data-index="' + index + '"]'), box = row.closest(".scroll");
  const head = row.closest("table").tHead.offsetHeight, top = box.scrollTop + head;
  const visible = row.offsetTop >= top && row.offsetTop + row.offsetHeight <= box.scrollTop + box.clientHeight;
  if (!visible) box.scrollTop = row.offsetTop - head;
  if (shown.map) shown.map.view.signal("chosen", index).runAsync();
  const drawn = drawMatrix();
  if (go) byId("one").scrollIntoView({behavior: still.matches ? "auto" : "smooth", block: "nearest"});
  return drawn;
}

const fromAddress = () => Number((location.hash.match(/^#matrix-(\d+)$/) || [0, 0])[1]);
byId("rows").addEventListener("click", event => {
  const row = event.target.closest("tr");
  if (!row) return;
  event.preventDefault();
  choose(Number(row.dataset.index), true);
});
byId("rows").addEventListener("keydown", event => {
  const row = event.target.closest("tr"), down = event.key === "ArrowDown";
  const next = down ? row.nextElementSibling : event.key === "ArrowUp" ? row.previousElementSibling : null;
  if (!next) return;
  event.preventDefault();
  next.querySelector("a").focus({preventScroll: true});
  choose(Number(next.dataset.index), false);
});

// On the map, arrows go to the next cell that way; from one side on to the other.
const moves = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]};
byId("map").addEventListener("keydown", event => {
  const [down, right] = moves[event.key] || [0, 0];
  if (!down && !right) return;
  event.preventDefault();
  const panels = distinct(data.matrices.map(m => m.panel)), sides = distinct(data.matrices.map(m => m.side));
  const row = m => sides.indexOf(m.side) * panels.length + panels.indexOf(m.panel);
  const here = data.matrices[current];
  const ahead = m => down ? m.x === here.x && (row(m) - row(here)) * down : row(m) === row(here) && (m.x - here.x) * right;
  let best = -1;
  data.matrices.forEach((m, i) => {
    if (ahead(m) > 0 && (best < 0 || ahead(m) < ahead(data.matrices[best]))) best = i;
  });
  if (best >= 0) choose(best, false);
});

const valueOf = cell => {
  const number = parseFloat(cell.textContent.replace(/[,\s]/g, ""));
  return Number.isNaN(number) ? -1 : number;
};
for (const button of document.querySelectorAll("#matrices thead button"))
  button.addEventListener("click", () => {
    const head = button.parentElement, at = head.cellIndex, words = !head.classList.contains("number");
    const up = head.getAttribute("aria-sort") ? head.getAttribute("aria-sort") === "descending" : words;
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const first = row => Number(row.dataset.index);
    const compare = (p, q) => !words ? valueOf(p.cells[at]) - valueOf(q.cells[at])
      : at ? p.cells[at].textContent.localeCompare(q.cells[at].textContent) : first(p) - first(q);
    const rows = [...byId("rows").children].sort((p, q) => (up ? 1 : -1) * compare(p, q) || first(p) - first(q));
    byId("rows").append(...rows);
  });

byId("matrix").addEventListener("change", event => choose(Number(event.target.value), false));
byId("axis").addEventListener("change", drawMatrix);
byId("rule").addEventListener("change", drawMap);
window.addEventListener("hashchange", () => choose(fromAddress(), true));
const drawAll = () => Promise.all([drawMap(), drawMatrix(), drawHeldout(), drawErrors()]);
dark.addEventListener("change", drawAll);
let timer = 0, width = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth === width) return;  // a phone's address bar comes and goes
  width = window.innerWidth;
  clearTimeout(timer);
  timer = setTimeout(drawAll, 150);
});
current = fromAddress() in data.matrices ? fromAddress() : 0;
(async () => {
  await drawMap();
  await choose(current, location.hash !== "");
  await Promise.all([drawHeldout(), drawErrors()]);
  document.documentElement.dataset.drawn = Math.round(performance.now());
})();
