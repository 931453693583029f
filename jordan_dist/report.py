"""The page of a run, a scan or a measurement of errors: self-contained HTML from what is in its folder; nothing is computed again.

Every picture is drawn twice, for light and for dark, and has its numbers beside it as CSV.
"""

from __future__ import annotations

import base64
import csv
import html
import io as text_io
import json
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jordan_dist import io
from jordan_dist.backends import MissingExtraError

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
# Okabe and Ito's colours, told apart by most people who see colours differently, on both grounds.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#3b8fc9", "#d55e00", "#009e73", "#cc79a7", "#8c959f"
NEAREST_GAP = 5.0  # spreads: a next eigenvalue farther away than this would leave the others a dot in its picture

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
        return _scan(result)
    if result["mode"] == "verify":
        return _errors(result)
    return _run(Path(folder), result)


def read(folder: str | Path) -> dict[str, Any]:
    """What the folder holds: result.json of a run, scan.json or verify.json. ValueError if there is none of them."""
    names = (io.RESULT, io.SCAN_FILES[0], io.VERIFY_FILES[0])
    for name in names:
        try:
            found = json.loads((Path(folder) / name).read_text())
        except (OSError, ValueError):
            continue
        if isinstance(found, dict) and found.get("program") == io.PROGRAM:
            return found
    raise ValueError(f"{folder} holds no {io.PROGRAM} run (no {', '.join(names[:-1])} or {names[-1]} of this program)")


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


def figure_class() -> Any:
    try:
        from matplotlib.figure import Figure  # no pyplot: no display, and no state shared with the caller's figures
    except ImportError as error:
        raise MissingExtraError(f'the report needs matplotlib ({error}): pip install "dynamo-jordan[report]"') from error
    return Figure


def _title(result: dict) -> str:
    if result["mode"] == "verify":
        return "Errors against known chains"
    return f"Exceptional points of {result['name']}" if result["mode"] == "scan" else result["title"]


# ---- a run ------------------------------------------------------------------------------------------------------------------


def _run(folder: Path, result: dict) -> str:
    modes = np.zeros((0, 0, 0))
    if (folder / io.MODES).exists():
        with np.load(folder / io.MODES, allow_pickle=False) as file:
            modes = file["modes"]
    parts = [f"<h2>{_text(_title(result))}</h2>", _introduction(result), _facts("The answer", _answer(result))]
    if result["verdict"] == "block":
        parts.append(_facts("Residuals, relative to the size of their terms", _residuals(result)))
    if len(modes):
        parts += ["<h3>Modes</h3>", _row([_mode(mode, i, _mode_caption(result, i)) for i, mode in enumerate(modes)])]
    around = [_spectrum(result), _splitting(result)]
    if any(around):
        parts += ["<h3>The spectrum around the point</h3>", _row(around)]
    if "history" in result:
        parts += ["<h3>Search</h3>", _row([_convergence(result)]), _steps(result)]
    parts.append(_facts("Cost", _cost(result)))
    return "\n".join(part for part in parts if part)


def _introduction(result: dict) -> str:
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


def _answer(result: dict) -> list[tuple[str, str]]:
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


def _residuals(result: dict) -> list[tuple[str, str]]:
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


def _cost(result: dict) -> list[tuple[str, str]]:
    rows = [("factorizations", str(result["factorizations"])), ("triangular solves (columns)", str(result["solves"]))]
    rows += [(f"seconds: {name}", f"{value:.2f}") for name, value in result["seconds"].items()]
    rows.append(("peak memory of all processes", f"{result['peak_memory_bytes'] / 2**20:,.0f} MiB"))
    rows.append(("versions", _versions(result)))
    return rows


def _mode_caption(result: dict, i: int) -> str:
    if result["verdict"] != "block":
        return f"|x| of basis vector {i + 1} of the subspace"
    return "|x0|, the eigenvector" if i == 0 else f"|j{i}|, Jordan vector"


def _mode(mode: np.ndarray, i: int, caption: str) -> str:
    """Root mean square over squares of cells, (side, side), or (side, 1) where there is no grid."""
    side, width = mode.shape

    def draw(axes: Any) -> None:
        if width == 1:
            axes.plot(mode[:, 0], color=BLUE)
            axes.set(xlabel="unknowns, averaged", ylim=(0, None))
            return
        image = axes.imshow(mode.T, origin="lower", cmap="magma", interpolation="none")
        axes.figure.colorbar(image, ax=axes, shrink=0.85)
        axes.set(xlabel="cell i", ylabel="cell j")
        axes.grid(False)

    table: dict[str, Sequence] = {"i": range(side)} | {f"j={j}": [f"{value:.3g}" for value in mode[:, j]] for j in range(width)}
    return _figure(f"mode-{i}", caption, draw, table, size=(4.2, 3.8))


