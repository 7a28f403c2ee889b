"""The page's style sheet: light and dark, one column of text, charts side by side where there is room."""

CSS = """
:root {
  color-scheme: light dark;
  --page: #fdfdfc; --raised: #f4f4f1; --ink: #1d1f23; --muted: #666d78; --line: #dcdee2; --pick: #e4eef8;
  --a: #0b62ad; --b: #b8470b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #15171b; --raised: #1e2126; --ink: #e8e9eb; --muted: #9aa1ac; --line: #343942; --pick: #22364b;
    --a: #63b0f4; --b: #f2995c;
  }
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body {
  margin: 0 auto; padding: 2rem clamp(1rem, 4vw, 3rem) 4rem; max-width: 84rem;
  background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: anywhere;
}
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .5rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 2.5rem 0 .35rem; }
h3 { font-size: 1rem; margin: 0 0 .6rem; }
p { margin: 0 0 .8rem; max-width: 46rem; }
.quiet, figcaption { color: var(--muted); font-size: .875rem; }
dl {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); gap: .9rem 2rem;
  margin: 1.2rem 0 0; padding: 1rem 0; border: solid var(--line); border-width: 1px 0;
}
dt { color: var(--muted); font-size: .8rem; }
dd { margin: 0; }
.scroll {
  position: relative; overflow: auto; max-height: 32rem; margin-top: .8rem;
  border: solid var(--line); border-width: 1px 0;
}
table {
  border-collapse: collapse; width: 100%; font-size: .875rem; font-variant-numeric: tabular-nums;
  overflow-wrap: normal;
}
th, td { padding: .34rem .55rem; text-align: left; white-space: nowrap; }
thead th {
  position: sticky; top: 0; background: var(--page); color: var(--muted); font-weight: 500;
  vertical-align: bottom; white-space: normal; min-width: 3.6rem; line-height: 1.25;
  box-shadow: inset 0 -1px var(--line);
}
tbody th {
  font-weight: 400; white-space: normal; min-width: 13rem; max-width: 34rem; overflow-wrap: anywhere;
}
tbody tr { cursor: pointer; }
tbody tr:nth-child(even) { background: var(--raised); }
tbody tr:hover, tbody tr[aria-current] { background: var(--pick); }
.number { text-align: right; }
.note { white-space: normal; min-width: 9rem; overflow-wrap: anywhere; }
.missing { margin: 1rem 0 0; padding: .5rem .8rem; border-left: 4px solid var(--b); background: var(--raised); }
[title] { text-decoration: underline dotted; text-underline-offset: 3px; cursor: help; }
.off { color: var(--b); font-weight: 700; }
a { color: inherit; text-decoration: none; unicode-bidi: isolate; }
a:hover { text-decoration: underline; }
.controls { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; align-items: center; margin: .8rem 0 1rem; }
label { color: var(--muted); font-size: .875rem; max-width: 100%; }
select {
  font: inherit; color: var(--ink); background: var(--page); padding: .25rem .5rem;
  border: 1px solid var(--line); border-radius: 4px; margin-left: .4rem; max-width: calc(100% - .4rem);
}
.pair {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: 1.5rem 2.5rem;
}
figure { margin: 0; min-width: 0; }
figcaption { margin-top: .4rem; }
.chart, .chart.vega-embed { width: 100%; min-width: 0; display: block; padding-right: 0; }
.vega-embed summary { opacity: .35 !important; }
.chart.vega-embed details:not([open]) > :not(summary) { display: none !important; }
@media print { .scroll { max-height: none; } .controls, .vega-embed summary { display: none; } }
"""
