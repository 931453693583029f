"""The page of a run, a scan or a measurement of errors: self-contained HTML from what is in its folder; nothing is computed again.

Every picture is drawn twice, for light and for dark, and has its numbers beside it as CSV.
"""

from __future__ import annotations

import base64
import csv
import html
import io as text_io
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jordan_dist import io
from jordan_dist.figures import METHODS, Drawing, drawings, figure_class, read

# Nothing is loaded from anywhere, and the browser is told so.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
# The look of dynamo-dist's page, which this package does not import.
STYLE = """\
:root { color-scheme: light dark;
  --ink: light-dark(#1b1f24, #e6edf3); --soft: light-dark(#57606a, #9aa4af); --line: light-dark(#d0d7de, #353c45);
  --paper: light-dark(#ffffff, #0f1318); --raised: light-dark(#f6f8fa, #181d24); --accent: light-dark(#0969da, #58a6ff); }
:root[data-theme="light"] { color-scheme: light; }
:root[data-theme="dark"] { color-scheme: dark; }
* { box-sizing: border-box; }
body { font: 15px/1.55 system-ui, sans-serif; max-width: 76rem; margin: 0 auto; padding: 1rem; color: var(--ink); background: var(--paper); }
header { display: flex; align-items: baseline; justify-content: space-between; gap: 1rem; flex-wrap: wrap; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2rem 0 .8rem; padding-bottom: .2rem; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
h3 { font-size: 1.02rem; margin: 1.5rem 0 .5rem; }
.scroll { overflow-x: auto; margin: .5rem 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem 1rem .2rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { font-weight: 600; }
th[scope="row"] { font-weight: 400; }
.facts td { overflow-wrap: anywhere; }
figcaption { color: var(--soft); font-size: .9rem; }
figure { margin: 0 0 1.5rem; min-width: 0; break-inside: avoid; }
figure img { max-width: 100%; height: auto; }
.figure-row { display: flex; flex-wrap: wrap; gap: 1rem; }
.figure-row figure { flex: 1 1 20rem; }
.downloads { display: flex; gap: .4rem; margin: .4rem 0; }
button, .downloads a { font: inherit; font-size: .88rem; color: var(--ink); background: var(--raised); border: 1px solid var(--line);
  border-radius: 5px; padding: .2rem .6rem; cursor: pointer; text-decoration: none; }
button:hover, .downloads a:hover { border-color: var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
img.dark, :root[data-theme="dark"] img.light { display: none; }
:root[data-theme="dark"] img.dark { display: inline; }
@media (prefers-color-scheme: dark) {
  :root:not([data-theme="light"]) img.light { display: none; }
  :root:not([data-theme="light"]) img.dark { display: inline; }
}
@media print {
  :root, :root[data-theme="dark"] { color-scheme: light; }
  button, .downloads { display: none; }
  figure img.light { display: inline !important; }
  figure img.dark { display: none !important; }
}"""
SCRIPT = """\
document.getElementById("theme").addEventListener("click", () => {
  const { dataset } = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)").matches;
  dataset.theme = (dataset.theme ?? (dark ? "dark" : "light")) === "dark" ? "light" : "dark";
});
for (const { src, parentElement } of document.querySelectorAll("figure img.light")) {
  const downloads = parentElement.querySelector(".downloads"), link = document.createElement("a");
  Object.assign(link, { href: src, download: downloads.firstChild.download.replace("csv", "svg"), textContent: "SVG" });
  downloads.append(link);
}"""

THEMES = {"light": ("#1b1f24", "#d0d7de"), "dark": ("#e6edf3", "#353c45")}  # ink and lines
COLOURS = "#3b8fc9", "#d55e00", "#009e73", "#cc79a7"  # those of figures for papers, the blue lighter: it has to be seen on both grounds

VERDICTS = {
    "block": "one Jordan block",
    "blocks": "several Jordan blocks",
    "semisimple": "semisimple: as many independent eigenvectors, no Jordan vector exists",
    "not-defective": "not defective: ordinary, separate eigenvalues",
}


def sections(folder: str | Path) -> str:
    """The page of a run, a scan or a measurement as an HTML fragment with its pictures inside, for embedding. ValueError if the folder
    holds none; MissingExtraError without matplotlib."""
    result = read(folder)
    if result["mode"] == "scan":
        return _scan(result, drawings(folder))
    if result["mode"] == "verify":
        return _errors(result, drawings(folder))
    return _run(Path(folder), result)


def write_page(folder: str | Path) -> Path:
    """Writes report.html into the folder of a run, a scan or a measurement and returns its path."""
    body = sections(folder)
    path = Path(folder) / io.REPORT
    title = _text(_title(read(folder)))
    path.write_text(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>{title}</title><link rel="icon" href="data:,">'
        f'<style>{STYLE}</style></head><body>\n<header><h1>{io.PROGRAM}</h1><button type="button" id="theme">Dark or light</button></header>\n'
        f"<main>{body}</main>\n<script>{SCRIPT}</script></body></html>\n",
        encoding="utf-8",
    )
    return path