def _spectrum(result: dict) -> str:
    """Eigenvalues on the way of the search, or of the given pencil, where they merge, and the branches of the root between."""
    k, centre = len(result["singular_values"]), _complex([result["eigenvalue"]])[0]
    history = result.get("history", [])
    seen = [_complex(step["eigenvalues"]) for step in history] or ([_complex(result["eigenvalues"])] if result.get("eigenvalues") else [])
    if not seen:
        return ""
    # The branches over the straight line through the first of these pencils and the point, as far on its other side.
    s, shift = np.linspace(-1, 1, 41), 0j
    if result["puiseux"] and (history or result["step"] is not None):
        away = _complex(history[0]["parameters"]) - _complex(result["parameters"]) if history else -_complex(result["step"])
        shift = complex(_complex(result["puiseux"]) @ away)
    branches = [centre + np.exp(2j * np.pi * branch / k) * (shift * s + 0j) ** (1 / k) for branch in range(k)] if shift else []
    gap, spread = result["gap"], max(np.abs(seen[0] - centre).max(), np.finfo(float).tiny)
    near = gap is not None and gap < NEAREST_GAP * spread

    def draw(axes: Any) -> None:
        for branch in branches:
            axes.plot(branch.real, branch.imag, "-", color=GREY, linewidth=1)
        if branches:
            axes.plot([], [], "-", color=GREY, label=f"(c t)^(1/{k}), from the chain")
        for step, eigenvalues in enumerate(seen):
            label = ("eigenvalues on the way" if history else "eigenvalues of the pencil") if step == 0 else None
            axes.plot(eigenvalues.real, eigenvalues.imag, "o", color=BLUE, markersize=4, alpha=1 - 0.6 * step / len(seen), label=label)
        axes.plot(centre.real, centre.imag, "*", color=ORANGE, markersize=11, label="where they merge")
        if near:
            circle = centre + gap * np.exp(1j * np.linspace(0, 2 * np.pi, 200))
            axes.plot(circle.real, circle.imag, ":", color=PURPLE, label="distance of the next eigenvalue (estimate)")
        axes.set(xlabel="Re", ylabel="Im")
        axes.set_aspect("equal", adjustable="datalim")
        axes.figure.legend(loc="outside lower center", ncols=2)

    table: dict[str, list] = {"what": [], "number": [], "t": [], "re": [], "im": []}
    rows: list[tuple[Any, ...]] = [("eigenvalue", step, "", value) for step, eigenvalues in enumerate(seen) for value in eigenvalues]
    rows += [("merged", "", 0, centre)]
    rows += [("branch", number, t, value) for number, branch in enumerate(branches) for t, value in zip(s, branch, strict=True)]
    for what, which, t, value in rows:
        for name, entry in zip(table, (what, which, t, value.real, value.imag), strict=True):
            table[name].append(entry)
    beyond = "" if near or gap is None else f" The next eigenvalue is about {gap:.3g} away, outside."
    caption = "Eigenvalues in the complex plane." + beyond
    if branches:
        caption += " t: from the first pencil (-1 or 1) through the exceptional point (0)."
    return _figure("spectrum", caption, draw, table)


def _splitting(result: dict) -> str:
    """Spread of the eigenvalues at the points that the search visited, against the root that the chain predicts."""
    if not result["puiseux"] or "history" not in result:
        return ""
    k = len(result["singular_values"])
    final, c = _complex(result["parameters"]), _complex(result["puiseux"])
    distance, spread = [], []
    for step in result["history"]:
        eigenvalues = _complex(step["eigenvalues"])
        shift = abs(c @ (_complex(step["parameters"]) - final))
        # nearer than this, rounding in the parameters moves the eigenvalues more than the step does
        if shift > 1e-12 * abs(eigenvalues.mean()):
            distance.append(shift)
            spread.append(np.abs(eigenvalues - eigenvalues.mean()).max())
    if not distance:
        return ""

    def draw(axes: Any) -> None:
        line = np.geomspace(min(distance) / 10, max(distance) * 10, 50)
        axes.loglog(line, line ** (1 / k), "-", color=GREY, label=f"|c t|^(1/{k}), from the chain")
        axes.loglog(distance, spread, "o", color=ORANGE, label="eigenvalues on the way")
        axes.set(xlabel="|c t|, t = parameters - exceptional point", ylabel="max |eigenvalue - mean|")
        axes.legend()

    table = {"c_t": distance, "spread": spread, "predicted": [d ** (1 / k) for d in distance]}
    return _figure("splitting", f"The {'square' if k == 2 else f'{k}-th'} root splitting around the exceptional point", draw, table)


