"""The page of a run: self-contained HTML from what the run has saved; nothing is computed again."""

from __future__ import annotations

import base64
import html
import io as bytes_io
from pathlib import Path
from typing import Any

import numpy as np

from jordan_dist import io
from jordan_dist.backends import MissingExtraError

STYLE = """\
body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}
th,td{text-align:left;padding:.2rem .9rem .2rem 0;border-bottom:1px solid #d8dee4}
td{font-variant-numeric:tabular-nums}.figure-row{display:flex;flex-wrap:wrap;gap:1rem}.figure-row figure{margin:0;flex:1 1 20rem}
figure img{max-width:100%}figcaption{color:#57606a}"""

VERDICTS = {
    "block": "one Jordan block",
    "blocks": "several Jordan blocks",
    "semisimple": "semisimple: as many independent eigenvectors, no Jordan vector exists",
    "not-defective": "not defective: ordinary, separate eigenvalues",
}


def sections(folder: str | Path) -> str:
    """The page of a run as an HTML fragment with its pictures inside, for embedding. ValueError if the folder holds no run;
    MissingExtraError without matplotlib."""
    result = io.read_result(folder)
    modes = []
    if (Path(folder) / io.MODES).exists():
        with np.load(Path(folder) / io.MODES, allow_pickle=False) as file:
            modes = file["modes"]
    Figure = figure_class()
    parts = [f"<h2>{_text(result['title'])}</h2>", _introduction(result), _facts("The answer", _answer(result))]
    if result["verdict"] == "block":
        parts.append(_facts("Residuals, relative to the size of their terms", _residuals(result)))
    if len(modes):
        parts += ["<h3>Modes</h3>", _row([_mode(Figure, modes[i], _mode_caption(result, i)) for i in range(len(modes))])]
    if "history" in result:
        parts += ["<h3>Search</h3>", _row([_convergence(Figure, result), _splitting(Figure, result)])]
    parts.append(_facts("Cost", _cost(result)))
    return "\n".join(part for part in parts if part)


def write_page(folder: str | Path) -> Path:
    """Writes report.html into the folder of a run and returns its path."""
    body = sections(folder)
    path = Path(folder) / io.REPORT
    title = _text(io.read_result(folder)["title"])
    path.write_text(
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )
    return path


def figure_class() -> Any:
    try:
        from matplotlib.figure import Figure  # no pyplot: no display, and no state shared with the caller's figures
    except ImportError as error:
        raise MissingExtraError(f'the report needs matplotlib ({error}): pip install "dynamo-jordan[report]"') from error
    return Figure


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
    rows = [(f"parameter {name}", _number(value)) for name, value in zip(names, result["parameters"], strict=True)]
    if result["step"] is not None:
        rows += [(f"predicted step of {name}", _number(value, 6)) for name, value in zip(names, result["step"], strict=True)]
    rows += [
        ("eigenvalue", _number(result["eigenvalue"])),
        ("verdict", VERDICTS[result["verdict"]]),
        ("singular values of the projected matrix", ", ".join(f"{s:.6g}" for s in result["singular_values"])),
        ("backward error: a pencil with exactly this chain is within", f"{result['backward_error']:.1e}"),
        ("distance to the next eigenvalue (estimate)", _number(result["gap"], 4)),
        ("norm of the spectral projector", _number(result["projector_norm"], 5)),
    ]
    k = len(result["singular_values"])
    rows += [(f"c in (c t)^(1/{k}) for {n}", _number(c, 8)) for n, c in zip(names, result["puiseux"], strict=False)]
    return rows


def _residuals(result: dict) -> list[tuple[str, str]]:
    rows = [("subspace", f"{result['subspace_residual']:.1e}")]
    for i, (residual, norm) in enumerate(zip(result["chain_residuals"], result["vector_norms"], strict=True)):
        label = "eigenvector x0" if i == 0 else f"Jordan vector j{i}"
        rows.append((f"{label} (norm {norm:.6g})", f"{residual:.1e}"))
    bounds = result.get("forward_bounds")
    if bounds:
        known = f"bound of the error, matrices known to {bounds['perturbation']:.1e}"
        rows.append((f"eigenvalue: {known}", _number(bounds["eigenvalue"], 2)))
        names = ["x0", *(f"j{i}" for i in range(1, len(bounds["vectors"])))]
        rows += [(f"{name}: {known}, relative", _number(bound, 2)) for name, bound in zip(names, bounds["vectors"], strict=True)]
    return rows