def _title(result: dict[str, Any]) -> str:
    if result["mode"] == "verify":
        return "Errors against known chains"
    return f"Exceptional points of {result['name']}" if result["mode"] == "scan" else result["title"]


# ---- a run ------------------------------------------------------------------------------------------------------------------


def _run(folder: Path, result: dict[str, Any]) -> str:
    drawn = drawings(folder)
    parts = [f"<h2>{_text(_title(result))}</h2>", _introduction(result), _facts("The answer", _answer(result))]
    if result["verdict"] == "block":
        parts.append(_facts("Residuals, relative to the size of their terms", _residuals(result)))
    for title, names in (("Modes", "mode"), ("The spectrum around the point", "spectrum splitting"), ("Search", "search")):
        if row := [drawing for drawing in drawn if drawing.name.partition("-")[0] in names.split()]:
            parts += [f"<h3>{title}</h3>", _row(row)]
    if "history" in result:
        parts.append(_steps(result))
    parts.append(_facts("Cost", _cost(result)))
    return "\n".join(part for part in parts if part)


def _introduction(result: dict[str, Any]) -> str:
    order = {2: "Two", 3: "Three"}.get(len(result["singular_values"]), str(len(result["singular_values"])))
    if result["mode"] == "exceptional point":
        done = (
            f"{order} eigenvalues merge into one Jordan block at the parameters below; the search needed "
            f"{result['factorizations']} sparse factorization(s)."
        )
    elif result["order"] == 2:
        done = "The chain at the exceptional point that the derivatives predict from the given parameters, to second order."
    else:
        done = "The deflating subspace at the given parameters."
    where = f"The matrices are of order {result['n']:,}, on {result['ranks']} process(es) ({result['backend']})."
    return f"<p>{_text(done)} {_text(where)}</p>"


def _answer(result: dict[str, Any]) -> list[tuple[str, str]]:
    names = result["parameter_names"]
    rows = [(f"parameter {name}", number(value)) for name, value in zip(names, result["parameters"], strict=True)]
    if result["step"] is not None:
        rows += [(f"predicted step of {name}", number(value, 6)) for name, value in zip(names, result["step"], strict=True)]
    rows += [
        ("eigenvalue", number(result["eigenvalue"])),
        ("verdict", VERDICTS[result["verdict"]]),
        ("singular values of the projected matrix", ", ".join(f"{s:.6g}" for s in result["singular_values"])),
        ("backward error: a pencil with exactly this chain is within", f"{result['backward_error']:.1e}"),
        ("distance to the next eigenvalue (estimate)", number(result["gap"], 4)),
        ("norm of the spectral projector", number(result["projector_norm"], 5)),
    ]
    k = len(result["singular_values"])
    rows += [(f"c in (c t)^(1/{k}) for {n}", number(c, 8)) for n, c in zip(names, result["puiseux"], strict=False)]
    return rows


def _residuals(result: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("subspace", f"{result['subspace_residual']:.1e}")]
    for i, (residual, norm) in enumerate(zip(result["chain_residuals"], result["vector_norms"], strict=True)):
        label = "eigenvector x0" if i == 0 else f"Jordan vector j{i}"
        rows.append((f"{label} (norm {norm:.6g})", f"{residual:.1e}"))
    bounds = result.get("forward_bounds")
    if bounds:
        known = f"bound of the error, matrices known to {bounds['perturbation']:.1e}"
        rows.append((f"eigenvalue: {known}", number(bounds["eigenvalue"], 2)))
        names = ["x0", *(f"j{i}" for i in range(1, len(bounds["vectors"])))]
        rows += [(f"{name}: {known}, relative", number(bound, 2)) for name, bound in zip(names, bounds["vectors"], strict=True)]
    return rows


def _cost(result: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("factorizations", str(result["factorizations"])), ("triangular solves (columns)", str(result["solves"]))]
    rows += [(f"seconds: {name}", f"{value:.2f}") for name, value in result["seconds"].items()]
    rows.append(("peak memory of all processes", f"{result['peak_memory_bytes'] / 2**20:,.0f} MiB"))
    rows.append(("versions", _versions(result)))
    return rows


def _steps(result: dict[str, Any]) -> str:
    header = ["step", *result["parameter_names"], "eigenvalues", "|delta|", "residual", "sweeps"]
    rows = [
        [
            i,
            *(number(value, 12) for value in step["parameters"]),
            ", ".join(number(value, 10) for value in step["eigenvalues"]),
            f"{step['step']:.1e}",
            f"{step['residual']:.1e}",
            step["sweeps"],
        ]
        for i, step in enumerate(result["history"])
    ]
    return _table(header, rows)


# ---- a scan -----------------------------------------------------------------------------------------------------------------