def _convergence(result: dict) -> str:
    history = result["history"]
    moved, residuals = ([max(step[name], 1e-17) for step in history] for name in ("step", "residual"))

    def draw(axes: Any) -> None:
        axes.semilogy(moved, "o-", color=BLUE, label="|delta| of the parameters")
        axes.semilogy(residuals, "s--", color=GREEN, label="residual of the subspace")
        axes.set(xlabel="step", xticks=range(0, len(history), -(-len(history) // 10)))
        axes.legend()

    return _figure(
        "search", "How far each step of the search moved the parameters, and how well the subspace followed", draw, _history(result)
    )


def _history(result: dict) -> dict[str, list]:
    """The steps of a search by column; of complex numbers real and imaginary part."""
    table: dict[str, list] = {"number": list(range(len(result["history"])))}
    for step in result["history"]:
        values = zip([*result["parameter_names"]], step["parameters"], strict=True)
        named = [*values, *((f"eigenvalue_{i + 1}", value) for i, value in enumerate(step["eigenvalues"]))]
        for name, value in named:
            re, im = value if isinstance(value, list) else (value, 0.0)
            table.setdefault(f"{name}_re", []).append(re)
            table.setdefault(f"{name}_im", []).append(im)
        for name in ("step", "residual", "sweeps"):
            table.setdefault(name, []).append(step[name])
    return table


def _steps(result: dict) -> str:
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


def _scan(result: dict) -> str:
    points, unresolved = result["points"], result["unresolved"]
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
    where = [_plane(point["parameters"]) for point in points]
    lost = [_plane(place) for place in unresolved]
    (left, bottom), (right, top) = (_plane(corner) for corner in result["window"])
    eigenvalues = _complex([point["eigenvalue"] for point in points])

    def window(axes: Any) -> None:
        axes.plot([left, right, right, left, left], [bottom, bottom, top, top, bottom], "-", color=GREY, label="window")
        axes.plot([x for x, _ in where], [y for _, y in where], "o", color=BLUE, label="exceptional points")
        if lost:
            axes.plot([x for x, _ in lost], [y for _, y in lost], "x", color=ORANGE, label="zeros that are no point found")
        axes.set(xlabel="Re p" if len(names) == 1 else names[0], ylabel="Im p" if len(names) == 1 else names[1])
        axes.legend()

    def spectrum(axes: Any) -> None:
        axes.plot(eigenvalues.real, eigenvalues.imag, "*", color=ORANGE, markersize=9)
        axes.set(xlabel="Re", ylabel="Im")

    table: dict[str, Sequence] = {"x": [x for x, _ in where], "y": [y for _, y in where], "eigenvalue_re": eigenvalues.real.tolist()} | {
        "eigenvalue_im": eigenvalues.imag.tolist()
    }
    figures = [_figure("window", "Exceptional points in the plane of the parameters", window, table)]
    if points:
        figures.append(_figure("eigenvalues", "Where pairs of eigenvalues merge, in the complex plane", spectrum, table))
    parts += [_row(figures), _facts("Cost", [("seconds", f"{result['seconds']['total']:.2f}"), ("versions", _versions(result))])]
    return "\n".join(parts)


def _plane(parameters: list) -> tuple[float, float]:
    """One complex parameter, or two real ones, as a point."""
    values = _complex(parameters)
    return (values[0].real, values[0].imag) if len(values) == 1 else (values[0].real, values[1].real)


# ---- a measurement of errors ------------------------------------------------------------------------------------------------

METHODS = {
    "naive": ("naive eigenpair: slope 1/{k}", ORANGE),
    "first": ("first-order chain: slope 1", BLUE),
    "second": ("second-order chain: slope 2", GREEN),
}


def _errors(result: dict) -> str:
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
    panels = [_slopes([case for case in cases if case["size"] == size], size) for size in sorted({case["size"] for case in cases})]
    cost = [("seconds", f"{result['seconds']['total']:.2f}"), ("versions", _versions(result))]
    parts = [f"<h2>{_text(_title(result))}</h2>", f"<p>{_text(words)} {_text(verdict)}</p>", _row(panels), _table(header, rows)]
    return "\n".join([*parts, _facts("Cost", cost)])


def _slopes(cases: list[dict], size: int) -> str:
    table: dict[str, list] = {"pencil": [], "method": [], "quantity": [], "distance": [], "error": []}
    for case in cases:
        for method, found in case["errors"].items():
            for quantity, errors in found.items():
                for distance, error in zip(case["distances"][method], errors, strict=True):
                    for name, entry in zip(table, (case["name"], method, quantity, distance, error), strict=True):
                        table[name].append(entry)

    def draw(axes: Any) -> None:
        for method, (label, colour) in METHODS.items():
            for case in cases:
                for errors in case["errors"][method].values():
                    axes.loglog(case["distances"][method], np.maximum(errors, 1e-17), ".-", color=colour, lw=0.6, ms=4, alpha=0.5)
            axes.plot([], [], ".-", color=colour, label=label.format(k=size))
        axes.set(xlabel="distance from the defective pencil", ylabel="relative error of eigenvalue and vectors")
        axes.legend(loc="lower right")

    return _figure(f"errors-{size}", f"Jordan blocks of size {size}: errors over the distance", draw, table, size=(5.2, 4.2))


# ---- pieces of HTML ---------------------------------------------------------------------------------------------------------


def _figure(
    name: str, caption: str, draw: Callable[[Any], None], table: Mapping[str, Sequence], *, size: tuple[float, float] = (4.8, 3.6)
) -> str:
    """A figure for either ground with its numbers. Pictures are images of their own, so that the ids inside several SVGs on one page
    cannot clash."""
    Figure = figure_class()
    import matplotlib as mpl

    ink, line = THEMES["light"]
    colours: dict[Any, Any] = {f"{part}.color": ink for part in ("text", "xtick", "ytick")} | {
        "axes.labelcolor": ink,
        "axes.edgecolor": line,
        "grid.color": line,
    }
    look = {"font.size": 9, "axes.grid": True, "axes.axisbelow": True, "grid.alpha": 0.6, "legend.frameon": False, "legend.fontsize": 7.5}
    grounds = {f"{part}.facecolor": "none" for part in ("figure", "axes", "savefig")}
    drawn = text_io.StringIO()
    with mpl.rc_context(colours | look | grounds | {"svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    text, images = _text(caption), ""
    for theme, (own_ink, own_line) in THEMES.items():
        picture = drawn.getvalue().replace(ink, own_ink).replace(line, own_line)  # to draw takes longer than all else on the page
        encoded = base64.b64encode(picture.encode()).decode()
        images += f'<img class="{theme}" alt="{text}" src="data:image/svg+xml;base64,{encoded}">'
    address = f"data:text/csv;charset=utf-8,{urllib.parse.quote(_csv(table), safe=',:+;=/')}"
    link = f'<div class="downloads"><a download="{name}.csv" href="{address}">CSV</a></div>'
    return f"<figure>{images}<figcaption>{text}</figcaption>{link}</figure>"


def _csv(table: Mapping[str, Sequence]) -> str:
    lines = text_io.StringIO()
    writer = csv.writer(lines)
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    return lines.getvalue()


def _row(figures: list[str]) -> str:
    return f'<div class="figure-row">{"".join(figures)}</div>'


def _facts(title: str, rows: list[tuple[str, str]]) -> str:
    body = "".join(f"<tr><th scope='row'>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in rows)
    return f'<h3>{_text(title)}</h3>\n<div class="scroll"><table class="facts">{body}</table></div>'


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in header)
    body = "".join("<tr>" + "".join(f"<td>{_text(value)}</td>" for value in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _versions(result: dict) -> str:
    return ", ".join(f"{name} {version}" for name, version in result["versions"].items())


def _complex(values: Sequence) -> np.ndarray:
    return np.array([complex(*v) if isinstance(v, list) else v for v in values], dtype=complex)


def number(value: Any, digits: int = 14) -> str:
    """A number of a result as people read it: complex ones are [re, im] there, what is not finite null."""
    if value is None:
        return "unknown"
    if isinstance(value, list):
        return f"{value[0]:.{digits}g} {'+' if value[1] >= 0 else '-'} {abs(value[1]):.{digits}g}i"
    return f"{value:.{digits}g}"


def _text(value: Any) -> str:
    return html.escape(str(value))