def _cost(result: dict) -> list[tuple[str, str]]:
    rows = [("factorizations", str(result["factorizations"])), ("triangular solves (columns)", str(result["solves"]))]
    rows += [(f"seconds: {name}", f"{value:.2f}") for name, value in result["seconds"].items()]
    rows.append(("peak memory of all processes", f"{result['peak_memory_bytes'] / 2**20:,.0f} MiB"))
    rows.append(("versions", ", ".join(f"{name} {version}" for name, version in result["versions"].items())))
    return rows


def _mode_caption(result: dict, i: int) -> str:
    if result["verdict"] != "block":
        return f"|x| of basis vector {i + 1} of the subspace"
    return "|x0|, the eigenvector" if i == 0 else f"|j{i}|, Jordan vector"


def _mode(Figure: Any, mode: np.ndarray, caption: str) -> str:
    figure = Figure(figsize=(4.2, 3.8), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(mode.T, origin="lower", cmap="magma", interpolation="nearest", aspect="equal" if mode.shape[1] > 1 else "auto")
    figure.colorbar(image, ax=axes, shrink=0.85)
    axes.set(xlabel="cell i", ylabel="cell j")
    return _figure(figure, caption, "png")


def _convergence(Figure: Any, result: dict) -> str:
    sizes = np.array([step["step"] for step in result["history"]], dtype=float)
    figure = Figure(figsize=(4.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.semilogy(np.arange(len(sizes)), np.maximum(sizes, 1e-17), "o-", color="#0969da")
    axes.set(xlabel="step", ylabel="|delta|", xticks=range(len(sizes)))
    axes.grid(alpha=0.3)
    return _figure(figure, "How far each step of the search moved the parameters", "svg+xml")


def _splitting(Figure: Any, result: dict) -> str:
    """Spread of the eigenvalues at the points that the search visited, against the root that the chain predicts."""
    if not result["puiseux"]:
        return ""
    k = len(result["singular_values"])
    final = _complex(result["parameters"])
    c = _complex(result["puiseux"])
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
    figure = Figure(figsize=(4.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    line = np.geomspace(min(distance) / 10, max(distance) * 10, 50)
    axes.loglog(line, line ** (1 / k), "-", color="#8c959f", label=f"|c t|^(1/{k}), from the chain")
    axes.loglog(distance, spread, "o", color="#cf222e", label="eigenvalues on the way")
    axes.set(xlabel="|c t|, t = parameters - exceptional point", ylabel="max |eigenvalue - mean|")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return _figure(figure, f"The {'square' if k == 2 else f'{k}-th'} root splitting around the exceptional point", "svg+xml")


def _figure(figure: Any, caption: str, kind: str) -> str:
    """Pictures are images of their own, so that the ids inside several SVGs on one page cannot clash."""
    data = bytes_io.BytesIO()
    figure.savefig(data, format="svg" if kind == "svg+xml" else kind, dpi=110)
    encoded = base64.b64encode(data.getvalue()).decode()
    text = _text(caption)
    return f'<figure><img alt="{text}" src="data:image/{kind};base64,{encoded}"><figcaption>{text}</figcaption></figure>'


def _row(figures: list[str]) -> str:
    return f'<div class="figure-row">{"".join(figures)}</div>'


def _facts(title: str, rows: list[tuple[str, str]]) -> str:
    body = "".join(f"<tr><th scope='row'>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in rows)
    return f'<h3>{_text(title)}</h3>\n<table class="facts">{body}</table>'


def _complex(values: list) -> np.ndarray:
    return np.array([complex(*v) if isinstance(v, list) else v for v in values], dtype=complex)


def _number(value: Any, digits: int = 14) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, list):
        return f"{value[0]:.{digits}g} {'+' if value[1] >= 0 else '-'} {abs(value[1]):.{digits}g}i"
    return f"{value:.{digits}g}"


def _text(value: Any) -> str:
    return html.escape(str(value))