def _scan(result: dict[str, Any], drawn: Sequence[Drawing]) -> str:
    points = result["points"]
    found = f"{len(points)} exceptional point(s) in the window; the discriminant winds {result['count']} times around it."
    sure = (
        "Every zero is one of them, and their eigenvalues swap around each."
        if result["complete"]
        else "This does not account for all zeros."
    )
    names = [f"p{i + 1}" for i in range(len(result["window"][0]))]
    header = [*names, "eigenvalue", "swap", "residual of the subspace", "backward error"]
    rows = [
        [
            *(number(value, 12) for value in point["parameters"]),
            number(point["eigenvalue"], 12),
            "no loop certifies it" if point["loop"] is None else "yes",
            f"{point['subspace_residual']:.1e}",
            f"{point['backward_error']:.1e}",
        ]
        for point in points
    ]
    parts = [f"<h2>{_text(_title(result))}</h2>", f"<p>{_text(found)} {_text(sure)}</p>", _table(header, rows)]
    cost = [("seconds", f"{result['seconds']['total']:.2f}"), ("versions", _versions(result))]
    parts += [_row(drawn), _facts("Cost", cost)]
    return "\n".join(parts)


# ---- a measurement of errors ------------------------------------------------------------------------------------------------


def _errors(result: dict[str, Any], drawn: Sequence[Drawing]) -> str:
    cases = result["cases"]
    verdict = "All slopes are what they must be." if result["passed"] else "Some slope or error is not what it must be."
    words = "Dense pencils with planted Jordan blocks, solved at several distances from the defective pencil; errors are relative."
    header = ["pencil", *(f"slopes, {method}" for method in METHODS), "largest error at the defective pencil", ""]
    rows = [
        [
            case["name"],
            *(", ".join(f"{name} {number(slope, 3)}" for name, slope in case["slopes"][method].items()) for method in METHODS),
            f"{max(error for found in case['floors'].values() for error in found.values()):.0e}",
            "" if case["passed"] else "FAILED",
        ]
        for case in cases
    ]
    cost = [("seconds", f"{result['seconds']['total']:.2f}"), ("versions", _versions(result))]
    parts = [f"<h2>{_text(_title(result))}</h2>", f"<p>{_text(words)} {_text(verdict)}</p>", _row(drawn), _table(header, rows)]
    return "\n".join([*parts, _facts("Cost", cost)])


# ---- pieces of HTML ---------------------------------------------------------------------------------------------------------


def _figure(drawing: Drawing) -> str:
    """A figure for either ground with its numbers. Pictures are images of their own, so that the ids inside several SVGs on one page
    cannot clash."""
    Figure = figure_class()
    import matplotlib as mpl
    from matplotlib.rcsetup import cycler

    ink, line = THEMES["light"]
    colours: dict[Any, Any] = {f"{part}.color": ink for part in ("text", "xtick", "ytick")} | {
        "axes.labelcolor": ink,
        "axes.edgecolor": line,
        "grid.color": line,
    }
    look = {
        "axes.prop_cycle": cycler(color=COLOURS),
        "font.size": 9,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.alpha": 0.6,
        "legend.frameon": False,
        "legend.fontsize": 7.5,
    }
    grounds = {f"{part}.facecolor": "none" for part in ("figure", "axes", "savefig")}
    drawn = text_io.StringIO()
    with mpl.rc_context(colours | look | grounds | {"svg.hashsalt": drawing.name}):
        figure = Figure(figsize=drawing.size, layout="constrained")
        drawing.draw(figure.add_subplot())
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    text, images = _text(drawing.caption), ""
    for theme, (own_ink, own_line) in THEMES.items():
        picture = drawn.getvalue().replace(ink, own_ink).replace(line, own_line)  # to draw takes longer than all else on the page
        encoded = base64.b64encode(picture.encode()).decode()
        images += f'<img class="{theme}" alt="{text}" src="data:image/svg+xml;base64,{encoded}">'
    address = f"data:text/csv;charset=utf-8,{urllib.parse.quote(_csv(drawing.table), safe=',:+;=/')}"
    link = f'<div class="downloads"><a download="{drawing.name}.csv" href="{address}">CSV</a></div>'
    return f"<figure>{images}<figcaption>{text}</figcaption>{link}</figure>"


def _csv(table: Mapping[str, Sequence[Any]]) -> str:
    lines = text_io.StringIO()
    writer = csv.writer(lines)
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    return lines.getvalue()


def _row(drawn: Sequence[Drawing]) -> str:
    return f'<div class="figure-row">{"".join(map(_figure, drawn))}</div>'


def _facts(title: str, rows: list[tuple[str, str]]) -> str:
    body = "".join(f"<tr><th scope='row'>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in rows)
    return f'<h3>{_text(title)}</h3>\n<div class="scroll"><table class="facts">{body}</table></div>'


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in header)
    body = "".join("<tr>" + "".join(f"<td>{_text(value)}</td>" for value in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _versions(result: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in result["versions"].items())


def number(value: Any, digits: int = 14) -> str:
    """A number of a result as people read it: complex ones are [re, im] there, what is not finite null."""
    if value is None:
        return "unknown"
    if isinstance(value, list):
        return f"{value[0]:.{digits}g} {'+' if value[1] >= 0 else '-'} {abs(value[1]):.{digits}g}i"
    return f"{value:.{digits}g}"


def _text(value: Any) -> str:
    return html.escape(str(value))
