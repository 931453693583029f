"""The page of a run: self-contained HTML made from what the run has saved; nothing is computed again."""

import html
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from dynamo_dist.report import figures

STYLE = """
:root { --ink: #1b1f24; --soft: #57606a; --line: #d8dee4; --paper: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --line: #30363d; --paper: #0d1117; } }
body { font: 15px/1.55 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: var(--ink); background: var(--paper); }
h1 { font-size: 1.7rem; margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; margin: .6rem 0 1.2rem; display: block; overflow-x: auto; }
th, td { text-align: left; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
th { font-weight: 600; } td.number { text-align: right; }
.figure-row { display: flex; flex-wrap: wrap; gap: 1rem; } .figure-row figure { margin: 0; flex: 1 1 20rem; }
figure svg, figure img { max-width: 100%; height: auto; background: #ffffff; border-radius: 6px; } figcaption, .note { color: var(--soft); }
details { margin: .6rem 0; }
"""


def write_report(folder: Path) -> Path:
    """Write `report.html` of a finished run and return its path."""
    result = json.loads((folder / "result.json").read_text())
    path = folder / "report.html"
    path.write_text(page(f"dynamo-dist run {result['recipe']}", [sections(folder)]))
    return path


def page(title: str, parts: list[str]) -> str:
    """A complete HTML document around fragments of HTML."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body>\n<h1>{text(title)}</h1>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def text(value: Any) -> str:
    """Any value as text that is safe inside HTML."""
    return html.escape(str(value), quote=True)


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def table(header: list[str], rows: list[list[Any]]) -> str:
    """An HTML table; the first column is text, the others stand to the right."""
    head = "".join(f"<th>{text(name)}</th>" for name in header)
    body = "".join(
        f"<tr><td>{text(row[0])}</td>" + "".join(f'<td class="number">{text(value)}</td>' for value in row[1:]) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def sections(folder: Path) -> str:
    """The run's results as one HTML fragment with its figures inside."""
    folder = Path(folder)
    result = json.loads((folder / "result.json").read_text())
    networks = pq.read_table(folder / "networks.parquet").to_pydict()
    population, meta, control, clustering = (result[key] for key in ("population", "meta", "control", "clustering"))
    groups = list(population["accuracy"])
    parts = [
        f"<h2>{text(result['title'])}: {population['networks']} networks, one meta-model</h2>",
        f"<p>Every number was measured on {population['test_inputs']:,} test inputs that trained nothing. "
        f"The control is the same meta-model and training with the embedding vector fixed at zero.</p>",
        '<div class="figure-row">',
        figures.embedding(networks),
        figures.disputed(networks),
        figures.training(folder, result),
        "</div>",
        "<h3>Emulation</h3>",
        table(
            ["", "meta-model", "control without theta"],
            [
                ["hidden R², median", number(meta["hidden_r2_median"]), number(control["hidden_r2_median"])],
                ["hidden R², min", number(meta["hidden_r2_min"]), number(control["hidden_r2_min"])],
                ["output agreement, median", percent(meta["agreement_median"]), percent(control["agreement_median"])],
                ["output agreement, min", percent(meta["agreement_min"]), percent(control["agreement_min"])],
                [
                    f"agreement on disputed inputs ({percent(meta['disputed_share'])} of all), median",
                    percent(meta["disputed_agreement_median"]),
                    percent(control["disputed_agreement_median"]),
                ],
            ],
        ),
        "<h3>Clusters of the embedding</h3>",
        table(
            ["adjusted Rand index of k-means against", *(f"seed {seed}" for seed in range(len(result["seeds"])))],
            [
                ["the computation", *(number(seed["adjusted_rand"]) for seed in result["seeds"])],
                ["the architecture, as information", *(number(seed["adjusted_rand_architecture"]) for seed in result["seeds"])],
            ],
        )
        if clustering
        else "",
        "<h3>Accuracy, and networks averaged in the embedding space</h3>",
        _accuracy(result, groups),
        "<h3>Every network</h3>",
        "<details><summary>Table of all networks</summary>",
        table(
            ["network", "test accuracy", "hidden R²", "agreement", "on disputed inputs", "theta"],
            [
                [id, percent(accuracy), number(r2), percent(agreement), percent(disputed), ", ".join(f"{value:.3f}" for value in theta)]
                for id, accuracy, r2, agreement, disputed, theta in zip(
                    *(networks[key] for key in ("id", "score", "hidden_r2", "agreement", "disputed_agreement", "theta")), strict=True
                )
            ],
        ),
        "</details>",
        "<h3>Cost</h3>",
        table(["stage", "seconds"], [[name, f"{value:.1f}"] for name, value in result["seconds"].items()]),
        '<p class="note">' + text(", ".join(f"{name} {value}" for name, value in result["versions"].items())) + "</p>",
    ]
    return "\n".join(parts)


def _accuracy(result: dict[str, Any], groups: list[str]) -> str:
    base, meta, averaging = result["population"]["accuracy"], result["meta"]["accuracy"], result["averaging"]
    rows = [
        [
            name,
            f"{percent(base[name]['mean'])} ± {100 * base[name]['sd']:.2f}",
            percent(meta[name]["mean"]) if name in meta else "-",
            percent(averaging["within"].get(name)),
        ]
        for name in groups
    ]
    across = [[name, percent(value)] for name, value in averaging["across"].items()]
    drawn = [
        [name, percent(value["mean"]), percent(value["sd"]), percent(value["max"])] for name, value in averaging["random_theta"].items()
    ]
    return (
        table(["group", "base networks", "meta-model at theta", "meta-model at the group's mean vector"], rows)
        + table(["mean vector of two groups", "accuracy"], across)
        + table(["random vectors, judged by the labels", "mean", "sd", "best"], drawn)
    )
