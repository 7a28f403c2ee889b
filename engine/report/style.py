"""The page's style sheet: light and dark, one column of text, charts side by side where there is room."""

from ingest.look import FONT, variables

CSS = (
    f":root {{ color-scheme: light dark; {variables(dark=False)} }}\n"
    f"@media (prefers-color-scheme: dark) {{ :root {{ {variables(dark=True)} }} }}\n"
    f"body {{ font: 16px/1.55 {FONT}; }}\n"
    + """
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body {
  margin: 0 auto; padding: 2rem clamp(1rem, 4vw, 3rem) 4rem; max-width: 84rem;
  background: var(--page); color: var(--ink); overflow-wrap: anywhere;
}
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .9rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 2.75rem 0 .35rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { margin: 0 0 .8rem; max-width: 46rem; }
.lead { font-size: 1.08rem; line-height: 1.6; max-width: 50rem; padding: 0; margin: 0 0 1rem; list-style: none; }
.lead li { margin: 0 0 .3rem; }
.lead li:first-child { font-weight: 600; }
.quiet, figcaption { color: var(--muted); font-size: .875rem; }
dl {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(max(9rem, 21%), 1fr)); gap: .8rem 2rem;
  margin: 1rem 0 0; padding: 1rem 0; border: solid var(--line); border-width: 1px 0;
}
dt { color: var(--muted); font-size: .8rem; }
dd { margin: 0; font-size: .925rem; }
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
  position: sticky; top: 0; z-index: 2; background: var(--page); color: var(--muted); font-weight: 500;
  vertical-align: bottom; white-space: normal; min-width: 3.6rem; line-height: 1.25;
  box-shadow: inset 0 -1px var(--line);
}
thead button {
  font: inherit; color: inherit; background: none; border: 0; padding: 0; margin: 0; text-align: inherit;
  cursor: pointer; line-height: inherit;
}
thead button:hover { color: var(--ink); }
th[aria-sort] button { color: var(--ink); text-decoration: underline; text-underline-offset: 3px; }
tbody th { font-weight: 400; white-space: normal; min-width: 13rem; max-width: 34rem; overflow-wrap: anywhere; }
#rows tr { cursor: pointer; }
tbody tr { background: var(--page); }
tbody tr:nth-child(even) { background: var(--raised); }
@media (min-width: 50rem) {
  #rows th { position: sticky; left: 0; min-width: 19rem; background: inherit; }
  #matrices thead th:first-child { left: 0; z-index: 3; }
}
#rows tr:hover, tbody tr[aria-current] { background: var(--pick); }
.number { text-align: right; }
.note { white-space: normal; min-width: 24rem; overflow-wrap: anywhere; }
.small { min-width: 0; max-width: 52rem; }
.small tbody th { min-width: 8rem; }
.missing { margin: 1rem 0 0; padding: .5rem .8rem; border-left: 4px solid var(--b); background: var(--raised); }
[title] { text-decoration: underline dotted; text-underline-offset: 3px; cursor: help; }
.off { color: var(--b); font-weight: 700; }
a { color: inherit; text-decoration: none; unicode-bidi: isolate; }
a:hover { text-decoration: underline; }
:focus-visible { outline: 2px solid var(--a); outline-offset: 2px; }
code { font-size: .9em; }
.controls { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; align-items: center; margin: .8rem 0 1rem; }
label { color: var(--muted); font-size: .875rem; max-width: 100%; }
select {
  font: inherit; color: var(--ink); background: var(--page); padding: .25rem .5rem;
  border: 1px solid var(--line); border-radius: 4px; margin-left: .4rem; max-width: calc(100% - .4rem);
}
.pair {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); gap: 2.5rem;
}
figure { margin: 0; min-width: 0; }
figcaption { margin-top: .4rem; }
ul.groups { margin: .4rem 0 1rem; padding-left: 1.2rem; max-width: 60rem; }
ul.groups li { margin-bottom: .35rem; }
details > summary { cursor: pointer; color: var(--muted); font-size: .875rem; }
.chart, .chart.vega-embed { width: 100%; min-width: 0; display: block; padding-right: 0; }
.chart svg { display: block; max-width: 100%; }
.chart.vega-embed summary {
  opacity: .6 !important; top: -32px; right: 0; background: none; border: 0; box-shadow: none; color: var(--muted);
}
.chart.vega-embed details:not([open]) > :not(summary) { display: none !important; }
@media print { .scroll { max-height: none; } .controls, .chart details > summary { display: none; } }
"""
)
