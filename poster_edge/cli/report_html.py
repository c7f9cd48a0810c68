"""HTML parts and style sheet of the export's report: light and dark, paper and phone.

The two hues are Okabe and Ito's blue and vermillion ("Color Universal Design", 2008), lighter on
dark ground, and nothing is told by a colour alone.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from poster_edge.cli.report_plots import printable


def escape(text: str) -> str:
    """Text that comes from files or people, as it may stand in HTML or in an attribute."""
    return html.escape(printable(text))


def section(title: str, parts: Iterable[str], *, ident: str = "") -> str:
    """A part of the page under its heading, or nothing when all it would hold is empty."""
    body = "\n".join(p for p in parts if p)
    named = f' id="{ident}"' if ident else ""
    return f"<section{named}>\n<h2>{title}</h2>\n{body}\n</section>" if body else ""


def figures(parts: Iterable[str], style: str = "figures") -> str:
    """Figures side by side, as far as there is room, without the empty ones."""
    body = "\n".join(p for p in parts if p)
    return f'<div class="{style}">\n{body}\n</div>' if body else ""


def figure(title: str, plot: str, caption: str = "") -> str:
    """A plot, or other HTML, between its title in plain text and a caption in HTML."""
    above = f"<figcaption>{escape(title)}</figcaption>\n" if title else ""
    below = f"\n<p>{caption}</p>" if caption else ""
    return f"<figure>\n{above}{plot}{below}\n</figure>"


def items(lines: Sequence[str]) -> str:
    """A list of plain lines, or nothing."""
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


STYLE = """
:root {
  --paper: #fff; --card: #f6f7f8; --ink: #1b1f23; --soft: #57606a; --grid: #d5dade; --line: #8b949e;
  --main: #0072b2; --alarm: #c04f00; --shade: #c04f0026; --good: #e6f1f8; --bad: #fbeadf;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --card: #1d2125; --ink: #e8eaed; --soft: #a3abb3; --grid: #353b41; --line: #7d868f;
    --main: #56b4e9; --alarm: #f5953d; --shade: #f5953d33; --good: #14303f; --bad: #40260f;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; overflow-wrap: anywhere;
}
main { max-width: 64rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
p, ul { margin: .25rem 0 .75rem; }
ul { padding-left: 1.25rem; }
a { color: inherit; }
.small, figure p { color: var(--soft); font-size: .875rem; }
.verdict { border-left: .5rem solid var(--line); background: var(--card); padding: 1rem 1.25rem; border-radius: .5rem; }
.verdict.passed { border-color: var(--main); background: var(--good); }
.verdict.failed { border-color: var(--alarm); background: var(--bad); }
.verdict .word { font-size: 2.5rem; font-weight: 700; line-height: 1.1; margin: 0 0 .5rem; }
.verdict h3 { margin-top: 1rem; margin-bottom: .25rem; }
.verdict p, .verdict ul { margin: .125rem 0; }
.verdict li { font-weight: 600; }
.figures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); }
.figures.dense { grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); }
.figures figure { margin: 0; padding: .75rem; background: var(--card); border-radius: .5rem; min-width: 0; }
.figures figcaption { font-weight: 600; margin-bottom: .25rem; }
.figures p { margin: .25rem 0 0; }
.plot { display: block; width: 100%; max-width: 30rem; height: auto; }
.plot text {
  fill: var(--ink); font-size: 12px;
  paint-order: stroke; stroke: var(--card); stroke-width: 4px; stroke-linejoin: round;
}
.plot .tick, .plot .unit { fill: var(--soft); font-size: 11px; }
.plot .figure { font-variant-numeric: tabular-nums; fill: var(--soft); }
.plot .used { font-weight: 700; }
.plot .grid { stroke: var(--grid); stroke-width: 1; }
.plot .zero { stroke: var(--line); stroke-width: 1; }
.plot .interval { stroke: var(--main); stroke-width: 2; }
.plot .limit { stroke: var(--alarm); stroke-width: 2; }
.plot .refused { fill: var(--shade); }
.plot .after { fill: var(--main); }
.plot .before { fill: none; stroke: var(--ink); stroke-width: 1.5; }
.plot .bar { fill: var(--main); }
.plot .bar.hollow { fill: none; stroke: var(--main); stroke-width: 1.5; stroke-dasharray: 3 2; }
.plot .counts { fill: var(--line); opacity: .75; }
.plot .cut { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 3 3; }
.plot .cut.used { stroke: var(--alarm); stroke-width: 2.5; stroke-dasharray: none; }
.key { display: inline-block; width: .8em; height: .8em; vertical-align: -.05em; }
.key.ring { border: 1.5px solid var(--ink); border-radius: 50%; }
.key.dot { background: var(--main); border-radius: 50%; }
.key.refused { background: var(--shade); border-left: 2px solid var(--alarm); }
.key.hollow { border: 1.5px dashed var(--main); width: 1.6em; }
.faces { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); }
.faces figure { margin: 0; background: var(--card); border-radius: .5rem; overflow: hidden; }
.faces img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: #000; }
.faces figcaption { font-size: .8125rem; line-height: 1.35; padding: .5rem .6rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .5rem .3rem 0; border-bottom: 1px solid var(--grid); }
th { font-weight: 600; }
.numbers { font-size: .875rem; }
.numbers th:not(:first-child), .numbers td { text-align: right; font-variant-numeric: tabular-nums; }
.numbers th, .numbers td { overflow-wrap: normal; }
.numbers th:last-child, .numbers td:last-child { padding-right: 0; }
.facts th { width: 25%; padding-right: 1rem; overflow-wrap: break-word; }
@media (max-width: 30rem) {
  main { padding: 1rem .5rem 2rem; }
  .figures figure { padding: .625rem .5rem; }
  .verdict .word { font-size: 2rem; }
}
@media print {
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main { max-width: none; padding: 0; }
  figure, .verdict, tr { break-inside: avoid; }
  h2, h3, section > p { break-after: avoid; }
  .faces { grid-template-columns: repeat(auto-fill, minmax(6rem, 1fr)); gap: .5rem; }
  .faces figcaption { font-size: .625rem; padding: .25rem .375rem; }
}
"""
